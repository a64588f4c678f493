"""Tags: words that are not in the picture lose every pixel, whatever the recipe (TagCLIP).

Source: Lin et al., "TagCLIP: A Local-to-Global Framework to Enhance Open-Vocabulary Multi-Label Classification of CLIP
Without Training", AAAI 2024, and its released code. The work is done in `tagging.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ovsslib.clip.backbone import Backbone
from ovsslib.errors import RecipeError
from ovsslib.recipe import stage
from ovsslib.stages.contexts import WholePictureContext
from ovsslib.stages.tagging import Tagged, read_patches, tag
from ovsslib.stages.whole_picture import (
    background_rows,
    check_short_side,
    check_words,
    competing_words,
    further_rows,
    own_pixels,
)
from ovsslib.text.features import TextFeatures, encode_texts
from ovsslib.text.prompts import PROMPTS, TextSettings
from ovsslib.text.vocabulary import VARIANTS, Vocabulary


@stage(
    "tags", point="words", summary="words that are not in the picture lose every pixel (TagCLIP)"
)
@dataclass(frozen=True)
class Tags:
    """Settings of TagCLIP's tags.

    Attributes:
        share: a; a word stays if its score lies above least + a (largest - least), here and for the second look
            (0.5; 0.1 for COCO-Stuff).
        first_block: 1-based first block whose attention spreads the scores (9 of 12; 1 for COCO-Stuff) ...
        last_block: ... and the last one; 0 is the last but one.
        votes: patches hear each other where in so many blocks their attention is above its mean.
        prompts: name of the prompt strategy of the tags' own text.
        names: naming variant of a shipped vocabulary for the tags' own text.
        background_words: set of words that compete where the vocabulary has no background class; "" for none.
        logit_scale: of the softmax over words; None takes the tower's own.
        short_side: pixels of the picture's short side; 0 (released) takes the photograph's own size.
    """

    version: ClassVar[int] = 1

    share: float = 0.5
    first_block: int = 9
    last_block: int = 0
    votes: int = 4
    prompts: str = "tagclip85"
    names: str = "canonical"
    background_words: str = ""
    logit_scale: float | None = None
    short_side: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise RecipeError(f"tags.share={self.share}: must lie in [0, 1)")
        if self.first_block < 1 or self.last_block < 0 or self.votes < 0:
            raise RecipeError(
                f"tags.first_block={self.first_block}, last_block={self.last_block}, votes={self.votes}: blocks count "
                "from 1 (last_block 0: the last but one), votes from 0"
            )
        if self.logit_scale is not None and self.logit_scale <= 0:
            raise RecipeError(f"tags.logit_scale={self.logit_scale}: must be above 0")
        if self.prompts not in PROMPTS:
            raise RecipeError(f"tags.prompts={self.prompts!r}; known: {', '.join(PROMPTS)}")
        if self.names not in VARIANTS:
            raise RecipeError(f"tags.names={self.names!r}; known: {', '.join(VARIANTS)}")
        check_words("tags", self.background_words)
        check_short_side("tags", self.short_side)

    def check(self, backbone: Backbone) -> None:
        """Raise RecipeError for blocks that the tower does not have."""
        first, last = self.first_block, self._last(backbone)
        if not first <= last <= backbone.layers:
            raise RecipeError(
                f"tags.first_block={first}, last_block={self.last_block}: the tower has blocks 1 to {backbone.layers}; "
                "choose a first block that is not behind the last"
            )

    def _last(self, backbone: Backbone) -> int:
        return self.last_block or backbone.layers - 1

    def further_texts(
        self, backbone: Any, text: TextFeatures, settings: TextSettings
    ) -> Mapping[str, Tensor]:
        """The tags' own text: "words" (W, D), "owner" (W,) class of each, "background" (B, D)."""
        tag_settings = self._settings(settings)
        vocabulary = tag_settings.vocabulary(text.vocabulary)
        background, chosen = vocabulary.background, self._chosen(vocabulary)
        kinds = [vocabulary.kinds[owner] for _, owner in chosen]
        texts = {
            "words": encode_texts(backbone, [query for query, _ in chosen], tag_settings, kinds),
            "owner": torch.tensor([owner for _, owner in chosen]),
        }
        if background is None:
            texts["background"] = background_rows(
                backbone, text, tag_settings, self.background_words
            )
        else:
            texts["background"] = encode_texts(
                backbone, vocabulary.synonyms[background], tag_settings
            )
        return texts

    def _settings(self, settings: TextSettings) -> TextSettings:
        return TextSettings(prompts=self.prompts, names=self.names, background=settings.background)

    @staticmethod
    def _chosen(vocabulary: Vocabulary) -> list[tuple[str, int]]:
        """Queries that are not of the background, with their classes."""
        queries = zip(vocabulary.queries, vocabulary.query_class, strict=True)
        return [(query, owner) for query, owner in queries if owner != vocabulary.background]

    def sentences(
        self, vocabulary: Vocabulary, settings: TextSettings
    ) -> Mapping[str, Sequence[str]]:
        """Of the tags' own text and of what competes with it."""
        own = self._settings(settings)
        named = own.vocabulary(vocabulary)
        chosen = self._chosen(named)
        rivals = (
            competing_words(vocabulary, self.background_words)
            if named.background is None
            else named.synonyms[named.background]
        )
        kinds = [named.kinds[owner] for _, owner in chosen]
        return {
            "prompts": own.prompts_of([query for query, _ in chosen], kinds),
            "background_words": own.prompts_of(rivals),
        }

    def tagged(self, context: WholePictureContext) -> tuple[Tagged, Tensor]:
        """Scores of the words in the picture, and the class (W,) of each word."""
        backbone, texts = context.backbone, context.texts(self)
        in_background = context.words.in_background()
        if "words" in texts:
            words, owner = texts["words"], texts["owner"].cpu().long()
            rivals = texts["background"]
        else:
            words, owner = context.text[~in_background], self._classes(context)[~in_background]
            rivals = torch.cat(
                [context.text[in_background], further_rows(context, self, "background")]
            )
        pixels = own_pixels(context, self.short_side)
        reading = read_patches(backbone, pixels, self.first_block, self._last(backbone), self.votes)
        scale = self.logit_scale or backbone.logit_scale
        rows = torch.cat([words, rivals.to(words)])
        return tag(backbone, pixels, reading, rows, len(words), self.share, scale), owner

    @staticmethod
    def _classes(context: WholePictureContext) -> Tensor:
        """(Q,) class of each query on the CPU."""
        query_class = context.words.query_class
        return torch.arange(context.words.queries) if query_class is None else query_class.cpu()

    def keep_words(self, context: WholePictureContext) -> Tensor:
        """(Q,) bool: queries of classes with a word that stays, and of the background."""
        tagged, owner = self.tagged(context)
        kept = owner[tagged.kept.cpu()].unique()
        return torch.isin(self._classes(context), kept) | context.words.in_background()
