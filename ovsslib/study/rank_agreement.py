"""How far the embedded model and world rank things as real CLIP on real pictures does: proxy
validity.

For every published comparison that can be measured here as well (methods, sums of attention, the
feed-forward network, middle layers, stride, PAMR), Kendall's tau-b between the published numbers
and the measured ones, and the pairs that disagree by name. Two questions are kept apart. The
*interval* draws the images again: would other images of this world give the same tau? The *p-value*
takes the entries as they are: how often would a random order of so few agree with the published one
as much, or disagree as much? A tau whose interval leaves out zero may have a large p-value, and
plain CLIP, last everywhere, lifts both; so the test is also made without it. Published numbers come
from the claims by their id.

Kendall, The treatment of ties in ranking problems, Biometrika 33 (1945).
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from ovsslib.errors import DataError
from ovsslib.evaluation import intervals
from ovsslib.evaluation.profiles import DEFAULT, Profile
from ovsslib.evaluation.results import Results, measure
from ovsslib.recipe import Recipe, parse_changes
from ovsslib.study.claims import claim
from ovsslib.study.comparisons import COMPARISONS, Comparison, Entry

AGREE, DISAGREE, TIE = "agree", "disagree", "tie"
# What belongs to the real data sets and their size of picture; Scenes has its own.
_LEFT_OUT = ("windows.short_side",)


def recipe_of(entry: Entry, profile: Profile) -> Recipe:
    """What is measured for an entry: its recipe with the profile's settings, and the claim's
    changes.

    Changes that concern the size of the real data set's pictures are left out. Raises DataError for
    an unknown claim or one without a recipe.
    """
    source = claim(entry.claim)
    name, changes = entry.recipe, entry.changes
    if name is None:
        name, changes = source.recipe, source.changes
    if not name:
        raise DataError(
            f"claim {entry.claim!r} names no recipe; give one for the entry {entry.name!r}"
        )
    parts = [part.strip() for part in changes.split(";") if part.strip()]
    parts = [part for part in parts if not part.startswith(_LEFT_OUT)]
    return profile.recipe(name).but(parse_changes(parts))


# -- rankings --------------------------------------------------------------------------------------


def tau_b(published: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of one list (n,) with each of many (n, ...): (...). NaN where one side is all
    ties."""
    first, second = np.triu_indices(len(published), 1)
    measured_order = np.sign(measured[first] - measured[second])
    published_order = np.sign(published[first] - published[second])
    published_order = published_order.reshape(-1, *[1] * (measured_order.ndim - 1))
    untied = np.sqrt((published_order != 0).sum(axis=0) * (measured_order != 0).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (measured_order * published_order).sum(axis=0) / untied


PLAIN_CLIP = "CLIP"
_ALL_ORDERS = 8  # up to so many entries every order is tried: 8! = 40,320
_RANDOM_ORDERS = 100_000


@dataclass(frozen=True)
class RankTest:
    """Kendall's tau-b of n entries with the two-sided p-value of no agreement; NaN: all are equal.

    `p` is exact: the share of all orders of the entries whose tau lies as far from zero. With ties
    and more than 8 entries it comes from 100,000 random orders of fixed seed.
    """

    tau: float
    p: float
    entries: int

    def __str__(self) -> str:
        if math.isnan(self.p):
            return "none"
        return f"{self.tau:+.2f}, p = {self.p:.2g}, {self.entries} entries"


def rank_test(published: np.ndarray, measured: np.ndarray) -> RankTest:
    """Kendall's tau-b of two lists (n,) with its two-sided p-value over all orders of one of them.

    Raises DataError for lists of different lengths.
    """
    published, measured = np.asarray(published, float), np.asarray(measured, float)
    count = len(published)
    if len(measured) != count:
        raise DataError(f"{count} published and {len(measured)} measured numbers; give pairs")
    if count < 2 or np.ptp(published) == 0 or np.ptp(measured) == 0:
        return RankTest(math.nan, math.nan, count)
    if len(set(published)) == len(set(measured)) == count:
        result = kendalltau(published, measured, method="exact")
        return RankTest(float(result.statistic), float(result.pvalue), count)
    value = float(tau_b(published, measured))
    if count <= _ALL_ORDERS:
        orders = np.array(list(itertools.permutations(range(count))))
    else:
        random = np.random.default_rng(0)
        orders = np.argsort(random.random((_RANDOM_ORDERS, count)), axis=1)
    shuffled = tau_b(published, measured[orders].T)
    extreme = int((np.abs(shuffled) >= abs(value) - 1e-12).sum())
    if count <= _ALL_ORDERS:
        return RankTest(value, extreme / len(orders), count)
    return RankTest(value, (extreme + 1) / (len(orders) + 1), count)


@dataclass(frozen=True, eq=False)
class Ranking:
    """Published and measured numbers of one comparison.

    Attributes:
        comparison: what is compared.
        published: (n,) percent. datasets: where each was published.
        measured: (n,) percent. draws: (n, R) the same over common draws of images. scores: the same without each image.
        levels: interval of each, in percent. images: how many were measured.
    """

    comparison: Comparison
    published: np.ndarray
    datasets: tuple[str, ...]
    measured: np.ndarray
    draws: np.ndarray
    scores: intervals.LeftOut
    levels: tuple[intervals.Interval, ...]
    images: int

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the entries."""
        return tuple(entry.name for entry in self.comparison.entries)

    @property
    def source(self) -> str:
        """Where the published numbers are from, as sources with their tables, and the data set."""
        claims = [claim(entry.claim) for entry in self.comparison.entries]
        names = dict.fromkeys(f"{number.source} ({number.table})" for number in claims)
        return f"{', '.join(names)}: {', '.join(dict.fromkeys(self.datasets))}"

    def tau(self) -> intervals.Interval:
        """Kendall's tau-b with its 95% interval over images; NaN if all measured (or published) are
        equal, and NaN ends with too few images.

        The interval asks whether other images would give this tau, not whether so few entries show
        an agreement: see :meth:`test`.
        """
        value = kendalltau(self.published, self.measured).statistic
        drawn = tau_b(self.published, self.draws)
        valid = drawn[~np.isnan(drawn)]
        low, high = (
            np.quantile(valid, [0.025, 0.975])
            if valid.size and self._enough
            else (math.nan, math.nan)
        )
        return intervals.Interval(float(value), float(low), float(high), 0.95, len(drawn))

    def test(self, without: Sequence[str] = ()) -> RankTest:
        """Tau and its exact p-value over the entries, some of them left out by name.

        Raises DataError for a name that is not an entry.
        """
        unknown = [name for name in without if name not in self.names]
        if unknown:
            raise DataError(f"no entries {unknown}; there are {', '.join(self.names)}")
        kept = [place for place, name in enumerate(self.names) if name not in without]
        return rank_test(self.published[kept], self.measured[kept])

    @property
    def _enough(self) -> bool:
        return self.images >= intervals.MINIMUM_PAIRED

    def table(self) -> pd.DataFrame:
        """One row per entry: comparison, name, claim, published_on, published, measured, low, high
        (percent),
        published_rank, measured_rank (1 is best; equals share the mean rank)."""
        frame = pd.DataFrame(
            {
                "comparison": self.comparison.name,
                "name": self.names,
                "claim": [entry.claim for entry in self.comparison.entries],
                "published_on": self.datasets,
                "published": self.published,
                "measured": self.measured,
                "low": [level.low for level in self.levels],
                "high": [level.high for level in self.levels],
            }
        )
        for side in ("published", "measured"):
            frame[f"{side}_rank"] = frame[side].rank(ascending=False, method="average")
        return frame

    def pairs(self) -> pd.DataFrame:
        """One row per pair of entries: comparison, first, second, published and measured difference
        (first minus
        second, points), low, high (paired interval; NaN with too few images), clear (the interval does not hold zero), order
        ("agree", "disagree", or "tie" if either difference is zero)."""
        rows = []
        for i, j in itertools.combinations(range(len(self.names)), 2):
            published_step = round(float(self.published[i] - self.published[j]), 9)
            weights = np.zeros(len(self.names))
            weights[[i, j]] = 100, -100  # in points
            estimate = intervals.contrast(self.scores, weights)
            measured_step, low, high = (
                round(float(x), 9) for x in (estimate.value, estimate.low, estimate.high)
            )
            product = np.sign(published_step) * np.sign(measured_step)
            rows.append(
                {
                    "comparison": self.comparison.name,
                    "first": self.names[i],
                    "second": self.names[j],
                    "published_difference": published_step,
                    "measured_difference": measured_step,
                    "low": low,
                    "high": high,
                    "clear": bool(low > 0 or high < 0),
                    "order": {1: AGREE, -1: DISAGREE, 0: TIE}[int(product)],
                }
            )
        return pd.DataFrame(rows)


@dataclass(frozen=True, eq=False)
class ProxyValidity:
    """All rankings that were published and measured."""

    rankings: tuple[Ranking, ...]
    results: Results | None = None

    def __getitem__(self, name: str) -> Ranking:
        for ranking in self.rankings:
            if ranking.comparison.name == name:
                return ranking
        names = [ranking.comparison.name for ranking in self.rankings]
        raise DataError(f"no comparison {name!r}; there are {names}")

    def summary(self) -> pd.DataFrame:
        """One row per comparison: comparison, entries, tau, low, high (the interval over images), p
        (exact, over the entries), tau_without_clip, p_without_clip (the same without plain CLIP; NaN
        where it is not among them), pairs, agree, disagree, tie, disagree_clear (disagreeing pairs
        whose measured difference is clear of zero), note."""
        rows = []
        for ranking in self.rankings:
            tau, pairs = ranking.tau(), ranking.pairs()
            counts = pairs["order"].value_counts()
            against = pairs[pairs["order"] == DISAGREE]
            alone = _without_clip(ranking)
            rows.append(
                {
                    "comparison": ranking.comparison.name,
                    "entries": len(ranking.names),
                    "tau": tau.value,
                    "low": tau.low,
                    "high": tau.high,
                    "p": ranking.test().p,
                    "tau_without_clip": math.nan if alone is None else alone.tau,
                    "p_without_clip": math.nan if alone is None else alone.p,
                    "pairs": len(pairs),
                }
                | {order: int(counts.get(order, 0)) for order in (AGREE, DISAGREE, TIE)}
                | {"disagree_clear": int(against["clear"].sum()), "note": ranking.comparison.note}
            )
        return pd.DataFrame(rows)

    def table(self) -> pd.DataFrame:
        """Published and measured numbers of all comparisons; see :meth:`Ranking.table`."""
        return pd.concat([ranking.table() for ranking in self.rankings], ignore_index=True)

    def pairs(self) -> pd.DataFrame:
        """All pairs of all comparisons; see :meth:`Ranking.pairs`."""
        return pd.concat([ranking.pairs() for ranking in self.rankings], ignore_index=True)

    def orders(self) -> pd.DataFrame:
        """The same for people, index comparison: source, published order, measured order (numbers
        in percent), Kendall's tau (with its interval over images), exact p (over the entries),
        without plain CLIP (tau and p of the others), pairs that agree ("16 of 36"), pairs in
        another order.

        The last names every pair, higher measured first, those clear of zero before the others.
        """
        rows = {}
        for ranking in self.rankings:
            pairs = ranking.pairs()
            rows[ranking.comparison.name] = {
                "source": ranking.source,
                "published order": _order(ranking.names, ranking.published, "g"),
                "measured order": _order(ranking.names, ranking.measured, ".2f"),
                "Kendall's tau": _tau_text(ranking.tau()),
                "exact p": _p_text(ranking.test()),
                "without plain CLIP": "" if (test := _without_clip(ranking)) is None else str(test),
                "pairs that agree": f"{(pairs['order'] == AGREE).sum()} of {len(pairs)}",
                "pairs in another order": _against(pairs),
            }
        frame = pd.DataFrame.from_dict(rows, orient="index")
        frame.index.name = "comparison"
        return frame

    def disagreements(self) -> pd.DataFrame:
        """The pairs whose order differs from the published one, clear ones first, by measured
        difference."""
        pairs = self.pairs()
        pairs = pairs[pairs["order"] == DISAGREE]
        size = pairs["measured_difference"].abs()
        order = pairs.assign(size=size).sort_values(
            ["clear", "size"], ascending=False, kind="stable"
        )
        return order.drop(columns=["size", "order"]).reset_index(drop=True)


def _order(names: Sequence[str], values: np.ndarray, number: str) -> str:
    """Names and percent, in the format `number`, by falling value: "b 3.0 > a 2.0 = c 2.0"."""
    places = np.argsort(-values, kind="stable")
    text = ""
    for before, place in zip([None, *places], places, strict=False):
        if before is not None:
            text += " = " if values[before] == values[place] else " > "
        text += f"{names[place]} {values[place]:{number}}"
    return text


def _tau_text(tau: intervals.Interval) -> str:
    if math.isnan(tau.value):
        return "none: all are equal"
    return intervals.written(tau.value, tau.low, tau.high, "+.2f")


def _p_text(test: RankTest) -> str:
    return "none" if math.isnan(test.p) else f"{test.p:.2g}"


def _without_clip(ranking: Ranking) -> RankTest | None:
    """The test without plain CLIP, None where it is not an entry or fewer than 3 others are left."""
    if PLAIN_CLIP not in ranking.names or len(ranking.names) < 4:
        return None
    return ranking.test(without=(PLAIN_CLIP,))


def _against(pairs: pd.DataFrame) -> str:
    """Names of the disagreeing pairs of a table of pairs, in the measured order."""
    texts: dict[bool, list[str]] = {True: [], False: []}
    for row in pairs[pairs["order"] == DISAGREE].to_dict("records"):
        names = row["first"], row["second"]
        better, worse = names if row["measured_difference"] > 0 else names[::-1]
        texts[row["clear"]].append(f"{better} > {worse}")
    parts = [f"{title}: {'; '.join(texts[clear])}" for clear, title in
             ((True, "clear"), (False, "not clear")) if texts[clear]]  # fmt: skip
    return ". ".join(parts) or "none"


def ranking_of(
    comparison: Comparison,
    counts: Sequence[np.ndarray],
    resamples: int = intervals.RESAMPLES,
    seed: int = 0,
) -> Ranking:
    """The ranking of a comparison from per-image counts (N, 3, C) of its entries, in their order.

    Raises DataError for fewer than two entries, another number of counts, an unknown claim, or a
    claim that is not an mIoU.
    """
    if len(comparison.entries) < 2 or len(counts) != len(comparison.entries):
        raise DataError(
            f"{comparison.name!r} needs at least 2 entries and counts for each, not "
            f"{len(comparison.entries)} entries and {len(counts)} counts"
        )
    sources = [claim(entry.claim) for entry in comparison.entries]
    for source in sources:
        if source.metric != "miou" or source.value_high is not None:
            raise DataError(
                f"claim {source.id!r} is not one mIoU; a ranking compares mIoU with mIoU"
            )
    draws = intervals.metric_draws(list(counts), "miou", resamples, seed)
    scores = intervals.left_out(list(counts))
    return Ranking(
        comparison,
        np.array([source.value for source in sources]),
        tuple(source.dataset for source in sources),
        100 * scores.values,
        100 * draws,
        scores,
        tuple(intervals.interval(array).percent() for array in counts),
        len(counts[0]),
    )


def proxy_validity(
    profile: str | Profile = DEFAULT,
    comparisons: Sequence[Comparison] = COMPARISONS,
    limit: int | None = None,
    resamples: int = intervals.RESAMPLES,
    changes: Mapping[str, Any] | None = None,
    **options: Any,
) -> ProxyValidity:
    """Measure (or look up) everything that the comparisons need on a profile, and rank it.

    `changes` are applied to every recipe (a notebook's overrides). `options` are further arguments of :func:`measure` (store, progress, workers, fresh).
    """
    profile = Profile.named(profile) if isinstance(profile, str) else profile
    recipes: dict[str, Recipe] = {}
    keys_by_comparison: list[list[str]] = []
    for comparison in comparisons:
        keys = []
        for entry in comparison.entries:
            recipe = recipe_of(entry, profile).but(changes or {})
            recipes.setdefault(recipe.key(), recipe)
            keys.append(recipe.key())
        keys_by_comparison.append(keys)
    results = measure(recipes, profile, limit, **options)
    reports = {key: results[key] for key in recipes}
    images = [report.indices for report in reports.values()]
    common = functools.reduce(np.intersect1d, images) if images else np.array([], dtype=np.int64)
    counts = {key: r.counts[np.isin(r.indices, common)] for key, r in reports.items()}
    rankings = [
        ranking_of(comparison, [counts[key] for key in keys], resamples)
        for comparison, keys in zip(comparisons, keys_by_comparison, strict=True)
    ]
    return ProxyValidity(tuple(rankings), results)
