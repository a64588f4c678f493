"""GLA-CLIP on CLIP's own queries against the recorded outputs of its official code; memory, limits."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import relative_error, vectors

from ovsslib.clip.backbone import PIXEL_MEAN, PIXEL_STD
from ovsslib.errors import RecipeError
from ovsslib.images.pictures import normalise
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.segmenter.encoding import PictureInput, encode_pictures
from ovsslib.stages.global_attention import (
    Anchors,
    GlobalAttentionSettings,
    Normalisation,
    attend_to_all,
    global_weights,
    neighbour_mean,
    proxies,
)

RECORDED = vectors("gla-clip")
TOLERANCE = 1e-4
PART_1 = {"proxy": False, "smoothing": False, "token_norm": False}
FULL = {"beta": 1.2}
CLEAR = {
    "clear_kv__168x168": PART_1,
    "clear_full__168x168": FULL,
    "clear_full_crit0.97__168x168": {**FULL, "criterion": 0.97},
}


def big_picture() -> torch.Tensor:
    # as recorded: bytes over 255, less CLIP's mean, over its deviation
    pixels = RECORDED["image_u8__168x168"].permute(2, 0, 1) / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (PIXEL_MEAN, PIXEL_STD))
    return (pixels - mean) / std


def windows_tokens(backbone, pixels, changes) -> torch.Tensor:
    """(windows, S, 24) tokens that a recipe gives for windows of 112 every 56 pixels."""
    recipe = Recipe("gla").but({"windows": {"crop": 112, "stride": 56}, **changes})
    segmenter = Segmenter(backbone, recipe)
    encoded = encode_pictures([segmenter], PictureInput(pixels), [None])[0]
    with torch.no_grad():
        return encoded.tokens(None).patches


PROXY = {
    "proxy_kv__80x112": PART_1,
    "proxy_full__80x112": {"smoothing": False},
    "proxy_full_crit0.8_iters1__80x112": {"smoothing": False, "criterion": 0.8, "rounds": 1},
    "proxy_full_smoothing__80x112": {"smoothing": True},
    "proxy_full__168x168": {"smoothing": False},
}


@pytest.fixture
def guided(second_models, tiny_backbone):
    """Function (changes) -> Segmenter with the tiny guide in the place of the one that the recipe names."""

    def make(stage, windows):
        recipe = Recipe("gla").but(
            {"windows": windows, "global_attention": {"base": "guide", **stage}}
        )
        return Segmenter(tiny_backbone, recipe)

    return make


@pytest.mark.parametrize("key", sorted(PROXY))
def test_tokens_with_a_guide_agree_with_the_official_code(key, guided, tiny_inputs):
    small = key.endswith("80x112")
    pixels = tiny_inputs["image_80x112"][0] if small else big_picture()
    segmenter = guided(PROXY[key], {"crop": 56 if small else 112, "stride": 28 if small else 56})
    encoded = encode_pictures([segmenter], PictureInput(pixels), [None])[0]
    with torch.no_grad():
        tokens = encoded.tokens(None)
    assert tokens.grid == ((7, 7) if small else (14, 14))
    assert relative_error(tokens.patches, RECORDED[f"tokens__{key}"]) < TOLERANCE


def test_logits_counts_and_weights_with_a_guide_agree(guided, tiny_guide, tiny_inputs):
    pixels = tiny_inputs["image_80x112"]
    segmenter = guided({"smoothing": False}, {"crop": 56, "stride": 28})
    logits = segmenter.logits(pixels, tiny_inputs["text"])
    assert relative_error(logits, RECORDED["logits__proxy_full__80x112"]) < TOLERANCE
    crops = segmenter.windows.boxes(80, 112).crops(pixels[0])
    features = tiny_guide.features(tiny_guide.from_clip(crops))
    features = F.normalize(features, dim=1).flatten(2).transpose(1, 2)
    keys = features.flatten(0, 1)
    found = [
        proxies(one, keys, slice(49 * i, 49 * i + 49), Anchors()) for i, one in enumerate(features)
    ]
    counts = torch.stack([count for _, count in found])
    assert torch.equal(counts, RECORDED["count__proxy_full__80x112"])
    weights = global_weights(*found[0][:1], keys, found[0][1], 6, Normalisation(), None)
    assert relative_error(weights, RECORDED["weights__proxy_full__80x112_window0"]) < TOLERANCE


@pytest.mark.parametrize("key", sorted(CLEAR))
def test_tokens_of_all_windows_agree_with_the_official_code(key, tiny_backbone):
    tokens = windows_tokens(tiny_backbone, big_picture(), {"global_attention": CLEAR[key]})
    assert relative_error(tokens, RECORDED[f"tokens__{key}"]) < TOLERANCE


def test_stitched_logits_agree_with_the_official_code(tiny_backbone, tiny_inputs):
    changes = {"global_attention": CLEAR["clear_full_crit0.97__168x168"]}
    recipe = Recipe("gla").but({"windows": {"crop": 112, "stride": 56}, **changes})
    logits = Segmenter(tiny_backbone, recipe).logits(big_picture()[None], tiny_inputs["text"])
    assert relative_error(logits, RECORDED["logits__clear_full_crit0.97__168x168"]) < TOLERANCE


def test_without_the_extension_it_is_clearclip(tiny_backbone):
    recipe = Recipe("clear").but(
        attention={"terms": "qq", "residual": False, "feed_forward": False}
    )
    segmenter = Segmenter(tiny_backbone, recipe)
    crops = recipe.but({"windows": {"crop": 112, "stride": 56}})["windows"].boxes(168, 168)
    features = segmenter.features(crops.crops(big_picture())).flatten(1, 2)
    assert relative_error(features, RECORDED["tokens__clear_nokv__168x168"]) < TOLERANCE


def test_numbers_of_similar_keys_agree(tiny_backbone):
    crops = torch.stack(
        [big_picture()[:, t : t + 112, le : le + 112] for t in (0, 56) for le in (0, 56)]
    )
    q = tiny_backbone.trunk(crops, {11}).taps[11].q[:, :, 1:].transpose(1, 2).flatten(2)
    corners = [(t, le) for t in (0, 56) for le in (0, 56)]
    start = neighbour_mean(q, (7, 7), corners, (16, 16), itself=True)
    how = Normalisation(beta=1.2)
    _, count = attend_to_all(start, F.normalize(q, dim=-1), q, Anchors(criterion=0.97), how)
    assert torch.equal(count, RECORDED["count__clear_full_crit0.97__168x168"])


@pytest.mark.parametrize("itself", [True, False])
def test_neighbours_are_those_of_the_definition(itself):
    """Two windows of 3 x 2 patches of 8 pixels, the second 8 pixels to the right of the first."""
    values = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    corners, grid = [(0, 0), (0, 8)], (3, 2)
    ours = neighbour_mean(values, grid, corners, (8, 8), itself)
    places = [
        (window, row, column, top + 8 * row, left + 8 * column)
        for window, (top, left) in enumerate(corners)
        for row in range(3)
        for column in range(2)
    ]
    flat = values.flatten(0, 1)
    for index, (window, row, column, y, x) in enumerate(places):
        near = [
            other
            for other, (w, r, c, oy, ox) in enumerate(places)
            if (w == window and max(abs(r - row), abs(c - column)) <= 1) or (oy, ox) == (y, x)
        ]
        if not itself:
            near.remove(index)
        torch.testing.assert_close(ours.flatten(0, 1)[index], flat[near].mean(0))


def test_a_token_without_neighbours_starts_from_zero():
    values = torch.ones(1, 1, 4)
    assert not neighbour_mean(values, (1, 1), [(0, 0)], (16, 16), itself=False).any()
    assert torch.equal(neighbour_mean(values, (1, 1), [(0, 0)], (16, 16), itself=True), values)


def test_rounds_of_zero_count_what_the_start_matches_and_a_lonely_query_matches_itself():
    keys = F.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), dim=-1)
    queries, count = proxies(keys[2:4], keys, slice(2, 4), Anchors(criterion=0.3, rounds=0))
    assert torch.equal(queries, keys[2:4])
    assert count[:, 0].tolist() == (keys[2:4] @ keys.T > 0.3).sum(1).tolist()
    _, count = proxies(-keys[2:4], keys, slice(2, 4), Anchors(criterion=0.9999, rounds=0))
    assert count[:, 0].tolist() == [1, 1]


def test_the_result_of_a_window_depends_on_the_other_windows(tiny_backbone):
    pixels = big_picture()
    other = pixels.clone()
    other[:, 112:] = 0
    changes = {"global_attention": FULL}
    ours, theirs = (windows_tokens(tiny_backbone, p, changes)[0] for p in (pixels, other))
    assert relative_error(ours, theirs) > 1e-3


def test_memory_grows_with_the_rows_of_a_window_only():
    """16 windows of 64 patches: no intermediate is larger than a window's rows against all keys."""
    generator = torch.Generator().manual_seed(0)
    start, values = (torch.randn(16, 64, 8, generator=generator) for _ in range(2))
    keys = F.normalize(start, dim=-1)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    with Watch():
        attend_to_all(start, keys, values, Anchors(), Normalisation())
    assert largest <= 64 * 16 * 64


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_gives_finite_tokens(precision):
    from conftest import TINY_CONFIG

    from ovsslib.clip.backbone import Backbone
    from ovsslib.clip.loading import build_model

    torch.manual_seed(0)
    backbone = Backbone(build_model(TINY_CONFIG), name="tiny", precision=precision)
    tokens = windows_tokens(backbone, big_picture(), {"global_attention": FULL})
    assert tokens.dtype == torch.float32 and torch.isfinite(tokens).all()


