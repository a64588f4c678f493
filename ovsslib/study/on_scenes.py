"""Published tables on the embedded world: the same recipes on the view of Scenes that is like each data set.

Nothing here settles a claim: the model is SceneCLIP and the pictures are drawn. A published number and a measured one
never share a column; a row that cannot be measured here says why.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from ovsslib import comparators
from ovsslib.errors import DataError, OvssError
from ovsslib.evaluation import intervals
from ovsslib.evaluation.profiles import Profile
from ovsslib.evaluation.report import CLASS_PREFIX, METRICS, Report
from ovsslib.evaluation.results import measure
from ovsslib.evaluation.store import ResultsStore
from ovsslib.recipe import Recipe, parse_changes
from ovsslib.segmenter import Segmenter
from ovsslib.study.claims import claim
from ovsslib.study.claims_table import DATASET_TITLES, claimed_text
from ovsslib.study.cost import TOTAL, stage_times
from ovsslib.study.references import (
    NOTES,
    REFERENCES,
    SUPERVISED,
    WORD_PIXELS,
    halves,
    reference_report,
)
from ovsslib.study.timing import seconds_per_image

VIEW_OF = {
    "coco_stuff": "scenes", "coco_stuff10k": "scenes", "context59": "scenes", "cityscapes": "scenes",
    "ade20k": "scenes", "coco_object": "scenes-object", "voc21": "scenes-object", "context60": "scenes-object",
    "voc20": "scenes-things",
}  # fmt: skip
"""The view of Scenes that stands for a data set, all classes, things and a background, or things alone."""
MODEL_OF = {"ViT-B/16": "sceneclip", "ViT-B/32": "sceneclip-p32"}
"""The embedded model that stands for a published one."""
RECIPE_OF = {
    "ReCo": "reco",
    "CLIP-DIY": "clip-diy",
    "TagCLIP\N{ASTERISK OPERATOR}": "tagclip",
    "CaR": "car",
}
"""Recipes of rows whose published number is of another implementation, so that the claim itself names none."""
PARTS = {
    "SCLIP baseline (with CSA)": ("resize and normalise", "trunk: all blocks but the last", "last block"),
    "LoftUp upsampling": ("upsampling",),
    "ResCLIP RCS": ("feature_rcs",),
    "ResCLIP SFR": ("feedback",),
    "Dense similarity (adaptive templates)": (
        "similarity with the words", "stitching", "labels", "everything else",
    ),
    "CLIPtrase + CLIP-RC": ("local_mask", "regions"),
    "DenseCRF (CPU)": ("densecrf",),
    "Total": (TOTAL,),
}  # fmt: skip
"""Rows of the thesis's Table 4.9 -> stages whose time they are."""
_WHOLE = "thesis-full"  # whose parts those are
_TIMES = ("seconds_per_image", "gain_seconds_per_image", "speedup")
_COEFFICIENTS = {
    "image_engineering_coefficient": ("image_engineering", "weight"),
    "auxiliary_text_coefficient": ("text", "auxiliary_weight"),
}
Place = tuple[str, str, str, str]  # model, view, recipe, changes


@dataclass(frozen=True, eq=False)
class TableOnScenes:
    """A published table with its counterpart on Scenes.

    Attributes:
        target: name of the table, as `ovss reproduce` takes it.
        ledger: one row per claim: id, row, dataset, metric, claimed, view, recipe, changes, value, low, high (percent,
            points, seconds, times; NaN where not measured), measured (as text) and note (why not, or what it is).
        failed: (model, data set, recipe with its changes, why) of evaluations that could not be run.
        quoted: (row, why) of rows that cannot be run here at all.
    """

    target: str
    ledger: pd.DataFrame
    failed: tuple[tuple[str, str, str, str], ...] = ()
    quoted: tuple[tuple[str, str], ...] = ()

    def table(self) -> pd.DataFrame:
        """Claimed beside measured, as text: row, data set, metric, claimed, measured on, measured, note."""
        found = self.ledger
        titles = [DATASET_TITLES.get(name, name) for name in found["dataset"]]
        return pd.DataFrame(
            {
                "row": found["row"], "data set": titles, "metric": found["metric"], "claimed": found["claimed"],
                "measured on": found["view"].where(found["measured"] != "", ""),
                "measured": found["measured"], "note": found["note"],
            }
        )  # fmt: skip


