"""Every command and every piece of Python that the book prints would work: names are looked up, nothing slow runs.

test_repository.py runs the commands of the README; here those of all pages and notebooks are parsed.
"""

import ast
import inspect
import re
import shlex
from pathlib import Path

import click
import open_clip
import papermill.cli
import pytest
import typer
import yaml
from book_texts import NOTEBOOKS, ROOT, cells, markdown

import ovsslib
from ovsslib.book.parameters import name_list
from ovsslib.cli.main import app
from ovsslib.errors import OvssError
from ovsslib.evaluation.profiles import Profile
from ovsslib.recipe import Recipe, parse_changes
from ovsslib.study.claims import DATASETS, claims_of, runs_for

PACKAGE = sorted((ROOT / "ovsslib").rglob("*.py"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
RECIPES = {"recipe", "recipes", "baseline", "full"}  # parameters that hold names of recipes
BLOCK = re.compile(r"^( *)```.*?^\1``` *$", flags=re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<![`}])`((?:ovss|make|papermill|conda) [^`\n]+|-[py] [^`\n]+)`")


def snippets(text: str, language: str) -> list[str]:
    """Code blocks of a language in a markdown text, directives included, options and titles apart."""
    fence = rf"^ *```(?:{language}|\{{code-block\}} {language})\b[^\n]*\n(.*?)^ *```"
    return re.findall(fence, text, flags=re.MULTILINE | re.DOTALL)


def command_lines(text: str) -> list[str]:
    """Commands that a text prints, in blocks and in sentences; a loop's variable takes its first value."""
    lines, values = [], {}
    for line in "\n".join(snippets(text, "bash")).splitlines():
        loop = re.fullmatch(r"for (\w+) in (\S+) .*; do", line.strip())
        if loop:
            values[loop[1]] = loop[2]
        elif line.strip() not in ("", "done"):
            lines.append(line.strip())
    lines += INLINE.findall(BLOCK.sub("", text))
    for name, value in values.items():
        lines = [line.replace(f"${name}", value) for line in lines]
    return lines


COMMANDS = [(source, line) for source, text in markdown() for line in command_lines(text)]
SNIPPETS = [(source, code) for source, text in markdown() for code in snippets(text, "python")]


def parameters_of(notebook: Path) -> dict[str, object]:
    """Names and values of a notebook's parameters cell."""
    [cell] = [c for c in cells(notebook) if "parameters" in c.metadata.get("tags", [])]
    body = ast.parse(cell.source).body
    return {node.targets[0].id: ast.literal_eval(node.value) for node in body}


def check_parameters(values: dict[str, object], defaults: dict[str, object]) -> None:
    """Names are those of the notebook, and what they name exists."""
    assert set(values) <= set(defaults), f"the notebook's parameters are {list(defaults)}"
    profile = Profile.named(str(values.get("profile", defaults["profile"])))
    for name, value in values.items():
        if name.endswith("profile"):
            Profile.named(str(value))
        elif name in RECIPES:
            for recipe in name_list(value, name, least=0):
                Recipe.named(recipe, profile.dataset)
        elif name == "overrides":
            Recipe("overrides").but(parse_changes(value))
        elif name in ("limit", "seed"):
            assert value is None or int(value) >= 0, f"{name}={value}"
        else:
            assert defaults[name] is None or type(value) is type(defaults[name]), f"{name}={value}"


def check_papermill(words: list[str]) -> None:
    """Papermill itself reads the line; then the notebook and its parameters are looked at."""
    given = papermill.cli.papermill.make_context("papermill", words).params
    assert (ROOT / given["notebook_path"]).is_file(), f"no {given['notebook_path']}"
    assert given["output_path"].endswith(".ipynb"), given["output_path"]
    values = {name: yaml.safe_load(value) for name, value in given["parameters"]}
    for text in given["parameters_yaml"]:
        values |= yaml.safe_load(text)
    check_parameters(values, parameters_of(ROOT / given["notebook_path"]))


def check_ovss(words: list[str]) -> None:
    """The command's own parser reads the line; then the names in it are looked up."""
    command, name = typer.main.get_command(app), "ovss"
    while hasattr(command, "commands") and words:
        assert words[0] in command.commands, f"{name} has {sorted(command.commands)}"
        name, command, words = words[0], command.commands[words[0]], words[1:]
    if not words:  # `ovss words define`: a sentence that names the command only
        return
    given = command.make_context(name, list(words)).params
    if given.get("profile"):
        Profile.named(given["profile"])
    recipes = given.get("recipe") or ()
    for recipe in [recipes] if isinstance(recipes, str) else recipes:
        if recipe != "sclip-debiased":  # the recipe that CONTRIBUTING.md has its reader write
            Recipe.named(recipe)
    Recipe("changes").but(parse_changes(given.get("set_") or ()))
    if name == "reproduce" and not given["list_"]:
        # on Scenes a table may be answered without an evaluation
        needed = claims_of if given["profile"] == "embedded" else runs_for
        assert len(needed(given["target"], given["dataset"]))


def check_make(words: list[str]) -> None:
    """Targets and variables are those of the Makefile; the profile exists."""
    for word in words:
        name, given, value = word.partition("=")
        pattern = rf"^{name}\s*\?=" if given else rf"^{name}:.*##"
        assert re.search(pattern, MAKEFILE, flags=re.MULTILINE), f"the Makefile has no {name}"
        if name == "PROFILE" and value != "path/to/own.yaml":  # the reader's own file
            Profile.named(value)


def check_command(line: str, source: str = "") -> None:
    """One line of a page or notebook, by its first word. Anything wrong with it is an exception."""
    first, *words = shlex.split(line)
    if first == "papermill":
        check_papermill(words)
    elif first in ("-p", "-y"):  # "the same line with `-p profile ...`"
        notebook = source if source.endswith(".ipynb") else "01_baseline.ipynb"
        check_papermill([f"notebooks/{notebook}", "out.ipynb", first, *words])
    elif first == "ovss":
        check_ovss(words)
    elif first == "make":
        check_make(words)
    elif first == "export":
        name = words[0].partition("=")[0]
        assert any(name in file.read_text(encoding="utf-8") for file in PACKAGE), name
    else:
        assert (first, words[:3]) == ("conda", ["env", "create", "-f"]), f"unknown command {first}"
        assert (ROOT / words[3]).is_file(), words[3]


def check_snippet(code: str) -> None:
    """Python of a page: it compiles, the library has what it calls, and takes what it is given."""
    for call in (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        if not re.fullmatch(r"ovsslib(\.\w+)+", name):
            continue
        target = ovsslib
        for part in name.split(".")[1:]:
            target = getattr(target, part)
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        bound = inspect.signature(target).bind(*call.args, **given).arguments
        literal = {
            key: value.value for key, value in bound.items() if isinstance(value, ast.Constant)
        }
        if target is Recipe.named:
            Recipe.named(**literal)
        elif name == "ovsslib.open_dataset":
            assert literal["name"] in DATASETS
        elif name == "ovsslib.load":
            Recipe.named(literal["recipe"])
        model = literal.get("model", literal.get("name") if "backbone" in name else None)
        if model and model != "sceneclip":
            tag = literal.get("pretrained", "")
            assert model in open_clip.list_models(), model
            assert "/" in tag or tag in open_clip.list_pretrained_tags_by_model(model), tag


@pytest.mark.parametrize(("source", "line"), COMMANDS)
def test_every_printed_command_is_one(source, line):
    check_command(line, source)


@pytest.mark.parametrize(
    "line",
    [
        "papermill notebooks/99_nothing.ipynb out.ipynb",
        "papermill notebooks/01_baseline.ipynb out.ipynb -p profiles embedded",
        "papermill notebooks/01_baseline.ipynb out.ipynb -p profile openai-vitb16-voc",
        "papermill notebooks/01_baseline.ipynb out.ipynb -y \"overrides: ['labels.scale=100']\"",
        "papermill notebooks/01_baseline.ipynb out.ipynb --parameter limit 3",
        "papermill notebooks/14_annex.ipynb out.ipynb -p recipe scilp",
        "ovss evaluate --recipes sclip",
        "ovss evaluate --recipe scilp",
        "ovss reproduce itaclip-table99",
        "ovss reproduce thesis-table4.10 --profile embedded",
        "ovss reproduce --lists",
        "ovss segments photo.jpg",
        "make books",
        "make book PROFIL=embedded",
        "make book PROFILE=embeded",
        "export OVSSLIB_DATUM=/data",
        "wget something",
    ],
)
def test_wrong_commands_are_found(line):
    with pytest.raises((AssertionError, OvssError, click.ClickException, typer.TyperException)):
        check_command(line)


def test_every_place_has_commands():
    """A pattern that finds nothing would let everything pass."""
    with_commands = {source for source, _ in COMMANDS}
    assert with_commands >= {path.name for path in NOTEBOOKS}
    assert with_commands >= {"README.md", "classroom.md", "rerun.md", "CONTRIBUTING.md"}
    assert {source for source, _ in SNIPPETS} >= {"README.md", "rerun.md", "index.md"}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_default_parameters_name_what_exists(notebook):
    defaults = parameters_of(notebook)
    assert {"profile", "overrides", "limit", "seed"} <= set(defaults)
    assert RECIPES & set(defaults)
    check_parameters(defaults, defaults)


@pytest.mark.parametrize(("source", "code"), SNIPPETS)
def test_every_python_snippet_fits_the_library(source, code):
    check_snippet(code)


@pytest.mark.parametrize(
    "code",
    [
        'ovsslib.load("scilp")',
        'ovsslib.laod("sclip")',
        'ovsslib.load("sclip", modle="ViT-B-16")',
        'ovsslib.load("sclip", model="ViT-B-17", pretrained="openai")',
        'ovsslib.load("sclip", model="ViT-B-16", pretrained="opneai")',
        'ovsslib.open_dataset("voc22")',
        "import ovsslib; ovsslib.load(",
    ],
)
def test_wrong_snippets_are_found(code):
    with pytest.raises((AssertionError, AttributeError, OvssError, SyntaxError, TypeError)):
        check_snippet(code)
