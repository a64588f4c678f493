"""CLIP-DIY against the recorded outputs of its official code; saliency from a folder, from a guide; errors."""

import numpy as np
import pytest
import torch
from conftest import TINY_CONFIG, relative_error, vectors

from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import build_model
from ovsslib.errors import DataError, ImageError, RecipeError
from ovsslib.guides.reading import GuideReading
from ovsslib.images.pictures import normalise
from ovsslib.images.preprocessing import bicubic, clip_pixels
from ovsslib.recipe import Recipe, make_settings
from ovsslib.segmenter import PictureInput, Segmenter, window_logits_of
from ovsslib.stages.crop_pyramid import averaged_maps, crop_cosines, crops_of
from ovsslib.stages.saliency_gate import (
    foreground_of,
    gated,
    guide_foreground,
    read_saliency,
    saliency_file,
    save_saliency,
)
from ovsslib.text.features import TextFeatures
from ovsslib.text.vocabulary import Vocabulary

RECORDED = vectors("clip-diy")
IMAGE = RECORDED["image_u8"].numpy()
SIZES = (64, 32, 16)
TOLERANCE = 1e-4
SMALL = {"side": 64, "sizes": SIZES}
FIRST = torch.tensor([True, False, False, False, False, False])


@pytest.fixture(scope="module")
def cosines(tiny_backbone, tiny_inputs):
    """Cosines and grids of the three sizes."""
    made, grids = [], []
    for size in SIZES:
        crops, grid = crops_of(IMAGE, size, 2)
        made.append(crop_cosines(tiny_backbone, crops, tiny_inputs["text"]))
        grids.append(grid)
    return made, grids


def test_every_step_agrees_with_the_official_code(cosines, tiny_backbone):
    made, grids = cosines
    assert grids == [(1, 1), (3, 3), (7, 7)]
    for size, ours in zip(SIZES, made, strict=True):
        assert relative_error(ours, RECORDED[f"sims_patch{size}"]) < TOLERANCE
    crop = crops_of(IMAGE, 32, 2)[0][5]
    pixels = clip_pixels(bicubic(crop, tiny_backbone.image_size))
    assert relative_error(pixels, RECORDED["crop_32_index5_pixels"]) < 1e-6
    mean = averaged_maps(made, grids, (1, 1, 1), (64, 64))
    assert relative_error(mean, RECORDED["mask"]) < TOLERANCE
    weighted = averaged_maps(made, grids, (1, 0.5, 0.25), (64, 64))
    assert relative_error(weighted, RECORDED["mask_w1_0.5_0.25"]) < TOLERANCE
    assert torch.equal(mean.argmax(dim=0).to(torch.uint8), RECORDED["label_plain"])
    fused = gated(mean, RECORDED["saliency"], FIRST).softmax(dim=0)
    assert relative_error(fused, RECORDED["fused"]) < TOLERANCE
    assert torch.equal(fused.argmax(dim=0).to(torch.uint8), RECORDED["label_fused"])
    nearest = averaged_maps(made, grids, (1, 1, 1), (64, 64), "nearest")
    labels = gated(nearest, RECORDED["saliency"], FIRST).argmax(dim=0)
    assert torch.equal(labels.to(torch.uint8), RECORDED["label_nearest_fused"])


