"""Parameters of notebooks as people give them: papermill's `-p` and `-r` hand over a list as text."""

from typing import Any

import yaml

from ovsslib.errors import RecipeError


def name_list(given: Any, parameter: str, least: int = 1) -> list[str]:
    """The names of a parameter that is a list, however they were given.

    Args:
        given: a list or tuple of texts; or text: names with commas between them ("sclip, naclip"), one name, or a
            list as Python or YAML writes it ("['sclip', 'naclip']", "[sclip, naclip]"). "" and "[]" are the empty
            list, None too.
        parameter: what the notebook calls it, for the message.
        least: how many names there must be.

    Returns:
        The names without blanks around them, in their order.

    Raises RecipeError, which shows how papermill takes a list (`-y`), for anything else and for too few.
    """
    read = _split(given) if isinstance(given, str) else given
    if read is None:
        read = []
    if isinstance(read, (list, tuple)):
        names = [entry.strip() for entry in read if isinstance(entry, str) and entry.strip()]
        if len(names) == len(read) >= least:
            return names
    expectation = f"at least {least} name{'s' * (least > 1)}" if least else "names"
    raise RecipeError(
        f"parameter {parameter!r} is a list of {expectation}, not {given!r}; from a shell: "
        f"papermill ... -y '{parameter}: [first, second]' (-p hands over text: -p {parameter} \"first, second\")"
    )


def whole_number(given: Any, parameter: str, least: int = 1, none: bool = False) -> Any:
    """A whole number of at least `least`, given as a number or as text ("3"); with `none`, None and "None" are None.

    Raises RecipeError for anything else.
    """
    value = given
    if isinstance(given, str):
        text = given.strip()
        value = int(text) if text.removeprefix("-").isdecimal() else text
        value = None if text.lower() in ("none", "null", "") else value
    if (none and value is None) or (type(value) is int and value >= least):
        return value
    or_none = ", or None" if none else ""
    raise RecipeError(
        f"parameter {parameter!r} is a whole number of at least {least}{or_none}, not {given!r}; "
        f"from a shell: papermill ... -p {parameter} {max(least, 20)}"
    )


def _split(text: str) -> Any:
    """What a text stands for: a list, or what is none and is refused by the caller."""
    if text.strip()[:1] in ("[", "(", "{"):
        inside = text.strip()
        if inside[0] == "(" and inside[-1] == ")":  # Python's tuple
            inside = f"[{inside[1:-1]}]"
        try:
            return yaml.safe_load(inside)
        except yaml.YAMLError:
            return 0  # no list: refused
    parts: list[str] = []
    depth = 0
    for piece in text.split(
        ","
    ):  # commas inside brackets, as in refine=[pamr,densecrf], part nothing
        parts = [*parts[:-1], f"{parts[-1]},{piece}"] if depth else [*parts, piece]
        depth = max(
            0, sum(parts[-1].count(b) for b in "[({") - sum(parts[-1].count(b) for b in "])}")
        )
    return [part for part in parts if part.strip()]
