"""The errors that ovsslib raises on purpose.

Every message names the offending value and says what to do about it. All of them derive from
:class:`OvssError`, so that a caller (the command line, a notebook) can show the message without a traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from typing import Any


class OvssError(Exception):
    """Base of every error that ovsslib raises on purpose."""


class ImageError(OvssError):
    """A picture cannot be read or worked on (missing, truncated, not an image, too small, too large)."""


class WordsError(OvssError):
    """A list of words, a vocabulary, or a prompt cannot be used (empty, too long, unknown name)."""


class RecipeError(OvssError):
    """A recipe, a stage, or a setting is unknown, out of range, or cannot go with another."""


class ModelError(OvssError):
    """A model is unknown, or its weights are missing, damaged, or do not fit the architecture."""


class DataError(OvssError):
    """A data set, a label map, or a results file is missing or does not have the expected form."""


class Notice(UserWarning):
    """What a person should be told about an answer that looks better than it is; a chapter of the book prints it."""


class MemoryBudgetError(OvssError):
    """The work asked for needs more memory than there is."""


class MissingPackageError(OvssError):
    """An optional package is needed for this feature; the message names the extra that installs it."""


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the closest known one, then all of them."""
    known = list(known)
    lower = {name.lower(): name for name in reversed(known)}
    close = get_close_matches(str(word), known, n=1) or [
        lower[match] for match in get_close_matches(str(word).lower(), lower, n=1)
    ]
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{hint}; known: {', '.join(known)}"


def require(module: str, extra: str, purpose: str, remedy: str = "") -> Any:
    """An optional package's module, imported. remedy: what to do where the extra alone does not help.

    Raises MissingPackageError that names the extra which installs it: "fetching data sets needs pooch; ...".
    """
    try:
        return import_module(module)
    except ImportError:
        raise MissingPackageError(
            f"{purpose} needs {module.partition('.')[0]}; install it with: "
            + (remedy or f"pip install 'ovsslib[{extra}]'")
        ) from None
