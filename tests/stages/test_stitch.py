"""Stitching before the last block: against OV-Stitcher's recorded values, and against attention over one window."""

import numpy as np
import pytest
import torch
from conftest import relative_error, vectors

from ovsslib.clip.backbone import PIXEL_MEAN, PIXEL_STD
from ovsslib.errors import RecipeError
from ovsslib.images.pictures import normalise
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.segmenter.encoding import PictureInput, encode_pictures
from ovsslib.stages import stitch as module
from ovsslib.stages.stitching import stitch, without_padding
from ovsslib.stages.windows import WindowSettings

TOLERANCE = 1e-4
PICTURES = {
    "168x168_crop112_56": ("gla-clip", "image_u8__168x168", 56),
    "176x176_crop112_64": ("trident", "image_u8__176x176", 64),
}
NACLIP = {"terms": "kk", "gaussian_std": 5.0, "residual": False, "feed_forward": False}


def picture_of(key: str) -> torch.Tensor:
    file, name, _ = PICTURES[key]
    # as recorded: bytes over 255, less CLIP's mean, over its deviation
    mean, std = (torch.tensor(v)[:, None, None] for v in (PIXEL_MEAN, PIXEL_STD))
    return (vectors(file)[name].permute(2, 0, 1) / 255 - mean) / std


@pytest.mark.parametrize("key", sorted(PICTURES))
def test_stitched_values_agree_with_the_official_code(key, tiny_backbone):
    pixels = picture_of(key)
    grid = WindowSettings(crop=112, stride=PICTURES[key][2]).boxes(*pixels.shape[-2:])
    tap = tiny_backbone.trunk(grid.crops(pixels), {11}).taps[11]
    values = tap.v[:, :, 1:].transpose(1, 2).flatten(2).transpose(1, 2).unflatten(2, (7, 7))
    corners = [(top, left) for top in grid.tops for left in grid.lefts]
    ours = stitch(values, corners, 16, grid.picture)
    assert relative_error(ours[None], vectors("ov-stitcher")[f"values__{key}"]) < TOLERANCE


def encoded(backbone, pixels, changes, windows):
    recipe = Recipe("stitch").but({"windows": windows, "stitch": True, **changes})
    segmenter = Segmenter(backbone, recipe)
    made = encode_pictures([segmenter], PictureInput(pixels), [None])[0]
    with torch.no_grad():
        return made.tokens(None)


TERMS = [
    {"terms": "qq+kk", "residual": True, "feed_forward": True},
    {"terms": "qq+kk", "combine": "joint", "residual": False, "feed_forward": False},
    NACLIP,
    {"terms": "neighbour", "gaussian_std": 2.0, "residual": False, "feed_forward": False},
    {"terms": "qk", "residual": False, "feed_forward": True},
    {"terms": "value", "residual": True, "feed_forward": False},
]


@pytest.mark.parametrize("attention", TERMS, ids=lambda a: a["terms"] + a.get("combine", ""))
def test_one_window_gives_the_recipes_attention_without_the_class_token(
    attention, tiny_backbone, tiny_inputs, monkeypatch
):
    monkeypatch.setattr(module, "ENTRIES", 100)  # rows in several parts
    pixels = tiny_inputs["image_80x112"]
    tokens = encoded(tiny_backbone, pixels[0], {"attention": attention}, {"crop": 0})
    assert tokens.grid == (5, 7) and tokens.whole
    trunk = tiny_backbone.trunk(pixels, {11})
    settings, tap = Recipe("x").but(attention=attention)["attention"], trunk.taps[11]
    # the class token hidden: no patch may look at it, and it is left out of the result
    scores = []

    def hide(score):
        score = score.clone()
        score[..., 0] = -torch.inf
        scores.append(score)
        return score

    if attention["terms"] == "neighbour":
        # its size is the mean over the tokens that take part
        patches = type("Tap", (), {n: getattr(tap, n)[:, :, 1:] for n in "qkv"})
        near = module.near_rows((5, 7), 2.0, slice(0, 35))
        size = tiny_backbone.scale * (
            patches.q.norm(dim=-1).mean(-1) * patches.k.norm(dim=-1).mean(-1)
        ).mean(-1)
        weights = torch.zeros(1, 4, 36, 36)
        weights[:, :, 1:, 1:] = (near * size).softmax(-1)
    else:
        weights = settings.weights(tap, (5, 7), tiny_backbone.scale, hide)
    expected = tiny_backbone.head(settings.tokens(tiny_backbone, trunk, weights))[:, 1:]
    assert relative_error(tokens.patches, expected) < 1e-5


