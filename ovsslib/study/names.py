"""What words cost: the same classes asked for by tuned names, plain words, plurals, synonyms, among words of nothing.

Published numbers come from name files that were tuned on the data set; people type plain words. Every row of the study
is a recipe with other `text.words`, so that its results are records like all others. A *distractor* is a word that is in
no picture. A pixel that goes to one is wrong whatever lies there: its own class, the background included, misses it, and
the distractors are no class of the mean. To count them for the background would make them background words, which help.
"""

import random
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ovsslib.clip.backbone import Backbone
from ovsslib.errors import DataError, WordsError
from ovsslib.evaluation import intervals
from ovsslib.evaluation.results import Results
from ovsslib.segmenter import Segmenter
from ovsslib.study.readability import unread_tokens
from ovsslib.text.auxiliary import auxiliary_texts
from ovsslib.text.background import choose_background, general_words, same_word
from ovsslib.text.background_sets import background_words
from ovsslib.text.cleaning import split_synonyms
from ovsslib.text.vocabulary import BACKGROUND, Vocabulary, available
from ovsslib.text.wording import plain_words, plural

METHODS = ("maskclip", "sclip", "clearclip", "naclip", "itaclip")
"""Methods of the study by default, as released."""
DISTRACTORS = (5, 20, 100)
"""Numbers of distractors of the study's rows."""
OFFSETS = (0.15, 0.04)
"""Background offsets of the study's rows, with the word "background" alone and with words chosen for the words. They are the best
for the mean of four methods with SceneCLIP on 100 pictures of the split dev of Scenes; another model needs others."""
TUNED, PLAIN, PLURALS, SYNONYMS = "tuned names", "plain names", "plurals", "synonyms"
CHOSEN, USUAL, SCALAR = "background chosen for the words", "usual background words", "offset"
_PICTURED = {"scenes-object": "scenes", "scenes-things": "scenes"}
# whose names are all that the pictures show, where it is not the data set's own vocabulary


@dataclass(frozen=True)
class Wording:
    """One row of the study.

    Attributes:
        title: as tables print it.
        changes: to a recipe: `text.words`, and the offset. Empty for the tuned names.
        words: all that is asked for, one text per class and further ones; empty for the tuned names.
    """

    title: str
    changes: Mapping[str, Any]
    words: tuple[str, ...] = ()

    @property
    def queries(self) -> list[str]:
        """All words that are asked for, background words one by one."""
        return [word.strip() for text in self.words for word in split_synonyms(text)]


def distractors(
    backbone: Backbone, vocabulary: Vocabulary, count: int, seed: int = 0
) -> tuple[str, ...]:
    """Words of the general list that name nothing in the pictures of a data set, in an order drawn from a seed.

    Left out are words that have a query's head in common with a class, its synonyms or the data set's background words.
    Words that the model has read come first, since only they can be confused with others for what they mean; a longer
    list begins with the shorter one. There may be fewer than `count`.

    Raises DataError for a count below 1.
    """
    if count < 1:
        raise DataError(f"{count} distractors: ask for 1 or more")
    shown = Vocabulary.named(_PICTURED.get(vocabulary.name, vocabulary.name), names="synonyms")
    texts = auxiliary_texts(shown, "synonyms", skip_missing=True)
    excluded = [*shown.queries, *plain_words(shown), *vocabulary.queries, *(t for t in texts if t)]
    free = sorted(w for w in general_words() if not any(same_word(w, entry) for entry in excluded))
    random.Random(seed).shuffle(free)
    unread = [bool(tokens) for tokens in unread_tokens(backbone, free)]
    ordered = [w for w, u in zip(free, unread, strict=True) if not u]
    ordered += [w for w, u in zip(free, unread, strict=True) if u]
    return tuple(ordered[:count])


