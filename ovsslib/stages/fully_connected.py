"""DenseCRF: mean-field inference in a fully connected CRF over the photo's colours and positions.

Source: Kraehenbuehl & Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NIPS 2011. The filtering is pydensecrf's (permutohedral lattice, hence approximate).

With many words most labels win no pixel, yet each costs as much as a winner. The labels that matter
are found on a coarse copy of the photo; all others are joined into one label without attraction,
whose probability is shared out among them at the end. The coarse copy also tells how many pixels
that changes, so the choice keeps to a tolerance rather than to a fixed number of labels.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from torch import Tensor

from ovsslib.errors import DataError, ImageError, RecipeError, require


@dataclass(frozen=True)
class CRFParameters:
    """Weights (in log-probability) and widths (pixels, colour levels of 0..255) of the two kernels.

    - smoothness: `exp(-|p_i - p_j|^2 / 2 smoothness_xy^2)` times `smoothness_weight` (w2, theta_gamma);
    - appearance: `exp(-|p_i - p_j|^2 / 2 appearance_xy^2 - |I_i - I_j|^2 / 2 appearance_rgb^2)` times
      `appearance_weight` (w1, theta_alpha, theta_beta).
    """

    smoothness_weight: float
    smoothness_xy: float
    appearance_weight: float
    appearance_xy: float
    appearance_rgb: float
    iterations: int


PARAMETER_SETS: Mapping[str, CRFParameters] = {
    "standard": CRFParameters(3, 3, 10, 80, 13, 10),  # most open-vocabulary code and the thesis
    "deeplab": CRFParameters(3, 1, 4, 67, 3, 10),  # DeepLab, CLIP-ES, CaR
    "fma-wsss": CRFParameters(2, 2, 4, 65, 3, 10),  # FMA-WSSS's variant of DeepLab's
}

_FLOOR = 1e-5  # probabilities are clipped here before the logarithm, as in the released code
_FEW_LABELS = 12
_COARSE_PIXELS = 6144
_CANDIDATE_RATIO = 0.4
_GROWTH = 1.35


# pydensecrf2 1.1 asks for a Cython whose C++ Python 3.13 no longer compiles; with a newer one it builds.
_BY_HAND = (
    "pip install 'cython>=3' setuptools wheel && pip install --no-build-isolation pydensecrf2"
)


def _library() -> ModuleType:
    remedy = _BY_HAND if sys.version_info >= (3, 13) else ""
    return require("pydensecrf.densecrf", "crf", "DenseCRF (compiled from C++)", remedy)


def mean_field(
    image: np.ndarray, unary: np.ndarray, parameters: CRFParameters, attraction: np.ndarray
) -> np.ndarray:
    """Run pydensecrf.

    Args:
        image: (H, W, 3) uint8 RGB.
        unary: (C, H, W) float32 energies, -log of the probabilities.
        parameters: kernels and number of iterations.
        attraction: (C,) share of the pairwise weights that each label feels; 1 is the Potts model.

    Returns:
        (C, H, W) float32, sums to 1 over labels.
    """
    count, height, width = unary.shape
    field = _library().DenseCRF2D(width, height, count)
    field.setUnaryEnergy(np.ascontiguousarray(unary.reshape(count, -1), dtype=np.float32))
    # pydensecrf takes a vector of compatibilities as energies, so attraction is negative (a number
    # w is turned into -w by itself).
    vector = -np.ascontiguousarray(attraction, dtype=np.float32)
    field.addPairwiseGaussian(
        sxy=parameters.smoothness_xy, compat=np.float32(parameters.smoothness_weight) * vector
    )
    field.addPairwiseBilateral(
        sxy=parameters.appearance_xy,
        srgb=parameters.appearance_rgb,
        rgbim=np.require(image, requirements=["C", "W"]),  # np.asarray(PIL image) is read-only
        compat=np.float32(parameters.appearance_weight) * vector,
    )
    return np.array(field.inference(parameters.iterations), np.float32).reshape(
        count, height, width
    )


def _joined(
    image: np.ndarray, probabilities: np.ndarray, active: np.ndarray, parameters: CRFParameters
) -> tuple[np.ndarray, np.ndarray]:
    """Mean field over `active` labels (K,) and, joined into one more, the remainder.

    Returns the result (K + 1, H, W), and the remainder's probability that went in (H, W), both
    float32.
    """
    joined = np.empty((len(active) + 1, *probabilities.shape[1:]), np.float32)
    np.clip(probabilities[active], _FLOOR, 1, out=joined[:-1])
    # Label by label, so that a large input is never copied whole.
    remainder = np.full(joined.shape[1:], _FLOOR, np.float32)
    for label in np.setdiff1d(np.arange(len(probabilities)), active):
        remainder += np.clip(probabilities[label], _FLOOR, 1)
    joined[-1] = remainder
    attraction = np.ones(len(joined), np.float32)
    # Each of the many labels in the remainder would be drawn to its own small probability only; next
    # to that of the active ones this is nothing, whereas a joined label would be drawn to the sum
    # of all of them.
    attraction[-1] = 0
    return mean_field(image, -np.log(joined), parameters, attraction), remainder


def labels_that_matter(
    image: np.ndarray, probabilities: np.ndarray, parameters: CRFParameters, tolerance: float
) -> np.ndarray:
    """The labels that the CRF must hold apart so that few pixels change.

    Candidates reach 0.4 of the winner's probability somewhere. On a coarse copy of about 6000
    pixels (kernel widths scaled with it) the CRF runs over all candidates; they are ranked by the
    area they win, then by their peak. The shortest list whose own coarse run changes at most
    `tolerance` of the coarse pixels is taken.

    Args:
        image: (H, W, 3) uint8. probabilities: (C, H, W) float32.
        parameters: of the full-size run. tolerance: share of pixels, 0..1.

    Returns:
        (K,) int64 label indices, ascending.
    """
    count, height, width = probabilities.shape
    step = max(1, round((height * width / _COARSE_PIXELS) ** 0.5))
    # Medium strides keep every candidate that a region of a few pixels supports, at a fraction of
    # the cost.
    fine = max(1, step // 2)
    sample = np.maximum(probabilities[:, fine // 2 :: fine, fine // 2 :: fine], _FLOOR)
    strong = sample >= _CANDIDATE_RATIO * sample.max(0)
    candidates = np.flatnonzero(strong.reshape(count, -1).any(1))
    if step == 1 or len(candidates) <= _FEW_LABELS:
        return candidates
    small_image = image[step // 2 :: step, step // 2 :: step]
    small = np.ascontiguousarray(probabilities[:, step // 2 :: step, step // 2 :: step])
    coarse = CRFParameters(
        parameters.smoothness_weight,
        parameters.smoothness_xy / step,
        parameters.appearance_weight,
        parameters.appearance_xy / step,
        parameters.appearance_rgb,
        parameters.iterations,
    )
    full, _ = _joined(small_image, small, candidates, coarse)
    winners = full[:-1].argmax(0)
    area = np.bincount(winners.ravel(), minlength=len(candidates))
    ranked = candidates[np.lexsort((-full[:-1].reshape(len(candidates), -1).max(1), -area))]
    winners = candidates[winners]
    size = max(4, int((np.sort(area)[::-1].cumsum() < (1 - tolerance) * winners.size).sum()) + 1)
    while size < len(candidates):
        active = np.sort(ranked[:size])
        trial, _ = _joined(small_image, small, active, coarse)
        if (active[trial[:-1].argmax(0)] != winners).mean() <= tolerance:
            return active
        size = int(size * _GROWTH) + 1
    return candidates


def densecrf(
    image: np.ndarray,
    probabilities: np.ndarray | Tensor,
    parameters: str | CRFParameters = "standard",
    scale: float = 1.0,
    tolerance: float = 5e-4,
) -> np.ndarray:
    """Refine class probabilities with a fully connected CRF.

    Q <- softmax(-U + w2 K_g Q + w1 K_b Q), started at softmax(-U), with U = -log(clip(p, 1e-5, 1))
    and symmetrically normalised kernels.

    Args:
        image: (H, W, 3) uint8 RGB, not normalised.
        probabilities: (C, H, W) float in 0..1, merged over synonyms.
        parameters: name in `PARAMETER_SETS`, or own values.
        scale: confidence in the probabilities, 0..1: p <- scale * p + (1 - scale) / C.
        tolerance: share of pixels that leaving labels out may change, estimated on a coarse copy; 0
            keeps every label. At most 12 labels are always run in full.

    Returns:
        (C, H, W) float32, sums to 1 over labels.

    Raises:
        ImageError: the image is not (H, W, 3) uint8 of the probabilities' size.
        DataError: probabilities are negative or not finite. RecipeError: unknown parameters.
        MissingPackageError: pydensecrf is not installed.

    Source: Kraehenbuehl & Koltun, NIPS 2011, algorithm 1.
    """
    parameters = crf_parameters(parameters)
    check_values(parameters, scale, tolerance)
    if isinstance(probabilities, Tensor):
        probabilities = probabilities.detach().float().cpu().numpy()
    values: np.ndarray = np.asarray(probabilities, np.float32)
    _check_input(image, values)
    count = len(values)
    if scale != 1:
        values = scale * values + np.float32((1 - scale) / count)
    if tolerance > 0 and count > _FEW_LABELS:
        active = labels_that_matter(image, values, parameters, tolerance)
        if len(active) < count - 1:
            refined, remainder = _joined(image, values, active, parameters)
            share = refined[-1] / remainder
            result = np.empty_like(values)
            for label in range(count):
                # The remainder keeps its proportions.
                np.multiply(np.clip(values[label], _FLOOR, 1), share, out=result[label])
            result[active] = refined[:-1]
            return result
    unary = -np.log(np.clip(values, _FLOOR, 1))
    return mean_field(image, unary, parameters, np.ones(count, np.float32))


def crf_parameters(parameters: str | CRFParameters) -> CRFParameters:
    """A parameter set by its name, or own values as they are. Raises RecipeError for an unknown name."""
    if isinstance(parameters, CRFParameters):
        return parameters
    if parameters not in PARAMETER_SETS:
        raise RecipeError(
            f"densecrf.parameters is {parameters!r}; choose one of {', '.join(PARAMETER_SETS)}"
        )
    return PARAMETER_SETS[parameters]


def check_values(parameters: CRFParameters, scale: float, tolerance: float) -> None:
    """Raise RecipeError for a value out of its range."""
    for name in ("smoothness_xy", "appearance_xy", "appearance_rgb"):
        if not getattr(parameters, name) > 0:
            raise RecipeError(
                f"densecrf.{name} is {getattr(parameters, name)!r}; it must be above 0"
            )
    if parameters.iterations < 0:
        raise RecipeError(f"densecrf.iterations is {parameters.iterations!r}; it must be 0 or more")
    for name, value in (("scale", scale), ("tolerance", tolerance)):
        if not 0 <= value <= 1:
            raise RecipeError(f"densecrf.{name} is {value!r}; it must be between 0 and 1")


def _check_input(image: np.ndarray, probabilities: np.ndarray) -> None:
    shape = probabilities.shape
    if len(shape) != 3 or not isinstance(image, np.ndarray) or image.shape != (*shape[1:], 3):
        raise ImageError(
            f"DenseCRF needs an image (H, W, 3) and probabilities (C, H, W) of one size; it got "
            f"{getattr(image, 'shape', type(image).__name__)} and {shape}"
        )
    if image.dtype != np.uint8:
        raise ImageError(
            f"DenseCRF needs the photo itself as uint8 RGB (0..255), not {image.dtype}"
        )
    # NaN fails both comparisons; no copy of the input is made.
    if not (probabilities.min() >= 0 and probabilities.max() < np.inf):
        raise DataError(
            "DenseCRF needs probabilities: finite values, 0 or more; apply a softmax first"
        )
