"""An opened picture under controls: where a patch looks, and what the last block's switches do to map and mask.

Needs no front end: the controls are plain `ipywidgets`, whose values a program may set, and the figures are at hand.
"""

import html
import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import ipywidgets
from matplotlib.figure import Figure

from ovsslib.book.figures.panels import attention_panel, mask_panel
from ovsslib.errors import OvssError, RecipeError
from ovsslib.segmenter import Segmenter
from ovsslib.segmenter.opened import OpenedPicture
from ovsslib.stages.attention import SIMILARITIES
from ovsslib.text.cleaning import parse_classes

TERMS = (*SIMILARITIES, "value")
TEMPERATURES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
KEPT = 4  # opened pictures with other switches that are kept, newest first


def words_of(text: str) -> list[str]:
    """Words as typed, with their synonyms: "grass | lawn, dog". Raises WordsError for a text that has none."""
    return (
        [" | ".join(map(str.strip, queries)) for queries in parse_classes(text)]
        if text.strip()
        else []
    )


class PictureExplorer(ipywidgets.VBox):
    """Controls of a picture, and what they show.

    Block, head and temperature change the map alone; terms, Gaussian, residual and feed-forward network change the last
    block, and so map and mask. Terms hold for an earlier block's map as well. The picture is encoded anew for each
    combination of switches.

    Args:
        opened: from `segment.open(image)`; its recipe is where the switches start.
        patch: (row, column) of the patch that asks; None: the one in the middle.
        words: what the mask is asked for; empty: no mask.

    Attributes:
        controls: widgets by name: row, column, block (0: the last), head (-1: their mean), temperature, the terms,
            gaussian (standard deviation in patches, 0: none), residual, feed_forward, words.
        figures: "attention" and, with words, "mask", as last drawn. message: what could not be done, or empty.

    Raises RecipeError for a patch that does not exist. What a control asks for and cannot be had is told under the
    pictures, which stay as they were.
    """

    def __init__(
        self,
        opened: OpenedPicture,
        patch: tuple[int, int] | None = None,
        words: Sequence[str] = (),
    ):
        rows, columns = opened.patch_grid
        patch = (rows // 2, columns // 2) if patch is None else (int(patch[0]), int(patch[1]))
        opened.attention(patch)  # a patch or a recipe that cannot be shown is named here
        self.opened = opened
        self.figures: dict[str, Figure] = {}
        self.message = ""
        self._variants = lru_cache(maxsize=KEPT)(self._open_variant)
        self.controls = {
            **map_controls(opened, patch, "last, as switched below"),
            **_switch_controls(opened),
        }
        self.controls["words"] = ipywidgets.Text(
            value=", ".join(words), description="words", continuous_update=False
        )
        self._start = self._switches()
        self._pictures = {
            name: ipywidgets.Image(format="png", layout={"max_width": "100%"})
            for name in ("attention", "mask")
        }
        self._status = ipywidgets.HTML()
        super().__init__([*_arranged(self.controls), self._status, *self._pictures.values()])
        for control in self.controls.values():
            control.observe(lambda change: self.refresh(), names="value")
        self.refresh()

    @property
    def changes(self) -> dict[str, Any]:
        """What the switches change in the recipe, as `Recipe.but` takes it. Raises RecipeError without any term."""
        now = self._switches()
        if not now["attention.terms"] and self._start["attention.terms"]:
            raise RecipeError("keep at least one of the terms " + ", ".join(TERMS))
        return {name: value for name, value in now.items() if value != self._start[name]}

    def refresh(self) -> None:
        """Draw what the controls say. What cannot be had stands in `message`; the figures stay as they were."""
        try:
            figures = self._drawn()
        except OvssError as error:
            self.message = str(error)
        else:
            self.message, self.figures = "", figures
        self._status.value = f"<p role='status'>{html.escape(self.message)}</p>"
        for name, picture in self._pictures.items():
            figure = self.figures.get(name)
            picture.value = b"" if figure is None else _png(figure)
            picture.layout.display = "none" if figure is None else None

    def _value(self, name: str) -> Any:
        return self.controls[name].value

    def _switches(self) -> dict[str, Any]:
        return {
            "attention.terms": "+".join(name for name in TERMS if self._value(name)),
            "attention.gaussian_std": self._value("gaussian") or None,
            "attention.residual": self._value("residual"),
            "attention.feed_forward": self._value("feed_forward"),
        }

    def _open_variant(self, changes: tuple[tuple[str, Any], ...]) -> OpenedPicture:
        segmenter = self.opened.segmenter
        changed = Segmenter(segmenter.backbone, segmenter.recipe.but(dict(changes)))
        return changed.open(self.opened.image)

    def _drawn(self) -> dict[str, Figure]:
        changes = self.changes
        opened = self._variants(tuple(sorted(changes.items()))) if changes else self.opened
        patch = self._value("row"), self._value("column")
        block, head = self._value("block"), self._value("head")
        options = {
            "layer": block or None,
            "head": None if head < 0 else head,
            "terms": (self._switches()["attention.terms"] or None) if block else None,
            "temperature": self._value("temperature"),
        }
        title = f"block {block}" if block else opened.segmenter.recipe.name
        title += ", changed" if changes else ""
        maps = {title: opened.attention(patch, **options)}
        figures = {"attention": attention_panel(self.opened.image, maps, patch)}
        words = words_of(self._value("words"))
        if words:
            result = opened(words)
            figures["mask"] = mask_panel(self.opened.image, {title: result.mask}, result.names)
        return figures


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def map_controls(opened: OpenedPicture, patch: tuple[int, int], last: str) -> dict[str, Any]:
    """Which patch asks, in which block (0: the last, called `last`) and head (-1: their mean), how sharply."""
    backbone = opened.segmenter.backbone
    rows, columns = opened.patch_grid
    blocks, heads = [(last, 0)], [("mean of all", -1)]
    # An exported graph shows its last block only, averaged over the heads.
    if hasattr(backbone, "blocks"):
        blocks += [(f"block {number}", number) for number in range(1, backbone.layers + 1)]
        heads += [(f"head {number}", number) for number in range(backbone.heads)]

    def slider(name: str, value: int, count: int) -> ipywidgets.IntSlider:
        return ipywidgets.IntSlider(value, 0, count - 1, description=name, continuous_update=False)

    return {
        "row": slider("row", patch[0], rows),
        "column": slider("column", patch[1], columns),
        "block": ipywidgets.Dropdown(options=blocks, description="block"),
        "head": ipywidgets.Dropdown(options=heads, description="head"),
        "temperature": ipywidgets.SelectionSlider(
            options=TEMPERATURES, value=1.0, description="temperature", continuous_update=False
        ),
    }


def _switch_controls(opened: OpenedPicture) -> dict[str, Any]:
    """The settings of the last block, as the recipe has them."""
    settings = opened.segmenter.recipe["attention"]
    terms = settings.terms.split("+")

    def box(name: str, value: bool) -> ipywidgets.Checkbox:
        return ipywidgets.Checkbox(value=value, description=name, indent=False)

    return {
        **{
            name: box(" ".join(name) if name != "value" else "own value only", name in terms)
            for name in TERMS
        },
        "residual": box("residual", settings.residual),
        "feed_forward": box("feed-forward network", settings.feed_forward),
        "gaussian": ipywidgets.BoundedFloatText(
            settings.gaussian_std or 0, min=0, max=100, step=0.5, description="Gaussian"
        ),
    }


def _arranged(controls: Mapping[str, Any]) -> list[ipywidgets.Box]:
    """Rows of controls that wrap on a narrow screen."""
    wrap = {"flex_flow": "row wrap"}
    rows = (
        ("row", "column", "block", "head", "temperature"),
        (*TERMS, "residual", "feed_forward", "gaussian"),
        ("words",),
    )
    return [ipywidgets.Box([controls[name] for name in row], layout=wrap) for row in rows]