def wordings(
    backbone: Backbone,
    vocabulary: Vocabulary,
    counts: Sequence[int] = DISTRACTORS,
    helped: int | None = 20,
    offsets: tuple[float, float] = OFFSETS,
    seed: int = 0,
) -> list[Wording]:
    """The rows of the study for a shipped vocabulary, tuned names first.

    Args:
        vocabulary: of a data set. With a background class, plain words have the word "background" for it; without one,
            background words are further words that stand for no class, and there is no row with an offset.
        counts: numbers of distractors added to the plain names, a row for each.
        helped: number of distractors of the rows with background words and offset; None: no such rows.
        offsets: of the background's cosines in the last two rows, without and with chosen background words.
        seed: of the distractors.

    Where no word is left for the background there is no row with words chosen for the words. Raises DataError for a
    vocabulary that is not shipped.
    """
    if vocabulary.name not in available():
        raise DataError(
            f"the vocabulary {vocabulary.name!r} is not shipped; there are {', '.join(available())}"
        )
    plain = plain_words(vocabulary)
    things = [k for i, k in enumerate(vocabulary.kinds) if i != vocabulary.background]
    plurals = [plural(w) if k == "thing" else w for w, k in zip(plain, things, strict=True)]
    texts = auxiliary_texts(vocabulary, "synonyms", skip_missing=True)
    substitutes = [t for i, t in enumerate(texts) if i != vocabulary.background]
    synonyms = [substitute or word for substitute, word in zip(substitutes, plain, strict=True)]
    rows = [Wording(TUNED, {})]
    rows += [
        _row(title, vocabulary, words)
        for title, words in ((PLAIN, plain), (PLURALS, plurals), (SYNONYMS, synonyms))
    ]
    for count in counts:
        more = distractors(backbone, vocabulary, count, seed)
        rows.append(_row(with_distractors(count), vocabulary, plain, more))
    if helped is not None:
        rows += _helped(backbone, vocabulary, plain, helped, offsets, seed)
    return rows


def with_distractors(count: int) -> str:
    """Title of the row of plain names with so many distractors."""
    return f"plain names, {count} distractors"


def helped_title(count: int, *helps: str) -> str:
    """Title of a row with distractors and what is done against them, some of CHOSEN, USUAL and SCALAR."""
    return " + ".join([with_distractors(count), *helps])


def _helped(backbone, vocabulary, plain, count, offsets, seed) -> list[Wording]:
    more = distractors(backbone, vocabulary, count, seed)
    query_words = Vocabulary.from_words([*plain, *more])
    queries = {word.lower() for word in query_words.queries}
    usual = [word for word in background_words("sclip") if word not in queries]
    rows = [_row(helped_title(count, USUAL), vocabulary, plain, more, usual)]
    try:
        chosen = choose_background(backbone, query_words)
    except WordsError:  # all that the model can read is asked for
        return rows
    rows.append(_row(helped_title(count, CHOSEN), vocabulary, plain, more, chosen))
    if vocabulary.background is not None:
        bare, with_chosen = offsets
        rows += [
            _row(helped_title(count, SCALAR), vocabulary, plain, more, (), bare),
            _row(helped_title(count, CHOSEN, SCALAR), vocabulary, plain, more, chosen, with_chosen),
        ]
    return rows


def _row(
    title: str,
    vocabulary: Vocabulary,
    words: Iterable[str],
    more: Iterable[str] = (),
    background: Sequence[str] = (),
    offset: float = 0.0,
) -> Wording:
    """A row: words of the classes but the background, distractors, background words (none: the word itself)."""
    texts, further = list(words), list(more)
    if vocabulary.background is not None:
        texts.insert(vocabulary.background, ", ".join(background or [BACKGROUND]))
    else:
        further += background
    all_words = (*texts, *further)
    changes = {"text.words": all_words} | ({"labels.background_offset": offset} if offset else {})
    return Wording(title, changes, all_words)


def grid(
    rows: Sequence[Wording], methods: Sequence[str] = METHODS
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Every method with every row, as :meth:`ovsslib.book.chapter.Chapter.measure` takes them."""
    return {
        f"{method}: {row.title}": (method, dict(row.changes)) for method in methods for row in rows
    }


@contextmanager
def unread_allowed() -> Iterator[None]:
    """Inside, words that the model never read are asked for without a warning: here they are the subject."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the model .* was never trained on")
        yield


def differences(
    results: Results,
    rows: Sequence[Wording],
    methods: Sequence[str] = METHODS,
    metric: str = "miou",
) -> pd.DataFrame:
    """Every row of every method against the tuned names, paired over the images.

    Args:
        results: of :func:`grid`; what is missing there is left out.

    Returns:
        Columns method, row, value, low, high (percent), difference, difference_low, difference_high (points; NaN for the
        tuned names) and verdict. Raises DataError for a method without its tuned names.
    """
    frames = []
    for method in methods:
        titles = [f"{method}: {row.title}" for row in rows]
        present = [title for title in titles if title in results.reports]
        if f"{method}: {TUNED}" not in present:
            raise DataError(f"there is no result of {method!r} with {TUNED}; measure it first")
        numbers = results.part(present).numbers(metric, baseline=f"{method}: {TUNED}")
        names = [name.partition(": ") for name in numbers.pop("recipe")]
        numbers.insert(0, "method", [name[0] for name in names])
        numbers.insert(1, "row", [name[2] for name in names])
        frames.append(numbers.drop(columns="metric"))
    return pd.concat(frames, ignore_index=True)


