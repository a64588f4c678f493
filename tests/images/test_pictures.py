"""Reading, resizing and normalising pictures."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from ovsslib.errors import ImageError
from ovsslib.images import pictures
from ovsslib.images.pictures import normalise, read_picture, resize_picture, scaled_size


@pytest.fixture
def colours() -> np.ndarray:
    """A smooth (40, 60, 3) picture, each channel different."""
    y, x = np.mgrid[0:40, 0:60]
    return np.stack([x * 4, y * 6, (x + y) * 2], axis=2).astype(np.uint8)


def reference_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """OpenCV's scheme written out: half-pixel centres, 11-bit weights, no antialiasing."""

    def taps(size: int, target: int):
        position = (np.arange(target) + 0.5) * (size / target) - 0.5
        low = np.floor(position).astype(int)
        weight = np.where((low < 0) | (low >= size - 1), 0, position - low)
        low = np.clip(low, 0, size - 1)
        high = np.rint(weight * 2048).astype(np.int64)
        return low, np.minimum(low + 1, size - 1), 2048 - high, high

    y0, y1, v0, v1 = taps(image.shape[0], height)
    x0, x1, w0, w1 = taps(image.shape[1], width)
    wide = image.astype(np.int64)
    rows = wide[:, x0] * w0[None, :, None] + wide[:, x1] * w1[None, :, None]
    full = rows[y0] * v0[:, None, None] + rows[y1] * v1[:, None, None]
    return ((full + (1 << 21)) >> 22).astype(np.uint8)


def test_png_is_read_exactly_from_path_image_and_array(tmp_path, colours):
    path = tmp_path / "a.png"
    Image.fromarray(colours).save(path)
    for source in (path, str(path), Image.fromarray(colours), colours):
        picture = read_picture(source)
        assert picture.dtype == np.uint8 and np.array_equal(picture, colours)
    assert read_picture(path).flags.writeable


@pytest.mark.parametrize("quality,subsampling", [(95, 0), (75, 2), (90, 1)])
def test_jpeg_equals_opencvs_reader(tmp_path, quality, subsampling):
    noise = np.random.default_rng(0).integers(0, 256, (67, 91, 3), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (9, 9), 3)
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth).save(path, quality=quality, subsampling=subsampling)
    expected = cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.array_equal(read_picture(path), expected)


@pytest.mark.parametrize("mode", ["L", "1", "LA", "RGBA", "P", "CMYK", "YCbCr", "HSV"])
def test_other_modes_become_rgb(tmp_path, colours, mode):
    image = Image.fromarray(colours).convert(mode)
    picture = read_picture(image)
    assert picture.shape == (40, 60, 3) and picture.dtype == np.uint8
    grey = {"L", "1", "LA"}
    tolerance = {"1": 255, "P": 60, "HSV": 12}.get(mode, 3)
    if mode in grey:
        expected = np.asarray(Image.fromarray(colours).convert("L"))[..., None]
        assert (picture[..., 0] == picture[..., 1]).all()
    else:
        expected = colours
    assert np.abs(picture.astype(int) - expected.astype(int)).max() <= tolerance


def test_cmyk_jpeg(tmp_path, colours):
    path = tmp_path / "cmyk.jpg"
    Image.fromarray(colours).convert("CMYK").save(path, quality=100)
    assert np.abs(read_picture(path).astype(int) - colours.astype(int)).mean() < 4


def test_palette_file_gives_colours_not_indices(tmp_path):
    image = Image.new("P", (2, 2))
    image.putdata([0, 1, 2, 1])
    image.putpalette([10, 20, 30, 200, 100, 50, 7, 8, 9])
    image.save(tmp_path / "p.png")
    expected = [[[10, 20, 30], [200, 100, 50]], [[7, 8, 9], [200, 100, 50]]]
    assert read_picture(tmp_path / "p.png").tolist() == expected


def test_transparency_is_laid_over_white(tmp_path):
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0] = [[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 128]]
    Image.fromarray(rgba).save(tmp_path / "t.png")
    picture = read_picture(tmp_path / "t.png")
    assert picture[0, 0].tolist() == [255, 0, 0]
    assert picture[0, 1].tolist() == [255, 255, 255]
    assert picture[0, 2].tolist() == [127, 127, 127]


def test_sixteen_bit_grey_keeps_the_high_byte(tmp_path):
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert read_picture(tmp_path / "deep.png")[0, :, 1].tolist() == [0, 0, 1, 128, 255]


def test_sixteen_bit_colour(tmp_path):
    values = np.random.default_rng(1).integers(0, 65536, (5, 6, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), values[..., ::-1])
    assert np.array_equal(read_picture(tmp_path / "deep.png"), (values >> 8).astype(np.uint8))


