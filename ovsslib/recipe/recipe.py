"""A recipe: a checked, frozen set of stages with their settings; how it is read, changed and compared."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from ovsslib import paths
from ovsslib.errors import RecipeError, did_you_mean
from ovsslib.recipe.points import ALWAYS_ON, CAPABILITIES, ONE_OF_A_KIND, POINTS
from ovsslib.recipe.reading import read_recipe, read_yaml, refuse_near_miss
from ovsslib.recipe.registry import make_settings, refuse_unusable, stage_info, stages

GROUPS = ("clip", "guide", "masks")


@dataclass(frozen=True, eq=False)
class Recipe:
    """A checked, frozen set of stages with their settings.

    Make one with :meth:`named`, :meth:`from_yaml`, :meth:`from_thesis_config`, or :meth:`but` from another.
    Two recipes are equal if they compute the same, whatever they are called.

    Attributes:
        name: what tables and plots call it.
        stages: settings by stage name, in the order of the flow (read-only).
        summary: one line for people.
        source: citation keys of the paper(s) or repositories it follows.
        dataset: data set whose published settings it carries, or None.
        year: of the publication, or None.
        group: "clip" (CLIP alone), "guide" (with a self-supervised second model) or "masks" (with masks of a segmenter):
            methods are compared within their group.
        licence: of the released code ("none": the repository has no licence file), or "".
    """

    name: str
    stages: Mapping[str, Any] = field(default_factory=dict)
    summary: str = ""
    source: str = ""
    dataset: str | None = None
    year: int | None = None
    group: str = "clip"
    licence: str = ""

    def __post_init__(self):
        by_name = dict(self.stages)
        for required in ALWAYS_ON:
            by_name.setdefault(required, make_settings(required))
        for name, settings in by_name.items():
            refuse_unusable(name, settings)
            if not isinstance(settings, stage_info(name).settings):
                raise RecipeError(
                    f"stage {name!r} takes {stage_info(name).settings.__name__}, not {settings!r}"
                )
        ordered = {name: by_name[name] for name in stages() if name in by_name}
        object.__setattr__(self, "stages", MappingProxyType(ordered))
        for hook in ONE_OF_A_KIND:
            rivals = [n for n, s in ordered.items() if callable(getattr(type(s), hook, None))]
            if len(rivals) > 1:
                raise RecipeError(
                    f"recipe {self.name!r} cannot work: {rivals[0]} and {rivals[1]} both do what only one stage can "
                    f"do ({hook}); turn one of them off"
                )
        for name, settings in ordered.items():
            refuse = getattr(settings, "refuse", None)
            reason = refuse(self) if refuse else None
            if reason:
                raise RecipeError(f"recipe {self.name!r} cannot work: {name}: {reason}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.resolved() == other.resolved()

    def __hash__(self) -> int:
        return hash(self.key())

    def __contains__(self, name: str) -> bool:
        return name in self.stages

    def __getitem__(self, name: str) -> Any:
        if name not in self.stages:
            stage_info(name)
            raise RecipeError(
                f"stage {name!r} is off in recipe {self.name!r}; turn it on with but()"
            )
        return self.stages[name]

    def __reduce__(self):
        about = (self.summary, self.source, self.dataset, self.year, self.group, self.licence)
        return Recipe, (self.name, dict(self.stages), *about)

    def get(self, name: str) -> Any | None:
        """Settings of a stage, or None if it is off."""
        return self.stages.get(name)

    def at(self, point: str) -> list[tuple[str, Any]]:
        """The active stages of a point, in the order they run: list of (name, settings)."""
        return [(n, s) for n, s in self.stages.items() if stage_info(n).point == point]

    def stages_with(self, method: str) -> list[Any]:
        """Settings of the active stages that have a method (a hook, `taps`, ...), in the order they run."""
        return [s for s in self.stages.values() if callable(getattr(type(s), method, None))]

    def has(self, capability: str, but: Any = None) -> bool:
        """Whether an active stage (other than `but`) has a capability or a hook that implies it.

        Raises RecipeError for one that is not in `CAPABILITIES`.
        """
        if capability not in CAPABILITIES:
            raise RecipeError(
                f"unknown capability {capability!r}{did_you_mean(capability, CAPABILITIES)}"
            )
        hooks = CAPABILITIES[capability]
        return any(
            capability in getattr(s, "capabilities", ())
            or any(callable(getattr(type(s), hook, None)) for hook in hooks)
            for s in self.stages.values()
            if s is not but
        )

    def but(self, changes: Mapping[str, Any] | None = None, /, *, name: str | None = None, **more):
        """A checked copy with some stages or fields changed.

        Keys are a stage name (`pamr=True`, `pamr=False`, `pamr={"iterations": 5}`, or a settings object), a
        point name with the stages that shall be on there (`refine=("pamr", "densecrf")`), or a dotted field
        (`{"attention.residual": False}`, which turns its stage on). A mapping changes the fields it names and
        keeps the others. Raises RecipeError for unknown names, wrong types and impossible combinations.
        """
        changes = {**(changes or {}), **more}
        settings = dict(self.stages)
        for key, value in _grouped(changes).items():
            _apply(settings, key, value)
        return dataclasses.replace(
            self, name=name or self.name, stages=settings, summary=self.summary
        )

    def resolved(self) -> dict[str, dict[str, Any]]:
        """Every setting of every active stage as plain values: what the results store keys on."""
        return {name: _plain(dataclasses.asdict(s)) for name, s in self.stages.items()}

    def key(self) -> str:
        """Hash of the resolved settings (16 hexadecimal digits); names and summaries do not count."""
        text = json.dumps(self.resolved(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def differences(self, other: "Recipe") -> dict[str, tuple[Any, Any]]:
        """Dotted fields in which two recipes differ: {field: (here, there)}; an absent stage is None."""
        fields, other_fields = _flat(self.resolved()), _flat(other.resolved())
        return {
            key: (fields.get(key), other_fields.get(key))
            for key in sorted({*fields, *other_fields})
            if fields.get(key) != other_fields.get(key)
        }

    def inert(self) -> dict[str, str]:
        """Active stages and fields that provably cannot change the label map here, each with the reason.

        Keys are stage names ("calibration") or dotted fields ("labels.merge"). A stage says so through its
        `inert(recipe)`: a reason, a mapping from its fields to reasons, or None.
        """
        reasons: dict[str, str] = {}
        for name, settings in self.stages.items():
            says = getattr(settings, "inert", None)
            reason = says(self) if says else None
            if isinstance(reason, Mapping):
                reasons |= {f"{name}.{field}": why for field, why in reason.items()}
            elif reason:
                reasons[name] = reason
        return reasons

    def to_yaml(self) -> str:
        """The recipe as YAML text; :meth:`from_yaml` gives an equal recipe back."""
        head: dict[str, Any] = {"name": self.name, "summary": self.summary, "source": self.source}
        about = {"dataset": self.dataset, "year": self.year, "licence": self.licence}
        head |= {key: value for key, value in about.items() if value}
        head["group"] = self.group
        return yaml.safe_dump({**head, "stages": self.resolved()}, sort_keys=False)

    @staticmethod
    def from_yaml(text: str, dataset: str | None = None) -> "Recipe":
        """A recipe from YAML text (see `data/recipes/`), with its settings for `dataset` if it has some."""
        content = read_recipe(text)
        per_dataset = content.get("datasets") or {}
        for changes in per_dataset.values():
            for key in _grouped(changes or {}):
                stage_info(key)  # a misspelt stage would wait for its data set
        if dataset is not None and dataset not in per_dataset:
            refuse_near_miss(content["name"], str(dataset), per_dataset)
        settings: dict[str, Any] = {}
        for name, values in (content.get("stages") or {}).items():
            _apply(settings, name, True if values is None else values)
        for name, values in _grouped(per_dataset.get(dataset) or {}).items():
            _apply(settings, name, values)
        tuned = dataset if dataset in per_dataset else content.get("dataset")
        group = content.get("group", "clip")
        if group not in GROUPS:
            raise RecipeError(
                f"recipe {content['name']!r}: group={group!r}{did_you_mean(group, GROUPS)}"
            )
        return Recipe(
            str(content["name"]),
            settings,
            content.get("summary") or "",
            content.get("source") or "",
            tuned,
            content.get("year"),
            group,
            content.get("licence") or "",
        )

    @staticmethod
    def named(name: str, dataset: str | None = None) -> "Recipe":
        """A shipped recipe, with the settings its authors released for `dataset` (if they released some)."""
        from_file = str(name).endswith((".yaml", ".yml"))
        path = Path(name).expanduser() if from_file else paths.data(f"recipes/{name}.yaml")
        if not paths.is_file(path):
            if from_file:
                raise RecipeError(
                    f"unknown recipe {str(name)!r}: there is no such file; give its path, or a shipped name: {', '.join(recipe_names())}"
                )
            raise RecipeError(f"unknown recipe {name!r}{did_you_mean(name, recipe_names())}")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"cannot read the recipe {path} ({error}); save it as UTF-8"
            ) from None
        return Recipe.from_yaml(text, dataset)

    @staticmethod
    def from_thesis_config(config: Mapping[str, Any], dataset: str | None = None) -> "Recipe":
        """The recipe of a configuration dictionary as in section 3.7.1 of the thesis.

        Starts from `thesis-baseline`; keys are `use_loftup`, `use_resclip_rcs`, `use_resclip_sfr`,
        `use_densecrf`, `use_cliptrase`, `use_cliprc`, `use_hierarchical`, `use_calibration` (bool) and
        `template_strategy` ("imagenet80", "top7", "top3", "adaptive"). Raises RecipeError otherwise.
        """
        content = yaml.safe_load(paths.data("thesis.yaml").read_text(encoding="utf-8"))
        switches, strategies = content["switches"], content["template_strategy"]
        recipe = Recipe.named(content["base"], dataset)
        keys = [*switches, "template_strategy"]
        for key, value in config.items():
            if key == "template_strategy":
                if value not in strategies:
                    raise RecipeError(
                        f"template_strategy={value!r}{did_you_mean(value, strategies)}"
                    )
                recipe = recipe.but({"text.prompts": strategies[value]})
            elif key not in switches:
                raise RecipeError(f"unknown thesis setting {key!r}{did_you_mean(key, keys)}")
            elif not isinstance(value, bool):
                raise RecipeError(f"{key}={value!r}: must be true or false")
            else:
                recipe = recipe.but({switches[key]: value})
        return dataclasses.replace(recipe, name="thesis-custom")


def _grouped(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted fields gathered by stage, so that fields which need each other change together."""
    grouped: dict[str, Any] = {}
    for key, value in changes.items():
        name, dot, field_name = key.partition(".")
        if not dot:
            grouped[key] = (
                {**grouped[key], **value} if _both_mappings(grouped.get(key), value) else value
            )
        elif isinstance(grouped.get(name), Mapping):
            grouped[name] = {**grouped[name], field_name: value}
        elif name in grouped and grouped[name] is not True:
            raise RecipeError(
                f"{key}={value!r}: {name}={grouped[name]!r} is changed at the same time"
            )
        else:
            grouped[name] = {field_name: value}
    for point, names in grouped.items():
        if point in POINTS and isinstance(names, (list, tuple)):
            _refuse_contradictions(point, names, grouped)
    return grouped


