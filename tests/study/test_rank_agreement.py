"""Proxy validity on rankings that are known, and the published comparisons against the claims."""

import numpy as np
import pytest
from fake_datasets import build
from scipy.stats import kendalltau
from test_factorial import TinyProfile, counts_of_accuracy

from ovsslib.datasets.dataset import open_dataset
from ovsslib.errors import DataError
from ovsslib.evaluation.profiles import Profile
from ovsslib.study import rank_agreement as proxy
from ovsslib.study.claims import claim
from ovsslib.study.comparisons import select
from ovsslib.study.rank_agreement import Comparison, Entry, ProxyValidity, ranking_of

SUMS = next(c for c in proxy.COMPARISONS if c.name.startswith("attention sums"))
# Published in percent: q-k 19.0, q-q 58.9, k-k 52.2, v-v 57.7, qq+kk 67.9, qq+vv 64.9, qq+kk+vv
# 66.4.
PUBLISHED_ORDER = [0, 2, 3, 1, 5, 6, 4]


def counts_with(levels, spread=0, images=30):
    """Counts of one entry per level of accuracy (percent), the same noise for all."""
    noise = np.random.default_rng(0).integers(-spread, spread + 1, images)
    return [counts_of_accuracy(np.full(images, level * 100) + noise) for level in levels]


def levels_in(order):
    levels = [0] * len(order)
    for place, entry in enumerate(order):
        levels[entry] = 20 + 5 * place
    return levels


def test_the_published_order_has_tau_one():
    ranking = ranking_of(SUMS, counts_with(levels_in(PUBLISHED_ORDER), spread=100), 200)
    tau = ranking.tau()
    assert (tau.value, tau.low, tau.high) == pytest.approx((1, 1, 1))
    assert (ranking.pairs()["order"] == proxy.AGREE).all()
    assert (ranking.table()["published_rank"] == ranking.table()["measured_rank"]).all()


def test_the_reverse_order_has_tau_minus_one():
    ranking = ranking_of(SUMS, counts_with(levels_in(PUBLISHED_ORDER[::-1])), 50)
    assert ranking.tau().value == pytest.approx(-1)
    assert (ranking.pairs()["order"] == proxy.DISAGREE).all()


def test_one_swap_is_named_and_its_difference_judged():
    order = PUBLISHED_ORDER[:-2] + PUBLISHED_ORDER[:-3:-1]
    ranking = ranking_of(SUMS, counts_with(levels_in(order), spread=100), 200)
    pairs = 7 * 6 / 2
    assert ranking.tau().value == pytest.approx((pairs - 2) / pairs)
    validity = ProxyValidity((ranking,))
    (row,) = validity.disagreements().to_dict("records")
    assert {row["first"], row["second"]} == {"q-q + k-k", "q-q + k-k + v-v"}
    assert row["clear"] and row["low"] <= row["measured_difference"] <= row["high"]
    summary = validity.summary().iloc[0]
    assert (summary["pairs"], summary["agree"], summary["disagree"]) == (21, 20, 1)
    assert summary["disagree_clear"] == 1


def test_a_difference_within_the_noise_is_not_clear():
    levels = levels_in(PUBLISHED_ORDER)
    counts = counts_with(levels)
    own = np.random.default_rng(5).integers(-2000, 2001, 30)
    first, second = PUBLISHED_ORDER[-1], PUBLISHED_ORDER[-2]
    counts[first] = counts_of_accuracy(np.full(30, 4000) + own)
    counts[second] = counts_of_accuracy(np.full(30, 4020) - own)
    ranking = ranking_of(SUMS, counts, 400)
    pair = ranking.pairs().query("`first` == 'q-q + k-k' and second == 'q-q + k-k + v-v'").iloc[0]
    assert not pair["clear"] and pair["low"] < 0 < pair["high"]
    tau = ranking.tau()
    assert tau.low < tau.high


def test_equal_measurements_are_ties():
    levels = levels_in(PUBLISHED_ORDER)
    levels[1] = levels[3]
    ranking = ranking_of(SUMS, counts_with(levels), 50)
    assert (ranking.pairs()["order"] == proxy.TIE).sum() == 1
    assert ranking.tau().value == pytest.approx(20 / np.sqrt(21 * 20))
    nothing = ranking_of(SUMS, counts_with([30] * 7), 50).tau()
    assert np.isnan(nothing.value) and np.isnan(nothing.low)


