"""ReCo: a reference feature for every word, out of pictures that CLIP finds for it in an archive.

Source: Shin, Xie, Albanie, "ReCo: Retrieve and Co-segment for Zero-shot Transfer", NeurIPS 2022, and its released code.
The work is done in `cosegmentation.py`; what towers see in the archive in `archive_features.py`. ReCo+, a network that
is trained on ReCo's labels, is another thing and is not here.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import EMBEDDED as EMBEDDED_MODELS
from ovsslib.errors import RecipeError
from ovsslib.images.archive import EMBEDDED, open_archive
from ovsslib.recipe import stage
from ovsslib.stages.archive_features import ArchiveFeatures, rows_digest
from ovsslib.stages.contexts import WholePictureContext
from ovsslib.stages.cosegmentation import (
    CoSegment,
    context_elimination,
    cosegment,
    reference_scores,
    retrieved,
    text_attention,
)
from ovsslib.stages.whole_picture import further_rows, refuse_early_stages
from ovsslib.text.features import TextFeatures, encode_texts
from ovsslib.text.prompts import TextSettings
from ovsslib.text.vocabulary import Vocabulary, word_key

if TYPE_CHECKING:
    from ovsslib.recipe import Recipe

_MOST_LISTS = 16  # lists of words whose references are kept in memory
SHARED = {"vegetation": "tree"}
"""Categories that take the reference of a context word of another name, as released."""


@stage(
    "reco",
    point="picture",
    summary="words' reference features out of an archive of pictures (ReCo)",
)
@dataclass(frozen=True)
class ReCo:
    """Settings of ReCo.

    Attributes:
        archive: "scenes" (drawn pictures that come with the package) or a folder of pictures.
        pictures: k, how many are retrieved for a word.
        context: words whose references are eliminated from all others, in this order.
        encoder: second encoder whose features the references are, a name for :func:`ovsslib.guides.load`; "" takes
            CLIP's own patches behind ln_post.
        text_attention: dense CLIP features weigh the patches of retrieved pictures ...
        dense_result: ... and the scores of the picture itself.
        attention_scale: factor of the cosines before the logistic function of the text attention.
        released_slices: as released, a picture is compared with wrong slices of the others (`cosegment`).
        imagenet_statistics: both towers get ImageNet's mean and deviation, CLIP too (released).
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"ignores_attention"})

    archive: str = "scenes"
    pictures: int = 50
    context: tuple[str, ...] = ("tree", "sky", "building", "road", "person")
    encoder: str = ""
    text_attention: bool = True
    dense_result: bool = True
    attention_scale: float = 10.0
    released_slices: bool = True
    imagenet_statistics: bool = True

    def __post_init__(self) -> None:
        if self.pictures < 1 or self.attention_scale <= 0:
            raise RecipeError(
                f"reco.pictures={self.pictures}, attention_scale={self.attention_scale}: must be above 0"
            )

    def refuse(self, recipe: "Recipe") -> str | None:
        """Stages of the windows' flow would never run."""
        return refuse_early_stages(recipe)

    def inert(self, recipe: "Recipe") -> dict[str, str]:
        """Fields that were changed and have no part."""
        used = self.text_attention or self.dense_result
        changed = self.attention_scale != type(self).attention_scale
        return (
            {}
            if used or not changed
            else {"attention_scale": "both uses of the text attention are off"}
        )

    def guide_name(self) -> str | None:
        """The second encoder, if there is one."""
        return self.encoder or None

    def check(self, backbone: Backbone) -> None:
        """Look for the archive before any work. Raises DataError if it is not there."""
        open_archive(self.archive)

    def networks(self, backbone: Backbone) -> Mapping[str, str]:
        """Hash of the archive's pictures."""
        return {"archive": open_archive(self.archive).fingerprint}

    def further_texts(
        self, backbone: Any, text: TextFeatures, settings: TextSettings
    ) -> Mapping[str, Tensor]:
        """{"references": (Q, W)}: of all queries, computed once per list of words."""
        context = text.features[:0]
        if self.context:
            context = encode_texts(backbone, self.context, settings)
        references, shared = self.references(backbone, text.features, context)
        places = {word_key(word): index for index, word in enumerate(self.context)}
        rows = []
        for query, row in zip(text.vocabulary.queries, references, strict=True):
            index = places.get(
                word_key(SHARED.get(word_key(query), query)), places.get(word_key(query))
            )
            rows.append(row if index is None else shared[index])
        return {"references": torch.stack(rows)}

    def sentences(
        self, vocabulary: Vocabulary, settings: TextSettings
    ) -> Mapping[str, Sequence[str]]:
        """Of the context words."""
        return {"context": settings.prompts_of(self.context)}

    def references(
        self, backbone: Backbone, rows: Tensor, context: Tensor
    ) -> tuple[Tensor, Tensor]:
        """References (Q, W) of text rows (Q, D), and (c, W) of context rows (c, D); kept in memory for the next time."""
        if self.archive == EMBEDDED and backbone.name not in EMBEDDED_MODELS:
            warnings.warn(
                "ReCo's archive 'scenes' shows drawn pictures; for photographs name a folder of photographs: "
                "reco.archive=/path",
                stacklevel=2,
            )
        features = _features(backbone, self.archive, self.encoder, self.imagenet_statistics)
        key = (self, rows_digest(rows, context))
        if key in features.references:
            return features.references[key]
        eliminated: list[Tensor] = []
        for segment in self.cosegments(features, context, eliminated, grow=True):
            eliminated.append(segment.reference)
        shared = torch.stack(eliminated) if eliminated else rows.new_zeros(0)
        references = torch.stack(
            [segment.reference for segment in self.cosegments(features, rows, eliminated)]
        )
        features.references[key] = (references, shared)
        while len(features.references) > _MOST_LISTS:
            features.references.popitem(last=False)
        return references, shared

    def cosegments(
        self,
        features: ArchiveFeatures,
        rows: Tensor,
        eliminated: Sequence[Tensor],
        grow: bool = False,
    ):
        """One :class:`CoSegment` for each text row (Q, D), in order.

        `eliminated`: references that patches must not resemble; with `grow` the caller adds to it as it goes.
        Raises RecipeError for an archive with fewer pictures than are asked for.
        """
        count = len(features.archive)
        if self.pictures > count:
            raise RecipeError(
                f"reco.pictures={self.pictures}: the archive {features.archive.name!r} has {count} pictures; ask for "
                "fewer, or name a larger archive"
            )
        pictures = retrieved(features.embeddings(), rows, self.pictures)
        fixed = None if grow or not eliminated else torch.stack(list(eliminated))
        for row, places in zip(
            rows.to(features.backbone.device).float(), pictures.tolist(), strict=True
        ):
            yield self._cosegment(features, row, places, fixed if not grow else list(eliminated))

    def _cosegment(
        self, features: ArchiveFeatures, row: Tensor, places: list[int], eliminated: Any
    ) -> CoSegment:
        maps, dense = features.maps(places)
        weights = torch.ones_like(maps[:, 0])
        if self.text_attention:
            weights = text_attention(
                dense, row, (maps.shape[-2], maps.shape[-1]), self.attention_scale
            )
        if eliminated is not None and len(eliminated):
            weights = weights * context_elimination(maps, torch.stack(list(eliminated)))
        return cosegment(maps, weights, self.released_slices)

    def picture_logits(self, context: WholePictureContext) -> Tensor:
        """(Q, H, W) scores in (0, 1) of the network picture."""
        backbone, rows = context.backbone, context.text
        references = context.texts(self).get("references")
        if references is None:
            references, _ = self.references(backbone, rows, further_rows(context, self, "context"))
        features = _features(backbone, self.archive, self.encoder, self.imagenet_statistics)
        maps, dense = features.of_pixels(context.pixels[None])
        return reference_scores(
            maps, references, dense if self.dense_result else None, rows,
            (context.pixels.shape[-2], context.pixels.shape[-1]), self.attention_scale,
        )  # fmt: skip


@lru_cache(maxsize=4)
def _features(backbone: Backbone, archive: str, encoder: str, imagenet: bool) -> ArchiveFeatures:
    """Features of an archive by a backbone and an encoder; a few are kept."""
    guide = None
    if encoder:
        from ovsslib import guides  # late: most recipes need no second model

        guide = guides.load(encoder, device=str(backbone.device))
    return ArchiveFeatures(backbone, open_archive(archive), guide, imagenet)
