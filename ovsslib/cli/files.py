"""Files that commands read words from, and places that they write to: looked at before any work is done."""

import stat
import sys
from pathlib import Path
from typing import Any

from ovsslib import paths
from ovsslib.errors import DataError, WordsError

LISTS = (".txt", ".yaml", ".yml", ".json", ".csv", ".tsv")
TABLES = (".csv", ".tsv")


def read_words(words: str, tables: bool = True) -> Any:
    """Words of the command line: themselves, or what the file, the pipe or the standard input ("-") of that name holds.

    Args:
        tables: a .csv or .tsv of words per picture can be used; without, it is refused.

    Raises WordsError for a name that ends like a file's and is none.
    """
    from ovsslib.segmenter import WordsByPicture, read_words_by_picture
    from ovsslib.text.vocabulary import Vocabulary

    if words.strip() == "-":
        return Vocabulary.from_words(_marked_lines(sys.stdin.read(), "the standard input"))
    path = Path(words).expanduser()
    suffix = path.suffix.lower()
    if _is_pipe(path):
        return Vocabulary.from_words(_marked_lines(path.read_text(encoding="utf-8-sig"), words))
    if not (suffix and paths.is_file(path)):
        if suffix in LISTS and "," not in words:
            raise WordsError(
                f"there is no file of words at {path}; write the words, or give another path"
            )
        return words
    if suffix not in TABLES:
        return Vocabulary.from_file(path)
    if not tables:
        raise WordsError(
            f"{path} holds words per picture, for `ovss segment FOLDER`; give a .txt file with one word a line"
        )
    return WordsByPicture(read_words_by_picture(path))


def _is_pipe(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _marked_lines(text: str, where: str) -> str:
    from ovsslib.text.cleaning import lines_of_file

    if not text.strip():
        raise WordsError(f"no words come from {where}; write one a line")
    return "\n".join(lines_of_file(text)[0])


def check_writable(*places: Path | None) -> None:
    """Raise DataError for a file that could not be written when all work is done: no folder for it, or a folder itself."""
    for place in places:
        if place is None:
            continue
        if paths.is_dir(place):
            raise DataError(f"{place} is a folder; name a file in it")
        if not paths.is_dir(place.parent):
            raise DataError(f"there is no folder {place.parent} to write {place.name} in; make it")


def expanded(argument: str) -> str:
    """An argument `--option=~/path` with the home folder written out, as the shell does for a path by itself."""
    option, sign, value = argument.partition("=")
    if sign and option.startswith("--") and value.startswith("~"):
        try:
            return f"{option}={Path(value).expanduser()}"
        except RuntimeError:  # no such user
            return argument
    return argument


def refuse_ignored(context: Any, names: tuple[str, ...], reason: str) -> None:
    """Raise DataError for an option that was given and would be ignored.

    Args:
        context: typer's; names: of the parameters; reason: why, and what to do instead.
    """
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = next(p.opts[0] for p in context.command.params if p.name == name)
            raise DataError(f"{option} {reason}")
