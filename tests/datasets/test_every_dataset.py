"""From files in the real layouts to numbers: every data set, with its own words, by a small random CLIP."""

import numpy as np
import pytest
from engine_cases import seeded_backbone, small_recipe
from fake_datasets import CLASSES, KINDS, build

from ovsslib import Recipe, Segmenter, evaluate, open_dataset


@pytest.fixture(scope="module")
def backbone():
    return seeded_backbone()


def confusion(masks, labels, classes):
    """Pairs (label, prediction) counted one by one, without the library's metrics."""
    counts = np.zeros((classes, classes), int)
    for mask, label in zip(masks, labels, strict=True):
        for predicted, true in zip(mask.ravel(), label.ravel(), strict=True):
            if true != 255:
                counts[true, predicted] += 1
    return counts


@pytest.mark.parametrize("kind", KINDS)
def test_files_to_numbers(kind, backbone, tmp_path):
    fake = build(kind, tmp_path, images=2)
    dataset = open_dataset(kind, fake.root)
    report = evaluate(Segmenter(backbone, small_recipe()), dataset, store=False, progress=False)
    assert report.images == 2 and len(report.names) == CLASSES[kind]
    segmenter = Segmenter(backbone, small_recipe())
    text = segmenter.text(segmenter.recipe["text"].vocabulary(dataset.vocabulary))
    masks = [segmenter.segment(image, text).mask for image, _, _ in dataset]
    counts = confusion(masks, [fake.labels[name] for name in fake.names], CLASSES[kind])
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    seen = union > 0
    assert report.miou == pytest.approx(100 * (counts.diagonal()[seen] / union[seen]).mean())
    assert report.pixel_accuracy == pytest.approx(100 * counts.trace() / counts.sum())


@pytest.mark.parametrize("kind", ["coco_stuff", "coco_object", "cityscapes"])
def test_raw_label_files_give_the_same_numbers(kind, backbone, tmp_path):
    reports = []
    for raw in (False, True):
        fake = build(kind, tmp_path / str(raw), images=2, raw=raw)
        dataset = open_dataset(kind, fake.root)
        segmenter = Segmenter(backbone, small_recipe())
        reports.append(evaluate(segmenter, dataset, store=False, progress=False))
    np.testing.assert_array_equal(reports[0].counts, reports[1].counts)


@pytest.mark.parametrize("name", ["voc21", "coco_stuff", "cityscapes"])
def test_recipes_take_the_settings_released_for_the_data_set(name, backbone, tmp_path):
    dataset = open_dataset(name, build(name, tmp_path, images=1).root)
    small = {"windows": {"short_side": 48, "crop": 32, "stride": 16}, "text.prompts": "single"}
    recipe = Recipe.named("sclip", dataset=name).but(small)
    report = evaluate(Segmenter(backbone, recipe), dataset, store=False, progress=False)
    assert report.recipe.dataset == name and not report.notes and 0 <= report.miou <= 100
