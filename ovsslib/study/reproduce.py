"""Reproduce a published table: run what its rows need, and set the claims beside what was measured."""

import dataclasses
from dataclasses import dataclass

import pandas as pd

from ovsslib.errors import DataError, OvssError
from ovsslib.evaluation import intervals
from ovsslib.evaluation.profiles import Profile
from ovsslib.evaluation.report import CLASS_PREFIX, METRICS, Report
from ovsslib.evaluation.results import measure
from ovsslib.evaluation.store import ResultsStore
from ovsslib.recipe import Recipe, parse_changes
from ovsslib.study.claims import assess, claims_of, load_claims, runs_for, target_name
from ovsslib.study.on_scenes import TableOnScenes, reproduce_on_scenes
from ovsslib.study.sources import published

MODELS = {
    "ViT-B/16": ("ViT-B-16-quickgelu", "openai"),
    "ViT-B/32": ("ViT-B-32-quickgelu", "openai"),
    "ViT-L/14": ("ViT-L-14-quickgelu", "openai"),
    "ViT-L/14@336": ("ViT-L-14-336-quickgelu", "openai"),
    "OpenCLIP ViT-B/16": ("ViT-B-16", "laion2b_s34b_b88k"),
    "OpenCLIP ViT-L/14": ("ViT-L-14", "laion2b_s32b_b82k"),
    "ViT-H/14": ("ViT-H-14", "laion2b_s32b_b79k"),
    "MetaCLIP ViT-B/16": ("ViT-B-16-quickgelu", "metaclip_fullcc"),
    "MetaCLIP ViT-L/14": ("ViT-L-14-quickgelu", "metaclip_fullcc"),
}
"""Models as claims name them -> open_clip's name and pretrained tag."""


@dataclass(frozen=True, eq=False)
class Reproduction:
    """A published table, measured.

    Attributes:
        target: name of the table, as `ovss reproduce` takes it.
        ledger: the claims about it, each with its status, what was measured, and why (see `claims.assess`).
        results: the measured numbers as `claims.assess` takes them; gains have `versus`.
        failed: (model, data set, recipe with its changes, why) of evaluations that could not be run.
    """

    target: str
    ledger: pd.DataFrame
    results: pd.DataFrame
    failed: tuple[tuple[str, str, str, str], ...] = ()

    def table(self) -> pd.DataFrame:
        """Claimed beside measured, numbers as text: row, data set, metric, claimed, measured, status."""
        rows = []
        for row in self.ledger.to_dict("records"):
            text = intervals.written(row["measured"], row["low"], row["high"])
            rows.append(
                {
                    "row": row["row"], "data set": row["dataset"], "metric": row["metric"],
                    "claimed": row["text"], "measured": text, "status": row["status"],
                }
            )  # fmt: skip
        return pd.DataFrame(rows)


def reproduce(
    target: str,
    dataset: str | None = None,
    profile: str | Profile | None = None,
    limit: int | None = None,
    *,
    workers: int = 0,
    progress: bool = True,
    store: ResultsStore | bool = True,
) -> Reproduction | TableOnScenes:
    """Measure what a published table claims and compare.

    Args:
        target: such as "itaclip-table1"; `claims.target_name` of a source and its table, or "all".
        dataset: one data set of the table, or None for all.
        profile: where to run: its model, root, device and precision are used if given; None takes the profile
            "openai-vitb16-<dataset>" with the model that each claim is about. A profile of Scenes ("embedded") gives the
            table's counterpart there, from the results store where it has it.
        limit: the first images only; then nothing settles a claim.

    Raises:
        DataError: unknown target, nothing that can be run, or no evaluation could be run (says why).
    """
    base = Profile.named(profile) if isinstance(profile, str) else profile
    if base is not None and base.embedded:
        return reproduce_on_scenes(
            target, claims_of(target, dataset), base, limit, workers=workers, progress=progress, store=store
        )  # fmt: skip
    runs = runs_for(target, dataset)
    measured: dict[tuple[str, str, str, str], Report] = {}
    failed = []
    for (model, name), group in runs.groupby(["model", "dataset"], sort=False):
        group_runs = [(model, name, run.recipe, run.changes) for run in group.itertuples()]
        try:
            run_profile = base.but(dataset=name) if base else _profile_for(model, name)
        except OvssError as error:
            failed += [(*_titled(run), str(error)) for run in group_runs]
            continue
        reports, reasons = _measured(group_runs, run_profile, limit, workers, progress, store)
        measured |= reports
        failed += [(*_titled(run), reason) for run, reason in reasons.items()]
    if not measured:
        raise DataError(f"nothing of {target!r} could be run: {failed[0][-1]}")
    claims = claims_of(target, dataset)
    results = results_frame(claims, measured)
    return Reproduction(target, assess(claims, results), results, tuple(failed))


Run = tuple[str, str, str, str]
"""Model, data set, recipe, and changes to it."""


