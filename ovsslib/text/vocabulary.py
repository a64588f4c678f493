"""Vocabularies: the classes of a data set, or a user's own words, and the queries that stand for
each class.

A class has one readable name; what is sent to CLIP for it are its *queries*. They differ between
published runs ("traffic light" or "trafficlight", "boat" or "ship", "person" or nine kinds of
persons), so a shipped vocabulary is opened under a naming variant (`VARIANTS`). Words CLIP should
know but nobody wants to see, such as "sky" and "wall" in PASCAL VOC, are the queries of the class
"background".
"""

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ovsslib import paths
from ovsslib.errors import WordsError, did_you_mean
from ovsslib.recipe.reading import read_yaml
from ovsslib.text.background_sets import background_besides, background_sets, background_words
from ovsslib.text.cleaning import (
    as_list,
    clean_word,
    clean_words,
    lines_of_file,
    parse_classes,
    refuse_repeated,
    refuse_set,
    split_synonyms,
    word_key,
)

if TYPE_CHECKING:
    import pandas as pd

BACKGROUND = "background"
KINDS = ("thing", "stuff", "material")

# Naming variants. A published spelling is stored only where it differs, so a variant looks for a
# class's own entry, then for the entry of the run whose class file it started from, then takes the
# data set's name.
VARIANTS = {
    "readable": "one query per class, in ordinary spelling",
    "synonyms": "the readable name and this project's synonyms",
    "canonical": "one query per class, the data set's own label name",
    "sclip": "class files of SCLIP, shared by NACLIP and ResCLIP",
    "itaclip": "class files of ITACLIP",
    "clearclip": "class files of ClearCLIP: bare words",
    "cdam": "class files of CDAM: one word per class",
    "sfp": "class files of SFP: SCLIP's, with people for person",
    "freecp": "class files of FreeCP: SCLIP's, each class's synonyms in one phrase",
    "corrclip": "class files of CorrCLIP, shared by OV-Stitcher: people for person, one word per class",
    "proxyclip": "class files of ProxyCLIP and Trident: SCLIP's, one word per class",
    "lposs": "class names of LPOSS: one word per class, in ordinary spelling on PASCAL VOC",
    "tagclip": "class files of TagCLIP's tags: label names, COCO's in VOC's spelling",
    "clip-es": "class files of CLIP-ES, also TagCLIP's maps: chair seat, person with clothes",
    "car": "class files of CaR: those of CLIP-ES, Context's in its own spelling",
    "clip-diy": "class files of CLIP-DIY: label names, tv/monitor",
}
_PUBLISHED = {
    "sclip": ("sclip",),
    "itaclip": ("itaclip", "sclip"),
    "clearclip": ("clearclip", "sclip"),
    "cdam": ("cdam", "sclip"),
    "sfp": ("sfp", "sclip"),
    "freecp": ("freecp", "sclip"),
    "corrclip": ("corrclip", "sclip"),
    "proxyclip": ("clearclip", "sclip"),
    "lposs": ("lposs",),
    "tagclip": ("tagclip",),
    "clip-es": ("clip-es", "tagclip"),
    "car": ("car", "clip-es", "tagclip"),
    "clip-diy": ("clip-diy",),
}


