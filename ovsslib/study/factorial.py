"""The full factorial of a recipe's switches: what each is worth alone, together, and whether they
help each other.

An ablation that adds one step after the other shows each step's gain in one company only. Here all
2^k combinations are measured; every statistic below is a fixed linear combination of their scores,
and its interval comes from the same draws of images for all combinations (paired).

Effects and interactions: Box, Hunter and Hunter, Statistics for Experimenters (2005), chapter 5.
Shares: Shapley, A value for n-person games (1953).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ovsslib.errors import DataError, RecipeError
from ovsslib.evaluation import intervals
from ovsslib.evaluation.profiles import DEFAULT, Profile
from ovsslib.evaluation.results import Results, measure
from ovsslib.recipe import Recipe
from ovsslib.study.claims import claim

BASE = "thesis-baseline"
SWITCHES: dict[str, dict[str, Any]] = {
    "LoftUp": {"upsampling": True},
    "RCS": {"feature_rcs": True},
    "SFR": {"feedback": True},
    "DenseCRF": {"densecrf": True},
    "CLIPtrase mask": {"local_mask": True},
    "CLIP-RC regions": {"regions": True},
    "adaptive prompts": {"text.prompts": "adaptive"},
}
"""The thesis's switches (its section 3.7.1) as changes to its baseline."""
PHASES = {
    "phase 1": ("LoftUp", "RCS", "SFR", "DenseCRF"),
    "phase 2A": ("CLIPtrase mask", "CLIP-RC regions"),
    "phase 2B": ("adaptive prompts",),
}
"""What the thesis calls the groups of its switches."""
_MOST_SWITCHES = 10
SYNERGY, INTERFERENCE = "more than the sum", "less than the sum"
NOT_SHOWN = "no departure from the sum shown"
HELP, HINDER, NO_INTERACTION = "help each other", "hinder each other", "no interaction shown"


