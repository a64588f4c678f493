"""The claims: complete, well formed, equal to their sources at many spots, and joined to results
rightly."""

import math

import pandas as pd
import pytest

from ovsslib import paths
from ovsslib.errors import DataError
from ovsslib.recipe import Recipe, parse_changes
from ovsslib.study import claims as module
from ovsslib.study.claims import (
    AGREES,
    DIFFERS,
    NOT_CREDIBLE,
    NOT_MEASURED,
    assess,
    canonical_model,
    claim,
    claimed_table,
    load_claims,
    runs_for,
)
from ovsslib.study.credibility import load_credibility

# Typed from the printed tables, not from the CSV files: (id, number as printed).
SPOTS = [
    ("thesis-t4.1-baseline-miou", "22.77"),
    ("thesis-t4.1-full-miou", "39.18"),
    ("thesis-t4.1-rcs-gain-miou", "7.87"),
    ("thesis-t4.1-sfr-boundary-f1", "66.2"),
    ("thesis-t4.1-densecrf-seconds-per-image", "15.3"),
    ("thesis-t4.2-cliptrase-person-iou", "24.87"),
    ("thesis-t4.2-full-gain-person-iou", "16.85"),
    ("thesis-t4.2-expected-gain-miou", "7–12"),
    ("thesis-t4.3-phase1+2a-miou", "44.92"),
    ("thesis-t4.3-total-gain-seconds-per-image", "8.9"),
    ("thesis-t4.4-top3-miou", "45.18"),
    ("thesis-t4.4-adaptive-speedup", "1.27"),
    ("thesis-t4.5-full-pixel-accuracy", "84.2"),
    ("thesis-t4.5-target-miou", "40–48"),
    ("thesis-t4.6-clipseg-miou", "32.7"),
    ("thesis-t4.7-full-miou", "73.2"),
    ("thesis-t4.8-full-class-iou-sky", "78.9"),
    ("thesis-t4.8-baseline-class-iou-fork", "8.3"),
    ("thesis-t4.9-similarity-seconds-per-image", "4.2"),
    ("thesis-t4.9-total-gigabytes", "5.8"),
    ("thesis-abstract-top7-encoding-speedup", "11.4"),
    ("thesis-p1.3.5-expected-all-gain-miou", "17–32"),
    ("thesis-p3.5.1-expected-hierarchy-gain-miou", "3–5"),
    ("thesis-p3.7.2-resclip-gain-seconds-per-image", "2–4"),
    ("thesis-p3.7.3-resclip-gigabytes", "5.8"),
    ("thesis-p5.2-full-relative-gain-person-iou", "144"),
    ("itaclip-t1-itaclip-context60-miou", "37.5"),
    ("itaclip-t1-car-voc21-miou", "67.6"),
    ("itaclip-t1-baseline-cityscapes-miou", "6.9"),
    ("itaclip-t2-qq+vv-miou", "64.9"),
    ("itaclip-t3-kept-coco-object-miou", "36.9"),
    ("itaclip-t4-7+8+10-miou", "65.6"),
    ("itaclip-t5-off-coco-stuff-miou", "26.3"),
    ("itaclip-t6-ltg-context60-miou", "34.6"),
    ("itaclip-t7-224-cityscapes-miou", "37.7"),
    ("itaclip-t8-0.5-0.1-miou", "35.8"),
    ("itaclip-t9-default-coco-object-auxiliary-text-coefficient", "0.1"),
    ("itaclip-t10-vit-l-14-miou", "53.3"),
    ("itaclip-t11-without-miou", "34.5"),
    ("sclip-repo-readme-sclip-coco-stuff10k-miou", "25.91"),
    ("naclip-repo-readme-naclip-cityscapes-miou", "38.27"),
    ("resclip-paper-vit-b-16-naclip+resclip-coco-stuff-miou", "24.7"),
    ("resclip-paper-vit-l-14-sclip+resclip-average5-miou", "36.7"),
    ("clearclip-paper-vit-b-16-gem-context59-miou", "35.9"),
    ("cliptrase-repo-readme-336-coco-stuff-miou", "24.06"),
    ("trident-paper-main-trident-coco-stuff-miou", "28.3"),
    ("thesis-author-repo-results-top7-per-image-miou", "30.80"),
    ("cliprc-repo-readme-fully-supervised-coco-stuff-miou-unseen", "64.1"),
    ("loftup-paper-open-vocabulary-loftup-miou", "27.82"),
]

