"""Which prompt templates suit which word: a table fitted on unlabelled pictures, kept as JSON (FLOSS).

`ovsslib.study.templates.rank_templates` fits one; the stage `experts` reads it. A table belongs to one model and one
list of words and is refused with others: entropies of a word depend on the words it competes with.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ovsslib import paths
from ovsslib.errors import DataError, RecipeError
from ovsslib.text.vocabulary import Vocabulary

FORMAT = 1


@dataclass(frozen=True)
class TemplateTable:
    """Templates of every class, best first.

    Attributes:
        names: class names, in label order.
        queries: per class the words that were encoded, or () where the source does not tell.
        templates: the templates, each with "{}" where the word goes.
        chosen: per class indices of templates, best first; () for a class that no template predicted.
        model, pretrained: name and tag of the model.
        weights: hashes of its weights (`Backbone.weights_hash`), any of which will do.
        tag_will_do: whether the name and the tag suffice: the weights are published under it, in files that differ.
        base: name of the recipe whose features were compared.
        pictures: how many unlabelled pictures were read; 0 where the source does not tell.
        scale: factor of the cosines before the softmax.
        entropy, share: (T, C) mean entropy in nats of the pixels that a template predicts as a class, and their share
            of all pixels in percent; () where the source does not tell.
        source: where the table comes from.
    """

    names: tuple[str, ...]
    queries: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...]
    chosen: tuple[tuple[int, ...], ...]
    model: str
    pretrained: str
    weights: tuple[str, ...]
    base: str
    pictures: int = 0
    scale: float = 100.0
    entropy: tuple[tuple[float, ...], ...] = ()
    share: tuple[tuple[float, ...], ...] = ()
    source: str = ""
    tag_will_do: bool = False

    def __post_init__(self):
        if len(self.chosen) != len(self.names):
            raise DataError(
                f"{len(self.chosen)} choices of templates for {len(self.names)} classes"
            )
        if not self.templates:
            raise DataError("no templates")
        for name, places in zip(self.names, self.chosen, strict=True):
            if places and not 0 <= min(places) <= max(places) < len(self.templates):
                raise DataError(
                    f"template {max(places)} is chosen for {name!r}, and there are {len(self.templates)}"
                )

    def top(self, vocabulary: Vocabulary, count: int) -> list[list[int]]:
        """The `count` best templates of every class of a vocabulary, in its order; all for one never predicted.

        Raises RecipeError for other words than the table was fitted on, or fewer templates than `count` in a table
        that does not hold them all.
        """
        self.check_words(vocabulary)
        place = {name: index for index, name in enumerate(self.names)}
        chosen = [self.chosen[place[name]] for name in vocabulary.names]
        most = max(len(places) for places in chosen)
        if not self.entropy and count > most:
            raise RecipeError(
                f"experts.count={count}: the table holds {most} templates a class; use at most as many"
            )
        return [list(places[:count]) or list(range(len(self.templates))) for places in chosen]

    def check_words(self, vocabulary: Vocabulary) -> None:
        """Raise RecipeError if a vocabulary is not the one that the table was fitted on."""
        missing = sorted(set(vocabulary.names) - set(self.names))
        further = sorted(set(self.names) - set(vocabulary.names))
        if missing or further:
            fault = f"lacks {missing[0]!r}" if missing else f"also competes with {further[0]!r}"
            raise RecipeError(
                f"the table of templates was fitted on other words ({len(self.names)}; it {fault}); fit one on these: "
                "ovsslib.study.templates.rank_templates"
            )
        if not self.queries:
            return
        queries_of = dict(zip(self.names, self.queries, strict=True))
        for name, words in zip(vocabulary.names, vocabulary.synonyms, strict=True):
            if set(words) != set(queries_of[name]):
                raise RecipeError(
                    f"the table of templates was fitted with {name!r} read as {', '.join(queries_of[name])}, not as "
                    f"{', '.join(words)}; use the same text.names, or fit one on these: "
                    "ovsslib.study.templates.rank_templates"
                )

    def check_model(self, name: str, pretrained: str | None, weights: str) -> None:
        """Raise RecipeError if a model is not the one that the table was fitted with."""
        same = name.lower().startswith(self.model.lower()) and pretrained == self.pretrained
        if weights in self.weights or (self.tag_will_do and same):
            return
        raise RecipeError(
            f"the table of templates was fitted with the weights of {self.model} {self.pretrained} "
            f"({', '.join(self.weights)}), not with those of {name} {pretrained or ''} ({weights}); fit one with these: "
            "ovsslib.study.templates.rank_templates"
        )

    def to_json(self) -> str:
        """The table as JSON text, one entry a line, for :meth:`from_json`."""
        entries = {"format": FORMAT, **asdict(self)}
        lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def save(self, path: str | Path) -> Path:
        """Write the table as JSON. Raises DataError if that cannot be done."""
        return paths.write_file(path, self.to_json().encode())

    @staticmethod
    def from_json(text: str) -> "TemplateTable":
        """A table from JSON text. Raises DataError for something else."""
        try:
            content = json.loads(text)
            if content.pop("format") != FORMAT:
                raise DataError(
                    f"a table of templates of another format than {FORMAT}; fit it again"
                )
            fields: dict[str, Any] = {key: _tuples(value) for key, value in content.items()}
            return TemplateTable(**fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"not a table of templates: {error}") from None

    @staticmethod
    def load(name: str | Path) -> "TemplateTable":
        """A table by the name of a shipped one (:func:`shipped_tables`) or the path of its JSON file.

        Raises DataError if there is none, or the file is something else.
        """
        path = table_path(name)
        try:
            return _read(path, path.stat().st_mtime_ns)
        except OSError as error:
            raise DataError(
                f"no table of templates {str(name)!r} ({error.strerror}); shipped are "
                f"{', '.join(shipped_tables())}, or give the path of a JSON file that "
                "ovsslib.study.templates.rank_templates made"
            ) from None


def shipped_tables() -> tuple[str, ...]:
    """Names of the shipped tables."""
    return tuple(sorted(path.stem for path in paths.data("templates").glob("*.json")))


def table_path(name: str | Path) -> Path:
    """The file of a table: a shipped one by its name, any other by its path."""
    path = Path(name).expanduser()
    return path if path.suffix == ".json" else paths.data(f"templates/{name}.json")


def table_hash(name: str | Path) -> str:
    """Hash of a table's content, 16 hexadecimal digits. Raises DataError as :meth:`TemplateTable.load` does."""
    return hashlib.sha256(TemplateTable.load(name).to_json().encode()).hexdigest()[:16]


@lru_cache(maxsize=16)
def _read(path: Path, changed: int) -> TemplateTable:
    try:
        return TemplateTable.from_json(path.read_text(encoding="utf-8"))
    except (DataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}") from None


def _tuples(value: object) -> object:
    """Lists, as JSON gives them, as tuples."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_tuples(item) for item in value)
    return value
