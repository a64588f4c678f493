"""What makes two computations the same: the one builder of keys for results, label maps and text features.

A key says what was asked for: the recipe, the model, the data, the words, and the *version* of the code that
computes. Versions are declared, not derived from the source, so that code may be moved, renamed, typed and
made faster without losing what was measured: each stage's settings class has one (`version`), and the rest of
the flow has `CORE_VERSION`. Whoever changes what a number is raises the version; `tests/test_golden.py`
measures shipped records anew and says which one was forgotten.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ovsslib.recipe import Recipe

CORE_VERSION = 1
"""Version of what no stage does (trunk, last block, windows' stitching, text features, metrics). Raise it when
their numbers change; every record is then measured again."""


def key_of(parts: Mapping[str, Any]) -> str:
    """Hash of plain values (JSON), 24 hexadecimal digits; the order of the entries does not matter."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def version_of(settings: Any) -> int:
    """The declared version of a stage's settings (an object or its class); 1 if it declares none."""
    owner = settings if isinstance(settings, type) else type(settings)
    return int(getattr(owner, "version", 1))


def defaults_of(settings: type) -> dict[str, Any]:
    """Default of each field of a settings class that has one, as plain values (JSON)."""
    fields = dataclasses.fields(settings)
    if all(_has_default(field) for field in fields):  # what the class itself makes of its defaults
        return plain(dataclasses.asdict(settings()))
    return {field.name: plain(_default(field)) for field in fields if _has_default(field)}


def _has_default(field: dataclasses.Field) -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def plain(value: Any) -> Any:
    """Tuples as lists, and mappings with names for keys: what JSON gives back."""
    return json.loads(json.dumps(value))


def recipe_parts(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """A recipe as a part of a key: version and settings of each active stage.

    Settings that equal their default are left out, so that a stage can get a new field without losing what was
    measured before. A changed default therefore needs a new version; `tests/test_identity.py` holds that.
    """
    parts = {}
    for name, settings in recipe.stages.items():
        values, defaults = plain(dataclasses.asdict(settings)), defaults_of(type(settings))
        changed = {
            field: value
            for field, value in values.items()
            if field not in defaults or json.dumps(value) != json.dumps(defaults[field])
        }
        parts[name] = {"version": version_of(settings), "settings": changed}
    return parts


def model_parts(backbone: Any) -> dict[str, Any]:
    """A backbone as a part of a key: its weights, what it computes besides them, its precision."""
    precision = getattr(backbone, "precision", None) or getattr(backbone, "dtype", "")
    parts = {
        "weights": str(backbone.weights_hash),
        "configuration": getattr(backbone, "configuration", {}),
        "precision": str(precision),
    }
    if _adds_in_float32(backbone):  # unlike "bf16" of earlier versions
        parts["sums"] = "fp32"
    return parts


def text_model_parts(backbone: Any) -> dict[str, Any]:
    """The same for text features: where only the image encoder's products are in half precision, those of fp32."""
    parts = model_parts(backbone)
    parts["precision"] = parts.pop("sums", parts["precision"])
    return parts


def _adds_in_float32(backbone: Any) -> bool:
    dtype = getattr(backbone, "dtype", None)
    return getattr(backbone, "stream_dtype", dtype) != dtype
