"""Turns the library's plain docstrings into reStructuredText for the API pages.

A docstring here is prose with `code` in single backticks. A line that begins with "name: "
describes an argument or a field, a line that begins with "- " is an item of a list, and an indented
block is shown as it stands. Sections as "Args:" and "Raises:" with indented items are read as well.
Everything else is a paragraph, whose special characters mean nothing.
"""

import inspect
import re
import textwrap
from typing import Any

_ARGUMENT = re.compile(r"^([A-Za-z_]\w*(?:, [A-Za-z_]\w*)*)(?: (\([^)]*\)))?: (?=\S)")
_PROSE = (
    "Raises",
    "Returns",
    "Example",
    "Note",
    "Source",
    "Equation",
    "Paper",
    "Default",
    "Defaults",
)
_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields|Notes?):$")
_SPECIAL = re.compile(r"([\\*|_])")
_CODE = re.compile(r"(:[a-z:]+:`[^`]+`|``[^`]+``|`[^`]+`)")


def inline(text: str) -> str:
    """One paragraph: single backticks become code, roles stay, all other special characters are
    escaped.
    """
    parts = _CODE.split(text)
    for index, part in enumerate(parts):
        if index % 2 == 0:
            parts[index] = _SPECIAL.sub(r"\\\1", part).replace("`", r"\`")
        elif part.startswith("`") and not part.startswith("``"):
            parts[index] = f"``{part[1:-1]}``"
        if index % 2 and index + 1 < len(parts) and re.match(r"[\w(]", parts[index + 1]):
            parts[index] += "\\ "  # markup must end at a word's end
        if index % 2 and parts[index - 1] and re.search(r"\w$", parts[index - 1]):
            parts[index] = "\\ " + parts[index]
    return "".join(parts)


def convert(lines: list[str]) -> list[str]:
    """Docstring lines without common indentation -> reStructuredText lines."""
    out: list[str] = []
    block: list[str] = []
    prefix = ""

    def flush() -> None:
        nonlocal block, prefix
        if block:
            out.extend([prefix + inline(" ".join(block)), ""])
        block, prefix = [], ""

    index = 0
    while index < len(lines):
        line = lines[index].rstrip()
        argument = _ARGUMENT.match(line)
        if not line:
            flush()
        elif _SECTION.match(line):
            flush()
            end = index + 1
            while end < len(lines) and (not lines[end].strip() or lines[end][0] in " \t"):
                end += 1
            body = textwrap.dedent("\n".join(lines[index + 1 : end])).splitlines()
            out.extend([f"**{line[:-1]}**", "", *convert(body)])
            index = end
            continue
        elif line.startswith((" ", "\t")) and not block:
            out.extend(["::", ""])
            while index < len(lines) and (not lines[index].strip() or lines[index][0] in " \t"):
                out.append("    " + lines[index])
                index += 1
            out.append("")
            continue
        elif argument and line.split(":")[0] not in _PROSE and len(argument[1].split(", ")) < 9:
            flush()
            names = ", ".join(f"``{name}``" for name in argument[1].split(", "))
            out.extend([f"- {names}: " + inline(_gather(lines, index, line[argument.end() :])), ""])
            index = _end_of_item(lines, index)
            continue
        elif line.startswith(("- ", "* ")):
            flush()
            out.extend(["- " + inline(_gather(lines, index, line[2:])), ""])
            index = _end_of_item(lines, index)
            continue
        else:
            block.append(line.strip())
        index += 1
    flush()
    return out


def _end_of_item(lines: list[str], start: int) -> int:
    """Index after the item that begins at `start`: it ends at a blank line or where another begins."""
    index = start + 1
    while index < len(lines):
        line = lines[index]
        if not line.strip() or line.startswith(("- ", "* ")) or _ARGUMENT.match(line):
            break
        index += 1
    return index


def _gather(lines: list[str], start: int, first: str) -> str:
    rest = [line.strip() for line in lines[start + 1 : _end_of_item(lines, start)]]
    return " ".join([first, *rest])


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = convert(lines)


def _skip(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out what another page shows: submodules, and names that a package passes on."""
    if what != "module":
        return None
    here = app.env.temp_data.get("autodoc:module")
    home = getattr(obj, "__module__", None)
    passed_on = (inspect.isclass(obj) or inspect.isroutine(obj)) and home != here
    return True if inspect.ismodule(obj) or passed_on else None


def setup(app: Any) -> dict[str, bool]:
    """Registers the converter with autodoc."""
    app.connect("autodoc-process-docstring", _process)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