AVERAGES = {
    "average5": {"voc20", "context59", "coco_stuff", "cityscapes", "ade20k"},
    "average3": {"voc21", "context60", "coco_object"},
}
AVERAGES["average8"] = AVERAGES["average5"] | AVERAGES["average3"]
# Printed so in the source, although the columns beside them average to something else.
MISPRINTED_AVERAGES = {
    "clearclip-paper-vit-b-16-sclip+clearclip-average5-miou",
    "clearclip-paper-vit-b-16-maskclip+clearclip-average5-miou",
}


@pytest.fixture(scope="module")
def claims() -> pd.DataFrame:
    return load_claims()


def results(**changes) -> pd.DataFrame:
    row = {
        "model": "ViT-B-16-quickgelu/openai", "dataset": "voc21", "recipe": "sclip", "changes": "",
        "metric": "miou", "value": 59.6, "low": 58.9, "high": 60.3,
    }  # fmt: skip
    return pd.DataFrame([{**row, **changes}])


def status(claims: pd.DataFrame, id: str, found: pd.DataFrame) -> pd.Series:
    return assess(claims[claims["id"] == id], found).iloc[0]


def test_counts_and_completeness(claims):
    assert len(claims) >= 1200
    assert claims["id"].is_unique
    assert not claims.duplicated(
        ["source", "table", "row", "model", "dataset", "metric", "kind"]
    ).any()
    thesis = claims[claims["source"] == "thesis"]
    assert {f"4.{n}" for n in range(1, 10)} <= set(thesis["table"])
    itaclip = claims[claims["source"] == "itaclip"]
    sizes = itaclip.groupby("table").size()
    assert dict(sizes) == {
        "1": 53, "2": 7, "3": 10, "4": 6, "5": 10, "6": 6, "7": 20, "8": 7, "9": 10,
        "10": 3, "11": 2,
    }  # fmt: skip


@pytest.mark.parametrize(("id", "printed"), SPOTS)
def test_numbers_are_as_printed(id, printed):
    assert claim(id).text == printed


def test_averages_follow_from_their_columns(claims):
    """A check of the transcription: 82 printed averages against the columns that they average."""
    checked = 0
    for row in claims[claims["dataset"].isin(AVERAGES)].itertuples():
        same = (claims["source"] == row.source) & (claims["table"] == row.table)
        same &= (
            (claims["row"] == row.row)
            & (claims["model"] == row.model)
            & (claims["metric"] == "miou")
        )
        parts = claims[same & claims["dataset"].isin(AVERAGES[row.dataset])]
        if len(parts) == len(AVERAGES[row.dataset]):
            off = abs(parts["value"].mean() - row.value)
            assert (off > 0.2) == (row.id in MISPRINTED_AVERAGES), (row.id, off)
            assert off < 0.08 or row.id in MISPRINTED_AVERAGES, (row.id, off)
            checked += 1
    assert checked >= 82


def test_improvements_follow_from_their_rows(claims):
    values = claims.set_index("id")["value"]
    checked = 0
    for name in values.index:
        if "-improvement-gain-" in name:
            full = values[name.replace("improvement-gain-", "full-")]
            base = values[name.replace("improvement-gain-", "baseline-")]
            assert values[name] == pytest.approx(full - base, abs=0.006), name
            checked += 1
    assert checked == 14


def test_kinds_follow_the_rules(claims):
    thesis = claims[claims["source"] == "thesis"]
    ranges = thesis[thesis["value_high"].notna()]
    achieved = ranges["table"].isin(["prose 4.9"])
    assert set(ranges[~achieved]["kind"]) == {"expected"}
    full = thesis[(thesis["recipe"] == "thesis-full") & thesis["value_high"].isna()]
    assert set(full["kind"]) == {"projected"}
    assert set(claims[claims["source"] != "thesis"]["kind"]) == {"reported"}
    assert set(thesis[(thesis["value"] == 22.77) & (thesis["metric"] == "miou")]["kind"]) == {
        "reported"
    }


def test_claim_prints_and_carries_its_configuration():
    top7 = claim("thesis-t4.4-top7-gain-miou")
    assert (top7.recipe, top7.changes) == ("thesis-phase1+2a", "text.prompts=thesis-top7")
    assert top7.versus == "thesis-phase1+2a"
    assert top7.value == pytest.approx(2.42) and top7.value_high is None
    assert claim("thesis-t4.5-target-miou").value_high == 48
    with pytest.raises(DataError, match="thesis-t4.1-full-miou"):
        claim("thesis-t4.1-ful-miou")


