"""Seconds on this machine: of a segmentation, and of encoding a vocabulary with and without the cache.

CLIP encodes the words once per vocabulary, not once per picture: text features do not depend on the picture. How much
time fewer templates save per picture therefore depends on whether the features are kept.
"""

import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from ovsslib.clip.backbone import Backbone
from ovsslib.errors import DataError
from ovsslib.segmenter import Segmenter
from ovsslib.text.features import encode_prompts, encode_texts, tokenize
from ovsslib.text.prompts import TextSettings
from ovsslib.text.vocabulary import Vocabulary


def sentences_of(vocabulary: Vocabulary, settings: TextSettings) -> list[str]:
    """The different sentences that are encoded for a vocabulary, in order."""
    kinds = [vocabulary.kinds[index] for index in vocabulary.query_class]
    return settings.prompts_of(vocabulary.queries, kinds)


def prompt_counts(
    backbone: Backbone, vocabulary: Vocabulary, settings: Mapping[str, TextSettings]
) -> pd.DataFrame:
    """One row per entry of `settings`: words, sentences, sentences_per_word, tokens (to encode)."""
    rows = {}
    for name, entry in settings.items():
        sentences = sentences_of(vocabulary, entry)
        tokens = tokenize(backbone, sentences, entry.truncate)
        rows[name] = {
            "words": len(vocabulary.queries),
            "sentences": len(sentences),
            "sentences_per_word": len(sentences) / len(vocabulary.queries),
            "tokens": int((tokens.argmax(dim=-1) + 1).sum()),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def encoding_seconds(
    backbone: Backbone,
    vocabulary: Vocabulary,
    settings: Mapping[str, TextSettings],
    pictures: Sequence[int] = (1,),
    repeats: int = 3,
) -> pd.DataFrame:
    """Seconds of encoding on this machine, the best of `repeats` runs.

    Args:
        pictures: numbers of pictures that share one encoding.

    Returns:
        One row per entry of `settings`: encode (all sentences through the text tower), recall (the same features
        from the cache), and for each number of pictures N "per picture, N" = encode / N + recall.
    """
    rows = {}
    for name, entry in settings.items():
        sentences = sentences_of(vocabulary, entry)
        encode = _best(
            lambda s=sentences, o=entry: encode_prompts(backbone, s, o.truncate), repeats
        )
        kinds = [vocabulary.kinds[index] for index in vocabulary.query_class]

        def from_cache(text_settings=entry, kinds=kinds):
            return encode_texts(backbone, vocabulary.queries, text_settings, kinds)

        from_cache()
        row = {"encode": encode, "recall": _best(from_cache, repeats)}
        row |= {f"per picture, {n}": encode / n + row["recall"] for n in pictures}
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def seconds_per_image(
    segmenters: Mapping[str, Segmenter],
    images: Sequence[np.ndarray],
    vocabulary: Vocabulary,
    repeats: int = 2,
) -> pd.Series:
    """Seconds per picture by name, each recipe alone, from pixels to label map; the words are encoded before.

    Args:
        images: (H, W, 3) uint8 pictures. vocabulary: opened under each recipe's naming variant.
        repeats: runs of each; the best counts.
    """
    seconds = {}
    for name, segmenter in segmenters.items():
        text = segmenter.text(segmenter.recipe["text"].vocabulary(vocabulary))

        def work(segmenter=segmenter, text=text):
            for image in images:
                segmenter.segment(image, text)

        work()  # kernels and caches
        seconds[name] = _best(work, repeats) / len(images)
    return pd.Series(seconds, name="seconds")


def equal_labels(
    first: Segmenter, second: Segmenter, images: Iterable[np.ndarray], vocabulary: Vocabulary
) -> float:
    """Share of the pixels (0 to 1) that two segmenters label alike, such as one recipe in two precisions.

    Args:
        images: (H, W, 3) uint8 pictures. vocabulary: opened under each recipe's naming variant.

    Raises DataError for no pictures.
    """
    segmenters = (first, second)
    texts = [
        segmenter.text(segmenter.recipe["text"].vocabulary(vocabulary)) for segmenter in segmenters
    ]
    equal = pixels = 0
    for image in images:
        masks = [
            segmenter.segment(image, text).mask
            for segmenter, text in zip(segmenters, texts, strict=True)
        ]
        equal += int((masks[0] == masks[1]).sum())
        pixels += masks[0].size
    if not pixels:
        raise DataError("no pictures to compare the labels of; give at least one")
    return equal / pixels


def _best(work, repeats: int) -> float:
    seconds = []
    for _ in range(max(1, repeats)):
        started = time.perf_counter()
        result = work()
        if result is not None:
            result.cpu()  # waits for a GPU
        seconds.append(time.perf_counter() - started)
    return min(seconds)
