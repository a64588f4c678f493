"""Prompts: the sentences that a word is put into before CLIP's text tower sees it.

A *strategy* is a set of templates with "{}" where the word goes, possibly different ones for
things, stuff and materials. Strategies are data (`data/prompts/*.yaml`); a recipe chooses one by
name or brings its own templates.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import ClassVar

import yaml

from ovsslib import paths
from ovsslib.errors import RecipeError, WordsError
from ovsslib.recipe import Recipe, stage
from ovsslib.text.vocabulary import KINDS, VARIANTS, Vocabulary, available
from ovsslib.text.wording import asked_as

# Compound label names such as "wall-brick" name the part first and its material second.
COMPOUND_HEADS = ("wall", "floor", "ceiling", "fence")
# Endings of COCO label names that say "those that have no label of their own" or "not the object".
DROPPED_ENDINGS = ("-merged", "-other", "-stuff")


@dataclass(frozen=True)
class PromptStrategy:
    """Templates by kind of class.

    Attributes:
        name, title, source: what it is called, what it is, where it comes from.
        thing, stuff, material: the templates of each kind, each with at least one "{}".
        material_rules: whether compound names are spoken first (:func:`spoken`).
    """

    name: str
    title: str
    source: str
    thing: tuple[str, ...]
    stuff: tuple[str, ...]
    material: tuple[str, ...]
    material_rules: bool = False

    def templates(self, kind: str = "thing") -> tuple[str, ...]:
        """The templates for a class of this kind. Raises WordsError for an unknown kind."""
        if kind not in KINDS:
            raise WordsError(f"unknown kind {kind!r}; the kinds are {', '.join(KINDS)}")
        return getattr(self, kind)

    def prompts(
        self, word: str, kind: str = "thing", material_rules: bool | None = None
    ) -> list[str]:
        """The sentences for one word. Braces in the word are ordinary characters.

        Args:
            material_rules: True or False, or None for what the strategy does by itself.
        """
        if self.material_rules if material_rules is None else material_rules:
            word = spoken(word)
        return [template.replace("{}", word) for template in self.templates(kind)]


def spoken(word: str) -> str:
    """A label name as one would say it: "wall-brick" -> "brick wall", "sky-other" -> "sky".

    Other names stay as they are. Only names that begin with one of `COMPOUND_HEADS` are turned
    round, so that "t-shirt" stays what it is.
    """
    for ending in DROPPED_ENDINGS:
        if word.lower().endswith(ending) and len(word) > len(ending):
            return word[: -len(ending)]
    head, hyphen, tail = word.partition("-")
    if hyphen and tail and head.lower() in COMPOUND_HEADS:
        return f"{tail} {head}"
    return word


class _Strategies(Mapping):
    """The shipped strategies by name, read when they are asked for."""

    def __getitem__(self, name: str) -> PromptStrategy:
        if name not in _strategy_names():
            raise KeyError(name)
        return _read_strategy(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_strategy_names())

    def __len__(self) -> int:
        return len(_strategy_names())


PROMPTS: Mapping[str, PromptStrategy] = _Strategies()


@lru_cache(maxsize=1)
def _strategy_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in paths.data("prompts").glob("*.yaml")))


@cache
def _read_strategy(name: str) -> PromptStrategy:
    content = yaml.safe_load(paths.data(f"prompts/{name}.yaml").read_text(encoding="utf-8"))
    templates = content["templates"]
    if templates == "open_clip":
        templates = (*imagenet_templates(), *content.get("further", ()))
    by_kind: Mapping[str, Sequence[str]] = (
        templates if isinstance(templates, Mapping) else {"thing": templates, "stuff": templates}
    )
    return PromptStrategy(
        name,
        content["title"],
        content["source"],
        tuple(by_kind["thing"]),
        tuple(by_kind["stuff"]),
        tuple(by_kind.get("material", by_kind["stuff"])),
        bool(content.get("material_rules", False)),
    )


def imagenet_templates() -> tuple[str, ...]:
    """The 80 templates of CLIP's authors, from open_clip, with "{}" where the word goes."""
    from ovsslib import _torchvision  # noqa: F401, I001 - must come before open_clip
    import open_clip

    return tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)


