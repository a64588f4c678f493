"""CDAM's attention from class distributions against outputs recorded from its official code."""

import pytest
import torch
from conftest import relative_error, vectors
from torch.nn import functional as F

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages.class_distribution import (
    RELEASED_WORDS,
    ClassDistributionSettings,
    class_distribution_weights,
    jensen_shannon,
    likeness,
    resize_pairs,
)

CDAM = vectors("cdam")
SCALES = ClassDistributionSettings().scales
SIZES = ("64x128", "160x112")
# The recorded rows of text are complete, so the stage adds no words of its own.
RECIPE = Recipe.named("cdam").but(
    {"class_distribution_attention": {"words": ()}, "windows.crop": 0}
)


def picture_of(size, tiny_inputs):
    """The recorded pictures: a picture and its left-right mirror, side by side or one above the
    other.
    """
    if size == "64x128":
        one = tiny_inputs["image_64x64"]
        return torch.cat([one, one.flip(-1)], dim=-1)
    one = tiny_inputs["image_80x112"]
    return torch.cat([one, one.flip(-1)], dim=-2)


@pytest.mark.parametrize("size", SIZES)
def test_tokens_and_logits_agree_with_the_official_code(size, tiny_backbone, tiny_inputs):
    segmenter = Segmenter(tiny_backbone, RECIPE)
    pixels, text = picture_of(size, tiny_inputs), CDAM["text20"]
    tokens = segmenter.features(pixels, text, keep_cls=True)
    assert relative_error(tokens, CDAM[f"tokens__{size}"]) < 1e-4
    logits = segmenter.logits(pixels, text)[:, :6]
    low = CDAM[f"logits_low__{size}"]
    expected = F.interpolate(low, pixels.shape[-2:], mode="bilinear")
    assert relative_error(logits, expected) < 1e-4


@pytest.mark.parametrize("size", SIZES)
def test_each_step_agrees_with_the_official_code(size, tiny_backbone, tiny_inputs):
    plain = Segmenter(tiny_backbone, RECIPE.but(class_distribution_attention=False))
    features = F.normalize(plain.features(picture_of(size, tiny_inputs)), dim=-1)
    cosines = torch.einsum("bhwd,qd->bqhw", features, CDAM["text20"])
    assert relative_error(cosines, CDAM[f"first_cosines__{size}"]) < 1e-4
    single = class_distribution_weights(cosines[0], 0.1, 0.1)
    assert relative_error(single, CDAM[f"attention_single_scale__{size}"]) < 1e-4
    together = class_distribution_weights(cosines[0], 0.1, 0.1, SCALES)
    assert relative_error(F.pad(together, (1, 0, 1, 0)), CDAM[f"attention__{size}"]) < 1e-4


def test_sliding_windows_agree_with_the_official_code(tiny_backbone, tiny_inputs):
    recipe = RECIPE.but({"windows": {"crop": 128, "stride": 32}})
    pixels, text = picture_of("160x112", tiny_inputs), CDAM["text20_close"]
    logits = Segmenter(tiny_backbone, recipe).logits(pixels, text)[:, :6, ::2, ::2]
    assert relative_error(logits, CDAM["slide128_32_logits__160x112"]) < 1e-4


def divergence_by_hand(distributions):
    """Pair by pair in double precision."""
    p = distributions.T.double()
    out = torch.zeros(len(p), len(p), dtype=torch.float64)
    for i in range(len(p)):
        for j in range(len(p)):
            middle = (p[i] + p[j]) / 2
            out[i, j] = sum(
                (one * ((one + 1e-8).log() - (middle + 1e-8).log())).sum() / 2
                for one in (p[i], p[j])
            )
    return out


@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
def test_divergence_equals_a_sum_pair_by_pair(spread):
    """Also of nearly even distributions, whose divergences are close to what float32 can tell
    apart.
    """
    logits = spread * torch.randn(37, 23, generator=torch.Generator().manual_seed(0))
    distributions = logits.softmax(dim=0)
    ours, exact = jensen_shannon(distributions), divergence_by_hand(distributions)
    assert relative_error(ours, exact) < (5e-3 if spread == 0.01 else 1e-5)
    assert torch.equal(ours, ours.T)


def test_divergence_in_blocks_is_the_divergence_at_once(monkeypatch):
    distributions = torch.rand(11, 50, generator=torch.Generator().manual_seed(1)).softmax(dim=0)
    whole = jensen_shannon(distributions)
    monkeypatch.setattr("ovsslib.stages.class_distribution._BLOCK", 7 * 50 * 11)
    torch.testing.assert_close(jensen_shannon(distributions), whole, atol=1e-7, rtol=1e-6)