@dataclass(frozen=True, eq=False)
class Factorial:
    """Scores of all combinations of k switches.

    Configuration number n has switch i on if bit i of n is set; 0 is the base, 2^k - 1 has all of
    them on.

    Attributes:
        switches: names of the k switches.
        values: (2^k,) the metric of each configuration in percent.
        scores: the same whole and without each image, in percent, which intervals are made of.
        levels: the interval of each configuration in percent.
        metric, images: which metric, of how many images.
        results: the reports, by configuration name; None if made from bare counts.
    """

    switches: tuple[str, ...]
    values: np.ndarray
    scores: intervals.LeftOut
    levels: tuple[intervals.Interval, ...]
    metric: str
    images: int
    results: Results | None = None

    def name(self, configuration: int) -> str:
        """What tables call a configuration: its switches joined by " + "."""
        return configuration_name(self.switches, configuration)

    def number(self, on: Sequence[str]) -> int:
        """Number of the configuration with just these switches on. Raises DataError for an unknown
        one."""
        for name in on:
            if name not in self.switches:
                raise DataError(f"no switch {name!r}; there are {', '.join(self.switches)}")
        return sum(1 << self.switches.index(name) for name in set(on))

    def table(self) -> pd.DataFrame:
        """All configurations, best first: configuration, one column of bools per switch, value,
        low, high (percent), gain, gain_low, gain_high (points over the base, paired), verdict.
        """
        rows = []
        for n in range(len(self.values)):
            contrast = np.zeros(len(self.values))
            contrast[n] = 1
            level = self.levels[n]
            contrast[0] -= 1
            rows.append(
                {"configuration": self.name(n)}
                | {name: bool(n >> i & 1) for i, name in enumerate(self.switches)}
                | {"value": level.value, "low": level.low, "high": level.high}
                | self._row("gain", contrast)
            )
        frame = pd.DataFrame(rows)
        falling = self.metric not in intervals.LOWER_IS_BETTER
        return frame.sort_values("value", ascending=not falling, kind="stable", ignore_index=True)

    def main_effects(self) -> pd.DataFrame:
        """One row per switch, in points of the metric, with paired intervals and verdicts.

        Columns: switch; effect (mean gain of the switch over all settings of the others); alone
        (gain over the base); last (gain on top of all the others); each with _low, _high and
        _verdict.
        """
        top = len(self.values) - 1
        rows = []
        for i, name in enumerate(self.switches):
            rows.append(
                {"switch": name}
                | self._row("effect", main_contrast(len(self.switches), i), "effect_verdict")
                | self._row("alone", _step(top + 1, 1 << i, 0), "alone_verdict")
                | self._row("last", _step(top + 1, top, top ^ 1 << i), "last_verdict")
            )
        return pd.DataFrame(rows)

    def interactions(self) -> pd.DataFrame:
        """One row per pair of switches: first, second, interaction, interaction_low,
        interaction_high (points), verdict; the largest first.

        The interaction is the gain of the first with the second on, minus its gain with the second
        off, averaged over the settings of the others (twice the convention of Box et al.).
        Positive: they help each other.
        """
        count = len(self.switches)
        rows = []
        for i in range(count):
            for j in range(i + 1, count):
                contrast = interaction_contrast(count, i, j)
                names = {"first": self.switches[i], "second": self.switches[j]}
                row = names | self._row("interaction", contrast)
                rows.append(row | {"verdict": _reworded(row, HELP, HINDER, NO_INTERACTION)})
        columns = [
            "first",
            "second",
            "interaction",
            "interaction_low",
            "interaction_high",
            "verdict",
        ]
        frame = pd.DataFrame(rows, columns=columns)
        order = frame["interaction"].abs().sort_values(ascending=False, kind="stable").index
        return frame.loc[order].reset_index(drop=True)

    def shapley(self) -> pd.DataFrame:
        """How the gain of everything over the base divides among the switches: switch, points,
        points_low, points_high, verdict, share, share_low, share_high (percent of the whole gain).

        A switch gets its mean gain over all orders of switching on; the points add up to the whole
        gain. Shares are NaN where the whole gain's interval holds zero: parts of nothing are not
        shares.
        """
        total = _step(len(self.values), len(self.values) - 1, 0)
        _, low, high = self._interval(total)
        clear = low > 0 or high < 0
        rows = []
        for i, name in enumerate(self.switches):
            contrast = shapley_contrast(len(self.switches), i)
            row = {"switch": name} | self._row("points", contrast)
            share = (math.nan,) * 3
            if clear:
                ratio = intervals.ratio(self.scores, contrast, total)
                share = (float(ratio.value), float(ratio.low), float(ratio.high))
            rows.append(
                row
                | {
                    f"share{end}": 100 * x
                    for end, x in zip(("", "_low", "_high"), share, strict=True)
                }
            )
        return pd.DataFrame(rows)

    def additivity(self, groups: Mapping[str, Sequence[str]] | None = None) -> pd.DataFrame:
        """The test of "synergy": the gain of everything together against the sum of the single
        gains.

        Args:
            groups: name -> switches that are put on together and count as one (such as `PHASES`);
                None: every switch by itself. Groups must not share a switch.

        Returns:
            Rows quantity, value, low, high (points), verdict: the gain of each group, their sum,
            the gain of all together, and "synergy" (together minus sum).
        """
        groups = {name: (name,) for name in self.switches} if groups is None else dict(groups)
        members = [name for switches in groups.values() for name in switches]
        if len(set(members)) < len(members) or not groups:
            raise DataError(f"the groups {groups} must be at least one and must not share a switch")
        size = len(self.values)
        singles = {name: _step(size, self.number(on), 0) for name, on in groups.items()}
        together = _step(size, self.number(members), 0)
        total = np.sum(list(singles.values()), axis=0)
        rows = [{"quantity": f"gain of {n}"} | self._row("value", c) for n, c in singles.items()]
        rows.append({"quantity": "sum of the single gains"} | self._row("value", total))
        rows.append({"quantity": "gain of all together"} | self._row("value", together))
        synergy = {"quantity": "synergy"} | self._row("value", together - total)
        synergy["verdict"] = _reworded(synergy, SYNERGY, INTERFERENCE, NOT_SHOWN)
        return pd.DataFrame([*rows, synergy]).rename(
            columns={"value_low": "low", "value_high": "high"}
        )

    def _interval(self, contrast: np.ndarray) -> tuple[float, float, float]:
        """Value, low and high of a linear combination of the configurations' scores."""
        estimate = intervals.contrast(self.scores, contrast)
        return float(estimate.value), float(estimate.low), float(estimate.high)

    def _row(self, name: str, contrast: np.ndarray, verdict: str = "verdict") -> dict[str, Any]:
        """Cells of a table for a difference: value, low, high, verdict."""
        value, low, high = self._interval(contrast)
        estimate = intervals.Interval(value, low, high, 0.95, self.images)
        return {
            name: value,
            f"{name}_low": low,
            f"{name}_high": high,
            verdict: intervals.verdict(estimate, self.metric),
        }


