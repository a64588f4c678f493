"""The flow: a picture and words in, a label map out. One page, in the order of the arrows of the design::

    picture -> windows -> views -> trunk -> last block -> features -> similarity -> stitched -> refine -> labels

`Segmenter` binds a backbone and a recipe. Several segmenters of one backbone share the trunk (`window_logits_of`).
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.clip.backbone import Backbone, TrunkOutput
from ovsslib.clip.memory import memory_errors
from ovsslib.errors import RecipeError
from ovsslib.images.pictures import Picture, denormalise, normalise, read_picture
from ovsslib.images.segmentation import Segmentation
from ovsslib.recipe import Recipe
from ovsslib.segmenter import notices
from ovsslib.segmenter.encoding import EncodedPicture, PictureInput, Words, encode_pictures
from ovsslib.segmenter.finishing import Finished, finish, is_local
from ovsslib.segmenter.given import checked_pixels, checked_words
from ovsslib.segmenter.last_block import LastBlock, cosine_logits
from ovsslib.segmenter.many import Many
from ovsslib.segmenter.opened import OpenedPicture
from ovsslib.segmenter.video import segment_frames
from ovsslib.stages.contexts import Adjust, DenseTokens, ImageContext, TextContext
from ovsslib.stages.windows import Stitched
from ovsslib.text.auxiliary import auxiliary_texts
from ovsslib.text.background import with_background
from ovsslib.text.features import TextFeatures, encode_queries
from ovsslib.text.vocabulary import Vocabulary
from ovsslib.text.wording import ASKED


class Segmenter:
    """A backbone and a recipe, ready to segment.

    Args:
        backbone: from :func:`ovsslib.load_backbone`.
        recipe: a Recipe, or the name of a shipped one.

    Raises:
        RecipeError: unknown recipe, or one that this backbone cannot run (layers it does not have).
        ModelError: a second model that the recipe asks for cannot be had.
    """

    def __init__(self, backbone: Backbone, recipe: Recipe | str):
        self.backbone = backbone
        self.recipe = Recipe.named(recipe) if isinstance(recipe, str) else recipe
        self.windows = self.recipe["windows"]
        self.views = next(iter(self.recipe.stages_with("merge")), None)
        self.whole_picture: Any = next((s for _, s in self.recipe.at("picture")), None)
        layers = backbone.layers
        self.taps, self.inputs = {layers - 1}, set()
        for settings in self.recipe.stages.values():
            if hasattr(settings, "taps"):
                self.taps |= settings.taps(layers)
            if hasattr(settings, "inputs"):
                self.inputs |= settings.inputs(layers)
            if hasattr(settings, "check"):
                settings.check(backbone)
        self.guide = self._guide()
        self._masks: Any = None
        if self.recipe.stages_with("proposer_name"):
            self.proposer()  # so that missing weights are named before any work
        last_block = getattr(backbone, "last_block", LastBlock)  # an exported graph brings its own
        self.last_block: LastBlock = last_block(backbone, self.recipe, self.guide)

    def __repr__(self) -> str:
        return f"Segmenter({self.backbone!r}, recipe={self.recipe.name!r})"

    @property
    def needs_text(self) -> bool:
        """Whether the words must be known before the last block."""
        return self.recipe.has("needs_text")

    @property
    def waits_for_all_windows(self) -> bool:
        """Whether a stage must see all windows of a picture before one of them is compared with words."""
        return self.whole_picture is not None or bool(self.recipe.stages_with("on_picture_text"))

    @property
    def without_windows(self) -> bool:
        """Whether a stage works on the picture by itself, so that no window need go through the trunk."""
        return hasattr(self.whole_picture, "picture_logits")

    def trunk_key(self) -> tuple:
        """What must be equal for segmenters to share a trunk pass."""
        trunk = tuple(self.recipe.at("trunk") + self.recipe.at("windows") + self.recipe.at("views"))
        return (id(self.backbone), trunk)

    def _guide(self) -> Any:
        names = {s.guide_name() for s in self.recipe.stages_with("guide_name")} - {None}
        if len(names) > 1:
            raise RecipeError(f"{self.recipe.name!r} wants several guides: {sorted(names)}")
        if not names:
            return None
        from ovsslib import guides  # late: most recipes need no second model

        return guides.load(names.pop(), device=str(self.backbone.device))

    # -- once per window ------------------------------------------------------------------------------------

    def trunk(
        self,
        pixels: Tensor,
        taps: Iterable[int] | None = None,
        inputs: Iterable[int] | None = None,
        until: int | None = None,
    ) -> TrunkOutput:
        """All blocks but the last for pixels (B, 3, H, W), with the recipe's stages at "trunk"."""
        return self.backbone.trunk(
            pixels, self.taps if taps is None else taps, self.inputs if inputs is None else inputs,
            positions=self.windows.positions, on_weights=self.last_block.block_weights(), until=until,
            after_block=self.last_block.after_block if self.recipe.at("trunk") else None,
        )  # fmt: skip

    def dense_tokens(
        self, pixels: Tensor, text: Tensor | None = None, regions: Tensor | None = None
    ) -> DenseTokens:
        """Dense tokens in the joint space of whole pictures (B, 3, H, W): no windows, no upsampling.

        Args:
            text: (Q, D) unit rows, for recipes that need words before the last block.
            regions: (B, H, W) region ids, for recipes that read masks.
        """
        device = self.backbone.device
        pixels = pixels.to(device)
        text = None if text is None else text.to(device).float()
        with torch.no_grad():
            if hasattr(self.whole_picture, "replace_windows"):
                return self._tokens_of_pictures(pixels, text, regions)
            trunk = self.trunk(pixels)
            if regions is None and self.recipe.stages_with("proposer_name"):
                maps = [self.regions_of(PictureInput(picture)) for picture in pixels]
                regions = torch.stack([m for m in maps if m is not None])
            return self.last_block.run(self.last_block.context(trunk, pixels, text, regions))

    def _tokens_of_pictures(
        self, pixels: Tensor, text: Tensor | None, regions: Tensor | None
    ) -> DenseTokens:
        """The same for recipes whose stage takes all windows at once: each picture is one window."""
        parts = []
        for index, single in enumerate(pixels):
            proposals = {} if regions is None else {self._proposer(): regions[index]}
            picture = PictureInput(single, regions=proposals)
            parts.append(EncodedPicture.of_whole(self, picture).tokens(text))
        tokens = [m.class_token for m in parts if m.class_token is not None]
        token = torch.cat(tokens) if tokens else None
        return DenseTokens(torch.cat([m.patches for m in parts]), parts[0].grid, token, True)

    def features(
        self,
        pixels: Tensor,
        text_features: Tensor | None = None,
        keep_cls: bool = False,
        regions: Tensor | None = None,
    ) -> Tensor:
        """Dense features of whole pictures: no windows, no upsampling, not L2-normalised.

        Args:
            pixels: (B, 3, H, W) CLIP-normalised RGB.
            text_features: (Q, D) unit rows; needed by recipes that feed a first segmentation back.
            keep_cls: give tokens (B, 1 + h * w, D), class token first, instead of the map. Where the last block
                gives no class token, CLIP's own stands there.
            regions: (B, H, W) region ids for recipes with masks; None asks the recipe's proposer.

        Returns:
            (B, h, w, D) float32 after ln_post and projection.
        """
        tokens = self.dense_tokens(checked_pixels(pixels), text_features, regions)
        if not keep_cls:
            return tokens.patches.unflatten(1, tokens.grid)
        if tokens.class_token is None:
            with torch.no_grad():
                trunk = self.trunk(pixels.to(self.backbone.device))
                first = self.last_block.plain_class_token(trunk)
            return torch.cat([first[:, None], tokens.patches], dim=1)
        return tokens.joined()

    def map_of(self, pixels: Tensor) -> Tensor:
        """(B, 3, h, w) normalised pixels -> (B, D, h', w') by the recipe's trunk and last block."""
        return self.dense_tokens(pixels).map()

    def attention_of(self, pixels: Tensor, adjust: Adjust | None = None) -> Tensor:
        """Weights (B, heads, T, T) that the recipe's last block uses on pictures (B, 3, H, W), class token first.

        `adjust` changes each score matrix. Raises RecipeError for a recipe without one such matrix (GEM).
        """
        if self.last_block.replacing is not None or self.whole_picture is not None:
            why = "replaces the last block; it has no one attention matrix"
            raise RecipeError(f"recipe {self.recipe.name!r} {why}")
        with torch.no_grad():
            trunk = self.trunk(pixels)
            weights = self.last_block.weights(self.last_block.context(trunk, pixels), adjust)
        if weights is None:  # each token sees itself
            count = trunk.tokens.shape[1]
            weights = torch.eye(count).expand(len(pixels), self.backbone.heads, -1, -1)
        return weights

    def logits_at_scale(self, window: Tensor, text: Tensor, scale: float) -> Tensor:
        """Cosines (B, Q, h, w) of a further pass over windows (B, 3, H, W) resized by `scale`."""
        size = [max(self.backbone.patch_size, round(side * scale)) for side in window.shape[-2:]]
        resized = F.interpolate(window.float(), size=size, mode="bilinear", antialias=scale < 1)
        return cosine_logits(self.dense_tokens(resized, text).map(), text)

    # -- once per image -------------------------------------------------------------------------------------

    def logits(
        self, pixels: Tensor, text_features: Tensor | Words, regions: Tensor | None = None
    ) -> Tensor:
        """Stitched cosine logits before refinement: (B, 3, H, W), (Q, D) -> (B, Q, H, W) float32.

        `text_features`: unit rows, or `Words` for recipes that tell words from background words.
        `regions`: (B, H, W) region ids for recipes with masks; None asks the recipe's proposer.
        """
        words, maps = checked_words(text_features, self.backbone.dim), []
        for index, image in enumerate(checked_pixels(pixels).to(self.backbone.device)):
            proposals = {} if regions is None else {self._proposer(): regions[index]}
            encoded = encode_pictures([self], PictureInput(image, regions=proposals), [words])[0]
            with torch.no_grad():
                maps.append(encoded.logits(words.to(image.device), tuple(image.shape[-2:])).full())
        return torch.stack(maps)

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
            background: None (every pixel gets one of the words), "auto" (background words chosen for these words,
                :func:`ovsslib.text.background.choose_background`), the name of a set ("sclip": the usual ones), or
                a list of words; pixels that go to them are named "background", index 0.
            keep_scores: keep the (C, H, W) class scores in the result.

        Raises ImageError, WordsError, RecipeError, MemoryBudgetError.
        """
        image = read_picture(picture)
        text = self.text(words, background)
        notices.about_picture(self.backbone, image)
        return notices.about_answer(self.segment(image, text, keep_scores, confidence=True))

    def open(self, picture: Picture) -> OpenedPicture:
        """Encode a picture once, to ask about it often; see :class:`OpenedPicture`. Raises ImageError."""
        image = read_picture(picture)
        notices.about_picture(self.backbone, image)
        return OpenedPicture(self, image)

    def many(
        self,
        pictures: str | os.PathLike | Iterable[str | os.PathLike],
        words: Any,
        background: str | Sequence[str] | None = None,
        keep_scores: bool = False,
        workers: int = 2,
        skip: Iterable[str] = (),
    ) -> Many:
        """Segment the pictures of a folder (recursive) or a list of paths: iterate over it for (name, result).

        Args:
            words: as for a call, or a :class:`WordsByPicture`.
            workers: threads that read pictures ahead.
            skip: names that are done already.

        A picture that cannot be used is left out and reported by a warning at the end; `.failed` says which and why.
        Raises DataError for a folder without pictures, WordsError for words that cannot be used.
        """
        return Many(self, pictures, words, background, keep_scores, workers, skip)

    def frames(
        self,
        film: str | os.PathLike | Iterable[Picture],
        words: Any,
        background: str | Sequence[str] | None = None,
        smoothing: float = 0.0,
    ) -> Iterator[Segmentation]:
        """Segment a film, a folder of frames or a list of pictures in order; see :func:`segment_frames`."""
        return segment_frames(self, film, words, background, smoothing)

    def text(
        self, words: Any, background: str | Sequence[str] | None = None, *, share: bool = True
    ) -> TextFeatures:
        """Text features of words (or a Vocabulary) as the recipe's `text` settings ask; `share`: `encode_prompts`."""
        settings, named = self.recipe["text"], isinstance(words, Vocabulary)
        vocabulary = words if named else Vocabulary.from_words(words)
        vocabulary = with_background(self.backbone, vocabulary, background)
        self.recipe["labels"].check_background(vocabulary.background)
        extra = None
        if (
            settings.auxiliary_weight > 0
        ):  # free words rarely all have a text; the others stay unmixed
            free = not named or words.variant == ASKED
            extra = auxiliary_texts(vocabulary, settings.auxiliary, skip_missing=free)
        text = encode_queries(self.backbone, vocabulary, settings, extra, share)
        for stage in self.recipe.stages_with("on_text"):
            text = stage.on_text(text, TextContext(self.backbone, self.recipe))
        return text

    def segment(
        self,
        image: np.ndarray,
        text: TextFeatures,
        keep_scores: bool = False,
        confidence: bool = False,
    ) -> Segmentation:
        """Segment an (H, W, 3) uint8 picture with encoded words; `confidence`: keep score and margin of each pixel."""
        pixels, words = self.prepare(image), self.words(text)
        encoded = encode_pictures([self], PictureInput(pixels, image), [words])[0]
        return self.answer(encoded, image, text, keep_scores, confidence)

    def answer(
        self,
        encoded: EncodedPicture,
        image: np.ndarray,
        text: TextFeatures,
        keep_scores: bool = False,
        confidence: bool = False,
    ) -> Segmentation:
        """The segmentation of an encoded picture."""
        with torch.no_grad(), memory_errors():
            stitched = encoded.logits(self.words(text), tuple(image.shape[:2]))
            result = self.finish(stitched, image, encoded.picture, text, keep_scores, confidence)
        return Segmentation(
            mask=result.labels, names=list(text.vocabulary.names), scores=result.scores, image=image,
            recipe=self.recipe.name, model=self.backbone.name, confidence=result.confidence, margin=result.margin,
        )  # fmt: skip

    def prepare(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (3, h, w) normalised pixels at the recipe's size, on the device."""
        resized = self.windows.resized(image)
        pixels = normalise(resized, *self.backbone.normalisation).to(self.backbone.device)
        size = self.windows.stretched(*pixels.shape[-2:])
        if size != tuple(pixels.shape[-2:]):
            pixels = F.interpolate(pixels[None], size=size, mode="bilinear")[0]
        return pixels

    def words(self, text: TextFeatures) -> Words:
        """Rows that are compared with the patches: queries, then group texts if a stage wants them."""
        rows = [text.features]
        for stage in self.recipe.stages_with("group_features"):
            rows.append(stage.group_features(self.backbone, text, self.recipe["text"]))
        features = torch.cat([row.to(self.backbone.device).float() for row in rows])
        texts = {
            stage: stage.further_texts(self.backbone, text, self.recipe["text"])
            for stage in self.recipe.stages_with("further_texts")
        }
        queries, background = text.query_class, text.vocabulary.background
        return Words(features, len(queries), queries, background, texts)

    def finish(
        self,
        stitched: Stitched,
        image: np.ndarray,
        picture: PictureInput | Tensor,
        text: TextFeatures,
        keep_scores: bool = False,
        confidence: bool = False,
    ) -> Finished:
        """Stitched logits of a picture -> labels, and scores and confidences if asked for."""
        if isinstance(picture, Tensor):
            picture = PictureInput(picture, image)
        regions = self.regions_of(picture) if self.recipe.stages_with("proposer_name") else None
        context = ImageContext(
            self.backbone, image, picture.pixels[None], text, self.recipe, regions=regions,
            window_logits=stitched.windows, kept_of_trunk=stitched.kept_of_trunk, trunk_of=self.trunk,
            guide=self.guide,
        )  # fmt: skip
        return finish(self.recipe, stitched, context, keep_scores, confidence)

    def is_local(self) -> bool:
        """Whether each pixel's label depends on its own logits alone, so that strips give the whole."""
        return is_local(self.recipe)

    # -- masks ------------------------------------------------------------------------------------------------

    def proposer(self) -> Any:
        """The mask proposer that the recipe asks for, opened once. Raises ModelError for missing weights."""
        if self._masks is None:
            from ovsslib.guides import masks  # late: most recipes need no masks

            name, device = self._proposer(), str(self.backbone.device)
            trained = name not in ("felzenszwalb", "slic")
            self._masks = masks.load(name, **({"device": device} if trained else {}))
        return self._masks

    def _proposer(self) -> str:
        names = {s.proposer_name() for s in self.recipe.stages_with("proposer_name")}
        if len(names) != 1:
            raise RecipeError(
                f"recipe {self.recipe.name!r} asks for {len(names)} mask proposers; give its stages the same one"
            )
        return names.pop()

    def proposer_parts(self) -> dict[str, str]:
        """What decides the masks: name, settings and weights hash of the proposer, as plain texts."""
        proposer = self.proposer()
        settings = json.dumps(proposer.settings, sort_keys=True)
        return {"name": proposer.name, "settings": settings, "weights": proposer.weights_hash}

    def regions_of(self, picture: PictureInput) -> Tensor | None:
        """(H, W) int64 region map of a photograph by the recipe's proposer, or None if it reads no masks.

        Computed once per picture and proposer; without the photograph, the network picture takes its place.
        """
        if not self.recipe.stages_with("proposer_name"):
            return None
        name = self._proposer()
        if name not in picture.regions:
            image = picture.image
            if image is None:
                image = denormalise(picture.pixels, *self.backbone.normalisation)
            picture.regions[name] = torch.from_numpy(self.proposer().regions(image)).long()
        return picture.regions[name].to(self.backbone.device)


def window_logits_of(
    segmenters: Sequence[Segmenter],
    picture: PictureInput | Tensor,
    words: Sequence[Words | Tensor],
    size: tuple[int, int] | None = None,
) -> list[Stitched]:
    """Stitched logits of one picture for several segmenters that share backbone, windows, views and trunk.

    Args:
        segmenters: with equal `trunk_key()`.
        picture: the input, or (3, h, w) normalised pixels.
        words: per segmenter the rows to compare with (a tensor (Q, D): all of them are words).
        size: (H, W) to resize the stitched logits to; None keeps h x w.
    """
    device = segmenters[0].backbone.device
    if isinstance(picture, Tensor):
        picture = PictureInput(picture.to(device))
    rows = [Words(w, len(w)) if isinstance(w, Tensor) else w for w in words]
    rows = [w.to(device) for w in rows]
    encoded = encode_pictures(segmenters, picture, rows)
    size = size or (picture.pixels.shape[-2], picture.pixels.shape[-1])
    with torch.no_grad(), memory_errors():
        return [item.logits(w, size) for item, w in zip(encoded, rows, strict=True)]
