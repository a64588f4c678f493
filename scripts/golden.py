"""Measures the first pictures of known results anew and says what no longer agrees (`tests/test_golden.py`).

The known results are shipped records that together have every stage, data set, model and setting that a shipped
record has, and the cases of `tests/golden.json` for what no shipped record has.

    python scripts/golden.py            # measure and compare
    python scripts/golden.py --write    # measure what tests/golden.json lacks, or holds for older versions
"""

import argparse
import inspect
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from current_records import dataset_of, is_current, parts_today, segmenter_of

from ovsslib import Recipe, evaluate, paths
from ovsslib.errors import OvssError
from ovsslib.evaluation.keys import key_of
from ovsslib.evaluation.records import RecordsFile, recipe_of, unpack_counts
from ovsslib.evaluation.report import Report
from ovsslib.evaluation.store import SHIPPED
from ovsslib.identity import recipe_parts, version_of
from ovsslib.recipe import recipe_names, stage_info, stages
from ovsslib.text.features import clear_memory

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "tests/golden.json"
IMAGES = 2
# On one machine counts are equal whatever the number of threads. Between machines logits agree to 1e-5, so that a
# pixel may change sides now and then; each that does is counted up to four times.
PIXELS = 24
CONFIDENCE = 5e-5  # relative; measured between two kinds of processor: 5e-7
KINDS = ("classes", "boundary", "calibration")

