"""How people write the name of a class: in one plain word, in the plural."""

from ovsslib.text.vocabulary import Vocabulary

_IRREGULAR = {
    "person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice", "foot": "feet",
    "goose": "geese", "tooth": "teeth", "knife": "knives", "leaf": "leaves", "shelf": "shelves", "wolf": "wolves",
    "sheep": "sheep", "fish": "fish", "deer": "deer", "aircraft": "aircraft", "people": "people", "skis": "skis",
    "scissors": "scissors", "stairs": "stairs", "trousers": "trousers", "clothes": "clothes",
}  # fmt: skip
_SAYS_NOTHING = ("plain", "other")
"""First words of a material's name that name no material: "plain wall"."""


def plain_words(vocabulary: Vocabulary) -> list[str]:
    """One plain word for every class but the background, in label order, as a user would type it in a hurry.

    Of a name with several words it is the last one ("dining table": "table"), of a material the first ("brick wall":
    "brick"), unless that names none ("plain wall": "wall"). Classes that would share a word keep their names.
    """
    foreground = [index for index in range(len(vocabulary)) if index != vocabulary.background]
    found = [_plain_word(vocabulary.names[i], vocabulary.kinds[i]) for i in foreground]
    return [
        word if found.count(word) == 1 else vocabulary.names[i]
        for i, word in zip(foreground, found, strict=True)
    ]


def _plain_word(name: str, kind: str) -> str:
    parts = name.replace("-", " ").split()
    first = kind == "material" and parts[0] not in _SAYS_NOTHING
    return parts[0] if first else parts[-1]


def plural(word: str) -> str:
    """The plural of an English noun, by rule; of several words the last one's ("traffic light": "traffic lights")."""
    *before, last = word.split(" ")
    return " ".join([*before, _plural(last)])


def _plural(noun: str) -> str:
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"
