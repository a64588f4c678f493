"""What stages share that work on a picture by themselves, without windows: its pixels, their words, their refusals."""

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ovsslib.errors import RecipeError, WordsError, did_you_mean
from ovsslib.images.preprocessing import clip_pixels, whole_patches
from ovsslib.recipe import ALWAYS_ON
from ovsslib.stages.contexts import WholePictureContext
from ovsslib.text.features import TextFeatures, encode_texts
from ovsslib.text.prompts import TextSettings
from ovsslib.text.vocabulary import Vocabulary, background_sets, background_words, word_key

if TYPE_CHECKING:
    from ovsslib.recipe import Recipe

_EARLY = ("windows", "views", "trunk", "attention", "features", "picture_text", "similarity")


def refuse_early_stages(recipe: "Recipe") -> str | None:
    """Why a stage of the windows' flow cannot stand beside one that takes the picture as it is, or None."""
    for settings in recipe.stages_with("group_features"):
        name = next(name for name, stage in recipe.stages.items() if stage is settings)
        return f"it gives maps of the words alone, and {name} compares further texts with the patches; turn {name} off"
    for point in _EARLY:
        for name, _ in recipe.at(point):
            if name not in ALWAYS_ON:
                return f"it takes the whole picture by itself, so {name} (at {point!r}) would never run; turn {name} off"
    return None


def own_pixels(context: WholePictureContext, short_side: int = 0) -> Tensor:
    """(1, 3, H, W) CLIP-normalised pixels of the photograph at its own size, sides rounded up to whole patches.

    Without a photograph the network picture is taken as it is. `short_side`: scale the photograph to this first.
    """
    backbone, pixels = context.backbone, context.pixels
    if context.image is not None:
        image = whole_patches(context.image, backbone.patch_size, short_side)
        pixels = clip_pixels(image, backbone.pixel_mean, backbone.pixel_std)
    return pixels[None].to(backbone.device)


def check_short_side(stage: str, short_side: int) -> None:
    """Raise RecipeError for a short side that no picture can have."""
    if short_side < 0 or 0 < short_side < 16:
        raise RecipeError(
            f"{stage}.short_side={short_side}: use 16 pixels or more, or 0 for the picture's own size"
        )


def check_words(stage: str, name: str) -> None:
    """Raise RecipeError for an unknown set of background words; "" stands for none."""
    if name and name not in background_sets():
        raise RecipeError(
            f"{stage}.background_words={name!r}; known: {', '.join(background_sets())}, or '' for none"
        )


def background_rows(
    backbone: Any,
    text: TextFeatures,
    settings: TextSettings,
    name: str,
    besides: Iterable[str] | None = None,
) -> Tensor:
    """(B, D) unit rows of a set of background words; none for "".

    Args:
        settings: whose prompts the words are put into.
        besides: words that the set must not repeat. None: the vocabulary's own; and if it has a background class, its
            queries stand in for the set, so there are no rows.
    """
    words = competing_words(text.vocabulary, name, besides)
    if not words:
        return text.features.new_zeros(0, text.features.shape[1])
    return encode_texts(backbone, words, settings)


def competing_words(
    vocabulary: Vocabulary, name: str, besides: Iterable[str] | None = None
) -> list[str]:
    """The words of :func:`background_rows`."""
    if besides is None and vocabulary.background is not None:
        name = ""
    keys = {word_key(query) for query in (vocabulary.queries if besides is None else besides)}
    return [word for word in background_words(name) if word_key(word) not in keys] if name else []


def stuff_classes(vocabulary: Vocabulary, names: Collection[str]) -> list[int]:
    """Classes that count as stuff, the background left out: those of `names`, or by their kind where it is empty.

    Raises WordsError for a name that no class has.
    """
    words = [c for c in range(len(vocabulary)) if c != vocabulary.background]
    if not names:
        return [c for c in words if vocabulary.kinds[c] != "thing"]
    class_of = {word_key(vocabulary.names[c]): c for c in words}
    unknown = [name for name in names if word_key(name) not in class_of]
    if unknown:
        raise WordsError(
            f"stuff: no class is called {unknown[0]!r}{did_you_mean(unknown[0], class_of)}"
        )
    return sorted(class_of[word_key(name)] for name in names)


def rows_in_play(context: WholePictureContext) -> tuple[Tensor, Tensor]:
    """(words (K,) long: queries of classes that are in the picture, background (B,) long: queries of the background)."""
    in_background = context.words.in_background()
    play = ~in_background if context.kept is None else ~in_background & context.kept.cpu()
    return torch.nonzero(play)[:, 0], torch.nonzero(in_background)[:, 0]


def further_rows(context: WholePictureContext, settings: Any, name: str) -> Tensor:
    """(N, D) text rows that a stage made of the words for its own use.

    Rows given without words (a tensor of text features) have none of their own; those behind the queries count then.
    """
    texts = context.texts(settings)
    return texts[name] if name in texts else context.words.rows[context.words.queries :]


def spread_out(maps: Tensor, places: Tensor, queries: int) -> Tensor:
    """Maps (K, h, w) of some queries -> (Q, h, w), zero for the others."""
    spread = maps.new_zeros(queries, *maps.shape[1:])
    spread[places.to(maps.device)] = maps
    return spread
