"""Controls for the class room: choose a recipe, words, a patch, a block, a head, switches, and see the result.

Controls appear where a person can use them (a notebook opened in Jupyter). Elsewhere (papermill, nbval, the book) the
same call shows one static picture of its starting point.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import ipywidgets
import numpy as np
from IPython.display import display

from ovsslib.book.explorer import PictureExplorer, map_controls, words_of
from ovsslib.book.figures.attention import plot_attention
from ovsslib.book.figures.panels import attention_panel
from ovsslib.errors import OvssError
from ovsslib.segmenter import OpenedPicture, Segmenter


def interactive() -> bool:
    """Whether controls are shown: a Jupyter server runs this kernel, or OVSSLIB_WIDGETS says 1 (0: never)."""
    wish = os.environ.get("OVSSLIB_WIDGETS")
    return wish == "1" if wish is not None else "JPY_SESSION_NAME" in os.environ


def _opening(
    segmenters: Mapping[str, Segmenter], image: np.ndarray
) -> Callable[[str], OpenedPicture]:
    """Function (recipe) -> the picture as that recipe encoded it: once each, when first asked for."""
    return cache(lambda recipe: segmenters[recipe].open(image))


def explore_words(
    segmenters: Mapping[str, Segmenter], image: np.ndarray, words: Sequence[str]
) -> ipywidgets.VBox | None:
    """Segment a picture (H, W, 3) with words typed by the reader and a recipe from a list.

    Shows the first recipe's result at once; returns the controls, or None where nobody could use them.
    """
    first = next(iter(segmenters))
    if not interactive():
        display(segmenters[first](image, list(words)))
        return None
    recipe = ipywidgets.Dropdown(options=list(segmenters), value=first, description="recipe")
    text = ipywidgets.Text(value=", ".join(words), description="words", continuous_update=False)

    opened = _opening(segmenters, image)

    def show(recipe: str, text: str) -> None:
        try:
            display(opened(recipe)(words_of(text)))
        except OvssError as error:
            print(error)

    output = ipywidgets.interactive_output(show, {"recipe": recipe, "text": text})
    return ipywidgets.VBox([recipe, text, output])


def explore_attention(
    segmenters: Mapping[str, Segmenter], image: np.ndarray, patch: tuple[int, int]
) -> ipywidgets.VBox | None:
    """Attention of a patch: choose the patch, the recipe's last block or an earlier block, and the head.

    Shows the starting patch at once; returns the controls, or None where nobody could use them.
    """
    if not interactive():
        display(plot_attention(dict(segmenters), image, patch))
        return None
    opened = _opening(segmenters, image)
    controls = map_controls(opened(next(iter(segmenters))), patch, "last, as the recipe has it")
    controls["recipe"] = ipywidgets.Dropdown(options=list(segmenters), description="recipe")

    def show(row: int, column: int, block: int, head: int, temperature: float, recipe: str) -> None:
        asked_head = None if head < 0 else head
        try:
            weights = opened(recipe).attention(
                (row, column), layer=block or None, head=asked_head, temperature=temperature
            )
        except OvssError as error:
            print(error)
            return
        display(attention_panel(image, {recipe: weights}, (row, column)))

    output = ipywidgets.interactive_output(show, controls)
    return ipywidgets.VBox([*controls.values(), output])


def explore_picture(
    opened: OpenedPicture, patch: tuple[int, int] | None = None, words: Sequence[str] = ()
) -> PictureExplorer | None:
    """A picture opened with `segment.open(image)` under the controls of :class:`PictureExplorer`.

    Shows the starting point at once; returns the controls, or None where nobody could use them.
    """
    explorer = PictureExplorer(opened, patch, words)
    if interactive():
        return explorer
    for figure in explorer.figures.values():
        display(figure)
    return None
