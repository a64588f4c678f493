"""Films: frames in order, and smoothing that calms noise."""

import itertools

import imageio.v3 as imageio
import numpy as np
import pytest
from PIL import Image

from ovsslib.errors import DataError, ImageError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.segmenter.video import read_frames, segment_frames

WORDS = ["cat", "dog", "grass"]


@pytest.fixture(scope="module")
def segmenter(tiny_backbone):
    recipe = Recipe.named("sclip").but({"windows.short_side": 64, "text.prompts": "single"})
    return Segmenter(tiny_backbone, recipe)


@pytest.fixture(scope="module")
def noisy():
    """Eight frames of one still scene under noise."""
    rng = np.random.default_rng(0)
    still = np.kron(rng.integers(60, 200, (4, 5, 3)), np.ones((16, 16, 1)))
    return [
        np.clip(still + rng.normal(0, 40, still.shape), 0, 255).astype(np.uint8) for _ in range(8)
    ]


def changes(segmenter, frames, smoothing):
    masks = [one.mask for one in segment_frames(segmenter, frames, WORDS, smoothing=smoothing)]
    return np.mean([(a != b).mean() for a, b in itertools.pairwise(masks)])


def test_without_smoothing_frames_are_pictures(segmenter, noisy):
    for frame, result in zip(noisy[:2], segment_frames(segmenter, noisy[:2], WORDS), strict=True):
        assert np.array_equal(result.mask, segmenter(frame, WORDS).mask)


def test_smoothing_calms_a_noisy_film(segmenter, noisy):
    plain, calm = changes(segmenter, noisy, 0.0), changes(segmenter, noisy, 0.8)
    assert plain > 0 and calm < 0.6 * plain


def test_frames_of_a_folder_and_of_a_film(noisy, tmp_path):
    for number, frame in enumerate(noisy):
        Image.fromarray(frame).save(tmp_path / f"{number:03}.png")
    assert all(np.array_equal(a, b) for a, b in zip(read_frames(tmp_path), noisy, strict=True))
    imageio.imwrite(tmp_path / "film.gif", np.stack(noisy))
    found = list(read_frames(tmp_path / "film.gif"))
    assert len(found) == 8 and found[0].shape == noisy[0].shape and found[0].dtype == np.uint8
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    with pytest.raises(DataError, match="cannot be read as a film"):
        list(read_frames(tmp_path / "bad.mp4"))


def test_bad_requests(segmenter, noisy):
    with pytest.raises(DataError, match=r"\[0, 1\)"):
        segment_frames(segmenter, noisy, WORDS, smoothing=1)
    with pytest.raises(ImageError, match="one size"):
        list(segment_frames(segmenter, [noisy[0], noisy[0][:64, :64]], WORDS, smoothing=0.5))
