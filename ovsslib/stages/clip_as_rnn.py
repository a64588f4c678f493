"""CaR: maps of the words, a second look at each through a visual prompt, words out, again until none leaves.

Source: Sun et al., "CLIP as RNN", CVPR 2024, and its released code. The work is done in `recurrence.py`; the label map
comes from `cam_scores`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import cached_pretrained, load_backbone
from ovsslib.errors import ModelError, RecipeError
from ovsslib.images.pictures import denormalise
from ovsslib.recipe import stage
from ovsslib.stages.class_activation import PictureReading, averaged_blocks, read_whole_picture
from ovsslib.stages.contexts import WholePictureContext
from ovsslib.stages.recurrence import Round, RoundSettings, last_maps, one_round, recur
from ovsslib.stages.visual_prompts import check_kinds
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
    stuff_classes,
)
from ovsslib.text.features import TextFeatures, encode_texts
from ovsslib.text.prompts import PROMPTS, TextSettings
from ovsslib.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from ovsslib.recipe import Recipe


@stage(
    "car",
    point="picture",
    summary="words leave until none does; each is looked at through a visual prompt (CaR)",
)
@dataclass(frozen=True)
class ClipAsRnn:
    """Settings of CaR. The recipe's own text gives the maps of the first round (released: the bare words).

    Attributes:
        confidence: a word stays if its own prompted picture shows it with more than this share.
        mask_threshold: above it a map is inside its visual prompt.
        box_threshold: share of a map's peak that opens a box.
        prompts: visual prompts out of `visual_prompts.KINDS`; the order does not matter.
        passes: "one", or "things over stuff": stuff words have a loop of their own, with things as background words.
        stuff: names of the classes that count as stuff; empty: by the vocabulary's kinds.
        stuff_prompts: visual prompts of the stuff loop.
        map_prompts: prompt strategy of the maps from the second round on, and of all background words.
        same_text: the first round uses it too. False (released): the first round has the recipe's own text, since
            the loop hands templates on only afterwards.
        score_prompts: prompt strategy whose templates score the prompted pictures.
        background_words: set of words that compete in every round; "" for none.
        scorer: second tower that looks at the prompted pictures, "MODEL/TAG" or "MODEL/FILE" ("ViT-L-14-quickgelu/openai"
            as published); "" takes the recipe's own. Nothing is downloaded.
        skip_last_block: the second tower stops before its last block (released; an oversight).
        blocks: attention is averaged over the last so many blocks.
        logit_scale, score_scale: of the softmax of maps and scores; None takes the towers' own.
        short_side: pixels of the picture's short side; 0 (released) takes the photograph's own size.
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"ignores_attention", "ignores_windows"})

    confidence: float = 0.6
    mask_threshold: float = 0.4
    box_threshold: float = 0.4
    prompts: tuple[str, ...] = ("blur", "circle")
    passes: Literal["one", "things over stuff"] = "one"
    stuff: tuple[str, ...] = ()
    stuff_prompts: tuple[str, ...] = ("blur", "gray")
    map_prompts: str = "origami"
    same_text: bool = False
    score_prompts: str = "car15"
    background_words: str = "car"
    scorer: str = ""
    skip_last_block: bool = True
    blocks: int = 8
    logit_scale: float | None = None
    score_scale: float | None = None
    short_side: int = 0

    def __post_init__(self) -> None:
        for name in ("confidence", "mask_threshold", "box_threshold"):
            if not 0 < getattr(self, name) < 1:
                raise RecipeError(f"car.{name}={getattr(self, name)}: must lie between 0 and 1")
        for name in ("map_prompts", "score_prompts"):
            if getattr(self, name) not in PROMPTS:
                raise RecipeError(
                    f"car.{name}={getattr(self, name)!r}; known: {', '.join(PROMPTS)}"
                )
        for name in ("logit_scale", "score_scale"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise RecipeError(f"car.{name}={getattr(self, name)}: must be above 0")
        if self.blocks < 1:
            raise RecipeError(f"car.blocks={self.blocks}: must be 1 or more")
        check_kinds((*self.prompts, *self.stuff_prompts), "car.prompts")
        check_words("car", self.background_words)
        check_short_side("car", self.short_side)
        if self.scorer and "/" not in self.scorer:
            raise RecipeError(
                f"car.scorer={self.scorer!r}: write it as MODEL/TAG or MODEL/FILE, or '' for the recipe's own"
            )

    def refuse(self, recipe: "Recipe") -> str | None:
        """Stages of the windows' flow would never run."""
        return refuse_early_stages(recipe)

    def inert(self, recipe: "Recipe") -> dict[str, str]:
        """Fields that were changed and have no part."""
        if self.passes != "one":
            return {}
        default = type(self)()
        changed = [f for f in ("stuff", "stuff_prompts") if getattr(self, f) != getattr(default, f)]
        return dict.fromkeys(changed, "there is one pass")

    def check(self, backbone: Backbone) -> None:
        """Open the second tower before any work, if there is one. Raises ModelError if it is not here."""
        self._scorer(backbone)

    def networks(self, backbone: Backbone) -> dict[str, str]:
        """Hash of the second tower, if there is one."""
        return {"scorer": self._scorer(backbone).weights_hash} if self.scorer else {}

    def _scorer(self, backbone: Backbone) -> Backbone:
        if not self.scorer:
            return backbone
        return _open_scorer(self.scorer, str(backbone.device), backbone.precision)

    def further_texts(
        self, backbone: Any, text: TextFeatures, settings: TextSettings
    ) -> Mapping[str, Tensor]:
        """ "maps" (Q, D) rows from the second round on, "templates" (T * Q, D') of the second tower, "background"
        (B, D), and "stuff" (Q,) which queries count as stuff.
        """
        vocabulary, scorer = text.vocabulary, self._scorer(backbone)
        map_settings = TextSettings(prompts=self.map_prompts)
        stuff = self._is_stuff(vocabulary)
        rows = [
            encode_texts(scorer, vocabulary.queries, TextSettings(templates=(template,)))
            for template in PROMPTS[self.score_prompts].thing
        ]
        return {
            "maps": encode_texts(backbone, vocabulary.queries, map_settings),
            "templates": torch.cat(rows),
            "background": background_rows(
                backbone, text, map_settings, self.background_words, self._in_play(vocabulary)
            ),
            "stuff": torch.tensor(stuff),
        }

    def _is_stuff(self, vocabulary: Vocabulary) -> list[bool]:
        """Per query, whether it belongs to the second pass."""
        stuff = set(stuff_classes(vocabulary, self.stuff))  # an unknown name is refused either way
        if self.passes == "one":
            stuff = set()
        return [owner in stuff for owner in vocabulary.query_class]

    def _in_play(self, vocabulary: Vocabulary) -> list[str]:
        """Queries of the first pass, which the background words must not repeat."""
        stuff = self._is_stuff(vocabulary)
        queries = zip(vocabulary.queries, vocabulary.query_class, stuff, strict=True)
        return [query for query, owner, s in queries if not s and owner != vocabulary.background]

    def sentences(
        self, vocabulary: Vocabulary, settings: TextSettings
    ) -> Mapping[str, Sequence[str]]:
        """Of the words in the later rounds' prompts and the scorer's, and of the background words."""
        later = TextSettings(prompts=self.map_prompts)
        scored = TextSettings(templates=PROMPTS[self.score_prompts].thing)
        words = competing_words(vocabulary, self.background_words, self._in_play(vocabulary))
        return {
            "map_prompts": later.prompts_of(vocabulary.queries),
            # a second tower reads those sentences, not the recipe's own
            "score_prompts": [] if self.scorer else scored.prompts_of(vocabulary.queries),
            "background_words": later.prompts_of(words),
        }

    def picture_logits(self, context: WholePictureContext) -> Tensor:
        """(Q, h, w) maps in [0, 1] of the words that are left; zero for all others, and for the background's."""
        total = None
        for words, rounds in self.loops(context):
            places, maps = last_maps(rounds)
            part = spread_out(maps, words[places], len(context.text))
            total = part if total is None else total + part
        if total is None:
            return torch.zeros(len(context.text), 1, 1, device=context.backbone.device)
        return total

    def loops(self, context: WholePictureContext) -> list[tuple[Tensor, list[Round]]]:
        """Per loop the places of its queries (n,), and its rounds; a loop without words is left out."""
        words, _ = rows_in_play(context)
        stuff = (
            context.texts(self).get("stuff", torch.zeros(len(context.text), dtype=torch.bool)).cpu()
        )
        blocks = averaged_blocks(context.backbone.layers, self.blocks)
        reading = read_whole_picture(context.backbone, own_pixels(context, self.short_side), blocks)
        parts = (
            (words[~stuff[words]], self.prompts, None),
            (words[stuff[words]], self.stuff_prompts, stuff),
        )
        return [
            (part, self._rounds(context, reading, part, prompts, stuff_mask))
            for part, prompts, stuff_mask in parts
            if len(part)
        ]

    def _rounds(
        self,
        context: WholePictureContext,
        reading: PictureReading,
        words: Tensor,
        prompts: tuple[str, ...],
        stuff: Tensor | None,
    ) -> list[Round]:
        """The loop for some queries (n,). Where `stuff` (Q,) is given they are those, and things compete."""
        backbone, texts, text = context.backbone, context.texts(self), context.text
        scorer = self._scorer(backbone)
        image = context.image
        if image is None:
            image = denormalise(context.pixels, *backbone.normalisation)
        later_rows = texts.get("maps", text)
        first_rows = later_rows if self.same_text else text
        templates = texts.get("templates", text).unflatten(0, (-1, len(text)))
        competing = further_rows(context, self, "background")
        if stuff is not None:
            competing = later_rows[~stuff & ~context.words.in_background()]
        settings = RoundSettings(
            self.confidence, self.mask_threshold, self.box_threshold, prompts, self.logit_scale,
            self.score_scale, self.skip_last_block,
        )  # fmt: skip

        def step(number: int, playing: Tensor) -> Round:
            queries = words[playing]
            rows = later_rows if number else first_rows
            return one_round(
                backbone,
                scorer,
                reading,
                image,
                playing,
                rows[queries],
                competing,
                templates[:, queries],
                settings,
            )

        return recur(step, len(words))


@lru_cache(maxsize=2)
def _open_scorer(scorer: str, device: str, precision: str) -> Backbone:
    """The second tower, from a file or the local cache. Raises ModelError if it is not there."""
    name, _, weights = scorer.partition("/")
    if "/" not in weights and "." not in weights and cached_pretrained(name, weights) is None:
        raise ModelError(
            f"car.scorer={scorer!r} is not in the local cache and nothing is fetched unasked; fetch it once with "
            f"ovsslib.load_backbone({name!r}, {weights!r}), name a file ({name}//path/to/weights), or set car.scorer "
            "to '' to score with the recipe's own tower"
        )
    return load_backbone(name, weights, device=device, precision=precision)