def _refuse_contradictions(point: str, names: Sequence[Any], changes: Mapping[str, Any]) -> None:
    """Raise RecipeError for a stage that the list of its point leaves out and another change turns on, or the reverse."""
    for key, value in changes.items():
        if key not in stages() or key == point or stage_info(key).point != point:
            continue
        wanted = value is not False and value is not None
        if wanted != (key in names):
            raise RecipeError(
                f"{key}={value!r}: {point}={list(names)!r} is asked for at the same time; they contradict each other, keep one"
            )


def _both_mappings(first: Any, second: Any) -> bool:
    return isinstance(first, Mapping) and isinstance(second, Mapping)


def _apply(settings: dict[str, Any], key: str, value: Any) -> None:
    """Apply one change of :meth:`Recipe.but` to a dictionary of settings, in place."""
    if isinstance(value, (list, tuple)) and key in POINTS:
        names = [str(name) for name in value]
        for name in names:
            if stage_info(name).point != key:
                raise RecipeError(
                    f"{key}={tuple(names)}: {name!r} stands at {stage_info(name).point!r}"
                )
        for name in [n for n in settings if stage_info(n).point == key and n not in names]:
            del settings[name]
        for name in names:
            settings.setdefault(name, make_settings(name))
        return
    if key in POINTS and key not in stages():
        of_point = [name for name in stages() if stage_info(name).point == key]
        raise RecipeError(
            f"{key}={value!r}: {key!r} is a point of the flow; give the list of its stages, such as {key}=[{of_point[0]}]"
        )
    info = stage_info(key)
    if value is False or value is None:
        if key in ALWAYS_ON:
            raise RecipeError(
                f"{key}={value!r}: this stage is always on; change its fields instead"
            )
        settings.pop(key, None)
    elif value is True:
        settings.setdefault(key, make_settings(key))
    elif isinstance(value, Mapping):
        base = dataclasses.asdict(settings[key]) if key in settings else {}
        settings[key] = make_settings(key, {**base, **value})
    elif isinstance(value, info.settings):
        settings[key] = value
    else:
        raise RecipeError(
            f"{key}={value!r}: give True, False, a mapping of fields, or {info.settings.__name__}"
        )


def parse_changes(texts: Iterable[str]) -> dict[str, Any]:
    """Changes for :meth:`Recipe.but` from command-line texts such as "pamr=true" or "labels.logit_scale=50"."""
    changes: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise RecipeError(f"change {text!r}: write it as stage.field=value or stage=true")
        try:
            read = read_yaml(value)
        except yaml.YAMLError:
            raise RecipeError(f"change {text!r}: {value!r} is not a YAML value") from None
        if changes.setdefault(key.strip(), read) != read:
            raise RecipeError(
                f"change {text!r}: {key.strip()} is {changes[key.strip()]!r} as well; keep one"
            )
    return changes


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in paths.data("recipes").glob("*.yaml"))


def recipes() -> dict[str, str]:
    """Shipped recipes: {name: one line about it}."""
    return {name: Recipe.named(name).summary for name in recipe_names()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _flat(resolved: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        f"{name}.{key}": value for name, fields in resolved.items() for key, value in fields.items()
    }
