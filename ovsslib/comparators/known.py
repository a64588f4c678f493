"""The comparators that can be run, and the rows of the sources' tables that cannot (`data/comparators.yaml`)."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml

from ovsslib import paths
from ovsslib.errors import ModelError, did_you_mean

GROUPS = ("trained with masks", "trained with captions", "supervised, closed vocabulary")
"""How the models of a group were trained; tables keep the groups apart."""


@dataclass(frozen=True)
class Known:
    """A model that can be run.

    Attributes:
        name, title: how commands and tables call it. source: citation key. year: of the paper.
        group: one of `GROUPS`.
        library: "transformers", "torchvision", or "ovsslib" for those of the embedded world. classes: names of its
            classes or constructors there.
        hub: where the default weights are; of the embedded ones a folder in the data of the library.
        prompts: strategy of the sentences that words are put into, for open vocabularies; "" for closed ones.
    """

    name: str
    title: str
    source: str
    year: int
    group: str
    library: str
    classes: tuple[str, ...]
    hub: str
    prompts: str = ""

    @property
    def closed(self) -> bool:
        """Whether it knows a fixed list of labels only."""
        return self.group == GROUPS[2]


@dataclass(frozen=True)
class Quoted:
    """A model whose numbers are quoted and cannot be measured here, with the reason."""

    name: str
    title: str
    source: str
    group: str
    reason: str


@lru_cache(maxsize=1)
def _content() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(paths.data("comparators.yaml").read_text(encoding="utf-8"))


def names() -> tuple[str, ...]:
    """Names of the comparators that can be run."""
    return tuple(_content()["comparators"])


def known(name: str) -> Known:
    """What is known of a comparator. Raises ModelError for an unknown one; for a quoted one it says why."""
    entries = _content()["comparators"]
    if name not in entries:
        row = next((entry for entry in quoted() if entry.name == name), None)
        if row is not None:
            raise ModelError(
                f"{row.title} cannot be run here: {row.reason}; known: {', '.join(entries)}"
            )
        raise ModelError(f"unknown comparator {name!r}{did_you_mean(name, entries)}")
    values = dict(entries[name])
    return Known(name, **{**values, "classes": tuple(values["classes"])})


def quoted() -> tuple[Quoted, ...]:
    """Models of the sources' tables that cannot be run here, each with the reason."""
    return tuple(Quoted(name, **values) for name, values in _content()["quoted"].items())