def _titled(run: Run) -> tuple[str, str, str]:
    """Model, data set, and the recipe with its changes."""
    model, name, recipe, changes = run
    return model, name, f"{recipe} {changes}".strip()


def _measured(
    runs: list[Run], profile: Profile, limit: int | None, workers: int, progress: bool, store
) -> tuple[dict[Run, Report], dict[Run, str]]:
    """Reports of the runs that can be, and why the others cannot: one that lacks a guide does not stop the rest."""
    recipes: dict[Run, Recipe] = {}
    failed: dict[Run, str] = {}
    for run in runs:
        parts = [part for part in run[3].split(";") if part.strip()]
        try:
            recipes[run] = Recipe.named(run[2], run[1]).but(parse_changes(parts))
        except OvssError as error:
            failed[run] = str(error)
    groups = [list(recipes)] if recipes else []
    measured: dict[Run, Report] = {}
    while groups:
        group = groups.pop()
        labels = {f"{run[2]}; {run[3]}" if run[3] else run[2]: run for run in group}
        try:
            results = measure(
                {label: recipes[run] for label, run in labels.items()},
                profile, limit, workers=workers, progress=progress, store=store,
            )  # fmt: skip
        except OvssError as error:
            if len(group) == 1:
                failed[group[0]] = str(error)
            else:  # what is finished is looked up, so that halves cost nothing but what is left
                half = len(group) // 2
                groups += [group[half:], group[:half]]
        else:
            measured |= {labels[label]: report for label, report in results.reports.items()}
    return measured, failed


def targets() -> pd.DataFrame:
    """What can be reproduced: one row per table, those of the thesis and of ITACLIP first, with title and chapter.

    Columns: target, what it is, chapter, claims (how many numbers it has).
    """
    claims = load_claims()
    names = [target_name(s, t) for s, t in zip(claims["source"], claims["table"], strict=True)]
    counts = pd.Series(names).value_counts()
    rows = [
        {"target": entry.target, "what it is": entry.title, "chapter": entry.chapter}
        for entry in published()
        if entry.kind == "table"
    ]
    listed = {row["target"] for row in rows}
    for name, source, table in zip(names, claims["source"], claims["table"], strict=True):
        if name not in listed:
            listed.add(name)
            rows.append({"target": name, "what it is": f"{source}: {table}", "chapter": ""})
    frame = pd.DataFrame(rows)
    return frame.assign(claims=[int(counts[name]) for name in frame["target"]])


def _profile_for(model: str, dataset: str) -> Profile:
    if model not in MODELS:
        raise DataError(f"no weights are known for the model {model!r}; known: {', '.join(MODELS)}")
    name, tag = MODELS[model]
    profile = Profile.named(f"openai-vitb16-{dataset}")
    return dataclasses.replace(profile, model=name, pretrained=tag)


def results_frame(
    claims: pd.DataFrame, measured: dict[tuple[str, str, str, str], Report]
) -> pd.DataFrame:
    """What the claims are compared with: levels of every evaluation, and the gains that claims are about.

    `measured` holds reports by (model, data set, recipe, changes). Gains are paired over the images.
    """
    rows = []
    for (_, dataset, recipe, changes), level_report in measured.items():
        for metric in METRICS:
            rows.append(
                _row(level_report, dataset, recipe, changes, metric, level_report.interval(metric))
            )
    for claim in claims[claims["metric"].str.contains("person_iou|class_iou|gain_")].to_dict(
        "records"
    ):
        metric = claim["metric"].replace("person_iou", f"{CLASS_PREFIX}person")
        report = measured.get(_place(claim, claim["recipe"], claim["changes"]))
        if report is None:
            continue
        plain = metric.removeprefix("gain_")
        if plain.startswith(CLASS_PREFIX) and plain.removeprefix(CLASS_PREFIX) not in report.names:
            continue
        if plain not in METRICS and not plain.startswith(CLASS_PREFIX):
            continue
        versus = ""
        interval = report.interval(plain) if plain == metric else None
        if interval is None:
            recipe, _, changes = claim["versus"].partition(";")
            baseline = measured.get(_place(claim, recipe.strip(), changes.strip()))
            if baseline is None:
                continue
            interval, versus = report.difference(baseline, plain), claim["versus"]
        row = _row(report, claim["dataset"], claim["recipe"], claim["changes"], metric, interval)
        rows.append({**row, "versus": versus})
    frame = pd.DataFrame(rows)
    if "versus" not in frame:
        frame["versus"] = ""
    return frame


def _place(claim: dict, recipe: str, changes: str) -> tuple[str, str, str, str]:
    return claim["model"], claim["dataset"], recipe, changes


def _row(report: Report, dataset: str, recipe: str, changes: str, metric: str, interval) -> dict:
    return {
        "model": report.model, "dataset": dataset, "recipe": recipe, "changes": changes, "metric": metric,
        "value": interval.value, "low": interval.low, "high": interval.high, "images": report.images,
        "limit": report.limit, "commit": report.provenance.get("commit", ""), "versus": "",
    }  # fmt: skip
