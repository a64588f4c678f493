"""Which templates suit which word, found on unlabelled pictures: the table that the stage `experts` reads (FLOSS)."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ovsslib.errors import DataError, RecipeError
from ovsslib.images.pictures import Picture, read_picture
from ovsslib.segmenter import Segmenter
from ovsslib.segmenter.encoding import PictureInput, Words, encode_pictures
from ovsslib.segmenter.finishing import strips
from ovsslib.stages.experts import choose_templates, template_entropy
from ovsslib.text.features import encode_texts
from ovsslib.text.prompts import PROMPTS, TextSettings
from ovsslib.text.template_table import TemplateTable
from ovsslib.text.vocabulary import Vocabulary


def rank_templates(
    segmenter: Segmenter,
    pictures: Iterable[Picture],
    words: Any,
    *,
    templates: Sequence[str] | None = None,
    scale: float = 100.0,
    source: str = "",
) -> TemplateTable:
    """Rank prompt templates for every word by how sure they make the model where they predict it.

    For every template alone: cosines of the stitched windows, softmax over queries, maximum over each class's
    queries, argmax. E[t, c] is the mean entropy of the pixels that template t predicts as class c; the fewer nats, the
    better (Benigmim et al., ICCV 2025, equations 2 and 3). No label is read. Each picture is encoded once; its logits
    are made template by template and strip by strip, so that memory stays at a few (Q, strip).

    Args:
        segmenter: the base. Its stages behind the stitching are not used; one with `experts` is refused.
        pictures: paths, PIL images or (H, W, 3) uint8 arrays, of the kind that will be segmented.
        words: as for :meth:`Segmenter.__call__`, or a Vocabulary (give one that has its background).
        templates: each with "{}" where the word goes; None: the 80 of CLIP's authors.
        scale: factor of the cosines before the softmax.

    Raises:
        RecipeError, DataError, WordsError, ImageError: see their messages.
    """
    if any(hasattr(s, "group_features") for s in segmenter.recipe.stages.values()):
        raise RecipeError(
            f"recipe {segmenter.recipe.name!r} has a stage with text rows of its own; rank templates on the base "
            "without it"
        )
    vocabulary = Vocabulary.from_words(words)
    templates = tuple(templates or PROMPTS["imagenet80"].thing)
    TextSettings(templates=templates)  # refuses one without a place for the word
    query_class = torch.tensor(vocabulary.query_class)
    prompts = [
        template.replace("{}", word) for template in templates for word in vocabulary.queries
    ]
    plain = TextSettings(templates=("{}",), truncate=segmenter.recipe["text"].truncate)
    rows = encode_texts(segmenter.backbone, prompts, plain).unflatten(0, (len(templates), -1))
    sums, counts, number = _sums(segmenter, pictures, rows, query_class, scale)
    if not number:
        raise DataError("no pictures to rank templates on; give at least one")
    entropy = sums / counts.clamp_min(1)
    share = 100.0 * counts / counts.sum(dim=1, keepdim=True)
    backbone = segmenter.backbone
    return TemplateTable(
        names=vocabulary.names,
        queries=vocabulary.synonyms,
        templates=templates,
        chosen=tuple(tuple(ranked) for ranked in choose_templates(entropy, share, len(templates))),
        model=backbone.name,
        pretrained=backbone.pretrained or "",
        weights=(backbone.weights_hash,),
        base=segmenter.recipe.name,
        pictures=number,
        scale=scale,
        entropy=_rounded(entropy),
        share=_rounded(share),
        source=source,
    )


def _sums(
    segmenter: Segmenter,
    pictures: Iterable[Picture],
    rows: torch.Tensor,
    query_class: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Sums of entropies and numbers of pixels by template and predicted class (T, C), and the number of pictures."""
    classes, queries = int(query_class.max()) + 1, len(query_class)
    sums = torch.zeros(len(rows), classes, dtype=torch.double)
    counts = torch.zeros(len(rows), classes, dtype=torch.long)
    number = 0
    for picture in pictures:
        image = read_picture(picture)
        network_picture = PictureInput(segmenter.prepare(image), image)
        encoded = encode_pictures([segmenter], network_picture, [None])[0]
        for index, template_rows in enumerate(rows):
            words = Words(template_rows, queries, query_class).to(segmenter.backbone.device)
            with torch.no_grad():
                stitched = encoded.logits(words, tuple(image.shape[:2]))
            for part in strips(image.shape[0], queries * image.shape[1]):
                cosines = stitched.rows(part.start, part.stop).flatten(1)
                total, count = template_entropy(cosines, query_class, classes, scale)
                sums[index] += total.cpu()
                counts[index] += count.cpu()
        number += 1
    return sums, counts, number


def _rounded(values: torch.Tensor) -> tuple[tuple[float, ...], ...]:
    """Rows of numbers as a table keeps them: six digits say more than any use needs."""
    return tuple(tuple(round(value, 6) for value in row) for row in values.tolist())
