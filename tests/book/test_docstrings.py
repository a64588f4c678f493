"""Docstrings are what Sphinx's napoleon reads: no warning of docutils, no list or block run together into a paragraph."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from docutils import nodes
from docutils.core import publish_doctree
from docutils.parsers.rst import roles
from sphinx.ext.napoleon import Config, GoogleDocstring

PACKAGE = Path(__file__).resolve().parents[2] / "ovsslib"
ROOMS = sorted({path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py")})
SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Notes?):")
ARGUMENT = re.compile(r"[a-z_]\w*(, [a-z_]\w*)*: \S")
ROLE = re.compile(r":[a-z]+:`[^`]*`")
SETTINGS = {"report_level": 5, "halt_level": 6, "warning_stream": None}


def described(room: str) -> Iterator[tuple[str, str, str]]:
    """(place, kind, docstring) of all that a room's API page may show; kind is "" or "attribute"."""
    path = PACKAGE / room
    for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
                name = getattr(node, "name", "module")
                property_ = any(
                    "property" in ast.unparse(d) for d in getattr(node, "decorator_list", ())
                )
                text = ast.get_docstring(node)
                if text and not name.startswith("_"):
                    yield f"{file.name}: {name}", "attribute" if property_ else "", text
            if isinstance(node, (ast.ClassDef, ast.Module)):
                for before, after in zip(node.body, node.body[1:], strict=False):
                    text = after.value if isinstance(after, ast.Expr) else None
                    if isinstance(before, (ast.Assign, ast.AnnAssign)) and isinstance(
                        text, ast.Constant
                    ):
                        yield f"{file.name}: {ast.unparse(before)[:30]}", "attribute", text.value


def run_together(text: str) -> list[str]:
    """Lines that a reader would see inside a paragraph: blocks without "::", several arguments without a section."""
    lines, found, inside = text.splitlines(), [], False
    arguments = []
    for before, line in zip(["", *lines], lines, strict=False):
        if SECTION.fullmatch(line):
            inside = True
        elif line and not line.startswith(" "):
            inside = False
            arguments += [line] if ARGUMENT.match(line) else []
        elif line and not inside and not before and "::\n" not in text:
            found.append(line)
    return found + (arguments if len(arguments) > 1 else [])


@pytest.fixture(scope="module", autouse=True)
def sphinx_roles():
    """Roles that Sphinx brings."""

    def role(name, raw, text, line, inliner, options=None, content=None):
        return [nodes.literal(raw, text)], []

    for name in ("meth", "class", "func", "attr", "mod", "data", "exc", "obj"):
        roles.register_local_role(name, role)


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_are_read_as_they_are_meant(room):
    book = yaml.safe_load((PACKAGE.parent / "_config.yml").read_text(encoding="utf-8"))["sphinx"]
    config = Config(**{k: v for k, v in book["config"].items() if k.startswith("napoleon_")})
    problems = []
    for place, kind, text in described(room):
        source = "\n".join(GoogleDocstring(text.splitlines(), config).lines())
        tree = publish_doctree(source, settings_overrides=SETTINGS)
        told = [m.astext() for m in tree.findall(nodes.system_message) if m["level"] >= 2]
        told += run_together(text)
        # a line that goes on without an indentation is taken for a name
        named = re.findall(r"^:(?:param|ivar|raises) ([^:]*):", source, flags=re.MULTILINE)
        named += re.findall(r"^(?::\w+:| +) +\* \*\*(.*?)\*\* --", source, flags=re.MULTILINE)
        told += [name for name in named if not re.fullmatch(r"[\w*\\]+(, [\w*\\]+)*", name)]
        first = re.sub(r"`[^`]*`", "", ROLE.sub("", text.split("\n")[0]))
        if kind and ":" in first:
            told += [f"napoleon takes what stands before the colon for a type: {first}"]
        problems += [f"{place}: {problem}" for problem in told]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Look.\n\n    picture -> words", 1),
        ("Look::\n\n    picture -> words", 0),
        ("Look.\n\nimage: (H, W).\nmask: (H, W).", 2),
        ("Look.\n\nArgs:\n    image: (H, W).\n\n    mask: (H, W).", 0),
    ],
)
def test_what_runs_together_is_found(text, count):
    assert len(run_together(text)) == count
