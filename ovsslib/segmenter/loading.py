"""A segmenter in one line: which model answers, with which recipe."""

from typing import cast

from ovsslib import comparators
from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import EMBEDDED, cached_pretrained, load_backbone
from ovsslib.clip.placement import AUTO
from ovsslib.comparators import Comparator
from ovsslib.errors import ModelError, RecipeError
from ovsslib.export import is_exported, open_exported
from ovsslib.recipe import Recipe, recipe_names
from ovsslib.segmenter.segmenter import Segmenter

PREFERRED = ("ViT-B-16-quickgelu", "openai")  # what model="auto" looks for in the local cache


def load(
    recipe: Recipe | str = "sclip",
    model: str | Backbone = "auto",
    pretrained: str | None = None,
    *,
    device: str | None = None,
    precision: str | None = None,
    dataset: str | None = None,
) -> Segmenter | Comparator:
    """A segmenter in one line.

    Args:
        recipe: name of a shipped recipe (:func:`ovsslib.recipes`), or a Recipe; or the name of a trained model
            (:func:`ovsslib.comparators.names`), whose weights `pretrained` names (None: those in the local cache); or
            a folder that :func:`ovsslib.export.export_onnx` wrote, which holds recipe and model.
        model: "auto" (OpenAI's ViT-B/16 if its weights are in the local cache, else the embedded SceneCLIP with a
            notice; nothing is downloaded), a name for :func:`load_backbone`, or a Backbone.
        pretrained, device, precision: see :func:`load_backbone`; with model="auto", a checkpoint of OpenAI's
            ViT-B/16. Not with a Backbone, which has its own.
        dataset: use the recipe's published settings for this data set. The embedded model gets those for Scenes.

    Raises:
        RecipeError, ModelError: unknown names, missing weights.
    """
    chosen = None if isinstance(recipe, Recipe) else str(recipe)
    if chosen is not None and chosen not in recipe_names() and is_exported(chosen):
        return _exported(chosen, model, pretrained, device, precision, dataset)
    trained = {*comparators.names(), *(row.name for row in comparators.quoted())}
    if chosen in trained and chosen not in recipe_names():
        return _comparator(chosen, model, pretrained, device, precision, dataset)
    if not isinstance(recipe, Recipe):
        recipe = Recipe.named(str(recipe), dataset)
    elif dataset is not None:
        raise RecipeError(
            f"dataset={dataset!r} chooses among a named recipe's settings; with a Recipe leave it out, or make the "
            f"recipe with Recipe.named({recipe.name!r}, dataset={dataset!r})"
        )
    placed = {"device": device or "cpu", "precision": precision or "fp32"}
    if isinstance(model, Backbone):
        _refuse_ignored(model, pretrained, device, precision)
        backbone = model
    elif model == "auto" and pretrained is not None:
        backbone = load_backbone(PREFERRED[0], pretrained, **placed)
    elif model == "auto":
        file = cached_pretrained(*PREFERRED)
        if file is None:
            print(
                "ovsslib: CLIP's weights are not in the local cache, so the embedded SceneCLIP is used. It has only "
                f"seen drawn scenes; for photographs: load({recipe.name!r}, model={PREFERRED[0]!r}, "
                f"pretrained={PREFERRED[1]!r})"
            )
            backbone = load_backbone("sceneclip", **placed)
        else:
            backbone = load_backbone(*PREFERRED, **placed)
    else:
        backbone = load_backbone(model, pretrained, **placed)
    if chosen is not None and dataset is None and backbone.name in EMBEDDED:
        recipe = Recipe.named(chosen, "scenes")
    return Segmenter(backbone, recipe)


def _exported(
    folder: str,
    model: str | Backbone,
    pretrained: str | None,
    device: str | None,
    precision: str | None,
    dataset: str | None,
) -> Segmenter:
    """A folder of ONNX graphs. Raises ModelError for an argument that it would ignore."""
    arguments = {"pretrained": pretrained, "device": device, "dataset": dataset}
    if precision != AUTO:
        arguments["precision"] = precision
    usual = {"device": "cpu", "precision": "fp32"}
    if model != "auto":
        arguments["model"] = str(model)
    for name, value in arguments.items():
        if value is not None and value != usual.get(name):
            raise ModelError(
                f"{name}={value!r}: {folder} was exported with its model and settings and runs on the CPU; leave "
                f"{name} out"
            )
    backbone, recipe = open_exported(folder)
    return Segmenter(cast("Backbone", backbone), recipe)  # it answers what a Backbone is asked


def _comparator(
    name: str,
    model: str | Backbone,
    pretrained: str | None,
    device: str | None,
    precision: str | None,
    dataset: str | None,
) -> Comparator:
    """A trained model. Raises ModelError for an argument that it would ignore."""
    if model != "auto" or dataset is not None:
        ignored = f"dataset={dataset!r}" if model == "auto" else f"model={model!r}"
        raise ModelError(
            f"{ignored}: {name!r} is a trained model by itself, without recipe or CLIP; leave it out and name weights by "
            "pretrained"
        )
    return comparators.load(name, pretrained, device=device or "cpu", precision=precision or "fp32")


def _refuse_ignored(
    backbone: Backbone, pretrained: str | None, device: str | None, precision: str | None
) -> None:
    """Raise ModelError for an argument that a ready backbone would ignore."""
    if pretrained is not None:
        raise ModelError(
            f"pretrained={pretrained!r}: the given backbone has its weights; leave pretrained out"
        )
    for name, value, has in (
        ("device", device, str(backbone.device)),
        ("precision", precision, backbone.precision),
    ):
        if value not in (None, AUTO) and str(value) != has:
            raise ModelError(
                f"{name}={value!r}: the given backbone has {name} {has!r}; load it with load_backbone(..., {name}={value!r})"
            )
