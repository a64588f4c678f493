"""Mutants: small faults put into a copy of the library on purpose, to see whether a test notices each.

    python scripts/mutate.py                          # 3 mutants per stage file, 6 per file of the flow
    python scripts/mutate.py pamr rcs --per-file 8    # some files
    python scripts/mutate.py --list                   # show the mutants only

A mutant flips a sign, drops a term or changes a constant. The golden cases that use the file are measured first
(`golden.py`), then the unit tests that name it are run. Prints a table; the last column says who caught it, and
"NOT CAUGHT" is a hole in the tests, or a change that changes nothing. Not for every day: about half a minute each.
"""

import argparse
import ast
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLOW = (
    "clip/backbone.py", "segmenter/encoding.py", "segmenter/finishing.py", "segmenter/last_block.py",
    "images/pictures.py", "text/features.py", "text/prompts.py", "evaluation/metrics.py", "networks/loftup.py",
)  # fmt: skip
# Functions that decide what is allowed, not what a number is; and what is only shown.
_SKIPPED = (
    "refuse",
    "inert",
    "check",
    "__post_init__",
    "__repr__",
    "summary",
    "describe",
    "problem",
)
_SECONDS = 420
_CASES = 5
# Calls whose numbers are axes and sizes: a wrong one stops at once.
_SHAPING = (
    "flatten", "unflatten", "transpose", "permute", "reshape", "view", "expand", "unsqueeze", "squeeze", "size",
    "softmax", "sum", "mean", "amax", "max", "argmax", "new_zeros", "zeros", "repeat", "stack", "range",
)  # fmt: skip
_SWAPS = {ast.Add: "-", ast.Sub: "+"}


@dataclass(frozen=True)
class Mutant:
    """One fault: which file, which bytes of it, by what.

    Attributes:
        file: relative to the package.
        line: number of the line, from 1.
        kind: "sign", "term" or "constant".
        start, end: place in the file's bytes. new: what stands there instead.
        before: the text that it replaces.
    """

    file: str
    line: int
    kind: str
    start: int
    end: int
    before: str
    new: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.kind}: {self.before} -> {self.new}"


