"""Reading, cleaning and comparing words, before they are a vocabulary.

How people write words, and how they are read, wherever they stand (Python, a file, the command line):

- a text on one line is a list of classes: `dog, cat; horse`. A comma, a semicolon or a new line ends a class;
- several lines are one class each: `dog, puppy`. Inside a line a comma or a semicolon ends a synonym;
- an element of a list, and the value of a mapping, is read like such a line: `["dog, puppy", "cat"]`;
- `|` always separates synonyms: `dog | puppy, cat`;
- a comma between two digits separates nothing; white space and case do not matter.
"""

import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from ovsslib.errors import WordsError


def as_list(synonyms: Any, name: str) -> list[str]:
    """The synonyms of a class as people write them: None, one text with commas, or a list.

    Raises WordsError for anything else.
    """
    if synonyms is None:
        return []
    if isinstance(synonyms, str):
        return split_synonyms(synonyms)
    if isinstance(synonyms, (Mapping, bytes)) or not isinstance(synonyms, Iterable):
        raise WordsError(f"the synonyms of {name!r} must be a list of texts, not {synonyms!r}")
    return [
        part
        for entry in synonyms
        for part in (split_synonyms(entry) if isinstance(entry, str) else [entry])
    ]


_CLASS_ENDS = re.compile(r"(?<!\d),|,(?!\d)|[;\n\r]")
_SYNONYM_ENDS = re.compile(r"(?<!\d),|,(?!\d)|[;|]")


def split_synonyms(line: str) -> list[str]:
    """Queries of one class as a line gives them: separated by a comma, a semicolon or "|"."""
    return [part for part in _SYNONYM_ENDS.split(line) if part.strip()]


def parse_classes(text: str) -> list[list[str]]:
    """Queries of every class of a text, the name first (see the head of this module).

    Raises WordsError for a text without a word, or an empty line between others.
    """
    lines = re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff").rstrip())
    if len(lines) > 1:
        for number, line in enumerate(lines, start=1):
            if not split_synonyms(line):
                raise WordsError(f"line {number} is empty, but every line is a class; remove it")
        return [split_synonyms(line) for line in lines]
    classes = [split_synonyms(part) for part in _CLASS_ENDS.split(text) if part.strip()]
    classes = [queries for queries in classes if queries]
    if not classes:
        raise WordsError("no words: give at least one")
    return classes


def clean_word(word: Any) -> str:
    """A word without surrounding or repeated white space, which CLIP's tokenizer drops as well.

    Raises WordsError if it is not a text, or is empty.
    """
    if not isinstance(word, str):
        raise WordsError(f"{word!r} is not a text; write it in quotes, as in 'dog'")
    cleaned = " ".join(word.split())
    if not cleaned:
        raise WordsError(f"{word!r} is an empty word; remove it")
    return cleaned


def clean_words(words: Iterable[Any], owner: str, quiet_name: bool = False) -> tuple[str, ...]:
    """Cleaned queries of one class; repeated ones are dropped with a warning.

    With `quiet_name` the class's own name may be repeated without one. Raises WordsError as
    :func:`clean_word` does.
    """
    cleaned: dict[str, str] = {}
    for position, word in enumerate(words):
        word = clean_word(word)
        if word_key(word) in cleaned:
            # People list the name again among its synonyms; there is nothing to tell them.
            if not (quiet_name and position and word_key(word) == word_key(owner)):
                warnings.warn(
                    f"class {owner!r}: dropped {word!r}, which it has twice", stacklevel=4
                )
            continue
        cleaned[word_key(word)] = word
    return tuple(cleaned.values())


def word_key(word: str) -> str:
    """What CLIP sees of a word's spelling: white space collapsed, lower case."""
    return " ".join(word.split()).lower()


def refuse_repeated(names: Iterable[str], vocabulary: str) -> None:
    """Raises WordsError that lists the names which CLIP could not tell apart."""
    by_key: dict[str, str] = {}
    repeated = []
    for name in names:
        if word_key(name) in by_key:
            repeated.append(name)
        by_key[word_key(name)] = name
    if repeated:
        listed = ", ".join(repr(name) for name in dict.fromkeys(repeated))
        raise WordsError(
            f"vocabulary {vocabulary!r} names more than one class {listed}; keep one of each"
        )