def test_claimed_tables_have_the_printed_shape():
    one = claimed_table("itaclip", "1")
    assert list(one.columns) == ["coco_stuff", "coco_object", "voc21", "context60", "cityscapes"]
    assert (
        len(one) == 12 and one.loc["CaR", "coco_stuff"] == "" and one.loc["CaR", "voc21"] == "67.6"
    )
    phase1 = claimed_table("thesis", "4.1")
    assert phase1.index[0] == "Baseline SCLIP" and phase1.loc["+ ResCLIP RCS", "miou"] == "33.28"
    assert set(phase1.columns) == {"miou", "gain_miou", "boundary_f1", "seconds_per_image"}
    trase = claimed_table("cliptrase-repo", "README")
    assert trase.loc["CLIPtrase, 336 centre crop", ("coco_stuff", "pixel_accuracy")] == "40.14"
    with pytest.raises(DataError, match="no table '4.10'.*'4.1'"):
        claimed_table("thesis", "4.10")
    with pytest.raises(DataError, match="no claims from 'nobody'"):
        claimed_table("nobody", "1")


def test_every_claim_gets_one_status(claims):
    ledger = assess(claims, pd.DataFrame(columns=module.RESULT_COLUMNS))
    assert len(ledger) == len(claims) and set(ledger["status"]) == {NOT_MEASURED, NOT_CREDIBLE}
    assert (ledger["why"] != "").all() and ledger["measured"].isna().all()
    projected = ledger[ledger["kind"] == "projected"]
    assert projected["remark"].str.contains("5.4.4").all()


def test_agreement_uses_interval_and_printed_digits(claims):
    id = "sclip-repo-readme-sclip-voc21-miou"
    row = status(claims, id, results())
    assert row["status"] == AGREES and row["measured"] == 59.6
    assert "59.63" in row["why"] and "58.90 to 60.30" in row["why"]
    assert status(claims, id, results(value=57.0, low=56.2, high=57.8))["status"] == DIFFERS
    # half of the last printed digit: 59.63 stands for 59.625 to 59.635
    assert status(claims, id, results(value=59.0, low=58.0, high=59.6251))["status"] == AGREES
    assert status(claims, id, results(value=59.0, low=58.0, high=59.62))["status"] == DIFFERS
    assert status(claims, id, results(value=59.63, low=math.nan, high=math.nan))["status"] == AGREES


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "scenes"},
        {"model": "sceneclip"},
        {"model": "sceneclip", "dataset": "voc21"},
        {"model": "ViT-B-16-quickgelu"},
        {"model": "ViT-B-16-quickgelu/random"},
        {"model": "ViT-L-14-quickgelu/openai"},
        {"model": "ViT-B-16/laion2b_s34b_b88k"},
        {"recipe": "naclip"},
        {"changes": "pamr=true"},
        {"metric": "pixel_accuracy"},
        {"dataset": "voc20"},
        {"limit": 100},
    ],
)
def test_other_computations_never_settle_a_claim(claims, change):
    row = status(claims, "sclip-repo-readme-sclip-voc21-miou", results(**change))
    assert row["status"] == NOT_MEASURED
    assert "openai-vitb16-voc21" in row["why"] and "ovss reproduce sclip-repo-readme" in row["why"]


def test_nothing_measured_on_scenes_settles_anything(claims):
    rows = []
    for row in claims[claims["recipe"] != ""].to_dict("records"):
        for model, dataset in [
            ("sceneclip", "scenes"),
            ("sceneclip", row["dataset"]),
            (row["model"], "scenes"),
        ]:
            kept = {key: row[key] for key in ("recipe", "changes", "metric", "value", "versus")}
            rows.append({**kept, "model": model, "dataset": dataset, "low": 0.0, "high": 100.0})
    ledger = assess(claims, pd.DataFrame(rows))
    assert not ledger["status"].str.startswith("measured").any()


def test_same_settings_written_differently_match(claims):
    id = "itaclip-t1-sclip-voc21-miou"  # sclip with PAMR
    for written in ("pamr=true", " pamr = true ", "pamr=true; attention.terms=qq+kk"):
        row = status(claims, id, results(changes=written, value=61.7, low=61.0, high=62.4))
        assert row["status"] == AGREES, written


