"""What a segmenter returns: a mask, its words, and ways to look at it, count it and save it."""

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ovsslib.errors import DataError, ImageError, WordsError
from ovsslib.images import export, export_labels
from ovsslib.images import palette as colours_of
from ovsslib.images.overlay import Entry, draw_overlay

if TYPE_CHECKING:
    import pandas as pd

NEAR_TIE = 0.05
"""Margin (best score less second best) below which a pixel's word is a guess."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A picture whose every pixel carries one of the words. Shows itself in a notebook.

    Attributes:
        mask: (H, W) int32, the index into `names` of each pixel's word.
        names: C words; `names[0]` is "background" if the segmenter was asked for a background.
        scores: (C, H, W) float32 class scores if they were kept, else None.
        image: (H, W, 3) uint8 sRGB picture, or None.
        confidence: (H, W) float32 in [0, 1], score of each pixel's own word, or None.
        margin: (H, W) float32, best score less second best, or None; 0 is a tie.
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
    confidence: np.ndarray | None = field(default=None, repr=False)
    margin: np.ndarray | None = field(default=None, repr=False)

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
        for label in ("confidence", "margin"):
            values = getattr(self, label)
            if values is not None and np.shape(values) != mask.shape:
                raise ImageError(
                    f"{label} must be {mask.shape} like the mask, not {np.shape(values)}"
                )
        object.__setattr__(self, "mask", mask.astype(np.int32, copy=False))
        object.__setattr__(self, "names", _checked_names(self.names))

    @property
    def colours(self) -> np.ndarray:
        """(C, 3) uint8 sRGB, one colour per word; the palette of every figure."""
        return colours_of.class_colours(self.names)

    @property
    def pixels(self) -> np.ndarray:
        """(C,) int64, how many pixels each word has."""
        return np.bincount(self.mask.ravel(), minlength=len(self.names)).astype(np.int64)

    def mask_of(self, word: str) -> np.ndarray:
        """(H, W) bool: where the word is. Raises WordsError for a word that was not asked for."""
        if word not in self.names:
            raise WordsError(
                f"{word!r} is not among the words of this segmentation: "
                f"{', '.join(map(repr, self.names))}"
            )
        return self.mask == self.names.index(word)

    def table(self, all_words: bool = False) -> "pd.DataFrame":
        """The words, largest first: name, pixels, share (percent), colour ("#rrggbb"), and score and
        margin if they are known.

        score is the mean of the word's own score over its own pixels, margin the mean of best score
        less second best. Words without a pixel are left out unless `all_words`; both are then
        missing.
        """
        import pandas as pd  # late: only tables need it

        pixels = self.pixels
        columns: dict[str, Any] = {
            "name": self.names,
            "pixels": pixels,
            "share": 100 * pixels / max(1, self.mask.size),
            "colour": [colours_of.to_hex(colour) for colour in self.colours],
        }
        if self.scores is not None:
            columns["score"] = self._mean_by_word(
                np.take_along_axis(self.scores, self.mask[None], axis=0)[0]
            )
        elif self.confidence is not None:
            columns["score"] = self._mean_by_word(self.confidence)
        if self.margin is not None:
            columns["margin"] = self._mean_by_word(self.margin)
        rows = pd.DataFrame(columns)
        if not all_words:
            rows = rows[rows["pixels"] > 0]
        return rows.sort_values("pixels", ascending=False, kind="stable", ignore_index=True)

    def _mean_by_word(self, values: np.ndarray) -> np.ndarray:
        """(C,) float64 means of (H, W) values over the pixels of each word, NaN for one without."""
        pixels = self.pixels
        total = np.bincount(
            self.mask.ravel(), values.ravel().astype(np.float64), minlength=len(self.names)
        )
        return np.where(pixels > 0, total / np.maximum(1, pixels), np.nan)

    @property
    def uncertain(self) -> "pd.Series":
        """Per word that has pixels, the percent of them whose margin is below NEAR_TIE, a guess.

        The last entry, "(picture)", is that of all pixels. Raises DataError if no margins are known.
        """
        return self.uncertain_below(NEAR_TIE)

    def uncertain_below(self, threshold: float) -> "pd.Series":
        """The same for a threshold of one's own, 0 to 1."""
        import pandas as pd  # late: only tables need it

        if not 0 <= threshold <= 1:
            raise DataError(f"threshold={threshold}: a margin lies between 0 and 1")
        if self.margin is None:
            raise DataError(
                "this segmentation knows no margins; make it by calling a segmenter, or give it margin=..."
            )
        near = self.margin < threshold
        shares = pd.Series(100 * self._mean_by_word(near), index=self.names).dropna()
        shares["(picture)"] = 100 * float(near.mean())
        return shares.rename("uncertain")

    def overlay(
        self, opacity: float = 0.6, legend: bool = True, all_words: bool = False
    ) -> Image.Image:
        """The picture under its colours, as an RGB PIL image.

        Args:
            opacity: 0 (the picture alone) to 1 (the colours alone); colours alone too if no picture was
                kept.
            legend: with the words and their shares beside or below, and with numbers on the regions
                when there are many words; the picture is then brought to a comfortable size. Without
                a legend it has exactly the mask's size.
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
                Entry(label, " ".join(name.split()), share)  # a line break cannot be drawn
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

    def save(self, path: str | os.PathLike[str], palette: bool = True) -> Path:
        """Writes the mask as a PNG whose values are the indices into `names`.

        palette: up to 256 words in the palette's colours, so that viewers show it coloured. Such a
        file is read rightly by Pillow, scikit-image's and mmsegmentation's Pillow readers, but
        `cv2.imread(path, cv2.IMREAD_GRAYSCALE)` turns the colours to grey and gives wrong numbers:
        with palette=False the file is plain grey, 8 bit up to 256 words, and every reader gives the
        indices. Above 256 words it is 16 bit and plain either way.

        An existing file is replaced in one step. Returns the path. Raises DataError if the name does not end in .png or its folder
        cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise DataError(f"a mask is saved without loss, as PNG: {path.name!r} must end in .png")
        if len(self.names) <= 256:
            picture = Image.fromarray(self.mask.astype(np.uint8))
            if palette:
                picture.putpalette(self.colours.tobytes())
        else:
            picture = Image.fromarray(self.mask.astype(np.uint16))
        return export.write_png(picture, path)

    def save_overlay(self, path: str | os.PathLike[str], legend: bool = True) -> Path:
        """Writes :meth:`overlay` as a PNG in one step. Raises DataError if it cannot be written."""
        return export.write_png(self.overlay(legend=legend), path)

    def to_coco(
        self, image_id: int = 1, file_name: str = "", first_id: int = 1, components: bool = False
    ) -> dict[str, list[dict[str, Any]]]:
        """The masks as COCO annotations with run lengths, ready for JSON; see
        :func:`ovsslib.images.export.to_coco`."""
        return export.to_coco(self, image_id, file_name, first_id, components)

    def to_label_studio(
        self, image: str, from_name: str = "tag", to_name: str = "image", components: bool = False
    ) -> dict[str, Any]:
        """A Label Studio task with brush masks; see
        :func:`ovsslib.images.export_labels.to_label_studio`."""
        return export_labels.to_label_studio(self, image, from_name, to_name, components)

    def to_polygons(self, tolerance: float = 0.0) -> list[dict[str, Any]]:
        """Outlines of every connected piece; see :func:`ovsslib.images.export_labels.polygons`."""
        return export_labels.polygons(self, tolerance)

    def to_supervision(self, components: bool = True) -> Any:
        """`supervision.Detections`; see :func:`ovsslib.images.export_labels.to_supervision`."""
        return export_labels.to_supervision(self, components)

    def to_fiftyone(self, path: str | os.PathLike[str], field: str = "words") -> Any:
        """A `fiftyone.Sample`; see :func:`ovsslib.images.export_labels.to_fiftyone`."""
        return export_labels.to_fiftyone(self, path, field)

    def cutouts(self, folder: str | os.PathLike[str]) -> dict[str, Path]:
        """Writes one transparent PNG per word into a folder; see :func:`ovsslib.images.export.cutouts`."""
        return export.cutouts(self, folder)

    def __str__(self) -> str:
        rows = self.table()
        shares = ", ".join(
            f"{name} {share:.1f} %" for name, share in zip(rows["name"], rows["share"], strict=True)
        )
        source = " with ".join(part for part in (self.model, self.recipe) if part)
        height, width = self.mask.shape
        return f"{height} x {width} pixels{', ' + source if source else ''}: {shares}"

    __repr__ = __str__

    def _alt(self) -> dict[str, dict[str, str]]:
        return {"image/png": {"alt": f"Segmentation overlay. {self}"}}

    def _repr_png_(self) -> bytes:
        return _png(self.overlay())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        """The overlay with an alternative text for readers who do not see it."""
        return {"image/png": self._repr_png_(), "text/plain": str(self)}, self._alt()


def _checked_names(names: Any) -> list[str]:
    """Names as a list. Raises WordsError for what is no text, and for one name of two words, which nobody could ask for."""
    if isinstance(names, str):
        raise WordsError(f"names={names!r}: give a list with a name for each label")
    listed = list(names)
    for name in listed:
        if not isinstance(name, str):
            raise WordsError(
                f"{name!r} is no name of a word; write it as text, such as {str(name)!r}"
            )
    if len(set(listed)) < len(listed):
        twice = next(name for name in listed if listed.count(name) > 1)
        raise WordsError(f"two labels are called {twice!r}; give each its own name")
    return listed


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
