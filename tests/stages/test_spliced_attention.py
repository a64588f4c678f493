"""Trident's splice and correlation against values recorded from its official code; the guide as a mixer."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import relative_error, vectors
from guide_cases import clip_pixels, tiny_guide

from ovsslib.errors import ModelError, RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.segmenter.encoding import PictureInput, encode_pictures
from ovsslib.stages import correlation, spliced_attention
from ovsslib.stages.correlation import attention_rows, correlated, correlation_weights
from ovsslib.stages.spliced_attention import SplicedAttentionSettings, stretched

RECORDED = vectors("trident")
TOLERANCE = 1e-4
WINDOWS = {"windows": {"crop": 112, "stride": 64}}
RUNS = {
    "tokens__9x8": {"factor": 1.2},
    "tokens__9x8_cos3_noneg": {"factor": 3.0, "keep_negative": False},
    "tokens__9x8_cos0": {"factor": 0.0},
    "tokens__7x10": {"factor": 1.2},
    "tokens__7x10_noneg": {"factor": 1.2, "keep_negative": False},
}


class GivenSam:
    """A SAM whose last block is given, whatever it is shown."""

    weights_hash = "given"

    def __init__(self, key: str):
        rows, columns = (int(side) for side in key.split("x"))
        self.grid, self.shown = (rows, columns), []
        self.attention = RECORDED[f"sam_attention__{key}"][0]
        self.values = RECORDED[f"sam_value__{key}"][0]

    def read(self, image):
        self.shown.append(image.shape)
        return self


@pytest.fixture(scope="module")
def guide():
    return tiny_guide()


@pytest.fixture
def segmenter_with(tiny_backbone, guide, monkeypatch):
    """Function (settings, sam, more) -> Segmenter of Trident with the tiny guide and a given SAM."""

    def make(settings, sam=None, more=None):
        monkeypatch.setattr(Segmenter, "_guide", lambda self: guide)
        monkeypatch.setattr(spliced_attention, "opened_sam", lambda name, device: sam)
        mixer = {"mixer": "sam"} if sam is not None else {}
        changes = {**WINDOWS, "spliced_attention": {**mixer, **settings}, **(more or {})}
        return Segmenter(tiny_backbone, Recipe("trident").but(changes))

    return make


def picture() -> torch.Tensor:
    return clip_pixels(RECORDED["image_u8__176x176"])


def tokens_of(segmenter, pixels=None, image=None):
    given = PictureInput(picture() if pixels is None else pixels, image)
    encoded = encode_pictures([segmenter], given, [None])[0]
    with torch.no_grad():
        return encoded.tokens(None)


@pytest.mark.parametrize("key", sorted(RUNS))
def test_tokens_agree_with_the_official_code(key, segmenter_with):
    sam = GivenSam(key.split("__")[1].split("_")[0])
    tokens = tokens_of(segmenter_with(RUNS[key], sam), image=np.zeros((70, 90, 3), np.uint8))
    assert tokens.whole and tokens.direct and tokens.grid == sam.grid
    assert relative_error(tokens.patches, RECORDED[key]) < TOLERANCE
    assert sam.shown == [(80, 96, 3)]  # the photograph, stretched to multiples of 16


@pytest.mark.parametrize(("key", "keep"), [("9x8", True), ("7x10_noneg", False)])
def test_weights_agree(key, keep):
    sam = GivenSam(key.split("_")[0])
    values = F.normalize(sam.values.flatten(1, 2), dim=-1)
    weights = correlation_weights(sam.attention, values, slice(0, len(values[0])), 1.2, keep)
    assert relative_error(weights, RECORDED[f"weights__{key}"]) < TOLERANCE


# -- pieces ------------------------------------------------------------------------------------------------------


def test_rows_in_parts_are_the_same(monkeypatch):
    sam = GivenSam("9x8")
    cells = torch.randn(72, 5, generator=torch.Generator().manual_seed(0))
    arguments = (cells, lambda rows: sam.attention[:, rows], sam.values.flatten(1, 2))
    whole = correlated(*arguments)
    monkeypatch.setattr(correlation, "ENTRIES", 3 * 72 * 7)
    torch.testing.assert_close(correlated(*arguments), whole)
    assert (correlated(torch.ones(72, 1), *arguments[1:]) - 1).abs().max() < 1e-5


def test_attention_by_rows_is_cut_from_all_tokens():
    q, k = torch.randn(2, 3, 9, 4, generator=torch.Generator().manual_seed(0))
    full = (q @ k.transpose(1, 2) / 2).softmax(-1)
    torch.testing.assert_close(attention_rows(q, k, 2)(slice(1, 4)), full[:, 3:6, 2:])


def test_without_a_mixer_the_spliced_map_is_projected(segmenter_with, guide, tiny_backbone):
    """Windows on the picture's patches of 8 pixels, the mean where they overlap."""
    segmenter = segmenter_with({"mixer": "none"})
    tokens = tokens_of(segmenter)
    assert tokens.grid == (22, 22) and not tokens.direct
    total, count = torch.zeros(22, 22, 64), torch.zeros(22, 22, 1)
    crops = segmenter.windows.boxes(176, 176).crops(picture())
    features = F.normalize(guide.features(guide.from_clip(crops)), dim=1).flatten(2)
    similar = features.transpose(1, 2) @ features
    scores = (similar - 1.2 * similar.mean()) * 3  # the mean of all four windows
    weights = scores.masked_fill(scores < 0, -torch.inf).softmax(-1)
    tap = tiny_backbone.trunk(crops, {11}).taps[11]
    values = tap.v[:, :, 1:].transpose(1, 2).flatten(2).transpose(1, 2).unflatten(2, (7, 7))
    values = F.interpolate(values, size=(14, 14), mode="bilinear").flatten(2).transpose(1, 2)
    mixed = tiny_backbone.blocks[11].attn.out_proj(weights @ values).unflatten(1, (14, 14))
    for one, (row, column) in zip(mixed, [(0, 0), (0, 8), (8, 0), (8, 8)], strict=True):
        total[row : row + 14, column : column + 14] += one
        count[row : row + 14, column : column + 14] += 1
    expected = tiny_backbone.head(total / count)
    # Scores below zero are cut off: on another processor one of them may be rounded to the other side.
    assert relative_error(tokens.patches[0].unflatten(0, (22, 22)), expected) < 1e-3