def test_every_configuration_is_one_of_this_library(claims):
    """A misspelt stage or field would never match a result, and nobody would notice."""
    levels = zip(claims["recipe"], claims["changes"], claims["dataset"], strict=True)
    references = [
        (*versus.partition(";")[::2], dataset)
        for versus, dataset in zip(claims["versus"], claims["dataset"], strict=True)
    ]
    configurations = {key for key in [*levels, *references] if key[0]}
    assert len(configurations) > 200
    for recipe, changes, dataset in configurations:
        parts = [part.strip() for part in changes.split(";") if part.strip()]
        Recipe.named(recipe, dataset).but(parse_changes(parts))


def test_gains_need_the_same_reference(claims):
    id = "resclip-paper-vit-b-16-clearclip+resclip-coco-stuff-gain-miou"
    row = claims[claims["id"] == id].iloc[0]
    found = results(
        dataset="coco_stuff", recipe=row["recipe"], changes=row["changes"], metric="gain_miou",
        value=0.5, low=0.2, high=0.8, versus="clearclip",
    )  # fmt: skip
    assert status(claims, id, found)["status"] == AGREES
    assert status(claims, id, found.assign(versus="sclip"))["status"] == NOT_MEASURED
    assert status(claims, id, found.drop(columns="versus"))["status"] == NOT_MEASURED


def test_ranges_and_times(claims):
    id = "thesis-p1.3.1-expected-loftup-gain-miou"
    found = results(
        dataset="coco_stuff", recipe="thesis-baseline", changes="upsampling.method=loftup",
        metric="gain_miou", value=1.2, low=0.9, high=1.5, versus="thesis-baseline",
    )  # fmt: skip
    assert status(claims, id, found)["status"] == AGREES  # 2 stands for 1.5 and more
    assert status(claims, id, found.assign(high=1.4))["status"] == DIFFERS
    # a claim that the sources speak against is still settled by a measurement, and keeps the reason
    # as remark
    full = results(dataset="coco_stuff", recipe="thesis-full", value=21.3, low=20.8, high=21.8)
    row = status(claims, "thesis-t4.5-full-miou", full)
    assert row["status"] == DIFFERS and "Mask2Former" in row["remark"]
    seconds = results(
        dataset="coco_stuff", recipe="thesis-full", metric="seconds_per_image", value=14.2
    )
    assert status(claims, "thesis-t4.5-full-seconds-per-image", seconds)["status"] == NOT_CREDIBLE
    person = results(
        dataset="coco_stuff", recipe="thesis-baseline", metric="class_iou:person", value=18.3
    )
    person[["low", "high"]] = [17.0, 19.0]
    assert status(claims, "thesis-t4.5-baseline-person-iou", person)["status"] == AGREES


