"""Ablations: what a grid file means, and the two ways to run it."""

import sys
import types
from typing import ClassVar

import pytest
import yaml
from engine_cases import seeded_backbone
from fake_datasets import build

from ovsslib.errors import DataError, RecipeError
from ovsslib.evaluation import profiles, results
from ovsslib.evaluation.profiles import Profile
from ovsslib.evaluation.store import ResultsStore
from ovsslib.study import ablation
from ovsslib.study.ablation import Grid, ablate, read_grid, trials_of

SMALL = {"windows": {"short_side": 48, "crop": 32, "stride": 16}, "text.prompts": "single"}


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path / "cache"))
    fake = build("folder", tmp_path / "data", images=3)
    monkeypatch.setitem(profiles._backbones, ("seeded", None, "cpu", "fp32"), seeded_backbone())
    return Profile("small", model="seeded", dataset="folder", root=str(fake.root))


def small_grid(profile: Profile) -> Grid:
    base = profile.recipe("sclip").but(SMALL, name="base")
    recipes = {
        "base": base,
        "qq": base.but({"attention.terms": "qq"}),
        "closed": base.but({"labels.closing": 3}),
    }
    return Grid(profile, recipes, "base", limit=2)


def write(tmp_path, content):
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def test_axes_are_multiplied_and_the_base_is_not_repeated(tmp_path):
    content = {
        "profile": "openai-vitb16-voc21",
        "base": "sclip",
        "axes": {"attention.residual": [True, False], "pamr": [False, True]},
        "trials": {"wide": {"windows.stride": 56}},
        "limit": 9,
    }
    grid = read_grid(write(tmp_path, content))
    assert list(grid.recipes) == [
        "sclip", "attention.residual=true, pamr=true", "attention.residual=false, pamr=false",
        "attention.residual=false, pamr=true", "wide",
    ]  # fmt: skip
    assert grid.base == "sclip" and grid.profile.dataset == "voc21" and grid.limit == 9
    assert grid.recipes["sclip"].dataset == "voc21"
    assert "pamr" in grid.recipes["attention.residual=false, pamr=true"]
    assert grid.recipes["wide"]["windows"].stride == 56
    other = read_grid(write(tmp_path, content), Profile.named("embedded"), limit=2)
    assert other.profile.name == "embedded" and other.limit == 2


def test_trials_may_be_a_list_without_names():
    assert trials_of({}, [{"pamr": True}, {"windows.stride": 56, "pamr": False}]) == {
        "pamr=true": {"pamr": True},
        "windows.stride=56, pamr=false": {"windows.stride": 56, "pamr": False},
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"axes": {}}, "not an ablation"),
        ({"base": "sclip", "axis": {}}, "not an ablation"),
        ({"base": "sclip"}, "changes nothing"),
        ({"base": "sclip", "axes": {"pamr": True}}, "give a list of values"),
        ({"base": "sclip", "trials": {"a": 3}}, "give a mapping"),
        ({"base": "sclip", "axes": {"pamr.iteration": [1]}}, "no field 'iteration'"),
        (
            {"base": "sclip", "trials": ["pamr", {"pamr": True}]},
            "trial pamr='pamr': give a mapping",
        ),
        ({"base": "sclip", "trials": "pamr"}, "trials='pamr': give a mapping"),
        ({"base": "sclip", "axes": ["pamr"]}, r"axes=\['pamr'\]: give a mapping"),
        ({"base": "sclip", "trials": {"sclip": {"pamr": True}}}, "called 'sclip' like the base"),
        ({"base": "sclip", "axes": {"pamr": [True]}, "limit": 0}, "limit is a whole number.*not 0"),
        ({"base": "sclip", "axes": {"pamr": [True]}, "limit": "3"}, "not '3'"),
        ({"base": "sclip", "axes": {"pamr": [True]}, "profile": 5}, "unknown profile '5'"),
    ],
)
def test_bad_grids_are_refused(tmp_path, content, message):
    with pytest.raises((DataError, RecipeError), match=message):
        read_grid(write(tmp_path, content))


def test_a_local_ablation_resumes_from_the_store(profile, tmp_path, monkeypatch):
    grid, kept = small_grid(profile), ResultsStore(tmp_path / "own", shipped=tmp_path / "none")
    trial = ablation.run_trial({"qq": grid.recipes["qq"]}, profile, 2, store=kept)
    assert list(trial) == ["qq"]
    found = ablate(grid, progress=False, store=kept, engine="local")
    assert found["qq"].miou == trial["qq"] and len(list(kept.records())) == 3
    assert list(found) == ["base", "qq", "closed"] and found.images == 2
    monkeypatch.setattr(results.Segmenter, "prepare", None)
    again = ablate(grid, progress=False, store=kept, engine="local")
    assert again.table(baseline="base").equals(found.table(baseline="base"))
    with pytest.raises(RecipeError, match="engine='slurm'"):
        ablate(grid, engine="slurm")


class Tuner:
    """What is used of Ray Tune's Tuner: it calls the trial once per value of the grid."""

    seen: ClassVar[dict] = {}

    def __init__(self, trainable, param_space, tune_config, run_config):
        self.trainable, self.space = trainable, param_space
        self.seen.update(config=tune_config, storage=run_config, resources=trainable.resources)

    def fit(self):
        return [self._run(name) for name in self.space["name"]["grid_search"]]

    def _run(self, name):
        try:
            metrics, error = self.trainable({"name": name}), None
        except Exception as problem:  # noqa: BLE001 - as Ray: whatever a trial raises
            metrics, error = {}, f"Traceback\n{problem}"
        self.seen[name] = metrics
        return types.SimpleNamespace(metrics=metrics, error=error)


@pytest.fixture
def fake_ray(monkeypatch):
    def with_resources(trainable, resources):
        trainable.resources = resources
        return trainable

    tune = types.SimpleNamespace(
        Tuner=Tuner, TuneConfig=dict, RunConfig=dict, with_resources=with_resources,
        grid_search=lambda values: {"grid_search": values},
    )  # fmt: skip
    ray = types.ModuleType("ray")
    ray.tune = tune
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(Tuner, "seen", {})
    return ray


def test_through_ray_every_recipe_is_a_trial(profile, fake_ray):
    grid = small_grid(profile)
    found = ablate(grid, progress=False, engine="ray")
    local = ablate(grid, progress=False, engine="local")
    assert found.table().equals(local.table())
    assert {name: Tuner.seen[name]["miou"] for name in grid.recipes} == {
        name: report.miou for name, report in found.reports.items()
    }
    assert Tuner.seen["storage"]["storage_path"].endswith("cache/ray")
    assert Tuner.seen["resources"] == {"cpu": 1} and Tuner.seen["config"]["metric"] == "miou"


def test_a_failed_trial_is_an_error_and_the_others_are_kept(profile, fake_ray, tmp_path):
    grid = small_grid(profile)
    lost = Grid(
        profile, {**grid.recipes, "lost": profile.recipe("sclip").but(upsampling=True)}, "base", 2
    )
    with pytest.raises(DataError, match="1 of 4 trials failed"):
        ablate(lost, progress=False, engine="ray")
    assert len(list(ResultsStore(shipped=tmp_path / "none").records())) == 3


def test_ray_missing(monkeypatch, profile):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RecipeError, match=r"ovsslib\[cluster\]"):
        ablate(small_grid(profile), engine="ray")
