"""Where the book has the counterpart of each table and figure of its two sources (`data/sources.yaml`)."""

import re
from dataclasses import dataclass
from functools import lru_cache

import yaml

from ovsslib import paths
from ovsslib.study.claims import target_name

KINDS = ("table", "figure")


@dataclass(frozen=True)
class Published:
    """A table or figure of a source.

    Attributes:
        source, source_title, key: name, name in sentences and citation key of the source.
        kind, number, title: "table" or "figure", its number there, and what it is about.
        chapter: stem of the notebook that has its counterpart.
        section, figure: heading, or name of the figure, in that notebook; one of the two is "".
    """

    source: str
    source_title: str
    key: str
    kind: str
    number: str
    title: str
    chapter: str
    section: str = ""
    figure: str = ""

    @property
    def target(self) -> str:
        """What `ovss reproduce` calls a table."""
        return target_name(self.source, self.number)

    @property
    def command(self) -> str:
        """What makes it here, a table by itself, a figure with its chapter."""
        if self.kind == "table":
            return f"ovss reproduce {self.target} --profile embedded"
        return f"papermill notebooks/{self.chapter}.ipynb {self.chapter}.ipynb"

    @property
    def anchor(self) -> str:
        """Where it stands in the chapter, the figure's name, or the section's as links spell it."""
        return self.figure or slug(self.section)


@lru_cache(maxsize=1)
def published() -> tuple[Published, ...]:
    """All tables and figures of the sources: tables first, each kind in the source's order."""
    content = yaml.safe_load(paths.data("sources.yaml").read_text(encoding="utf-8"))
    return tuple(
        Published(source, entry["title"], entry["key"], kind, number, **place)
        for source, entry in content.items()
        for kind in KINDS
        for number, place in entry[f"{kind}s"].items()
    )


def slug(heading: str) -> str:
    """A heading as links to it spell it: lower case, words joined by hyphens, nothing else."""
    kept = re.sub(r"[^\w\- ]", "", heading.lower())
    return kept.strip().replace(" ", "-")
