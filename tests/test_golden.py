"""Known results are what this checkout measures; where not, the message says which version to raise or what to mend.

How it measures, and which results: `scripts/golden.py`. Takes about 25 s on one core.
"""

import dataclasses

import golden
import numpy as np
import pytest
from golden import Case, advice, difference

from ovsslib.recipe import stages


def test_shipped_records_have_the_keys_of_this_checkout():
    current, stale = golden.shipped()
    assert not stale, (
        f"{len(stale)} shipped records have other versions, weights, images or words than this checkout: measure "
        f"them anew (run the notebooks, then scripts/ship_results.py), or take the change back: {stale[:20]}"
    )
    assert len(current) >= 100


def test_what_no_shipped_record_has_is_recorded():
    _, missing = golden.kept_cases()
    assert not missing, (
        f"new, or of older versions: {missing}; run python scripts/golden.py --write"
    )


def test_known_results_are_measured_anew():
    cases = [*golden.shipped_cases(), *golden.kept_cases()[0]]
    features = set().union(*(case.features for case in cases))
    _, impossible = golden.wanted_contents()
    unseen = set(stages()) - features
    assert not unseen or impossible, f"no known result has {unseen}"
    problem = golden.compare(cases)
    assert problem is None, problem


# -- the golden test itself ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def case() -> Case:
    return golden.shipped_cases()[0]


def as_report(case: Case, **changed):
    counts = {**case.counts, **changed}
    names = {
        "counts": "classes",
        "boundary_counts": "boundary",
        "calibration_counts": "calibration",
    }
    return type("Report", (), {name: counts[kind] for name, kind in names.items()})


def test_equal_counts_agree_and_a_handful_of_pixels_may_move(case):
    assert difference(case, as_report(case)) is None
    moved = case.counts["classes"].copy()
    moved[1, 1, :2] += (golden.PIXELS // 2, -(golden.PIXELS // 2))
    assert difference(case, as_report(case, classes=moved)) is None
    moved[1, 1, 0] += 1
    found = difference(case, as_report(case, classes=moved))
    assert found == f"classes: counts of picture 1 differ by {golden.PIXELS + 1} pixels"


def test_confidences_and_boundaries_are_compared_too(case):
    for kind, where in (("boundary", (0, 2)), ("calibration", (0, 7, 1))):
        moved = case.counts[kind].copy()
        moved[where] += golden.PIXELS + 1
        assert difference(case, as_report(case, **{kind: moved})).startswith(kind)
    sums = case.counts["calibration"].copy()
    sums[1, :, 2] = np.round(sums[1, :, 2] * (1 + 2 * golden.CONFIDENCE))
    assert difference(case, as_report(case, calibration=sums)).startswith(
        "confidences of picture 1"
    )
    fewer = case.counts["classes"][:, :, 1:]
    assert "shape" in difference(case, as_report(case, classes=fewer))


def test_advice_names_the_stage_the_setting_or_the_core():
    def made(**stages_on) -> Case:
        content = golden._content("sclip", stages_on, "scenes")
        return Case("x", content, {})

    plain, refined, closed = made(pamr=False), made(pamr=True), made(labels={"closing": 3})
    both = made(pamr=True, labels={"closing": 3})
    text = advice([refined, both], [plain, closed])
    assert "Every case with pamr differs" in text and "ovsslib/stages/pamr.py" in text
    assert "raise `version` of PAMR to 2" in text
    text = advice([closed, both], [plain, refined])
    assert "labels.closing=3" in text and "LabelSettings" in text
    assert "CORE_VERSION" in advice([plain, refined], [])
    assert "no single part" in advice([refined], [both, dataclasses.replace(refined)])
