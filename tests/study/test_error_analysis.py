"""Ceilings, oracle words and error shares on label maps whose numbers can be told by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_datasets import build

from ovsslib.datasets.dataset import open_dataset
from ovsslib.errors import DataError
from ovsslib.evaluation import metrics
from ovsslib.evaluation.engine import evaluate
from ovsslib.evaluation.predictions import Predictions, predict, restrict
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.study import error_analysis as analysis
from ovsslib.text.features import TextFeatures
from ovsslib.text.vocabulary import Vocabulary

WINDOWS = {"short_side": 64, "crop": 64, "stride": 32}


class Labels(list):
    """A data set of label maps without pictures."""

    name, classes, ignore_index = "labels", 3, 255

    def __init__(self, maps, classes=3):
        super().__init__(np.asarray(one, dtype=np.uint8) for one in maps)
        self.classes = classes
        words = ["person", "grass", "sky", "dog"][:classes]
        self.vocabulary = Vocabulary.from_words(words)

    def label(self, index):
        return self[index]

    def __getitem__(self, index):
        part = super().__getitem__(index)
        return Labels(part, self.classes) if isinstance(index, slice) else part


def predictions_of(masks, labels, vocabulary=None):
    """Predictions that hold given label maps."""
    model = SimpleNamespace(name="made up", pretrained=None, device="cpu")
    segmenter = SimpleNamespace(recipe=Recipe("made up"), backbone=model)
    archive = {str(i): np.asarray(mask, dtype=np.uint8) for i, mask in enumerate(masks)}
    return Predictions(segmenter, labels, vocabulary or labels.vocabulary, False, archive)


@pytest.fixture
def small_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path / "cache"))
    build("folder", tmp_path)
    return open_dataset("folder", tmp_path / "folder")


def split_map(column, width=32, height=32):
    label = np.zeros((height, width), dtype=np.uint8)
    label[:, column:] = 1
    return label


def test_area_matrix_averages_whole_and_split_pixels():
    assert np.allclose(analysis.area_matrix(4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
    assert np.allclose(analysis.area_matrix(3, 2), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]])
    assert np.allclose(analysis.area_matrix(298, 19).sum(axis=1), 1)


def test_grid_moves_an_edge_to_where_it_is_computed_by_hand():
    # Cells of 16: the right one holds 3/4 of class 1. Interpolated between the centres 8 and 24,
    # class 1 has # more than half beyond 8 + 16 * 2/3 = 18.67, so from column 19 on instead of 20.
    assert np.array_equal(analysis.through_grid(split_map(20), 16), split_map(19))


def test_ceiling_is_the_hand_computed_miou():
    frame = analysis.ceilings(Labels([split_map(20)]), cells=(16, 1))
    values = frame[frame["metric"] == "miou"].set_index("cell_pixels")["value"]
    assert values[16] == pytest.approx(50 * (19 / 20 + 12 / 13))
    assert values[1] == 100
    assert set(frame["unit"]) == {"percent"} and set(frame["grid"]) == {
        "14x14 per 224 pixels", "224x224 per 224 pixels",
    }  # fmt: skip


def test_cells_follow_the_size_that_the_model_sees():
    large = np.kron(split_map(20), np.ones((2, 2), dtype=np.uint8))
    seen = analysis.ceilings(Labels([large]), cells=(16,), short_side=32)
    plain = analysis.ceilings(Labels([large]), cells=(32,))
    assert seen["value"].tolist() == plain["value"].tolist()


def test_ignored_pixels_belong_to_no_class():
    label = split_map(16)
    label[:, 12:16] = 255
    reached = analysis.through_grid(label, 16)
    assert set(np.unique(reached)) == {0, 1}
    assert (reached[:, :12] == 0).all() and (reached[:, 20:] == 1).all()
    nothing = np.full((8, 8), 255, dtype=np.uint8)
    assert np.array_equal(analysis.through_grid(nothing, 4), nothing)


def test_bad_input_of_ceilings_is_refused():
    with pytest.raises(DataError, match="cell=0"):
        analysis.through_grid(split_map(4), 0)
    with pytest.raises(DataError, match="no images"):
        analysis.ceilings(Labels([]))


def test_near_boundary_is_a_euclidean_distance_to_another_class():
    near = analysis.near_boundary(split_map(16), 5)
    assert near[:, 11:21].all() and not near[:, :11].any() and not near[:, 21:].any()
    dot = np.zeros((21, 21), dtype=np.uint8)
    dot[10, 10] = 1
    near = analysis.near_boundary(dot, 5)
    assert near[10, 15] and near[13, 14] and not near[10, 16] and not near[14, 14]


def test_ignored_pixels_make_no_boundary():
    label = np.zeros((10, 10), dtype=np.uint8)
    label[:, 5:] = 255
    assert not analysis.near_boundary(label, 5).any()


def test_small_objects_are_parts_below_the_limit_of_the_given_classes():
    label = np.zeros((12, 12), dtype=np.uint8)
    label[1:3, 1:3] = 1  # 4 pixels
    label[3, 3] = 1  # joined to them at a corner: 5
    label[6:9, 6:9] = 1  # 9 pixels
    label[0, 10] = 2  # 1 pixel of another class
    small = analysis.small_objects(label, [1], below=6)
    assert small.sum() == 5 and small[3, 3] and not small[0, 10]
    assert analysis.small_objects(label, [1], below=5).sum() == 0
    assert analysis.small_objects(label, [1, 2], below=10).sum() == 15


def test_object_classes_are_things_without_the_background():
    words = Vocabulary.from_words(["person", "grass", "dog"])
    assert analysis.object_classes(words) == [0, 2]
    stuff = Vocabulary.from_words(["grass", "sky"], background=["wall"])
    assert analysis.object_classes(stuff) == [1, 2]


def error_case():
    """A 40x40 map: grass, sky from column 20 on, a person of 4 pixels far from the edge; three
    kinds of errors."""
    label = np.full((40, 40), 1, dtype=np.uint8)
    label[:, 20:] = 2
    label[10:12, 35:37] = 0
    mask = label.copy()
    mask[:, 18:20] = 2  # 80 pixels of grass taken for sky, near the boundary
    mask[10:12, 35:37] = 2  # the person is missed: small and near its own edge
    mask[30:33, 2:5] = 0  # 9 pixels of grass taken for a person, far from everything
    return mask, label


def test_errors_are_sorted_by_where_they_lie():
    mask, label = error_case()
    made = analysis.errors(predictions_of([mask], Labels([label])))
    frame = made.causes(resamples=50).set_index("cause")
    assert frame["wrong_pixels"].to_dict() == {
        analysis.NEAR: 80, analysis.SMALL: 0, analysis.BOTH: 4, analysis.NEITHER: 9,
    }  # fmt: skip
    assert frame["share_of_errors"].sum() == pytest.approx(100)
    assert frame["share_of_pixels"].sum() == pytest.approx(100)
    assert frame.loc[analysis.BOTH, "error_rate"] == 100
    fixed = np.where(mask == 0, 1, mask)
    fixed[10:12, 35:37] = 2
    counts = metrics.image_counts(fixed, label, 3)
    gain = 100 * (metrics.miou(counts) - metrics.miou(metrics.image_counts(mask, label, 3)))
    assert frame.loc[analysis.NEITHER, "miou_gain"] == pytest.approx(gain)


def test_confusions_are_named_and_ranked():
    mask, label = error_case()
    made = analysis.errors(predictions_of([mask], Labels([label])))
    frame = made.confusions()
    assert frame[["label", "predicted", "wrong_pixels"]].values.tolist() == [
        ["grass", "sky", 80], ["grass", "person", 9], ["person", "sky", 4],
    ]  # fmt: skip
    assert frame["kinds"].iloc[1] == "stuff taken for thing"
    assert frame["share_of_label"].iloc[2] == 100
    kinds = made.kinds_of_errors().set_index(["label_kind", "predicted_kind"])["wrong_pixels"]
    assert kinds["stuff", "stuff"] == 80 and kinds["thing", "stuff"] == 4


def test_a_perfect_prediction_has_no_errors():
    _, label = error_case()
    made = analysis.errors(predictions_of([label], Labels([label])))
    assert made.confusions().empty
    assert made.causes(resamples=20)["share_of_errors"].isna().all()


def test_restrict_keeps_rows_and_the_background():
    words = Vocabulary.from_words(
        {"dog": ["hound"], "cat": [], "cow": ["bull"]}, background=["wall"]
    )
    rows = torch.arange(float(len(words.queries)))[:, None]
    text = TextFeatures(rows, torch.tensor(words.query_class), words)
    part, classes = restrict(text, np.array([3, 255]))
    assert part.vocabulary.names == ("background", "cow") and classes.tolist() == [0, 3]
    assert part.features[:, 0].tolist() == [0, 4, 5] and part.query_class.tolist() == [0, 1, 1]
    everything, classes = restrict(text, np.array([255]))
    assert classes.tolist() == [0, 1, 2, 3] and torch.equal(everything.features, rows)


def test_predictions_count_as_the_engine_counts(tiny_backbone, small_dataset):
    recipes = [Recipe.named(name).but(windows=WINDOWS) for name in ("sclip", "naclip", "itaclip")]
    segmenters = [Segmenter(tiny_backbone, recipe) for recipe in recipes]
    reports = evaluate(segmenters[:2], small_dataset, store=False, progress=False)
    made = predict(segmenters[:2], small_dataset, keep=False)
    for report, one in zip(reports, made, strict=True):
        ours = analysis.report_of(one)
        assert np.array_equal(ours.counts, report.counts)
        assert np.array_equal(ours.boundary_counts, report.boundary_counts)
        assert np.isnan(ours.calibration_error)


def test_predictions_are_kept_and_made_again_if_damaged(tiny_backbone, small_dataset, monkeypatch):
    from ovsslib import paths

    segmenter = Segmenter(tiny_backbone, Recipe.named("sclip").but(windows=WINDOWS))
    first = predict(segmenter, small_dataset)[0]
    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "finish", lambda *arguments: pytest.fail("was not kept"))
        again = predict(segmenter, small_dataset)[0]
    assert all(np.array_equal(first.mask(i), again.mask(i)) for i in range(len(first)))
    (file,) = paths.cache("predictions").glob("*.npz")
    file.write_bytes(file.read_bytes()[:-40])
    third = predict(segmenter, small_dataset)[0]
    assert np.array_equal(first.mask(0), third.mask(0))
    with pytest.raises(DataError, match="no image 3"):
        third.mask(3)


def test_the_oracle_speaks_present_words_only(tiny_backbone, small_dataset):
    recipe = Recipe.named("sclip").but(windows=WINDOWS)
    segmenter = Segmenter(tiny_backbone, recipe)
    made = predict(segmenter, small_dataset, present_only=True)[0]
    for _, mask, label in made.pairs():
        assert set(np.unique(mask)) <= set(np.unique(label))
    found = analysis.oracle_words(segmenter, small_dataset)
    row = found.table().iloc[0]
    assert row["gain"] == pytest.approx(row["present_words"] - row["all_words"])
    assert np.isnan([row["gain_low"], row["gain_high"]]).all(), "too few images for an interval"
    assert "own label map" in found.present_words["sclip"].notes[0]


def test_the_oracle_changes_nothing_where_all_words_are_present(tiny_backbone, small_dataset):
    segmenter = Segmenter(tiny_backbone, Recipe.named("naclip").but(windows=WINDOWS))
    plain = predict(segmenter, small_dataset)[0]
    oracle = predict(segmenter, small_dataset, present_only=True)[0]
    complete = [i for i, _, label in plain.pairs() if set(range(4)) <= set(np.unique(label))]
    assert complete
    assert all(np.array_equal(plain.mask(i), oracle.mask(i)) for i in complete)


def test_oracle_refuses_two_recipes_of_one_name(tiny_backbone, small_dataset):
    segmenter = Segmenter(tiny_backbone, Recipe.named("sclip").but(windows=WINDOWS))
    with pytest.raises(DataError, match="one name"):
        analysis.oracle_words([segmenter, segmenter], small_dataset)
