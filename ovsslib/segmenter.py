"""The flow: a picture and words in, a label map out. One page, in the order of the arrows of the design.

    picture -> windows -> views -> trunk -> last block -> features -> similarity -> stitched logits -> refine
            -> confidence -> labels

`Segmenter` binds a backbone and a recipe. Several segmenters of one backbone share the trunk (`window_logits_of`).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.clip.backbone import Backbone, TrunkOutput
from ovsslib.clip.loading import EMBEDDED, cached_pretrained, load_backbone
from ovsslib.clip.memory import check_memory, memory_errors
from ovsslib.errors import RecipeError
from ovsslib.images.pictures import Picture, normalise, read_picture, resize_picture
from ovsslib.images.segmentation import Segmentation
from ovsslib.recipe import Recipe
from ovsslib.stages.contexts import AttentionContext, ImageContext, WindowContext
from ovsslib.stages.pamr import pamr
from ovsslib.stages.windows import Stitched
from ovsslib.text.auxiliary import auxiliary_texts
from ovsslib.text.features import TextFeatures, encode_queries
from ovsslib.text.vocabulary import Vocabulary

PREFERRED = ("ViT-B-16-quickgelu", "openai")  # what model="auto" looks for in the local cache
_STRIP = 24_000_000  # logits handled at a time when the label map is made strip by strip (float32 values)


class Segmenter:
    """A backbone and a recipe, ready to segment.

    Args:
        backbone: from :func:`ovsslib.load_backbone`.
        recipe: a Recipe, or the name of a shipped one.

    Raises:
        RecipeError: unknown recipe, or one that this backbone cannot run (layers it does not have).
    """

    def __init__(self, backbone: Backbone, recipe: Recipe | str):
        self.backbone = backbone
        self.recipe = Recipe.named(recipe) if isinstance(recipe, str) else recipe
        self.windows = self.recipe["windows"]
        self.views = self.recipe.get("image_engineering")
        layers = backbone.layers
        self.taps, self.inputs = {layers - 1}, set()
        for settings in self.recipe.stages.values():
            if hasattr(settings, "taps"):
                self.taps |= settings.taps(layers)
            if hasattr(settings, "inputs"):
                self.inputs |= settings.inputs(layers)

    def __repr__(self) -> str:
        return f"Segmenter({self.backbone!r}, recipe={self.recipe.name!r})"

    # -- once per window ------------------------------------------------------------------------------------

    def last_block(self, trunk: TrunkOutput, pixels: Tensor, text: Tensor | None = None) -> Tensor:
        """Tokens (B, 1 + h * w, D) of the recipe's last block, after ln_post and projection, float32.

        Raises RecipeError if the recipe's feedback needs text features and none are given.
        """
        backbone, attention = self.backbone, self.recipe["attention"]
        whole = next((s for _, s in self.recipe.at("attention") if _replaces_block(s)), None)
        if whole is not None:
            return backbone.head(whole.tokens(backbone, trunk))
        stages = [s for _, s in self.recipe.at("attention")]
        context = self._context(trunk, pixels, text)

        def run(adjust=None) -> Tensor:
            weights = self.attention_weights(context, adjust)
            return backbone.head(attention.tokens(backbone, trunk, weights))

        tokens = run()
        for settings in stages:
            if not hasattr(settings, "feedback"):
                continue
            if text is None:
                raise RecipeError(
                    f"recipe {self.recipe.name!r} feeds a first segmentation back, which needs text_features"
                )
            first = cosine_logits(_as_map(tokens, trunk.grid), text)
            tokens = run(settings.feedback(first, pixels, pamr, backbone.patch_size))
        return tokens

    def _context(self, trunk: TrunkOutput, pixels: Tensor, text: Tensor | None) -> AttentionContext:
        attention, scale = self.recipe["attention"], self.backbone.scale

        def base(tap, adjust=None):
            return attention.weights(tap, trunk.grid, scale, adjust)

        return AttentionContext(self.backbone, trunk, trunk.grid, base, text, pixels, pamr)

    def attention_weights(self, context: AttentionContext, adjust=None) -> Tensor | None:
        """Weights (B, heads, T, T) of the last block with every stage's change; None for the identity.

        `adjust` is what a feedback stage asks of the score matrices; maps of attention show the weights of the
        first pass, without it.
        """
        changes = [s for _, s in self.recipe.at("attention") if hasattr(s, "on_weights")]
        if self.recipe["attention"].terms == "value" and not changes:
            return None
        weights = context.base(context.trunk.taps[self.backbone.layers - 1], adjust)
        for settings in changes:
            weights = settings.on_weights(weights, context)
        return weights

    def attention_of(self, pixels: Tensor) -> Tensor:
        """Weights (B, heads, T, T) that the recipe's last block uses on pictures (B, 3, H, W), class token first.

        Raises RecipeError for GEM, which has no one matrix.
        """
        if any(_replaces_block(s) for _, s in self.recipe.at("attention")):
            raise RecipeError(f"recipe {self.recipe.name!r} replaces the last block; it has no one attention matrix")
        with torch.no_grad():
            trunk = self.backbone.trunk(pixels, self.taps, self.inputs)
            weights = self.attention_weights(self._context(trunk, pixels, None))
        if weights is None:
            count = trunk.tokens.shape[1]
            weights = torch.eye(count).expand(len(pixels), self.backbone.heads, -1, -1)
        return weights

    def features(
        self, pixels: Tensor, text_features: Tensor | None = None, keep_cls: bool = False
    ) -> Tensor:
        """Dense features of whole pictures: no windows, no upsampling, not L2-normalised.

        Args:
            pixels: (B, 3, H, W) CLIP-normalised RGB.
            text_features: (Q, D) unit rows; needed by ResCLIP's feedback only.
            keep_cls: give tokens (B, 1 + h * w, D), class token first, instead of the map.

        Returns:
            (B, h, w, D) float32 after ln_post and projection.
        """
        with torch.no_grad():
            trunk = self.backbone.trunk(pixels, self.taps, self.inputs)
            text = None if text_features is None else text_features.to(self.backbone.device).float()
            tokens = self.last_block(trunk, pixels.to(self.backbone.device), text)
        return tokens if keep_cls else tokens[:, 1:].unflatten(1, trunk.grid)

    def window_logits(
        self,
        trunks: Sequence[TrunkOutput],
        views: Sequence[Tensor],
        text: Tensor,
        queries: int | None = None,
    ) -> Tensor:
        """Cosine logits (B, Q, h', w') of windows, given the trunk results of their views.

        `queries`: how many rows of `text` are words (None: all). Texts of groups behind them are compared with
        the patches too, but take no part in a first segmentation that is fed back.
        """
        queries = len(text) if queries is None else queries
        maps, context = [], None
        for trunk, pixels in zip(trunks, views, strict=True):
            tokens = self.last_block(trunk, pixels, text[:queries])
            coarse = _as_map(tokens, trunk.grid)
            now = WindowContext(
                self.backbone, trunk, pixels, text, trunk.grid, coarse, tokens[:, 0], queries
            )
            now.coarse_logits_at = partial(self._logits_at, pixels, text, queries)
            features = coarse
            for _, settings in self.recipe.at("features"):
                features = settings.on_features(features, now)
            now.features = features
            context = context or now
            maps.append(features)
        if self.views is None:
            logits = cosine_logits(maps[0], text)
        else:
            logits = self.views.merge([F.normalize(m, dim=1) for m in maps], text)
        for _, settings in self.recipe.at("similarity"):
            logits = settings.on_similarity(logits, context)
        return logits

    def _logits_at(self, pixels: Tensor, text: Tensor, queries: int, scale: float) -> Tensor:
        """Cosines (B, Q, h, w) of a further pass over the windows resized by `scale`."""
        size = [max(self.backbone.patch_size, round(side * scale)) for side in pixels.shape[-2:]]
        resized = F.interpolate(pixels.float(), size=size, mode="bilinear", antialias=scale < 1)
        trunk = self.backbone.trunk(resized, self.taps, self.inputs)
        tokens = self.last_block(trunk, resized, text[:queries])
        return cosine_logits(_as_map(tokens, trunk.grid), text)

    # -- once per image -------------------------------------------------------------------------------------

    def logits(self, pixels: Tensor, text_features: Tensor) -> Tensor:
        """Stitched cosine logits before refinement: (B, 3, H, W), (Q, D) -> (B, Q, H, W) float32."""
        return torch.stack(
            [window_logits_of([self], one, [text_features])[0].full() for one in pixels]
        )

    def __call__(
        self,
        picture: Picture,
        words: Any,
        background: str | Sequence[str] | None = None,
        keep_scores: bool = False,
    ) -> Segmentation:
        """Segment a picture.

        Args:
            picture: path, PIL image, or (H, W, 3) uint8 RGB.
            words: list of words, mapping name -> synonyms, or a Vocabulary.
            background: None (every pixel gets one of the words), "auto" (the usual background words), or a list
                of words; pixels that go to them are named "background", index 0.
            keep_scores: keep the (C, H, W) class scores in the result.

        Raises:
            ImageError, WordsError, RecipeError, MemoryBudgetError: see their messages.
        """
        image = read_picture(picture)
        text = self.text(words, background)
        return self.segment(image, text, keep_scores)

    def text(self, words: Any, background: str | Sequence[str] | None = None) -> TextFeatures:
        """Text features of words (or a Vocabulary) as the recipe's `text` settings ask."""
        settings = self.recipe["text"]
        vocabulary = words
        if not isinstance(words, Vocabulary):
            vocabulary = Vocabulary.from_words(words, background)
        elif background is not None:
            vocabulary = words.with_background(background)
        self.recipe["labels"].check_background(vocabulary.background)
        extra = None
        if settings.auxiliary_weight > 0:
            # free words rarely all have a shipped text; those without stay unmixed, like the background
            free = not isinstance(words, Vocabulary)
            extra = auxiliary_texts(vocabulary, settings.auxiliary, skip_missing=free)
        return encode_queries(self.backbone, vocabulary, settings, extra)

    def segment(
        self, image: np.ndarray, text: TextFeatures, keep_scores: bool = False
    ) -> Segmentation:
        """Segment an (H, W, 3) uint8 picture with encoded words."""
        pixels = self.prepare(image)
        features = self.query_features(text)
        size, queries = tuple(image.shape[:2]), len(text.query_class)
        stitched = window_logits_of([self], pixels, [features], size, [queries])[0]
        labels, scores = self.finish(stitched, image, pixels, text, keep_scores)
        return Segmentation(
            mask=labels, names=list(text.vocabulary.names), scores=scores, image=image,
            recipe=self.recipe.name, model=self.backbone.name,
        )

    def prepare(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (3, h, w) normalised pixels at the recipe's size, on the device."""
        resized = resize_picture(image, self.windows.short_side, self.windows.long_side)
        return normalise(resized).to(self.backbone.device)

    def query_features(self, text: TextFeatures) -> Tensor:
        """Rows that are compared with the patches: queries, then group texts if a stage wants them."""
        rows = [text.features]
        for settings in self.recipe.stages.values():
            if hasattr(settings, "group_features"):
                rows.append(settings.group_features(self.backbone, text, self.recipe["text"]))
        return torch.cat(rows).to(self.backbone.device).float()

    def finish(
        self,
        stitched: Stitched,
        image: np.ndarray,
        pixels: Tensor,
        text: TextFeatures,
        keep_scores: bool = False,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Stitched logits -> label map (H, W) int32, and scores (C, H, W) float32 if asked for."""
        labels_of = self.recipe["labels"]
        if not keep_scores and self.is_local():
            labels = self._labels_by_strips(stitched, text)
        else:
            check_memory(stitched.queries, stitched.size, self.backbone.device)
            context = ImageContext(self.backbone, image, pixels[None], text, self.recipe)
            scores = self.scores(stitched.full(), context)
            labels = labels_of.labels(scores, text.vocabulary.background).cpu().numpy()
            for _, settings in self.recipe.at("labels"):
                if hasattr(settings, "on_labels"):
                    labels = settings.on_labels(labels, context)
        labels = labels_of.close(labels)
        return labels, (scores.cpu().numpy() if keep_scores else None)

    def scores(self, logits: Tensor, context: ImageContext) -> Tensor:
        """Class scores (C, H, W) in [0, 1] of stitched logits (Q [+ groups], H, W): refine, confidence."""
        for _, settings in self.recipe.at("refine"):
            if hasattr(settings, "on_logits"):
                logits = settings.on_logits(logits[None], context)[0]
        queries, labels_of = len(context.text.query_class), self.recipe["labels"]
        logits = logits * labels_of.logit_scale
        if len(logits) > queries:
            logits, context.group_logits = logits[:queries], logits[queries:]
        classes = len(context.text.vocabulary)
        confidence = [s for _, s in self.recipe.at("confidence")]
        for settings in confidence:
            if hasattr(settings, "on_scaled_logits"):
                logits = settings.on_scaled_logits(logits, context)
        scores = labels_of.class_scores(logits, context.text.query_class, classes)
        for settings in confidence:
            if hasattr(settings, "on_scores"):
                scores = settings.on_scores(scores, logits, context)
        for _, settings in self.recipe.at("refine"):
            if hasattr(settings, "on_probabilities"):
                scores = settings.on_probabilities(scores, context)
        return scores

    def is_local(self) -> bool:
        """Whether each pixel's label depends on its own logits alone, so that strips give the whole."""
        extra = [n for n, _ in self.recipe.at("labels") if n != "labels"]
        stages = [*self.recipe.at("refine"), *self.recipe.at("confidence"), *extra]
        return not stages and not self.recipe["labels"].area_threshold

    def _labels_by_strips(self, stitched: Stitched, text: TextFeatures) -> np.ndarray:
        """Label map without ever holding all logits: bounded memory, whatever the size of the picture."""
        settings, vocabulary = self.recipe["labels"], text.vocabulary
        settings.check_background(vocabulary.background)
        height, width = stitched.size
        step = max(1, _STRIP // (stitched.queries * width))
        # without a threshold, softmax and scale are monotone per pixel and the argmax is the same without them
        plain = settings.probability_threshold == 0
        classes = len(vocabulary)
        out = np.empty((height, width), dtype=np.int32)
        for start in range(0, height, step):
            logits = stitched.rows(start, min(start + step, height))
            if plain:
                logits, index = logits.max(dim=0)
                labels = text.query_class.to(index.device)[index].to(torch.int32)
            else:
                scores = settings.class_scores(
                    logits * settings.logit_scale, text.query_class, classes
                )
                labels = settings.labels(scores, vocabulary.background)
            out[start : start + step] = labels.cpu().numpy()
        return out


def window_logits_of(
    segmenters: Sequence[Segmenter],
    pixels: Tensor,
    texts: Sequence[Tensor],
    size: tuple[int, int] | None = None,
    queries: Sequence[int] | None = None,
) -> list[Stitched]:
    """Stitched logits of one picture for several segmenters that share backbone, windows and views.

    The trunk runs once per window and view, whatever the number of segmenters; windows go through it in chunks of a
    fixed shape, so that results do not depend on how many there are.

    Args:
        segmenters: of one backbone, with equal `windows` and `image_engineering` settings.
        pixels: (3, h, w) normalised picture.
        texts: per segmenter (Q, D) unit text features.
        size: (H, W) to resize the stitched logits to; None keeps h x w.
        queries: per segmenter how many rows of its text are words, texts of groups behind them; None: all.
    """
    first = segmenters[0]
    backbone = first.backbone
    for other in segmenters[1:]:
        if (other.windows, other.views) != (first.windows, first.views) or other.backbone is not backbone:
            raise RecipeError(
                f"recipes {first.recipe.name!r} and {other.recipe.name!r} differ in windows or views and cannot "
                "share a trunk pass"
            )
    taps = set().union(*(s.taps for s in segmenters))
    inputs = set().union(*(s.inputs for s in segmenters))
    texts = [text.to(backbone.device).float() for text in texts]
    queries = [len(text) for text in texts] if queries is None else queries
    grid = first.windows.boxes(*pixels.shape[-2:])
    crops = grid.crops(pixels.to(backbone.device))
    parts: list[list[Tensor]] = [[] for _ in segmenters]
    step = backbone.batch_of_windows
    with torch.no_grad(), memory_errors():
        for start in range(0, len(crops), step):
            chunk = crops[start : start + step]
            count = len(chunk)
            if count < step:
                chunk = torch.cat([chunk, chunk[-1:].expand(step - count, -1, -1, -1)])
            views = [chunk] if first.views is None else first.views.views(chunk)
            joint = backbone.trunk(torch.cat(views), taps, inputs)
            trunks = [joint[i * step : (i + 1) * step] for i in range(len(views))]
            for segmenter, text, words, part in zip(segmenters, texts, queries, parts, strict=True):
                part.append(segmenter.window_logits(trunks, views, text, words)[:count])
    size = size or tuple(pixels.shape[-2:])
    return [Stitched(torch.cat(part), grid, size) for part in parts]


def cosine_logits(features: Tensor, text: Tensor) -> Tensor:
    """Cosines of features (B, D, h, w) with unit text rows (Q, D): (B, Q, h, w) float32."""
    features = F.normalize(features.float(), dim=1)
    return torch.einsum("qd,bdhw->bqhw", text.float(), features)


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


def _replaces_block(settings: Any) -> bool:
    return hasattr(settings, "tokens") and not hasattr(settings, "weights")


def _as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (B, 1 + h * w, D) -> patch map (B, D, h, w)."""
    return tokens[:, 1:].transpose(1, 2).unflatten(2, grid)
