"""A folder of pictures in, files out: what `ovss segment FOLDER` does. Stopped runs go on, damaged files are set aside.

Below the output folder every format has a folder of its own (`masks/`, `overlays/`, ...) with the tree of the input.
`.done/` holds a small record per finished picture, written last: its presence says that all files of that picture are
whole, and made with these words, model, recipe and formats from this very file.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovsslib.errors import DataError
from ovsslib.identity import key_of, model_parts, recipe_parts
from ovsslib.images.segmentation import Segmentation
from ovsslib.paths import write_file
from ovsslib.segmenter.many import Many, WordsByPicture, find_pictures

if TYPE_CHECKING:
    from ovsslib.segmenter.segmenter import Segmenter

FORMATS = {
    "masks": "index PNG in the palette's colours",
    "plain": "index PNG without a palette, for readers such as OpenCV's",
    "overlays": "the picture under its colours, PNG",
    "cutouts": "one transparent PNG per word",
    "polygons": "outlines of every piece, JSON",
    "coco": "coco.json: run lengths of all pictures",
    "label-studio": "label_studio.json: brush masks of all pictures",
}
"""What can be written, each with a line about it."""


@dataclass
class FolderReport:
    """What a run did: `done` now, `kept` from before, and {name: what is wrong} of those that `failed`."""

    done: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{len(self.done)} pictures done"]
        if self.kept:
            parts.append(f"{len(self.kept)} were done before")
        if self.failed:
            parts.append(f"{len(self.failed)} could not be used")
        return ", ".join(parts)


def segment_folder(
    segmenter: "Segmenter",
    source: str | os.PathLike | Iterable[str | os.PathLike],
    words: Any,
    out: str | os.PathLike[str],
    background: str | Sequence[str] | None = None,
    formats: Sequence[str] = ("masks",),
    components: bool = False,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> FolderReport:
    """Segment all pictures of a folder into files.

    Args:
        source: folder (recursive), or list of paths.
        words, background: as for :meth:`Segmenter.many`.
        out: folder for the files; made if it is missing.
        formats: keys of FORMATS.
        components: COCO and Label Studio get a region per connected piece instead of one per word.
        workers: threads that read pictures.
        progress: called as (pictures finished, all pictures).

    Raises DataError for an unknown format or a folder that cannot be written; a picture that cannot be used is in the
    report instead.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise DataError(
            f"unknown format {', '.join(unknown) or '(none)'}; there are {', '.join(FORMATS)}"
        )
    if components and not {"coco", "label-studio"} & set(formats):
        raise DataError(
            f"pieces (components, --instances) are told apart by the formats coco and label-studio alone, and this writes "
            f"{', '.join(formats)}; ask for one of the two, or leave them out"
        )
    out = Path(out)
    pictures = _without_results(find_pictures(source), source, out)
    files = _files_of(pictures)
    key = _key(segmenter, words, background, formats, components)
    _sweep(out)
    report = FolderReport()
    report.kept = [n for n, p in pictures.items() if _record(out, files[n], key, p) is not None]
    run = Many(segmenter, pictures, words, background, False, workers, report.kept)
    if progress is not None:
        progress(len(report.kept), len(pictures))
    for name, result in run:
        record = _write(result, out, files[name], name, formats, components)
        record |= {"key": key, "file": _stamp(pictures[name]), "name": name}
        write_file(out / ".done" / f"{files[name]}.json", json.dumps(record).encode(), True)
        report.done.append(name)
        if progress is not None:
            progress(len(report.kept) + len(report.done) + len(run.failed), len(pictures))
    report.failed = dict(run.failed)
    finished = [n for n in pictures if n not in report.failed]
    _join(out, [_record(out, files[name], key, pictures[name]) for name in finished], formats)
    return report


def _without_results(pictures: dict[str, Path], source: Any, out: Path) -> dict[str, Path]:
    """The pictures that are not below the output folder: a second run must not take the first one's masks for pictures.

    Raises DataError if the two folders are one.
    """
    if not isinstance(source, (str, os.PathLike)):
        return pictures
    target, root = (Path(os.path.realpath(Path(place).expanduser())) for place in (out, source))
    if target == root:
        raise DataError(
            f"{out} holds the pictures themselves, and the next run would take masks for pictures; choose another folder, "
            f"such as {out / 'words'}"
        )
    if root.is_relative_to(target):  # the results lie beside the pictures
        return pictures
    return {
        name: path
        for name, path in pictures.items()
        if not Path(os.path.realpath(path.parent)).is_relative_to(target)
    }