def reproduce_on_scenes(
    target: str,
    claims: pd.DataFrame,
    profile: Profile,
    limit: int | None = None,
    *,
    workers: int = 0,
    progress: bool = True,
    store: ResultsStore | bool = True,
) -> TableOnScenes:
    """Look up, or measure, what a published table is about, on Scenes.

    Args:
        target: name of the table. claims: its claims, of :func:`ovsslib.study.claims.load_claims`.
        profile: of Scenes; its model stands for ViT-B/16, and its limit counts. The view comes from each claim.
        limit, workers, progress, store: see :func:`ovsslib.evaluation.results.measure`.

    Raises DataError if there is nothing that can be measured.
    """
    work = _Work(profile, limit, workers, progress, store)
    rows = claims.to_dict("records")
    for row in rows:
        work.want(row)
    work.measure()
    found = [{**_told(row), **work.found(row)} for row in rows]
    for name, view in work.references:
        found += work.reference(name, view)
    if not any(one["measured"] for one in found):
        notes = [said[-1] for said in work.failed] + [one["note"] for one in found if one["note"]]
        why = notes[0] if notes else "it holds no number to measure"
        raise DataError(f"nothing of {target!r} can be measured on Scenes: {why}")
    models = {one["row"]: trained_model(one["row"]) for one in found}
    quoted = [(r, m.reason) for r, m in models.items() if isinstance(m, comparators.Quoted)]
    return TableOnScenes(target, pd.DataFrame(found), tuple(work.failed), tuple(quoted))


def level_of(metric: str) -> str | None:
    """The metric of a report that a claim's metric is, or is a gain of; None if there is none."""
    plain = metric.removeprefix("gain_").replace("person_iou", f"{CLASS_PREFIX}person")
    return plain if plain in METRICS or plain.startswith(CLASS_PREFIX) else None


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    text = claimed_text(claim(row["id"]))
    view = VIEW_OF.get(row["dataset"], "")
    recipe = row["recipe"] or RECIPE_OF.get(row["row"], "")
    return {
        "id": row["id"], "row": row["row"], "dataset": row["dataset"], "metric": row["metric"], "claimed": text,
        "view": view, "recipe": recipe, "changes": row["changes"],
        "value": float("nan"), "low": float("nan"), "high": float("nan"), "measured": "", "note": "",
    }  # fmt: skip


