"""The thesis's local mask: rows keep their sums, the class token its column, half precision its numbers."""

from types import SimpleNamespace

import pytest
import torch

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages.local_mask import LocalMaskSettings

CONTEXT = SimpleNamespace(grid=(3, 4))


def test_mask_multiplies_patches_and_keeps_sums():
    weights = torch.rand(2, 3, 13, 13, generator=torch.Generator().manual_seed(0))
    out = LocalMaskSettings(std=1.5).on_weights(weights, CONTEXT)
    torch.testing.assert_close(out.sum(-1), weights.sum(-1))
    assert torch.equal(out[..., 0], weights[..., 0])
    torch.testing.assert_close(out[:, :, 0], weights[:, :, 0])
    gain = out[0, 0, 1, 1:] / weights[0, 0, 1, 1:]
    distance = torch.tensor([[y * y + x * x for x in range(4)] for y in range(3)]).flatten()
    torch.testing.assert_close(gain / gain[0], torch.exp(-distance / (2 * 1.5**2)))


def test_wide_mask_changes_nothing_and_narrow_mask_leaves_the_patch_itself():
    weights = torch.rand(1, 1, 13, 13, generator=torch.Generator().manual_seed(1))
    wide = LocalMaskSettings(std=1e4).on_weights(weights, CONTEXT)
    torch.testing.assert_close(wide, weights)
    narrow = LocalMaskSettings(std=0.1).on_weights(weights, CONTEXT)[0, 0, 1:, 1:]
    assert torch.equal(narrow.argmax(-1), torch.arange(12))
    torch.testing.assert_close(narrow.diagonal(), weights[0, 0, 1:, 1:].sum(-1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite_where_only_far_patches_are_seen(dtype):
    weights = torch.zeros(1, 1, 13, 13, dtype=dtype)
    weights[..., 12] = 1e-4  # every patch sees the last one only, 3 patches away at a mask of 1e-20
    out = LocalMaskSettings(std=0.3).on_weights(weights, CONTEXT)
    assert out.dtype == dtype
    assert torch.isfinite(out).all()


def test_it_changes_features_and_is_refused_where_it_cannot(tiny_backbone, tiny_inputs):
    pixels = tiny_inputs["image_80x112"]
    plain, masked = (
        Segmenter(tiny_backbone, Recipe("m").but(local_mask=on)).features(pixels)
        for on in (False, {"std": 1.0})
    )
    assert (plain - masked).abs().max() > 1e-3
    with pytest.raises(RecipeError, match="changes nothing"):
        Recipe("m").but({"attention.terms": "value", "local_mask": True})
    assert "local_mask" in Recipe("m").but(
        {"attention.terms": "value", "local_mask": True, "rcs": True}
    )
    with pytest.raises(RecipeError, match="local_mask.std"):
        LocalMaskSettings(std=0.0)
