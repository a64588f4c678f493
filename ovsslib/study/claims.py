"""What the papers, the thesis and the repositories claim, and what became of each claim here.

`data/claims/<source>.csv` holds one row per published number; `credibility.py` reads what the
numbers say about each other.

A claim is compared with a result only if all of this is the same: the model (CLIP with the named
weights), the data set, the metric, and the settings, i.e. the recipe with its `changes`. Changes
are written as `Recipe.but` takes them, `stage=true; stage.field=value`, relative to the shipped
recipe for that data set. A gain also names the configuration that it is a gain over (`versus`:
"recipe; key=value; ..."). Results on Scenes, with SceneCLIP, or on a part of a data set never
settle a claim about real CLIP on a real data set.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

import pandas as pd

from ovsslib import paths
from ovsslib.datasets.dataset import VIEWS
from ovsslib.errors import DataError, OvssError
from ovsslib.evaluation.intervals import TOO_FEW
from ovsslib.recipe import Recipe, parse_changes
from ovsslib.study.credibility import load_credibility, read_table

COLUMNS = (
    "id", "source", "table", "row", "dataset", "metric", "value", "value_high", "unit", "kind",
    "recipe", "changes", "versus", "model", "note",
)  # fmt: skip
REQUIRED = ("id", "source", "table", "row", "metric", "value", "unit", "kind")
KINDS = ("reported", "projected", "expected")
UNITS = ("percent", "points", "s", "GB", "KB", "x", "count", "GFLOP", "1")
DATASETS = (
    "coco_stuff", "coco_stuff10k", "coco_object", "voc20", "voc21", "context59", "context60",
    "cityscapes", "ade20k",
)  # fmt: skip
RESULT_COLUMNS = ("model", "dataset", "recipe", "changes", "metric", "value", "low", "high")

AGREES = "measured here: agrees"
DIFFERS = "measured here: differs"
NOT_MEASURED = "not measured here"
NOT_CREDIBLE = "not credible as stated"
STATUSES = (AGREES, DIFFERS, NOT_MEASURED, NOT_CREDIBLE)

PROJECTED_REMARK = (
    "a projection: section 5.4.4 of the thesis says that the evaluation on all 5,000 images was "
    "not completed and that its results are projected from a partial one"
)
# Quantities that belong to a machine, or to a program on it: never compared across machines.
_MACHINE_BOUND = {
    "seconds_per_image", "gain_seconds_per_image", "saved_seconds_per_image", "speedup",
    "encoding_speedup", "time_overhead", "share_of_time", "gigabytes", "gain_gigabytes",
}  # fmt: skip
_ID = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


@dataclass(frozen=True)
class Claim:
    """One published number. `text` prints it as its source does, a range with an en dash.

    Attributes:
        value, value_high: the number; the upper end if it is a range, else None. Unit as in `unit`.
        recipe, changes: the configuration of this library that corresponds; both "" if there is
        none.
        versus: the configuration that a gain is over, or "".
    """

    id: str
    source: str
    table: str
    row: str
    dataset: str
    metric: str
    value: float
    value_high: float | None
    unit: str
    kind: str
    recipe: str
    changes: str
    versus: str
    model: str
    note: str
    text: str


def load_claims(folder: str | Path | None = None) -> pd.DataFrame:
    """All claims, one row each, in the order of their files.

    Args:
        folder: folder with the CSV files; the shipped `data/claims` if None.

    Returns:
        The columns of `COLUMNS` (text, "" where empty; `value` and `value_high` float64, NaN where
        there is no upper end) and `text`, the number as printed.

    Raises:
        DataError: with file and line, for a missing column, an empty required cell, a value that is
            not a number, an unknown kind or unit, an id that is malformed or used twice, changes
            without a recipe.
    """
    return _load(Path(folder) if folder is not None else paths.data("claims")).copy()


@lru_cache(maxsize=4)
def _load(folder: Path) -> pd.DataFrame:
    files = sorted(path for path in folder.glob("*.csv") if path.name != "credibility.csv")
    if not files:
        raise DataError(f"no claims (*.csv) in {folder}; reinstall ovsslib or name another folder")
    places: dict[str, str] = {}
    frames = []
    for path in files:
        frame = read_table(path, COLUMNS)
        for number, row in enumerate(frame.to_dict("records"), start=2):
            problem = _problem(row, places)
            if problem:
                raise DataError(f"{path}, line {number}: {problem}")
            places[row["id"]] = f"{path.name}, line {number}"
        frames.append(frame)
    claims = pd.concat(frames, ignore_index=True)
    claims["text"] = [
        f"{low}\N{EN DASH}{high}" if high else low
        for low, high in zip(claims["value"], claims["value_high"], strict=True)
    ]
    for column in ("value", "value_high"):
        claims[column] = pd.to_numeric(claims[column])
    return claims


def _problem(row: Mapping[str, str], places: Mapping[str, str]) -> str | None:
    """What is wrong with one row of a claims file, or None."""
    empty = [column for column in REQUIRED if not row[column]]
    if empty:
        return f"empty {empty[0]!r}"
    if not _ID.fullmatch(row["id"]):
        return f"id {row['id']!r}: use lower-case letters, digits, '.', '+' and '-'"
    if row["id"] in places:
        return f"id {row['id']!r} is taken by {places[row['id']]}"
    for column in ("value", "value_high"):
        if row[column] and not _NUMBER.fullmatch(row[column]):
            return f"{column} {row[column]!r} is not a number"
    if row["value_high"] and float(row["value_high"]) < float(row["value"]):
        return f"the range {row['value']} to {row['value_high']} is empty"
    for column, choices in (("kind", KINDS), ("unit", UNITS)):
        if row[column] not in choices:
            return f"unknown {column} {row[column]!r}; known: {', '.join(choices)}"
    if row["changes"] and not row["recipe"]:
        return f"changes {row['changes']!r} without a recipe"
    return None


def claim(id: str) -> Claim:
    """One claim by its id, e.g. `claim("thesis-t4.1-full-miou").text == "39.18"`.

    Raises DataError with the closest ids for an unknown one.
    """
    claims = load_claims()
    rows = claims[claims["id"] == id]
    if rows.empty:
        close = get_close_matches(id, list(claims["id"]), n=3)
        raise DataError(f"no claim {id!r}; the closest are {close}")
    row = rows.iloc[0].to_dict()
    row["value_high"] = None if math.isnan(row["value_high"]) else float(row["value_high"])
    row["value"] = float(row["value"])
    return Claim(**row)


def claimed_table(source: str, table: str) -> pd.DataFrame:
    """A published table in its printed shape: rows and numbers as printed ("" where there is none).

    Columns are the metrics if the table is about one data set, the data sets if it has one metric,
    else pairs (data set, metric). Raises DataError for an unknown source or table (lists the known
    ones).
    """
    claims = load_claims()
    if source not in set(claims["source"]):
        raise DataError(f"no claims from {source!r}; sources: {sorted(set(claims['source']))}")
    claims = claims[claims["source"] == source]
    if table not in set(claims["table"]):
        tables = list(dict.fromkeys(claims["table"]))
        raise DataError(f"{source} has no table {table!r}; it has {tables}")
    part = claims[claims["table"] == table]
    if part["dataset"].nunique() == 1:
        keys = part["metric"]
    elif part["metric"].nunique() == 1:
        keys = part["dataset"]
    else:
        keys = pd.Series(list(zip(part["dataset"], part["metric"], strict=True)), index=part.index)
    columns, rows = list(dict.fromkeys(keys)), list(dict.fromkeys(part["row"]))
    cells = {
        (row, key): text for row, key, text in zip(part["row"], keys, part["text"], strict=True)
    }
    content = [[cells.get((row, key), "") for key in columns] for row in rows]
    header = pd.MultiIndex.from_tuples(columns) if isinstance(columns[0], tuple) else columns
    return pd.DataFrame(content, index=pd.Index(rows, name="row"), columns=header)


EVERYTHING = "all"
"""The target that holds every claim there is."""


def target_name(source: str, table: str) -> str:
    """What `ovss reproduce` calls a published table: "itaclip-table1", "thesis-prose-3.2.1", ..."""
    slug = re.sub(r"[^a-z0-9.+]+", "-", table.lower()).strip("-")
    return f"{source}-table{slug}" if slug[0].isdigit() else f"{source}-{slug}"


def claims_of(target: str, dataset: str | None = None) -> pd.DataFrame:
    """The claims of a published table, on one of its data sets or on all (None); those of all tables for "all".

    Raises DataError for an unknown table, which names the closest, and for a data set that the table does not have.
    """
    claims = load_claims()
    names = [target_name(s, t) for s, t in zip(claims["source"], claims["table"], strict=True)]
    if target == EVERYTHING:
        names = [EVERYTHING] * len(claims)
    if target not in names:
        close = get_close_matches(target, sorted(set(names)), n=3)
        hint = f" (did you mean {' or '.join(close)}?)" if close else ""
        raise DataError(
            f"unknown target {target!r}{hint}; `ovss reproduce --list` shows all {len(set(names))}"
        )
    part = claims[[name == target for name in names]]
    if dataset is None:
        return part
    if dataset not in set(part["dataset"]):
        datasets = ", ".join(entry for entry in dict.fromkeys(part["dataset"]) if entry)
        raise DataError(
            f"{target!r} holds nothing about {dataset!r}; its data sets: {datasets or 'none'}"
        )
    return part[part["dataset"] == dataset]


def runs_for(target: str, dataset: str | None = None) -> pd.DataFrame:
    """The evaluations that a published table needs: unique (model, dataset, recipe, changes).

    Args:
        target: a name as :func:`target_name` gives it.
        dataset: one data set only, or None for all of the table.

    Returns:
        One row per evaluation; column `claims` lists the ids that it settles. A gain also needs the
        configuration it is over; that one is a row too.

    Raises:
        DataError: for an unknown target (names the closest), or one that this library cannot run.
    """
    evaluations: dict[tuple[str, str, str, str], list[str]] = {}
    for row in claims_of(target).to_dict("records"):
        runnable = (
            row["recipe"] and row["dataset"] in DATASETS and dataset in (None, row["dataset"])
        )
        if not runnable:
            continue
        sides = [(row["recipe"], row["changes"])]
        if row["versus"]:
            recipe, _, changes = row["versus"].partition(";")
            sides.insert(0, (recipe.strip(), changes.strip()))
        for recipe, changes in sides:
            key = (row["model"], row["dataset"], recipe, changes)
            evaluations.setdefault(key, []).append(row["id"])
    if not evaluations:
        raise DataError(
            f"{target!r} holds nothing that this library can run on {dataset or 'any data set'}"
        )
    return pd.DataFrame(
        [(*key, tuple(ids)) for key, ids in evaluations.items()],
        columns=["model", "dataset", "recipe", "changes", "claims"],
    )


def canonical_model(name: str) -> str | None:
    """The claims' name ("ViT-B/16", "OpenCLIP ViT-B/16") of a model and its weights, or None.

    Takes that notation itself, or an open_clip name with a pretrained tag
    ("ViT-B-16-quickgelu/openai"). A model without a tag (its weights may be random), SceneCLIP and
    unknown weights give None.
    """
    if re.fullmatch(r"((OpenCLIP|MetaCLIP|BLIP) )?ViT-[SBLH](/\d+(@\d+)?)?", name):
        return name
    match = re.match(r"ViT-([BLH])-(\d+)(-336)?(?=[^0-9])", name)
    if not match or "random" in name or "exported" in name:  # an export need not be as exact
        return None
    tags = name[match.end() :].lower()
    families = (("metaclip", "MetaCLIP "), ("laion", "OpenCLIP "), ("openai", ""))
    for tag, family in families:
        if tag in tags:
            size = "@336" if match[3] or "336" in tags else ""
            return f"{family}ViT-{match[1]}/{match[2]}{size}"
    return None


@lru_cache(maxsize=4096)
def configuration_key(recipe: str, changes: str, dataset: str) -> str:
    """The same text for the same computation: the hash of the resolved settings.

    For a recipe or a change that this version does not know, the sorted text of both.
    """
    parts = [part.strip() for part in changes.split(";") if part.strip()]
    try:
        return Recipe.named(recipe, dataset).but(parse_changes(parts)).key()
    except OvssError:
        pairs = sorted(re.sub(r"\s*=\s*", "=", part).lower() for part in parts)
        return "; ".join([recipe, *pairs])


def _versus_key(versus: str, dataset: str) -> str:
    recipe, _, changes = versus.partition(";")
    return configuration_key(recipe.strip(), changes.strip(), dataset) if versus else ""


def _key(row: Mapping[str, str], model: str) -> tuple[str, ...]:
    metric = row["metric"].replace("person_iou", "class_iou:person")
    # A difference means nothing without the other side; a level needs none.
    difference = metric.startswith(("gain_", "ratio_", "relative_gain_"))
    return (
        model,
        row["dataset"],
        metric,
        configuration_key(row["recipe"], row["changes"], row["dataset"]),
        _versus_key(row.get("versus") or "", row["dataset"]) if difference else "",
    )


def assess(claims: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """The ledger: each claim with what became of it here.

    Args:
        claims: as :func:`load_claims` gives them, or some rows of it.
        results: columns `RESULT_COLUMNS` (percent; `low` and `high` the 95% interval); optional
            `versus` for gains and `limit` (number of images; rows that have one are left out). May
            be empty.

    Returns:
        The claims with `status` (one of `STATUSES`), `measured`, `low`, `high` (NaN if not
        measured), `why` (one sentence) and `remark` (what else the sources say about the number).
        "agrees": the claimed number or range, give or take half its last printed digit, meets the
        measured interval. A measured claim keeps its measured status even where the sources speak
        against it.

    Raises:
        DataError: if `results` lacks a column.
    """
    missing = [column for column in RESULT_COLUMNS if column not in results.columns]
    if missing:
        raise DataError(f"the results lack the columns {missing}; they need {list(RESULT_COLUMNS)}")
    index = _index(results)
    against: dict[str, list[str]] = {}
    remarks: dict[str, list[str]] = {}
    for rule in load_credibility(load_claims()).itertuples():
        for name in rule.ids:
            (against if rule.verdict == "not credible" else remarks).setdefault(name, []).append(
                rule.reason
            )
    rows = []
    for row in claims.to_dict("records"):
        reasons = against.get(row["id"], [])
        notes = remarks.get(row["id"], [])
        if row["kind"] == "projected" and row["source"] == "thesis":
            notes = [*notes, PROJECTED_REMARK]
        comparable = row["recipe"] and row["metric"] not in _MACHINE_BOUND
        model = canonical_model(row["model"]) if comparable else None
        result = index.get(_key(row, model)) if model else None
        if result:
            status, why = _compare(row, result)
            notes = [*reasons, *notes]
        elif reasons:
            status, why = NOT_CREDIBLE, "; ".join(reasons)
        else:
            status, why = NOT_MEASURED, _what_would(row)
        measured = result or {"value": math.nan, "low": math.nan, "high": math.nan}
        rows.append(
            (status, measured["value"], measured["low"], measured["high"], why, "; ".join(notes))
        )
    columns = ["status", "measured", "low", "high", "why", "remark"]
    return claims.join(pd.DataFrame(rows, index=claims.index, columns=columns))


def _index(results: pd.DataFrame) -> dict[tuple[str, ...], dict]:
    """Results that may settle a claim, by what they were measured on; of equals the last counts."""
    index = {}
    for row in results.to_dict("records"):
        model = canonical_model(str(row["model"]))
        complete = pd.isna(row.get("limit"))
        if model is None or row["dataset"] not in DATASETS or not complete or pd.isna(row["value"]):
            continue
        images = row.get("images")
        if images is not None and images < VIEWS[row["dataset"]][3]:  # a folder that lacks some
            continue
        text = {
            key: "" if pd.isna(row.get(key)) else str(row[key])
            for key in ("changes", "versus")
            if key in row
        }
        index[_key({**row, **text}, model)] = row
    return index


def _compare(row: Mapping, result: Mapping) -> tuple[str, str]:
    printed = row["text"].split("\N{EN DASH}")[0]
    half = 0.5 * 10.0 ** -len(printed.partition(".")[2])
    # Without an interval (too few images) the value itself must meet the claim.
    low = result["value"] if pd.isna(result["low"]) else result["low"]
    high = result["value"] if pd.isna(result["high"]) else result["high"]
    top = row["value"] if math.isnan(row["value_high"]) else row["value_high"]
    agrees = row["value"] - half <= high and low <= top + half
    sure = f"95% interval {low:.2f} to {high:.2f}" if not pd.isna(result["low"]) else TOO_FEW
    measured = f"{result['value']:.2f} ({sure})"
    return (AGREES if agrees else DIFFERS), f"claimed {row['text']}, measured {measured}"


def _what_would(row: Mapping) -> str:
    """Why a claim has no measurement, and which profile and command would give one."""
    if row["unit"] == "1":
        return "a setting, not a result; the recipe carries it"
    if row["metric"] in _MACHINE_BOUND:
        return "time or memory on another machine; the page on compute has this machine's"
    if row["dataset"].startswith("average"):
        return "an average; its parts are claims of their own"
    if row["dataset"] not in DATASETS:
        return "about a data set that this library does not read, or that its source does not name"
    if not row["recipe"]:
        return "no recipe is set against it here: another system, a trained one, or an unstated setting"
    model = "" if row["model"] == "ViT-B/16" else f" with the model {row['model']}"
    target = target_name(row["source"], row["table"])
    return (
        f"the profile openai-vitb16-{row['dataset']}{model} would: "
        f"`ovss reproduce {target} --dataset {row['dataset']}`"
    )