def test_credibility_rules_hold_and_compute_their_numbers(claims):
    rules = load_credibility(claims)
    assert len(rules) >= 50
    reasons = {
        id: rule.reason
        for rule in rules.itertuples()
        for id in rule.ids
        if rule.verdict != "remark"
    }
    assert (
        "16.41 + 9.71 = 26.12 > 22.15 achieved: sub-additive, not synergy"
        in (reasons["thesis-p4.4-phase1+2a-miou"])
    )
    assert "44.8" in reasons["thesis-t4.5-full-miou"]  # (42.9 * 156 + 64.1 * 15) / 171
    assert "2.1 s against T4.1 9.2 s" in reasons["thesis-t4.9-sclip-seconds-per-image"]
    assert "12.53" in reasons["thesis-t4.1-rcs-gain-miou"]
    assert "1200 KB" in reasons["thesis-pa.4.2-attention-8-heads-kilobytes-per-layer"]
    assert "[=" not in "".join(rules["reason"]) and "{" not in "".join(rules["reason"])
    ledger = assess(claims, pd.DataFrame(columns=module.RESULT_COLUMNS)).set_index("id")
    assert ledger.loc["thesis-t4.5-full-miou", "status"] == NOT_CREDIBLE
    assert ledger.loc["thesis-t4.1-densecrf-gain-miou", "status"] == NOT_MEASURED


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("no-such-*,remark,,x", "finds no claim"),
        ("thesis-t4.1-full-miou,maybe,,x", "unknown verdict 'maybe'"),
        ("thesis-t4.1-full-miou,remark,{thesis-t4.1-full-miou} > 40,x", "does not hold"),
        (
            "thesis-t4.1-full-miou,remark,{no-such-claim} > 40,x",
            "unknown identifier 'no-such-claim'",
        ),
        ("thesis-t4.1-full-miou,remark,,[= {thesis-t4.1-full-miou} / 0]", "division by zero"),
    ],
)
def test_bad_credibility_rules_name_file_and_line(tmp_path, rule, message):
    path = tmp_path / "credibility.csv"
    path.write_text(f"pattern,verdict,holds,reason\n{rule}\n", encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        load_credibility(load_claims(), path)
    assert "credibility.csv, line 2" in str(caught.value)


GOOD = "a-b,thesis,4.1,Row,voc21,miou,1.5,,percent,reported,sclip,,,ViT-B/16,"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (GOOD.replace("1.5", "much"), "value 'much' is not a number"),
        (GOOD.replace("1.5,", "1.5,1.0"), "range 1.5 to 1.0 is empty"),
        (GOOD.replace("reported", "measured"), "unknown kind 'measured'"),
        (GOOD.replace("percent", "furlong"), "unknown unit 'furlong'"),
        (GOOD.replace("a-b", "A b"), "id 'A b'"),
        (GOOD.replace("miou", ""), "empty 'metric'"),
        (GOOD.replace("sclip,", ",pamr=true"), "without a recipe"),
        (GOOD, "is taken by x.csv, line 2"),
    ],
)
def test_bad_rows_name_file_and_line(tmp_path, line, message):
    first = GOOD if "is taken" in message else GOOD.replace("a-b", "first")
    (tmp_path / "x.csv").write_text(
        "\n".join([",".join(module.COLUMNS), first, line, ""]), encoding="utf-8"
    )
    with pytest.raises(DataError, match=message) as caught:
        load_claims(tmp_path)
    assert "x.csv, line 3" in str(caught.value)


def test_bad_files(tmp_path, claims):
    with pytest.raises(DataError, match="no claims"):
        load_claims(tmp_path)
    (tmp_path / "x.csv").write_text("id,source\na,b\n", encoding="utf-8")
    with pytest.raises(DataError, match="x.csv, line 1: missing columns"):
        load_claims(tmp_path)
    (tmp_path / "x.csv").write_bytes(b"id\n\xff\xfe\n")
    with pytest.raises(DataError, match="x.csv: cannot be read"):
        load_claims(tmp_path)
    with pytest.raises(DataError, match="lack the columns"):
        assess(claims, pd.DataFrame({"model": []}))


def test_files_are_one_per_source():
    for path in paths.data("claims").glob("*.csv"):
        if path.name != "credibility.csv":
            sources = pd.read_csv(path, dtype=str)["source"]
            assert set(sources) == {path.stem}


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("ViT-B/16", "ViT-B/16"),
        ("OpenCLIP ViT-L/14", "OpenCLIP ViT-L/14"),
        ("ViT-B-16-quickgelu/openai", "ViT-B/16"),
        ("ViT-L-14-336-quickgelu/openai", "ViT-L/14@336"),
        ("ViT-B-16/laion2b_s34b_b88k", "OpenCLIP ViT-B/16"),
        ("ViT-B-16-quickgelu/metaclip_400m", "MetaCLIP ViT-B/16"),
        ("ViT-B-16", None),
        ("ViT-B-16-quickgelu/random", None),
        ("ViT-B-16-quickgelu/exported from openai", None),  # int8 need not agree
        ("sceneclip", None),
        ("", None),
    ],
)
def test_models_have_one_name(name, canonical):
    assert canonical_model(name) == canonical


def test_runs_for_a_table():
    runs = runs_for("itaclip-table1", "voc21")
    assert set(runs["recipe"]) == {"clip", "maskclip", "clearclip", "sclip", "naclip", "itaclip"}
    assert set(runs["dataset"]) == {"voc21"}
    gains = runs_for("thesis-table4.1")
    assert ("thesis-phase1", "") in set(zip(gains["recipe"], gains["changes"], strict=True))
    assert not gains.duplicated(["model", "dataset", "recipe", "changes"]).any()
    with pytest.raises(DataError, match="unknown target"):
        runs_for("itaclip-table99")
    with pytest.raises(DataError, match="nothing that this library can run"):
        runs_for("cliprc-repo-readme")
