"""Captions in other words: prompt templates, group names, definitions, synonyms, materials, parts of people.

The plain captions (:mod:`ovsslib.scenes.captions`) use 121 tokens and three frames of sentence. Whoever asks the model with
other words asks it something it never read. These captions say the same about a crop in the words that the book tests: the
templates of `data/prompts`, the groups of the vocabulary, the definitions and synonyms of `data/auxiliary`. Templates with
one of :data:`HELD_OUT` stay out of training, so that an ablation of prompts has templates that were never read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import numpy as np

from ovsslib.errors import DataError
from ovsslib.scenes.canvas import choose
from ovsslib.scenes.captions import COUNTS, caption, joined, plural_of, visible, with_article
from ovsslib.scenes.classes import CLASSES, PARTS, SPOKEN, STUFF, SYNONYMS
from ovsslib.scenes.drawing import SceneObject
from ovsslib.scenes.looks import LOOKS, look_of
from ovsslib.text.auxiliary import auxiliary_texts
from ovsslib.text.prompts import PROMPTS
from ovsslib.text.vocabulary import Vocabulary

#: Templates that hold one of these words are never trained on.
HELD_OUT = ("tattoo", "origami", "plushie", "embroidered", "toy")

#: From which share of the crop a thing is "large" or "in close-up", below which it is "small".
LARGE, SMALL = 0.22, 0.03

_MATERIALS = {
    "wall-brick": "brick", "wall-stone": "stone", "wall-plain": "plain",
    "floor-wood": "wood", "floor-tile": "tile",
}  # fmt: skip
_MATERIAL_FRAMES = ("a {} surface", "{} texture", "a {} surface.", "{} texture.")
_SIZES = {
    "large": ("large", "big", "close-up", "closeup"),
    "small": ("small",),
    "medium": ("medium",),
    "many": ("many",),
}


@cache
def training_templates() -> dict[str | None, tuple[str, ...]]:
    """Templates of all shipped prompt strategies without :data:`HELD_OUT`, by the look they name (None: any picture)."""
    by_look: dict[str | None, list[str]] = {}
    for name in sorted(PROMPTS):
        strategy = PROMPTS[name]
        for template in (*strategy.thing, *strategy.stuff):
            held_out = any(word in template.lower() for word in HELD_OUT)
            group = by_look.setdefault(look_of(template), [])
            if not held_out and template not in group and template.strip(" .") != "{}":
                group.append(template)
    return {look: tuple(templates) for look, templates in by_look.items() if templates}


@cache
def _class_words() -> dict[str, tuple[str, str, str]]:
    """Class name -> (group, definition, synonym), as the vocabulary and the auxiliary texts of Scenes have them."""
    vocabulary = Vocabulary.named("scenes")
    definitions = auxiliary_texts(vocabulary, "definitions")
    synonyms = auxiliary_texts(vocabulary, "synonyms")
    rows = zip(vocabulary.canonical, vocabulary.groups, definitions, synonyms, strict=True)
    words_of = {}
    for name, group, text, word in rows:
        assert text is not None and word is not None  # Scenes has no background class
        words_of[name] = (group or name, text, word)
    return words_of


def choose_look(rng: np.random.Generator) -> str | None:
    """A look for a crop: none for six in ten."""
    return None if rng.random() < 0.6 else choose(rng, tuple(LOOKS))


def _main(rng: np.random.Generator, labels: np.ndarray, things: dict) -> tuple[str, float, int]:
    """What a short caption is about: (class, its share of the crop, how many of them)."""
    shares = np.bincount(labels.ravel(), minlength=len(CLASSES))[: len(CLASSES)] / labels.size
    stuff = shares[: len(STUFF)]
    widest = int(stuff.argmax())
    if not things and not stuff.any():  # a sliver of a thing fills the crop
        widest = int(shares.argmax())
        return CLASSES[widest], float(shares[widest]), 1
    if not things or (stuff[widest] > 0.3 and rng.random() < 0.3):
        return STUFF[widest], float(stuff[widest]), 1
    sizes = {name: sum(member[1] for member in members) for name, members in things.items()}
    name = max(sizes, key=sizes.__getitem__)
    return name, float(sizes[name]), len(things[name])


def _fits(template: str, share: float, number: int, thing: bool) -> bool:
    """Whether what a template says of size and number is true."""
    text = template.lower()
    truth = {
        "large": thing and share > LARGE,
        "small": thing and share < SMALL,
        "medium": thing and SMALL <= share <= LARGE,
        "many": thing and number >= 3,
    }
    if any(word in text for size, words in _SIZES.items() if not truth[size] for word in words):
        return False
    return number < 3 or "one {}" not in text


def _filled(template: str, word: str, number: int) -> str:
    """A template with a noun in its gap, in the plural where there are several."""
    if number > 1 and "many" in template:
        return template.replace("{}", plural_of(word))
    return template.replace("{}", word)


def _gap(text: str) -> str:
    """A caption as it fits into a template's gap: without its first article."""
    return re.sub(r"^(a|an|the) ", "", text)


