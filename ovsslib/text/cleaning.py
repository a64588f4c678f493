"""Reading, cleaning and comparing words, before they are a vocabulary.

How people write words, and how they are read, wherever they stand (Python, a file, the command line):

- a text on one line is a list of classes: `dog, cat; horse`. A comma, a semicolon or a new line ends a class;
- several lines are one class each: `dog, puppy`. Inside a line a comma or a semicolon ends a synonym;
- an element of a list, and the value of a mapping, is read like such a line: `["dog, puppy", "cat"]`;
- `|` always separates synonyms: `dog | puppy, cat`;
- a comma between two digits separates nothing; white space and case do not matter;
- quotes around a word, and the brackets of a list that was pasted as text, are not part of it: `["dog", "cat"]`;
- in a file, lines that begin with `#` are comments, and marks that all lines have are no words: numbers that rise from 0 or
  1 (`0: dog`, `1 cat`), dashes and asterisks of a list.
"""

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ovsslib import paths
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


_NUMBERED = re.compile(r"\s*(\d+)(?:\s*[.:);,]\s*|\s+)(\S.*)")
_LISTED = re.compile(r"\s*[-*\u2022]\s+(\S.*)")


def lines_of_file(text: str) -> tuple[list[str], int]:
    """Lines of a file of classes without comments and marks (see the head of this module), and the first line's number.

    The number is 0 where lines are not numbered. Raises WordsError for an empty line between others.
    """
    numbered = enumerate(re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff").rstrip()), start=1)
    lines = [(number, line) for number, line in numbered if not line.lstrip().startswith("#")]
    while lines and not lines[0][1].strip():  # below a heading
        lines.pop(0)
    for number, line in lines:
        if not split_synonyms(line):
            raise WordsError(f"line {number} is empty, but every line is a class; remove it")
    plain = [line for _, line in lines]
    listed = [match[1] for line in plain if (match := _LISTED.fullmatch(line))]
    if len(plain) > 1 and len(listed) == len(plain):
        plain = listed
    found = [match for line in plain if (match := _NUMBERED.fullmatch(line))]
    first = int(found[0][1]) if found else 0
    counted = list(range(first, first + len(plain)))
    if len(plain) > 1 and first <= 1 and [int(match[1]) for match in found] == counted:
        return [match[2] for match in found], first
    return plain, 0


def refuse_file_name(text: str) -> None:
    """Raise WordsError for a text that is no word but the name of a file that is here."""
    if Path(text.strip()).suffix and paths.is_file(text.strip()):
        raise WordsError(
            f"{text!r} is a file and no word; write the words, or read the file of words: "
            f"Vocabulary.from_file({text.strip()!r})"
        )


def refuse_set(words: Any) -> None:
    """Raise WordsError for a set: its order, which would be that of the labels, is another one in the next run."""
    if isinstance(words, (set, frozenset)):
        raise WordsError(
            f"a set has no order, and the order of the words is that of the labels; give a list: {sorted(words, key=str)}"
        )


def parse_classes(text: str) -> list[list[str]]:
    """Queries of every class of a text, the name first (see the head of this module).

    Raises WordsError for a text without a word, or an empty line between others.
    """
    refuse_file_name(text)
    text = text.removeprefix("\ufeff").strip(" \t")
    if text.startswith("[") and text.rstrip().endswith("]"):
        text = text.rstrip()[1:-1]
    lines = re.split(r"\r\n|\r|\n", text.rstrip())
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
    """A word without quotes around it, and without surrounding or repeated white space, which CLIP's tokenizer drops too.

    Raises WordsError if it is not a text, is empty, or holds what no terminal in UTF-8 sends.
    """
    if not isinstance(word, str):
        raise WordsError(f"{word!r} is not a text; write it in quotes, as in 'dog'")
    cleaned = " ".join(word.split())
    if len(cleaned) > 2 and cleaned[0] == cleaned[-1] and cleaned[0] in "\"'":
        cleaned = cleaned[1:-1].strip()
    if any("\ud800" <= letter <= "\udfff" for letter in cleaned):
        raise WordsError(
            f"{word!r} holds bytes that are not UTF-8; set the terminal to it, as in LC_ALL=C.UTF-8"
        )
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
