"""Runs the notebooks through papermill, several at once, and keeps what has been run.

    python scripts/run_notebooks.py                         # all, with their own defaults
    python scripts/run_notebooks.py 01 --profile embedded   # one, on another profile
    python scripts/run_notebooks.py 03 -p limit 3           # with other parameters
    python scripts/run_notebooks.py --store                 # writes the outputs `make test` compares

Results are in build/notebooks. A notebook is run again only if its source, its parameters, the library's code or the shipped data
have changed.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import psutil

ROOT = Path(__file__).resolve().parent.parent
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
MEMORY_PER_NOTEBOOK = (
    3 * 2**30
)  # bytes; a kernel with torch, SceneCLIP and a few hundred windows in flight


@dataclass(frozen=True)
class Run:
    """One notebook that has been run, or failed to: where the result is, seconds, and what went
    wrong.
    """

    notebook: Path
    output: Path
    seconds: float
    cached: bool
    error: str | None = None


def profiles(root: Path = ROOT) -> list[str]:
    """Names of the shipped profiles."""
    return sorted(path.stem for path in (root / "data" / "profiles").glob("*.yaml"))


def is_profile_path(profile: str) -> bool:
    """Whether this is the path of a profile file, not the name of a shipped profile."""
    return profile.endswith((".yaml", ".yml"))


def profile_parameter(profile: str) -> str:
    """The profile as a notebook, which runs in a folder of its own, understands it: a path is made absolute."""
    return str(Path(profile).expanduser().resolve()) if is_profile_path(profile) else profile


def profile_folder(profile: str) -> str:
    """A folder's name for the results of a profile: two files of one name do not share it."""
    if not is_profile_path(profile):
        return profile
    place = hashlib.sha256(profile_parameter(profile).encode()).hexdigest()[:8]
    return f"{Path(profile).stem}-{place}"


def check_profile(profile: str, known: Sequence[str]) -> None:
    """Raises ValueError for a profile that is neither shipped nor a file that exists."""
    if is_profile_path(profile):
        if not Path(profile).expanduser().is_file():
            raise ValueError(f"there is no profile file {profile!r} (from {Path.cwd()})")
    elif profile not in known:
        raise ValueError(
            f"unknown profile {profile!r}; there are: {', '.join(known) or 'none'}; "
            "or give the path of a profile file of your own (.yaml)"
        )


def find_notebooks(names: Sequence[str] = (), root: Path = ROOT) -> list[Path]:
    """The notebooks whose name begins with one of `names` (all if empty), sorted. Raises ValueError
    for no match.
    """
    every = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    missing = [name for name in names if not any(path.name.startswith(name) for path in every)]
    if missing:
        stems = ", ".join(path.stem for path in every) or "none"
        raise ValueError(f"no notebook begins with {', '.join(missing)}; there are: {stems}")
    return [
        path for path in every if not names or any(path.name.startswith(name) for name in names)
    ]


def parameter_names(notebook: Mapping[str, Any]) -> set[str]:
    """Names that the cell tagged `parameters` assigns; papermill can set these."""
    names: set[str] = set()
    for cell in notebook["cells"]:
        if "parameters" in cell.get("metadata", {}).get("tags", []):
            for line in cell["source"].splitlines():
                name, equals, _ = line.partition("=")
                name = name.partition(":")[0].strip()
                if equals and line[:1].strip() and name.isidentifier():
                    names.add(name)
    return names