def configuration_name(switches: Sequence[str], configuration: int) -> str:
    """Switches that are on in a configuration, joined by " + "; "base" if none is."""
    on = [name for i, name in enumerate(switches) if configuration >> i & 1]
    return " + ".join(on) or "base"


def _reworded(row: Mapping[str, Any], above: str, below: str, neither: str) -> str:
    """The verdict of a row in words that suit what it is about."""
    words = {intervals.BETTER: above, intervals.WORSE: below, intervals.NOT_SHOWN: neither}
    return words[row["verdict"]]


def _step(size: int, to: int, start: int) -> np.ndarray:
    """Contrast: configuration `to` minus configuration `start`."""
    contrast = np.zeros(size)
    contrast[to] += 1
    contrast[start] -= 1
    return contrast


def main_contrast(count: int, switch: int) -> np.ndarray:
    """(2^count,): mean over the configurations with a switch on minus mean over those with it
    off."""
    on = np.arange(1 << count) >> switch & 1
    return np.where(on, 1.0, -1.0) / (1 << count - 1)


def interaction_contrast(count: int, first: int, second: int) -> np.ndarray:
    """(2^count,): mean gain of one switch with the other on, minus the same with the other off."""
    n = np.arange(1 << count)
    equal = (n >> first & 1) == (n >> second & 1)
    return np.where(equal, 1.0, -1.0) / (1 << count - 2)


def shapley_contrast(count: int, switch: int) -> np.ndarray:
    """(2^count,): mean gain of a switch over all orders in which the switches can be put on."""
    contrast = np.zeros(1 << count)
    for n in range(1 << count):
        if not n >> switch & 1:
            before = n.bit_count()
            weight = 1 / (count * math.comb(count - 1, before))
            contrast[n | 1 << switch] += weight
            contrast[n] -= weight
    return contrast


def claimed_additivity(metric: str = "miou") -> pd.DataFrame:
    """The same sums from the thesis's own Table 4.3 (projected numbers): quantity, value (points).

    Args:
        metric: "miou" or "person_iou".

    Raises:
        DataError: a metric that the table does not have.
    """
    ending = metric.replace("_", "-")
    rows = ("baseline", "phase1", "phase2a", "phase1+2a")
    base, first, second, together = (claim(f"thesis-t4.3-{row}-{ending}").value for row in rows)
    total = first + second - 2 * base
    values = {
        "gain of phase 1": first - base,
        "gain of phase 2A": second - base,
        "sum of the single gains": total,
        "gain of all together": together - base,
        "synergy": together - base - total,
    }
    rounded = [round(value, 9) for value in values.values()]
    return pd.DataFrame({"quantity": list(values), "value": rounded})


