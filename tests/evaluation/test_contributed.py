"""Records of other people: what is sound goes in, what cannot be is refused with the reason."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from test_store import parts, report

from ovsslib import paths
from ovsslib.errors import DataError
from ovsslib.evaluation.contributed import (
    _wrong_counts,
    export_records,
    import_records,
    problem_with,
)
from ovsslib.evaluation.keys import key_of
from ovsslib.evaluation.records import Record, RecordsFile, record_of, write_records
from ovsslib.evaluation.store import SHIPPED, ResultsStore


@pytest.fixture(scope="module")
def shipped() -> Record:
    """SCLIP on Scenes: a data set of its own classes."""
    records = RecordsFile(paths.data(SHIPPED))
    told = ((record, json.loads(record.text)) for record in records)
    wanted = ("sclip", "scenes")
    return next(r for r, t in told if (t["recipe"]["name"], t["dataset"]) == wanted)


@pytest.fixture
def store(tmp_path, shipped) -> ResultsStore:
    """A store that has one record of its own, and nothing that ships."""
    store = ResultsStore(tmp_path / "mine", tmp_path / "none.sqlite")
    store.keep(shipped)
    return store


def changed(record: Record, change, rekey: bool = False) -> Record:
    """The record with another text."""
    content = json.loads(record.text)
    change(content)
    if rekey:
        content["key"] = key_of(content["parts"])
    return Record(content["key"], json.dumps(content), record.read_counts, record.origin)


def test_what_is_exported_comes_in_elsewhere_and_is_the_same(store, tmp_path, shipped):
    file = tmp_path / "mine.sqlite"
    assert export_records(file, store=store) == 1
    other = ResultsStore(tmp_path / "theirs", tmp_path / "none.sqlite")
    found = import_records(file, other)
    assert (found.new, found.known, found.refused) == ((shipped.key,), (), {})
    assert import_records(file, other).known == (shipped.key,)
    mine, theirs = store.record(shipped.key), other.record(shipped.key)
    assert mine.text == theirs.text and mine.read_counts() == theirs.read_counts()
    assert file.read_bytes().count(str(tmp_path).encode()) == 0


def test_what_ships_is_not_exported_and_a_filter_that_fits_nothing_is_told(store, tmp_path):
    file = tmp_path / "out.sqlite"
    with pytest.raises(DataError, match="data set 'voc21'.*ovss evaluate"):
        export_records(file, dataset="voc21", store=store)
    with pytest.raises(DataError, match="model 'ViT-B-16'"):
        export_records(file, model="ViT-B-16", store=store)
    assert export_records(file, "scenes", "sceneclip", store) == 1
    library = ResultsStore(tmp_path / "mine", file)
    with pytest.raises(DataError, match="of your own"):
        export_records(tmp_path / "again.sqlite", store=library)


def test_files_that_are_none_are_refused(tmp_path, store):
    with pytest.raises(DataError, match="there is no file"):
        import_records(tmp_path / "missing.sqlite", store)
    (tmp_path / "text.sqlite").write_text("no database")
    with pytest.raises(DataError, match="holds no records, or is damaged"):
        import_records(tmp_path / "text.sqlite", store)


def _score(content):
    content["metrics"]["miou"][0] += 1


def _class_score(content):
    content["per_class"]["sky"][0] += 0.5


def _images(content):
    content["images"] -= 1


def _dataset(content):
    content["dataset"] = "my pictures"


def _other_classes(content):
    content["dataset"] = "scenes-object"


def _whole(content):
    content["limit"] = 399


def _recipe(content):
    content["recipe"]["stages"]["labels"]["logit_scale"] = 41.0


def _core(content):
    content["parts"]["core"] = 0


def _stage(content):
    content["parts"]["recipe"]["labels"]["version"] = 99


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_score, "its miou is .* and its counts give"),
        (_class_score, "its sky is"),
        (_images, "it says 399 images, and has counts of 400"),
        (_dataset, "'my pictures' is not one"),
        (_other_classes, "scenes-object has 21 classes, and it has 34"),
        (_whole, "limited to 399 images, and it has 400"),
        (_recipe, "its recipe is not the one of its key"),
        (_core, "core version 0.*measure it again"),
        (_stage, "version 99 of 'labels'"),
    ],
)
def test_a_record_that_does_not_hold_together_is_refused(shipped, change, why):
    assert problem_with(shipped) is None
    problem = problem_with(changed(shipped, change, rekey=True))
    assert problem is not None and re.search(why, problem), problem


def possible(classes: int = 3, **fields):
    """A report whose counts images can have: what is not in place is predicted as the next class."""
    random = np.random.default_rng(3)
    label = random.integers(100, 5000, (12, classes))
    right = label // 2
    prediction = right + np.roll(label - right, 1, axis=1)
    right = np.minimum(right, prediction)
    names = tuple(f"class {index}" for index in range(classes))
    return report(names=names, counts=np.stack([right, prediction, label], axis=1), **fields)


def as_record(found) -> Record:
    key = key_of(parts(found))
    text, counts = record_of(key, parts(found), found)
    return Record(key, text, lambda: counts, "here")


def test_a_part_of_a_data_set_does_not_pass_for_the_whole():
    """Without a limit a record speaks for the whole data set, so all its images must be there."""
    problem = problem_with(as_record(possible(21)))
    assert "voc21 has 1449 images, and it has 12" in problem and "--limit" in problem
    assert problem_with(as_record(possible(21, limit=12))) is None


def test_counts_that_no_image_can_have_are_refused():
    sound = possible()
    assert _wrong_counts(sound) is None
    more = sound.counts.copy()
    more[0, 0, 0] = more[0, 1:, 0].min() + 1
    assert "more pixels agree" in _wrong_counts(dataclasses.replace(sound, counts=more))
    fewer = sound.counts.copy()
    fewer[0, 1, 0] += 1
    assert "predicted" in _wrong_counts(dataclasses.replace(sound, counts=fewer))
    twice = np.zeros_like(sound.indices)
    assert "twice" in _wrong_counts(dataclasses.replace(sound, indices=twice))


def test_refused_records_are_not_kept(tmp_path, shipped):
    bad = changed(shipped, _score, rekey=True)
    file = tmp_path / "mixed.sqlite"
    other = changed(shipped, lambda content: content["parts"].update(core=7), rekey=True)
    write_records(file, [(r.key, r.text, r.read_counts()) for r in (bad, other)])
    store = ResultsStore(tmp_path / "store", tmp_path / "none.sqlite")
    found = import_records(file, store)
    assert not found.new and set(found.refused) == {bad.key, other.key} and not store.keys()


def test_files_beside_the_librarys_own_are_read_after_it(tmp_path, shipped):
    folder = tmp_path / "results"
    file = tmp_path / "one.sqlite"
    write_records(file, [(shipped.key, shipped.text, shipped.read_counts())])
    (folder / "contributed").mkdir(parents=True)
    shutil.copy(file, folder / "contributed" / "somebody-scenes.sqlite")
    store = ResultsStore(tmp_path / "mine", folder / "results.sqlite")
    assert store.keys() == store.library_keys() == [shipped.key]
    assert store.record(shipped.key).report().miou == shipped.report().miou
    assert [record.key for record in store.records()] == [shipped.key]


def test_contributed_records_that_ship_are_sound():
    for path in sorted(paths.data("results/contributed").glob("*.sqlite")):
        problems = {r.key: problem_with(r) for r in RecordsFile(path)}
        assert not any(problems.values()), (path.name, problems)