def test_the_guide_mixes_in_the_place_of_sam(segmenter_with, guide, tiny_inputs):
    """Its last block over the whole picture, sides that are no whole patches cut from the grid."""
    segmenter = segmenter_with({"factor": 0.0})
    tokens = tokens_of(segmenter)
    assert tokens.grid == (22, 22)
    pixels = picture()
    reading = guide.read(guide.from_clip(pixels[None]))
    q, k, v = (
        x[0].unflatten(1, (2, -1)).transpose(0, 1) for x in (reading.q, reading.k, reading.v)
    )
    attention = (q @ k.transpose(1, 2) / 4).softmax(-1)[:, 1:, 1:]
    unit = F.normalize(v[:, 1:], dim=-1)
    weights = (attention * (unit @ unit.transpose(1, 2) > 0)).mean(0)
    plain = segmenter_with({"mixer": "none"})
    seen = []
    head = plain.backbone.head
    plain.backbone.head = lambda x: (seen.append(x), head(x))[1]
    try:
        tokens_of(plain)
    finally:
        del plain.backbone.head
    expected = head((weights / weights.sum(1, keepdim=True)) @ seen[0][0])
    assert relative_error(tokens.patches[0], expected) < 1e-4
    # a picture of 172 x 170 pixels: 21 x 21 whole patches, the padding takes no part in the grid
    narrow = tokens_of(segmenter_with({}), pixels[:, :172, :170])
    assert narrow.grid == (21, 21) and torch.isfinite(narrow.patches).all()


def test_halves_are_mixed_alone(segmenter_with):
    sam = GivenSam("9x8")
    tokens = tokens_of(
        segmenter_with({"halves": True}, sam), image=np.zeros((64, 128, 3), np.uint8)
    )
    assert tokens.grid == (9, 16) and sam.shown == [(64, 64, 3)] * 2
    whole = segmenter_with({"halves": True})
    other = picture()
    other[:, :, 120:] = 0  # far from the windows of the left half's left edge
    one, two = (tokens_of(whole, p).patches[0].unflatten(0, (22, 22)) for p in (picture(), other))
    assert one.shape == two.shape and relative_error(one[:, 12:], two[:, 12:]) > 1e-2


def test_labels_come_at_the_photographs_size(segmenter_with):
    more = {"windows": {"short_side": 176, "crop": 112, "stride": 64, "multiple": 16}}
    segmenter = segmenter_with({}, more=more)
    result = segmenter(
        np.kron(np.eye(9, 11), np.ones((10, 10)))[..., None].repeat(3, 2).astype(np.uint8) * 200,
        ["cat", "dog"],
    )
    assert result.mask.shape == (90, 110)


def test_other_patches_are_resized_to_a_multiple_of_clips(segmenter_with, guide, monkeypatch):
    """A guide with 9 patches where CLIP has 7: the splice lies on CLIP's own patches."""
    features = torch.randn(4, 16, 9, 9, generator=torch.Generator().manual_seed(0))
    segmenter = segmenter_with({"mixer": "none"})
    monkeypatch.setattr(
        "ovsslib.stages.contexts.PictureContext.guide_features", lambda self, kind: features
    )
    assert tokens_of(segmenter).grid == (11, 11)


# -- refusals ----------------------------------------------------------------------------------------------------


def test_what_cannot_work_is_refused(tiny_backbone, guide, monkeypatch):
    for other in ("rcs", "gem", "proxy_attention", "stitch", "image_engineering"):
        with pytest.raises(RecipeError, match="cannot work"):
            Recipe("x").but({"spliced_attention": True, other: True})
    for values in ({"beta": 0.0}, {"factor": -1.0}, {"kind": "first"}):
        with pytest.raises(RecipeError, match="spliced_attention"):
            SplicedAttentionSettings(**values)
    inert = Recipe("x").but({"spliced_attention": {"mixer": "none", "sam": "x", "factor": 2.0}})
    assert set(inert.inert()) == {"spliced_attention.sam", "spliced_attention.factor"}
    monkeypatch.setattr(Segmenter, "_guide", lambda self: guide)
    recipe = Recipe("x").but({"spliced_attention": {"mixer": "sam", "sam": "/nowhere/sam"}})
    with pytest.raises(ModelError, match="/nowhere/sam"):
        Segmenter(tiny_backbone, recipe)


def test_pictures_for_sam_are_stretched_to_multiples_of_16():
    image = np.random.default_rng(0).integers(0, 256, (33, 48, 3), np.uint8)
    assert stretched(image).shape == (48, 48, 3)
    assert stretched(image[:32]) is not None and stretched(image[:32]).shape == (32, 48, 3)
