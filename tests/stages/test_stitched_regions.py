"""OV-Stitcher against outputs of its forward pass, transcribed by hand from the stored code; see the vectors' page."""

import pytest
import torch
from conftest import relative_error, vectors

from ovsslib.clip.backbone import PIXEL_MEAN, PIXEL_STD
from ovsslib.errors import ImageError, RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.segmenter.encoding import PictureInput, encode_pictures
from ovsslib.stages import stitched_regions as module
from ovsslib.stages.region_scope import (
    merged_regions,
    middle_blocks,
    region_tokens,
    resized_regions,
    scoped_attention,
)
from ovsslib.stages.stitched_regions import StitchedRegionsSettings, picture_features
from ovsslib.stages.stitching import PatchGrid, attend_rows
from ovsslib.stages.windows import WindowSettings

RECORDED = vectors("ov-stitcher")
TOLERANCE = 1e-4
PICTURES = {
    "168x168_crop112_56": ("gla-clip", "image_u8__168x168", 56),
    "176x176_crop112_64": ("trident", "image_u8__176x176", 64),
}


def picture_of(key: str) -> torch.Tensor:
    file, name, _ = PICTURES[key]
    # as recorded: bytes over 255, less CLIP's mean, over its deviation
    mean, std = (torch.tensor(v)[:, None, None] for v in (PIXEL_MEAN, PIXEL_STD))
    return (vectors(file)[name].permute(2, 0, 1) / 255 - mean) / std


@pytest.fixture
def segmenter(request, second_models, tiny_backbone):
    """Of the picture that the test names; the tiny guide stands in for the one that the recipe names."""
    recipe = Recipe("ov").but(
        {"windows": {"crop": 112, "stride": PICTURES[request.param][2]}, "stitched_regions": True}
    )
    return Segmenter(tiny_backbone, recipe)


BOTH = pytest.mark.parametrize(
    ("key", "segmenter"), [(key, key) for key in sorted(PICTURES)], indirect=["segmenter"]
)


def tokens_of(segmenter, pixels, regions):
    given = PictureInput(pixels, regions={"felzenszwalb": regions.long()})
    encoded = encode_pictures([segmenter], given, [None])[0]
    with torch.no_grad():
        return encoded.tokens(None)


@BOTH
def test_guide_features_agree(key, segmenter, tiny_guide):
    pixels = picture_of(key)
    grid = segmenter.windows.boxes(*pixels.shape[-2:])
    reading = tiny_guide.read(tiny_guide.from_clip(grid.crops(pixels)))
    features = picture_features(tiny_guide, reading, PatchGrid(grid, 8))
    assert relative_error(features.flatten(1).T[None], RECORDED[f"dino__{key}"]) < TOLERANCE


@BOTH
def test_tokens_agree_with_masks_and_with_one_region(key, segmenter):
    pixels, mask = picture_of(key), RECORDED[f"mask__{key}"]
    tokens = tokens_of(segmenter, pixels, mask)
    assert tokens.whole and not tokens.direct
    assert relative_error(tokens.patches, RECORDED[f"tokens__{key}"]) < TOLERANCE
    one = tokens_of(segmenter, pixels, torch.full_like(mask, 3))
    assert relative_error(one.patches, RECORDED[f"tokens_one_region__{key}"]) < TOLERANCE


@pytest.mark.parametrize("segmenter", ["176x176_crop112_64"], indirect=True)
def test_branches_and_logits_agree(segmenter, tiny_inputs, monkeypatch):
    key = "176x176_crop112_64"
    pixels, mask = picture_of(key), RECORDED[f"mask__{key}"]
    seen = []
    head = segmenter.backbone.head
    monkeypatch.setattr(segmenter.backbone, "head", lambda x: (seen.append(x), head(x))[1])
    logits = segmenter.logits(pixels[None], tiny_inputs["text"], mask[None])
    assert relative_error(logits[:, :, ::4, ::4], RECORDED[f"logits__{key}"]) < TOLERANCE
    for branch, ours in zip(("main", "spatial", "semantic"), seen[:3], strict=True):
        assert relative_error(ours[:, ::4], RECORDED[f"{branch}__{key}"]) < TOLERANCE


def test_shares_of_the_branches_add_up(second_models, tiny_backbone):
    key = "168x168_crop112_56"
    pixels, mask = picture_of(key), RECORDED[f"mask__{key}"]

    def patches(middle, semantic):
        changes = {"middle": middle, "semantic": semantic}
        recipe = Recipe("ov").but(
            {"windows": {"crop": 112, "stride": 56}, "stitched_regions": changes}
        )
        return tokens_of(Segmenter(tiny_backbone, recipe), pixels, mask).patches

    plain = patches(0.0, 0.0)
    whole = plain + 0.7 * (patches(1.0, 0.0) - plain) + 0.2 * (patches(0.0, 1.0) - plain)
    assert relative_error(patches(0.7, 0.2), whole) < 1e-5


# -- pieces ------------------------------------------------------------------------------------------------------


