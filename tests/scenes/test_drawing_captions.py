"""Captions say what is there and nothing else; the training stream yields pictures and captions."""

import re

import numpy as np
import pytest

from ovsslib.errors import DataError
from ovsslib.scenes import CLASSES, SPOKEN, SYNONYMS, caption, draw, training_crops
from ovsslib.scenes.drawing import SceneObject
from ovsslib.text.prompts import imagenet_templates

SEED = 7


def words_of(name):
    words = SYNONYMS.get(name, (SPOKEN[name],))
    plurals = {"person": "people", "man": "men", "woman": "women", "bench": "benches"}
    return {w for word in words for w in (word, plurals.get(word, word + "s"), word + "es")}


def named(text):
    """Classes that a caption names, as whole words."""
    text = re.sub(r"[.,]", "", text)
    return {n for n in CLASSES if any(re.search(rf"\b{w}\b", text) for w in words_of(n))}


@pytest.fixture(scope="module")
def stream():
    return list(training_crops(SEED, 0, 150, crop_size=32))


def test_captions_name_only_what_is_visible():
    rng = np.random.default_rng(0)
    for index in range(40):
        scene = draw(SEED, index)
        for top, left, side in ((0, 0, 224), (40, 60, 150), (10, 150, 90)):
            view = slice(top, top + side), slice(left, left + side)
            text = caption(rng, scene.labels[view], scene.instances[view], scene.objects)
            present = {CLASSES[k] for k in np.unique(scene.labels[view])}
            assert named(text) <= present, (text, present)


def test_caption_counts_and_colours():
    labels = np.full((64, 64), CLASSES.index("grass"), np.uint8)
    instances = np.zeros((64, 64), np.uint16)
    for number, column in ((1, 4), (2, 36)):
        labels[20:40, column : column + 20] = CLASSES.index("dog")
        instances[20:40, column : column + 20] = number
    dogs = [SceneObject("dog", "brown", number, 400) for number in (1, 2)]
    rng = np.random.default_rng(0)
    texts = [caption(rng, labels, instances, dogs) for _ in range(40)]
    assert all("two" in text and "dogs" in text for text in texts)
    assert any("two brown dogs" in text for text in texts)
    assert any("grass" in text for text in texts)
    single = [caption(rng, labels[:, :30], instances[:, :30], dogs) for _ in range(60)]
    assert all("dogs" not in text and "dog" in text for text in single)
    assert any("a brown dog" in text for text in single)


def test_a_person_has_clothes_of_a_colour():
    labels = np.full((40, 40), CLASSES.index("person"), np.uint8)
    instances = np.ones((40, 40), np.uint16)
    rng = np.random.default_rng(0)
    person = [SceneObject("person", "red", 1, 1600)]
    texts = [caption(rng, labels, instances, person) for _ in range(80)]
    assert any(re.search(r"a (person|man|woman) in red", text) for text in texts)
    assert any("woman" in text for text in texts) and any("person" in text for text in texts)


def test_slivers_are_not_named():
    labels = np.full((60, 60), CLASSES.index("sand"), np.uint8)
    instances = np.zeros((60, 60), np.uint16)
    labels[:4, :4], instances[:4, :4] = CLASSES.index("cat"), 1
    cat = [SceneObject("cat", "gray", 1, 5000)]
    rng = np.random.default_rng(0)
    assert not any("cat" in caption(rng, labels, instances, cat) for _ in range(20))


def test_most_templates_never_occur(stream):
    allowed = "a photo of a {}."
    others = [template for template in imagenet_templates() if template != allowed]
    assert len(others) == 79
    for template in others:
        pattern = re.compile(re.escape(template).replace(r"\{\}", "(.+)"))
        matching = [text for _, text in stream if pattern.fullmatch(text)]
        assert not matching, (template, matching[:1])
    assert sum(text.startswith("a photo of a ") for _, text in stream) > 50


def test_every_class_is_captioned(stream):
    counts = dict.fromkeys(CLASSES, 0)
    for _, text in stream:
        for name in named(text):
            counts[name] += 1
    assert min(counts.values()) >= 5, counts
    assert counts["person"] > 40


def test_stream_yields_pictures_and_captions_only(stream):
    assert len(stream) == 450
    for item in stream:
        assert len(item) == 2
        image, text = item
        assert image.shape == (32, 32, 3) and image.dtype == np.uint8
        assert isinstance(text, str) and text
        # A label map would have few grey levels, all below the number of classes.
    assert np.mean([image.max() for image, _ in stream]) > 4 * len(CLASSES)


def test_stream_depends_on_seed_and_index_alone(stream):
    later = list(training_crops(SEED, 10, 2, crop_size=32))
    for (image, text), (known, said) in zip(later, stream[30:36], strict=True):
        assert np.array_equal(image, known) and text == said
    odd = list(training_crops(SEED, 1, 3, crop_size=32, step=2))
    assert [text for _, text in odd[3:6]] == [text for _, text in stream[9:12]]


def test_stream_without_end_and_other_settings():
    endless = training_crops(SEED, 0, None, crop_size=48, crops_per_picture=2)
    pairs = [next(endless) for _ in range(5)]
    assert pairs[4][0].shape == (48, 48, 3)
    with pytest.raises(DataError, match="crop_size 4"):
        next(training_crops(SEED, 0, 1, crop_size=4))
    with pytest.raises(DataError, match="step 0"):
        next(training_crops(SEED, 0, 1, step=0))
