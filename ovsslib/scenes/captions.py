"""Captions: sentences about what a label map, or a crop of it, shows.

Only three frames of sentence are used around the noun phrases ("a photo of a {}.", "a picture of
{}" and the bare phrase); :mod:`ovsslib.scenes.wordings` has the others.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ovsslib.scenes.canvas import choose
from ovsslib.scenes.classes import CLASSES, COLOURS, SPOKEN, STUFF, SYNONYMS, THINGS
from ovsslib.scenes.drawing import SceneObject

COUNTS = {2: "two", 3: "three", 4: "four", 5: "five"}
_PLURALS = {"person": "people", "man": "men", "woman": "women", "bus": "buses", "bench": "benches"}
_THING_SHARE, _STUFF_SHARE = 0.004, 0.05
_STEP = 2
Words = Mapping[str, tuple[str, ...]]
_NO_ARTICLE = ("sky", "grass", "sea", "sand", "snow", "dirt", "mountain", "bush")

#: How a thing relates to the stuff around it; {} is the stuff's word.
_RELATIONS = {
    "sky": ("under the {}", "with {} above", "against the {}"),
    "grass": ("on the {}", "on {}", "in the {}"),
    "sea": ("by the {}", "in the {}", "on the {}", "at the {}"),
    "sand": ("on the {}", "on {}"),
    "road": ("on the {}", "on a {}", "by a {}"),
    "snow": ("in the {}", "on {}", "on the {}"),
    "dirt": ("on the {}", "on {}"),
    "mountain": ("in front of a {}", "near a {}"),
    "bush": ("by a {}", "in front of a {}", "near a {}"),
}
_WALL_RELATIONS = ("in front of a {}", "by a {}", "near a {}", "against a {}")
_FLOOR_RELATIONS = ("on a {}", "on the {}")


def with_article(phrase: str) -> str:
    """A noun phrase with "a" or "an" before it."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def plural_of(word: str) -> str:
    """The plural of a word that captions use."""
    return _PLURALS.get(word, word + "s")


def _word(rng: np.random.Generator, name: str, words: Words) -> str:
    return choose(rng, words.get(name, (SPOKEN[name],)))


def _relation(rng: np.random.Generator, name: str, words: Words) -> str:
    if name.startswith("wall"):
        pattern = choose(rng, _WALL_RELATIONS)
    elif name.startswith("floor"):
        pattern = choose(rng, _FLOOR_RELATIONS)
    else:
        pattern = choose(rng, _RELATIONS[name])
    word = _word(rng, name, words)
    if word.endswith("s") and word != "grass":  # mountains, bushes
        pattern = pattern.replace(" a {}", " {}")
    elif word == "earth":
        pattern = pattern.replace("on {}", "on the {}")
    return pattern.format(word)


def _stuff_phrase(rng: np.random.Generator, name: str, words: Words) -> str:
    word = _word(rng, name, words)
    if name in _NO_ARTICLE:
        plural = word in ("mountains", "bushes")
        return with_article(word) if name in ("mountain", "bush") and not plural else word
    return with_article(word)


def _side(x: float, y: float) -> str:
    """Where a centre lies, in words, or "" if near the middle; x and y from 0 to 1."""
    if x < 0.3:
        return "on the left"
    if x > 0.7:
        return "on the right"
    if y < 0.27:
        return "at the top"
    return "at the bottom" if y > 0.8 else ""


