"""What every notebook of the book begins with: its parameters, checked, and the things they stand for."""

import dataclasses
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from ovsslib.book.figures.style import figure_style
from ovsslib.book.parameters import name_list, whole_number
from ovsslib.clip.backbone import Backbone
from ovsslib.datasets.dataset import SegmentationDataset
from ovsslib.errors import DataError, MissingPackageError, ModelError, Notice, RecipeError
from ovsslib.evaluation.profiles import Profile
from ovsslib.evaluation.results import Results, measure, stored
from ovsslib.evaluation.store import FRESH_VARIABLE, ResultsStore
from ovsslib.images.segmentation import Segmentation
from ovsslib.recipe import Recipe, parse_changes
from ovsslib.segmenter import Segmenter


@dataclass
class Chapter:
    """Parameters of a notebook.

    Attributes:
        profile: one of `data/profiles/`, cut to the limit: model, data set, device, number of images.
        overrides: changes applied to every recipe, as texts such as "labels.logit_scale=50"; or one text of them with
            commas between.
        limit: the first images only; None: as the profile says.
        seed: of everything random in the notebook.

    Raises:
        RecipeError: unknown profile, overrides that are not changes, a limit or seed that is no whole number (at
            once, in the first cell).
    """

    profile: Profile
    overrides: Sequence[str] = ()
    limit: int | None = None
    seed: int = 0
    _segmenters: dict[str, Segmenter] = field(default_factory=dict, repr=False)

    def __post_init__(self):
        self.limit = whole_number(self.limit, "limit", none=True)
        self.seed = whole_number(self.seed, "seed", least=0)
        self.overrides = name_list(self.overrides, "overrides", least=0)
        self.profile = self.profile.but(limit=self.limit)
        self.changes = parse_changes(self.overrides)
        if self.changes:
            Recipe("overrides").but(self.changes)  # refuse bad overrides in the first cell

    @cached_property
    def backbone(self) -> Backbone:
        """The profile's model."""
        return self.profile.backbone()

    @cached_property
    def dataset(self) -> SegmentationDataset:
        """The profile's data set, cut to its limit."""
        return self.profile.open()

    @property
    def embedded(self) -> bool:
        """Whether the numbers come from the embedded world (then claims are about something else)."""
        return self.profile.embedded

    @property
    def named(self) -> str:
        """Model, data set and number of images, for captions and axis labels."""
        return f"{self.backbone.name} on {self.profile.dataset}, {len(self.dataset)} images"

    def recipe(self, recipe: str | Recipe, changes: Mapping[str, Any] | None = None) -> Recipe:
        """A recipe with its settings for the profile's data set, the overrides and further changes applied."""
        base = self.profile.recipe(recipe)
        return base.but({**self.changes, **(changes or {})})

    def for_words(self, recipe: str | Recipe, changes: Mapping[str, Any] | None = None) -> Recipe:
        """:meth:`recipe` for words of one's own: without what needs the data set's background."""
        resolved = self.recipe(recipe, changes)
        off = ("probability_threshold", "area_threshold", "background_offset")
        resolved = resolved.but(
            {f"labels.{name}": 0.0 for name in off if getattr(resolved["labels"], name)}
        )
        stages = resolved.stages.items()
        needy = [n for n, s in stages if "needs_background" in getattr(s, "capabilities", ())]
        return resolved.but(dict.fromkeys(needy, False))

    def recipes(self, recipes: Sequence[str] | Mapping[str, Any]) -> dict[str, Recipe]:
        """Several: names, or a mapping from the name that tables print to a recipe or to (recipe, changes)."""
        if not isinstance(recipes, Mapping):
            recipes = {str(recipe): recipe for recipe in recipes}
        by_title = {}
        for title, entry in recipes.items():
            base, changes = entry if isinstance(entry, tuple) else (entry, None)
            by_title[title] = dataclasses.replace(self.recipe(base, changes), name=title)
        return by_title

    def runnable(
        self, recipes: Sequence[str] | Mapping[str, Any]
    ) -> tuple[dict[str, Recipe], dict[str, str]]:
        """Those of :meth:`recipes` that can run here, and of the others why not: a second model that is missing.

        Nothing is fetched. Raises RecipeError for unknown names and bad changes.
        """
        able, why = {}, {}
        for title, recipe in self.recipes(recipes).items():
            try:
                self._segmenter(recipe)
                able[title] = recipe
            except (ModelError, RecipeError, MissingPackageError, DataError) as error:
                why[title] = str(error)
        return able, why

    @staticmethod
    def names(given: Any, parameter: str, least: int = 1) -> list[str]:
        """A list parameter however it was given: see :func:`ovsslib.book.parameters.name_list`."""
        return name_list(given, parameter, least)

    def segmenter(
        self, recipe: str | Recipe, changes: Mapping[str, Any] | None = None
    ) -> Segmenter:
        """A segmenter of the profile's model, made once."""
        return self._segmenter(self.recipe(recipe, changes))

    def _segmenter(self, recipe: Recipe) -> Segmenter:
        key = recipe.key()
        if key not in self._segmenters:  # a second one would open its guide again
            self._segmenters[key] = Segmenter(self.backbone, recipe)
        return self._segmenters[key]

    def measure(self, recipes: Sequence[str] | Mapping[str, Any]) -> Results:
        """Results of recipes (see :meth:`recipes`): from the store, or measured now.

        Measures again if the environment says OVSSLIB_FRESH=1.
        """
        fresh = os.environ.get("OVSSLIB_FRESH") == "1"
        return measure(self.recipes(recipes), self.profile, fresh=fresh, progress=False)

    def stored(self, recipes: Sequence[str] | Mapping[str, Any]) -> Results:
        """As :meth:`measure`, but only what the results store has; nothing is measured.

        A build that measures everything again (OVSSLIB_FRESH) measures those that the ordinary store has.
        """
        by_title = self.recipes(recipes)
        results = stored(by_title, self.profile, store=ResultsStore.ordinary())
        if not os.environ.get(FRESH_VARIABLE):
            return results
        return measure({n: by_title[n] for n in results}, self.profile, progress=False)

    def segment(self, image: np.ndarray, recipe: str | Recipe, changes=None) -> Segmentation:
        """Segment a picture of the data set with the data set's words."""
        segmenter = self.segmenter(recipe, changes)
        vocabulary = segmenter.recipe["text"].vocabulary(self.dataset.vocabulary)
        return segmenter.segment(image, segmenter.text(vocabulary))

    def picture(self, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        """Picture (H, W, 3), label (H, W) and name of an image of the data set.

        Raises RecipeError for an index that the limit cuts off.
        """
        if not 0 <= index < len(self.dataset):
            raise RecipeError(
                f"image {index} is not among the {len(self.dataset)} of this run; raise the parameter `limit`"
            )
        return self.dataset[index]


def chapter(
    profile: str | Profile = "embedded",
    overrides: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
) -> Chapter:
    """First call of every notebook: check the parameters, set the look of the figures.

    From here on notices of the library (:class:`ovsslib.errors.Notice`: most of an answer is a guess) are printed,
    as text of the page; every other warning stays one, and a book is not built from a chapter that has any.
    """
    if warnings.showwarning is not _print_notice:
        _previous_showwarning.append(warnings.showwarning)
        warnings.showwarning = _print_notice
    plt.rcParams.update(figure_style())
    if not isinstance(profile, Profile):
        profile = Profile.named(str(profile))
    return Chapter(profile, overrides, limit, seed)


_previous_showwarning: list[Callable[..., None]] = []


def _print_notice(message, category, filename, lineno, file=None, line=None) -> None:
    """Stands in for `warnings.showwarning`."""
    if issubclass(category, Notice):
        print(f"Notice: {message}")
    else:
        _previous_showwarning[-1](message, category, filename, lineno, file, line)