class _Finder(ast.NodeVisitor):
    """All mutants of one file."""

    def __init__(self, file: str, source: str):
        self.file, self.source = file, source.encode()
        lines = source.encode().splitlines(keepends=True)
        self.starts = [sum(map(len, lines[:i])) for i in range(len(lines) + 1)]
        self.mutants: list[Mutant] = []

    def place(self, node: ast.AST) -> tuple[int, int]:
        start = self.starts[node.lineno - 1] + node.col_offset
        return start, self.starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.AST) -> str:
        start, end = self.place(node)
        return self.source[start:end].decode()

    def add(self, node: ast.AST, kind: str, new: str) -> None:
        start, end = self.place(node)
        before = self.text(node)
        if "\n" not in before:
            self.mutants.append(Mutant(self.file, node.lineno, kind, start, end, before, new))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if not node.name.strip("_").startswith(tuple(s.strip("_") for s in _SKIPPED)):
            for part in node.body:
                self.visit(part)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in node.body:
            if isinstance(part, ast.FunctionDef):
                self.visit(part)

    def visit_Raise(self, node: ast.Raise) -> None:
        return

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        return

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.body[0], ast.Raise):  # a check
            return
        self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        return

    def visit_BinOp(self, node: ast.BinOp) -> None:
        numbers = not any(
            isinstance(side, (ast.JoinedStr, ast.List)) for side in (node.left, node.right)
        )
        left, right = self.text(node.left), self.text(node.right)
        if type(node.op) in _SWAPS and numbers and not _is_text(node):
            self.add(node, "sign", f"({left} {_SWAPS[type(node.op)]} {right})")
            self.add(node, "term", f"({left})")
        elif isinstance(node.op, (ast.Mult, ast.Div)):
            self.add(node, "term", f"({left})")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        inner = node.operand
        if isinstance(node.op, ast.USub) and not isinstance(inner, ast.Constant):
            self.add(node, "sign", f"({self.text(inner)})")
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.visit(node.value)  # a wrong index mostly stops: no use as a mutant

    def visit_Call(self, node: ast.Call) -> None:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        self.visit(node.func)
        for part in node.args if name not in _SHAPING else ():
            self.visit(part)
        for keyword in node.keywords:
            if keyword.arg not in ("dim", "axis", "keepdim"):
                self.visit(keyword.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return
        if value and not 1e-6 < abs(value) < 5000:  # guards against zero, sizes of memory
            return
        new = value * 1.1 if isinstance(value, float) and value else value + 1
        self.add(node, "constant", repr(new))


def _is_text(node: ast.BinOp) -> bool:
    return any(
        isinstance(part, ast.Constant) and isinstance(part.value, str) for part in ast.walk(node)
    )


def mutants_of(file: str, count: int, seed: int = 0) -> list[Mutant]:
    """`count` mutants of a file, the kinds in turn, the same every time for a seed."""
    source = (ROOT / "ovsslib" / file).read_text(encoding="utf-8")
    finder = _Finder(file, source)
    finder.visit(ast.parse(source))
    chance = random.Random(f"{file} {seed}")
    by_kind = {
        kind: chance.sample(group, len(group))
        for kind in ("sign", "term", "constant")
        if (group := [m for m in finder.mutants if m.kind == kind])
    }
    chosen: list[Mutant] = []
    while len(chosen) < count and any(by_kind.values()):
        for group in by_kind.values():
            if group and len(chosen) < count:
                chosen.append(group.pop())
    return sorted(chosen, key=lambda m: (m.line, m.kind))


def stage_files() -> dict[str, list[str]]:
    """Files below `stages/` -> stages whose numbers depend on them (pure helpers: those that import them)."""
    names: dict[str, list[str]] = {}
    imports: dict[str, set[str]] = {}
    for path in sorted((ROOT / "ovsslib/stages").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [
            d for n in tree.body if isinstance(n, ast.ClassDef) for d in n.decorator_list
            if isinstance(d, ast.Call) and getattr(d.func, "id", "") == "stage"
        ]  # fmt: skip
        names[path.stem] = [call.args[0].value for call in calls]
        imports[path.stem] = {
            node.module.rpartition(".")[2]
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("ovsslib.stages.")
        }
    for stem, stage_names in names.items():
        if not stage_names:
            users = [user for user, modules in imports.items() if stem in modules and names[user]]
            names[stem] = sorted({stage for user in users for stage in names[user]})
    left_out = ("__init__", "contexts", "hooks")
    return {
        f"stages/{s}.py": dependents
        for s, dependents in names.items()
        if s not in left_out and dependents
    }


def unit_tests(folder: Path, file: str) -> list[str]:
    """Test files that bear the file's name or import it, the former first."""
    stem, dotted = Path(file).stem, f"ovsslib.{file.removesuffix('.py').replace('/', '.')}"
    named, importing = [], []
    for path in sorted((folder / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        parent, _, name = dotted.rpartition(".")
        if path.stem == f"test_{stem}":
            named.append(str(path))
        elif dotted in text or f"from {parent} import {name}" in text:
            importing.append(str(path))
    files = named + importing + [str(folder / "tests/test_methods.py")]
    return [path for path in dict.fromkeys(files) if "test_golden" not in path]


# -- running -------------------------------------------------------------------------------------------------------

_CHILD = """
import os, pickle, sys, traceback
sys.path[:0] = sys.argv[1:2] + [os.path.join(sys.argv[1], part) for part in ("scripts", "tests", "tests/evaluation", "tests/study")]
what = sys.argv[2]
try:
    if what == "golden":
        import warnings
        warnings.simplefilter("ignore")
        import golden
        cases = [golden.Case(*parts) for parts in pickle.load(open(sys.argv[3], "rb"))]
        problem = golden.compare(cases)
        print((problem or "").splitlines()[1:2])
        sys.exit(1 if problem else 0)
    else:
        import pytest
        sys.exit(int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--no-header", *sys.argv[3:]]) != 0))
except SystemExit:
    raise
except BaseException:
    traceback.print_exc()
    sys.exit(1)
"""


def prepared(folder: Path) -> Path:
    """A copy of the checkout in `folder`, whose data is that of the checkout."""
    ignore = shutil.ignore_patterns("__pycache__", ".venv", ".git")
    for part in ("ovsslib", "tests", "scripts"):
        shutil.copytree(ROOT / part, folder / part, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for part in ("data", "book", "notebooks"):
        (folder / part).symlink_to(ROOT / part)
    return folder


def environment(cache: Path, folder: Path) -> dict[str, str]:
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **threads, "OVSSLIB_CACHE": str(cache), "PYTHONPATH": str(folder)}


def known_cases(target: Path) -> None:
    """The golden cases of the checkout, with their features, into a file."""
    import golden

    cases = [*golden.shipped_cases(), *golden.kept_cases()[0]]
    content = [((c.name, c.content, c.counts), sorted(c.features)) for c in cases]
    target.write_bytes(pickle.dumps(content))


def chosen_cases(cases_file: Path, stages: Sequence[str], target: Path, count: int | None) -> int:
    """The cases that use one of the stages (all cases for none), those with most in them first."""
    content = pickle.loads(cases_file.read_bytes())
    fitting = [
        (parts, features)
        for parts, features in content
        if not stages or set(stages) & set(features)
    ]
    # Cases with many settings of these stages say most about them; small ones are cheap and clear.
    fitting.sort(
        key=lambda pair: (
            -sum(f.split(".")[0] in stages for f in pair[1]), len(pair[1]) if stages else -len(pair[1])
        )
    )  # fmt: skip
    kept = fitting[:count]
    target.write_bytes(pickle.dumps([parts for parts, _ in kept]))
    return len(kept)


def ask(folder: Path, cache: Path, *arguments: str) -> tuple[bool, str]:
    """Whether a child process that measures or tests the copy found something, and the last it said."""
    try:
        result = subprocess.run(
            [sys.executable, "-c", _CHILD, str(folder), *arguments], cwd=folder,
            env=environment(cache, folder), capture_output=True, text=True, timeout=_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return True, "it never ends"
    lines = (result.stdout + result.stderr).strip().splitlines()
    return result.returncode != 0, lines[-1] if lines else ""


def try_mutant(mutant: Mutant, folder: Path, cases_file: Path, stages: Sequence[str]) -> str:
    """Who caught a mutant: "golden", "unit", or "NOT CAUGHT"."""
    path = folder / "ovsslib" / mutant.file
    source = path.read_bytes()
    path.write_bytes(source[: mutant.start] + mutant.new.encode() + source[mutant.end :])
    cases = folder / "cases.pickle"
    try:
        with tempfile.TemporaryDirectory() as cache:
            measured = chosen_cases(cases_file, stages, cases, _CASES)
            if measured and ask(folder, Path(cache), "golden", str(cases))[0]:
                return "golden"
            if ask(folder, Path(cache), "unit", *unit_tests(folder, mutant.file))[0]:
                return "unit"
        return "NOT CAUGHT"
    finally:
        path.write_bytes(source)


def selected_mutants(options: argparse.Namespace) -> Iterator[tuple[Mutant, list[str]]]:
    """The mutants asked for, with the stages that they are in."""
    files = {**stage_files(), **{file: [] for file in FLOW}}
    files["networks/loftup.py"] = ["upsampling"]
    for file, stages in files.items():
        if not options.files or Path(file).stem in options.files or file in options.files:
            count = options.per_file or (6 if file in FLOW else 3)
            for mutant in mutants_of(file, count, options.seed):
                yield mutant, stages


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="names of files, without .py; none: all")
    parser.add_argument("--per-file", type=int, help="mutants per file")
    parser.add_argument("--seed", type=int, default=0, help="which mutants are drawn")
    parser.add_argument("--list", action="store_true", help="show them, try none")
    parser.add_argument(
        "--log", type=Path, help="append results here, and skip what is there already"
    )
    options = parser.parse_args()
    mutants = list(selected_mutants(options))
    if options.list:
        print(*(mutant for mutant, _ in mutants), f"{len(mutants)} mutants", sep="\n")
        return 0
    results = {}
    if options.log and options.log.is_file():
        results = dict(
            json.loads(line) for line in options.log.read_text(encoding="utf-8").splitlines()
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = prepared(Path(temporary).resolve())
        cases_file = folder / "known.pickle"
        known_cases(cases_file)
        for mutant, stages in mutants:
            if str(mutant) in results:
                continue
            started = time.monotonic()
            verdict = results[str(mutant)] = try_mutant(mutant, folder, cases_file, stages)
            print(f"{verdict:<11} {time.monotonic() - started:4.0f} s  {mutant}", flush=True)
            if options.log:
                with open(options.log, "a", encoding="utf-8") as file:
                    file.write(json.dumps([str(mutant), verdict]) + "\n")
    missed = [str(mutant) for mutant, _ in mutants if results[str(mutant)] == "NOT CAUGHT"]
    counts = {
        who: sum(v == who for v in results.values()) for who in ("golden", "unit", "NOT CAUGHT")
    }
    print(f"{len(mutants)} mutants: {counts}", *missed, sep="\n")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
