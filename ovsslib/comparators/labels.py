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
    words = []
    for part in label.replace("_", " ").split(","):
        word = part.strip()
        while spoken(word) != word:
            word = spoken(word)
        if word:
            words.append(word_key(word.replace("-", " ")))
    return tuple(dict.fromkeys(words))


@lru_cache(maxsize=1)
def _synonym_sets() -> dict[str, frozenset[str]]:
    """Per word, the words of the shipped classes that it names."""
    sets: dict[str, set[str]] = {}
    for name in available():
        vocabulary = Vocabulary.named(name, names="synonyms")
        for index, words in enumerate(vocabulary.synonyms):
            if index == vocabulary.background:
                continue
            keys = {
                key for word in (*words, vocabulary.canonical[index]) for key in label_words(word)
            }
            for key in keys:
                sets.setdefault(key, set()).update(keys)
    return {key: frozenset(keys_of_word) for key, keys_of_word in sets.items()}


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

    A label goes to the first class with a query of its name; a label that is left, to the first class that has none
    yet and a synonym of its name; then to the first such class that shares a synonym with it ("tv" and "tv monitor"
    are both televisions). A class may own several labels of its name, a label has one owner.
    """
    named = [frozenset(label_words(label)) for label in labels]
    wider = [frozenset().union(*map(synonyms_of, words)) for words in named]
    classes = [c for c in range(len(vocabulary)) if c != vocabulary.background]
    queries = {c: {word_key(q.replace("-", " ")) for q in vocabulary.synonyms[c]} for c in classes}
    known = {c: frozenset().union(*map(synonyms_of, queries[c])) for c in classes}
    owner: list[int | None] = [None] * len(labels)
    for wanted, offered in ((queries, named), (known, named), (known, wider)):
        open_ones = [c for c in classes if wanted is queries or c not in owner]
        for index in open_ones:
            for place, words in enumerate(offered):
                if owner[place] is None and wanted[index] & words:
                    owner[place] = index
    return LabelMap(tuple(owner), tuple(c for c in classes if c not in owner))
