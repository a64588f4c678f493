"""The last block of a recipe: CLIP's tokens in, dense tokens of the joint space out, once per window."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.clip.backbone import Backbone, TrunkOutput
from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.stages.contexts import Adjust, AttentionContext, DenseTokens, TrunkContext


class LastBlock:
    """The attention surgery of a recipe on a backbone.

    Args:
        backbone: the open CLIP.
        recipe: the recipe; its stages at "attention" and "trunk" are read.
        guide: second encoder that the recipe asks for, or None.
    """

    def __init__(self, backbone: Backbone, recipe: Recipe, guide: Any = None):
        self.backbone, self.recipe, self.guide = backbone, recipe, guide
        self.settings = recipe["attention"]
        self.replacing = next(iter(recipe.stages_with("replace_block")), None)
        self.changes = recipe.stages_with("on_weights")
        self.feeds_back = recipe.stages_with("feed_back")
        self.seconds = recipe.stages_with("second_weights")
        self.in_trunk = recipe.at("trunk")

    # -- the trunk's part of a recipe ---------------------------------------------------------------------

    def after_block(self, tokens: Tensor, index: int, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, T, width) behind a block, changed by the stages at "trunk"."""
        context = TrunkContext(self.backbone, grid)
        for _, settings in self.in_trunk:
            if hasattr(settings, "on_block"):
                tokens = settings.on_block(tokens, index, context)
        return tokens

    def block_weights(self) -> Callable[[Tensor, int, tuple[int, int]], Tensor] | None:
        """The change of the attention weights inside the trunk's blocks, or None."""
        changing = [s for _, s in self.in_trunk if hasattr(s, "on_block_weights")]
        if not changing:
            return None

        def change(weights: Tensor, index: int, grid: tuple[int, int]) -> Tensor:
            for settings in changing:
                weights = settings.on_block_weights(
                    weights, index, TrunkContext(self.backbone, grid)
                )
            return weights

        return change

    # -- the block itself -----------------------------------------------------------------------------------

    def plain(self, trunk: TrunkOutput) -> Tensor:
        """Tokens (B, T, width) behind CLIP's own last block, with the trunk's stages applied."""
        tokens = self.backbone.plain_last_block(trunk.tokens)
        return self.after_block(tokens, self.backbone.layers - 1, trunk.grid)

    def plain_class_token(self, trunk: TrunkOutput) -> Tensor:
        """CLIP's own class embedding (B, dim), float32, not normalised."""
        return self.backbone.head(self.plain(trunk)[:, :1])[:, 0]

    def base(self, grid: tuple[int, int]) -> Callable[..., Tensor]:
        """Function (tap, adjust=None) -> weights of the recipe's own attention for a block."""
        scale = self.backbone.scale

        def weights(tap: Any, adjust: Adjust | None = None) -> Tensor:
            return self.settings.weights(tap, grid, scale, adjust)

        return weights

    def context(
        self,
        trunk: TrunkOutput,
        window: Tensor,
        text: Tensor | None = None,
        regions: Tensor | None = None,
        kept: dict | None = None,
    ) -> AttentionContext:
        """What the stages may look at for a batch of windows."""
        return AttentionContext(
            self.backbone,
            trunk,
            window,
            self.base(trunk.grid),
            lambda: self.plain(trunk),
            text,
            self.guide,
            regions,
            {} if kept is None else kept,
        )

    def weights(self, context: AttentionContext, adjust: Adjust | None = None) -> Tensor | None:
        """Weights (B, heads, T, T) of the first pass with every stage's change; None for the identity.

        `adjust` is what a feedback stage asks of the score matrices; maps of attention show the weights of the
        first pass, without it.
        """
        if self.settings.is_identity and not self.changes:
            return None
        weights = context.base(context.trunk.taps[self.backbone.layers - 1], adjust)
        for settings in self.changes:
            weights = settings.on_weights(weights, context)
        return weights

    def run(self, context: AttentionContext) -> DenseTokens:
        """Dense tokens in the joint space (after ln_post and projection, float32, not normalised).

        Raises RecipeError if a stage needs text features and none are given.
        """
        backbone = self.backbone
        if self.replacing is not None:
            return self.project(self.replacing.replace_block(context))

        def once(weights: Tensor | None) -> DenseTokens:
            tokens = backbone.head(self.settings.tokens(backbone, context.trunk, weights))
            return DenseTokens.split(tokens, context.grid, projected=True)

        tokens = once(self.weights(context))
        for settings in self.feeds_back:
            first = self._first_logits(tokens, context, settings)
            tokens = once(self.weights(context, settings.feed_back(first, context)))
        for settings in self.seconds:
            first = self._first_logits(tokens, context, settings)
            tokens = once(settings.second_weights(first, context))
        return tokens

    def _first_logits(
        self, tokens: DenseTokens, context: AttentionContext, settings: Any
    ) -> Tensor:
        """Cosines (B, Q [+ E], h, w) of a first pass, with the further words that the stage asks for."""
        if context.text is None:
            raise RecipeError(
                f"recipe {self.recipe.name!r} feeds a first segmentation back, which needs text_features"
            )
        text = context.text
        if hasattr(settings, "extra_texts"):
            text = torch.cat(
                [text, settings.extra_texts(self.backbone, self.recipe["text"]).to(text)]
            )
        return cosine_logits(tokens.map(), text)

    def project(self, tokens: DenseTokens) -> DenseTokens:
        """The same after ln_post and projection."""
        if tokens.projected:
            return tokens
        parts = tokens.patches
        if tokens.class_token is not None:
            parts = torch.cat([tokens.class_token[:, None], parts], dim=1)
        parts = self.backbone.head(parts)
        first = parts[:, 0] if tokens.class_token is not None else None
        patches = parts[:, 1:] if tokens.class_token is not None else parts
        return DenseTokens(patches, tokens.grid, first, True, tokens.whole, tokens.direct)


def cosine_logits(features: Tensor, text: Tensor) -> Tensor:
    """Cosines of features (B, D, h, w) with unit text rows (Q, D) or (B, Q, D): (B, Q, h, w) float32."""
    features = F.normalize(features.float(), dim=1)
    if text.ndim == 3:
        return torch.einsum("bqd,bdhw->bqhw", text.float(), features)
    return torch.einsum("qd,bdhw->bqhw", text.float(), features)
