"""PAMR: pixel-adaptive refinement of logits by the colours of the photo, without any weights.

Source: Araslanov & Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020, section
3.3. The open-vocabulary methods (SCLIP, NACLIP, ITACLIP) apply it to raw cosine logits at the size
of the photo.

Memory: the affinities take 8 * len(dilations) maps of the photo's size; the logits are refined a
few queries at a time inside two small buffers. A copy of the neighbourhood of every query is never
stored.

Two ways give the same sums, term by term. `_ByPixel` takes about half the time where a processor refines
many queries together; its tables hold the affinities once more, and a number for each. `_ByMap` serves few
queries, pictures so large that few go together, and GPUs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ovsslib.errors import RecipeError

_DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
_STRENGTH = 0.1
_EPSILON = 1e-8
# Pixels of a strip, and queries of a chunk that is refined map by map: with both, the strip's
# logits and its affinities stay in the processor's second-level cache while the neighbours are
# added up.
_STRIP_PIXELS = 16384
_CHUNK_QUERIES = 4
_DEVICE_CHUNK_VALUES = 1 << 26
# Refined pixel by pixel: most queries of a chunk, the fewest that are worth it, and most values.
_BESIDE_QUERIES = 32
_BESIDE_FEWEST = 12
_BESIDE_VALUES = 8_000_000


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


class _ByMap:
    """Applies one affinity to chunks of queries, map by map, through two reused padded buffers."""

    def __init__(self, affinity: Tensor, dilations: Sequence[int], queries: int) -> None:
        self.radius, self.queries = max(dilations), queries
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

    def __call__(self, maps: Tensor, iterations: int, out: Tensor) -> None:
        """(queries, H, W) -> `out` (queries, H, W)."""
        self._interior(self.buffers[0]).copy_(maps)
        for iteration in range(iterations):
            _fill_borders(self.buffers[iteration % 2], self.radius)
            for total, terms in self.plans[iteration % 2]:
                torch.mul(*terms[0], out=total)
                for shifted, weight in terms[1:]:
                    total.addcmul_(shifted, weight)
        out.copy_(self._interior(self.buffers[iterations % 2]))


class _ByPixel:
    """The same with a pixel's values side by side, so that the queries share the work on a neighbour."""

    def __init__(self, affinity: Tensor, dilations: Sequence[int], queries: int) -> None:
        height, width = affinity.shape[1:]
        self.queries = queries
        self.weights = affinity.flatten(1).T.contiguous()  # (pixels, neighbours)
        # Number of each neighbour, (pixels, neighbours); beyond a border the outermost pixel repeats.
        self.neighbours = torch.empty(self.weights.shape, dtype=torch.int32)
        rows, columns = torch.arange(height)[:, None], torch.arange(width)
        for index, (down, right) in enumerate(_offsets(dilations)):
            row, column = (rows + down).clamp(0, height - 1), (columns + right).clamp(0, width - 1)
            self.neighbours[:, index] = (row * width + column).flatten()
        self.buffers = affinity.new_empty(2, height * width * queries)

    def __call__(self, maps: Tensor, iterations: int, out: Tensor) -> None:
        """(q, H, W) of at most `queries` -> `out` (q, H, W)."""
        queries, pixels = len(maps), len(self.weights)
        source, target = self.buffers[:, : pixels * queries].view(2, pixels, queries)
        source.copy_(maps.flatten(1).T)
        for _ in range(iterations):
            # Strips, because fresh memory for a whole step would cost more than its sums.
            for start in range(0, pixels, _STRIP_PIXELS):
                strip = slice(start, start + _STRIP_PIXELS)
                # A pixel is a bag of its neighbours; the result is the weighted sum of each bag.
                target[strip] = F.embedding_bag(
                    self.neighbours[strip],
                    source,
                    mode="sum",
                    per_sample_weights=self.weights[strip],
                )
            source, target = target, source
        out.view(queries, pixels).copy_(source.T)


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
        self.iterations, self.dilations, self.chunk = iterations, tuple(dilations), chunk
        self.size = (image.shape[-2], image.shape[-1])
        self._affinity = pamr_affinity(image, dilations)
        self._by_map: _ByMap | None = None
        self._by_pixel: _ByPixel | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """(q, h, w) logits of some queries -> (q, H, W) refined; dtype and layout as in `pamr`."""
        refined = empty_of_size(logits, self.size)
        self.write(logits, refined)
        return refined

    def write(self, logits: Tensor, refined: Tensor) -> None:
        """The same, written to `refined` (q, H, W)."""
        start = 0
        while start < len(logits):
            some = slice(start, start + self.together(len(logits) - start))
            part = logits[some].float()
            if part.shape[-2:] != self.size:
                part = F.interpolate(part[None], self.size, mode="bilinear", align_corners=True)[0]
            self._smoother(len(part))(part, self.iterations, refined[some])
            start = some.stop

    def together(self, queries: int) -> int:
        """How many of the next so many queries are refined at a time."""
        pixels = self.size[0] * self.size[1]
        if self.chunk is not None:
            most = self.chunk
        elif self._affinity.is_cuda:
            most = _DEVICE_CHUNK_VALUES // pixels
        else:
            beside = min(_BESIDE_VALUES // pixels, _BESIDE_QUERIES)
            most = beside if self._goes_by_pixel(min(beside, queries)) else _CHUNK_QUERIES
        return max(1, min(most, queries))

    def _goes_by_pixel(self, queries: int) -> bool:
        return queries >= _BESIDE_FEWEST and self._affinity.device.type == "cpu"

    def _smoother(self, queries: int) -> _ByMap | _ByPixel:
        if self._goes_by_pixel(queries):
            if self._by_pixel is None or self._by_pixel.queries < queries:
                self._by_pixel = _ByPixel(self._affinity, self.dilations, queries)
            return self._by_pixel
        if self._by_map is None or self._by_map.queries != queries:
            self._by_map = _ByMap(self._affinity, self.dilations, queries)
        return self._by_map


def empty_of_size(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Empty maps (..., H, W) of `size` like `logits` (..., h, w): of their memory layout, too, if the size is theirs."""
    if logits.shape[-2:] == size:
        return torch.empty_like(logits)
    return logits.new_empty(*logits.shape[:-2], *size)


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
        (B, Q, H, W), dtype of `logits`, and its memory layout where the size is the same; convex
        combinations of the input, so its range does not grow. The layout "channels last" is the
        faster one.

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
    refined = empty_of_size(logits, (image.shape[-2], image.shape[-1]))
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
