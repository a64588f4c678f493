"""Which key a stored record has today: what `ship_results.py`, `rekey_results.py` and the golden test ask.

A record says what was measured (model, data set, recipe, number of images); from that its key is built anew, with
the weights, images, words and code versions of this checkout.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from ovsslib import Segmenter, load_backbone, open_dataset
from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import EMBEDDED
from ovsslib.datasets.dataset import SegmentationDataset
from ovsslib.errors import DataError, ModelError, RecipeError
from ovsslib.evaluation.keys import data_fingerprint, key_of, parts_of
from ovsslib.evaluation.records import recipe_of
from ovsslib.study.references import REFERENCES, reference


@cache
def backbone_of(model: str) -> Backbone:
    """The embedded model of a record ("sceneclip/embedded"). Raises DataError for another model."""
    name, _, pretrained = model.partition("/")
    if name not in EMBEDDED or pretrained != "embedded":
        raise DataError(f"{model!r} is no embedded model, so its records are not shipped")
    return load_backbone(name)


@cache
def dataset_of(name: str, limit: int | None) -> tuple[SegmentationDataset, str]:
    """The shipped pictures of a record, and their fingerprint. Raises DataError for another data set."""
    dataset = open_dataset(name, limit=limit)
    return dataset, data_fingerprint(dataset)


def segmenter_of(content: Mapping[str, Any]) -> Any:
    """What a record was measured with: a segmenter, or a trained reference.

    Raises DataError, ModelError or RecipeError where there is none.
    """
    name = content["model"].partition("/")[0]
    if name in REFERENCES:
        return reference(name)
    return Segmenter(backbone_of(content["model"]), recipe_of(content))


def parts_today(content: Mapping[str, Any]) -> dict[str, Any]:
    """Key parts of a record in this checkout. Raises DataError or RecipeError where it cannot be measured here."""
    dataset, data = dataset_of(content["dataset"], content["limit"])
    parts = parts_of(segmenter_of(content), dataset, data)
    assert parts is not None  # embedded models and data sets have hashes
    return parts


def is_current(content: Mapping[str, Any]) -> bool:
    """Whether this checkout finds a record when it is asked for the same."""
    if content["skipped"]:
        return False
    try:
        return key_of(parts_today(content)) == content["key"]
    except (DataError, ModelError, RecipeError):
        return False
