"""Builds the book: runs its notebooks on a profile, stages a source tree, renders it into public/.

    python scripts/build_book.py                                  # the embedded profile
    python scripts/build_book.py --quick                          # fewer images, for a first look
    python scripts/build_book.py --profile openai-vitb16-voc21    # the whole book on real CLIP
    python scripts/build_book.py --profile path/to/own.yaml       # on a profile of one's own
    python scripts/build_book.py --fresh                          # measures everything again

Warnings of Sphinx and of the notebooks are errors. The packages of the live page come from the npm registry once, by its
lock file (`build_live.py`); nothing else is fetched from the network.
"""

import argparse
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import yaml
from build_live import LiveError
from build_live import build as build_live
from run_notebooks import (
    ROOT,
    WIDGET_VIEW,
    Run,
    check_profile,
    find_notebooks,
    is_profile_path,
    profile_folder,
    profile_parameter,
    profiles,
    report_failures,
    run_all,
    without_traces,
)

IMAGES = ("image/png", "image/jpeg", "image/svg+xml")
# Three rows of numbers in columns, as a printed data frame has them.
NUMBER = re.compile(r" {2,}[+-]?\d")  # in a column


class BookError(Exception):
    """The book cannot be built; the message says why and what to do."""


def choose_profile(profile: str, quick: bool, known: Sequence[str]) -> str:
    """The profile to run (a name, or the path of a file), its quick variant if asked. BookError for an unknown
    one.
    """
    try:
        check_profile(profile, known)
    except ValueError as error:
        raise BookError(str(error)) from None
    if not quick or profile.endswith("-quick"):
        return profile
    if is_profile_path(profile):
        raise BookError(
            f"{profile!r} has no quick variant; leave QUICK out and write `limit: 60` into the file"
        )
    if f"{profile}-quick" not in known:
        raise BookError(
            f"{profile!r} has no quick variant; leave QUICK out or choose another profile"
        )
    return f"{profile}-quick"


def toc_files(toc: Mapping[str, Any]) -> list[str]:
    """Every file that a table of contents names, in reading order (globs are left out)."""
    files: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, Mapping):
            for key, value in node.items():
                if key in ("root", "file"):
                    files.append(value)
                else:
                    walk(value)
        elif isinstance(node, list):
            for item in node:
                walk(item)

    walk(toc)
    return files


def check_toc(root: Path) -> list[Path]:
    """The notebooks that the table of contents names. BookError for a missing file."""
    files = toc_files(yaml.safe_load((root / "_toc.yml").read_text()))
    notebooks = {f"notebooks/{path.stem}": path for path in find_notebooks(root=root)}
    missing = [
        name
        for name in files
        if name not in notebooks
        and not name.startswith("book/api/")
        and not list(root.glob(f"{name}.md"))
    ]
    if missing:
        raise BookError(f"_toc.yml names files that do not exist: {', '.join(missing)}")
    left_out = [name for name in notebooks if name not in files]
    if left_out:
        raise BookError(f"_toc.yml leaves notebooks out: {', '.join(left_out)}")
    return [notebooks[name] for name in files if name in notebooks]


def readable(
    notebook: nbformat.NotebookNode, parameters: Mapping[str, str]
) -> nbformat.NotebookNode:
    """A run notebook as the book shows it.

    The `parameters` cell shows the values it ran with, papermill's own cell is hidden, widgets keep
    only their static picture, the alternative text that a figure carries reaches the page, folded cells say what is in
    them, and the numbers that a cell prints above its figure are folded.
    """
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            cell.metadata["tags"] = [*tags, "remove-cell"]
        if "parameters" in tags:
            for name, value in parameters.items():
                cell.source = re.sub(
                    rf"^({name}\s*(?::[^=\n]*)?=\s*)[^#\n]*?([ \t]*#.*)?$",
                    lambda match, value=value: f"{match[1]}{json.dumps(value)}{match[2] or ''}",
                    cell.source,
                    flags=re.MULTILINE,
                )
        _name_folds(cell, tags)
        if "outputs" in cell:
            cell.outputs = [
                out
                for out in cell.outputs
                if WIDGET_VIEW not in out.get("data", {})
                or any(kind in out.data for kind in IMAGES)
            ]
            _pass_alternative_text(cell)
            cells += _fold_numbers(cell)
    notebook.cells = cells
    return without_traces(notebook)


def _name_folds(cell: nbformat.NotebookNode, tags: Sequence[str]) -> None:
    """What a reader opens: a solution, or the code behind an output."""
    if cell.cell_type != "code" or not {"hide-cell", "hide-input"} & set(tags):
        return
    name = "solution" if "hide-cell" in tags else "code"
    settings = cell.metadata.setdefault("mystnb", nbformat.NotebookNode())
    settings["code_prompt_show"], settings["code_prompt_hide"] = f"Show {name}", f"Hide {name}"