def test_float_samples_are_refused(tmp_path):
    Image.fromarray(np.ones((3, 3), dtype=np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(ImageError, match="f.tiff.*float32"):
        read_picture(tmp_path / "f.tiff")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_opencv_does(tmp_path, colours, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    Image.fromarray(colours).save(path, quality=95, exif=exif)
    picture = read_picture(path)
    assert picture.shape[:2] == ((40, 60) if orientation < 5 else (60, 40))
    assert np.array_equal(picture, cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1])


def test_one_pixel(tmp_path):
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "one.png")
    picture = read_picture(tmp_path / "one.png")
    assert picture.shape == (1, 1, 3)
    assert resize_picture(picture, 336).shape == (336, 336, 3)
    assert (resize_picture(picture, 336) == [1, 2, 3]).all()


def test_animation_gives_its_first_frame(tmp_path):
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert read_picture(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("part", [0.05, 0.5, 0.9])
def test_cut_off_files(tmp_path, suffix, part):
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ImageError, match=f"cut{suffix}"):
        read_picture(path)


def test_missing_empty_folder_and_text(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not a picture")
    cases = {
        "nowhere.jpg": "does not exist",
        "empty.jpg": "0 bytes",
        "text.jpg": "cannot be read",
        ".": "is a folder",
    }
    for name, reason in cases.items():
        with pytest.raises(ImageError, match=reason) as caught:
            read_picture(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("text", ["a" * 5000, "nul\0byte.png"])
def test_texts_that_cannot_be_paths(text):
    with pytest.raises(ImageError, match="cannot be read|does not exist"):
        read_picture(text)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_wrong_arrays_are_refused(array):
    for function in (read_picture, resize_picture, normalise):
        with pytest.raises(ImageError):
            function(array)


def test_wrong_type_is_refused():
    with pytest.raises(ImageError, match="int"):
        read_picture(7)


def test_large_picture_is_read_and_pillows_limit_restored(tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (12000, 12000)).save(path)
    limit = Image.MAX_IMAGE_PIXELS
    picture = read_picture(path)
    assert picture.shape == (12000, 12000, 3)
    assert resize_picture(picture, 336).shape == (336, 336, 3)
    assert Image.MAX_IMAGE_PIXELS == limit


def test_too_large_picture_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.new("1", (20000, 20000)).save(path)
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match="bomb.png has 20000 x 20000 pixels"):
        read_picture(path)
    assert Image.MAX_IMAGE_PIXELS == limit
    monkeypatch.setattr(pictures, "MAX_PIXELS", 15)
    with pytest.raises(ImageError, match="4 x 4"):
        read_picture(Image.new("RGB", (4, 4)))


@pytest.mark.parametrize(
    "size,short,expected",
    [
        ((375, 500), 336, (336, 448)),
        ((500, 375), 336, (448, 336)),
        ((480, 640), 448, (448, 597)),
        ((1024, 2048), 560, (560, 1120)),
        ((100, 1000), 336, (205, 2048)),  # the cap: 6.1 : 1 is the limit at 336
        ((224, 298), 224, (224, 298)),
        ((1, 5000), 336, (1, 2048)),
    ],
)
def test_scaled_size(size, short, expected):
    assert scaled_size(*size, short) == expected


def test_scaled_size_refuses_nothing_left():
    with pytest.raises(ImageError, match="at least 1"):
        scaled_size(10, 10, 0)


@pytest.mark.parametrize("size", [(375, 500), (100, 133), (336, 448), (512, 333), (700, 900)])
def test_resize_matches_the_written_out_scheme(size):
    image = np.random.default_rng(2).integers(0, 256, (*size, 3), dtype=np.uint8)
    resized = resize_picture(image, 336)
    expected = reference_bilinear(image, *resized.shape[:2])
    # One grey level: some processors' vector units round the intermediate sum differently.
    assert np.abs(resized.astype(int) - expected.astype(int)).max() <= 1


def test_normalise_is_the_published_arithmetic(colours):
    pixels = normalise(colours)
    assert pixels.shape == (3, 40, 60) and pixels.dtype == torch.float32
    expected = (colours.astype(np.float64) - [122.771, 116.746, 104.094]) / [68.501, 66.632, 70.323]
    assert np.abs(pixels.numpy() - expected.transpose(2, 0, 1)).max() < 1e-6
    clip_mean = np.array([0.48145466, 0.4578275, 0.40821073])
    clip_std = np.array([0.26862954, 0.26130258, 0.27577711])
    open_clip = (colours / 255 - clip_mean) / clip_std
    assert np.abs(pixels.numpy() - open_clip.transpose(2, 0, 1)).max() < 2e-5
