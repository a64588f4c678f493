"""How people write the name of a class: in one plain word, in the plural, or by other words altogether."""

from collections.abc import Iterable

from ovsslib.errors import WordsError
from ovsslib.text.cleaning import clean_words, split_synonyms
from ovsslib.text.vocabulary import Vocabulary

OTHER = "other words"
"""Name of the class of queries that stand for no class of a data set; see :func:`asked_as`."""
ASKED = "asked"
"""Variant of a vocabulary whose classes are asked for by words of somebody's own."""

_IRREGULAR = {
    "person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice", "foot": "feet",
    "goose": "geese", "tooth": "teeth", "knife": "knives", "leaf": "leaves", "shelf": "shelves", "wolf": "wolves",
    "sheep": "sheep", "fish": "fish", "deer": "deer", "aircraft": "aircraft", "people": "people", "skis": "skis",
    "scissors": "scissors", "stairs": "stairs", "trousers": "trousers", "clothes": "clothes",
}  # fmt: skip
_SAYS_NOTHING = ("plain", "other")
"""First words of a material's name that name no material, as in "plain wall"."""


def plain_words(vocabulary: Vocabulary) -> list[str]:
    """One plain word for every class but the background, in label order, as a user would type it in a hurry.

    Of a name with several words it is the last one ("dining table": "table"), of a material the first ("brick wall":
    "brick"), unless that names none ("plain wall": "wall"). Classes that would share a word keep their names.
    """
    foreground = [index for index in range(len(vocabulary)) if index != vocabulary.background]
    words = [_plain_word(vocabulary.names[i], vocabulary.kinds[i]) for i in foreground]
    return [
        word if words.count(word) == 1 else vocabulary.names[i]
        for i, word in zip(foreground, words, strict=True)
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


def asked_as(vocabulary: Vocabulary, words: Iterable[str]) -> Vocabulary:
    """The same classes, asked for by other words; it is what a recipe's `text.words` does.

    Args:
        vocabulary: whose names, kinds and groups stay as they are.
        words: one text per class in label order, the background's too; several queries of a class are separated by
            commas. Texts behind the last class are queries of one more class, `OTHER`, that no label has.

    Raises WordsError for fewer words than classes, and for a word that two classes would share.
    """
    words, count = list(words), len(vocabulary)
    if len(words) < count:
        raise WordsError(
            f"text.words has {len(words)} texts for the {count} classes of {vocabulary.name!r}; give one per class, the "
            "background's too, in label order"
        )
    more = int(len(words) > count)
    names = (*vocabulary.names, *[OTHER] * more)
    texts = [*words[:count], *[", ".join(words[count:])] * more]
    queries = []
    for name, text in zip(names, texts, strict=True):
        queries.append(clean_words(split_synonyms(text), name))
        if not queries[-1]:
            raise WordsError(f"text.words: {text!r} for the class {name!r} holds no word")
    reworded = Vocabulary(
        names,
        tuple(queries),
        (*vocabulary.kinds, *["thing"] * more),
        (*vocabulary.groups, *[None] * more),
        (*vocabulary.canonical, *[OTHER] * more),
        vocabulary.background,
        vocabulary.name,
        vocabulary.title,
        vocabulary.source,
        ASKED,
    )
    for word, owners in reworded.shared_names().items():
        raise WordsError(
            f"text.words: {word!r} stands for {' and '.join(map(repr, owners))}; leave it out of one of them"
        )
    return reworded
