"""The views of image engineering shown as pictures."""

import numpy as np
import pytest
import torch

from ovsslib.book.figures.views import as_picture, view_pictures
from ovsslib.errors import RecipeError
from ovsslib.images.pictures import normalise
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter


def test_normalised_pixels_come_back():
    image = np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    assert np.array_equal(as_picture(normalise(image)), image)
    assert as_picture(torch.full((3, 2, 2), 99.0)).min() == 255


def test_every_view_is_shown_and_flips_are_flips(tiny_backbone):
    image = np.random.default_rng(1).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    recipe = Recipe.named("itaclip").but({"windows.short_side": 64})
    shown = view_pictures(Segmenter(tiny_backbone, recipe), image)
    assert list(shown) == ["original", "grayscale", "blur", "vertical flip", "horizontal flip"]
    assert np.array_equal(shown["horizontal flip"], shown["original"][:, ::-1])
    assert np.array_equal(shown["vertical flip"], shown["original"][::-1])
    with pytest.raises(RecipeError, match="no views"):
        view_pictures(Segmenter(tiny_backbone, recipe.but(image_engineering=False)), image)
