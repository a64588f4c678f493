"""PAMR: against the released code's outputs, and the promises on batch, size, memory, and type."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ovsslib.errors import RecipeError
from ovsslib.stages.pamr import PAMR
from ovsslib.stages.pixel_adaptive import Refinement, pamr, pamr_affinity

VECTORS = Path(__file__).parents[1] / "vectors"


@pytest.mark.parametrize(
    ("name", "iterations", "dilations"),
    [
        ("out_d1_2_it10", 10, (1, 2)),
        ("out_d8_16_it10", 10, (8, 16)),
        ("out_d1_2_4_8_12_24_it3", 3, (1, 2, 4, 8, 12, 24)),
    ],
)
def test_equals_the_released_code(name, iterations, dilations):
    vector = {key: torch.from_numpy(value) for key, value in np.load(VECTORS / "pamr.npz").items()}
    ours = pamr(vector["x"], vector["mask"], iterations, dilations)
    assert (ours - vector[name]).abs().max() < 1e-6


def test_affinity_by_the_formula_at_one_pixel():
    torch.manual_seed(0)
    image = torch.randn(3, 9, 11, dtype=torch.float64)
    row, column = 4, 6
    near = [(r, c) for r in (3, 4, 5) for c in (5, 6, 7) if (r, c) != (row, column)]
    neighbours = torch.stack([image[:, r, c] for r, c in near])
    centre = image[:, row, column]
    sigma = torch.cat([neighbours, centre[None]]).std(0)
    kappa = -((neighbours - centre).abs() / (1e-8 + 0.1 * sigma)).mean(1)
    ours = pamr_affinity(image, (1,))[:, row, column]
    torch.testing.assert_close(ours.double(), kappa.softmax(0), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(17, 23), (5, 40), (1, 9)])
def test_batch_chunk_and_odd_sizes_change_nothing(height, width):
    torch.manual_seed(1)
    images = torch.randn(7, 3, height, width)
    logits = torch.randn(7, 6, height, width)
    together = pamr(images, logits, 3, (2, 8))
    for item in range(7):
        alone = pamr(images[item : item + 1], logits[item : item + 1], 3, (2, 8))
        assert (alone[0] - together[item]).abs().max() < 1e-5
    for chunk in (1, 4, 5, 99):
        assert (pamr(images, logits, 3, (2, 8), chunk=chunk) - together).abs().max() < 1e-6


@pytest.mark.parametrize("queries", [11, 12, 21, 45])
def test_pixel_by_pixel_and_map_by_map_give_the_same_bits(queries):
    """How many words are asked for together decides which way is taken; no value may depend on it."""
    rng = torch.Generator().manual_seed(queries)
    image, logits = (
        torch.rand(1, 3, 30, 37, generator=rng),
        torch.rand(1, queries, 30, 37, generator=rng),
    )
    by_map = pamr(image, logits, 5, (2, 8), chunk=3)
    assert torch.equal(pamr(image, logits, 5, (2, 8)), by_map)
    assert torch.equal(pamr(image, logits, 5, (2, 8), chunk=queries), by_map)
    assert torch.equal(pamr(image, logits[:, :5], 5, (2, 8)), by_map[:, :5])


def test_strips_change_nothing(monkeypatch):
    torch.manual_seed(2)
    image, logits = torch.randn(1, 3, 30, 20), torch.randn(1, 5, 30, 20)
    whole = pamr(image, logits)
    monkeypatch.setattr(sys.modules["ovsslib.stages.pixel_adaptive"], "_STRIP_PIXELS", 60)
    assert (pamr(image, logits) - whole).abs().max() < 1e-6


@pytest.mark.parametrize("dilations", [(8, 16), (1, 2, 40)])
def test_many_queries_side_by_side_equal_few_map_by_map(dilations, monkeypatch):
    torch.manual_seed(3)
    image, logits = torch.randn(1, 3, 30, 20), torch.randn(1, 40, 30, 20)
    few = pamr(image, logits, 3, dilations, chunk=4)
    module = sys.modules["ovsslib.stages.pixel_adaptive"]
    refinement = Refinement(image[0], 3, dilations)
    assert [refinement.together(count) for count in (40, 12, 11, 1)] == [32, 12, 4, 1]
    assert (pamr(image, logits, 3, dilations) - few).abs().max() < 1e-6
    monkeypatch.setattr(module, "_STRIP_PIXELS", 70)
    assert (pamr(image, logits, 3, dilations) - few).abs().max() < 1e-6
    # a picture so large that fewer queries go together, down to map by map
    monkeypatch.setattr(module, "_BESIDE_VALUES", 15 * 600)
    assert [refinement.together(count) for count in (40, 12)] == [15, 12]
    assert (refinement(logits[0]) - few[0]).abs().max() < 1e-6
    monkeypatch.setattr(module, "_BESIDE_VALUES", 11 * 600)
    assert refinement.together(40) == 4


@pytest.mark.parametrize("queries", [5, 20])
def test_memory_layout_stays(queries):
    image = torch.randn(1, 3, 12, 20)
    logits = torch.randn(1, queries, 12, 20)
    beside = logits.contiguous(memory_format=torch.channels_last)
    refined = pamr(image, beside, 2)
    assert refined.stride() == beside.stride()
    assert torch.equal(refined, pamr(image, logits, 2))
    assert pamr(image, logits, 2).is_contiguous()


def test_other_size_is_resized_with_aligned_corners():
    image = torch.randn(1, 3, 12, 20)
    logits = torch.randn(1, 2, 4, 7)
    resized = torch.nn.functional.interpolate(logits, (12, 20), mode="bilinear", align_corners=True)
    torch.testing.assert_close(pamr(image, logits, 0), resized)
    torch.testing.assert_close(pamr(image, logits, 2), pamr(image, resized, 2))


def test_flat_image_averages_and_keeps_constants_and_the_range():
    flat = torch.full((1, 3, 8, 8), 0.3)
    assert torch.allclose(pamr_affinity(flat[0], (1,)), torch.tensor(1 / 8))
    constant = torch.full((1, 2, 8, 8), 4.0)
    torch.testing.assert_close(pamr(torch.randn(1, 3, 8, 8), constant), constant)
    logits = torch.rand(1, 4, 8, 8)
    refined = pamr(torch.randn(1, 3, 8, 8), logits)
    assert refined.min() >= logits.min() - 1e-6
    assert refined.max() <= logits.max() + 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    image, logits = torch.randn(1, 3, 10, 12), torch.randn(1, 3, 10, 12)
    ours = pamr(image.to(dtype), logits.to(dtype), 2)
    assert ours.dtype == dtype
    single = pamr(image.to(dtype).float(), logits.to(dtype).float(), 2)
    assert torch.equal(ours, single.to(dtype))


def test_stage_and_bad_input():
    image, logits = torch.randn(1, 3, 9, 9), torch.randn(1, 2, 9, 9)
    ours = PAMR(iterations=2, dilations=(1, 3)).on_logits(logits, SimpleNamespace(pixels=image))
    torch.testing.assert_close(ours, pamr(image, logits, 2, (1, 3)))
    assert not torch.equal(ours, logits)
    with pytest.raises(RecipeError, match="iterations is -1"):
        PAMR(iterations=-1)
    with pytest.raises(RecipeError, match="dilations is"):
        PAMR(dilations=())
    with pytest.raises(RecipeError, match="1 images for 2"):
        pamr(image, logits.expand(2, -1, -1, -1))
