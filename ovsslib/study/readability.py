"""Which sentences an embedded model can read: a model that never read a word measures nothing when it is asked with it.

SceneCLIP's training captions hold a small part of English. A table that compares prompts, group names, definitions or
synonyms on Scenes says which of its rows hold tokens that the model lacks, or read too seldom to have learnt them.
"""

from collections.abc import Mapping, Sequence
from functools import cache

import pandas as pd

from ovsslib.clip.backbone import Backbone
from ovsslib.errors import DataError
from ovsslib.recipe import Recipe
from ovsslib.study.timing import sentences_of
from ovsslib.text.features import strange_tokens
from ovsslib.text.prompts import TextSettings
from ovsslib.text.vocabulary import Vocabulary

#: A token that the training read less often than this counts as unread.
LEAST_READ = 500

#: Share of a row's sentences with unread tokens above which the row is not testable.
MOST_UNREAD = 0.25

NOT_TESTABLE = "not testable here"

COLUMNS = ["sentences", "unread", "tokens", "testable"]


def unread_tokens(
    backbone: Backbone, sentences: Sequence[str], least: int = LEAST_READ, truncate: bool = False
) -> list[tuple[str, ...]]:
    """For every sentence its tokens, as text, that the model lacks or read fewer than `least` times in training.

    Models that read everything, or do not say what they read, have none. Others raise WordsError for a sentence that is
    too long, unless it is to be cut (`truncate`).
    """
    tokens = strange_tokens(backbone, sentences, least, truncate)
    return [tuple(dict.fromkeys(_text_of(i) for i in strange)) for strange in tokens]


@cache
def _tokenizer():
    from open_clip.tokenizer import SimpleTokenizer  # late: its table takes a moment

    return SimpleTokenizer()


def _text_of(token: int) -> str:
    return _tokenizer().decode([token]).strip()


def readability(
    backbone: Backbone,
    sentences: Mapping[str, Sequence[str] | Mapping[str, Sequence[str]]],
    least: int = LEAST_READ,
    truncate: bool = False,
) -> pd.DataFrame:
    """One row per entry: how many of its sentences the model can read.

    Args:
        sentences: name of a row -> the sentences that it is measured with (:func:`sentences_for`), or several sets of
            them, each with a part of its own in the method (:func:`sentences_of_recipe`).

    Returns:
        Columns sentences, unread (number of sentences with an unread token), tokens (these tokens, joined), testable
        (whether at most a quarter of the sentences of every set are unread). Raises DataError for a row without sentences.
    """
    by_row: dict[str, list[Sequence[str]]] = {}
    for name, texts in sentences.items():
        sets = list(texts.values()) if isinstance(texts, Mapping) else [texts]
        if not sets or any(isinstance(part, str) or not part for part in sets):
            raise DataError(f"the row {name!r} needs a list of sentences, not {texts!r}")
        by_row[name] = sets
    # Rows share most of their sentences: each is looked at once.
    every = list(dict.fromkeys(text for sets in by_row.values() for part in sets for text in part))
    missing = dict(zip(every, unread_tokens(backbone, every, least, truncate), strict=True))
    rows = {}
    for name, sets in by_row.items():
        unread = [sum(bool(missing[text]) for text in part) for part in sets]
        tokens = {token for part in sets for text in part for token in missing[text]}
        rows[name] = {
            "sentences": sum(map(len, sets)),
            "unread": sum(unread),
            "tokens": ", ".join(sorted(tokens)),
            "testable": all(
                count <= MOST_UNREAD * len(part) for count, part in zip(unread, sets, strict=True)
            ),
        }
    return pd.DataFrame.from_dict(rows, orient="index", columns=COLUMNS)


def sentences_for(vocabulary: Vocabulary, settings: TextSettings) -> list[str]:
    """The different sentences that a vocabulary is asked with under these settings, auxiliary texts included."""
    from ovsslib.text.auxiliary import auxiliary_texts  # late: seldom asked for

    named = settings.vocabulary(vocabulary)
    prompts = sentences_of(named, settings)
    if settings.auxiliary and settings.auxiliary_weight:
        texts = auxiliary_texts(named, settings.auxiliary, skip_missing=True)
        pairs = zip(texts, named.kinds, strict=True)
        auxiliary = (settings.prompts_for(text, kind) for text, kind in pairs if text)
        prompts += [sentence for group in auxiliary for sentence in group]
    return list(dict.fromkeys(prompts))


def sentences_of_recipe(vocabulary: Vocabulary, recipe: Recipe) -> dict[str, list[str]]:
    """All that a recipe asks a vocabulary with: "text", its own sentences, and those that its stages encode beside them.

    The latter are named after the stage's setting, such as "car.map_prompts". The same words may stand in several sets.
    """
    settings = recipe["text"]
    sets = {"text": sentences_for(vocabulary, settings)}
    named = settings.vocabulary(vocabulary)
    for name, stage in recipe.stages.items():
        if hasattr(stage, "sentences"):
            found = stage.sentences(named, settings)
            sets |= {f"{name}.{part}": list(texts) for part, texts in found.items() if texts}
    return sets


def marked(table: pd.DataFrame, readings: pd.DataFrame) -> pd.DataFrame:
    """A table of results with a column that says how much of each row's text the model can read.

    The column "text read" holds "all", "70 of 80 sentences", or :data:`NOT_TESTABLE`. Rows that `readings` does not name
    are left empty. Where the model reads everything the table comes back as it is. Raises DataError for two rows of one
    name in `readings`.
    """
    if readings.index.has_duplicates:
        raise DataError(f"rows of one name: {list(readings.index[readings.index.duplicated()])}")
    if not readings["unread"].any():
        return table
    words = {}
    for name, row in readings.iterrows():
        read = row["sentences"] - row["unread"]
        words[name] = "all" if not row["unread"] else f"{read} of {row['sentences']} sentences"
        if not row["testable"]:
            words[name] = NOT_TESTABLE
    return table.assign(**{"text read": [words.get(name, "") for name in table.index]})
