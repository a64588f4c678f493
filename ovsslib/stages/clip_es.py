"""CLIP-ES: a map for every word of a picture by Grad-CAM, spread along attention.

Source: Lin et al., "CLIP is Also an Efficient Segmenter", CVPR 2023, and its released code. Each word's Grad-CAM comes
from a softmax over all words and background words, so that a word gives way where another is better; the map is then
spread along the mean attention of the last blocks, within boxes around its peaks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ovsslib.errors import RecipeError
from ovsslib.recipe import stage
from ovsslib.stages.class_activation import averaged_blocks, read_whole_picture, word_maps
from ovsslib.stages.contexts import WholePictureContext
from ovsslib.stages.whole_picture import (
    background_rows,
    check_short_side,
    check_words,
    competing_words,
    further_rows,
    own_pixels,
    refuse_early_stages,
    rows_in_play,
    spread_out,
)
from ovsslib.text.features import TextFeatures
from ovsslib.text.prompts import TextSettings
from ovsslib.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from ovsslib.recipe import Recipe


@stage(
    "clip_es", point="picture", summary="Grad-CAM of each word, spread along attention (CLIP-ES)"
)
@dataclass(frozen=True)
class ClipEs:
    """Settings of CLIP-ES.

    The words of a background class compete and get no map; `cam_scores` gives the background what the words leave.

    Attributes:
        box_threshold: share of a map's peak that opens a box (0.4 for VOC, 0.7 for COCO).
        blocks: attention is averaged over the last so many blocks.
        leave_last_out: without the very last block (TagCLIP's copy on VOC).
        background_words: set of words that compete where the vocabulary has no background class; "" for none.
        logit_scale: of the softmax over words; None takes the tower's own.
        eps: added to the range of a map before dividing by it.
        short_side: pixels of the picture's short side; 0 (released) takes the photograph's own size.
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"ignores_attention", "ignores_windows"})

    box_threshold: float = 0.4
    blocks: int = 8
    leave_last_out: bool = False
    background_words: str = ""
    logit_scale: float | None = None
    eps: float = 1e-7
    short_side: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.box_threshold < 1:
            raise RecipeError(
                f"clip_es.box_threshold={self.box_threshold}: must lie between 0 and 1"
            )
        if self.blocks < 1 + self.leave_last_out:
            raise RecipeError(
                f"clip_es.blocks={self.blocks}: leaves no block whose attention could be averaged"
            )
        if self.eps <= 0 or (self.logit_scale is not None and self.logit_scale <= 0):
            raise RecipeError(
                f"clip_es.eps={self.eps}, logit_scale={self.logit_scale}: must be above 0"
            )
        check_words("clip_es", self.background_words)
        check_short_side("clip_es", self.short_side)

    def refuse(self, recipe: "Recipe") -> str | None:
        """Stages of the windows' flow would never run."""
        return refuse_early_stages(recipe)

    def further_texts(
        self, backbone: Any, text: TextFeatures, settings: TextSettings
    ) -> Mapping[str, Tensor]:
        """{"background": (B, D)}: rows of the set of background words."""
        return {"background": background_rows(backbone, text, settings, self.background_words)}

    def sentences(
        self, vocabulary: Vocabulary, settings: TextSettings
    ) -> Mapping[str, Sequence[str]]:
        """Of the background words."""
        words = competing_words(vocabulary, self.background_words)
        return {"background_words": settings.prompts_of(words)}

    def picture_logits(self, context: WholePictureContext) -> Tensor:
        """(Q, h, w) maps in [0, 1] of the words; zero for words that are out, and for the background's."""
        words, background = rows_in_play(context)
        blocks = averaged_blocks(context.backbone.layers, self.blocks, self.leave_last_out)
        reading = read_whole_picture(context.backbone, own_pixels(context, self.short_side), blocks)
        competing = torch.cat([context.text[background], further_rows(context, self, "background")])
        activation = word_maps(
            context.backbone, reading, context.text[words], competing,
            box_threshold=self.box_threshold, logit_scale=self.logit_scale, eps=self.eps,
        )  # fmt: skip
        return spread_out(activation.maps, words, len(context.text))