def test_alike_regions_are_merged_in_any_number_of_steps_and_the_smallest_id_is_left_alone():
    features = torch.tensor(
        [[1.0, 0.0], [1.0, 0.0], [0.9, 0.436], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]
    )
    maps = torch.nn.functional.normalize(features, dim=1).T[:, None]
    regions = torch.tensor([[2, 3, 4, 5, 6, 9]])
    merged = merged_regions(regions, maps, distance=0.3)
    assert merged.tolist() == [[2, 10000, 10000, 10000, 10000, 10001]]
    assert torch.equal(merged_regions(regions.clamp_max(3), maps, 0.3), regions.clamp_max(3))


def test_scope_is_the_region_or_likeness_where_nothing_is_segmented(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(9, 4, generator=generator), dim=1)
    regions = torch.tensor([0, 0, 5, 5, 5, 7, 7, 0, 9])
    values = torch.randn(9, 3, generator=generator)
    similar = features @ features.T
    allowed = torch.zeros(9, 9, dtype=torch.bool)
    for i in range(9):
        for j in range(9):
            if 0 in (regions[i], regions[j]):
                allowed[i, j] = similar[i, j] > similar.mean()
            else:
                allowed[i, j] = regions[i] == regions[j]
    expected = (4 * similar).masked_fill(~allowed, -torch.inf).softmax(1) @ values
    monkeypatch.setattr("ovsslib.stages.region_scope.ENTRIES", 20)  # two rows at a time
    ours = scoped_attention(features, regions, [values, values * 2], 4.0)
    torch.testing.assert_close(ours[0], expected)
    torch.testing.assert_close(ours[1], expected * 2)


def test_region_tokens_are_those_of_a_pass_with_masked_tokens_in_front(tiny_backbone, tiny_inputs):
    """The same as extra tokens in the sequence: the plain tower's keys and values serve."""
    pixels = tiny_inputs["image_64x64"]
    trunk = tiny_backbone.trunk(pixels, range(12), {0})
    regions = torch.tensor([[1, 1, 2, 2], [1, 1, 2, 2], [4, 4, 4, 2], [4, 4, 4, 2]])[None]
    ids = torch.tensor([1, 2, 3, 4])
    ours = region_tokens(tiny_backbone, trunk, regions, ids)
    x = torch.cat([trunk.inputs[0][:, :1].expand(-1, 4, -1), trunk.inputs[0]], dim=1)
    allowed = torch.zeros(21, 21, dtype=torch.bool)
    allowed[:, 4:] = True
    allowed[:4, 5:] = regions.flatten() == ids[:, None]
    for index in range(12):
        tap = tiny_backbone.project(index, x)
        mixed = torch.nn.functional.scaled_dot_product_attention(
            tap.q, tap.k, tap.v, attn_mask=allowed
        )
        x = x + tiny_backbone.join(index, mixed)
        x = x + tiny_backbone.feed_forward(index, x)
    assert relative_error(ours, x[:, :4]) < 1e-5


def test_regions_take_the_nearest_cell_and_attention_by_rows_is_attention(monkeypatch):
    regions = torch.tensor([[1, 2], [3, 20000]])
    assert resized_regions(regions, (4, 2)).tolist() == [[1, 2], [1, 2], [3, 20000], [3, 20000]]
    assert resized_regions(regions[None].expand(3, -1, -1), (1, 1)).shape == (3, 1, 1)
    monkeypatch.setattr("ovsslib.stages.stitching.ENTRIES", 14)
    q, k, v = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(attend_rows(q, k, v, 0.5), (q @ k.T * 0.5).softmax(1) @ v)
    assert list(middle_blocks(12)) == [5, 6, 7, 8, 9] and list(middle_blocks(24)) == list(
        range(10, 22)
    )
    assert list(middle_blocks(3)) == [0] and list(middle_blocks(6)) == [2, 3]


def test_windows_of_broken_patches_and_other_networks_are_refused(
    second_models, tiny_backbone, tiny_inputs
):
    recipe = Recipe("ov").but({"windows": {"crop": 60, "stride": 20}, "stitched_regions": True})
    with pytest.raises(ImageError, match="windows.pad_to"):
        Segmenter(tiny_backbone, recipe).logits(
            tiny_inputs["image_80x112"], tiny_inputs["text"], torch.ones(1, 80, 112)
        )
    other = type("Guide", (), {"network": torch.nn.Linear(2, 2), "name": "other"})
    grid = WindowSettings(crop=0).boxes(64, 64)
    with pytest.raises(RecipeError, match="'other'.*DINO's transformers only"):
        picture_features(other, None, PatchGrid(grid, 8))
    for values in ({"tau": 0.0}, {"distance": -1.0}, {"middle": -0.1}):
        with pytest.raises(RecipeError, match="stitched_regions"):
            StitchedRegionsSettings(**values)
    for other in ("rcs", "gem", "stitch", "image_engineering"):
        with pytest.raises(RecipeError, match="cannot work"):
            Recipe("x").but({"stitched_regions": True, other: True})
    assert module.StitchedRegionsSettings().guide_name() == "scenedino"
