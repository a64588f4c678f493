"""Ablations from a file: a base recipe, what to vary, and one trial per combination::

    profile: embedded
    base: sclip
    axes:                                   # every combination of these values
      attention.residual: [true, false]
      pamr: [false, true]
    trials:                                 # and these besides, each a set of changes
      wide: {windows.stride: 56}

Trials go through Ray Tune where Ray is installed (`pip install "ovsslib[cluster]"`), each with one GPU or one CPU
core; else in one process, where trials share the trunk. Both call the same function, and both find finished trials in
the results store, so that an ablation that was stopped goes on. On a cluster of several machines OVSSLIB_CACHE must
name a folder that all of them see.
"""

import importlib.util
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ovsslib import paths
from ovsslib.errors import DataError, RecipeError
from ovsslib.evaluation.profiles import DEFAULT, Profile
from ovsslib.evaluation.results import Results, measure
from ovsslib.evaluation.store import ResultsStore
from ovsslib.recipe import Recipe
from ovsslib.recipe.reading import read_yaml

_ENTRIES = ("profile", "base", "axes", "trials", "limit")


@dataclass(frozen=True)
class Grid:
    """What an ablation runs.

    Attributes:
        profile: what it is measured with; `limit` images of it.
        recipes: the base recipe first, then one per trial, by name.
        base: name of the base recipe.
    """

    profile: Profile
    recipes: Mapping[str, Recipe]
    base: str
    limit: int | None = None


def read_grid(path: str | Path, profile: Profile | None = None, limit: int | None = None) -> Grid:
    """The ablation of a YAML file. `profile` and `limit` take precedence over the file's.

    Raises DataError if the file cannot be read or has unknown entries, RecipeError for changes that cannot be.
    """
    path = Path(path)
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"cannot read the ablation {path}: {error}") from None
    if not isinstance(content, dict) or "base" not in content or set(content) - {*_ENTRIES}:
        raise DataError(
            f"{path} is not an ablation: a mapping with `base` and any of {', '.join(_ENTRIES)}"
        )
    count = content.get("limit")
    if count is not None and (type(count) is not int or count < 1):
        raise DataError(f"{path}: limit is a whole number of at least 1, not {count!r}")
    profile = profile or Profile.named(str(content.get("profile", DEFAULT)))
    base = profile.recipe(str(content["base"]))
    recipes = {base.name: base}
    for name, changes in trials_of(content.get("axes") or {}, content.get("trials") or {}).items():
        if name == base.name:
            raise RecipeError(
                f"{path}: a trial is called {name!r} like the base; give it another name"
            )
        recipe = base.but(changes, name=name)
        if recipe not in recipes.values():
            recipes[name] = recipe
    if len(recipes) == 1:
        raise RecipeError(
            f"{path} changes nothing: give `axes` or `trials` that differ from {base.name!r}"
        )
    return Grid(profile, recipes, base.name, limit if limit is not None else count)


def trials_of(
    axes: Mapping[str, Sequence[Any]],
    trials: Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Changes by trial name: every combination of the axes, then the trials.

    Raises RecipeError for an axis that is not a list, or a trial that is not a mapping.
    """
    if not isinstance(axes, Mapping):
        raise RecipeError(f"axes={axes!r}: give a mapping from a setting to its values")
    for axis, values in axes.items():
        if not isinstance(values, (list, tuple)) or not values:
            raise RecipeError(f"axis {axis}={values!r}: give a list of values")
    changes_by_name = {}
    for values in itertools.product(*axes.values()) if axes else []:
        changes = dict(zip(axes, values, strict=True))
        changes_by_name[name_of(changes)] = changes
    if not isinstance(trials, (Mapping, list, tuple)):
        raise RecipeError(
            f"trials={trials!r}: give a mapping from names to changes, or a list of changes"
        )
    if not isinstance(trials, Mapping):
        named = [(name_of(t) if isinstance(t, Mapping) else str(t), t) for t in trials]
        trials = dict(named)
    for name, trial in trials.items():
        if not isinstance(trial, Mapping):
            raise RecipeError(f"trial {name}={trial!r}: give a mapping of changes")
        changes_by_name[str(name)] = dict(trial)
    return changes_by_name


def name_of(changes: Mapping[str, Any]) -> str:
    """What a table calls a set of changes."""
    return ", ".join(f"{key}={_short(value)}" for key, value in changes.items())


def _short(value: Any) -> str:
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10**9)
        .strip()
        .removesuffix("...")
        .strip()
    )


def run_trial(
    recipes: Mapping[str, Recipe],
    profile: Profile,
    limit: int | None = None,
    workers: int = 0,
    progress: bool = False,
    store: ResultsStore | bool = True,
) -> dict[str, float]:
    """The trial function: measure some recipes, which share a trunk where they can; mIoU in percent by name."""
    results = measure(recipes, profile, limit, workers=workers, progress=progress, store=store)
    return {name: report.miou for name, report in results.reports.items()}


def ablate(
    grid: Grid,
    workers: int = 0,
    progress: bool = True,
    store: ResultsStore | bool = True,
    engine: str = "auto",
) -> Results:
    """Run an ablation; finished trials are looked up.

    Args:
        engine: "ray", "local", or "auto": Ray Tune if Ray is installed.
    Raises:
        RecipeError: unknown engine. DataError: a trial failed (the others are kept).
    """
    if engine not in ("auto", "ray", "local"):
        raise RecipeError(f"engine={engine!r}: choose 'auto', 'ray' or 'local'")
    ray = engine == "ray" or (engine == "auto" and importlib.util.find_spec("ray") is not None)
    if ray:
        _through_ray(grid, workers)
    else:
        run_trial(grid.recipes, grid.profile, grid.limit, workers, progress, store)
    return measure(
        grid.recipes, grid.profile, grid.limit, workers=workers, progress=progress, store=store
    )


def _through_ray(grid: Grid, workers: int) -> None:
    """One Ray Tune trial per recipe; results meet in the store, which all trials share."""
    try:
        from ray import tune
    except ImportError as error:
        raise RecipeError(
            'engine="ray" needs Ray: pip install "ovsslib[cluster]", or choose engine="local"'
        ) from error

    def trial(config: Mapping[str, Any]) -> dict[str, float]:
        name = config["name"]
        scores = run_trial({name: grid.recipes[name]}, grid.profile, grid.limit, workers)
        return {"miou": scores[name]}

    on_gpu = grid.profile.device != "cpu" and _gpus() > 0
    resources = {"cpu": 1, "gpu": 1} if on_gpu else {"cpu": 1}
    tuner = tune.Tuner(
        tune.with_resources(trial, resources),
        param_space={"name": tune.grid_search(list(grid.recipes))},
        tune_config=tune.TuneConfig(metric="miou", mode="max"),
        run_config=tune.RunConfig(storage_path=str(paths.cache("ray"))),
    )
    failed = [result.error for result in tuner.fit() if result.error]
    if failed:
        raise DataError(
            f"{len(failed)} of {len(grid.recipes)} trials failed; the others are kept, and the same command goes on. "
            f"The first: {str(failed[0]).strip().splitlines()[-1]}"
        )


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