def test_the_p_value_is_that_of_all_orders():
    assert proxy.rank_test(np.arange(4), np.arange(4)).p == pytest.approx(2 / 24)
    # 26 of 36 pairs agree: tau 0.44; without the entry that is last in both lists, 18 of 28.
    published = np.arange(9.0)
    measured = np.array([0.0, 4, 5, 1, 7, 2, 3, 8, 6])
    every, others = (
        proxy.rank_test(published, measured),
        proxy.rank_test(published[1:], measured[1:]),
    )
    assert every.tau == pytest.approx(16 / 36) and every.p == pytest.approx(0.12, abs=0.005)
    assert others.tau == pytest.approx(8 / 28) and others.p == pytest.approx(0.40, abs=0.005)


def test_ties_are_tried_in_all_orders():
    found = proxy.rank_test(np.array([1, 1, 2]), np.array([1, 2, 3]))
    # The two low ones may change places: 4 of 6 orders put the high one at an end.
    assert found.tau == pytest.approx(2 / np.sqrt(6)) and found.p == pytest.approx(4 / 6)
    many = np.array([0.0, 0, *range(1, 9)])
    assert proxy.rank_test(many, many).p < 1e-4
    assert np.isnan(proxy.rank_test(many, many * 0).p)
    with pytest.raises(DataError, match="give pairs"):
        proxy.rank_test(many, many[1:])


def test_plain_clip_can_be_left_out():
    methods = select(1)[0]
    ranking = ranking_of(
        methods, counts_with([10 + 2 * i for i in range(len(methods.entries))]), 20
    )
    without = ranking.test(without=("CLIP",))
    assert without.entries == len(methods.entries) - 1
    row = ProxyValidity((ranking,)).summary().iloc[0]
    assert row["tau_without_clip"] == without.tau and row["p_without_clip"] == without.p
    assert row["p"] == ranking.test().p
    assert np.isnan(ranking.table()["low"]).all(), "20 images are too few for an interval of mIoU"
    with pytest.raises(DataError, match="there are CLIP"):
        ranking.test(without=("nobody",))


def test_tau_b_is_scipys():
    random = np.random.default_rng(6)
    for _ in range(20):
        published, measured = random.integers(0, 5, (2, 8)).astype(float)
        expected = kendalltau(published, measured).statistic
        assert proxy.tau_b(published, measured) == pytest.approx(expected, nan_ok=True)
    many = random.integers(0, 4, (6, 3, 2)).astype(float)
    single = random.integers(0, 4, 6).astype(float)
    found = proxy.tau_b(single, many)
    assert found.shape == (3, 2)
    assert found[2, 1] == pytest.approx(proxy.tau_b(single, many[:, 2, 1]), nan_ok=True)


def test_published_numbers_come_from_the_claims():
    ranking = ranking_of(SUMS, counts_with([30] * 7), 10)
    assert ranking.published.tolist() == [claim(entry.claim).value for entry in SUMS.entries]
    assert ranking.published.tolist() == [19.0, 58.9, 52.2, 57.7, 67.9, 64.9, 66.4]
    assert set(ranking.datasets) == {"voc21"}


@pytest.mark.parametrize("comparison", proxy.COMPARISONS, ids=lambda c: c.name)
def test_every_comparison_is_of_one_kind_and_can_be_measured(comparison):
    sources = [claim(entry.claim) for entry in comparison.entries]
    assert {source.metric for source in sources} == {"miou"}
    assert {source.kind for source in sources} == {"reported"}
    assert len({source.dataset for source in sources}) == 1
    assert len({source.model for source in sources}) == 1
    profile = Profile.named("embedded")
    recipes = [proxy.recipe_of(entry, profile) for entry in comparison.entries]
    assert len({recipe.key() for recipe in recipes}) == len(recipes)
    assert all(recipe["windows"].short_side == 224 for recipe in recipes)


