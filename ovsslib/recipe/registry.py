"""The registry of stages: what stands at which point, checked when it registers."""

import dataclasses
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, get_args, get_type_hints

import pydantic

from ovsslib.errors import RecipeError, did_you_mean
from ovsslib.recipe.points import ALWAYS_ON, CAPABILITIES, FURTHER_METHODS, POINTS


@dataclass(frozen=True)
class StageInfo:
    """What the registry knows of a stage: where it stands in the flow and its settings class."""

    name: str
    point: str
    order: int
    summary: str
    settings: type

    @property
    def version(self) -> int:
        """Declared version of what the stage computes."""
        return int(getattr(self.settings, "version", 1))


_REGISTRY: dict[str, StageInfo] = {}


def stage(name: str, point: str, summary: str, order: int = 50):
    """Class decorator: register a frozen dataclass as the settings of stage `name` at `point`.

    Stages of one point run by rising `order`, then by name. Raises RecipeError for an unknown point, a name
    that is taken, a class that is not a frozen dataclass, has no hook of its point, or has a method that looks
    like a hook and is none.
    """

    def register(settings: type) -> type:
        if point not in POINTS:
            raise RecipeError(
                f"stage {name!r}: unknown point {point!r}; the points are {', '.join(POINTS)}"
            )
        decorated: Any = settings  # __dataclass_params__ is no part of the type
        if not dataclasses.is_dataclass(settings) or not decorated.__dataclass_params__.frozen:
            raise RecipeError(f"stage {name!r}: its settings must be a frozen dataclass")
        registered = _REGISTRY.get(name)
        if registered is not None and registered.settings.__qualname__ != settings.__qualname__:
            raise RecipeError(f"stage {name!r} is registered already, by {registered.settings}")
        _check_hooks(name, point, settings)
        _REGISTRY[name] = StageInfo(name, point, order, summary, settings)
        return settings

    return register


def _check_hooks(name: str, point: str, settings: type) -> None:
    """Refuse a settings class whose methods the flow would never call."""
    hooks, all_hooks = POINTS[point], {hook for hooks in POINTS.values() for hook in hooks}
    methods = {
        key: value
        for key, value in inspect.getmembers(settings, inspect.isfunction)
        if not key.startswith("_")
    }
    for method in methods:
        if method in hooks or method in FURTHER_METHODS:
            continue
        if method.startswith("on_") or method in all_hooks:
            raise RecipeError(
                f"stage {name!r}: {method} is no hook of the point {point!r}"
                f"{did_you_mean(method, hooks)}"
            )
        close = get_close_matches(method, [*hooks, *FURTHER_METHODS], n=1, cutoff=0.85)
        if close:
            raise RecipeError(
                f"stage {name!r}: {method} is no hook of the point {point!r}; did you mean {close[0]!r}? "
                "Otherwise give it another name"
            )
    if name not in ALWAYS_ON and not set(methods) & set(hooks):
        raise RecipeError(
            f"stage {name!r} would never run: the point {point!r} calls {' or '.join(hooks)}, and "
            f"{settings.__name__} has none of them"
        )
    for method, count in {**hooks, **FURTHER_METHODS}.items():
        if method in methods:
            _check_arguments(name, methods[method], count)
    declared = getattr(settings, "capabilities", ())
    declared = (
        () if isinstance(declared, property) else declared
    )  # depends on its fields; asked later
    unknown = set(declared) - set(CAPABILITIES)
    if unknown:
        raise RecipeError(
            f"stage {name!r}: unknown capability {min(unknown)!r}; known: {', '.join(CAPABILITIES)}"
        )


def _check_arguments(name: str, method: Any, count: int) -> None:
    """Refuse a hook that cannot take the arguments that the flow gives."""
    try:
        inspect.signature(method).bind(*range(count + 1))
    except TypeError:
        raise RecipeError(
            f"stage {name!r}: {method.__name__}{inspect.signature(method)} must take {count} argument(s)"
        ) from None


def stages() -> dict[str, StageInfo]:
    """All registered stages by name, in the order of the flow (`import ovsslib` registers the built-in ones)."""
    ranked = sorted(
        _REGISTRY.values(), key=lambda info: (list(POINTS).index(info.point), info.order, info.name)
    )
    return {info.name: info for info in ranked}


def stage_info(name: str) -> StageInfo:
    """One registered stage. Raises RecipeError that lists the known ones."""
    info = _REGISTRY.get(name)
    if info is None:
        raise RecipeError(f"unknown stage {name!r}{did_you_mean(name, stages())}")
    return info


@cache
def _adapter(settings: type) -> pydantic.TypeAdapter:
    return pydantic.TypeAdapter(settings)


def make_settings(name: str, values: Mapping[str, Any] | None = None) -> Any:
    """Settings of stage `name` from plain values (as YAML gives them), checked.

    Raises RecipeError that names the stage, the field and the value for an unknown field or a wrong type.
    """
    info = stage_info(name)
    values = dict(values or {})
    fields = {f.name for f in dataclasses.fields(info.settings)}
    for key in values:
        if key not in fields:
            raise RecipeError(
                f"stage {name!r} has no field {key!r}{did_you_mean(key, sorted(fields))}"
            )
    for key, value in values.items():
        if isinstance(value, bool) and not _takes(info.settings, key, bool):
            raise RecipeError(f"{name}.{key}={value!r}: give a number or a text, not true or false")
    try:
        settings = _adapter(info.settings).validate_python(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join([name, *(str(part) for part in first["loc"][:1])])
        raise RecipeError(f"{where}={first['input']!r}: {first['msg']}") from None
    refuse_unusable(name, settings)
    return settings


def refuse_unusable(name: str, settings: Any) -> None:
    """Raise RecipeError for a number that is not finite: NaN compares with nothing, and would label all as word 0."""
    if not dataclasses.is_dataclass(settings):
        return
    for entry in dataclasses.fields(settings):
        value = getattr(settings, entry.name)
        for number in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise RecipeError(f"{name}.{entry.name}={value!r}: give a finite number")


@cache
def _hints(settings: type) -> Mapping[str, Any]:
    return get_type_hints(settings)


def _takes(settings: type, field: str, kind: type) -> bool:
    """Whether values of a kind are among those that a field is declared to have."""
    hint = _hints(settings)[field]
    choices = get_args(hint) or (hint,)
    return any(choice in (kind, Any) or isinstance(choice, kind) for choice in choices)
