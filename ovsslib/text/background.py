"""Background words for the words that a person asks about, and what is wrong with those words.

With words of one's own everything else in a picture has to go somewhere. Good background words are near to the words
asked for (they take what would else be taken for them) and mean something else (or they take what was asked for).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib import paths
from ovsslib.errors import WordsError
from ovsslib.text.cleaning import word_key
from ovsslib.text.features import encode_texts, unknown_words
from ovsslib.text.prompts import TextSettings
from ovsslib.text.vocabulary import Vocabulary, background_words

if TYPE_CHECKING:
    import pandas as pd

COUNT = 52
"""How many background words are chosen, half of them stuff. SCLIP's fixed set has 26. Measured on 100 pictures of the split
dev of Scenes, 52 give 5 to 9 points more mIoU than 26 with 1 to 10 words asked for, and with 20 at least as many; 80 give little more."""
SAME = 0.7
"""Cosine of centred text features from which two words are taken to mean the same."""
CONFUSABLE = 0.45
"""Cosine of centred text features from which two words are reported as hard to tell apart."""
_ONE_PROMPT = TextSettings(prompts="single")


@cache
def general_words() -> dict[str, str]:
    """The shipped list of common nouns: {word: "stuff" or "things"}."""
    kinds: dict[str, str] = {}
    part = ""
    for line in paths.data("general_words.txt").read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if line.startswith("["):
            part = line.strip("[]")
        elif line and not line.startswith("#"):
            kinds |= {word.strip(): part for word in line.split(",") if word.strip()}
    return kinds


def choose_background(backbone: Any, words: Vocabulary, count: int = COUNT) -> tuple[str, ...]:
    """Background words for a vocabulary: words of the general list nearest to its queries in the model's text space.

    Half of them (rounded up) are stuff. Left out are words that the model does not know, that share a query's last
    word or are part of it ("dining table" for "table"), and those whose centred cosine with a query is SAME or more.
    Features are of one prompt, centred by the mean of the general list, because CLIP's text features all share a
    large common part. Deterministic: nearest first, ties by the list's order.

    Raises WordsError if no word is left.
    """
    parts = general_words()
    query_words = [query for query in words.queries if word_key(query) != "background"]
    unknown = set(unknown_words(backbone, list(parts)))
    free = [w for w in parts if w not in unknown and not any(same_word(w, q) for q in query_words)]
    if not free or not query_words:
        raise WordsError("no background words are left for these words; give your own list")
    rows, mean = _centred(backbone, free)
    queries = _rows(backbone, query_words, mean)
    nearest = (rows @ queries.T).amax(dim=1)
    order = torch.sort(nearest, descending=True, stable=True).indices.tolist()
    order = [i for i in order if nearest[i] < SAME]
    stuff = [i for i in order if parts[free[i]] == "stuff"][: (count + 1) // 2]
    things = [i for i in order if parts[free[i]] == "things"][: count - len(stuff)]
    chosen = [free[i] for i in order if i in {*stuff, *things}]
    if not chosen:
        raise WordsError(
            "every word of the general list means the same as one of yours; give your own list"
        )
    return tuple(chosen)


@dataclass(frozen=True)
class Audit:
    """What is wrong with a list of words.

    Attributes:
        unknown: words that the model was never trained on (only the embedded models know).
        pairs: data frame of confusable pairs, worst first: word, other, cosine (of the text features), centred (of
            the same without their common part), same (whether they are taken to mean the same), suggestion (a word
            of the general list near to `other` and farther from `word`, or "").
        words: all words that were looked at.
    """

    words: tuple[str, ...]
    unknown: tuple[str, ...]
    pairs: "pd.DataFrame"

    @property
    def fine(self) -> bool:
        """Whether there is nothing to report."""
        return not self.unknown and self.pairs.empty


def audit_words(backbone: Any, words: Any, background: Sequence[str] | str | None = None) -> Audit:
    """Unknown words, pairs that the model confuses or takes for the same, and what to write instead.

    Args:
        words: list, mapping or Vocabulary; queries of one class are not compared with each other.
        background: as for :meth:`Vocabulary.from_words`; "auto" is chosen for the words.

    Raises WordsError for words that cannot be used.
    """
    import pandas as pd  # late: only tables need it

    vocabulary = with_background(backbone, Vocabulary.from_words(words), background)
    queries, owner = list(vocabulary.queries), list(vocabulary.query_class)
    unknown = tuple(unknown_words(backbone, queries))
    strange = set(unknown_words(backbone, list(general_words())))
    general = [word for word in general_words() if word not in strange]
    plain = encode_texts(backbone, queries, _ONE_PROMPT).cpu()
    rows, mean = _centred(backbone, general or queries)
    directions = F.normalize(plain - mean, dim=-1)
    cosine, centred = plain @ plain.T, directions @ directions.T
    close_pairs = []
    for i, word in enumerate(queries):
        for j in range(i + 1, len(queries)):
            both_background = vocabulary.background is not None and owner[i] == owner[j] == 0
            readable = word not in unknown and queries[j] not in unknown
            if owner[i] == owner[j] or both_background or not readable:
                continue
            same = bool(centred[i, j] >= SAME) or same_word(word, queries[j])
            if same or centred[i, j] >= CONFUSABLE:
                instead = _instead(general, rows, directions[i], directions[j], queries)
                close_pairs.append(
                    (word, queries[j], float(cosine[i, j]), float(centred[i, j]), same, instead)
                )
    columns = ["word", "other", "cosine", "centred", "same", "suggestion"]
    pairs = pd.DataFrame(close_pairs, columns=columns).sort_values(
        "centred", ascending=False, kind="stable", ignore_index=True
    )
    return Audit(tuple(queries), unknown, pairs)


def with_background(
    backbone: Any, vocabulary: Vocabulary, background: Sequence[str] | str | None
) -> Vocabulary:
    """The vocabulary with a background class; "auto" is chosen for its words by the model, None leaves it alone."""
    if background is None:
        return vocabulary
    automatic = isinstance(background, str) and background.strip().lower() == "auto"
    if automatic and vocabulary.background is None:
        background = choose_background(backbone, vocabulary)
    return vocabulary.with_background(background)


def usual_background() -> tuple[str, ...]:
    """The fixed background words of SCLIP, the set that most releases share."""
    return background_words("sclip")


def _centred(backbone: Any, words: list[str]) -> tuple[Tensor, Tensor]:
    """Unit rows (N, D) of words without the mean of the list, and that mean (D,)."""
    rows = encode_texts(backbone, words, _ONE_PROMPT).cpu()
    mean = rows.mean(dim=0)
    return F.normalize(rows - mean, dim=-1), mean


def _rows(backbone: Any, words: list[str], mean: Tensor) -> Tensor:
    return F.normalize(encode_texts(backbone, words, _ONE_PROMPT).cpu() - mean, dim=-1)


def _instead(
    general: list[str], rows: Tensor, word: Tensor, other: Tensor, query_words: Sequence[str]
) -> str:
    """A word of the general list that is near to `other` and below CONFUSABLE to `word`, or ""."""
    if not general:
        return ""
    near, far = rows @ other, rows @ word
    keys = {word_key(word_taken) for word_taken in query_words}
    for index in torch.sort(near, descending=True, stable=True).indices.tolist():
        if near[index] < CONFUSABLE:
            return ""
        if far[index] < CONFUSABLE and word_key(general[index]) not in keys:
            return general[index]
    return ""


def same_word(word: str, other: str) -> bool:
    """Whether two words have the same head ("table", "dining table", "tables") or one holds the other."""
    first, second = _stems(word), _stems(other)
    shorter, longer = sorted((first, second), key=len)
    return longer[-len(shorter) :] == shorter or "".join(first) == "".join(second)


def _stems(word: str) -> list[str]:
    """Its parts without plural endings."""
    stems = []
    for part in word_key(word).replace("-", " ").split():
        for ending, instead in (
            ("ies", "y"),
            ("sses", "ss"),
            ("shes", "sh"),
            ("ches", "ch"),
            ("xes", "x"),
        ):
            if part.endswith(ending) and len(part) > len(ending) + 1:
                part = part[: -len(ending)] + instead
                break
        else:
            if part.endswith("s") and not part.endswith(("ss", "us")) and len(part) > 3:
                part = part[:-1]
        stems.append(part)
    return stems