# Rules that no shipped record has: recipe, changes, data set.
RULES: dict[str, tuple[str, dict[str, Any], str]] = {
    "class token weight": ("sclip", {"class_token_weight": True}, "scenes"),
    "probability threshold": ("sclip", {"labels.probability_threshold": 0.4}, "scenes-object"),
    "area threshold": ("sclip", {"labels.area_threshold": 0.3}, "scenes-object"),
    "synonyms merged as logits": (
        "sclip", {"labels.merge": "logit", "text.names": "synonyms"}, "scenes"
    ),
    "ignored background": ("naclip", {}, "scenes-things"),
    "PAMR of the original": (
        "clip", {"pamr": {"iterations": 4, "dilations": [1, 2, 4, 8]}}, "scenes"
    ),
    "whole path test": ("resclip", {"sfr.released_path_test": False}, "scenes"),
    "no path test": ("resclip", {"sfr": {"path_test": False, "pamr_iterations": 0}}, "scenes"),
    "feedback from several scales": (
        "thesis-baseline", {"feedback": {"scales": "multi", "extra_scales": [0.75]}}, "scenes"
    ),
    "confident anchors": (
        "thesis-baseline", {"feedback": {"iterations": 1, "least_confidence": 0.5}}, "scenes"
    ),
    "bicubic to a size": ("sclip", {"upsampling": {"method": "bicubic", "grid": [20, 24]}}, "scenes"),
    "CRF at half size": ("sclip", {"densecrf": {"scale": 0.5, "iterations": 3}}, "scenes"),
    "GEM, refined twice": ("gem", {"gem": {"depth": 4, "iterations": 2}}, "scenes"),
    "clusters that join": ("cliptrase", {"clusters": {"eps": 1.0, "min_samples": 5}}, "scenes"),
    "nearest patches only": ("naclip", {"attention.terms": "neighbour"}, "scenes"),
    "three clusters of words": (
        "thesis-baseline", {"hierarchy": {"groups": "clusters", "count": 3}}, "scenes"
    ),
    "regions, other shares": (
        "thesis-baseline", {"regions": {"bins": 2, "patch_weight": 0.5, "global_weight": 0.3}}, "scenes"
    ),
    "sinks denoised": ("sclip", {"sink_denoise": {"channels": [3, 40, 90], "sigma": 1.5}}, "scenes"),
    "sinks refocused": ("sclip", {"refocus_attention": {"threshold": 0.02}}, "scenes"),
    "threshold by entropies": ("sclip", {"entropy_threshold": True}, "scenes-object"),
    "a guide tells the background": ("clip-diy", {}, "scenes-object"),
    "windows over the edge": ("sclip", {"windows": {"crop": 160, "stride": 100}}, "scenes"),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Case:
    """A known result: what was measured, and the counts of the first `IMAGES` pictures.

    Attributes:
        name: for messages.
        content: model, data set, limit and recipe, as a record has them.
        counts: "classes" (N, 3, C), "boundary" (N, 4), "calibration" (N, bins, 3).
    """

    name: str
    content: Mapping[str, Any]
    counts: Mapping[str, np.ndarray]

    @property
    def features(self) -> set[str]:
        """What the case stands for: its stages, their settings that are not the defaults, model and data set."""
        return features_of(self.content)


def features_of(content: Mapping[str, Any]) -> set[str]:
    """Features of a record's content: "pamr", "labels.closing=3", "scenes", "sceneclip/embedded"."""
    features = {content["dataset"], content["model"]}
    for stage, part in recipe_parts(recipe_of(content)).items():
        features.add(stage)
        values = dict(part["settings"])
        if values.pop("words", None):  # which words they are changes no code that runs
            features.add(f"{stage}.words")
        features |= {f"{stage}.{field}={json.dumps(v)}" for field, v in values.items()}
    return features


@cache
def shipped() -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Contents of the shipped records of this checkout by key, and a line for each that it would not find."""
    contents = (json.loads(record.text) for record in RecordsFile(paths.data(SHIPPED)))
    current, stale = {}, []
    for content in contents:
        if is_current(content):
            current[content["key"]] = content
        else:
            stale.append(f"{content['key']} ({content['recipe']['name']})")
    return current, stale


def shipped_cases() -> list[Case]:
    """Shipped records of this checkout that together have every feature of all of them, as few as is easy."""
    contents, file = shipped()[0], RecordsFile(paths.data(SHIPPED))
    features = {key: features_of(content) for key, content in contents.items()}
    uncovered = set().union(*features.values())
    cases = []
    while uncovered:
        key = max(features, key=lambda k: (len(features[k] & uncovered), -len(features[k]), k))
        uncovered -= features[key]
        arrays = unpack_counts(file.get(key).read_counts())
        first = {kind: arrays[kind][:IMAGES] for kind in KINDS}
        cases.append(Case(f"{key} ({contents[key]['recipe']['name']})", contents[key], first))
    return cases


@cache
def wanted_contents() -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What `tests/golden.json` holds: the rules above, and stages and recipes that no shipped record has.

    Returns the contents by name, and by name why others cannot be measured here (a guide's weights or a table are missing).
    """
    contents = list(shipped()[0].values())
    features = set().union(*(features_of(c) for c in contents))
    recipes = {key_of(recipe_parts(recipe_of(c))) for c in contents if c["dataset"] == "scenes"}
    cases = {name: _content(*rule) for name, rule in RULES.items()}
    for name in recipe_names():
        content = _content(name, {}, "scenes")
        if key_of(recipe_parts(recipe_of(content))) not in recipes:
            cases[f"recipe {name}"] = content
    features |= set().union(*(features_of(c) for c in cases.values()))
    for name in stages():
        if name not in features:
            cases[f"stage {name}"] = _content("sclip", {name: True}, "scenes")
    impossible = {}
    for name, content in cases.items():
        try:
            segmenter_of(content)
        except OvssError as error:
            impossible[name] = str(error)
    return {n: content for n, content in cases.items() if n not in impossible}, impossible


def _content(recipe: str, changes: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    resolved = Recipe.named(recipe, dataset).but(dict(changes))
    return {
        "model": "sceneclip/embedded",
        "dataset": dataset,
        "limit": IMAGES,
        "skipped": [],
        "recipe": {
            "name": resolved.name,
            "dataset": resolved.dataset,
            "stages": resolved.resolved(),
        },
    }


def kept_cases() -> tuple[list[Case], list[str]]:
    """The cases of `tests/golden.json` for this checkout's versions, and the names of those that are missing."""
    kept = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    cases, missing = [], []
    for name, content in wanted_contents()[0].items():
        entry = kept.get(name)
        if entry is None or entry["key"] != key_of(parts_today(content)):
            missing.append(name)
        else:
            counts = {kind: np.array(entry[kind], dtype=np.int64) for kind in KINDS}
            cases.append(Case(name, content, counts))
    return cases, missing


def measure(contents: Sequence[Mapping[str, Any]]) -> list[Report]:
    """Reports on the first `IMAGES` pictures, in order; the trunk is shared where it can be."""
    groups: dict[tuple[str, str], list[int]] = {}
    for place, content in enumerate(contents):
        groups.setdefault((content["model"], content["dataset"]), []).append(place)
    by_place: dict[int, Report] = {}
    with texts_anew():
        for (_, dataset), places in groups.items():
            segmenters = [segmenter_of(contents[place]) for place in places]
            pictures = dataset_of(dataset, IMAGES)[0]
            reports = evaluate(segmenters, pictures, store=False, progress=False)
            by_place |= dict(zip(places, reports, strict=True))
    return [by_place[place] for place in range(len(contents))]


@contextmanager
def texts_anew() -> Iterator[None]:
    """Text features are encoded again: kept ones would hide that the code now makes others."""
    before = os.environ.get("OVSSLIB_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        clear_memory()
        os.environ["OVSSLIB_CACHE"] = folder
        try:
            yield
        finally:
            clear_memory()
            if before is None:
                del os.environ["OVSSLIB_CACHE"]
            else:
                os.environ["OVSSLIB_CACHE"] = before


def difference(case: Case, report: Report) -> str | None:
    """What is otherwise than in the known result, or None."""
    pairs = {
        "classes": report.counts,
        "boundary": report.boundary_counts,
        "calibration": report.calibration_counts,
    }
    for kind, now in pairs.items():
        then, now = case.counts[kind], now[:IMAGES]
        if then.shape != now.shape:
            return f"{kind}: shape {then.shape} became {now.shape}"
        pixels = np.abs(now - then)[..., :2] if kind == "calibration" else np.abs(now - then)
        moved = pixels.reshape(len(then), -1).sum(axis=1)
        if moved.max() > PIXELS:
            return f"{kind}: counts of picture {moved.argmax()} differ by {moved.max()} pixels"
    then, now = (c[..., 2].sum(axis=1) for c in (case.counts["calibration"], pairs["calibration"]))
    off = np.abs(now - then) / np.maximum(then, 1)
    if off.max() > CONFIDENCE:
        return f"confidences of picture {off.argmax()} differ by {off.max():.1e} of themselves"
    return None


def advice(failing: Sequence[Case], passing: Sequence[Case]) -> str:
    """Where to look: the features that all failing cases owe their failing to."""
    if not passing:
        return (
            "Every case differs: the trunk, the text features, the windows, the metrics or an always-on stage. Mend "
            "it, or, if the new numbers are meant, raise CORE_VERSION in ovsslib/identity.py"
        )
    good = set().union(*(case.features for case in passing))
    unexplained, blamed = list(failing), []
    while unexplained:
        guilty = [f for case in unexplained for f in case.features if f not in good]
        if not guilty:
            break
        name = max(sorted(set(guilty)), key=lambda f: (guilty.count(f), "=" not in f))
        blamed.append(name)
        unexplained = [case for case in unexplained if name not in case.features]
    lines = [f"Every case with {name} differs: mend {_place(name)}" for name in blamed]
    if unexplained:
        shares = {
            name: sum(name in c.features for c in failing)
            / sum(name in c.features for c in [*failing, *passing])
            for name in set().union(*(case.features for case in unexplained))
            if name in stages()
        }
        worst = sorted(shares, key=lambda name: (-shares[name], name))[:4]
        named = ", ".join(f"{name} ({shares[name]:.0%} of its cases)" for name in worst)
        lines.append(
            f"For {len(unexplained)} cases no single part stands out; most often they have {named}"
        )
    return "\n".join(lines)


def _place(feature: str) -> str:
    name = feature.partition(".")[0]
    if name not in stages():
        return f"what only {feature} uses"
    settings = stage_info(name).settings
    file = Path(inspect.getsourcefile(settings)).relative_to(ROOT)
    return (
        f"{file}, or, if the new numbers are meant, raise `version` of {settings.__name__} to "
        f"{version_of(settings) + 1}"
    )


def compare(cases: Iterable[Case]) -> str | None:
    """Measure cases and say what differs and where to look, or None if all agree."""
    cases = list(cases)
    problems = [
        (case, difference(case, report))
        for case, report in zip(cases, measure([c.content for c in cases]), strict=True)
    ]
    failing = [case for case, problem in problems if problem]
    if not failing:
        return None
    lines = [f"{case.name}: {problem}" for case, problem in problems if problem]
    more = [f"... and {len(lines) - 12} more"] if len(lines) > 12 else []
    head = f"{len(failing)} of {len(cases)} known results differ from what is measured now:"
    return "\n".join(
        [head, *lines[:12], *more, advice(failing, [c for c, problem in problems if not problem])]
    )


def write() -> list[str]:
    """Measure the missing cases into `tests/golden.json`; returns their names. Others stay as they are."""
    kept = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    contents, _ = wanted_contents()
    _, missing = kept_cases()
    for name, report in zip(missing, measure([contents[n] for n in missing]), strict=True):
        kept[name] = {
            "key": key_of(parts_today(contents[name])),
            "classes": report.counts.tolist(),
            "boundary": report.boundary_counts.tolist(),
            "calibration": report.calibration_counts.tolist(),
        }
    lines = [
        f"{json.dumps(n)}: {json.dumps(kept[n], separators=(',', ':'))}" for n in sorted(contents)
    ]
    paths.write_file(FILE, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
    return missing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="measure what is missing")
    if parser.parse_args().write:
        print("\n".join(f"measured: {name}" for name in write()) or "nothing was missing")
        return 0
    cases, missing = kept_cases()
    problem = compare([*shipped_cases(), *cases])
    print(problem or f"all agree; missing in {FILE.name}: {missing or 'nothing'}")
    for name, why in wanted_contents()[1].items():
        print(f"not measured: {name}: {why}")
    return int(problem is not None)


if __name__ == "__main__":
    sys.exit(main())
