"""The trained models of the embedded world that stand beside the published tables: what masks add to the same frozen CLIP."""

from functools import cache

import numpy as np

from ovsslib import comparators
from ovsslib.evaluation import intervals
from ovsslib.evaluation.engine import evaluate
from ovsslib.evaluation.intervals import Interval, written
from ovsslib.evaluation.profiles import Profile
from ovsslib.evaluation.report import Report
from ovsslib.evaluation.store import ResultsStore

SUPERVISED = "deeplabv3-scenes"
"""The comparator that was shown the masks of all classes; it stands below tables that quote supervised models."""
WORD_PIXELS = "lseg-scenes"
"""The comparator that was shown the masks of half of the classes; it stands below tables that quote LSeg."""
REFERENCES = (SUPERVISED, WORD_PIXELS)
NOTES = {
    SUPERVISED: "the supervised reference: trained with masks of training pictures of Scenes, all classes",
    WORD_PIXELS: "a stand-in for LSeg: trained with masks of training pictures of Scenes, half of the classes",
}
"""What a table says of a reference's number."""


@cache
def reference(name: str) -> comparators.Comparator:
    """One of `REFERENCES`, opened once. Raises ModelError if its weights are not here."""
    return comparators.load(name)


def reference_report(
    name: str,
    profile: Profile,
    limit: int | None = None,
    progress: bool = False,
    store: ResultsStore | bool = True,
) -> Report:
    """One of `REFERENCES` on a profile's pictures: from the store, or measured.

    Raises ModelError if its weights are not here, DataError for data that is not.
    """
    images = limit if limit is not None else profile.limit
    data = profile.open_whole()
    return evaluate(reference(name), data, images, progress=progress, store=store)


def supervised_report(
    profile: Profile,
    limit: int | None = None,
    progress: bool = False,
    store: ResultsStore | bool = True,
) -> Report:
    """The supervised reference; see :func:`reference_report`."""
    return reference_report(SUPERVISED, profile, limit, progress, store)


def shown(name: str = WORD_PIXELS) -> tuple[str, ...]:
    """Classes of Scenes whose masks a reference was shown in training. Raises ModelError if its weights are not here."""
    told = reference(name).backbone.configuration
    return tuple(told["shown"] if "shown" in told else told["labels"])


def of_classes(report: Report, names: tuple[str, ...]) -> Interval:
    """mIoU over some classes of a report, in percent, with its interval; NaN ends for too few images.

    names: classes that the report lacks are left out; a report with none of them gives NaN.
    """
    places = [index for index, name in enumerate(report.names) if name in names]
    if not places:
        nothing = float("nan")
        return Interval(nothing, nothing, nothing, 0.95, report.images)
    return intervals.interval(np.ascontiguousarray(report.counts[:, :, places])).percent()


def halves(report: Report, told: tuple[str, ...] | None = None) -> dict[str, Interval]:
    """mIoU over the classes whose masks were shown, and over those whose masks never were: {"shown": ..., "not shown": ...}.

    A background, which joins classes of both, is in neither. told: those that were shown; None: by the stand-in for LSeg.
    """
    told = shown() if told is None else told
    never = tuple(n for n in report.names if n not in told and n != "background")
    return {"shown": of_classes(report, told), "not shown": of_classes(report, never)}


def what_masks_add(
    free: Report,
    supervised: Report,
    half: Report | None = None,
    told: tuple[str, ...] | None = None,
) -> list[str]:
    """Sentences on what a training-free method reaches beside models that saw masks, all from the counts.

    Args:
        free: of a training-free method. supervised: of the reference that saw all masks. half: of the one that saw half.
        told: the classes whose masks `half` was shown; None: as its weights say.

    Raises DataError for reports on other data sets.
    """
    gap = supervised.difference(free)
    edges = supervised.difference(free, "boundary_f1")
    by_class = (supervised.per_class - free.per_class).dropna().sort_values()
    most = ", ".join(f"{name} {value:+.0f}" for name, value in by_class[::-1].head(4).items())
    least = ", ".join(f"{name} {value:+.0f}" for name, value in by_class.head(4).items())
    raised = int((by_class > 0).sum())
    sentences = [
        f"{supervised.recipe.name} minus {free.recipe.name}, mIoU: {_points(gap)}: {_verdict(gap)}.",
        f"Boundary F1: {_points(edges)}: {_verdict(edges)}.",
        f"Of {len(by_class)} classes the masks raise {raised}; most {most}; least {least} (points of IoU).",
    ]
    if half is None:
        return sentences
    own, other = halves(half, told), halves(free, told)
    for group, words in (("shown", "was shown"), ("not shown", "was not shown")):
        sentences.append(
            f"Classes whose masks {half.recipe.name} {words}: {_percent(own[group])}, and {free.recipe.name} on the same "
            f"classes {_percent(other[group])}."
        )
    return sentences


def _points(found: Interval) -> str:
    return written(found.value, found.low, found.high, "+.1f", " points")


def _percent(found: Interval) -> str:
    return written(found.value, found.low, found.high, ".1f", " %") or "no such class"


def _verdict(gap: Interval) -> str:
    """What a difference of the supervised model and the training-free one shows."""
    if gap.low > 0:
        return "the supervised network is ahead of this method"
    if gap.high < 0:
        return "the training-free method is ahead, so this supervised network is no ceiling for it"
    return "no difference shown"