def test_a_narrow_picture_has_its_patches_in_order(tiny_backbone):
    """Grids that are not square: a patch of the left half sees the same as in the picture turned round."""
    rng = np.random.default_rng(0)
    pixels = normalise(rng.integers(0, 256, (80, 112, 3), dtype=np.uint8))
    segmenter = Segmenter(
        tiny_backbone,
        Recipe("gla").but({"global_attention": {**PART_1, "proxy": False}}),
    )
    features = segmenter.features(pixels[None])
    assert features.shape == (1, 5, 7, 24)
    trunk = tiny_backbone.trunk(pixels[None], {11})
    tap = trunk.taps[11]
    keys = F.normalize(tap.q[0, :, 1:].transpose(0, 1).flatten(1), dim=-1)
    scores = keys @ keys.T
    scores = (scores - scores.mean() * 1.2) * 3
    weights = scores.masked_fill(scores < 0, -torch.inf).softmax(-1)
    mixed = weights @ tap.v[0, :, 1:].transpose(0, 1).flatten(1)
    expected = tiny_backbone.head(tiny_backbone.blocks[11].attn.out_proj(mixed))
    assert relative_error(features.flatten(1, 2)[0], expected) < 1e-5


@pytest.mark.parametrize(
    "values",
    [{"rounds": -1}, {"criterion": 1.0}, {"criterion": -1.5}, {"beta": 0.0}, {"gamma": -1.0}],
)
def test_bad_values_are_refused(values):
    with pytest.raises(RecipeError, match="global_attention"):
        GlobalAttentionSettings(**values)


@pytest.mark.parametrize("other", ["rcs", "sfr", "gem", "local_mask", "middle_layers"])
def test_stages_that_would_never_be_asked_are_refused(other):
    with pytest.raises(RecipeError, match="cannot work"):
        Recipe("x").but({"global_attention": True, other: True})


def test_fields_without_effect_are_told():
    inert = (
        Recipe("x")
        .but(
            {"global_attention": {"proxy": False, "gamma": 3.0, "rounds": 5, "guide": "dino-vitb8"}}
        )
        .inert()
    )
    assert set(inert) == {"global_attention.rounds", "global_attention.guide"}
    assert GlobalAttentionSettings().guide_name() is None
    assert GlobalAttentionSettings(base="guide", guide="some").guide_name() == "some"


def test_settings_of_an_attention_that_is_not_used_are_told():
    inert = Recipe("x").but({"attention.terms": "kk", "global_attention": True}).inert()
    assert "attention.terms" in inert
