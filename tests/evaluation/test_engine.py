"""The engine: shared trunks, resumed runs, bad images, memory; counts that depend on nothing but the request."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from engine_cases import environment, seeded_backbone, segmenters, small_dataset, small_recipe
from fake_datasets import build

from ovsslib import Segmenter, evaluate
from ovsslib.datasets.dataset import open_dataset
from ovsslib.errors import DataError, ImageError, MemoryBudgetError
from ovsslib.evaluation import measuring, metrics, passes, resume
from ovsslib.evaluation.resume import ImageCounts, ResumeLog, read_records
from ovsslib.evaluation.store import ResultsStore


@pytest.fixture(scope="module")
def backbone():
    return seeded_backbone()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def dataset(tmp_path):
    return small_dataset(tmp_path / "data")


def run(segmenters, dataset, **options):
    return evaluate(segmenters, dataset, progress=False, **{"store": False, **options})


def same_counts(a, b) -> bool:
    pairs = [
        (getattr(a, name), getattr(b, name))
        for name in ("counts", "boundary_counts", "calibration_counts", "indices")
    ]
    return all(np.array_equal(x, y) for x, y in pairs)


def without_time(record: dict) -> dict:
    return {k: v for k, v in record.items() if k not in ("provenance", "seconds_per_image")}


def test_counts_are_those_of_the_segmenter_image_by_image(backbone, dataset):
    segmenter = Segmenter(backbone, small_recipe())
    report = run(segmenter, dataset)
    text = segmenter.text(small_recipe()["text"].vocabulary(dataset.vocabulary))
    for index, (image, label, _) in enumerate(dataset):
        result = segmenter.segment(image, text, keep_scores=True)
        expected = metrics.image_counts(result.mask, label, 4)
        np.testing.assert_array_equal(report.counts[index], expected)
        np.testing.assert_array_equal(
            report.boundary_counts[index], metrics.boundary_counts(result.mask, label)
        )
        confidence = np.take_along_axis(result.scores, result.mask[None].astype(int), 0)[0]
        binned = metrics.calibration_counts(confidence, result.mask, label)
        np.testing.assert_array_equal(report.calibration_counts[index, :, :2], binned[:, :2])
    assert report.images == 6 and report.limit is None
    assert report.miou == 100 * metrics.miou(report.totals)
    assert report.per_class.index.tolist() == ["person", "dog", "grass", "sky"]
    assert report.seconds_per_image > 0


def test_many_recipes_at_once_give_what_each_gives_alone(backbone, dataset, monkeypatch):
    three = segmenters(backbone)
    alone = [run(one, dataset) for one in three]
    passes = []
    trunk = backbone.trunk
    monkeypatch.setattr(backbone, "trunk", lambda *a, **k: passes.append(1) or trunk(*a, **k))
    single = run(three[0], dataset)
    count_of_one = len(passes)
    passes.clear()
    together = run(three, dataset)
    assert len(passes) == count_of_one
    assert all(same_counts(a, b) for a, b in zip(alone, together, strict=True))
    assert same_counts(single, together[0])
    assert not np.array_equal(together[0].counts, together[2].counts)


def test_what_recipes_share(backbone):
    three = segmenters(backbone)
    words = [one.words(one.text(["a", "b"])) for one in three]
    assert passes.share_logits(three, words) == ([0, 2], [0, 0, 2])
    other = Segmenter(backbone, small_recipe(windows={"stride": 32}))
    assert passes.group_by_trunk([*three, other]) == [[0, 1, 2], [3]]
    moved = dataclasses.replace(words[1], rows=words[1].rows + 1)
    assert passes.share_logits(three[:2], [words[0], moved]) == ([0, 1], [0, 1])


def test_counts_do_not_depend_on_workers(backbone, dataset):
    segmenter = Segmenter(backbone, small_recipe())
    first, second = (run(segmenter, dataset, workers=n) for n in (0, 2))
    assert same_counts(first, second)


def test_read_ahead_keeps_the_order_and_hands_errors_over():
    class Slow:
        def __getitem__(self, index):
            time.sleep(0.002 * (5 - index))
            if index == 2:
                raise ImageError("bad")
            return index

    for workers in (0, 1, 3):
        items = list(passes.read_ahead(Slow(), range(5), workers))
        assert [index for index, _ in items] == [0, 1, 2, 3, 4]
        assert isinstance(items[2][1], ImageError) and items[3][1] == 3


def test_limit_takes_the_first_images(backbone, dataset):
    segmenter = Segmenter(backbone, small_recipe())
    whole, part = run(segmenter, dataset), run(segmenter, dataset, limit=4)
    np.testing.assert_array_equal(whole.counts[:4], part.counts)
    assert part.limit == 4 and run(segmenter, dataset, limit=99).limit is None
    with pytest.raises(DataError, match="limit=0"):
        run(segmenter, dataset, limit=0)


def test_a_bad_image_stops_or_is_skipped_and_counted(backbone, tmp_path):
    fake = build("folder", tmp_path, images=4)
    dataset = open_dataset("folder", fake.root)
    segmenter = Segmenter(backbone, small_recipe())
    good = run(segmenter, dataset)
    broken, lost = fake.images[fake.names[1]], fake.masks[fake.names[2]]
    broken.write_bytes(broken.read_bytes()[:200])
    lost.unlink()
    for store in (False, True):
        dataset = open_dataset("folder", fake.root)
        report = run(segmenter, dataset, on_error="skip", workers=2, store=store)
        assert [name for name, _ in report.skipped] == list(fake.names[1:3])
        assert str(broken) in report.skipped[0][1] and str(lost) in report.skipped[1][1]
        assert report.images == 2 and report.indices.tolist() == [0, 3]
        np.testing.assert_array_equal(report.counts, good.counts[[0, 3]])
    with pytest.raises((ImageError, DataError), match=str(lost.name)):
        run(segmenter, open_dataset("folder", fake.root), store=True)
    lost.write_bytes(fake.masks[fake.names[0]].read_bytes())
    with pytest.raises(ImageError, match=str(broken)):
        run(segmenter, open_dataset("folder", fake.root))
    with pytest.raises(DataError, match="on_error"):
        run(segmenter, dataset, on_error="maybe")


def test_a_recipe_tuned_for_another_data_set_is_reported(backbone, dataset):
    from ovsslib import Recipe

    tuned = Recipe.named("naclip", dataset="cityscapes").but({"windows.short_side": 48})
    with pytest.warns(UserWarning, match="tuned for cityscapes"):
        report = run(Segmenter(backbone, tuned), dataset, limit=1)
    assert "cityscapes" in report.notes[0]


class OutOfMemory:
    """A trunk that fails for more than `fits` windows at a time."""

    def __init__(self, trunk, fits):
        self.trunk, self.fits, self.sizes = trunk, fits, []

    def __call__(self, pixels, *rest, **settings):
        self.sizes.append(len(pixels))
        if len(pixels) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return self.trunk(pixels, *rest, **settings)


def test_the_chunk_is_halved_when_memory_runs_out(dataset, monkeypatch):
    backbone = seeded_backbone()
    segmenter = Segmenter(backbone, small_recipe())
    backbone.batch_of_windows = 2
    expected = run(segmenter, dataset, limit=2)
    backbone.batch_of_windows = 4
    failing = OutOfMemory(backbone.trunk, fits=2)
    monkeypatch.setattr(backbone, "trunk", failing)
    with pytest.warns(UserWarning, match="2 windows at a time"):
        report = run(segmenter, dataset, limit=2)
    assert failing.sizes[:2] == [4, 2] and set(failing.sizes[2:]) <= {1, 2}
    assert same_counts(expected, report)
    assert report.provenance["windows_per_chunk"] == 2
    failing.fits = 0
    with (
        pytest.warns(UserWarning, match="1 windows at a time"),
        pytest.raises(MemoryBudgetError, match="out of memory"),
    ):
        run(segmenter, dataset, limit=2)


# -- resume ------------------------------------------------------------------------------------------


def image_counts(index: int, classes: int = 300) -> ImageCounts:
    random = np.random.default_rng(index)
    table = random.integers(0, 2**40, (3, classes)) * (random.random(classes) < 0.05)
    return ImageCounts(
        index, table, random.integers(0, 99, 4), random.integers(0, 2**50, (15, 3)), 0.25 + index
    )


def test_records_round_trip_and_a_torn_tail_is_dropped(tmp_path):
    log = ResumeLog(tmp_path / "run")
    records = [image_counts(index) for index in range(5)]
    for record in records:
        log.append(record)
    log.close()
    (file,) = (tmp_path / "run").glob("*.part")
    whole = file.read_bytes()
    ends = np.cumsum([len(record.to_bytes()) for record in records])
    assert ends[-1] == len(whole)
    for cut in (0, 3, ends[0] - 1, ends[1], ends[2] + 5, len(whole)):
        file.write_bytes(whole[:cut])
        kept = read_records(file)
        assert len(kept) == int((ends <= cut).sum())
        for record, read in zip(records, kept, strict=False):
            assert read.index == record.index and read.seconds == record.seconds
            for name in ("classes", "boundary", "calibration"):
                np.testing.assert_array_equal(getattr(read, name), getattr(record, name))
    damaged = bytearray(whole)
    damaged[ends[1] + 40] ^= 1
    file.write_bytes(damaged)
    assert [record.index for record in ResumeLog(tmp_path / "run").done().values()] == [0, 1]


def test_disk_full_while_appending(tmp_path, monkeypatch):
    log = ResumeLog(tmp_path / "run")
    log.append(image_counts(0))

    def full(file, content):
        file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resume, "write", full)
    with pytest.raises(DataError, match="No space left on device"):
        log.append(image_counts(1))
    log.close()
    assert list(ResumeLog(tmp_path / "run").done()) == [0]


class StopAfter:
    """A data set whose reader is interrupted at one image."""

    def __init__(self, dataset, at):
        self.inner, self.at = dataset, at

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        if index == self.at:
            raise KeyboardInterrupt
        return self.inner[index]


def test_an_interrupted_run_goes_on_and_leaves_nothing_behind(backbone, dataset, tmp_path):
    three = segmenters(backbone)
    expected = run(three, dataset)
    folder = tmp_path / "resume"
    store = ResultsStore(tmp_path / "store", shipped=tmp_path / "none")
    with pytest.raises(KeyboardInterrupt):
        run(three[:2], StopAfter(dataset, 4), store=store, resume_folder=folder)
    assert len(list(folder.iterdir())) == 2
    reports = run(three, dataset, store=store, resume_folder=folder)
    assert all(same_counts(a, b) for a, b in zip(expected, reports, strict=True))
    assert [r.provenance["resumed_images"] for r in reports] == [0, 0, 0]
    assert list(folder.iterdir()) == [] and len(list(store.records())) == 3


# One process imports the library and forks a run per line that it reads: five starts for the price of one.
NURSERY = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from engine_cases import seeded_backbone, segmenters
from ovsslib import evaluate
from ovsslib.datasets.dataset import open_dataset
from ovsslib.evaluation.store import ResultsStore
root, shared = Path(sys.argv[1]), Path(sys.argv[2])
dataset, three = open_dataset("folder", root), segmenters(seeded_backbone())
dataset.vocabulary  # reads the shipped vocabularies once
for _ in sys.stdin:
    child = os.fork()
    if not child:
        evaluate(
            three, dataset, progress=False,
            resume_folder=shared / "resume", store=ResultsStore(shared / "store", shipped=shared / "none"),
        )
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_kill_at_five_points_then_resume_gives_the_identical_record(backbone, tmp_path):
    fake = build("folder", tmp_path / "data", images=24)
    expected = run(segmenters(backbone), open_dataset("folder", fake.root))
    shared = tmp_path / "shared"
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY, str(fake.root), str(shared)],
        env=environment(tmp_path / "cache"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as nursery:  # fmt: skip

        def start() -> int:
            nursery.stdin.write("go\n")
            nursery.stdin.flush()
            return int(nursery.stdout.readline())

        for random in np.random.default_rng(5).random(5):
            child, before = start(), sizes(shared)
            wanted = before + 100 + int(4000 * random)
            deadline = time.monotonic() + 60
            while sizes(shared) < wanted:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            os.kill(child, signal.SIGKILL)
            assert int(nursery.stdout.readline()) == -signal.SIGKILL
            assert sizes(shared) > before and not (shared / "store").exists()
        start()
        assert int(nursery.stdout.readline()) == 0
        nursery.stdin.close()
    store = ResultsStore(shared / "store", shipped=shared / "none")
    by_recipe = {report.recipe.key(): report for report in store.reports()}
    for report in expected:
        found = by_recipe[report.recipe.key()]
        assert same_counts(report, found)
        assert without_time(report.record()) == without_time(found.record())
        assert list(report.per_class.index) == list(found.per_class.index)
    assert max(r.provenance["resumed_images"] for r in by_recipe.values()) > 0
    assert list((shared / "resume").iterdir()) == []


def sizes(shared) -> int:
    return sum(path.stat().st_size for path in (shared / "resume").rglob("*.part"))


def test_the_words_must_fit_the_classes(backbone, dataset):
    class Wrong(StopAfter):
        classes = 9

    with pytest.raises(DataError, match="9 classes but 4 words"):
        run(Segmenter(backbone, small_recipe()), Wrong(dataset, None))
    assert measuring.model_name(backbone) == "seeded/random"


def test_names_in_place_of_what_they_name_are_told(backbone, dataset):
    segmenter = Segmenter(backbone, small_recipe())
    with pytest.raises(DataError, match=r"'clip' is no segmenter; load it first.*ovsslib.load"):
        evaluate(["clip"], dataset)
    with pytest.raises(DataError, match=r"'scenes' is no data set; open it first.*open_dataset"):
        evaluate(segmenter, "scenes")
    with pytest.raises(DataError, match="list is no data set"):
        evaluate(segmenter, [])
    for workers in (-1, 1.5):
        with pytest.raises(DataError, match=f"workers={workers}"):
            evaluate(segmenter, dataset, workers=workers)
    with pytest.raises(DataError, match="limit=True"):
        evaluate(segmenter, dataset, limit=True)