@dataclass(eq=False)
class _Work:
    """What a table needs, measured once each."""

    profile: Profile
    limit: int | None
    workers: int
    progress: bool
    store: ResultsStore | bool
    reports: dict[Place, Report] = field(default_factory=dict)
    seconds: dict[Place, float] = field(default_factory=dict)
    failed: list[tuple[str, str, str, str]] = field(default_factory=list)
    references: list[tuple[str, str]] = field(default_factory=list)
    _levels: dict[Place, None] = field(default_factory=dict)
    _times: dict[Place, None] = field(default_factory=dict)
    _parts: dict[str, pd.DataFrame] = field(default_factory=dict)

    def want(self, row: Mapping[str, Any]) -> None:
        """Note what a claim needs."""
        if self._why_not(row):
            self._want_reference(row)
            return
        if row["metric"] in _TIMES and not _is_part(row):
            self._times |= dict.fromkeys(self._sides(row))
        elif level_of(row["metric"]):
            self._levels |= dict.fromkeys(self._sides(row))

    def _want_reference(self, row: Mapping[str, Any]) -> None:
        """A supervised row that cannot be run asks for the supervised reference, and LSeg's for its stand-in."""
        model = trained_model(row["row"])
        view = VIEW_OF.get(row["dataset"])
        if model is None or not view:
            return
        name = {"lseg": WORD_PIXELS}.get(model.name)
        if model.group == comparators.GROUPS[2]:
            name = SUPERVISED
        if name is not None and (name, view) not in self.references:
            self.references.append((name, view))

    def _model(self, row: Mapping[str, Any]) -> str | None:
        """The embedded model that stands for a claim's: the profile's own for ViT-B/16, or where none is named."""
        name = MODEL_OF.get(row["model"] or "ViT-B/16")
        return self.profile.model if name == "sceneclip" else name

    def _sides(self, row: Mapping[str, Any]) -> list[Place]:
        """The evaluation that a claim is about, and for a gain the one that it is over."""
        model, view = self._model(row), VIEW_OF[row["dataset"]]
        assert model is not None
        recipe = row["recipe"] or RECIPE_OF[row["row"]]
        sides = [(model, view, recipe, row["changes"])]
        if row["versus"] and (row["metric"].startswith("gain_") or row["metric"] == "speedup"):
            other, _, changes = row["versus"].partition(";")
            sides.append((model, view, other.strip(), changes.strip()))
        return sides

    def _why_not(self, row: Mapping[str, Any]) -> str:
        """Why a claim has no counterpart on Scenes, or ""."""
        if row["metric"] in _COEFFICIENTS:
            return ""
        if row["dataset"] not in VIEW_OF:
            return "about no data set that Scenes could stand for"
        if _is_part(row):
            return (
                "peak memory is a maximum over the parts, not their sum"
                if row["metric"] == "gain_gigabytes"
                else ""
            )
        trained = trained_model(row["row"])
        if not row["recipe"] and row["row"] not in RECIPE_OF:
            if isinstance(trained, comparators.Quoted):
                return "quoted only"
            if trained is not None:
                return f'runs with weights of its own: ovsslib.load("{trained.name}", pretrained="{trained.hub}")'
            return "no recipe here computes it"
        if self._model(row) is None:
            return f"the embedded world has no counterpart of {row['model']}"
        if row["metric"] in _TIMES or level_of(row["metric"]):
            return ""
        return "not a measure of this library"

    # -- measuring ------------------------------------------------------------------------------------------

    def _where(self, model: str, view: str) -> Profile:
        where = self.profile.but(model=model, dataset=view)
        # Weights of one's own are those of the profile's model, of no other.
        return where if model == self.profile.model else replace(where, pretrained=None)

    def measure(self) -> None:
        """Everything that is wanted, in one pass over the images of each view."""
        for model, view in dict.fromkeys((place[0], place[1]) for place in self._levels):
            places = [place for place in self._levels if place[:2] == (model, view)]
            where = self._where(model, view)
            recipes = {}
            for place in places:
                segmenter = self._segmenter(place)
                if segmenter is not None:
                    recipes[str(place)] = segmenter.recipe
            if recipes:
                found = measure(
                    recipes, where, self.limit, workers=self.workers, progress=self.progress, store=self.store
                )  # fmt: skip
                self.reports |= {p: found[str(p)] for p in places if str(p) in recipes}
        for place in self._times:
            segmenter = self._segmenter(place)
            if segmenter is not None:
                data = self._where(*place[:2]).open_whole()
                timed = seconds_per_image({"": segmenter}, [data[0][0]], data.vocabulary, repeats=1)
                self.seconds[place] = float(timed.iloc[0])

    def _segmenter(self, place: Place) -> Segmenter | None:
        model, view, recipe, changes = place
        try:
            parts = [part for part in changes.split(";") if part.strip()]
            made = Recipe.named(recipe, view).but(parse_changes(parts))
            return Segmenter(self._where(model, view).backbone(), made)
        except OvssError as error:
            said = (model, view, f"{recipe} {changes}".strip(), str(error))
            if said not in self.failed:
                self.failed.append(said)
            return None

    # -- answering ------------------------------------------------------------------------------------------

    def found(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What was measured of a claim: value, low, high, measured, note."""
        why = self._why_not(row)
        if why:
            return {"note": why}
        metric = row["metric"]
        if metric in _COEFFICIENTS:
            stage, name = _COEFFICIENTS[metric]
            value = float(getattr(Recipe.named("itaclip", row["dataset"])[stage], name))
            return {
                **_answer(value, f"{value:g}", "a setting: what the recipe carries"),
                "view": "",
            }
        if _is_part(row):
            return self._part(row)
        sides = self._sides(row)
        if metric in _TIMES:
            return self._time(metric, [self.seconds.get(place) for place in sides])
        reports = [self.reports.get(place) for place in sides]
        if None in reports:
            return {"note": "could not be run; the reason is below"}
        return _compared([r for r in reports if r is not None], metric)

    def _time(self, metric: str, seconds: list[float | None]) -> dict[str, Any]:
        known = [one for one in seconds if one is not None]
        if len(known) < len(seconds) or (metric != "seconds_per_image" and len(known) < 2):
            return {"note": "no time of both sides"}
        note = "on this machine, one picture"
        if metric == "seconds_per_image":
            return _answer(known[0], f"{known[0]:.2f} s", note)
        if metric == "speedup":
            ratio = known[1] / known[0]
            return _answer(ratio, f"{ratio:.2f} times", note)
        step = known[0] - known[1]
        return _answer(step, f"{step:+.2f} s", note)

    def _part(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Seconds, share or memory of a part of the full system."""
        view = VIEW_OF[row["dataset"]]
        if view not in self._parts:
            segmenter = self._segmenter((self.profile.model, view, _WHOLE, ""))
            if segmenter is None:
                return {"note": "could not be run; the reason is below"}
            data = self._where(self.profile.model, view).open_whole()
            words = segmenter.text(segmenter.recipe["text"].vocabulary(data.vocabulary))
            times = stage_times(segmenter, data[0][0], words, repeats=1).set_index("stage")
            self._parts[view] = times
        times = self._parts[view].reindex(list(PARTS[row["row"]])).fillna(0)
        if row["metric"] == "gigabytes":
            peak = float(times["peak_gb"].max())
            return _answer(peak, f"{peak:.2f} GB", "of the whole process, on this machine")
        name, unit = ("share", " %") if row["metric"] == "share_of_time" else ("seconds", " s")
        value = float(times[name].sum())
        return _answer(value, f"{value:.2f}{unit}", "on this machine, one picture")

    def reference(self, name: str, view: str) -> list[dict[str, Any]]:
        """The rows of a reference; there is no claim about them. Of LSeg's stand-in also the classes whose masks it was
        shown, and the others."""
        about = comparators.known(name)
        row: dict[str, Any] = {
            "id": "", "row": f"{about.title} ({about.group})", "dataset": "", "metric": "miou", "claimed": "",
            "view": view, "recipe": name, "changes": "", "value": float("nan"), "low": float("nan"),
            "high": float("nan"), "measured": "", "note": NOTES[name],
        }  # fmt: skip
        where = self._where(self.profile.model, view)
        limit = self.limit if self.limit is not None else where.limit
        try:
            report = reference_report(name, where, limit, self.progress, self.store)
            parts = halves(report) if name == WORD_PIXELS else {}
        except OvssError as error:
            return [{**row, "note": str(error)}]
        rows = [{**row, **_compared([report], "miou"), "note": row["note"]}]
        for group, part in parts.items():
            text = intervals.written(part.value, part.low, part.high, ".2f", " %")
            found = {"value": float(part.value), "low": float(part.low), "high": float(part.high)}
            title = f"{about.title}, classes with masks {group}"
            rows.append({**row, **found, "measured": text, "row": title})
        return rows


def trained_model(row: str) -> "comparators.Known | comparators.Quoted | None":
    """The trained model that a row of a published table names, if it is one."""
    everything: Iterable[Any] = (
        *(comparators.known(name) for name in comparators.names() if name not in REFERENCES),
        *comparators.quoted(),
    )
    return next((one for one in everything if one.title == row), None)


def _is_part(row: Mapping[str, Any]) -> bool:
    """Whether a claim is about a part of the thesis's system: a row of its Table 4.9."""
    return row["table"] == "4.9" and row["row"] in PARTS


def _answer(value: float, text: str, note: str = "") -> dict[str, Any]:
    return {"value": value, "measured": text, "note": note}


def _compared(reports: list[Report], metric: str) -> dict[str, Any]:
    """A level of the first report, or its gain over the second."""
    level = level_of(metric)
    assert level is not None
    if level.startswith(CLASS_PREFIX) and level.removeprefix(CLASS_PREFIX) not in reports[0].names:
        return {"note": f"Scenes has no class {level.removeprefix(CLASS_PREFIX)!r}"}
    if metric.startswith("gain_"):
        if len(reports) < 2:
            return {"note": "the source does not say over what"}
        found = reports[0].difference(reports[1], level)
        form, unit = "+.2f", " points"
    else:
        found = reports[0].interval(level)
        form, unit = ".2f", " %"
    value, low, high = float(found.value), float(found.low), float(found.high)
    text = intervals.written(value, low, high, form, unit)
    return {"value": value, "low": low, "high": high, "measured": text, "note": ""}
