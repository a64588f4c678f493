"""From words to the labels of a closed vocabulary: by name, then by synonym."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ovsslib.text.prompts import spoken
from ovsslib.text.vocabulary import Vocabulary, available, word_key


def label_words(label: str) -> tuple[str, ...]:
    """The words of a label as data sets write them: "door, double door" has two, "wall-brick" is a brick wall.

    Endings such as "-merged" and "-other-merged" are dropped.
    """
    made = []
    for part in label.replace("_", " ").split(","):
        word = part.strip()
        while spoken(word) != word:
            word = spoken(word)
        if word:
            made.append(word_key(word.replace("-", " ")))
    return tuple(dict.fromkeys(made))


@lru_cache(maxsize=1)
def _synonym_sets() -> dict[str, frozenset[str]]:
    """Per word, the words of the shipped classes that it names."""
    sets: dict[str, set[str]] = {}
    for name in available():
        vocabulary = Vocabulary.named(name, names="synonyms")
        for index, words in enumerate(vocabulary.synonyms):
            if index == vocabulary.background:
                continue
            keys = {key for word in (*words, vocabulary.canonical[index]) for key in label_words(word)}
            for key in keys:
                sets.setdefault(key, set()).update(keys)
    return {key: frozenset(found) for key, found in sets.items()}


def synonyms_of(word: str) -> frozenset[str]:
    """Words that name the same class as a word in one of the shipped vocabularies, itself included."""
    key = word_key(word.replace("-", " "))
    return _synonym_sets().get(key, frozenset()) | {key}


@dataclass(frozen=True)
class LabelMap:
    """Which label stands for which class.

    Attributes:
        owner: per label the class that it stands for, or None.
        lacking: classes (by index) that no label stands for.
    """

    owner: tuple[int | None, ...]
    lacking: tuple[int, ...]


def map_labels(labels: Sequence[str], vocabulary: Vocabulary) -> LabelMap:
    """Labels of a model -> classes of a vocabulary; the background class takes what is left and is never lacking.

    A label goes to the first class with a query of its name; a label that is left, to the first class with a synonym
    of its name. One class may own several labels ("wall-brick" and "wall-stone" under "wall" do not: they are other
    words), one label has one owner.
    """
    named = [label_words(label) for label in labels]
    classes = [c for c in range(len(vocabulary)) if c != vocabulary.background]
    owner: list[int | None] = [None] * len(labels)
    for exact in (True, False):
        for index in classes:
            wanted: set[str] = set()
            for query in vocabulary.synonyms[index]:
                wanted |= {word_key(query.replace("-", " "))} if exact else synonyms_of(query)
            if not exact and index in owner:
                continue
            for place, words in enumerate(named):
                if owner[place] is None and wanted & set(words):
                    owner[place] = index
    return LabelMap(tuple(owner), tuple(c for c in classes if c not in owner))