def _has_table(text: str) -> bool:
    """Whether three lines in a row have two columns of numbers."""
    rows = [len(NUMBER.findall(line)) >= 2 for line in text.splitlines()]
    return any(all(rows[start : start + 3]) for start in range(len(rows) - 2))


def _fold_numbers(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """What a cell prints beside its figure is often the figure's numbers again: if it is a table, it goes into a folded
    cell of its own below the figure (inside the cell it would become a second figure of the same name)."""
    if not cell.metadata.get("mystnb", {}).get("figure"):
        return []
    tables, outputs = [], []
    for out in cell.outputs:
        text = "".join(out.get("text", ""))
        is_table = out.output_type == "stream" and _has_table(text)
        (tables if is_table else outputs).append(out)
    cell.outputs = outputs
    if not tables:
        return []
    text = "".join("".join(out.text) for out in tables).rstrip("\n")
    source = (
        ":::{admonition} The numbers of this figure\n:class: dropdown numbers\n"
        f"```text\n{text}\n```\n:::"
    )
    return [nbformat.v4.new_markdown_cell(source)]


def _pass_alternative_text(cell: nbformat.NotebookNode) -> None:
    """Copies a figure's alternative text from its output, or its caption, to where MyST-NB looks
    for it.
    """
    alternatives = [
        out.get("metadata", {}).get(kind, {}).get("alt")
        for out in cell.outputs
        for kind in IMAGES
        if kind in out.get("data", {})
    ]
    settings = cell.metadata.setdefault("mystnb", nbformat.NotebookNode())
    if alternatives and "alt" not in settings.get("image", {}):
        texts = [text for text in alternatives if text]
        caption = settings.get("figure", {}).get("caption")
        alternative = " ".join(texts) or (
            re.sub(r"[*`$]|\{[a-z:]+\}", "", caption) if caption else ""
        )
        if alternative:
            settings.setdefault("image", nbformat.NotebookNode())["alt"] = " ".join(
                alternative.split()
            )
    if not settings:
        del cell.metadata["mystnb"]


def figures_without_text(notebook: nbformat.NotebookNode) -> list[int]:
    """Numbers of the shown cells whose pictures have no alternative text."""
    return [
        number
        for number, cell in enumerate(notebook.cells)
        if any(kind in out.get("data", {}) for out in cell.get("outputs", []) for kind in IMAGES)
        and not {"remove-cell", "remove-output"} & set(cell.metadata.get("tags", []))
        and not cell.metadata.get("mystnb", {}).get("image", {}).get("alt")
    ]


def api_modules(package: Path) -> dict[str, list[str]]:
    """The package's public modules by page: each top-level module or subpackage with all that is in
    it.
    """
    pages: dict[str, list[str]] = {}
    for module in pkgutil.walk_packages([str(package)], prefix=f"{package.name}."):
        parts = module.name.split(".")
        if not any(part.startswith("_") for part in parts):
            pages.setdefault(parts[1], []).append(module.name)
    return {page: sorted(modules) for page, modules in sorted(pages.items())}


def write_api_pages(pages: Mapping[str, Sequence[str]], folder: Path) -> None:
    """One page per top-level module or subpackage, made from the docstrings."""
    folder.mkdir(parents=True, exist_ok=True)
    for page, (first, *inner) in pages.items():
        text = [f"# {page}", "", "```{eval-rst}", f".. automodule:: {first}", "```", ""]
        for name in inner:
            short = name.removeprefix(f"{first}.")
            text += [f"## {short}", "", "```{eval-rst}", f".. automodule:: {name}", "```", ""]
        (folder / f"{page}.md").write_text("\n".join(text))


def repository_of(root: Path) -> str:
    """The repository's address: $REPOSITORY, else `Repository` among the addresses of pyproject.toml, else ""."""
    project = root / "pyproject.toml"
    text = project.read_text(encoding="utf-8") if project.is_file() else ""
    section = re.search(r"^\[project\.urls\]\n((?:[^\[\n].*\n?|\n)*)", text, flags=re.MULTILINE)
    named = (
        re.search(r'^Repository\s*=\s*"([^"]+)"', section[1], flags=re.MULTILINE)
        if section
        else None
    )
    return os.environ.get("REPOSITORY") or (named[1] if named else "")


def how_to_get(repository: str) -> str:
    """A sentence of Markdown for the first page: where the code is."""
    if not repository:
        return "The code is the folder that this book was made from: `make book` builds the pages, `make lab` opens the notebooks."
    address = repository.rstrip("/")
    return f"The code: `git clone {address}` ([look at it]({address})), then `make book` or `make lab`."


def result_for(root: Path, profile: str) -> str:
    """The result on the first page, if the page asks for it: see :func:`ovsslib.book.findings.headline`."""
    page = root / "book" / "index.md"
    if not page.is_file() or "{{ headline }}" not in page.read_text(encoding="utf-8"):
        return ""
    from ovsslib.book.chapter import chapter
    from ovsslib.book.findings import headline

    return headline(chapter(profile_parameter(profile)))


def configuration(
    root: Path, repository: str, branch: str, site: str = "", headline: str = ""
) -> dict[str, Any]:
    """`_config.yml`, with launch and source buttons if the repository has an address, and what pages fill in.

    `site`: the pages' own public address, which previews of links need; `headline`: the result on the first page.
    """
    config = yaml.safe_load((root / "_config.yml").read_text())
    filled = {"headline": headline, "code": how_to_get(repository)}
    config.setdefault("parse", {})["myst_substitutions"] = filled
    if site:
        config.setdefault("html", {})["baseurl"] = site.rstrip("/") + "/"
    if repository:
        config["repository"] = {"url": repository.rstrip("/"), "branch": branch, "path_to_book": ""}
        config["html"]["use_repository_button"] = True
        config["launch_buttons"] = {
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
            "notebook_interface": "jupyterlab",
        }
    return config


def stage(
    root: Path, source: Path, runs: Sequence[Run], profile: str, config: dict[str, Any]
) -> None:
    """Puts together what Sphinx reads. BookError for a figure without text."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(root / "book", source / "book", ignore=shutil.ignore_patterns("__pycache__"))
    write_api_pages(api_modules(root / "ovsslib"), source / "book" / "api")
    (source / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    shutil.copy(root / "_toc.yml", source / "_toc.yml")
    (source / "notebooks").mkdir()
    bare = []
    for run in runs:
        content = readable(nbformat.read(run.output, as_version=4), {"profile": profile})
        bare += [f"{run.notebook.name} cell {number}" for number in figures_without_text(content)]
        nbformat.write(content, source / "notebooks" / run.notebook.name)
    if bare:
        raise BookError(
            f"figures without an alternative text: {', '.join(bare)}; "
            'give the cell the metadata {"mystnb": {"image": {"alt": "..."}}}'
        )


def render(source: Path, output: Path, root: Path) -> Path:
    """Runs Jupyter Book over the staged tree; returns the pages. Warnings are errors."""
    program = Path(sys.executable).with_name("jupyter-book")
    command = [str(program), "build", str(source), "--path-output", str(output)]
    command += ["-W", "-n", "--keep-going", "--quiet"]
    search_path = os.pathsep.join([str(root), str(source / "book" / "_ext")])
    environment = os.environ | {"PYTHONPATH": search_path, "NO_COLOR": "1"}
    shutil.rmtree(output, ignore_errors=True)
    result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if result.returncode:
        lines = (result.stdout + result.stderr).splitlines()
        telling = [line for line in lines if re.search(r"WARNING|ERROR|Error", line)] or lines[-30:]
        raise BookError("Sphinx is not content:\n" + "\n".join(telling[:60]))
    return output / "_build" / "html"


def publish(pages: Path, public: Path) -> None:
    """Puts the pages in place of the old ones in one step."""
    (pages / ".nojekyll").touch()
    fresh, old = public.with_name(public.name + ".new"), public.with_name(public.name + ".old")
    for folder in (fresh, old):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(pages, fresh)
    if public.exists():
        public.rename(old)
    fresh.rename(public)
    shutil.rmtree(old, ignore_errors=True)


def build(options: argparse.Namespace, root: Path = ROOT) -> Path:
    """Runs, stages, renders and publishes; returns the folder of the pages. Raises BookError."""
    started = time.monotonic()
    profile = choose_profile(options.profile, options.quick, profiles(root))
    notebooks = check_toc(root)
    work = root / "build"
    print(f"running {len(notebooks)} notebooks on the profile {profile}", flush=True)
    runs = run_all(
        notebooks,
        work / "notebooks" / profile_folder(profile),
        {"profile": profile_parameter(profile)},
        options.jobs,
        options.fresh,
        report=lambda line: print(line, flush=True),
        root=root,
    )
    failed = report_failures(runs)
    if failed:
        raise BookError(f"{failed} of {len(runs)} notebooks failed")
    headline = result_for(root, profile)
    config = configuration(root, options.repository, options.branch, options.site, headline)
    stage(root, work / "source", runs, profile, config)
    print("building the live page", flush=True)
    try:
        build_live(work / "source" / "book" / "_static" / "live")
    except LiveError as error:
        raise BookError(str(error)) from None
    print("rendering the pages", flush=True)
    pages = render(work / "source", work / "html", root)
    publish(pages, options.output)
    count = len(list(options.output.rglob("*.html")))
    print(f"{count} pages in {options.output}, {time.monotonic() - started:.0f} s")
    return options.output


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--profile", default="embedded", help="a shipped profile, or the path of a profile file"
    )
    parser.add_argument("--quick", action="store_true", help="the profile's quick variant")
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, default=ROOT / "public")
    parser.add_argument(
        "--repository", default=repository_of(ROOT), help="its web address (pyproject.toml)"
    )
    parser.add_argument(
        "--site", default=os.environ.get("SITE", ""), help="the pages' own web address"
    )
    parser.add_argument("--branch", default="main")
    try:
        build(parser.parse_args(arguments))
    except BookError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