@stage("text", point="text", summary="words to text features: names, prompts, auxiliary texts")
@dataclass(frozen=True)
class TextSettings:
    """How words become text features.

    Attributes:
        prompts: name of a strategy in `PROMPTS`.
        templates: own templates instead, each with "{}" where the word goes.
        names: naming variant of a shipped vocabulary (`ovsslib.text.vocabulary.VARIANTS`).
        background: name of a set of background words, or "default": the set of the naming variant.
        words: what the classes of a shipped vocabulary are asked for by instead of `names` and `background`: one text
            per class in label order, the background's too, its queries separated by commas. Further texts are asked
            for as well and stand for no class: a pixel that goes to one is wrong, whatever its label.
        normalise_each: True: normalise each prompt's feature, average, normalise (all released
            code). False: average the features as they come, then normalise for the cosine (the
            thesis's formula).
        auxiliary: "definitions" or "synonyms" to mix in (ITACLIP), or None.
        auxiliary_weight: b in (1 - b) T + b T_auxiliary (ITACLIP, equation 9), 0 to 1.
        truncate: cut texts that are too long for the model, instead of refusing them.
        material_rules: speak compound label names ("wall-brick" as "brick wall"); None: as the
            strategy does.
    """

    version: ClassVar[int] = 1
    prompts: str = "imagenet80"
    templates: tuple[str, ...] = ()
    names: str = "readable"
    background: str = "default"
    words: tuple[str, ...] = ()
    normalise_each: bool = True
    auxiliary: str | None = None
    auxiliary_weight: float = 0.0
    truncate: bool = False
    material_rules: bool | None = None

    def __post_init__(self):
        if isinstance(self.templates, str):
            raise RecipeError(f"text.templates={self.templates!r}: give a list of templates")
        if isinstance(self.words, str):
            raise RecipeError(f"text.words={self.words!r}: give a list of texts, one per class")
        object.__setattr__(self, "templates", tuple(self.templates))
        object.__setattr__(self, "words", tuple(self.words))
        for template in self.templates:
            if "{}" not in template:
                raise RecipeError(f'text.templates: {template!r} has no "{{}}" where the word goes')
        if self.prompts not in PROMPTS:
            raise RecipeError(f"text.prompts={self.prompts!r}; known: {', '.join(PROMPTS)}")
        if self.names not in VARIANTS:
            raise RecipeError(f"text.names={self.names!r}; known: {', '.join(VARIANTS)}")
        if self.auxiliary not in (None, "definitions", "synonyms"):
            raise RecipeError(
                f"text.auxiliary={self.auxiliary!r}: choose 'definitions', 'synonyms' or none"
            )
        if not 0 <= self.auxiliary_weight <= 1:
            raise RecipeError(f"text.auxiliary_weight={self.auxiliary_weight}: must be from 0 to 1")

    def refuse(self, recipe: Recipe) -> str | None:
        """Why these settings contradict themselves, or None."""
        if self.auxiliary_weight > 0 and self.auxiliary is None:
            return (
                f"auxiliary_weight={self.auxiliary_weight} has nothing to weigh; "
                "set auxiliary to 'definitions' or 'synonyms', or the weight to 0"
            )
        return None

    def inert(self, recipe: Recipe) -> dict[str, str]:
        """Fields that were changed and cannot move a label, each with the reason."""
        if self.auxiliary is not None and self.auxiliary_weight == 0:
            return {"auxiliary": "auxiliary_weight is 0"}
        return {}

    def strategy(self) -> PromptStrategy:
        """The prompt strategy: the own templates if there are some, else that of `prompts`."""
        if self.templates:
            templates = self.templates
            return PromptStrategy(
                "own", "own templates", "this recipe", templates, templates, templates
            )
        return PROMPTS[self.prompts]

    def prompts_for(self, word: str, kind: str = "thing") -> list[str]:
        """The sentences that are encoded for one word."""
        return self.strategy().prompts(word, kind, self.material_rules)

    def prompts_of(self, words: Sequence[str], kinds: Sequence[str] | None = None) -> list[str]:
        """The different sentences that are encoded for some words, in order; `kinds` as for :meth:`prompts_for`."""
        kinds = ["thing"] * len(words) if kinds is None else kinds
        groups = (self.prompts_for(w, k) for w, k in zip(words, kinds, strict=True))
        return list(dict.fromkeys(sentence for group in groups for sentence in group))

    def vocabulary(self, name: str | Vocabulary) -> Vocabulary:
        """A shipped vocabulary under these settings' naming variant and background words, or their own words.

        A Vocabulary that was opened from the shipped ones is opened again; any other is returned as
        it is.
        """
        if isinstance(name, Vocabulary):
            if name.name not in available() or name.variant not in VARIANTS:
                return name
            opened = Vocabulary.named(name.name, names=self.names, background=self.background)
            return self._reworded(opened) if opened.names == name.names else name
        return self._reworded(Vocabulary.named(name, names=self.names, background=self.background))

    def _reworded(self, vocabulary: Vocabulary) -> Vocabulary:
        return asked_as(vocabulary, self.words) if self.words else vocabulary
