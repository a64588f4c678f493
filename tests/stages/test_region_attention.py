"""CorrCLIP against outputs recorded from its official code: every step, tokens, windows, voted labels."""

import numpy as np
import pytest
import torch
from conftest import relative_error, vectors
from guide_cases import tiny_guide

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter, Words, window_logits_of
from ovsslib.segmenter.encoding import PictureInput
from ovsslib.stages.guided import unit_patches
from ovsslib.stages.region_attention import RegionAttentionSettings
from ovsslib.stages.region_scope import merged_regions, resized_regions, scoped_attention
from ovsslib.text.features import TextFeatures
from ovsslib.text.vocabulary import Vocabulary

RECORDED = vectors("corrclip")
TOLERANCE = 1e-4
PICTURES = {"64": ("image_64x64", "mask__64"), "80x112": ("image_80x112", "mask__90x126")}


@pytest.fixture(scope="module")
def guide():
    return tiny_guide()


@pytest.fixture
def segmenter_with(tiny_backbone, guide, monkeypatch):
    """Function (changes) -> Segmenter whose recipe has the tiny guide."""
    monkeypatch.setattr(Segmenter, "_guide", lambda self: guide)

    def make(changes=None):
        return Segmenter(
            tiny_backbone, Recipe("corr").but({"region_attention": True, **(changes or {})})
        )

    return make


def regions_of(size: str, pixels: torch.Tensor) -> torch.Tensor:
    """(1, H, W) region map of a picture's pixels."""
    return resized_regions(RECORDED[PICTURES[size][1]].long(), tuple(pixels.shape[-2:]))[None]


def features_of(guide, pixels: torch.Tensor) -> torch.Tensor:
    return guide.features(guide.from_clip(pixels), "q+k")


@pytest.mark.parametrize("size", sorted(PICTURES))
def test_regions_are_merged_as_recorded(size, guide, tiny_inputs):
    """Distances of the regions' means and their clusters; the smallest id is none of them."""
    pixels = tiny_inputs[PICTURES[size][0]]
    maps = features_of(guide, pixels)
    features, grid = unit_patches(maps), tuple(maps.shape[-2:])
    assert relative_error(features, RECORDED[f"dino_qk__{size}"]) < TOLERANCE
    regions = resized_regions(regions_of(size, pixels)[0], grid)
    ids, merged = regions.unique()[1:], merged_regions(regions, features[0].T.unflatten(1, grid))
    labels = [int(merged[regions == one].unique()) - 10000 for one in ids]
    assert labels == RECORDED[f"dbscan_label__{size}"].tolist()
    means = torch.stack([features[0, (regions == one).flatten()].mean(0) for one in ids])
    means = torch.nn.functional.normalize(means, dim=1)
    alike = means @ means.T
    assert relative_error(alike.max() - alike, RECORDED[f"dbscan_distance__{size}"]) < TOLERANCE
    weights = scoped_attention(features[0], merged.flatten(), [torch.eye(len(features[0]))], 4.0)[0]
    assert relative_error(weights, RECORDED[f"weights__{size}"][0]) < TOLERANCE


@pytest.mark.parametrize("size", sorted(PICTURES))
def test_branches_and_tokens_agree(size, segmenter_with, tiny_inputs, monkeypatch):
    segmenter, pixels = segmenter_with(), tiny_inputs[PICTURES[size][0]]
    head, seen = segmenter.backbone.head, []
    monkeypatch.setattr(segmenter.backbone, "head", lambda x: (seen.append(x), head(x))[1])
    tokens = segmenter.features(pixels, regions=regions_of(size, pixels))
    assert relative_error(tokens.flatten(1, 2), RECORDED[f"tokens__{size}"]) < TOLERANCE
    for name, ours in zip(("main", "spatial", "semantic"), seen, strict=True):
        assert relative_error(ours, RECORDED[f"{name}__{size}"]) < TOLERANCE


@pytest.mark.parametrize("case", ["no_zero", "one_region"])
def test_maps_without_zero_and_of_one_region_agree(case, segmenter_with, tiny_inputs):
    pixels = tiny_inputs["image_64x64"]
    mask = RECORDED["mask_no_zero__64"].long() if case == "no_zero" else torch.full((64, 64), 3)
    logits = segmenter_with({"windows.crop": 0}).logits(pixels, tiny_inputs["text"], mask[None])
    assert relative_error(logits, RECORDED[f"logits_window_{case}__64"]) < TOLERANCE


def stitched_of(segmenter, tiny_inputs, query_class):
    """Logits at the size of the region map, and what is needed for labels."""
    regions = RECORDED["mask__90x126"].long()
    picture = PictureInput(
        tiny_inputs["image_80x112"][0],
        np.zeros((90, 126, 3), np.uint8),
        regions={"felzenszwalb": regions},
    )
    words = Words(tiny_inputs["text"], 6, query_class)
    return window_logits_of([segmenter], picture, [words], (90, 126))[0], picture


