"""Pictures as people have them: deep samples, home folders, addresses, kinds that need a plug-in."""

import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from ovsslib.errors import ImageError
from ovsslib.images.pictures import denormalise, normalise, read_picture


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_deep_grey_keeps_its_range(bits, tmp_path):
    ramp = np.linspace(0, 2**bits - 1, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    if bits < 16:
        with pytest.warns(UserWarning, match=f"read as {bits}-bit values"):
            picture = read_picture(tmp_path / "deep.png")
    else:
        picture = read_picture(tmp_path / "deep.png")
    assert np.array_equal(picture[..., 0], (ramp >> (bits - 8)).astype(np.uint8))
    assert picture.max() == 255


def test_home_folders_and_addresses(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (20, 20)).save(tmp_path / "photo.jpg")
    assert read_picture("~/photo.jpg").shape == (20, 20, 3)
    with pytest.raises(ImageError, match="is an address, not a file; download"):
        read_picture("https://example.org/photo.jpg")


def test_a_kind_that_needs_a_plug_in_is_named(tmp_path):
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    with pytest.raises(ImageError, match="HEIC file.*save it as JPEG or PNG"):
        read_picture(tmp_path / "phone.heic")


def test_denormalise_undoes_normalise():
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    assert np.array_equal(denormalise(normalise(picture)), picture)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_deep_colour_keeps_its_range(bits, ending, tmp_path):
    samples = np.random.default_rng(0).integers(0, 2**bits, (20, 30, 3)).astype(np.uint16)
    samples[0, 0] = 2**bits - 1
    file = tmp_path / f"deep.{ending}"
    cv2.imwrite(str(file), samples[..., ::-1])
    if bits < 16:
        with pytest.warns(UserWarning, match=f"deep.{ending} .* read as {bits}-bit values"):
            picture = read_picture(file)
    else:
        picture = read_picture(file)
    assert np.array_equal(picture, (samples >> (bits - 8)).astype(np.uint8))


def test_deep_colour_is_laid_over_white_where_it_is_transparent(tmp_path):
    samples = np.full((8, 8, 4), 4095, dtype=np.uint16)
    samples[..., :3], samples[..., 3] = 100, 65535
    samples[0, 0, :3], samples[:4, :, 3] = 4095, 0
    cv2.imwrite(str(tmp_path / "deep.png"), samples)
    with pytest.warns(UserWarning, match="12-bit"):
        picture = read_picture(tmp_path / "deep.png")
    assert (picture[:4] == 255).all() and (picture[4:] == 100 >> 4).all()


def test_deep_colour_is_turned_as_its_camera_was(tmp_path):
    samples = np.random.default_rng(0).integers(0, 4096, (20, 30, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), samples[..., ::-1])
    with Image.open(tmp_path / "deep.png") as image:
        exif = image.getexif()
        exif[0x0112] = 6
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    data = (tmp_path / "deep.png").read_bytes()
    entry = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "turned.png").write_bytes(data[:33] + entry + data[33:])  # behind the header
    with pytest.warns(UserWarning, match="12-bit"):
        picture = read_picture(tmp_path / "turned.png")
    assert np.array_equal(picture, np.rot90(samples >> 4, -1).astype(np.uint8))


def test_damage_that_pillow_finds_late_is_an_error_of_ours(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    with Image.open(tmp_path / "cut.jpg") as image, pytest.raises(ImageError, match="damaged"):
        read_picture(image)
    closed = Image.open(tmp_path / "whole.jpg")
    closed.close()
    with pytest.raises(ImageError, match="closed"):
        read_picture(closed)
    half_grey = Image.new("LA", (8, 8)).convert("La")
    with pytest.raises(ImageError, match="mode La.*image.convert"):
        read_picture(half_grey)


def test_a_pipe_is_not_called_a_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="is a pipe or a device.*save it to a file"):
        read_picture(tmp_path / "pipe.png")