def source_hash(root: Path = ROOT) -> str:
    """One hash of the library's code and of the data it ships."""
    digest = hashlib.sha256()
    for folder in ("ovsslib", "data"):
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(path.relative_to(root).as_posix().encode() + b"\0")
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def run_key(notebook: Path, parameters: Mapping[str, str], sources: str) -> str:
    """Hash of all that decides a notebook's outputs: its cells' sources and tags, parameters, code
    and data.
    """
    content = nbformat.read(notebook, as_version=4)
    cells = [[c["cell_type"], c["source"], c["metadata"].get("tags", [])] for c in content["cells"]]
    profile = parameters.get("profile", "")
    profile_text = Path(profile).read_text(encoding="utf-8") if is_profile_path(profile) else ""
    text = json.dumps([cells, dict(parameters), sources, profile_text], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def worker_count(jobs: int, notebooks: int) -> int:
    """How many notebooks to run at once: bounded by `jobs`, by free memory, and by their number; at
    least 1.
    """
    by_memory = psutil.virtual_memory().available // MEMORY_PER_NOTEBOOK
    return max(1, min(jobs, int(by_memory), notebooks))


def run_one(
    notebook: Path,
    output: Path,
    parameters: Mapping[str, str],
    threads: int,
    fresh: Path | None = None,
) -> Run:
    """Runs one notebook in a process of its own, from its own folder; the output appears whole.

    fresh: a folder of results that are new in this build; the library then knows no others.
    """
    started = time.monotonic()
    if output.exists() and fresh is None:
        return Run(notebook, output, 0.0, cached=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_suffix(".partial.ipynb")
    command = [sys.executable, "-m", "papermill", str(notebook), str(partial)]
    command += ["--cwd", str(notebook.parent), "--no-progress-bar", "--kernel", "python3"]
    command += ["--language", "python"]
    for name, value in parameters.items():
        command += ["-p", name, value]  # papermill reads numbers, None and True out of the text
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    if fresh is not None:
        environment["OVSSLIB_FRESH"] = str(fresh)
    result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    seconds = time.monotonic() - started
    error = None
    if result.returncode:
        error = "\n".join(result.stderr.strip().splitlines()[-25:])
    else:
        error = stray_output(nbformat.read(partial, as_version=4))
    if error:
        return Run(notebook, partial, seconds, cached=False, error=error)
    for older in output.parent.glob(f"{notebook.stem}-*.ipynb"):
        if older not in (partial, output):
            older.unlink()
    partial.replace(output)
    return Run(notebook, output, seconds, cached=False)


def stray_output(notebook: Mapping[str, Any]) -> str | None:
    """What the notebook wrote to its error stream (warnings do), or None: a reader should not meet
    it.
    """
    for number, cell in enumerate(notebook["cells"]):
        for out in cell.get("outputs", []):
            if out.get("output_type") == "stream" and out.get("name") == "stderr":
                return f"cell {number} wrote to the error stream:\n{out['text'].strip()[:2000]}"
    return None


def run_all(
    notebooks: Sequence[Path],
    folder: Path,
    parameters: Mapping[str, str],
    jobs: int,
    fresh: bool = False,
    report: Callable[[str], None] = print,
    root: Path = ROOT,
) -> list[Run]:
    """Runs the notebooks, a progress line each; returns one Run per notebook, in the order given.

    parameters: passed to every notebook whose `parameters` cell has the name. jobs: processes at
    once.
    """
    workers = worker_count(jobs, len(notebooks))
    threads = max(1, jobs // workers)
    sources = source_hash(root)
    results = folder / "fresh-results" if fresh else None
    if results is not None:
        shutil.rmtree(results, ignore_errors=True)
        results.mkdir(parents=True)
    finished: dict[Path, Run] = {}
    with ThreadPoolExecutor(workers) as pool:
        futures = []
        for path in notebooks:
            names = parameter_names(nbformat.read(path, as_version=4))
            accepted = {name: value for name, value in parameters.items() if name in names}
            output = folder / f"{path.stem}-{run_key(path, accepted, sources)}.ipynb"
            futures.append(pool.submit(run_one, path, output, accepted, threads, results))
        for future in as_completed(futures):
            run = future.result()
            finished[run.notebook] = run
            state = "FAILED" if run.error else "unchanged" if run.cached else f"{run.seconds:.0f} s"
            report(f"[{len(finished):2d}/{len(notebooks)}] {run.notebook.stem:<28} {state}")
    return [finished[path] for path in notebooks]


def report_failures(runs: Sequence[Run], report: Callable[[str], None] = print) -> int:
    """Prints what went wrong; returns how many notebooks failed."""
    failed = [run for run in runs if run.error]
    for run in failed:
        report(f"\n{run.notebook.name} failed; see {run.output}\n{run.error}")
    return len(failed)


def without_traces(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without papermill's times and paths and without the state of its widgets."""
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET_VIEW, None)
    return notebook


def store_outputs(runs: Sequence[Run]) -> None:
    """Puts the outputs into the notebooks themselves: these are what nbval compares."""
    for run in runs:
        content = without_traces(nbformat.read(run.output, as_version=4))
        temporary = run.notebook.with_suffix(".tmp")
        nbformat.write(content, temporary)
        temporary.replace(run.notebook)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="beginnings of notebook names; all if none")
    parser.add_argument(
        "--profile",
        help=f"path of a profile file, or one of: {', '.join(profiles()) or 'none yet'}",
    )
    parser.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of the notebooks, for those that have it; may be given several times",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    parser.add_argument("--store", action="store_true", help="keep the outputs in the notebooks")
    options = parser.parse_args(arguments)
    if (options.profile or options.parameter) and options.store:
        parser.error(
            "--store keeps the outputs of the notebooks' own defaults: leave --profile and -p out"
        )
    parameters = dict(options.parameter)
    options.profile = parameters.pop(
        "profile", options.profile
    )  # the same, said as papermill says it
    try:
        if options.profile:
            check_profile(options.profile, profiles())
        notebooks = find_notebooks(options.names)
    except ValueError as error:
        parser.error(str(error))
    if options.profile:
        parameters["profile"] = profile_parameter(options.profile)
    folder = ROOT / "build" / "notebooks"
    folder /= profile_folder(options.profile) if options.profile else "defaults"
    runs = run_all(notebooks, folder, parameters, options.jobs, options.fresh)
    failed = report_failures(runs)
    if options.store:
        store_outputs([run for run in runs if not run.error])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