def test_comparisons_have_different_names_and_cover_what_is_asked():
    names = [comparison.name for comparison in proxy.COMPARISONS]
    assert len(set(names)) == len(names)
    for what in ("methods", "attention sums", "feed-forward", "middle layers", "stride", "PAMR"):
        assert any(name.startswith(what) for name in names)


def test_comparisons_are_selected_by_number_or_name():
    assert select() == proxy.COMPARISONS
    assert select(2) == proxy.COMPARISONS[:2]
    assert select(SUMS.name) == select([SUMS.name]) == (SUMS,)
    for bad in (0, len(proxy.COMPARISONS) + 1, "x", [SUMS.name, "x"], []):
        with pytest.raises(DataError, match="there are"):
            select(bad)


def test_orders_name_source_orders_and_the_pairs_that_differ():
    order = PUBLISHED_ORDER[:-2] + PUBLISHED_ORDER[:-3:-1]
    swapped = ranking_of(SUMS, counts_with(levels_in(order), spread=100), 200)
    row = ProxyValidity((swapped,)).orders().loc[SUMS.name]
    assert row["source"] == "itaclip (2): voc21"
    assert row["published order"].startswith("q-q + k-k 67.9 > q-q + k-k + v-v 66.4 > ")
    assert row["measured order"].startswith("q-q + k-k + v-v 25.0")
    assert row["pairs in another order"] == "clear: q-q + k-k + v-v > q-q + k-k"
    assert row["pairs that agree"] == "20 of 21"
    assert row["Kendall's tau"].startswith("+0.90 [+")
    nothing = ProxyValidity((ranking_of(SUMS, counts_with([30] * 7), 10),)).orders().loc[SUMS.name]
    assert nothing["Kendall's tau"].startswith("none")
    assert nothing["pairs in another order"] == "none"
    assert nothing["measured order"].count(" = ") == 6


def test_bad_comparisons_are_refused():
    profile = Profile.named("embedded")
    average = Entry("x", "resclip-paper-vit-b-16-clip-average5-miou")
    with pytest.raises(DataError, match="names no recipe"):
        proxy.recipe_of(average, profile)
    with pytest.raises(DataError, match="at least 2 entries"):
        ranking_of(Comparison("one", (average,)), counts_with([30]))
    gain = Entry("gain", "resclip-paper-ablation-rcs-gain-miou")
    with pytest.raises(DataError, match="not one mIoU"):
        ranking_of(Comparison("mixed", (average, gain)), counts_with([30, 31]))


def test_proxy_validity_measures_and_ranks(tiny_backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path / "cache"))
    build("folder", tmp_path)
    dataset = open_dataset("folder", tmp_path / "folder")

    class Small(TinyProfile):
        def recipe(self, recipe):
            return super().recipe(recipe).but(windows={"short_side": 64, "crop": 64, "stride": 32})

    profile = Small("tiny", dataset="folder", parts=(tiny_backbone, dataset))
    chosen = [c for c in proxy.COMPARISONS if c.name.startswith("PAMR on")][1:]
    found = proxy.proxy_validity(profile, chosen, resamples=50, store=False, progress=False)
    assert found.summary()["comparison"].tolist() == [c.name for c in chosen]
    ranking = found["PAMR on SCLIP, COCO-Stuff"]
    assert ranking.measured[1] == pytest.approx(
        next(r.miou for r in found.results.reports.values() if r.recipe == proxy.recipe_of(
            ranking.comparison.entries[1], profile))
    )  # fmt: skip
    assert len(found.table()) == 4 and len(found.pairs()) == 2
    changes = {"pamr": True}
    same = proxy.proxy_validity(
        profile, chosen[:1], resamples=50, changes=changes, store=False, progress=False
    )
    assert same.pairs()["order"].tolist() == [proxy.TIE]
    with pytest.raises(DataError, match="no comparison 'x'"):
        found["x"]


def test_with_too_few_images_no_pair_is_clear():
    ranking = ranking_of(SUMS, counts_with(levels_in(PUBLISHED_ORDER), images=5), 50)
    pairs = ranking.pairs()
    assert pairs[["low", "high"]].isna().all(axis=None) and not pairs["clear"].any()
