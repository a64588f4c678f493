"""The house: rooms import from lower floors only, stages do not import each other, pieces stay small and described."""

import ast
from pathlib import Path

import pytest

from ovsslib.recipe import stages as registered_stages

PACKAGE = Path(__file__).resolve().parent.parent / "ovsslib"

# From the ground up: a room imports from rooms before it, or from its own folder.
ROOMS = (
    *("errors", "paths", "recipe", "identity", "_torchvision"),
    *("clip", "text", "images", "guides", "networks", "stages", "export", "comparators"),
    "segmenter",
    *("datasets", "evaluation", "editing", "study", "book", "cli", "__main__"),
)
FLOOR_OF = {room: floor for floor, room in enumerate(ROOMS)}
# The embedded world stands aside: only who offers its commands looks in.
ASIDE, MAY_LOOK_ASIDE = "scenes", {"cli"}

LONGEST = 450  # lines of a file

FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in FILES}


def room_of(file: Path) -> str:
    """First part of a module's path inside the package."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def lines_of(file: Path) -> int:
    """Lines of a text file."""
    return file.read_text(encoding="utf-8").count("\n")


def imported(tree: ast.AST) -> set[str]:
    """Modules and names of the library that a module imports, anywhere in it: "ovsslib.stages.pamr", ..."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written out from the package's name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("ovsslib.")}


def test_every_room_has_a_floor():
    rooms = {room_of(file) for file in FILES} - {"__init__"}
    assert rooms <= {*FLOOR_OF, ASIDE}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_come_from_the_same_floor_or_below(file):
    room = room_of(file)
    if room == "__init__":
        return
    for name in imported(TREES[file]):
        other = name.split(".")[1]
        if other == ASIDE:
            assert room in {ASIDE, *MAY_LOOK_ASIDE}, f"{file.name} imports {name}"
        elif room != ASIDE:
            assert FLOOR_OF[other] <= FLOOR_OF[room], f"{file.name} imports {name}"


def test_stages_do_not_import_each_other():
    """What several stages compute stands in a module of its own that registers none."""
    files = [file for file in FILES if room_of(file) == "stages" and file.stem != "__init__"]
    stages = {file.stem for file in files if "@stage(" in file.read_text(encoding="utf-8")}
    assert len(stages) > 15
    for file in files:
        others = {
            name.split(".")[2]
            for name in imported(TREES[file])
            if name.startswith("ovsslib.stages.")
        }
        assert not others & stages, f"{file.name} imports {others & stages}"


def test_stages_do_not_know_each_other_by_name():
    files = [file for file in FILES if room_of(file) == "stages"]
    names = set(registered_stages()) - {"attention", "labels", "text", "windows"}
    for file in files:
        for node in ast.walk(TREES[file]):
            if isinstance(node, ast.Compare) and any(
                isinstance(op, (ast.In, ast.NotIn)) for op in node.ops
            ):
                word = node.left.value if isinstance(node.left, ast.Constant) else None
                asked = ast.unparse(node.comparators[0])
                assert not (word in names and asked == "recipe"), f"{file.name} asks for {word!r}"
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "recipe.get":
                asked = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
                assert asked not in names, f"{file.name}: {ast.unparse(node)}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_files_and_functions_are_short_and_described(file):
    tree = TREES[file]
    assert lines_of(file) <= LONGEST
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 70, node.name
    classes = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and "Protocol" not in map(ast.unparse, node.bases)
    ]
    for owner in (tree, *(node for node in classes if not node.name.startswith("_"))):
        for node in owner.body:
            if "overload" in map(ast.unparse, getattr(node, "decorator_list", ())):
                continue  # a second signature; the function itself says what it does
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_scripts_tests_and_the_pages_code_are_as_short_as_the_package():
    folders = [PACKAGE.parent / name for name in ("bench", "book", "scripts", "tests")]
    files = [
        file
        for folder in folders
        for file in folder.rglob("*")
        if file.suffix in (".py", ".js", ".css")
    ]
    names = {file.name for file in files}
    assert {"page.js", "ovsslib.css", "build_live.py", "test_house.py"} <= names
    assert not [f"{file.name}: {lines_of(file)}" for file in files if lines_of(file) > LONGEST]


def test_nothing_is_written_for_a_newer_python_than_the_oldest_supported_one():
    newer = {
        "file_digest",
        "StrEnum",
        "batched",
        "UTC",
        "Self",
        "tomllib",
        "ExceptionGroup",
        "TaskGroup",
    }
    for file, tree in TREES.items():
        ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 10))
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        }
        assert not names & newer, f"{file.name} uses {names & newer}"
