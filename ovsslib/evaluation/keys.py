"""The keys of evaluations and label maps: what was asked for, from a segmenter and a data set.

The parts that texts share with them (model, recipe, versions) are built in `ovsslib.identity`.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ovsslib.datasets.file_hashes import file_hashes
from ovsslib.errors import DataError
from ovsslib.identity import CORE_VERSION, key_of, model_parts, recipe_parts
from ovsslib.recipe import Recipe
from ovsslib.text.auxiliary import auxiliary_texts
from ovsslib.text.prompts import TextSettings
from ovsslib.text.vocabulary import Vocabulary

__all__ = [
    "data_fingerprint", "evaluation_parts", "key_of", "network_fingerprints", "parts_of",
    "words_fingerprint",
]  # fmt: skip


def parts_of(segmenter: Any, dataset: Any, data: str | None = None) -> dict[str, Any] | None:
    """Key parts of a segmenter on a data set; None where weights or data cannot be told from others.

    `data`: the data set's fingerprint, if it is known already. Raises DataError or ModelError for files that
    are missing.
    """
    recipe, backbone = segmenter.recipe, segmenter.backbone
    if not backbone.weights_hash:
        return None
    data = data if data is not None else data_fingerprint(dataset)
    if not data:
        return None
    settings = recipe["text"]
    return evaluation_parts(
        recipe,
        model_parts(backbone),
        data,
        len(dataset),
        words_fingerprint(settings, settings.vocabulary(dataset.vocabulary)),
        network_fingerprints(recipe, backbone) | _second_models(segmenter),
    )


def _second_models(segmenter: Any) -> dict[str, dict[str, str]]:
    """Hashes of the guide and of the mask proposer that the recipe asks for."""
    hashes: dict[str, dict[str, str]] = {}
    if getattr(segmenter, "guide", None) is not None:
        hashes["guide"] = {segmenter.guide.name: segmenter.guide.weights_hash}
    if segmenter.recipe.stages_with("proposer_name"):
        hashes["masks"] = segmenter.proposer_parts()
    return hashes


def evaluation_parts(
    recipe: Recipe,
    model: Mapping[str, Any],
    data: str,
    images: int,
    words: str = "",
    networks: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that decides the numbers of an evaluation, as plain values.

    Args:
        model: as :func:`ovsslib.identity.model_parts` gives it.
        data: fingerprint of the images and label maps that are used, `images` of them.
        words: as :func:`words_fingerprint` gives it.
        networks: further weights by stage, as :func:`network_fingerprints` gives them.
    """
    return {
        "core": CORE_VERSION,
        "recipe": recipe_parts(recipe),
        "model": dict(model),
        "data": data,
        "images": images,
        "words": words,
        "networks": dict(networks or {}),
    }


def words_fingerprint(settings: TextSettings, vocabulary: Vocabulary) -> str:
    """Hash (16 hexadecimal digits) of what is sent to the text tower: classes, groups, sentences, auxiliary texts."""
    sentences = [
        settings.prompts_for(query, vocabulary.kinds[index])
        for query, index in zip(vocabulary.queries, vocabulary.query_class, strict=True)
    ]
    extra = None
    if settings.auxiliary is not None and settings.auxiliary_weight > 0:
        extra = auxiliary_texts(vocabulary, settings.auxiliary, skip_missing=True)
    text = json.dumps([vocabulary.fingerprint, sentences, extra])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def network_fingerprints(recipe: Recipe, backbone: Any) -> dict[str, dict[str, str]]:
    """Hashes of the further networks (LoftUp, guides) that stages bring along: {stage: {network: hash}}.

    A stage that has some says so by a method `networks(backbone) -> dict[str, str]`. Raises ModelError if their
    weights are missing.
    """
    fingerprints = {}
    for name, settings in recipe.stages.items():
        networks = getattr(settings, "networks", None)
        hashes = networks(backbone) if networks is not None else {}
        if hashes:
            fingerprints[name] = {network: str(hashes[network]) for network in sorted(hashes)}
    return fingerprints


def data_fingerprint(dataset: Any, tolerant: bool = False) -> str | None:
    """Fingerprint of a data set; None for a sequence that has none.

    With `tolerant`, images or label maps that are missing or unreadable are part of the fingerprint instead of a
    DataError, so that an evaluation that skips them can be kept and resumed as well.
    """
    fingerprint = getattr(dataset, "fingerprint", None)
    if fingerprint is None:
        return None
    try:
        return fingerprint()
    except DataError:
        if not tolerant:
            raise
    masks = [next((p for p, _ in item.masks if p.is_file()), None) for item in dataset.items]
    hashes = file_hashes(
        [item.image for item in dataset.items] + [m for m in masks if m is not None]
    )
    digest = hashlib.sha256(f"{dataset.name}\n{dataset.classes}\n".encode())
    for item, mask in zip(dataset.items, masks, strict=True):
        image, label = hashes[item.image] or "missing", hashes[mask] if mask else "missing"
        digest.update(f"{item.name}\t{image}\t{label or 'missing'}\n".encode())
    return f"incomplete-{digest.hexdigest()[:16]}"
