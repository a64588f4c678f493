"""DenseCRF: against exact kernels, restriction to the labels that matter, bad input."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ovsslib.errors import DataError, ImageError, MissingPackageError, RecipeError
from ovsslib.stages.densecrf import CRFParameters, DenseCRF, densecrf, mean_field

# The package gives the function under the module's name, so the module is taken from the import
# system.
module = sys.modules["ovsslib.stages.densecrf"]
VECTORS = Path(__file__).parents[1] / "vectors"


def scene(words: int, height: int, width: int, scale: float = 100.0, seed: int = 0):
    """A photo of four bands and the probabilities of a patchy classifier: uint8 (H, W, 3), (C, H,
    W).
    """
    random = np.random.default_rng(seed)
    region = np.repeat(np.arange(4), -(-height // 4))[:height, None] * np.ones(width, int)
    photo = random.integers(0, 256, (4, 3))[region] + random.normal(0, 6, (height, width, 3))
    cosines = 0.2 + random.normal(0, 0.014, (words, -(-height // 8), -(-width // 8)))
    cosines = cosines.repeat(8, 1).repeat(8, 2)[:, :height, :width]
    cosines += 0.06 * (np.arange(words)[:, None, None] == 3 * region)
    probabilities = np.exp(scale * cosines)
    probabilities /= probabilities.sum(0)
    return photo.clip(0, 255).astype(np.uint8), probabilities.astype(np.float32)


@pytest.mark.parametrize(
    ("name", "parameters", "mean_difference"),
    [
        ("q_3_3_10_80_13_it10", "standard", 0.001),
        ("q_3_3_10_80_13_it1", CRFParameters(3, 3, 10, 80, 13, 1), 0.008),
        ("q_3_1_4_67_3_it10", "deeplab", 0.012),
    ],
)
def test_close_to_exact_kernels(name, parameters, mean_difference):
    # The lattice interpolates the Gaussians, so single pixels near a boundary may tip over, and the
    # error grows while probabilities are undecided (one iteration). The bounds on the mean tell a
    # wrong sign, weight, or colour width apart: doubling either weight or the colour width more
    # than doubles the difference after one iteration (0.014 to 0.048 instead of 0.005).
    vector = np.load(VECTORS / "densecrf_exact.npz")
    ours = densecrf(vector["image"], vector["probs"], parameters)
    assert np.abs(ours - vector[name]).mean() < mean_difference
    assert (ours.argmax(0) == vector[name].argmax(0)).mean() >= 0.98


def test_no_iterations_gives_the_clipped_probabilities():
    photo, probabilities = scene(5, 12, 17)
    ours = densecrf(photo, probabilities, CRFParameters(3, 3, 10, 80, 13, 0))
    clipped = probabilities.clip(1e-5, 1)
    np.testing.assert_allclose(ours, clipped / clipped.sum(0), atol=1e-6)


def test_attraction_of_one_is_the_potts_model():
    photo, probabilities = scene(6, 20, 24)
    library = pytest.importorskip("pydensecrf.densecrf")
    unary = -np.log(probabilities.clip(1e-5, 1))
    field = library.DenseCRF2D(24, 20, 6)
    field.setUnaryEnergy(np.ascontiguousarray(unary.reshape(6, -1)))
    field.addPairwiseGaussian(sxy=3, compat=3)
    field.addPairwiseBilateral(sxy=80, srgb=13, rgbim=photo, compat=10)
    reference = np.array(field.inference(10)).reshape(6, 20, 24)
    ours = mean_field(photo, unary, module.PARAMETER_SETS["standard"], np.ones(6))
    np.testing.assert_allclose(ours, reference, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(120, 160), (131, 187)])
def test_leaving_labels_out_keeps_the_pixels(height, width):
    photo, probabilities = scene(60, height, width)
    active = module.labels_that_matter(
        photo, probabilities, module.PARAMETER_SETS["standard"], 5e-4
    )
    assert {0, 3, 6, 9} <= set(active.tolist())
    assert len(active) < 20
    ours = densecrf(photo, probabilities)
    full = densecrf(photo, probabilities, tolerance=0)
    assert (ours.argmax(0) == full.argmax(0)).mean() >= 0.999
    np.testing.assert_allclose(ours.sum(0), 1, atol=1e-4)
    # It smooths: the patchy classifier's errors inside the bands are mended.
    assert len(np.unique(full.argmax(0))) == 4 < len(np.unique(probabilities.argmax(0)))


def test_flat_probabilities_keep_every_label():
    photo, probabilities = scene(40, 64, 64, scale=1.0)
    ours, full = densecrf(photo, probabilities), densecrf(photo, probabilities, tolerance=0)
    np.testing.assert_allclose(ours, full, atol=1e-5)


def test_scale_flattens_and_overrides_act():
    photo, probabilities = scene(5, 24, 32)
    half = densecrf(photo, probabilities, scale=0.5)
    mixed = densecrf(photo, 0.5 * probabilities + np.float32(0.1))
    np.testing.assert_allclose(half, mixed, atol=1e-6)
    settings = DenseCRF(parameters="deeplab", appearance_rgb=9.0, iterations=2)
    assert settings.resolved() == CRFParameters(3, 1, 4, 67, 9.0, 2)
    tensor = torch.from_numpy(probabilities).double()
    ours = settings.on_probabilities(tensor, SimpleNamespace(image=photo))
    assert ours.dtype == torch.float64
    expected = densecrf(photo, probabilities, CRFParameters(3, 1, 4, 67, 9.0, 2))
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-6)


def test_bad_input_is_named(monkeypatch):
    photo, probabilities = scene(5, 24, 32)
    with pytest.raises(ImageError, match=r"\(24, 32, 3\)"):
        densecrf(photo, probabilities[:, :20])
    with pytest.raises(ImageError, match="float64"):
        densecrf(photo / 255.0, probabilities)
    with pytest.raises(DataError, match="softmax"):
        densecrf(photo, probabilities - 0.5)
    for value in (np.nan, np.inf):
        with pytest.raises(DataError, match="finite"):
            densecrf(photo, np.where(probabilities > 0.5, value, probabilities))
    with pytest.raises(RecipeError, match="standard, deeplab"):
        DenseCRF(parameters="best")
    with pytest.raises(RecipeError, match="appearance_xy is 0"):
        DenseCRF(appearance_xy=0.0)
    with pytest.raises(RecipeError, match="scale is 2"):
        DenseCRF(scale=2.0)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    with pytest.raises(MissingPackageError, match=r"pip install 'ovsslib\[crf\]'"):
        densecrf(photo, probabilities)
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))  # the extra leaves it out there
    with pytest.raises(MissingPackageError, match="--no-build-isolation pydensecrf2"):
        densecrf(photo, probabilities)


def test_read_only_and_turned_pictures():
    """np.asarray(Image.open(...)), as people write it, cannot be written to."""
    photo, probabilities = scene(4, 40, 48)
    expected = densecrf(photo, probabilities)
    locked = photo.copy()
    locked.flags.writeable = False
    turned = np.array(photo[:, ::-1])[:, ::-1]
    for picture in (locked, turned, np.asfortranarray(photo)):
        assert np.array_equal(densecrf(picture, probabilities), expected)