def labels_of(segmenter, stitched, picture, tiny_inputs, query_class):
    names = [f"word {i}" for i in range(int(query_class.max()) + 1)]
    vocabulary = Vocabulary.from_words(names[1:], background=[names[0]])
    text = TextFeatures(tiny_inputs["text"], query_class, vocabulary)
    return segmenter.finish(stitched, picture.image, picture, text).labels


def test_windows_and_voted_labels_agree(segmenter_with, tiny_inputs):
    segmenter = segmenter_with({"windows": {"crop": 56, "stride": 28}, "mask_vote": True})
    query_class = torch.tensor([0, 0, 0, 1, 2, 3])
    stitched, picture = stitched_of(segmenter, tiny_inputs, query_class)
    expected = RECORDED["logits_slide56_28__90x126"]
    assert relative_error(stitched.full()[None], expected) < TOLERANCE
    labels = labels_of(segmenter, stitched, picture, tiny_inputs, query_class)
    np.testing.assert_array_equal(labels, RECORDED["labels_slide56_28_bg3__90x126"].numpy())


def test_padded_windows_and_labels_with_a_threshold_agree(segmenter_with, tiny_inputs):
    changes = {"windows": {"crop": 64, "stride": 32, "pad_to": 56}, "mask_vote": True}
    segmenter = segmenter_with({**changes, "labels": {"probability_threshold": 0.35}})
    query_class = torch.arange(6)
    stitched, picture = stitched_of(segmenter, tiny_inputs, query_class)
    expected = RECORDED["logits_slide64_32_padded__90x126"]
    assert relative_error(stitched.full()[None, :, ::2, ::2], expected) < TOLERANCE
    labels = labels_of(segmenter, stitched, picture, tiny_inputs, query_class)
    np.testing.assert_array_equal(labels, RECORDED["labels_slide64_32_thd.35__90x126"].numpy())


# -- pieces ------------------------------------------------------------------------------------------------------


def test_shares_of_the_branches_add_up(segmenter_with, tiny_inputs):
    pixels = tiny_inputs["image_64x64"]

    def tokens(**shares):
        return segmenter_with({"region_attention": shares}).features(
            pixels, regions=regions_of("64", pixels)
        )

    main, middle, semantic = (
        tokens(**{name: float(name == one) for name in ("main", "middle", "semantic")})
        for one in ("main", "middle", "semantic")
    )
    mixed = tokens(main=0.3, middle=0.7, semantic=0.2)
    assert relative_error(mixed, 0.3 * main + 0.7 * middle + 0.2 * semantic) < 1e-5


def test_a_batch_of_windows_is_window_by_window(segmenter_with, tiny_inputs):
    segmenter, pixels = segmenter_with(), tiny_inputs["image_64x64"]
    regions = regions_of("64", pixels)
    both = segmenter.features(
        torch.cat([pixels.flip(-1), pixels]), regions=torch.cat([regions.flip(-1), regions])
    )
    assert relative_error(both[1:], segmenter.features(pixels, regions=regions)) < 1e-5
    assert relative_error(both[:1], both[1:]) > 1e-2


def test_equal_patches_have_finite_tokens():
    """The mean similarity is 1 then, and the released code finds no patch above it."""
    features = torch.ones(4, 1)
    mixed = scoped_attention(features, torch.zeros(4).long(), [torch.eye(4)], 4.0)[0]
    assert torch.equal(mixed, torch.eye(4))


def test_regions_come_from_the_proposer_of_the_recipe(segmenter_with, tiny_inputs):
    """Without a photograph the network picture is cut; with one, its regions bound attention and vote."""
    pixels = tiny_inputs["image_80x112"]
    segmenter = segmenter_with({"windows": {"crop": 64, "stride": 32, "pad_to": 8}})
    logits = segmenter.logits(pixels, tiny_inputs["text"])
    assert logits.shape == (1, 6, 80, 112) and torch.isfinite(logits).all()
    one = segmenter.logits(pixels, tiny_inputs["text"], torch.ones(1, 80, 112))
    assert relative_error(logits, one) > 1e-3


def test_what_cannot_work_is_refused():
    for other in ("rcs", "sfr", "gem", "stitch", "proxy_attention", "image_engineering"):
        with pytest.raises(RecipeError, match="cannot work"):
            Recipe("x").but({"region_attention": True, other: True})
    for values in ({"tau": 0.0}, {"distance": -1.0}, {"middle": -0.1}):
        with pytest.raises(RecipeError, match="region_attention"):
            RegionAttentionSettings(**values)
    with pytest.raises(RecipeError, match="nothing is left"):
        RegionAttentionSettings(main=0.0, middle=0.0, semantic=0.0)
