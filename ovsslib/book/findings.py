"""What a chapter found, in sentences composed from its results: true on every profile and every number of images.

A chapter makes one :class:`Comparison` for each question it asks (`compared`, `stepped`, `effects`, `rows_of`) and hands
them to `findings`, which says of each: the largest gain, what did nothing that could be shown, what hurt, and how sure
that is. No number and no verdict is typed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from IPython.display import Markdown

from ovsslib.book.chapter import Chapter
from ovsslib.errors import DataError
from ovsslib.evaluation import intervals
from ovsslib.evaluation.results import Results, title_of
from ovsslib.study.cumulative import steps
from ovsslib.study.factorial import Factorial

COLUMNS = ("value", "low", "high", "verdict")
HEADLINE = ("maskclip", "sclip", "clearclip", "naclip", "resclip", "cliptrase", "gem", "itaclip")
"""Methods of the sentence on the first page, all with CLIP alone."""
NAMED = 6
"""So many entries are named in one sentence; of the others only the number is told."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """The differences of one question.

    Attributes:
        title: what was compared with what, as a heading, such as "Steps of phase 1".
        rows: index names; columns value, low, high (in `unit`, the ends NaN without an interval) and verdict.
        metric: what the differences are of, as a reader calls it.
        unit: of the differences.
        images: number of images behind the intervals; None: those of the chapter.
    """

    title: str
    rows: pd.DataFrame
    metric: str = "mIoU"
    unit: str = "points"
    images: int | None = None

    def __post_init__(self):
        missing = [name for name in COLUMNS if name not in self.rows]
        if missing:
            raise DataError(
                f"comparison {self.title!r} lacks the columns {missing}; it has {list(self.rows)}"
            )
        sure = self.rows.dropna(subset=["value", "low", "high"])
        strange = [word for word in sure["verdict"] if word not in _WORDS]
        if strange:
            raise DataError(
                f"comparison {self.title!r}: verdict {strange[0]!r}; there are {', '.join(_WORDS)}"
            )


def compared(
    results: Results,
    baseline: str,
    title: str = "",
    metric: str = "miou",
    rows: Iterable[str] | None = None,
) -> Comparison:
    """Every result against one of them, paired over the images.

    Args:
        results: from `measure`.
        baseline: name of the result that the others are compared with.
        title: heading; "": "Against BASELINE".
        metric: a name of `METRICS`, or "class_iou:NAME".
        rows: only these results; None: all others.

    Raises DataError for a name that is not among the results.
    """
    numbers = results.numbers(metric, baseline=baseline).set_index("recipe").drop(index=baseline)
    if rows is not None:
        numbers = numbers.loc[list(results.part(list(rows)))]
    return Comparison(
        title or f"Against {baseline}",
        _renamed(numbers, "difference"),
        title_of(metric),
        images=results.images,
    )


def stepped(
    results: Results, title: str, metric: str = "miou", against: str = "previous"
) -> Comparison:
    """The rows of an ablation, each against the row before it ("previous") or the first row ("first").

    Raises DataError for another `against`.
    """
    frame = steps(results, metric, against=against).iloc[1:]
    return Comparison(title, _renamed(frame, "step"), title_of(metric), images=results.images)


def effects(factorial: Factorial, title: str) -> Comparison:
    """Main effects of the switches of a factorial: the mean gain over all settings of the others."""
    table = factorial.main_effects().set_index("switch")
    frame = _renamed(table.rename(columns={"effect_verdict": "verdict"}), "effect")
    return Comparison(title, frame, title_of(factorial.metric))


def rows_of(
    frame: pd.DataFrame,
    title: str,
    value: str = "value",
    metric: str = "mIoU",
    unit: str = "points",
    images: int | None = None,
) -> Comparison:
    """Any table of differences: columns NAME, NAME_low, NAME_high ("value": low and high) and verdict; index names.

    Without a column verdict it is read off the interval: better above zero, worse below. `images`: how many are behind
    it; too few for a paired interval make it NaN. None: the table has seen to that.
    """
    rows = _renamed(frame, value)
    if images is not None and images < intervals.MINIMUM_PAIRED:
        rows[["low", "high"]] = float("nan")
    if "verdict" not in frame:
        ends = rows[["low", "high"]].to_numpy(float)
        rows["verdict"] = [intervals.verdict(_between(*pair)) for pair in ends]
    return Comparison(title, rows, metric, unit)


def findings(
    book: Chapter | str,
    comparisons: Sequence[Comparison] = (),
    also: Sequence[str] = (),
    images: int | None = None,
) -> Markdown:
    """The box at a chapter's end.

    Args:
        book: the chapter, for its model, data set and number of images; or that text itself.
        comparisons: what is told first, each under its heading; those without rows are left out.
        also: further sentences, composed by the caller; empty ones are left out.
        images: number of images behind the intervals; None: those of the chapter.
    """
    if images is None and not isinstance(book, str):
        images = len(book.dataset)
    parts = [text for comparison in comparisons if (text := told(comparison, images))]
    sentences = [f"- {sentence}" for sentence in also if sentence]
    if sentences:
        parts.append("\n".join(["**Also**\n" if parts else "", *sentences]).strip())
    parts.append(f"*{_about(book, images, bool(comparisons))}*")
    return Markdown("\n\n".join(parts))


def told(comparison: Comparison, images: int | None = None) -> str:
    """One comparison as Markdown: its heading and a list of what gained, what did nothing, what hurt. "" without rows.

    Another number of images than `images` stands in the heading.
    """
    rows = comparison.rows.dropna(subset=["value"])
    if not len(rows):
        return ""
    about = f"{comparison.metric}, {comparison.unit}"
    if images is not None and comparison.images not in (None, images):
        about += f", {comparison.images} images"
    lines = [f"**{comparison.title}** ({about})\n"]
    with_interval = rows["low"].notna() & rows["high"].notna()
    sure = rows[with_interval]
    if len(sure):
        groups = {word: sure[sure["verdict"] == word] for word in _WORDS}
        lines += _gained(groups[intervals.BETTER])
        nothing, hurt = groups[intervals.NOT_SHOWN], groups[intervals.WORSE]
        same = (nothing[["value", "low", "high"]] == 0).all(axis=1)
        if len(open_ones := nothing[~same]):
            lines.append(
                f"- No difference shown, the interval includes zero: {_listed(open_ones)}."
            )
        if same.any():
            names = ", ".join(_plain(name) for name in nothing.index[same])
            lines.append(f"- Changes nothing, on any image: {names}.")
        if len(hurt):
            worst = hurt.iloc[np.argsort(-hurt["value"].abs().to_numpy(), kind="stable")]
            lines.append(f"- Worse: {_listed(worst)}.")
        elif len(sure) > 1:
            lines.append("- Nothing is shown to be worse.")
    if not with_interval.all():
        few = rows[~with_interval]
        lines.append(f"- Too few images for an interval, so nothing is concluded: {_listed(few)}.")
    return "\n".join(lines)


def pictured(
    shares: Mapping[str, float],
    results: Results,
    number: str = "this picture",
    metric: str = "miou",
) -> str:
    """What a pictured example and all images say of the same recipes, in one sentence.

    A single picture may show the recipe that measures best as the worse one; a reader should hear of it.

    Args:
        shares: name of a result -> percent of the picture's pixels that it has right.
        results: the same names, measured on all images.
        number: what the picture is called, such as "the first picture".

    Returns "" where none of the results has a value, or there are too few images for an interval.

    Raises DataError for fewer than two names, or one without a result.
    """
    if len(shares) < 2:
        raise DataError(f"{list(shares)}: a picture is compared over at least two recipes")
    levels = {name: float(results[name].value(metric)) for name in shares}
    levels = {name: level for name, level in levels.items() if not np.isnan(level)}
    number = number[0].upper() + number[1:]
    if not levels:
        return ""
    rights = {name: round(float(shares[name]), 1) for name in levels}
    best, top = (max(scores, key=lambda name: scores[name]) for scores in (levels, rights))
    rivals = [name for name in levels if name != best]
    rival = top if top != best else max(rivals, key=lambda name: levels[name], default=best)
    gap = results[best].difference(results[rival], metric)
    if np.isnan(gap.low):  # so few images that the picture is most of the measurement
        return ""
    first = f"{best} ({levels[best]:.1f} % {title_of(metric)}, {results.images} images)"
    if rights[best] == rights[top]:
        return (
            f"{number} agrees with the measurement: {first} is ahead in both, here with "
            f"{rights[best]:.1f} % of the pixels right."
        )
    clause = (
        f"here it has {rights[best]:.1f} % of the pixels right and {top} has {rights[top]:.1f} %"
    )
    if intervals.verdict(gap) != intervals.BETTER:
        return (
            f"{number}: {first} measures best, by no more than chance over {top}; {clause}. "
            "One picture is no evidence."
        )
    return f"{number} misleads: {first} measures best, yet {clause}. One picture is no evidence."


_WORDS = (intervals.BETTER, intervals.NOT_SHOWN, intervals.WORSE)


def _gained(better: pd.DataFrame) -> list[str]:
    if not len(better):
        return ["- Nothing is shown to gain anything."]
    order = better.iloc[np.argsort(-better["value"].abs().to_numpy(), kind="stable")]
    lines = [f"- Largest gain: {_listed(order.head(1), bold=True)}."]
    if len(order) > 1:
        lines.append(f"- Better as well: {_listed(order.iloc[1:])}.")
    return lines


def _listed(rows: pd.DataFrame, bold: bool = False) -> str:
    """Names with their numbers, the first `NAMED` of them."""
    texts = []
    for name, row in rows.head(NAMED).iterrows():
        number = intervals.written(row["value"], row["low"], row["high"], "+.2f")
        number = number.removesuffix(f" ({intervals.TOO_FEW})")
        texts.append(f"{'**' if bold else ''}{_plain(name)}{'**' if bold else ''} {number}")
    more = len(rows) - len(texts)
    return "; ".join(texts) + (f"; and {more} more" if more > 0 else "")


def _plain(name: object) -> str:
    """A name that Markdown does not read as anything else, without the plus of a step."""
    text = " against ".join(map(str, name)) if isinstance(name, tuple) else str(name)
    text = text.removeprefix("+ ")
    return "".join(f"\\{sign}" if sign in "*_`[]<>$\\" else sign for sign in text)


def _about(book: Chapter | str, images: int | None, paired: bool) -> str:
    if isinstance(book, str):
        return book
    where = f"{book.backbone.name} on {book.profile.dataset}, "
    where += f"{images if images is not None else len(book.dataset)} images"
    how = "; intervals (95 %) are paired over the same images" if paired else ""
    note = (
        " Drawn pictures and a small stand-in: nothing here is settled for real CLIP."
        if book.embedded
        else ""
    )
    return f"{where}{how}.{note}"


def _renamed(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """value, low, high and verdict of a frame with columns NAME, NAME_low, NAME_high."""
    if name != "value":
        frame = frame.drop(
            columns=[column for column in ("value", "low", "high") if column in frame]
        )
        names = {name: "value", f"{name}_low": "low", f"{name}_high": "high"}
        frame = frame.rename(columns=names)
    return frame[[column for column in COLUMNS if column in frame]].copy()


def _between(low: float, high: float) -> intervals.Interval:
    return intervals.Interval(float("nan"), low, high, 0.95, 0)


def headline(book: Chapter, recipes: Sequence[str] = HEADLINE, baseline: str = "clip") -> str:
    """One result for the book's first page: plain CLIP and the best of some methods, in a sentence of Markdown.

    From the results store alone; without a record of the baseline and of another recipe, it says so.
    """
    results = book.stored([baseline, *recipes])
    if baseline not in results.reports or len(results) < 2:
        return f"No method has a record yet of {book.backbone.name} on {book.profile.dataset}."
    methods = [name for name in results if name != baseline]
    best = max(methods, key=lambda name: results[name].miou)
    levels = [results[name].interval("miou") for name in (baseline, best)]
    plain, first = (
        intervals.written(interval.value, interval.low, interval.high, ".1f", " %")
        for interval in levels
    )
    gain = results[best].difference(results[baseline])
    ahead = {intervals.BETTER: "ahead of it", intervals.WORSE: "behind it"}.get(
        str(intervals.verdict(gain)), "no difference shown"
    )
    apart = intervals.written(gain.value, gain.low, gain.high, "+.1f", " points")
    return (
        f"CLIP's patches as they are: **{plain}** mIoU. The best of {len(methods)} training-free methods that repair "
        f"them, each as published, refinement included where its authors use one ({', '.join(methods)}), is {best}: "
        f"**{first}**, {ahead} by {apart}. {_about(book, None, True)}"
    )