def _files_of(pictures: dict[str, Path]) -> dict[str, str]:
    """Name of each picture's files without their ending: its own without suffix, with it where two would be equal."""
    plain = {}
    for name, path in pictures.items():
        relative_path = Path(name) if not Path(name).is_absolute() else Path(path.name)
        plain[name] = (
            relative_path.with_suffix("").as_posix().replace("../", ""),
            relative_path.as_posix().replace("../", ""),
        )
    counts: dict[str, int] = {}
    for short, _ in plain.values():
        counts[short] = counts.get(short, 0) + 1
    chosen = {name: short if counts[short] == 1 else full for name, (short, full) in plain.items()}
    if len(set(chosen.values())) < len(chosen):
        raise DataError(
            "two pictures of the list would write the same file; give a folder that holds both"
        )
    return chosen


def _key(
    segmenter: "Segmenter", words: Any, background: Any, formats: Sequence[str], components: bool
) -> str:
    """Hash of everything that decides the files of a picture."""
    word_lists = [words.words, words.usual] if isinstance(words, WordsByPicture) else words
    return key_of(
        {
            "recipe": recipe_parts(segmenter.recipe),
            "model": model_parts(segmenter.backbone),
            "words": repr(word_lists),
            "background": repr(background),
            "formats": sorted(formats),
            "components": components,
        }
    )


def _stamp(path: Path) -> list[int]:
    """Size and time of change of a file."""
    about = path.stat()
    return [about.st_size, about.st_mtime_ns]


def _record(out: Path, file: str, key: str, path: Path) -> dict[str, Any] | None:
    """The record of a finished picture, or None if it is missing, damaged, or of other words or another file."""
    try:
        record = json.loads((out / ".done" / f"{file}.json").read_text(encoding="utf-8"))
        if record["key"] != key or record["file"] != _stamp(path):
            return None
        return record if all((out / name).exists() for name in record["written"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sweep(out: Path) -> None:
    """Remove half-written files that a killed run left behind."""
    if out.is_dir():
        for leftover in out.rglob(".*.part"):
            leftover.unlink(missing_ok=True)


def _write(
    result: Segmentation, out: Path, file: str, name: str, formats: Sequence[str], components: bool
) -> dict[str, Any]:
    """Write a picture's own files; what joins the files of all pictures is in the record."""
    written: list[str] = []
    record: dict[str, Any] = {"written": written}

    def place(folder: str, ending: str) -> Path:
        path = out / folder / f"{file}{ending}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"cannot make {path.parent}: {error.strerror}; choose another folder"
            ) from error
        written.append(path.relative_to(out).as_posix())
        return path

    if "masks" in formats:
        result.save(place("masks", ".png"))
    if "plain" in formats:
        result.save(place("plain", ".png"), palette=False)
    if "overlays" in formats:
        result.save_overlay(place("overlays", ".png"))
    if "cutouts" in formats:
        result.cutouts(place("cutouts", ""))
    if "polygons" in formats:
        polygons = {"names": result.names, "pieces": result.to_polygons()}
        write_file(place("polygons", ".json"), json.dumps(polygons).encode())
    if "coco" in formats:
        record["coco"] = result.to_coco(file_name=name, components=components)
    if "label-studio" in formats:
        record["label_studio"] = result.to_label_studio(name, components=components)
    return record


def _join(out: Path, records: Sequence[dict[str, Any] | None], formats: Sequence[str]) -> None:
    """The files that hold all pictures, from their records."""
    entries = [record for record in records if record is not None]
    if "coco" in formats:
        write_file(
            out / "coco.json", json.dumps(join_coco([r["coco"] for r in entries])).encode(), True
        )
    if "label-studio" in formats:
        tasks = [record["label_studio"] for record in entries]
        write_file(out / "label_studio.json", json.dumps(tasks).encode(), True)


def join_coco(parts: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """One COCO dictionary of several pictures' (each from `Segmentation.to_coco`); categories are joined by name."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    ids: dict[str, int] = {}
    for number, part in enumerate(parts, start=1):
        numbers = {
            category["id"]: ids.setdefault(category["name"], len(ids) + 1)
            for category in part["categories"]
        }
        images.extend({**image, "id": number} for image in part["images"])
        before = len(annotations)
        annotations.extend(
            {
                **annotation,
                "id": before + place,
                "image_id": number,
                "category_id": numbers[annotation["category_id"]],
            }
            for place, annotation in enumerate(part["annotations"], start=1)
        )
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": images, "categories": categories, "annotations": annotations}