def from_counts(
    switches: Sequence[str],
    counts: np.ndarray | Sequence[np.ndarray],
    metric: str = "miou",
    class_index: int | None = None,
) -> Factorial:
    """The factorial of per-image counts.

    Args:
        switches: names of the k switches.
        counts: one array of per-image counts per configuration, in the order of their numbers:
            (2^k, N, 3, C) for the metrics of `intervals.METRICS`, (2^k, N, 4) for boundary_f1,
            (2^k, N, bins, 3) for calibration_error.
        class_index: with metric "per_class_iou", the class that is looked at; every number is NaN
            if no image shows it.

    Raises:
        DataError: a wrong number of configurations, no or too many switches, counts that do not go
            together.
    """
    switches = tuple(switches)
    if not 1 <= len(switches) <= _MOST_SWITCHES or len(set(switches)) < len(switches):
        raise DataError(f"switches {switches}: give 1 to {_MOST_SWITCHES} different names")
    if len(counts) != 1 << len(switches):
        raise DataError(
            f"{len(switches)} switches have {1 << len(switches)} configurations, not {len(counts)}"
        )
    counts = [np.asarray(array) for array in counts]
    if metric == "per_class_iou" and class_index is None:
        raise DataError("metric 'per_class_iou' needs a class_index")
    scores = intervals.left_out(counts, metric)
    if metric == "per_class_iou" and class_index is not None:
        scores = scores.of_class(class_index)
    scores = intervals.LeftOut(100 * scores.values, 100 * scores.without, scores.used)
    levels = [intervals.interval(array, metric=metric).percent() for array in counts]
    if metric == "per_class_iou" and class_index is not None:
        levels = [level.of_class(class_index) for level in levels]
    return Factorial(switches, scores.values, scores, tuple(levels), metric, len(counts[0]))


def configurations(
    base: Recipe, switches: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Recipe]:
    """The 2^k recipes by configuration name, in the order of their numbers.

    Raises RecipeError for a switch that changes nothing or a combination that cannot work.
    """
    switches = SWITCHES if switches is None else switches
    if not 1 <= len(switches) <= _MOST_SWITCHES:
        raise RecipeError(f"{len(switches)} switches: a full factorial takes 1 to {_MOST_SWITCHES}")
    names = list(switches)
    recipes = {}
    for n in range(1 << len(names)):
        changes: dict[str, Any] = {}
        for i, name in enumerate(names):
            if n >> i & 1:
                changes.update(switches[name])
        label = configuration_name(names, n)
        recipes[label] = base.but(changes, name=label)
    for name in names:
        if recipes[name] == base:
            raise RecipeError(
                f"switch {name!r} ({dict(switches[name])}) changes nothing in {base.name!r}"
            )
    return recipes


def factorial(
    base: str | Recipe = BASE,
    switches: Mapping[str, Mapping[str, Any]] | None = None,
    profile: str | Profile = DEFAULT,
    limit: int | None = None,
    metric: str = "miou",
    **options: Any,
) -> Factorial:
    """Measure all combinations of switches on a profile (from the results store where they are
    known).

    The trunk runs once per window for all of them, and combinations that differ only behind the
    stitching share the stitched logits. 7 switches are 128 recipes; half of them with DenseCRF,
    which takes most of the time.

    Args:
        base: recipe, or its name (with its settings for the profile's data set).
        switches: name -> changes as :meth:`Recipe.but` takes them; the thesis's seven if None.
        profile, limit: as :func:`measure` takes them.
        metric: "miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "boundary_f1",
            "calibration_error" (the lower the better) or "class_iou:NAME".
        options: further arguments of :func:`measure` (store, progress, workers, fresh).
    """
    profile = Profile.named(profile) if isinstance(profile, str) else profile
    recipes = configurations(profile.recipe(base), switches)
    results = measure(recipes, profile, limit, **options)
    return from_results(tuple(switches or SWITCHES), results, metric)


def from_results(
    switches: Sequence[str],
    results: Results,
    metric: str = "miou",
) -> Factorial:
    """The factorial of measured results, whose names are those of :func:`configurations`."""
    names = [configuration_name(switches, n) for n in range(1 << len(switches))]
    reports = [results[name] for name in names]
    common = reports[0].indices
    for report in reports[1:]:
        common = np.intersect1d(common, report.indices)
    _, name, class_index = reports[0].counts_for(metric)
    counts = [r.counts_for(metric)[0][np.isin(r.indices, common)] for r in reports]
    design = from_counts(switches, counts, name, class_index=class_index)
    return dataclasses.replace(design, metric=metric, results=results)
