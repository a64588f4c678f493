"""Image engineering: views and merged logits against the released code; subsets, batch, bad
input.
"""

import pytest
import torch
from conftest import relative_error, vectors
from torch.nn import functional as F

from ovsslib.errors import ImageError, RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages.image_engineering import VIEWS, ImageEngineering, gaussian_blur, grayscale

SIZES = {"64": "image_64x64", "80x112": "image_80x112"}


@pytest.mark.parametrize("size", SIZES)
def test_views_equal_the_released_code(size, tiny_inputs):
    recorded = vectors("itaclip_image_engineering")
    pixels = tiny_inputs[SIZES[size]]
    assert relative_error(grayscale(pixels)[0, :1], recorded[f"gray__{size}"]) < 1e-5
    assert relative_error(gaussian_blur(pixels)[0], recorded[f"blur__{size}"]) < 1e-5
    views = ImageEngineering().views(pixels)
    assert len(views) == 5
    assert torch.equal(views[0], pixels)
    assert torch.equal(views[3], pixels.flip(2))
    assert torch.equal(views[4], pixels.flip(3))


@pytest.mark.parametrize("size", SIZES)
def test_merged_logits_equal_the_released_code(size, tiny_inputs, tiny_backbone):
    recipe = Recipe.named("itaclip").but({"image_engineering.weight": 0.7})
    segmenter = Segmenter(tiny_backbone, recipe)
    pixels, text = tiny_inputs[SIZES[size]], tiny_inputs["text"]
    maps = [
        F.normalize(segmenter.features(view), dim=-1).permute(0, 3, 1, 2)
        for view in recipe["image_engineering"].views(pixels)
    ]
    logits = recipe["image_engineering"].merge(maps, text)
    large = F.interpolate(logits, pixels.shape[-2:], mode="bilinear")
    expected = vectors("itaclip_image_engineering")[f"logits_g0.7__{size}"]
    assert relative_error(large, expected) < 1e-4


@pytest.mark.parametrize(
    "use", [VIEWS[:1], VIEWS[:2], VIEWS[3:], ("horizontal_flip", "original"), VIEWS]
)
def test_subsets_by_the_formula(use):
    settings = ImageEngineering(use=use, weight=0.6)
    torch.manual_seed(0)
    text = F.normalize(torch.randn(4, 8), dim=1)
    maps = {view: F.normalize(torch.randn(2, 8, 3, 5), dim=1) for view in use}

    def cosines(view):
        one = torch.einsum("qd,bdhw->bqhw", text, maps[view])
        return one.flip({"vertical_flip": 2, "horizontal_flip": 3}[view]) if "flip" in view else one

    in_place = [cosines(view) for view in use if "flip" not in view]
    flips = [cosines(view) for view in use if "flip" in view]
    g = 0.6 if in_place and flips else float(bool(in_place))
    expected = g * sum(in_place) / max(1, len(in_place)) + (1 - g) * sum(flips) / max(1, len(flips))
    ours = settings.merge([maps[view] for view in settings.use], text)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


def test_flips_are_undone_before_or_after_upsampling():
    small = torch.randn(1, 2, 3, 5)
    late = F.interpolate(small, (37, 50), mode="bilinear").flip(2, 3)
    early = F.interpolate(small.flip(2, 3), (37, 50), mode="bilinear")
    torch.testing.assert_close(late, early, atol=1e-5, rtol=1e-5)


def test_batch_and_odd_sizes_change_nothing():
    settings = ImageEngineering()
    torch.manual_seed(0)
    pixels = torch.randn(7, 3, 17, 31)
    together = settings.views(pixels)
    for item in range(7):
        alone = settings.views(pixels[item : item + 1])
        for one, many in zip(alone, together, strict=True):
            assert (one[0] - many[item]).abs().max() < 1e-5


def test_settings_are_checked_and_ordered():
    assert ImageEngineering(use=("blur", "original")).use == ("original", "blur")
    for wrong in ((), ("original", "original"), ("sepia",)):
        with pytest.raises(RecipeError, match="image_engineering.use"):
            ImageEngineering(use=wrong)
    with pytest.raises(RecipeError, match="weight is 1.5"):
        ImageEngineering(weight=1.5)
    with pytest.raises(RecipeError, match="odd"):
        ImageEngineering(blur_size=4)
    with pytest.raises(ImageError, match="too small"):
        gaussian_blur(torch.zeros(1, 3, 5, 40))
    with pytest.raises(RecipeError, match="2 feature maps for 5 views"):
        ImageEngineering().merge([torch.zeros(1, 2, 3, 3)] * 2, torch.zeros(1, 2))
    assert ImageEngineering(use=("original",)).inert(None)
    assert ImageEngineering().inert(None) is None