@dataclass(frozen=True)
class Vocabulary:
    """The words of a segmentation, in label order.

    Make one with :meth:`named`, :meth:`from_words` or :meth:`from_file`.

    Attributes:
        names: readable class names; the label of class c in a label map is c.
        synonyms: per class, the words that stand for it: its queries, at least one.
        kinds: per class "thing", "stuff" or "material" (decides the prompts of the adaptive
            strategy).
        groups: per class the name of its group, or None (free words have no groups).
        canonical: per class the data set's own label name.
        background: index of the class "background" (always 0), or None.
        name, title, source, variant: where it comes from.
    """

    names: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...]
    kinds: tuple[str, ...]
    groups: tuple[str | None, ...]
    canonical: tuple[str, ...] = ()
    background: int | None = None
    name: str = "words"
    title: str = ""
    source: str = ""
    variant: str = "readable"

    def __post_init__(self):
        if not self.canonical:
            object.__setattr__(self, "canonical", self.names)
        count = len(self.names)
        for label in ("synonyms", "kinds", "groups", "canonical"):
            if len(getattr(self, label)) != count:
                raise WordsError(
                    f"vocabulary {self.name!r}: {count} names, but "
                    f"{len(getattr(self, label))} {label}"
                )
        if not count:
            raise WordsError("no words: give at least one, such as ['person', 'grass']")
        refuse_repeated(self.names, self.name)
        for kind in self.kinds:
            if kind not in KINDS:
                raise WordsError(f"vocabulary {self.name!r}: unknown kind {kind!r}; kinds: {KINDS}")

    def __len__(self) -> int:
        """Number of classes, the background included."""
        return len(self.names)

    @property
    def queries(self) -> tuple[str, ...]:
        """All words that are encoded, class by class (Q strings)."""
        return tuple(word for words in self.synonyms for word in words)

    @property
    def query_class(self) -> tuple[int, ...]:
        """Class index of each query (Q integers, rising)."""
        return tuple(index for index, words in enumerate(self.synonyms) for _ in words)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that can change a result (16 hexadecimal digits)."""
        parts = [self.names, self.synonyms, self.kinds, self.groups, self.background]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def group_names(self) -> tuple[str, ...]:
        """The groups in the order of their first class; empty if the vocabulary has none."""
        return tuple(dict.fromkeys(group for group in self.groups if group is not None))

    def shared_names(self) -> dict[str, tuple[str, ...]]:
        """Queries that stand for more than one class: {query: names of those classes}.

        Such classes tie wherever that query wins, and the lower label gets the pixel.
        """
        owners: dict[str, list[str]] = {}
        for name, words in zip(self.names, self.synonyms, strict=True):
            for word in words:
                owners.setdefault(word_key(word), []).append(name)
        return {word: tuple(names) for word, names in owners.items() if len(names) > 1}

    def describe(self) -> "pd.DataFrame":
        """A table, one row per class (`ovss words show` prints it).

        Columns: name, kind, group, queries (joined by ", "), shared (those of its queries that
        stand for another class as well). Indexed by label.
        """
        import pandas as pd  # late: only tables need it

        shared = self.shared_names()
        rows = [
            {
                "index": index,
                "name": name,
                "kind": self.kinds[index],
                "group": self.groups[index] or "",
                "queries": ", ".join(self.synonyms[index]),
                "shared": ", ".join(w for w in self.synonyms[index] if word_key(w) in shared),
            }
            for index, name in enumerate(self.names)
        ]
        return pd.DataFrame(rows).set_index("index")

    @staticmethod
    def named(name: str, names: str = "readable", background: str = "default") -> "Vocabulary":
        """A shipped vocabulary (see :func:`available`).

        Args:
            names: naming variant, a key of `VARIANTS`.
            background: name of a set of background words (see :func:`background_sets`), or
                "default": the set of the variant's own run. A vocabulary without a background class
                has no use for it.
        Raises WordsError for an unknown name, variant or set, and lists the known ones.
        """
        if name not in available():
            raise WordsError(f"unknown vocabulary {name!r}{did_you_mean(name, available())}")
        return _from_content(_shipped(name), str(name), names, background)

    @staticmethod
    def from_words(words: Any, background: str | Iterable[str] | None = None) -> "Vocabulary":
        """A vocabulary of free words.

        Args:
            words: a list of words; a mapping `name: synonyms` (a list, or one text with commas, or
                None); one text with commas; or a Vocabulary. In a mapping the name itself is always
                one of the queries.
            background: None: every pixel gets one of the words. "auto": the usual background words
                (those of SCLIP) that are not among the words. Another text: the set of that
                name. A list: these. They become class 0, "background".
        Raises WordsError: no words, an empty word, something that is not a text, one name for two
        classes. A word that occurs twice in a class is dropped, and a word shared by two classes
        reported, by a warning.
        """
        if isinstance(words, Vocabulary):
            return words if background is None else words.with_background(background)
        names, synonyms = _classes_of(words)
        kinds = tuple(kind_of(name) for name in names)
        vocabulary = Vocabulary(names, synonyms, kinds, (None,) * len(names))
        if background is not None:
            vocabulary = vocabulary.with_background(background)
        _report_shared(vocabulary)
        return vocabulary

    def with_background(self, background: str | Iterable[str]) -> "Vocabulary":
        """A copy with a class "background" in front (index 0).

        `background`: "auto", the name of a set, or a list of words, as in :meth:`from_words`.
        Raises WordsError if there is such a class or word already, or no background word.
        """
        if self.background is not None:
            raise WordsError(f"vocabulary {self.name!r} has a background class already; pass None")
        if word_key(BACKGROUND) in {word_key(name) for name in self.names}:
            raise WordsError(
                "'background' is among the words and also the name of the background class: "
                "drop the word, or pass background=None"
            )
        chosen = background_besides(background, self.queries)
        if not chosen:
            raise WordsError("no background words: give at least one, or pass background=None")
        return Vocabulary(
            (BACKGROUND, *self.names),
            (clean_words(chosen, BACKGROUND), *self.synonyms),
            ("stuff", *self.kinds),
            (None if set(self.groups) == {None} else BACKGROUND, *self.groups),
            (BACKGROUND, *self.canonical),
            0,
            self.name,
            self.title,
            self.source,
            self.variant,
        )

    @staticmethod
    def from_file(
        path: str | Path,
        names: str = "readable",
        background: str = "default",
        background_line: bool = False,
    ) -> "Vocabulary":
        """A vocabulary from a file.

        `.yaml`, `.json`: the format of `data/vocabularies/` (`names` and `background` as in :meth:`named`),
        or a plain list of words, or a mapping `name: synonyms`. Anything else: the class files of
        the official repositories, one class a line, its queries separated by a comma or semicolon; the
        first is its name (`ovsslib.text.cleaning` has the rules). With `background_line` the first line holds the background words. Raises WordsError
        naming the file and what is wrong with it.
        """
        path = Path(path).expanduser()
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            wrong = (
                "it is not UTF-8; save it as UTF-8"
                if isinstance(error, UnicodeDecodeError)
                else error
            )
            raise WordsError(f"cannot read the vocabulary file {path}: {wrong}") from None
        try:
            if path.suffix.lower() not in (".yaml", ".yml", ".json"):
                return _from_lines(text, path.stem, background_line)
            content = read_yaml(text)
            if isinstance(content, dict) and "classes" in content:
                vocabulary = _from_content(content, path.stem, names, background)
                _report_shared(vocabulary)
                return vocabulary
            return Vocabulary.from_words(content)
        except (WordsError, yaml.YAMLError) as error:
            raise WordsError(f"{path}: {error}") from None


def available() -> tuple[str, ...]:
    """Names of the shipped vocabularies."""
    return tuple(sorted(path.stem for path in paths.data("vocabularies").glob("*.yaml")))


def kind_of(word: str) -> str:
    """Kind of a free word: that of the shipped class with this name, else "thing"."""
    return _known_kinds().get(word_key(word), "thing")


@lru_cache(maxsize=1)
def _known_kinds() -> dict[str, str]:
    kinds: dict[str, str] = {}
    for name in ("coco_stuff", "scenes", "ade20k", "context59", "cityscapes"):
        for entry in _shipped(name)["classes"]:
            for word in (entry["name"], entry.get("canonical"), *entry.get("synonyms", ())):
                if word:
                    kinds.setdefault(word_key(word), entry["kind"])
    return kinds


@cache
def _shipped(name: str) -> dict[str, Any]:
    return yaml.safe_load(paths.data(f"vocabularies/{name}.yaml").read_text(encoding="utf-8"))


def _from_content(content: Mapping, stem: str, variant: str, background: str) -> Vocabulary:
    """A vocabulary from the content of a YAML file in our format."""
    if variant not in VARIANTS:
        raise WordsError(
            f"unknown naming variant names={variant!r}{did_you_mean(variant, VARIANTS)}"
        )
    entries = content["classes"]
    if not isinstance(entries, list) or not entries:
        raise WordsError("`classes` must be a list of at least one class")
    entries = [entry if isinstance(entry, Mapping) else {"name": entry} for entry in entries]
    names, queries = [], []
    for place, entry in enumerate(entries):
        if "name" not in entry:
            raise WordsError(f"class {place} has no `name`: {dict(entry)!r}")
        if entry.get("index", place) != place:
            raise WordsError(
                f"class {entry['name']!r} stands at place {place} and says index {entry['index']}; "
                "list the classes in label order, from 0"
            )
        names.append(clean_word(entry["name"]))
        queries.append(clean_words(_queries_of(entry, variant), names[-1]))
    spec = content.get("background")
    index: int | None = None
    if spec is not None:
        index = spec.get("index", 0) if isinstance(spec, Mapping) else None
        if index != 0 or names[0] != BACKGROUND:
            raise WordsError("the background must be class 0 and be called 'background'")
        queries[0] = clean_words(_background_queries(spec, variant, background), BACKGROUND)
    return Vocabulary(
        tuple(names),
        tuple(queries),
        tuple(
            entry.get("kind") or kind_of(name) for entry, name in zip(entries, names, strict=True)
        ),
        tuple(entry.get("group") for entry in entries),
        tuple(entry.get("canonical", name) for entry, name in zip(entries, names, strict=True)),
        index,
        str(content.get("name", stem)),
        str(content.get("title", "")),
        str(content.get("source", "")),
        variant,
    )


def _queries_of(entry: Mapping, variant: str) -> list[str]:
    if variant == "readable":
        return [entry["name"]]
    if variant == "synonyms":
        return [entry["name"], *as_list(entry.get("synonyms"), entry["name"])]
    published = entry.get("as_published") or {}
    for run in _PUBLISHED.get(variant, ()):
        if run in published:
            return list(published[run])
    return [entry.get("canonical", entry["name"])]


def _background_queries(spec: Mapping, variant: str, background: str) -> Iterable[str]:
    sets = spec.get("sets") or {}
    if background == "default":
        background = (spec.get("by_names") or {}).get(variant, spec.get("default", "plain"))
    if background in sets:
        return sets[background]
    choices = [*sets, *background_sets()]
    if background not in choices:
        raise WordsError(
            f"unknown background words {background!r}{did_you_mean(background, choices)}"
        )
    return background_words(background)


def _from_lines(text: str, stem: str, background_line: bool) -> Vocabulary:
    if not text.strip():
        raise WordsError("no words: the file is empty")
    parsed = parse_classes("\n".join(lines_of_file(text)[0]))
    synonyms = [clean_words(queries, f"class {n}") for n, queries in enumerate(parsed, 1)]
    names = [words[0] for words in synonyms]
    if background_line:
        names[0] = BACKGROUND
    index = 0 if names[0] == BACKGROUND else None
    vocabulary = Vocabulary(
        tuple(names),
        tuple(synonyms),
        tuple("stuff" if name == BACKGROUND else kind_of(name) for name in names),
        (None,) * len(names),
        background=index,
        name=stem,
        variant="file",
    )
    _report_shared(vocabulary)
    return vocabulary


def _classes_of(words: Any) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Names and queries of free words, cleaned and checked."""
    refuse_set(words)
    if isinstance(words, Mapping):
        heads = [split_synonyms(name) if isinstance(name, str) else [name] for name in words]
        names = tuple(clean_word(head[0] if head else "") for head in heads)
        synonyms = tuple(
            clean_words([*head, *as_list(more, name)], name, quiet_name=True)
            for name, head, more in zip(names, heads, words.values(), strict=True)
        )
        return names, synonyms
    if isinstance(words, str):
        parsed: list[list[Any]] = list(parse_classes(words))
    elif words is None or isinstance(words, bytes) or not isinstance(words, Iterable):
        raise WordsError(
            f"words must be a list of texts or a mapping `name: synonyms`, not {words!r}"
        )
    else:
        parsed = [(split_synonyms(w) or [w]) if isinstance(w, str) else [w] for w in words]
    synonyms = tuple(
        clean_words([clean_word(word) for word in queries], str(queries[0])) for queries in parsed
    )
    return tuple(queries[0] for queries in synonyms), synonyms


def _report_shared(vocabulary: Vocabulary) -> None:
    for word, owners in vocabulary.shared_names().items():
        warnings.warn(
            f"{word!r} stands for {len(owners)} classes ({', '.join(owners)}); "
            "the first of them wins every tie",
            stacklevel=3,
        )
