"""What a segmenter returns: a mask, its words, and ways to look at it, count it and save it."""

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from ovsslib.errors import DataError, ImageError, WordsError
from ovsslib.images import export, palette
from ovsslib.images.overlay import Entry, draw_overlay


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A picture whose every pixel carries one of the words. Shows itself in a notebook.

    mask: (H, W) int32, the index into `names` of each pixel's word.
    names: C words; `names[0]` is "background" if the segmenter was asked for a background.
    scores: (C, H, W) float32 class scores if they were kept, else None.
    image: (H, W, 3) uint8 sRGB picture, or None.
    recipe, model: names of what made it.

    Raises ImageError if the arrays do not fit each other, WordsError if the mask points past the
    words.
    """

    mask: np.ndarray
    names: list[str]
    scores: np.ndarray | None = None
    image: np.ndarray | None = field(default=None, repr=False)
    recipe: str = ""
    model: str = ""

    def __post_init__(self) -> None:
        mask = np.asarray(self.mask)
        if mask.ndim != 2 or not np.issubdtype(mask.dtype, np.integer):
            raise ImageError(f"a mask is (H, W) whole numbers, not {mask.shape} {mask.dtype}")
        if mask.size and not 0 <= int(mask.min()) <= int(mask.max()) < len(self.names):
            raise WordsError(
                f"the mask holds labels {mask.min()} to {mask.max()} but there are "
                f"{len(self.names)} words; give one name per label, starting at 0"
            )
        if self.scores is not None and self.scores.shape != (len(self.names), *mask.shape):
            raise ImageError(
                f"scores must be {(len(self.names), *mask.shape)} (words, height, width), "
                f"not {self.scores.shape}"
            )
        if self.image is not None and (
            self.image.shape != (*mask.shape, 3) or self.image.dtype != np.uint8
        ):
            raise ImageError(
                f"the picture must be {(*mask.shape, 3)} uint8 like its mask, "
                f"not {self.image.shape} {self.image.dtype}"
            )
        object.__setattr__(self, "mask", mask.astype(np.int32, copy=False))
        object.__setattr__(self, "names", list(self.names))

    @property
    def colours(self) -> np.ndarray:
        """(C, 3) uint8 sRGB, one colour per word; the palette of every figure."""
        return palette.class_colours(self.names)

    @property
    def pixels(self) -> np.ndarray:
        """(C,) int64: how many pixels each word has."""
        return np.bincount(self.mask.ravel(), minlength=len(self.names)).astype(np.int64)

    def mask_of(self, word: str) -> np.ndarray:
        """(H, W) bool: where the word is. Raises WordsError for a word that was not asked for."""
        if word not in self.names:
            raise WordsError(
                f"{word!r} is not among the words of this segmentation: "
                f"{', '.join(map(repr, self.names))}"
            )
        return self.mask == self.names.index(word)

    def table(self, all_words: bool = False) -> pd.DataFrame:
        """The words, largest first: name, pixels, share (percent), colour ("#rrggbb"), and score if
        scores were kept.

        score is the mean of the word's own score over its own pixels. Words without a pixel are
        left out unless `all_words`; their score is then missing.
        """
        pixels = self.pixels
        columns: dict[str, Any] = {
            "name": self.names,
            "pixels": pixels,
            "share": 100 * pixels / max(1, self.mask.size),
            "colour": [palette.to_hex(colour) for colour in self.colours],
        }
        if self.scores is not None:
            own = np.take_along_axis(self.scores, self.mask[None], axis=0)[0].astype(np.float64)
            total = np.bincount(self.mask.ravel(), own.ravel(), minlength=len(self.names))
            columns["score"] = np.where(pixels > 0, total / np.maximum(1, pixels), np.nan)
        rows = pd.DataFrame(columns)
        if not all_words:
            rows = rows[rows["pixels"] > 0]
        return rows.sort_values("pixels", ascending=False, kind="stable", ignore_index=True)

    def overlay(
        self, opacity: float = 0.6, legend: bool = True, all_words: bool = False
    ) -> Image.Image:
        """The picture under its colours, as an RGB PIL image.

        opacity: 0 (the picture alone) to 1 (the colours alone); colours alone too if no picture was
        kept.
        legend: with the words and their shares beside or below, and with numbers on the regions
        when there are many words; the picture is then brought to a comfortable size. Without a
        legend it has exactly the mask's size.
        all_words: list the words without a pixel as well.
        """
        if not 0 <= opacity <= 1:
            raise ImageError(f"opacity must be between 0 and 1, not {opacity}")
        rows = self.table(all_words=all_words)
        order = [self.names.index(name) for name in rows["name"]]
        return draw_overlay(
            self.mask,
            self.colours,
            self.image,
            opacity=opacity,
            entries=[
                Entry(label, name, share)
                for label, name, share in zip(order, rows["name"], rows["share"], strict=True)
            ]
            if legend
            else None,
        )

    def show(self, opacity: float = 0.6, legend: bool = True, all_words: bool = False) -> None:
        """Shows the overlay: in the notebook if there is one, else in the system's viewer."""
        drawn = self.overlay(opacity, legend, all_words)
        try:
            from IPython import get_ipython
            from IPython.display import display

            in_notebook = get_ipython() is not None
        except ImportError:
            in_notebook = False
        if in_notebook:
            display(
                {"image/png": _png(drawn), "text/plain": str(self)}, raw=True, metadata=self._alt()
            )
        else:
            drawn.show(title=str(self))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the mask as a PNG whose values are the indices into `names`, in the palette's
        colours.

        8 bit with a palette up to 256 words, else 16 bit without. An existing file is replaced in
        one step. Returns the path. Raises DataError if the name does not end in .png or its folder
        cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise DataError(f"a mask is saved without loss, as PNG: {path.name!r} must end in .png")
        if len(self.names) <= 256:
            picture = Image.fromarray(self.mask.astype(np.uint8))
            picture.putpalette(self.colours.tobytes())
        else:
            picture = Image.fromarray(self.mask.astype(np.uint16))
        return export.write_png(picture, path)

    def to_coco(
        self, image_id: int = 1, file_name: str = "", first_id: int = 1, components: bool = False
    ) -> dict[str, list[dict[str, Any]]]:
        """The masks as COCO annotations with run lengths, ready for JSON; see
        :func:`ovsslib.images.export.to_coco`."""
        return export.to_coco(self, image_id, file_name, first_id, components)

    def cutouts(self, folder: str | os.PathLike[str]) -> dict[str, Path]:
        """Writes one transparent PNG per word into a folder; see :func:`ovsslib.images.export.cutouts`."""
        return export.cutouts(self, folder)

    def __str__(self) -> str:
        rows = self.table()
        shares = ", ".join(
            f"{name} {share:.1f} %" for name, share in zip(rows["name"], rows["share"], strict=True)
        )
        made = " with ".join(part for part in (self.model, self.recipe) if part)
        height, width = self.mask.shape
        return f"{height} x {width} pixels{', ' + made if made else ''}: {shares}"

    __repr__ = __str__

    def _alt(self) -> dict[str, dict[str, str]]:
        return {"image/png": {"alt": f"Segmentation overlay. {self}"}}

    def _repr_png_(self) -> bytes:
        return _png(self.overlay())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        """The overlay with an alternative text for readers who do not see it."""
        return {"image/png": self._repr_png_(), "text/plain": str(self)}, self._alt()


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
