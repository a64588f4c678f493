"""Inner functions of a segmenter: tensors of the wrong form are told, rows that are no unit rows are no cosines."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovsslib.errors import ImageError, WordsError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter


@pytest.fixture(scope="module")
def segmenter(tiny_backbone):
    return Segmenter(tiny_backbone, Recipe.named("sclip").but({"text.prompts": "single"}))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(3, 64, 64), r"not \(3, 64, 64\); make one with segmenter.prepare"),
        (torch.zeros(1, 1, 64, 64), r"\(B, 3, H, W\), not \(1, 1, 64, 64\)"),
        (np.zeros((1, 3, 64, 64), dtype=np.float32), "not ndarray"),
        (
            torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
            "CLIP-normalised fractions, not torch.uint8",
        ),
        (torch.full((1, 3, 64, 64), float("nan")), "not finite"),
    ],
)
def test_pixels(segmenter, pixels, message):
    rows = segmenter.text(["sky", "dog"]).features
    for call in (segmenter.features, lambda given: segmenter.logits(given, rows)):
        with pytest.raises(ImageError, match=message):
            call(pixels)


def test_rows_of_text(segmenter):
    pixels, dim = torch.randn(1, 3, 64, 64), segmenter.backbone.dim
    rows = torch.randn(2, dim, generator=torch.Generator().manual_seed(0))
    with pytest.raises(WordsError, match="row 0 .* cosines need unit rows; divide"):
        segmenter.logits(pixels, rows)
    logits = segmenter.logits(pixels, F.normalize(rows, dim=-1))  # the remedy
    assert logits.abs().max() <= 1 + 1e-5
    with pytest.raises(WordsError, match="row 0"):
        segmenter.logits(pixels, rows * float("nan"))
    with pytest.raises(WordsError, match=rf"\(Q, {dim}\) rows, not \(2, 7\)"):
        segmenter.logits(pixels, torch.zeros(2, 7))
