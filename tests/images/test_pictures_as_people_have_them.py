"""Pictures as people have them: deep samples, home folders, addresses, kinds that need a plug-in."""

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
