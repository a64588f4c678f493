"""The shipped sets of background words, and background words as people write them."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import yaml

from ovsslib import paths
from ovsslib.errors import WordsError, did_you_mean
from ovsslib.text.cleaning import clean_word, refuse_file_name, split_synonyms, word_key


@lru_cache(maxsize=1)
def _background_file() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(paths.data("background_words.yaml").read_text(encoding="utf-8"))


def background_sets() -> dict[str, str]:
    """The sets of background words every vocabulary can use: {name: who used it}."""
    return {name: entry["source"] for name, entry in _background_file().items()}


def background_of(text: str) -> tuple[str, ...]:
    """Background words as a text gives them: "auto", the name of a set, or words (`sky, wall`).

    Raises WordsError for one word that looks like the name of a set and is none.
    """
    refuse_file_name(text)
    chosen = text.strip().lower()
    chosen = "sclip" if chosen == "auto" else chosen
    if chosen in background_sets():
        return background_words(chosen)
    words = tuple(split_synonyms(text.replace("\n", ",")))
    if len(words) == 1 and get_close_matches(chosen, background_sets(), n=1):
        return background_words(chosen)  # raises, and names the set that was meant
    return tuple(clean_word(word) for word in words)


def background_besides(background: Any, queries: Iterable[str]) -> list[Any]:
    """Background words as people give them: a text without what is among `queries`, or a list as it is.

    Raises WordsError for what is neither, and for a text of which nothing is left.
    """
    if not isinstance(background, str):
        if isinstance(background, (Mapping, bytes)) or not isinstance(background, Iterable):
            raise WordsError(
                f"background={background!r}: give None, 'auto', the name of a set, or a list of words"
            )
        return list(background)
    keys = {word_key(query) for query in queries}
    words = background_of(background)
    chosen = [word for word in words if word_key(word) not in keys]
    if words and not chosen:
        raise WordsError(
            f"all background words ({', '.join(words)}) are among the words; give others, or background=None"
        )
    return chosen


def background_words(name: str) -> tuple[str, ...]:
    """The words of a set. Raises WordsError that lists the known ones."""
    sets = _background_file()
    if name not in sets:
        raise WordsError(f"unknown background words {name!r}{did_you_mean(name, sets)}")
    return tuple(sets[name]["words"])