def _parts(labels: np.ndarray, parts: np.ndarray | None) -> list[str]:
    if parts is None:
        return []
    counts = np.bincount(parts.ravel(), minlength=len(PARTS))
    return [PARTS[i] for i in range(1, len(PARTS)) if counts[i] > 0.004 * labels.size]


def wording(
    rng: np.random.Generator,
    labels: np.ndarray,
    instances: np.ndarray,
    objects: Sequence[SceneObject],
    parts: np.ndarray | None = None,
    look: str | None = None,
) -> str:
    """A caption of (a crop of) a picture in other words than the plain ones.

    Args:
        labels, instances, objects: as those of :func:`~ovsslib.scenes.captions.caption`.
        parts: (h, w) uint8 index into PARTS, or None.
        look: the look of the crop; half of the captions then say so.

    Raises DataError for a crop without a pixel of a class, or an unknown look.
    """
    if not (labels < len(CLASSES)).any():
        raise DataError(f"a crop of {labels.shape} pixels without one of a class: nothing to say")
    if look is not None and look not in LOOKS:
        raise DataError(f"unknown look {look!r}; there are {', '.join(LOOKS)}")
    things, _ = visible(labels, instances, objects)
    name, share, number = _main(rng, labels, things)
    group, definition, synonym = _class_words()[name]
    thing = name not in STUFF
    templates = training_templates()
    say = look if look is not None and rng.random() < 0.5 else None
    fitting = [t for t in templates[say] if _fits(t, share, number, thing)]
    template = choose(rng, fitting) if fitting else "a photo of a {}."
    noun = choose(rng, SYNONYMS.get(name, (SPOKEN[name],)))
    kind = rng.random()
    if say is None and name in _MATERIALS and kind < 0.4:
        return choose(rng, _MATERIAL_FRAMES).replace(
            "{}", choose(rng, (noun, _MATERIALS[name], SPOKEN[name]))
        )
    if say is None and name == "person" and kind < 0.1 and (body_parts := _parts(labels, parts)):
        return f"{joined(body_parts)} of {with_article(noun)}"
    if kind < 0.30:  # a noun alone, as a classifier is asked
        return _filled(template, noun, number)
    if kind < 0.45:
        return _filled(template, group, number)
    if kind < 0.57:
        return choose(rng, (template, "a photo of a {}.", "{}")).replace("{}", definition)
    if kind < 0.67:
        return _filled(template, synonym, number)
    words = SYNONYMS
    if rng.random() < 0.3:
        words = {**SYNONYMS, name: (group,)}
    text = caption(rng, labels, instances, objects, words, frame=False)
    if text.split(" ", 1)[0] in (*COUNTS.values(), "several"):
        template = re.sub(r"\b(a|an|one|the|many) (\w+ )?\{\}", "{}", template)
    return template.replace("{}", _gap(text))
