"""From a picture and words to a mask: bad input, odd pictures, batches, chunks, precision, repeatability."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import TINY_CONFIG, relative_error
from PIL import Image

from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import build_model
from ovsslib.clip.memory import memory_errors
from ovsslib.errors import ImageError, MemoryBudgetError, RecipeError, WordsError
from ovsslib.recipe import Recipe, recipe_names
from ovsslib.segmenter import Segmenter, finishing, load, window_logits_of
from ovsslib.segmenter.encoding import chunk_sizes
from ovsslib.stages.image_engineering import VIEWS
from ovsslib.text.vocabulary import Vocabulary

SMALL = {"windows": {"short_side": 80, "crop": 64, "stride": 32}, "text.templates": ("a {}.",)}
WORDS = ["cat", "dog", "grass", "sky"]


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (75, 101, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def segment(tiny_backbone):
    return Segmenter(tiny_backbone, Recipe.named("sclip").but(SMALL))


# -- what a picture may be ------------------------------------------------------------------------------------


def test_result_is_complete(segment, image):
    result = segment(image, WORDS, keep_scores=True)
    assert result.mask.shape == (75, 101) and result.mask.dtype == np.int32
    assert result.names == WORDS and result.scores.shape == (4, 75, 101)
    assert result.scores.dtype == np.float32
    np.testing.assert_allclose(result.scores.sum(0), 1, atol=1e-4)
    assert np.array_equal(result.scores.argmax(0), result.mask)
    assert segment(image, WORDS).scores is None


def test_path_pil_image_and_array_are_the_same_picture(segment, image, tmp_path):
    Image.fromarray(image).save(tmp_path / "photo.png")
    masks = [
        segment(picture, WORDS).mask
        for picture in (
            image,
            Image.fromarray(image),
            tmp_path / "photo.png",
            str(tmp_path / "photo.png"),
        )
    ]
    assert all(np.array_equal(mask, masks[0]) for mask in masks[1:])


def test_missing_foreign_and_truncated_files_are_refused(segment, image, tmp_path):
    with pytest.raises(ImageError, match="none.png does not exist"):
        segment(tmp_path / "none.png", WORDS)
    (tmp_path / "text.jpg").write_text("no picture", encoding="utf-8")
    Image.fromarray(image).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name in ("text.jpg", "cut.png"):
        with pytest.raises(ImageError, match=f"{name} cannot be read"):
            segment(tmp_path / name, WORDS)
    for array in (image[..., 0], image.astype(float), image[:, :0]):
        with pytest.raises(ImageError, match="shape"):
            segment(array, WORDS)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (16, 16), (40, 3), (65, 64)])
def test_small_pictures_get_a_mask_of_their_size(size, segment):
    picture = np.full((*size, 3), 120, dtype=np.uint8)
    assert segment(picture, WORDS).mask.shape == size


def test_a_picture_of_one_row_is_refused_with_a_reason_if_no_patch_fits(tiny_backbone):
    thin = np.zeros((1, 5000, 3), dtype=np.uint8)
    with pytest.raises(ImageError, match="smaller than one patch"):
        Segmenter(tiny_backbone, Recipe.named("sclip"))(thin, WORDS)


def test_grey_alpha_deep_cmyk_and_turned_pictures(segment, image, tmp_path):
    rgb = Image.fromarray(image)
    alpha = rgb.copy()
    alpha.putalpha(Image.fromarray(image[..., 0]))
    deep = Image.fromarray(image[..., 0].astype(np.uint16) * 257)
    kinds = {"grey.png": rgb.convert("L"), "alpha.png": alpha, "deep.png": deep}
    kinds |= {"cmyk.jpg": rgb.convert("CMYK"), "palette.png": rgb.convert("P")}
    masks = {}
    for name, picture in kinds.items():
        picture.save(tmp_path / name)
        masks[name] = segment(tmp_path / name, WORDS).mask
        assert masks[name].shape == (75, 101), name
    grey = np.repeat(image[..., :1], 3, axis=2)
    assert np.array_equal(masks["deep.png"], segment(grey, WORDS).mask)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    rgb.save(tmp_path / "turned.png", exif=exif)
    turned = segment(tmp_path / "turned.png", WORDS).mask
    assert turned.shape == (101, 75)
    assert np.array_equal(turned, segment(np.ascontiguousarray(np.rot90(image, -1)), WORDS).mask)


def test_a_picture_of_144_million_pixels_is_worked_through_strip_by_strip(
    tiny_backbone, monkeypatch
):
    rows = []
    original = finishing.Stitched.rows

    def watched(self, start, stop):
        part = original(self, start, stop)
        rows.append(part.numel())
        return part

    monkeypatch.setattr(finishing.Stitched, "rows", watched)
    huge = np.zeros((12000, 12000, 3), dtype=np.uint8)
    huge[:6000, 5000:] = 200
    segmenter = Segmenter(tiny_backbone, Recipe.named("sclip").but(SMALL))
    mask = segmenter(huge, ["cat", "dog"]).mask
    assert mask.shape == (12000, 12000) and mask.dtype == np.int32
    assert max(rows) <= finishing.STRIP and sum(rows) == 2 * 12000 * 12000


# -- what the words may be ------------------------------------------------------------------------------------


def test_words(segment, image):
    with pytest.raises(WordsError):
        segment(image, [])
    assert not segment(image, ["cat"]).mask.any()
    result = segment(image, ["cat", "dog"], background="auto")
    assert result.names == ["background", "cat", "dog"]
    own = segment(image, {"pet": ["cat", "dog"], "sky": None}, background=["wall"])
    assert own.names == ["background", "pet", "sky"]
    named = segment(image, Vocabulary.named("voc21"))
    assert len(named.names) == 21 and named.names[0] == "background"


def test_thresholds_need_a_background(tiny_backbone, image):
    recipe = Recipe.named("sclip", "voc21").but(SMALL)
    with pytest.raises(RecipeError, match='background="auto"'):
        Segmenter(tiny_backbone, recipe)(image, WORDS)
    strict = recipe.but({"labels.probability_threshold": 0.999})
    assert not Segmenter(tiny_backbone, strict)(image, WORDS, background="auto").mask.any()


def test_unknown_recipes_list_the_known(tiny_backbone):
    with pytest.raises(RecipeError, match="did you mean 'sclip'.*naclip"):
        Segmenter(tiny_backbone, "sclipp")
    with pytest.raises(RecipeError, match="known: .*maskclip"):
        load("no such", model=tiny_backbone)
    loaded = load("naclip", model=tiny_backbone, dataset="voc21")
    assert loaded.recipe.dataset == "voc21" and loaded.backbone is tiny_backbone


def test_layers_that_the_model_lacks_are_refused_at_once():
    torch.manual_seed(0)
    config = {**TINY_CONFIG, "vision_cfg": {**TINY_CONFIG["vision_cfg"], "layers": 4}}
    shallow = Backbone(build_model(config), name="shallow")
    for name in ("resclip", "itaclip", "gem"):
        with pytest.raises(RecipeError, match="the model has 4 blocks"):
            Segmenter(shallow, name)


# -- memory ---------------------------------------------------------------------------------------------------


def test_work_that_does_not_fit_is_refused_before_it_starts(tiny_backbone, image, monkeypatch):
    memory = type("Memory", (), {"available": 1000})
    monkeypatch.setattr("ovsslib.clip.memory.psutil.virtual_memory", lambda: memory)
    refined = Segmenter(tiny_backbone, Recipe.named("sclip").but(SMALL).but(pamr=True))
    with pytest.raises(MemoryBudgetError, match="4 queries at 75x101.*smaller picture"):
        refined(image, WORDS)
    local = Segmenter(tiny_backbone, Recipe.named("sclip").but(SMALL))
    assert local(image, WORDS).mask.shape == (75, 101)
    with pytest.raises(MemoryBudgetError):
        local(image, WORDS, keep_scores=True)


def test_pytorchs_own_memory_errors_get_a_remedy():
    for error in (
        MemoryError("x"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: ..."),
    ):
        with pytest.raises(MemoryBudgetError, match="smaller picture"), memory_errors():
            raise error
    with pytest.raises(RuntimeError, match="other"), memory_errors():
        raise RuntimeError("other")


# -- same numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["sclip", "resclip", "itaclip", "gem", "cliptrase", "thesis-phase2a"]
)
@pytest.mark.parametrize("size", [(80, 112), (91, 130)])
def test_batches_of_seven_equal_single_pictures(name, size, tiny_backbone, tiny_inputs):
    recipe = Recipe.named(name).but(windows={"short_side": 64, "crop": 64, "stride": 32})
    segmenter = Segmenter(tiny_backbone, recipe)
    pixels = torch.randn(7, 3, *size, generator=torch.Generator().manual_seed(0))
    text = tiny_inputs["text"]
    features = segmenter.features(pixels, text)
    assert features.shape == (7, size[0] // 16, size[1] // 16, 24)
    logits = segmenter.logits(pixels[:2], text)
    assert logits.shape == (2, 6, *size)
    for index in (0, 1):
        one = pixels[index : index + 1]
        assert relative_error(segmenter.features(one, text)[0], features[index]) < 1e-5
        assert relative_error(segmenter.logits(one, text)[0], logits[index]) < 1e-5


@pytest.mark.parametrize(
    ("most", "sizes"),
    [
        (1, {1: [1], 6: [1] * 6}),
        (8, {1: [1], 2: [2], 6: [4, 2], 8: [8], 15: [8, 4, 2, 1], 35: [8, 8, 8, 8, 2, 1]}),
        (50, {50: [32, 16, 2], 70: [32, 32, 4, 2]}),
    ],
)
def test_chunks_have_few_sizes_and_nothing_to_fill_up(most, sizes):
    for windows, expected in sizes.items():
        assert chunk_sizes(windows, most) == expected


@pytest.mark.parametrize(("most", "views"), [(1, 1), (8, 1), (8, 3)])
def test_each_window_goes_through_the_trunk_once(image, monkeypatch, most, views):
    torch.manual_seed(0)
    backbone = Backbone(build_model(TINY_CONFIG), name="tiny", weights_hash="chunks")
    backbone.batch_of_windows, trunk, seen = most, backbone.trunk, []

    def counted(pixels, *rest, **settings):
        seen.append(len(pixels))
        return trunk(pixels, *rest, **settings)

    monkeypatch.setattr(backbone, "trunk", counted)
    recipe = Recipe.named("sclip").but(SMALL)
    if views > 1:
        recipe = recipe.but({"image_engineering": {"use": VIEWS[:views]}})
    segmenter = Segmenter(backbone, recipe)
    text = segmenter.text(WORDS)
    segmenter.segment(image, text)
    windows = len(recipe["windows"].boxes(*segmenter.prepare(image).shape[-2:]))
    assert windows == 6
    assert seen == [views * size for size in chunk_sizes(windows, most)]
    seen.clear()
    whole = Segmenter(backbone, recipe.but({"windows.crop": 0}))
    whole.segment(image, text)
    assert seen == [views]


def test_masks_do_not_depend_on_the_chunk(image):
    torch.manual_seed(0)
    net = build_model(TINY_CONFIG)
    recipe = Recipe.named("sclip").but(SMALL)
    found = []
    for chunk in (1, 2, 4, 50):
        backbone = Backbone(net, name="tiny", weights_hash="chunks")
        backbone.batch_of_windows = chunk
        found.append(Segmenter(backbone, recipe)(image, WORDS, keep_scores=True))
    for other in found[1:]:
        assert np.array_equal(found[0].mask, other.mask)
        np.testing.assert_allclose(found[0].scores, other.scores, atol=1e-5)


def test_strips_and_the_whole_give_one_mask(segment, image, monkeypatch):
    whole = segment(image, WORDS, keep_scores=True).mask
    monkeypatch.setattr("ovsslib.segmenter.finishing.STRIP", 1300)
    assert np.array_equal(segment(image, WORDS).mask, whole)
    threshold = Segmenter(
        segment.backbone, segment.recipe.but({"labels.probability_threshold": 0.3})
    )
    strips = threshold(image, WORDS, background=["wall"]).mask
    whole = threshold(image, WORDS, background=["wall"], keep_scores=True).mask
    assert np.array_equal(strips, whole)


def test_recipes_that_share_the_trunk_get_their_own_logits(tiny_backbone, image, tiny_inputs):
    windows = {"short_side": 80, "crop": 64, "stride": 32, "positions": "sclip"}
    segmenters = [
        Segmenter(tiny_backbone, Recipe.named(name).but(windows=windows))
        for name in ("clip", "sclip", "resclip", "maskclip")
    ]
    pixels, text = segmenters[0].prepare(image), tiny_inputs["text"]
    together = window_logits_of(segmenters, pixels, [text, text[:3], text, text], (75, 101))
    assert [one.queries for one in together] == [6, 3, 6, 6]
    for segmenter, shared in zip(segmenters, together, strict=True):
        alone = window_logits_of([segmenter], pixels, [text[: shared.queries]], (75, 101))[0]
        assert torch.equal(alone.full(), shared.full())
    antialiased = segmenters[3].recipe.but({"windows.positions": "size-antialias"})
    for recipe in ("clearclip", antialiased):
        other = Segmenter(tiny_backbone, recipe)
        with pytest.raises(RecipeError, match="cannot share a trunk"):
            window_logits_of([segmenters[0], other], pixels, [text, text])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_recipe_runs_in_every_precision(precision, image, second_models):
    torch.manual_seed(0)
    backbone = Backbone(
        build_model(TINY_CONFIG), name="tiny", weights_hash="half", precision=precision
    )
    for name in recipe_names():
        recipe = Recipe.named(name).but(SMALL)
        if "upsampling" in recipe:
            recipe = recipe.but({"upsampling": {"method": "bilinear"}})
        if "sink_denoise" in recipe:  # the published channels are for OpenAI's weights alone
            recipe = recipe.but({"sink_denoise": {"channels": (0, 5), "sigma": 1.5}})
        if "experts" in recipe:
            recipe = recipe.but(
                experts=False
            )  # its table belongs to one model and one list of words
        result = Segmenter(backbone, recipe)(image, WORDS, background=["wall"], keep_scores=True)
        assert np.isfinite(result.scores).all(), name
        assert result.mask.shape == (75, 101) and result.mask.max() < 5


SCRIPT = """
import hashlib, json, sys
import numpy as np, torch
import ovsslib
from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import build_model
torch.set_num_threads(1)
torch.manual_seed(0)
backbone = Backbone(build_model(json.loads(sys.argv[1])), name="tiny", weights_hash="two-processes")
image = np.random.default_rng(0).integers(0, 256, (75, 101, 3), dtype=np.uint8)
for name in ("resclip", "itaclip"):
    recipe = ovsslib.Recipe.named(name).but(json.loads(sys.argv[2]))
    result = ovsslib.Segmenter(backbone, recipe)(image, ["cat", "dog", "grass"], keep_scores=True)
    print(hashlib.sha256(result.mask.tobytes() + result.scores.tobytes()).hexdigest())
"""


def test_two_processes_give_the_same_bits():
    arguments = [sys.executable, "-c", SCRIPT, json.dumps(TINY_CONFIG), json.dumps(SMALL)]
    running = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert outputs[0] == outputs[1] and len(outputs[0].split()) == 2


def test_two_runs_give_the_same_bits(segment, image):
    first, second = (segment(image, WORDS, keep_scores=True) for _ in range(2))
    assert np.array_equal(first.scores, second.scores) and np.array_equal(first.mask, second.mask)
