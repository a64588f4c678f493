"""Profiles: a model, a data set and where to run, under one name (`data/profiles/*.yaml`)."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from ovsslib import paths
from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import load_backbone
from ovsslib.clip.placement import AUTO, PRECISIONS
from ovsslib.datasets.dataset import SegmentationDataset, open_dataset
from ovsslib.errors import RecipeError, did_you_mean
from ovsslib.recipe import Recipe
from ovsslib.recipe.reading import read_yaml

DEFAULT = "embedded"


@dataclass(frozen=True)
class Profile:
    """What is evaluated with what.

    Attributes:
        name, title: for tables, one line for people.
        model, pretrained: as :func:`ovsslib.load_backbone` takes them.
        dataset, root, split: as :func:`ovsslib.open_dataset` takes them; root None: $OVSSLIB_DATA, or the shipped
            Scenes.
        device: "cpu", "cuda", "cuda:N", or "auto": cuda if there is one.
        precision: "fp32", "bf16" or "fp16".
        limit: the first images only, or None for all.
    """

    name: str
    model: str = "sceneclip"
    pretrained: str | None = None
    dataset: str = "scenes"
    root: str | None = None
    device: str = "cpu"
    precision: str = "fp32"
    limit: int | None = None
    split: str = "val"
    title: str = ""

    def __post_init__(self):
        for field in dataclasses.fields(Profile):  # a subclass answers for its own
            value = getattr(self, field.name)
            if field.name == "limit":
                right = value is None or (type(value) is int and value >= 1)
                form = "a whole number of at least 1, or null for all images"
            else:
                optional = field.name in ("pretrained", "root")
                right = isinstance(value, str) or (optional and value is None)
                form = "text, or null" if optional else "text"
            if field.name == "precision" and value == AUTO:
                raise RecipeError(
                    f"profile {self.name!r}: precision 'auto' is another one on another machine, and a record names what "
                    f"it was measured in; write one of {', '.join(PRECISIONS)}"
                )
            if not right:
                raise RecipeError(f"profile {self.name!r}: {field.name} is {form}, not {value!r}")

    @property
    def embedded(self) -> bool:
        """Whether its pictures are Scenes, so that claims about real data are about something else."""
        return self.dataset.startswith("scenes")

    @staticmethod
    def named(name: str) -> "Profile":
        """A shipped profile, or one from the path of a YAML file.

        In a file of one's own, a relative `root`, and a relative path of `pretrained` or `model`, count from the
        file's folder where something lies there, else from the working directory.

        Raises RecipeError for an unknown profile (lists the known ones) or a file that is not one.
        """
        from_file = is_profile_path(str(name))
        path = Path(name).expanduser() if from_file else paths.data(f"profiles/{name}.yaml")
        if from_file and not paths.is_file(path):
            raise RecipeError(
                f"there is no profile file {str(name)!r}; give its path, or a shipped name: {', '.join(profile_names())}"
            )
        if not paths.is_file(path):
            raise RecipeError(f"unknown profile {str(name)!r}{did_you_mean(name, profile_names())}")
        try:
            content = read_yaml(path.read_text(encoding="utf-8-sig"))
            return Profile(
                name=path.stem, **(_beside(content, path.parent) if from_file else content)
            )
        except (yaml.YAMLError, TypeError, UnicodeDecodeError) as error:
            field_names = ", ".join(f.name for f in dataclasses.fields(Profile) if f.name != "name")
            raise RecipeError(
                f"{path} is not a profile ({error}); it is a mapping of {field_names}"
            ) from None

    def but(self, **changes: Any) -> "Profile":
        """A copy with the fields that are given and not None changed. Raises RecipeError for an unknown field."""
        fields = {f.name for f in dataclasses.fields(self)}
        for field in changes:
            if field not in fields:
                raise RecipeError(
                    f"a profile has no field {field!r}; it has {', '.join(sorted(fields))}"
                )
        return dataclasses.replace(self, **{k: v for k, v in changes.items() if v is not None})

    def backbone(self) -> Backbone:
        """The model, loaded once per process. Raises ModelError."""
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        key = (self.model, self.pretrained, device, self.precision)
        if key not in _backbones:
            _backbones[key] = load_backbone(
                self.model, self.pretrained, device=device, precision=self.precision
            )
        return _backbones[key]

    def open(self, limit: int | None = None) -> SegmentationDataset:
        """The data set, cut to `limit` images (the profile's own limit if None). Raises DataError."""
        return open_dataset(self.dataset, self.root, self.split, limit or self.limit)

    def open_whole(self) -> SegmentationDataset:
        """The data set with all its images, whatever the limit. Raises DataError."""
        return open_dataset(self.dataset, self.root, self.split)

    def recipe(self, recipe: Recipe | str) -> Recipe:
        """A recipe for this profile: a name stands for its settings for this data set."""
        return recipe if isinstance(recipe, Recipe) else Recipe.named(recipe, self.dataset)


_backbones: dict[tuple, Backbone] = {}


def is_profile_path(name: str) -> bool:
    """Whether this is the path of a profile file, not a shipped profile's name."""
    return name.endswith((".yaml", ".yml"))


def _beside(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The fields with relative paths of what lies beside the profile made absolute.

    A bare word of `model` and `pretrained` stays a name, even where a file or folder is called so.
    """
    if not isinstance(content, dict):
        raise TypeError(f"it holds {type(content).__name__}")
    settings = dict(content)
    for field in ("root", "pretrained", "model"):
        value = content.get(field)
        if not isinstance(value, str) or (
            field != "root" and not re.search(r"[/\\]|\.\w+$", value)
        ):
            continue
        path = folder / Path(value).expanduser()
        if path.exists():
            settings[field] = str(path.resolve())
    return settings


def profile_names() -> list[str]:
    """Names of the shipped profiles."""
    return sorted(path.stem for path in paths.data("profiles").glob("*.yaml"))


def profiles() -> dict[str, str]:
    """Shipped profiles: {name: one line about it}."""
    return {name: Profile.named(name).title for name in profile_names()}
