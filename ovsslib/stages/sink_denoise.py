"""RF-CLIP's denoising of the trunk: patches that a few over-active channels betray are mixed with
their neighbours.

Source: RF-CLIP (AAAI 2026, arXiv 2511.16170) as its released code computes it. The channels are
numbers of one checkpoint's channels; they mean nothing in other weights, which are therefore
refused unless channels are given.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ovsslib.clip.sinks import channel_shares, released_channels
from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe, stage
from ovsslib.stages.contexts import TrunkContext


@stage(
    "sink_denoise",
    point="trunk",
    order=50,
    summary="patches that collect attention are smoothed (RF-CLIP)",
)
@dataclass(frozen=True)
class SinkDenoiseSettings:
    """Behind every block, a patch with an over-active sink channel becomes (1 - alpha) p + alpha
    mean of its 3x3.

    Attributes:
        channels: 0-based channels of the tower, or "released": those published for OpenAI's
            ViT-B/16 and ViT-L/14. `ovsslib.clip.sinks.fit_sink_channels` finds those of other
            weights, if they have some.
        sigma: a channel is over-active if its share of the patch's sum (above its minimum) exceeds
            sigma / width.
        alpha: share of the neighbourhood's mean, 0 to 1.
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"untraceable"})  # no sinks: no step at all
    channels: Literal["released"] | tuple[int, ...] = "released"
    sigma: float = 5.0
    alpha: float = 0.4

    def __post_init__(self):
        if self.channels != "released":
            numbers = set(self.channels)
            if not numbers or min(numbers) < 0 or len(numbers) != len(self.channels):
                raise RecipeError(
                    f"sink_denoise.channels={self.channels}: give different channels counted from "
                    "0, or 'released'; turn the stage off to denoise nothing"
                )
        if self.sigma <= 0:
            raise RecipeError(f"sink_denoise.sigma={self.sigma}: must be above 0")
        if not 0 <= self.alpha <= 1:
            raise RecipeError(f"sink_denoise.alpha={self.alpha}: must lie between 0 and 1")

    def inert(self, recipe: Recipe) -> str | None:
        """A share of 0 changes nothing."""
        return "alpha is 0" if self.alpha == 0 else None

    def channels_of(self, backbone) -> tuple[int, ...]:
        """The channels for these weights. Raises RecipeError where none are known, or one does not
        exist.
        """
        if self.channels == "released":
            return released_channels(backbone)
        if max(self.channels) >= backbone.width:
            raise RecipeError(
                f"sink_denoise.channels={self.channels}: {backbone.name!r} has {backbone.width} "
                "channels, counted from 0"
            )
        return self.channels

    def check(self, backbone) -> None:
        """Raise RecipeError for weights that the channels do not belong to."""
        self.channels_of(backbone)

    def on_block(self, tokens: Tensor, index: int, context: TrunkContext) -> Tensor:
        """Tokens (B, 1 + h * w, D) behind block `index` -> denoised; the class token stays."""
        channels = self.channels_of(context.backbone)
        mask = sinks(tokens[:, 1:], channels, self.sigma)
        return denoise(tokens, context.grid, mask, self.alpha)


def sinks(patches: Tensor, channels: tuple[int, ...], sigma: float) -> Tensor:
    """Which patches (..., D) have a channel of `channels` with a share above sigma / D: (...)
    bool.
    """
    return channel_shares(patches)[..., list(channels)].amax(dim=-1) > sigma / patches.shape[-1]


def denoise(tokens: Tensor, grid: tuple[int, int], mask: Tensor, alpha: float) -> Tensor:
    """Mix the patches of `mask` (B, h * w) with the mean of their 3x3 neighbourhood.

    The mean is always over nine cells; those beyond the picture count as zeros, as released, so
    that patches at the edge are pulled towards zero. Tokens (B, 1 + h * w, D) in, the same out.
    """
    if not bool(mask.any()):
        return tokens
    patches = tokens[:, 1:]
    maps = patches.float().transpose(1, 2).unflatten(2, grid)
    mean = F.avg_pool2d(maps, 3, stride=1, padding=1).flatten(2).transpose(1, 2)
    mixed = ((1 - alpha) * patches.float() + alpha * mean).to(tokens.dtype)
    patches = torch.where(mask[..., None], mixed, patches)
    return torch.cat([tokens[:, :1], patches], dim=1)
