"""Timers on a clock that the test turns, costs of a tiny model, and budgets."""

import copy

import numpy as np
import pytest
import torch

from ovsslib import segmenter as flow
from ovsslib.clip.backbone import Backbone
from ovsslib.errors import DataError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages.pamr import PAMR
from ovsslib.stages.windows import Stitched
from ovsslib.study import cost as compute
from ovsslib.text import features

WINDOWS = {"short_side": 64, "crop": 64, "stride": 32}
CPU = torch.device("cpu")


def copied(backbone, precision):
    """The same weights in another precision."""
    return Backbone(
        copy.deepcopy(backbone.model), name="copy", weights_hash="", precision=precision
    )


class Clock:
    """A clock that moves only when told to."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(compute.time, "perf_counter", made)
    return made


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (80, 96, 3), dtype=np.uint8)


def segmenter_of(backbone, name="naclip", **changes):
    return Segmenter(backbone, Recipe.named(name).but({"windows": WINDOWS, **changes}))


def test_nested_stages_have_their_own_time_only(clock):
    timer = compute.StageTimer(CPU)
    with timer.stage("outer"):
        clock.now += 1
        for _ in range(2):
            with timer.stage("inner"):
                clock.now += 10
        clock.now += 2
    assert timer.readings["outer"].seconds == 3 and timer.readings["outer"].calls == 1
    assert timer.readings["inner"].seconds == 20 and timer.readings["inner"].calls == 2


def test_a_stage_that_fails_is_closed(clock):
    timer = compute.StageTimer(CPU)
    with timer.stage("outer"):
        with pytest.raises(ValueError, match="inside"), timer.stage("inner"):
            clock.now += 4
            raise ValueError("inside")
        clock.now += 1
    assert timer.readings["inner"].seconds == 4 and timer.readings["outer"].seconds == 1


def test_memory_belongs_to_the_stage_that_was_open(clock):
    class Peaks:
        values = iter([0, 5, 9, 7])

        def take(self):
            return next(self.values)

    timer = compute.StageTimer(CPU, Peaks())
    with timer.stage("outer"), timer.stage("inner"):
        pass
    assert timer.readings["outer"].peak == 7 and timer.readings["inner"].peak == 9


def test_stage_times_name_every_stage_and_add_up(tiny_backbone, picture):
    segmenter = segmenter_of(tiny_backbone)
    text = segmenter.text(["person", "dog", "grass"])
    frame = compute.stage_times(segmenter, picture, text, repeats=2)
    assert frame.columns.tolist() == ["stage", "calls", "seconds", "share", "peak_gb"]
    stages = frame.set_index("stage")
    assert stages.index.tolist() == [
        compute.PREPARE, compute.TRUNK, compute.LAST, compute.WORDS, compute.STITCH, "pamr",
        "labels", compute.OTHER, compute.TOTAL,
    ]  # fmt: skip
    parts = stages.drop(compute.TOTAL)
    assert parts["share"].sum() == pytest.approx(100)
    assert parts["seconds"].sum() == pytest.approx(stages.loc[compute.TOTAL, "seconds"])
    assert stages.loc[compute.TRUNK, "calls"] == len(segmenter.windows.boxes(64, 77))
    assert (parts["peak_gb"] > 0).all() and frame.attrs["queries"] == 3


@pytest.mark.parametrize("name", ["itaclip", "resclip", "gem", "thesis-2c"])
def test_stages_of_other_recipes_are_seen(name, tiny_backbone, picture):
    segmenter = Segmenter(tiny_backbone, Recipe.named(name).but(
        {"windows": WINDOWS, "upsampling": False, "text.auxiliary": None,
         "text.auxiliary_weight": 0.0}
    ))  # fmt: skip
    text = segmenter.text(["person", "dog", "grass"])
    stages = compute.stage_times(segmenter, picture, text, repeats=1, warm_up=0)["stage"].tolist()
    quiet = {"text", "windows", "attention"}
    assert set(segmenter.recipe.stages) - quiet <= set(stages)


def test_measuring_changes_nothing_and_leaves_nothing_behind(tiny_backbone, picture):
    segmenter = segmenter_of(tiny_backbone)
    text = segmenter.text(["person", "dog", "grass"])
    before = segmenter.segment(picture, text).mask
    kept = Stitched.__init__, Stitched.rows, flow.cosine_logits, PAMR.on_logits
    timer = compute.StageTimer(CPU)
    with timer.attached(segmenter):
        assert PAMR.on_logits is not kept[3]
        during = segmenter.segment(picture, text).mask
    assert np.array_equal(before, during)
    assert kept == (Stitched.__init__, Stitched.rows, flow.cosine_logits, PAMR.on_logits)
    assert "prepare" not in vars(segmenter) and "trunk" not in vars(tiny_backbone)
    with pytest.raises(RuntimeError, match="stop"), timer.attached(segmenter):
        raise RuntimeError("stop")
    assert kept[3] is PAMR.on_logits


def test_repeats_are_checked(tiny_backbone, picture):
    segmenter = segmenter_of(tiny_backbone)
    text = segmenter.text(["dog"])
    with pytest.raises(DataError, match="repeats=0"):
        compute.stage_times(segmenter, picture, text, repeats=0)


def test_encoding_words_is_counted_without_the_caches(tiny_backbone, monkeypatch):
    segmenter = segmenter_of(tiny_backbone)
    seen = []
    encode = features.encode_sharing
    monkeypatch.setattr(
        features, "encode_sharing", lambda model, ids: seen.append(len(ids)) or encode(model, ids)
    )
    text = segmenter.text(["dog", "cat"])
    first = sum(seen)
    assert compute.text_seconds(segmenter, text.vocabulary) > 0
    assert sum(seen) - first == 2 * len(
        segmenter.recipe["text"].strategy().prompts("dog", "thing", {})
    )


def test_weights_are_counted_exactly(tiny_backbone):
    expected = sum(p.numel() * 4 for p in tiny_backbone.model.parameters())
    expected += sum(b.numel() * b.element_size() for b in tiny_backbone.model.buffers())
    assert compute.weight_bytes(segmenter_of(tiny_backbone)) == expected


def test_half_precision_products_need_the_memory_of_float32_sums(tiny_backbone):
    """Tokens and attention of "bf16" are kept in float32, so its estimate is no smaller."""
    windows = {"windows": {"short_side": 224, "crop": 224, "stride": 224}}
    full = Segmenter(tiny_backbone, segmenter_of(tiny_backbone).recipe.but(windows))
    half = Segmenter(copied(tiny_backbone, "bf16"), full.recipe)
    quarter = Segmenter(copied(tiny_backbone, "fp16"), full.recipe)
    sizes = [compute.estimated_bytes(segmenter, (64, 64), 1) for segmenter in (full, half, quarter)]
    assert sizes[0] == sizes[1] > sizes[2]


def test_a_budget_is_kept_or_not(tiny_backbone):
    segmenter = segmenter_of(tiny_backbone)
    small = compute.fits(segmenter, (96, 96), 5)
    assert small.fits and small.method == "measured on cpu"
    assert small.peak_gb == pytest.approx(small.weights_gb + small.working_gb)
    tight = compute.fits(segmenter, (96, 96), 5, budget_gb=small.weights_gb / 2)
    assert not tight.fits and "does not fit into" in str(tight)


def test_the_estimate_grows_with_queries_and_pictures(tiny_backbone):
    segmenter = segmenter_of(tiny_backbone)
    sizes = [
        compute.estimated_bytes(segmenter, size, queries)
        for size, queries in (((200, 300), 20), ((200, 300), 171), ((400, 600), 171))
    ]
    assert sizes == sorted(sizes) and sizes[0] < sizes[1] < sizes[2]
    huge = compute.fits(segmenter, (60_000, 60_000), 500)
    assert huge.method == "estimated" and not huge.fits
    guess = compute.fits(segmenter, (96, 96), 5, measure=False)
    assert guess.method == "estimated" and guess.fits


def test_measured_memory_is_at_least_that_of_the_logits(tiny_backbone):
    segmenter = segmenter_of(tiny_backbone)
    found = compute.fits(segmenter, (600, 700), 60)
    assert found.working_gb * compute.GIGABYTE > 60 * 600 * 700 * 4


def test_bad_budgets_are_refused(tiny_backbone):
    segmenter = segmenter_of(tiny_backbone)
    for size, queries, budget in (((0, 9), 1, 6), ((9, 9), 0, 6), ((9, 9), 1, 0)):
        with pytest.raises(DataError, match="must be positive"):
            compute.fits(segmenter, size, queries, budget)


def test_random_text_has_a_background_where_thresholds_need_one(tiny_backbone):
    plain = compute.random_text(segmenter_of(tiny_backbone), 4)
    assert plain.vocabulary.background is None and len(plain) == 4
    assert torch.allclose(plain.features.norm(dim=1), torch.ones(4))
    strict = segmenter_of(tiny_backbone, **{"labels.probability_threshold": 0.1})
    assert compute.random_text(strict, 4).vocabulary.background == 0
    assert compute.fits(strict, (80, 80), 4).fits
