"""`measure`: what notebooks and commands call to get numbers. Looked up in the store, computed only if missing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from ovsslib.errors import DataError, MissingPackageError, ModelError, RecipeError
from ovsslib.evaluation import intervals
from ovsslib.evaluation.distributed import local_device
from ovsslib.evaluation.engine import evaluate, look_up
from ovsslib.evaluation.keys import network_fingerprints
from ovsslib.evaluation.profiles import DEFAULT, Profile
from ovsslib.evaluation.records import change_texts
from ovsslib.evaluation.report import CLASS_PREFIX, METRICS, Report
from ovsslib.evaluation.store import ResultsStore
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter

Recipes = str | Recipe | Mapping[str, str | Recipe] | Iterable[str | Recipe]


@dataclass(frozen=True, eq=False)
class Results:
    """Reports of several recipes on the same images.

    Attributes:
        reports: by the name that tables print, in the order they were asked for.
        profile: what they were measured with.
    """

    reports: dict[str, Report]
    profile: Profile

    def __getitem__(self, name: str) -> Report:
        if name not in self.reports:
            raise DataError(f"no result is called {name!r}; there are {', '.join(self.reports)}")
        return self.reports[name]

    def __iter__(self):
        return iter(self.reports)

    def __len__(self) -> int:
        return len(self.reports)

    def part(self, rows: Sequence[str] | Mapping[str, str]) -> "Results":
        """Some of the results, in the order given; a mapping gives them new names: {new: old}. Raises DataError."""
        names = rows if isinstance(rows, Mapping) else {row: row for row in rows}
        return Results({new: self[old] for new, old in names.items()}, self.profile)

    def numbers(
        self,
        metrics: str | Sequence[str] = ("miou",),
        baseline: str | None = None,
        paired: bool = True,
    ) -> pd.DataFrame:
        """One row per recipe and metric: value, low, high (percent), and, if there is a baseline, difference,
        difference_low, difference_high (points) and verdict.

        Args:
            metrics: names of `METRICS`, or "class_iou:NAME".
            baseline: name of the row that the others are compared with.
            paired: take the differences' intervals over the same draws of images (else none are given).
        """
        names = [metrics] if isinstance(metrics, str) else list(metrics)
        base = None if baseline is None else self[baseline]
        rows = []
        for label, report in self.reports.items():
            for metric in names:
                interval = report.interval(metric)
                row: dict[str, Any] = {
                    "recipe": label, "metric": metric, "value": interval.value, "low": interval.low, "high": interval.high,
                }  # fmt: skip
                if base is not None and report is not base:
                    row |= _compared(report, base, metric, paired)
                rows.append(row)
        frame = pd.DataFrame(rows)
        if base is not None:
            columns = ["difference"]
            columns += ["difference_low", "difference_high", "verdict"] if paired else []
            frame = frame.reindex(columns=[*frame.columns[:5], *columns])
        return frame

    def table(
        self,
        metrics: str | Sequence[str] = ("miou",),
        baseline: str | None = None,
        paired: bool = True,
    ) -> pd.DataFrame:
        """The same for people: one row per recipe, numbers as text with units, 95% intervals in brackets.

        Arguments as :meth:`numbers`. With several metrics each has its own columns.
        """
        names = [metrics] if isinstance(metrics, str) else list(metrics)
        rows: dict[str, dict[str, str]] = {}
        for row in self.numbers(names, baseline, paired).to_dict("records"):
            title = title_of(row["metric"])
            cells = rows.setdefault(row["recipe"], {})
            cells[title] = intervals.written(row["value"], row["low"], row["high"], unit=" %")
            if baseline is None:
                continue
            prefix = "" if len(names) == 1 else f"{title}: "
            compared = not pd.isna(row.get("difference"))
            text = f"{row['difference']:+.2f} points" if compared else ""
            if compared and paired:
                ends = row["difference_low"], row["difference_high"]
                text = intervals.written(row["difference"], *ends, "+.2f", " points")
            cells[f"{prefix}against {baseline}"] = text
            if paired:
                cells[f"{prefix}verdict"] = row["verdict"] if compared else ""
        frame = pd.DataFrame.from_dict(rows, orient="index")
        frame.index.name = f"{self.profile.dataset}, {self.images} images"
        return frame

    @property
    def images(self) -> int:
        """Number of images that all recipes counted."""
        return min((report.images for report in self.reports.values()), default=0)

    @property
    def provenance(self) -> str:
        """One line of model, data set, images, machine and commit (of the first result), for captions."""
        report = next(iter(self.reports.values()))
        origin = report.provenance
        return (
            f"{report.model} on {report.dataset}, {self.images} images, 95 % intervals over images; "
            f"commit {origin.get('commit') or 'unknown'}, {origin.get('machine', 'unknown machine')}"
        )

    def _repr_html_(self) -> str:
        return self.table(["miou", "pixel_accuracy", "boundary_f1"])._repr_html_()

    def __repr__(self) -> str:
        return self.table(["miou", "pixel_accuracy", "boundary_f1"]).to_string()


def title_of(metric: str) -> str:
    """What tables call a metric."""
    if metric.startswith(CLASS_PREFIX):
        return f"IoU of {metric.removeprefix(CLASS_PREFIX)}"
    return METRICS.get(metric, metric)


def _compared(report: Report, base: Report, metric: str, paired: bool) -> dict[str, Any]:
    if not paired:
        return {"difference": report.value(metric) - base.value(metric)}
    gain = report.difference(base, metric)
    return {
        "difference": gain.value,
        "difference_low": gain.low,
        "difference_high": gain.high,
        "verdict": intervals.verdict(gain, metric),
    }


def measure(
    recipes: Recipes,
    profile: str | Profile = DEFAULT,
    limit: int | None = None,
    fresh: bool = False,
    *,
    workers: int = 0,
    progress: bool = True,
    on_error: Literal["stop", "skip"] = "stop",
    store: ResultsStore | bool = True,
) -> Results:
    """Results of recipes on a profile: looked up, and what is missing computed in one pass over the images.

    Args:
        recipes: a recipe or its name, several, or a mapping from the name a table shall print to a recipe. Names
            stand for the recipe's settings for the profile's data set.
        profile: a profile or its name.
        limit: the first images only; None: as the profile says.
        fresh, workers, progress, on_error, store: as :func:`ovsslib.evaluate`.

    Raises:
        RecipeError, ModelError, DataError: and what :func:`ovsslib.evaluate` raises.
    """
    profile = Profile.named(profile) if isinstance(profile, str) else profile
    profile = profile.but(device=local_device(profile.device))
    named = named_recipes(recipes, profile)
    dataset = profile.open_whole()
    backbone = profile.backbone()
    reports = evaluate(
        [Segmenter(backbone, recipe) for recipe in named.values()],
        dataset,
        limit if limit is not None else profile.limit,
        workers=workers,
        progress=progress,
        on_error=on_error,
        store=store,
        fresh=fresh,
    )
    return Results(dict(zip(named, reports, strict=True)), profile)


def stored(
    recipes: Recipes,
    profile: str | Profile = DEFAULT,
    limit: int | None = None,
    store: ResultsStore | bool = True,
) -> Results:
    """As :func:`measure`, but of the store alone: recipes without a record there are left out.

    So are recipes whose second model, package or archive is not here, and those that the profile's model cannot run.
    Raises DataError for a limit below 1, or data that cannot be read.
    """
    profile = Profile.named(profile) if isinstance(profile, str) else profile
    profile = profile.but(device=local_device(profile.device))
    dataset = profile.open_whole()
    backbone, segmenters = profile.backbone(), {}
    for name, recipe in named_recipes(recipes, profile).items():
        try:
            segmenter = Segmenter(backbone, recipe)
            network_fingerprints(recipe, backbone)  # some networks are opened late: LoftUp
        except (ModelError, RecipeError, MissingPackageError, DataError):
            continue
        segmenters[name] = segmenter
    limit = limit if limit is not None else profile.limit
    reports = look_up(list(segmenters.values()), dataset, limit, store=store)
    stored_reports = {n: r for n, r in zip(segmenters, reports, strict=True) if r is not None}
    return Results(stored_reports, profile)


def named_recipes(recipes: Recipes, profile: Profile) -> dict[str, Recipe]:
    """Recipes by the name that a table prints; recipes of one name get their changes behind it."""
    if isinstance(recipes, Mapping):
        return {str(label): profile.recipe(recipe) for label, recipe in recipes.items()}
    if isinstance(recipes, (str, Recipe)):
        recipes = [recipes]
    listed = [profile.recipe(recipe) for recipe in recipes]
    named: dict[str, Recipe] = {}
    for recipe in listed:
        label = recipe.name
        if label in named:
            changes = "; ".join(change_texts(named[label], recipe))
            label = f"{label} ({changes or 'again'})"
        if label in named:
            raise RecipeError(
                f"two recipes are called {label!r}; give a mapping with a name for each"
            )
        named[label] = recipe
    return named
