"""PAMR: pixel-adaptive refinement of logits by the colours of the photo, without any weights.

Source: Araslanov & Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020, section
3.3. The open-vocabulary methods (SCLIP, NACLIP, ITACLIP) apply it to raw cosine logits at the size
of the photo.

Memory: the affinities take 8 * len(dilations) maps of the photo's size; the logits are refined a
few queries at a time inside two small padded buffers. A copy of the neighbourhood of every query is
never stored.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ovsslib.errors import RecipeError

_DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
_STRENGTH = 0.1
_EPSILON = 1e-8
# Pixels of one strip, and values of one strip over all queries of a chunk: with both, the strip's
# logits and its affinities stay in the processor's second-level cache while the neighbours are
# added up.
_STRIP_PIXELS = 16384
_CHUNK_QUERIES = 4
_DEVICE_CHUNK_VALUES = 1 << 26


def _offsets(dilations: Sequence[int]) -> list[tuple[int, int]]:
    """Row and column offsets of all neighbours, dilation by dilation."""
    return [(row * d, column * d) for d in dilations for row, column in _DIRECTIONS]


def _fill_borders(padded: Tensor, radius: int) -> None:
    """Repeat the outermost pixels of the interior of `padded` (N, H+2r, W+2r) into its border, in
    place.
    """
    if radius == 0:
        return
    rows = padded[:, radius:-radius]
    rows[:, :, :radius] = rows[:, :, radius : radius + 1]
    rows[:, :, -radius:] = rows[:, :, -radius - 1 : -radius]
    padded[:, :radius] = padded[:, radius : radius + 1]
    padded[:, -radius:] = padded[:, -radius - 1 : -radius]


def _pad(maps: Tensor, radius: int) -> Tensor:
    """(N, H, W) -> (N, H+2r, W+2r) with repeated borders, of any radius (larger than the map,
    too).
    """
    count, height, width = maps.shape
    padded = maps.new_empty(count, height + 2 * radius, width + 2 * radius)
    padded[:, radius : radius + height, radius : radius + width] = maps
    _fill_borders(padded, radius)
    return padded


def pamr_affinity(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """Weights with which each pixel listens to its neighbours.

    kappa_ij = mean over channels of `-|x_i - x_j|` / (1e-8 + 0.1 sigma_i), softmax over the
    neighbours j; sigma_i is the unbiased standard deviation over neighbours and centre (the centre
    once per dilation).

    Args:
        image: (K, H, W) float, usually CLIP-normalised RGB.
        dilations: distances of the 8 neighbours in pixels, each at least 1.

    Returns:
        (8 * len(dilations), H, W) float32, summing to 1 over the first axis.
    """
    image = image.float()
    height, width = image.shape[1:]
    radius = max(dilations)
    padded = _pad(image, radius)
    offsets = _offsets(dilations)

    def difference(offset: tuple[int, int]) -> Tensor:
        top, left = radius + offset[0], radius + offset[1]
        return padded[:, top : top + height, left : left + width] - image

    # Two passes over differences from the centre: exact zeros in flat areas, no cancellation
    # elsewhere.
    count = 9 * len(dilations)
    mean = torch.zeros_like(image)
    for offset in offsets:
        mean += difference(offset)
    mean /= count
    squares = len(dilations) * mean.square()
    for offset in offsets:
        squares += (difference(offset) - mean).square()
    scale = _EPSILON + _STRENGTH * (squares / (count - 1)).sqrt()

    affinity = image.new_empty(len(offsets), height, width)
    for index, offset in enumerate(offsets):
        affinity[index] = -(difference(offset).abs() / scale).mean(0)
    return affinity.softmax(0)


class _Smoother:
    """Applies one affinity to chunks of queries through two reused padded buffers."""

    def __init__(self, affinity: Tensor, dilations: Sequence[int], queries: int) -> None:
        self.radius = max(dilations)
        self.height, self.width = affinity.shape[1:]
        shape = (queries, self.height + 2 * self.radius, self.width + 2 * self.radius)
        self.buffers = (affinity.new_empty(shape), affinity.new_empty(shape))
        rows = self.height if affinity.is_cuda else max(1, _STRIP_PIXELS // self.width)
        # All views are made once: slicing would otherwise cost as much as the arithmetic on a
        # strip.
        self.plans = [
            self._plan(*pair, affinity, _offsets(dilations), rows)
            for pair in (self.buffers, self.buffers[::-1])
        ]

    def _plan(
        self,
        source: Tensor,
        target: Tensor,
        affinity: Tensor,
        offsets: list[tuple[int, int]],
        rows: int,
    ) -> list[tuple[Tensor, list[tuple[Tensor, Tensor]]]]:
        plan = []
        for top in range(0, self.height, rows):
            bottom = min(top + rows, self.height)
            terms = []
            for weight, (down, right) in zip(affinity, offsets, strict=True):
                first, left = self.radius + top + down, self.radius + right
                shifted = source[:, first : first + bottom - top, left : left + self.width]
                terms.append((shifted, weight[top:bottom]))
            plan.append((self._interior(target)[:, top:bottom], terms))
        return plan

    def _interior(self, padded: Tensor) -> Tensor:
        r = self.radius
        return padded[:, r : r + self.height, r : r + self.width]

    def __call__(self, maps: Tensor, iterations: int) -> Tensor:
        """(queries, H, W) -> the same shape, a view of a buffer that the next call overwrites."""
        self._interior(self.buffers[0]).copy_(maps)
        for iteration in range(iterations):
            _fill_borders(self.buffers[iteration % 2], self.radius)
            for total, terms in self.plans[iteration % 2]:
                torch.mul(*terms[0], out=total)
                for shifted, weight in terms[1:]:
                    total.addcmul_(shifted, weight)
        return self._interior(self.buffers[iterations % 2])


class Refinement:
    """PAMR of one picture, for logits that come a few queries at a time.

    Args:
        image: (K, H, W) float. iterations, dilations, chunk: as for :func:`pamr`.
    """

    def __init__(
        self,
        image: Tensor,
        iterations: int = 10,
        dilations: Sequence[int] = (8, 16),
        chunk: int | None = None,
    ) -> None:
        check_pamr(iterations, dilations)
        self.iterations, self.dilations = iterations, tuple(dilations)
        self.size = (image.shape[-2], image.shape[-1])
        if chunk is None:
            on_device = max(1, _DEVICE_CHUNK_VALUES // (self.size[0] * self.size[1]))
            chunk = on_device if image.is_cuda else _CHUNK_QUERIES
        self.chunk = max(1, chunk)
        self._affinity = pamr_affinity(image, dilations)
        self._smooth: _Smoother | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """(q, h, w) logits of some queries -> (q, H, W) refined, dtype of `logits`."""
        refined = logits.new_empty(len(logits), *self.size)
        self.write(logits, refined)
        return refined

    def write(self, logits: Tensor, refined: Tensor) -> None:
        """The same, written to `refined` (q, H, W)."""
        chunk = max(1, min(self.chunk, len(logits)))
        for start in range(0, len(logits), chunk):
            part = logits[start : start + chunk].float()
            if part.shape[-2:] != self.size:
                part = F.interpolate(part[None], self.size, mode="bilinear", align_corners=True)[0]
            if self._smooth is None or self._smooth.buffers[0].shape[0] != len(part):
                self._smooth = _Smoother(self._affinity, self.dilations, len(part))
            refined[start : start + chunk] = self._smooth(part, self.iterations)


def pamr(
    image: Tensor,
    logits: Tensor,
    iterations: int = 10,
    dilations: Sequence[int] = (8, 16),
    chunk: int | None = None,
) -> Tensor:
    """Refine logits so that neighbouring pixels of like colour agree.

    Args:
        image: (B, K, H, W) float, the photo as the network sees it (CLIP-normalised RGB), at target
            size.
        logits: (B, Q, h, w) float, raw cosines; resized to (H, W) first if the size differs
            (bilinear, align_corners=True, as released).
        iterations: number of averaging steps, 0 or more.
        dilations: distances of the neighbours in pixels.
        chunk: queries refined at a time; None chooses by device. It changes speed and memory only.

    Returns:
        (B, Q, H, W), dtype of `logits`; convex combinations of the input, so its range does not
        grow.

    Raises:
        RecipeError: dilations or iterations out of range, or batches that do not match.

    Source: Araslanov & Roth, CVPR 2020, equations 5 and 6.
    """
    check_pamr(iterations, dilations)
    if image.shape[0] != logits.shape[0]:
        raise RecipeError(
            f"PAMR got {image.shape[0]} images for {logits.shape[0]} logit maps; pass one image "
            "per map"
        )
    refined = logits.new_empty(*logits.shape[:2], *image.shape[-2:])
    for item in range(len(logits)):
        refinement = Refinement(image[item], iterations, dilations, chunk)
        refinement.write(logits[item], refined[item])
    return refined


def check_pamr(iterations: int, dilations: Sequence[int]) -> None:
    """Raise RecipeError for iterations or dilations that make no sense."""
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
        raise RecipeError(
            f"pamr.iterations is {iterations!r}; it must be a whole number, 0 or more"
        )
    if not dilations or any(not isinstance(d, int) or d < 1 for d in dilations):
        raise RecipeError(
            f"pamr.dilations is {dilations!r}; give whole numbers of pixels, 1 or more"
        )
