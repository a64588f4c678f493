"""A segmenter in one line: which model answers, with which recipe."""

from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import EMBEDDED, cached_pretrained, load_backbone
from ovsslib.recipe import Recipe
from ovsslib.segmenter.segmenter import Segmenter

PREFERRED = ("ViT-B-16-quickgelu", "openai")  # what model="auto" looks for in the local cache


def load(
    recipe: Recipe | str = "sclip",
    model: str | Backbone = "auto",
    pretrained: str | None = None,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    dataset: str | None = None,
) -> Segmenter:
    """A segmenter in one line.

    Args:
        recipe: name of a shipped recipe (:func:`ovsslib.recipes`), or a Recipe.
        model: "auto" (OpenAI's ViT-B/16 if its weights are in the local cache, else the embedded SceneCLIP with a
            notice; nothing is downloaded), a name for :func:`load_backbone`, or a Backbone.
        pretrained, device, precision: see :func:`load_backbone`.
        dataset: use the recipe's published settings for this data set. The embedded model gets those for Scenes.

    Raises:
        RecipeError, ModelError: unknown names, missing weights.
    """
    chosen = None if isinstance(recipe, Recipe) else str(recipe)
    if chosen is not None:
        recipe = Recipe.named(chosen, dataset)
    if isinstance(model, Backbone):
        backbone = model
    elif model == "auto":
        file = cached_pretrained(*PREFERRED)
        if file is None:
            print(
                "ovsslib: CLIP's weights are not in the local cache, so the embedded SceneCLIP is used. It has only "
                f"seen drawn scenes; for photographs: load({recipe.name!r}, model={PREFERRED[0]!r}, "
                f"pretrained={PREFERRED[1]!r})"
            )
            backbone = load_backbone("sceneclip", device=device, precision=precision)
        else:
            backbone = load_backbone(*PREFERRED, device=device, precision=precision)
    else:
        backbone = load_backbone(model, pretrained, device=device, precision=precision)
    if chosen is not None and dataset is None and backbone.name in EMBEDDED:
        recipe = Recipe.named(chosen, "scenes")
    return Segmenter(backbone, recipe)
