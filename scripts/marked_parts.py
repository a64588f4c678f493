"""The part of a page between two marks, made anew: what the `fill_*` scripts write into cards, tables and pages."""

import re
from pathlib import Path

from ovsslib import paths


def refilled(text: str, begin: str, end: str, part: str) -> str:
    """A page with what stands between two of its lines made anew. Raises ValueError without these lines."""
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", flags=re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the page has no marks {begin!r} and {end!r}")
    return pattern.sub(lambda _: f"{begin}\n{part.strip()}\n{end}", text)


def refill(file: Path, begin: str, end: str, part: str) -> None:
    """:func:`refilled` on a file, and the new part printed. Raises ValueError without the marks."""
    try:
        text = refilled(file.read_text(encoding="utf-8"), begin, end, part)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    paths.write_file(file, text.encode())
    print(part.strip())
