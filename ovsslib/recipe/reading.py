"""YAML as people write it: read strictly, and checked before a recipe is made of it."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from ovsslib.errors import RecipeError

ABOUT = ("name", "summary", "source", "dataset", "year", "group", "licence")
"""Entries of a recipe besides `stages` and `datasets`."""


class _Strict(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which YAML's own loader drops the first without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value!r} stands twice; keep one of them", key.start_mark
                    )
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """Content of a YAML text in plain values. Raises yaml.YAMLError, also for a key that stands twice."""
    return yaml.load(text, _Strict)


def read_recipe(text: str) -> dict[str, Any]:
    """Content of a recipe's YAML text, with all entries of the right form; values of stages are checked later.

    Raises RecipeError that names the entry and the value.
    """
    try:
        content = read_yaml(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"the recipe is not YAML: {error}") from None
    if not isinstance(content, dict) or "name" not in content:
        raise RecipeError("a recipe is a YAML mapping with at least a `name`")
    name = content["name"]
    unknown = set(content) - {*ABOUT, "stages", "datasets"}
    if unknown:
        raise RecipeError(f"recipe {name!r}: unknown entries {sorted(map(str, unknown))}")
    for entry in ABOUT:
        value = content.get(entry)
        right = isinstance(value, str) or (value is None and entry != "name")
        if entry == "year":
            right = value is None or type(value) is int
        if not right or (isinstance(value, str) and entry == "name" and not value.strip()):
            form = "a year such as 2024" if entry == "year" else "text"
            raise RecipeError(f"recipe {name!r}: {entry} is {form}, not {value!r}")
    for entry in ("stages", "datasets"):
        value = content.get(entry)
        if value is not None and not isinstance(value, dict):
            example = "pamr: true" if entry == "stages" else "voc21: {pamr.iterations: 5}"
            raise RecipeError(
                f"recipe {name!r}: {entry} is a mapping such as {{{example}}}, not {value!r}"
            )
    for dataset, changes in (content.get("datasets") or {}).items():
        if changes is not None and not isinstance(changes, dict):
            raise RecipeError(
                f"recipe {name!r}: the settings for {dataset!r} are a mapping such as {{pamr.iterations: 5}}, not {changes!r}"
            )
    return content


def refuse_near_miss(recipe: str, dataset: str, tuned: Mapping[str, Any]) -> None:
    """Raise RecipeError for the name of a data set that a recipe has settings for under another spelling."""
    for known in tuned:
        if dataset != known and _letters(dataset) == _letters(known):
            raise RecipeError(
                f"recipe {recipe!r} has settings for the data set {known!r}, not {dataset!r}; write it so"
            )


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", str(name)).lower()
