"""Films: frames in order, and smoothing that calms noise."""

import itertools

import imageio.v3 as imageio
import numpy as np
import pytest
from PIL import Image

from ovsslib.errors import DataError, ImageError
from ovsslib.images.pictures import read_picture
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


def test_numbered_frames_come_by_their_numbers(tmp_path):
    """As text "frame10" stands before "frame2"; smoothing would go back and forth in time."""
    (tmp_path / "take2").mkdir()
    for number in (1, 2, 9, 10, 11, 100):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"frame{number}.png")
    Image.new("RGB", (8, 8), (200, 0, 0)).save(tmp_path / "take2" / "frame3.png")
    assert [frame[0, 0, 0] for frame in read_frames(tmp_path)] == [1, 2, 9, 10, 11, 100, 200]


@pytest.mark.parametrize("mode", ["LA", "RGBA", "CMYK", "L", "P"])
def test_frames_of_a_file_are_read_as_pictures_are(mode, tmp_path):
    rng = np.random.default_rng(0)
    bands = len(mode) if mode not in ("P",) else 1
    shape = (12, 16, bands) if bands > 1 else (12, 16)
    frames = [Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode) for _ in range(3)]
    frames[0].save(tmp_path / "film.tif", save_all=True, append_images=frames[1:])
    found = list(read_frames(tmp_path / "film.tif"))
    assert len(found) == 3
    for one, frame in zip(found, frames, strict=True):
        assert np.array_equal(one, read_picture(frame))


def test_deep_frames_keep_their_high_byte(tmp_path):
    samples = (np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16)
    pages = [Image.fromarray(samples), Image.fromarray(65535 - samples)]
    pages[0].save(tmp_path / "film.tif", save_all=True, append_images=pages[1:])
    found = [frame[..., 0] for frame in read_frames(tmp_path / "film.tif")]
    assert np.array_equal(found[0], samples >> 8) and np.array_equal(found[1], 255 - found[0])


def test_clear_frames_are_white(tmp_path):
    frames = [Image.new("RGBA", (8, 8), (0, 0, 0, 0)) for _ in range(2)]
    frames[1].putpixel((0, 0), (255, 0, 0, 255))
    frames[0].save(tmp_path / "film.png", save_all=True, append_images=frames[1:])
    first, second = read_frames(tmp_path / "film.png")
    assert (first == 255).all() and second[0, 0].tolist() == [255, 0, 0]
