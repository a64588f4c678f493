"""What makes two evaluations the same: recipe, weights, precision, data, words, and the code that computes.

The code's part is a hash over the syntax trees of the modules that compute, so that comments, docstrings and
layout may change freely. The trees are written out by hand, since `ast.dump` differs between Python versions.
"""

import ast
import hashlib
import inspect
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import check_file
from ovsslib.errors import DataError
from ovsslib.recipe import Recipe
from ovsslib.stages.upsampling import Upsampling, find_weights
from ovsslib.text.auxiliary import auxiliary_texts
from ovsslib.text.prompts import TextSettings
from ovsslib.text.vocabulary import Vocabulary

_ALWAYS = (
    "clip/backbone.py", "clip/geometry.py", "segmenter.py", "images/pictures.py", "text/prompts.py", "text/features.py",
    "text/vocabulary.py", "text/cleaning.py", "text/auxiliary.py",
    "evaluation/metrics.py", "stages/attention.py", "stages/windows.py", "stages/labels.py",
)  # fmt: skip
# Fields of syntax nodes that newer versions of Python add, or that hold no meaning.
_SILENT_FIELDS = {"type_params", "type_comment", "kind", "ctx"}


def evaluation_parts(
    recipe: Recipe,
    weights: str,
    precision: str,
    data: str,
    images: int,
    words: str = "",
    networks: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Everything that decides the numbers of an evaluation, as plain values.

    Args:
        weights, precision: of the backbone.
        data: fingerprint of the images and label maps that are used, `images` of them.
        words: as :func:`words_fingerprint` gives it.
        networks: further weights by stage, as :func:`network_fingerprints` gives them.
    """
    return {
        "recipe": recipe.key(),
        "weights": weights,
        "precision": precision,
        "data": data,
        "images": images,
        "words": words,
        "networks": dict(networks or {}),
        "code": code_hash(recipe),
    }


def key_of(parts: dict[str, Any]) -> str:
    """Hash of the parts, 24 hexadecimal digits: the name of the record."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def code_hash(recipe: Recipe) -> str:
    """Hash (16 hexadecimal digits) of the modules that compute for a recipe: the common ones, its stages'."""
    package = Path(__file__).resolve().parents[1]
    files = {package / name for name in _ALWAYS}
    for settings in recipe.stages.values():
        files.add(Path(inspect.getfile(type(settings))).resolve())
        if isinstance(settings, Upsampling):
            files.add(package / "networks/loftup.py")
        if hasattr(settings, "feedback"):  # it refines its first segmentation by PAMR
            files.add(package / "stages/pamr.py")
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.stem} {_file_hash(file, file.stat().st_mtime_ns)}\n".encode())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=256)
def _file_hash(file: Path, _changed: int) -> str:
    return source_hash(file.read_text(encoding="utf-8"))


def source_hash(source: str) -> str:
    """Hash of Python source without its comments, docstrings and layout."""
    digest = hashlib.sha256()
    _feed(ast.parse(source), digest)
    return digest.hexdigest()


def _feed(value: Any, digest: Any) -> None:
    if isinstance(value, ast.AST):
        digest.update(f"({type(value).__name__}".encode())
        for name in sorted(value._fields):
            part = getattr(value, name, None)
            if name == "body" and isinstance(part, list):
                part = _without_docstring(part)
            if name not in _SILENT_FIELDS and part is not None and part != []:
                digest.update(f" {name}=".encode())
                _feed(part, digest)
        digest.update(b")")
    elif isinstance(value, list):
        for part in value:
            _feed(part, digest)
    else:
        digest.update(f"{type(value).__name__}:{value!r};".encode())


def _without_docstring(body: list) -> list:
    """Statements without those that are a mere text: docstrings, and texts below attributes."""
    return [
        statement
        for statement in body
        if not (
            isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Constant)
            and isinstance(statement.value.value, str)
        )
    ]


def words_fingerprint(settings: TextSettings, vocabulary: Vocabulary) -> str:
    """Hash (16 hexadecimal digits) of what is sent to the text tower: classes, groups, sentences, auxiliary texts."""
    sentences = [
        settings.prompts_for(query, vocabulary.kinds[index])
        for query, index in zip(vocabulary.queries, vocabulary.query_class, strict=True)
    ]
    extra = None
    if settings.auxiliary_weight > 0:
        extra = auxiliary_texts(vocabulary, settings.auxiliary, skip_missing=True)
    text = json.dumps([vocabulary.fingerprint, sentences, extra])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def network_fingerprints(recipe: Recipe, backbone: Backbone) -> dict[str, str]:
    """Hash of the weights that stages bring along (LoftUp), by stage. Raises ModelError if they are missing."""
    found = {}
    for name, settings in recipe.stages.items():
        if isinstance(settings, Upsampling) and settings.method == "loftup":
            source = find_weights(settings.weights, backbone.name)
            file = Path(source)
            found[name] = check_file(file)[:16] if file.is_file() else source
    return found


def data_fingerprint(dataset: Any, tolerant: bool = False) -> str | None:
    """Fingerprint of a data set; None for a sequence that has none.

    With `tolerant`, images or label maps that are missing or unreadable are part of the fingerprint instead of a
    DataError, so that an evaluation that skips them can be kept and resumed as well.
    """
    own = getattr(dataset, "fingerprint", None)
    if own is None:
        return None
    try:
        return own()
    except DataError:
        if not tolerant:
            raise
    digest = hashlib.sha256(f"{dataset.name}\n{dataset.classes}\n".encode())
    for item in dataset.items:
        size = item.image.stat().st_size if item.image.is_file() else "missing"
        mask = next((path for path, _ in item.masks if path.is_file()), None)
        content = hashlib.sha256(mask.read_bytes()).hexdigest() if mask else "missing"
        digest.update(f"{item.name}\t{size}\t{content}\n".encode())
    return f"incomplete-{digest.hexdigest()[:16]}"
