"""The shipped sets of background words, and background words as people write them."""

from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import yaml

from ovsslib import paths
from ovsslib.errors import WordsError, did_you_mean
from ovsslib.text.cleaning import clean_word, split_synonyms


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
    chosen = "sclip" if text == "auto" else text.strip()
    if chosen in background_sets():
        return background_words(chosen)
    words = tuple(split_synonyms(text.replace("\n", ",")))
    if len(words) == 1 and get_close_matches(chosen, background_sets(), n=1):
        return background_words(chosen)  # raises, and names the set that was meant
    return tuple(clean_word(word) for word in words)


def background_words(name: str) -> tuple[str, ...]:
    """The words of a set. Raises WordsError that lists the known ones."""
    sets = _background_file()
    if name not in sets:
        raise WordsError(f"unknown background words {name!r}{did_you_mean(name, sets)}")
    return tuple(sets[name]["words"])