def _thing_phrase(
    rng, name: str, members: list[tuple[SceneObject, float, float, float]], words: Words
) -> str:
    """Noun phrase for all visible things of a class; members: (object, share, x, y)."""
    word = _word(rng, name, words)
    if len(members) > 1:
        colours = {member[0].colour for member in members}
        colour = colours.pop() if len(colours) == 1 and rng.random() < 0.5 else None
        number = len(members)
        count = "several" if number > 5 or (number > 2 and rng.random() < 0.3) else COUNTS[number]
        if name == "person":
            return f"{count} {plural_of(word)}" + (f" in {colour}" if colour else "")
        return f"{count} {colour + ' ' if colour else ''}{plural_of(word)}"
    thing, share, x, y = members[0]
    look = rng.random()
    if look < 0.32 and thing.colour in COLOURS:
        phrase = (
            f"{with_article(word)} in {thing.colour}"
            if name == "person"
            else with_article(f"{thing.colour} {word}")
        )
    elif look < 0.4 and share > 0.25:
        phrase = with_article(f"big {word}")
    elif look < 0.4 and share < 0.02:
        phrase = with_article(f"little {word}")
    else:
        phrase = with_article(word)
    side = _side(x, y)
    return f"{phrase} {side}" if side and rng.random() < 0.15 else phrase


def visible(labels: np.ndarray, instances: np.ndarray, objects: Sequence[SceneObject]):
    """Visible things by class, and stuff classes by share, of a thinned label map."""
    labels = labels[::_STEP, ::_STEP]
    instances = instances[::_STEP, ::_STEP]
    total = labels.size
    counts = np.bincount(labels.ravel(), minlength=len(CLASSES))
    stuff = [
        name for name, count in zip(STUFF, counts, strict=False) if count >= _STUFF_SHARE * total
    ]
    areas = np.bincount(instances.ravel(), minlength=1)
    things: dict[str, list] = {}
    for thing in objects:
        pixels = areas[thing.instance] if thing.instance < len(areas) else 0
        # A thing is named if it covers enough of the crop and more than a sliver of it is in view.
        if pixels >= _THING_SHARE * total and pixels * _STEP**2 >= 0.12 * thing.pixels:
            mask = instances == thing.instance
            x = float(mask.any(0).nonzero()[0].mean()) / labels.shape[1]
            y = float(mask.any(1).nonzero()[0].mean()) / labels.shape[0]
            things.setdefault(thing.name, []).append((thing, pixels / total, x, y))
    return things, stuff


def joined(parts: Sequence[str]) -> str:
    """Phrases as a list in a sentence: "a", "a and b", "a, b and c"."""
    if len(parts) == 1:
        return parts[0]
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def caption(
    rng: np.random.Generator,
    labels: np.ndarray,
    instances: np.ndarray,
    objects: Sequence[SceneObject],
    words: Words = SYNONYMS,
    frame: bool = True,
) -> str:
    """A caption of what can be seen in (a crop of) a label map.

    labels: (h,w) uint8 index into CLASSES; instances: (h,w) of the same crop; objects: the scene's
    things (others than those in the crop do no harm). Things under 0.4% of the crop and stuff under
    5% are not mentioned; now and then something visible is left out, as people do. words: what is said
    for a class, repeats are likelier. frame: whether a sentence may stand around it.
    """
    things, stuff = visible(labels, instances, objects)
    names = [name for name in THINGS if name in things]
    names = [names[i] for i in rng.permutation(len(names))]
    if len(names) > 1:
        kept = [name for name in names if rng.random() > 0.08]
        names = kept or names[:1]
    stuff = [stuff[i] for i in rng.permutation(len(stuff))]
    if names or len(stuff) > 1:
        stuff = [name for name in stuff if rng.random() < 0.85] or ([] if names else stuff[:1])
    phrases = [_thing_phrase(rng, name, things[name], words) for name in names]
    if not phrases:
        text = (
            joined([_stuff_phrase(rng, name, words) for name in stuff])
            if stuff
            else "an empty scene"
        )
    else:
        text = joined(phrases)
        if stuff:
            text += " " + _relation(rng, stuff[0], words)
        if len(stuff) > 1:
            link = choose(rng, (" with ", " and "))
            text += link + joined([_stuff_phrase(rng, name, words) for name in stuff[1:]])
    if not frame:
        return text
    chance = rng.random()
    if chance < 0.45:
        return f"a photo of {text}."
    if chance < 0.65:
        return f"a picture of {text}"
    return text