def mean_of_methods(
    results: Results,
    rows: Sequence[Wording],
    methods: Sequence[str] = METHODS,
    baseline: str = TUNED,
) -> pd.DataFrame:
    """The mean over the methods of each row's difference in mIoU to one of them; index: the other rows.

    Columns value, low, high (points, paired over the images for all methods at once; NaN ends: too few images), verdict.
    Rows that a method lacks are left out. Raises DataError where a method lacks the baseline.
    """
    titles = [r.title for r in rows if r.title != baseline]
    complete = [t for t in titles if all(f"{m}: {t}" in results.reports for m in methods)]
    scores, values = _scores(results, [baseline, *complete], methods)
    steps = np.eye(len(values)) - np.eye(len(values))[0]
    means = {
        title: _estimate(scores, steps[i], len(methods))
        for i, title in enumerate(complete, start=1)
    }
    return pd.DataFrame.from_dict(
        means, orient="index", columns=["value", "low", "high", "verdict"]
    )


def won_back(
    results: Results,
    lost: str,
    helped: str,
    methods: Sequence[str] = METHODS,
    share: float = 0.5,
) -> pd.DataFrame:
    """How much of what a row loses against the tuned names another row gives back.

    Args:
        lost, helped: titles of rows, such as `with_distractors(20)` and `helped_title(20, CHOSEN)`.
        share: of the loss that is asked for.

    Returns:
        One row per method and one for their mean: lost, won (points of mIoU), share (won over lost), beyond, low, high:
        won less `share` of the loss, in points, with its paired interval, and verdict: "better" where the interval lies
        above zero, so that at least that share is won back. Raises DataError for a row that a method lacks.
    """
    records = {}
    groups = [[method] for method in methods]
    for group in [*groups, list(methods)] if len(groups) > 1 else groups:
        scores, values = _scores(results, [TUNED, lost, helped], group)
        estimate = _estimate(scores, np.array([-share, share - 1, 1]), len(group))
        loss, gain = values[0] - values[1], values[2] - values[1]
        name = group[0] if len(group) == 1 else f"mean of {len(group)} methods"
        records[name] = (loss, gain, gain / loss if loss else np.nan, *estimate)
    columns = ["lost", "won", "share", "beyond", "low", "high", "verdict"]
    return pd.DataFrame.from_dict(records, orient="index", columns=columns)


def _scores(
    results: Results, titles: Sequence[str], methods: Sequence[str]
) -> tuple[intervals.LeftOut, np.ndarray]:
    """mIoU of each row with each method, whole and without each image, and each row's mean over methods in percent."""
    counts = [results[f"{method}: {title}"].counts for title in titles for method in methods]
    scores = intervals.left_out(counts)
    return scores, 100 * scores.values.reshape(len(titles), len(methods)).mean(axis=1)


def _estimate(
    scores: intervals.LeftOut, weights: np.ndarray, methods: int
) -> tuple[float, float, float, str]:
    """A sum of rows with weights, mean over the methods, in points, with its interval and what it shows."""
    contrast = intervals.contrast(scores, np.repeat(weights / methods, methods)).percent()
    value, low, high = (float(part) for part in (contrast.value, contrast.low, contrast.high))
    return value, low, high, str(intervals.verdict(contrast))


def order_matters(
    segmenter: Segmenter, pictures: Iterable[np.ndarray], words: Sequence[str], seed: int = 0
) -> float:
    """Share of the pixels (0 to 1) that get another word when the same words are asked for in another order.

    0 for a method whose rules know no order. Pictures (H, W, 3) uint8 RGB; the order is drawn from the seed. Raises
    DataError for no pictures.
    """
    mixed = list(words)
    random.Random(seed).shuffle(mixed)
    texts = segmenter.text(list(words)), segmenter.text(mixed)
    moved = pixels = 0
    for picture in pictures:
        answers = [segmenter.segment(picture, text) for text in texts]
        first, second = (np.asarray(a.names, dtype=object)[a.mask] for a in answers)
        moved += int((first != second).sum())
        pixels += first.size
    if not pixels:
        raise DataError("no pictures to ask about; give at least one")
    return moved / pixels