def flow(backbone, text, changes: dict) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Logits, scores and labels of the recorded picture."""
    recipe = Recipe("vector").but({"labels.logit_scale": 1, **changes})
    segmenter = Segmenter(backbone, recipe)
    vocabulary = Vocabulary.from_words(list("abcde"), background=["x"])
    words = TextFeatures(text, torch.arange(6), vocabulary)
    picture = PictureInput(normalise(IMAGE), IMAGE)
    stitched = window_logits_of([segmenter], picture, [segmenter.words(words)], (64, 64))[0]
    made = segmenter.finish(stitched, IMAGE, picture, words, keep_scores=True)
    return stitched.full(), made.scores, made.labels


def test_the_flow_agrees_with_the_official_code(tiny_backbone, tiny_inputs, tmp_path):
    text = tiny_inputs["text"]
    logits, _, labels = flow(tiny_backbone, text, {"crop_pyramid": SMALL})
    assert relative_error(logits, RECORDED["mask"]) < TOLERANCE
    assert np.array_equal(labels, RECORDED["label_plain"].numpy())
    save_saliency(tmp_path, IMAGE, RECORDED["saliency"].numpy())
    gate = {"source": "maps", "maps": str(tmp_path)}
    _, scores, labels = flow(tiny_backbone, text, {"crop_pyramid": SMALL, "saliency_gate": gate})
    assert relative_error(torch.from_numpy(scores), RECORDED["fused"]) < TOLERANCE
    assert np.array_equal(labels, RECORDED["label_fused"].numpy())
    near = {**SMALL, "interpolation": "nearest"}
    _, _, labels = flow(tiny_backbone, text, {"crop_pyramid": near, "saliency_gate": gate})
    assert np.array_equal(labels, RECORDED["label_nearest_fused"].numpy())
    weighted = {**SMALL, "weights": (1, 0.5, 0.25)}
    logits, _, _ = flow(tiny_backbone, text, {"crop_pyramid": weighted})
    assert relative_error(logits, RECORDED["mask_w1_0.5_0.25"]) < TOLERANCE


def test_pixels_alone_are_enough(tiny_backbone, tiny_inputs):
    segmenter = Segmenter(tiny_backbone, Recipe("v").but(crop_pyramid=SMALL))
    logits = segmenter.logits(normalise(IMAGE)[None], tiny_inputs["text"])[0]
    assert relative_error(logits, RECORDED["mask"]) < TOLERANCE


# -- crops -------------------------------------------------------------------------------------------------


def test_crops_of_a_picture_that_is_no_square(tiny_backbone):
    """With side 0: rows and columns of crops on the network picture; pixels left over are not covered."""
    crops, grid = crops_of(np.zeros((50, 90, 3), np.uint8), 32, 2)
    assert grid == (2, 4) and len(crops) == 8
    recipe = Recipe("wide").but(
        crop_pyramid={"side": 0, "sizes": (64, 32, 16)}, windows={"short_side": 64, "crop": 0}
    )
    picture = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    result = Segmenter(tiny_backbone, recipe)(picture, ["cat", "dog"])
    assert result.mask.shape == (50, 90)
    assert "windows.short_side" not in recipe.inert()
    assert "windows.short_side" in recipe.but({"crop_pyramid.side": 64}).inert()


def test_crops_run_in_half_precision():
    torch.manual_seed(0)
    half = Backbone(build_model(TINY_CONFIG), name="half", weights_hash="half", precision="fp16")
    recipe = Recipe("half").but(crop_pyramid=SMALL)
    result = Segmenter(half, recipe)(IMAGE, ["cat", "dog"], keep_scores=True)
    assert np.isfinite(result.scores).all()


def test_crops_name_what_is_wrong():
    with pytest.raises(ImageError, match="crops of 64 pixels do not fit into a picture of 50x90"):
        crops_of(np.zeros((50, 90, 3), np.uint8), 64, 2)
    for values, message in (
        ({"sizes": ()}, "give crops of 8 pixels"),
        ({"sizes": (64, 32), "weights": (1.0,)}, "2 sizes and 1 weights"),
        ({"side": 64, "sizes": (128,), "weights": (1.0,)}, "larger than the picture"),
        ({"steps": 0}, "steps=0"),
    ):
        with pytest.raises(RecipeError, match=message):
            make_settings("crop_pyramid", values)


# -- saliency ----------------------------------------------------------------------------------------------


def test_a_guide_finds_what_is_unlike_its_background():
    """A square of other keys among patches of one kind, at one of which the class token looks least."""
    keys = torch.zeros(1, 17, 4)
    keys[0, 1:, 0] = 1.0
    inside = [6, 7, 10, 11]
    for patch in inside:
        keys[0, patch] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    query = torch.zeros(1, 17, 4)
    query[0, 0] = torch.tensor([0.0, 5.0, 0.0, 0.0])  # the class token looks inside
    reading = GuideReading(keys, keys, query, keys, keys, (4, 4), 1)
    found = guide_foreground(reading).flatten()
    assert torch.nonzero(found > 0.5)[:, 0].tolist() == [p - 1 for p in inside]
    assert found.min() == 0 and found.max() == 1
    flat = GuideReading(*[torch.ones(1, 5, 4)] * 5, (2, 2), 1)
    assert torch.equal(guide_foreground(flat), torch.ones(2, 2))


def test_the_gate_with_a_guide(tiny_backbone, tiny_guide, second_models):
    recipe = Recipe("diy").but(crop_pyramid=SMALL, saliency_gate=True, labels={"logit_scale": 1})
    segmenter = Segmenter(tiny_backbone, recipe)
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    with_gate = segmenter(picture, ["cat", "dog"], background=["wall"], keep_scores=True)
    without = Segmenter(tiny_backbone, recipe.but(saliency_gate=False))
    plain = without(picture, ["cat", "dog"], background=["wall"], keep_scores=True)
    assert np.abs(with_gate.scores - plain.scores).max() > 1e-3
    seen = foreground_of(tiny_guide, tiny_backbone, torch.zeros(1, 3, 50, 70))
    assert seen.shape == (7, 9) and 0 <= seen.min() and seen.max() <= 1
    with pytest.raises(RecipeError, match="these words have none; pass background"):
        segmenter(picture, ["cat", "dog"])


def test_maps_are_found_by_the_picture_itself(tmp_path, tiny_backbone):
    other = IMAGE.copy()
    other[0, 0, 0] ^= 1
    assert saliency_file(tmp_path, IMAGE) != saliency_file(tmp_path, other)
    save_saliency(tmp_path, IMAGE, np.full((3, 4), 0.5))
    assert torch.equal(read_saliency(tmp_path, IMAGE), torch.full((3, 4), 0.5))
    with pytest.raises(DataError, match="holds no saliency map of this picture"):
        read_saliency(tmp_path, other)
    with pytest.raises(DataError, match=r"values in \[0, 1\] are needed, not \(2, 2\) float64"):
        save_saliency(tmp_path, other, np.full((2, 2), 1.5))
    with pytest.raises(DataError, match="no saliency map"):
        save_saliency(tmp_path, other, np.zeros((2, 2, 1)))
    saliency_file(tmp_path, other).write_bytes(b"damaged")
    with pytest.raises(DataError, match="cannot be read as an array"):
        read_saliency(tmp_path, other)
    settings = make_settings("saliency_gate", {"source": "maps", "maps": str(tmp_path)})
    before = settings.networks(tiny_backbone)
    save_saliency(tmp_path, other, np.zeros((2, 2)))
    assert settings.networks(tiny_backbone) != before and settings.guide_name() is None


def test_sources_that_contradict_are_refused():
    with pytest.raises(RecipeError, match="needs saliency_gate.maps"):
        make_settings("saliency_gate", {"source": "maps"})
    with pytest.raises(RecipeError, match="not read with source='guide'"):
        make_settings("saliency_gate", {"maps": "folder"})