def test_rows_reach_from_0_to_1_and_peak_at_the_patch_itself():
    cosines = torch.rand(5, 6, 7, generator=torch.Generator().manual_seed(2))
    weights = class_distribution_weights(cosines, 0.1, 0.1)
    torch.testing.assert_close(weights.amin(dim=1), torch.zeros(42))
    torch.testing.assert_close(weights.amax(dim=1), torch.ones(42))
    assert torch.equal(weights.argmax(dim=1), torch.arange(42))
    assert not weights.sum(dim=1).allclose(torch.ones(42), atol=0.1)


def test_pairs_are_resized_along_columns_and_rows():
    matrix = torch.rand(6, 6, generator=torch.Generator().manual_seed(3))
    columns = F.interpolate(matrix.reshape(6, 1, 2, 3), (4, 5), mode="bilinear").flatten(1)
    rows = F.interpolate(columns.T.reshape(20, 1, 2, 3), (4, 5), mode="bilinear").flatten(1).T
    torch.testing.assert_close(resize_pairs(matrix, (2, 3), (4, 5)), rows)


def test_sharpness_leaves_the_nearest_only():
    divergence = torch.tensor([[0.0, 0.1, 0.5], [0.1, 0.0, 0.3], [0.5, 0.3, 0.0]])
    sharp = likeness(divergence, 1e-3)
    torch.testing.assert_close(sharp, torch.eye(3))
    assert likeness(divergence, 1.0)[0, 1] > 0.3


def test_scales_without_two_cells_are_left_out():
    cosines = torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(4))
    with_quarter = class_distribution_weights(cosines, 0.1, 0.1, (0.25, 0.5))
    torch.testing.assert_close(with_quarter, class_distribution_weights(cosines, 0.1, 0.1, (0.5,)))


def test_windows_of_a_batch_do_not_meet(tiny_backbone, tiny_inputs):
    one = tiny_inputs["image_80x112"]
    both = torch.cat([one, one.flip(-1)])
    segmenter = Segmenter(tiny_backbone, RECIPE)
    together = segmenter.features(both, CDAM["text20"])
    alone = torch.cat([segmenter.features(both[i : i + 1], CDAM["text20"]) for i in range(2)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-3)


def test_further_words_take_part_in_the_first_pass_only(tiny_backbone, tiny_inputs):
    """They change the attention and are no rows of the logits; without them the words do the same."""
    pixels, text = tiny_inputs["image_80x112"], tiny_inputs["text"]
    logits = {}
    for words in ((), ("metal", "wood"), "released"):
        recipe = RECIPE.but({"class_distribution_attention.words": words, "text.prompts": "single"})
        logits[words] = Segmenter(tiny_backbone, recipe).logits(pixels, text)
        assert logits[words].shape == (1, 6, 80, 112)
    assert relative_error(logits["metal", "wood"], logits[()]) > 1e-3
    assert relative_error(logits["released"], logits["metal", "wood"]) > 1e-3


@pytest.mark.parametrize("base", ["sclip", "clearclip", "pearl"])
def test_it_plugs_into_other_bases(base, tiny_backbone, tiny_inputs):
    recipe = Recipe.named(base).but(
        {"windows.crop": 0, "class_distribution_attention": {"words": ()}}
    )
    pixels, text = tiny_inputs["image_80x112"], tiny_inputs["text"]
    changed = Segmenter(tiny_backbone, recipe).features(pixels, text)
    plain = Segmenter(tiny_backbone, recipe.but(class_distribution_attention=False))
    assert relative_error(changed, plain.features(pixels, text)) > 1e-2


def test_text_is_needed(tiny_backbone, tiny_inputs):
    with pytest.raises(RecipeError, match="text_features"):
        Segmenter(tiny_backbone, RECIPE).features(tiny_inputs["image_64x64"])


def test_one_patch_is_refused(tiny_backbone, tiny_inputs):
    with pytest.raises(RecipeError, match="one patch"):
        Segmenter(tiny_backbone, RECIPE).features(
            tiny_inputs["image_64x64"][..., :16, :16], tiny_inputs["text"]
        )


def test_the_released_words_are_eighty_different_ones():
    assert len(set(RELEASED_WORDS)) == len(RELEASED_WORDS) == 80
    assert RELEASED_WORDS[:4] == ("black", "light blue", "blue", "dark blue")


@pytest.mark.parametrize(
    "values", [{"temperature": 0.0}, {"sharpness": -1.0}, {"scales": (0.5, 1.0)}]
)
def test_bad_values_are_refused(values):
    with pytest.raises(RecipeError, match=f"class_distribution_attention.{next(iter(values))}"):
        ClassDistributionSettings(**values)
