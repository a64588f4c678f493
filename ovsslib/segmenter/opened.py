"""A picture encoded once, to be asked about often: `opened = segment.open("photo.jpg"); opened(["dog", "grass"])`."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ovsslib.clip.memory import memory_errors
from ovsslib.errors import RecipeError
from ovsslib.images.segmentation import Segmentation
from ovsslib.segmenter import notices
from ovsslib.segmenter.encoding import EncodedPicture, PictureInput, encode_pictures
from ovsslib.segmenter.kept import count_bytes
from ovsslib.stages.attention import AttentionSettings
from ovsslib.stages.windows import Stitched, WindowGrid

if TYPE_CHECKING:
    from ovsslib.segmenter.segmenter import Segmenter


class OpenedPicture:
    """A picture that a segmenter has encoded; words cost text and similarity only.

    Made by :meth:`Segmenter.open`. What is kept is what the recipe needs: patch features of every window; the trunk's
    tokens as well where a stage still reads them, or where the words must be known before the last block, which is
    then computed anew for each question (`redoes_last_block`). Logits are never kept.

    Attributes:
        segmenter: whose recipe it is. image: (H, W, 3) uint8 RGB.
    """

    def __init__(self, segmenter: "Segmenter", image: np.ndarray):
        self.segmenter, self.image = segmenter, image
        picture = PictureInput(segmenter.prepare(image), image)
        self._encoded: EncodedPicture = encode_pictures([segmenter], picture, [None])[0]
        self._encoded.release()
        self._weights: tuple[tuple, Tensor] | None = None

    @property
    def redoes_last_block(self) -> bool:
        """Whether each question computes the last block anew, because the recipe needs the words before it."""
        return self.segmenter.needs_text or self.segmenter.whole_picture is not None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) pixels of the picture."""
        return tuple(self.image.shape[:2])

    @property
    def bytes_kept(self) -> int:
        """Memory that the encoded picture holds, without the picture itself and maps of attention."""
        sizes: dict[int, int] = {}
        count_bytes(self._encoded.kept(), sizes)
        return sum(sizes.values())

    def __repr__(self) -> str:
        height, width = self.size
        redo = "; each question redoes the last block" if self.redoes_last_block else ""
        return (
            f"OpenedPicture({height} x {width} pixels, {len(self._encoded.grid)} windows, recipe="
            f"{self.segmenter.recipe.name!r}, {self.bytes_kept / 1e6:.1f} MB{redo})"
        )

    def __call__(
        self,
        words: Any,
        background: str | Sequence[str] | None = None,
        keep_scores: bool = False,
    ) -> Segmentation:
        """Segment the picture; equal to `segment(image, words, background, keep_scores)` to the last pixel.

        Arguments and errors are those of :meth:`Segmenter.__call__`.
        """
        text = self.segmenter.text(words, background)
        answer = self.segmenter.answer(
            self._encoded, self.image, text, keep_scores, confidence=True
        )
        return notices.about_answer(answer)

    def similarity(self, word: str) -> np.ndarray:
        """(H, W) float32: cosine of the picture with a word as the recipe compares them, before any refinement.

        The word is asked alone; stages at "similarity" that weigh words against each other see this one only.
        Raises WordsError for a word that cannot be read.
        """
        with torch.no_grad(), memory_errors():
            words = self.segmenter.words(self.segmenter.text([word]))
            logits = self._encoded.logits(words, self.size).full()
        return logits[: words.queries].amax(dim=0).cpu().numpy()

    @property
    def features(self) -> Tensor:
        """(h, w, D) float32 patch features in the joint space, windows stitched, not L2-normalised.

        h x w is the grid that the recipe's maps have over the whole network picture. Raises RecipeError for a recipe
        whose features depend on the words, or that mixes several views or has none.
        """
        recipe = self.segmenter.recipe
        if self.segmenter.needs_text:
            raise RecipeError(
                f"the features of recipe {recipe.name!r} depend on the words; ask similarity(word), or "
                "Segmenter.features(pixels, text_features)"
            )
        if self.segmenter.views is not None:
            raise RecipeError(
                f"recipe {recipe.name!r} mixes several views of a window; turn them off"
            )
        with torch.no_grad(), memory_errors():
            return _stitched(*self._encoded.maps()).permute(1, 2, 0).cpu()

    def attention(
        self,
        patch: tuple[int, int] | None = None,
        *,
        pixel: tuple[int, int] | None = None,
        layer: int | None = None,
        head: int | None = None,
        terms: str | None = None,
        temperature: float = 1.0,
    ) -> np.ndarray:
        """Attention of one patch to all patches of the picture, taken whole: (h, w) float32.

        Args:
            patch: (row, column) on the grid of the network picture.
            pixel: (row, column) of the photograph instead; its patch is taken.
            layer: None: the last block as the recipe changes it. 1 to L: that block with `terms`.
            head: 0 to heads - 1, or None for the mean over heads.
            terms: similarities of `attention.terms` for a given layer; None is CLIP's own "qk".
            temperature: divides the scores before the softmax; above 1 the attention spreads, below it gathers. Without
                effect where a stage gives the weights by itself.

        The weights of the last layer asked for are kept, so that further patches cost nothing.

        Raises RecipeError for a patch, pixel, layer or head that does not exist, a temperature that is not above 0, and
        a recipe without one matrix.
        """
        grid = self.patch_grid
        if (patch is None) == (pixel is None):
            raise RecipeError("give either patch=(row, column) or pixel=(row, column)")
        if pixel is not None:
            patch = self.patch_at(pixel)
        assert patch is not None
        if not (0 <= patch[0] < grid[0] and 0 <= patch[1] < grid[1]):
            raise RecipeError(
                f"patch={tuple(patch)}: the picture has {grid[0]} rows and {grid[1]} columns of patches"
            )
        heads = self.segmenter.backbone.heads
        if head is not None and not 0 <= head < heads:
            raise RecipeError(f"head={head}: the model has heads 0 to {heads - 1}")
        key = (layer, terms, temperature)
        if self._weights is None or self._weights[0] != key:
            pixels = self._encoded.picture.pixels[None]
            self._weights = (key, attention_weights(self.segmenter, pixels, *key))
        return attention_of_patch(self._weights[1], grid, patch, head)

    @property
    def patch_grid(self) -> tuple[int, int]:
        """(rows, columns) of patches of the network picture, taken whole."""
        side = self.segmenter.backbone.patch_size
        height, width = self._encoded.picture.pixels.shape[-2:]
        return height // side, width // side

    def patch_at(self, pixel: tuple[int, int]) -> tuple[int, int]:
        """(row, column) of the patch that holds a pixel (row, column) of the photograph.

        Raises RecipeError for a pixel outside of it.
        """
        if not all(0 <= at < side for at, side in zip(pixel, self.size, strict=True)):
            raise RecipeError(
                f"pixel={tuple(pixel)}: the picture has {self.size[0]} rows and {self.size[1]} columns"
            )
        network = self._encoded.picture.pixels.shape[-2:]
        side = self.segmenter.backbone.patch_size
        places = zip(pixel, self.size, network, self.patch_grid, strict=True)
        # pixels beyond a multiple of the patch size have no patch; the last one is nearest
        row, column = (
            min(int((at + 0.5) * n / s) // side, count - 1) for at, s, n, count in places
        )
        return row, column


def _stitched(maps: Tensor, grid: WindowGrid) -> Tensor:
    """Maps (N, D, h, w) of windows as one map (D, rows, columns) of their own grid, overlaps averaged."""
    cells = (maps.shape[-2], maps.shape[-1])
    if len(grid) == 1:
        return maps[0].float()
    axes = list(zip((grid.tops, grid.lefts), cells, grid.size, grid.picture, strict=True))
    rows, columns = (max(1, round(side * count / window)) for _, count, window, side in axes)
    size = (rows, columns)
    if not any(grid.pad) and all(at * n % w == 0 for starts, n, w, _ in axes for at in starts):
        # windows start on whole cells: no interpolation
        places = [tuple(at * n // w for at in starts) for starts, n, w, _ in axes]
        size = (places[0][-1] + cells[0], places[1][-1] + cells[1])
        grid = WindowGrid(size, places[0], places[1], cells)
    return Stitched(maps, grid, size).full()


def attention_weights(
    segmenter: "Segmenter",
    pixels: Tensor,
    layer: int | None = None,
    terms: str | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Weights (heads, T, T) of a block on one picture (1, 3, H, W) taken whole, class token first.

    `layer`, `terms` and `temperature` as in :meth:`OpenedPicture.attention`. Raises RecipeError for a layer that does
    not exist, a temperature that is not above 0, or a recipe without one matrix (GEM).
    """
    if not 0 < temperature < math.inf:
        raise RecipeError(f"temperature={temperature}: must be above 0; 1 changes nothing")
    adjust = None if temperature == 1 else lambda scores: scores / temperature
    if layer is None:
        return segmenter.attention_of(pixels, adjust)[0]
    backbone = segmenter.backbone
    if not 1 <= layer <= backbone.layers:
        raise RecipeError(f"layer={layer}: the model has blocks 1 to {backbone.layers}")
    with torch.no_grad():
        trunk = backbone.trunk(pixels, taps={layer - 1})
        settings = AttentionSettings(terms=terms or "qk")
        return settings.weights(trunk.taps[layer - 1], trunk.grid, backbone.scale, adjust)[0]


def attention_of_patch(
    weights: Tensor, grid: tuple[int, int], patch: tuple[int, int], head: int | None = None
) -> np.ndarray:
    """Row of a patch in weights (heads, T, T) as a map (h, w) float32: of one head, or the mean over heads."""
    row = weights[:, 1 + patch[0] * grid[1] + patch[1], 1:].float()
    row = row.mean(dim=0) if head is None else row[head]
    return row.reshape(grid).cpu().numpy()
