"""The benchmarks start: each is imported by a process of its own, as `make bench` does."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ovsslib.recipe import Recipe, recipe_names
from ovsslib.study.methods import published_methods

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = sorted((ROOT / "bench").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.stem)
def test_a_benchmark_starts(file):
    done = subprocess.run(
        [sys.executable, str(file), "--help"], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout


@pytest.fixture
def methods(monkeypatch):
    """bench/methods.py as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    yield importlib.import_module("methods")
    for name in ("methods", "flow"):
        sys.modules.pop(name, None)


def test_every_method_with_released_code_has_its_forwards(methods):
    released = {name for name in published_methods() if Recipe.named(name).licence}
    variants = {"naclip-stitched", "ovss-best"}  # this project's own
    assert released - set(methods.OFFICIAL) <= variants
    assert set(methods.OFFICIAL) <= set(recipe_names())


@pytest.mark.parametrize(
    ("name", "clip", "guide"),
    [
        ("sclip", 6, 0), ("itaclip", 225, 0), ("rf-clip", 12, 0), ("naclip-ptc", 12, 0), ("clip-diy", 59, 1),
        ("proxyclip", 2, 2), ("proxyclip-ptc", 8, 8), ("lposs", 15, 15), ("clip-surgery", 1, 0),
    ],
)  # fmt: skip
def test_official_forwards_follow_the_windows(methods, name, clip, guide):
    assert methods.official_forwards(Recipe.named(name), methods.picture()) == (clip, guide)
    row = {"recipe": name, "official": (clip, guide), "clip": clip, "guide": guide}
    assert not methods.above_official(row)
    assert methods.above_official({**row, "clip": clip + 1})


def test_more_forwards_are_no_fault_where_the_picture_decides_or_nothing_is_known(methods):
    row = {"recipe": "tagclip", "official": (2, 0), "clip": 9, "guide": 0}
    assert not methods.above_official(row)
    assert not methods.above_official({**row, "recipe": "thesis-full", "official": None})
    assert methods.official_forwards(Recipe.named("thesis-full"), methods.picture()) is None


def test_trained_segmenters_are_stood_in_for(methods):
    recipe = methods.recipe_of("corrclip")
    assert recipe["region_attention"].proposer == recipe["mask_vote"].proposer == "felzenszwalb"
    recipe = methods.recipe_of("trident")
    assert recipe["prompt_refinement"].prompter == "felzenszwalb"
    assert recipe["spliced_attention"].mixer == "none"
