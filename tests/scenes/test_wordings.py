"""Captions in other words: they are true of the picture, they cover what the book asks, and held-out templates stay out."""

import numpy as np
import pytest

from ovsslib.errors import DataError
from ovsslib.scenes.classes import CLASS_INDEX
from ovsslib.scenes.crops import training_crops
from ovsslib.scenes.drawing import SceneObject
from ovsslib.scenes.looks import LOOKS, in_look, look_of
from ovsslib.scenes.training_data import training_loader
from ovsslib.scenes.wordings import HELD_OUT, training_templates, wording
from ovsslib.text.prompts import PROMPTS

SIDE = 128


def crop(share: float, number: int = 1) -> tuple:
    """`number` dogs, together `share` of a crop of grass."""
    labels = np.full((SIDE, SIDE), CLASS_INDEX["grass"], np.uint8)
    instances = np.zeros((SIDE, SIDE), np.uint16)
    rows = max(2, round(share * SIDE))
    objects = []
    for index in range(number):
        columns = slice(index * SIDE // number, (index + 1) * SIDE // number)
        labels[:rows, columns] = CLASS_INDEX["dog"]
        instances[:rows, columns] = index + 1
        objects.append(SceneObject("dog", "brown", index + 1, int((instances == index + 1).sum())))
    return labels, instances, objects


def told(share: float, number: int = 1, look: str | None = None, count: int = 600) -> list[str]:
    rng = np.random.default_rng(7)
    return [wording(rng, *crop(share, number), look=look) for _ in range(count)]


def test_templates_with_a_held_out_word_are_never_trained_on():
    trained = {template for group in training_templates().values() for template in group}
    assert not [t for t in trained if any(word in t.lower() for word in HELD_OUT)]
    left_out = set(PROMPTS["imagenet80"].thing) - trained
    assert len(left_out) == 10
    assert all(any(word in template for word in HELD_OUT) for template in left_out)
    assert not [t for text in told(0.4) for t in HELD_OUT if t in text]


@pytest.mark.parametrize(
    ("share", "number", "true", "false"),
    [
        (0.8, 1, "large", ("small", "medium", "many")),
        (0.01, 1, "small", ("large", "close-up", "medium", "many")),
        (0.1, 1, "medium", ("large", "small dog", "many")),
        (0.8, 4, "many", ("small dog", "one dog")),
    ],
)
def test_sizes_and_numbers_are_true(share, number, true, false):
    texts = told(share, number)
    assert any(true in text for text in texts)
    assert not [text for text in texts for word in false if word in text and "object" not in text]


def test_the_look_is_named_only_where_the_picture_has_it():
    plain, dark = told(0.3), told(0.3, look="dark")
    assert not [text for text in plain if look_of(text) not in (None, "art ", "plastic")]
    named = [text for text in dark if "dark" in text]
    assert len(named) > 0.25 * len(dark)
    assert not [text for text in dark if look_of(text) not in (None, "dark")]


def test_groups_definitions_synonyms_and_bare_nouns_are_said():
    texts = told(0.5)
    for said in ("animal", "hanging ears", "hound", "a photo of a dog.", "on the grass"):
        assert any(said in text for text in texts), said


def test_materials_and_parts_of_people_are_said():
    labels = np.full((SIDE, SIDE), CLASS_INDEX["wall-brick"], np.uint8)
    nothing = np.zeros((SIDE, SIDE), np.uint16)
    rng = np.random.default_rng(3)
    texts = [wording(rng, labels, nothing, []) for _ in range(200)]
    assert any(text.startswith("a brick surface") for text in texts)
    assert any("brick wall texture" in text for text in texts)
    person = np.full((SIDE, SIDE), CLASS_INDEX["person"], np.uint8)
    parts = np.full((SIDE, SIDE), 1, np.uint8)
    parts[SIDE // 2 :] = 4
    objects = [SceneObject("person", "red", 1, SIDE * SIDE)]
    texts = [wording(rng, person, nothing + 1, objects, parts) for _ in range(300)]
    assert any(text.startswith("head and legs of a ") for text in texts)
    assert not any("torso" in text for text in texts)


def test_a_crop_without_a_class_and_an_unknown_look_are_refused():
    nothing = np.zeros((SIDE, SIDE), np.uint16)
    unlabelled = np.full((SIDE, SIDE), 255, np.uint8)
    with pytest.raises(DataError, match="without one of a class"):
        wording(np.random.default_rng(1), unlabelled, nothing, [])
    with pytest.raises(DataError, match="'blury'"):
        wording(np.random.default_rng(1), *crop(0.4), look="blury")


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_changes_the_picture_and_keeps_its_form(look):
    image, _ = next(iter(training_crops(5, 0, 1, 64, 1)))
    changed = in_look(image, look, np.random.default_rng(1))
    assert changed.shape == image.shape and changed.dtype == np.uint8
    assert np.abs(changed.astype(int) - image).mean() > 1
    np.testing.assert_array_equal(changed, in_look(image, look, np.random.default_rng(1)))


def test_without_a_look_the_picture_stays():
    image, _ = next(iter(training_crops(5, 0, 1, 64, 1)))
    assert in_look(image, None, np.random.default_rng(1)) is image


def test_the_loader_gives_several_captions_of_every_crop():
    images, captions = next(iter(training_loader(5, 8, 32, 2, workers=0, wordings=3)))
    assert images.shape == (8, 32, 32, 3) and len(captions) == 24
    again, same = next(iter(training_loader(5, 8, 32, 2, workers=0, wordings=3)))
    assert same == captions and bool((again == images).all())
    plain = next(iter(training_loader(5, 8, 32, 2, workers=0)))[1]
    assert len(plain) == 8