@pytest.mark.parametrize("key", sorted(PICTURES))
def test_windows_are_averaged_before_the_attention(key, tiny_backbone):
    """ClearCLIP's attention on the stitched projections, worked out by hand."""
    pixels, stride = picture_of(key), PICTURES[key][2]
    attention = {"terms": "qq", "residual": False, "feed_forward": False}
    tokens = encoded(
        tiny_backbone, pixels, {"attention": attention}, {"crop": 112, "stride": stride}
    )
    side = pixels.shape[-1] // 16
    total, count = torch.zeros(2, side, side, 64), torch.zeros(side, side, 1)
    for top in (0, stride):
        for left in (0, stride):
            crop = pixels[None, :, top : top + 112, left : left + 112]
            tap = tiny_backbone.trunk(crop, {11}).taps[11]
            place = (slice(top // 16, top // 16 + 7), slice(left // 16, left // 16 + 7))
            for number, heads in enumerate((tap.q, tap.v)):
                total[number][place] += heads[0, :, 1:].transpose(0, 1).reshape(7, 7, 64)
            count[place] += 1
    q, v = ((x / count).reshape(-1, 4, 16).transpose(0, 1) for x in total)
    mixed = (q @ q.transpose(1, 2) * 0.25).softmax(-1) @ v
    expected = tiny_backbone.head(tiny_backbone.join(11, mixed[None]))
    assert relative_error(tokens.patches, expected) < 1e-5
    assert tokens.grid == (side, side)


def test_the_logits_are_one_map_resized_once(tiny_backbone, tiny_inputs):
    pixels, text = picture_of("168x168_crop112_56"), tiny_inputs["text"]
    recipe = Recipe("stitch").but(
        {"windows": {"crop": 112, "stride": 56}, "stitch": True, "attention": NACLIP}
    )
    segmenter = Segmenter(tiny_backbone, recipe)
    tokens = encoded(tiny_backbone, pixels, {"attention": NACLIP}, {"crop": 112, "stride": 56})
    unit = torch.nn.functional.normalize(tokens.patches[0], dim=-1)
    cosines = (unit @ text.T).T.reshape(1, 6, 10, 10)
    expected = torch.nn.functional.interpolate(cosines, size=(168, 168), mode="bilinear")
    assert relative_error(segmenter.logits(pixels[None], text), expected) < 1e-5


def test_padded_windows_lose_their_padding(tiny_backbone):
    """A window of 80 x 80 padded to 112 has one patch of padding before it."""
    grid = WindowSettings(crop=80, stride=40, pad_to=112).boxes(80, 120)
    maps = torch.arange(49.0).reshape(1, 1, 7, 7).expand(2, 1, 7, 7)
    cut = without_padding(maps, grid, 16)
    assert torch.equal(cut[0, 0], maps[0, 0, 1:6, 1:6])
    image = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    tokens = encoded(tiny_backbone, normalise(image), {}, {"crop": 80, "stride": 40, "pad_to": 112})
    assert tokens.grid == (5, 7)


def test_a_patch_that_no_window_covers_is_refused():
    with pytest.raises(RecipeError, match="row 0, column 1.*multiple of 16"):
        stitch(torch.ones(2, 3, 1, 1), [(0, 0), (0, 32)], 16, (16, 48))


@pytest.mark.parametrize("other", ["rcs", "sfr", "gem", "image_engineering", "global_attention"])
def test_stages_that_would_never_be_asked_are_refused(other):
    with pytest.raises(RecipeError, match="cannot work"):
        Recipe("x").but({"stitch": True, other: True})
