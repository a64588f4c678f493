"""Sink channels: the few channels of a vision tower that are over-active on patches which collect
attention.

They belong to one set of weights. RF-CLIP (AAAI 2026) publishes them for OpenAI's ViT-B/16 and
ViT-L/14; for other weights `fit_sink_channels` looks for them on unlabelled pictures and gives a
record of what it saw.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovsslib.errors import ModelError, RecipeError
from ovsslib.paths import write_file

# Per tower: first 16 hex digits of OpenAI's own file, and the channels in RF-CLIP's code (the
# second in a comment).
_RELEASED = {
    "ViT-B-16": ("5806e77cd80f8b59", (4, 162, 189, 326, 429, 474, 633, 713)),
    "ViT-L-14": ("b8cca3fd41ae0c99", (250, 261, 437, 650, 720, 779, 936, 1005)),
}
_FEWEST_PICTURES = 50


def channel_shares(patches: Tensor) -> Tensor:
    """Share of every channel in a patch's sum, both above the patch's minimum: (..., D) -> (..., D)
    float32.

    Shares of a patch sum to 1; an even patch would have 1 / D everywhere.
    """
    above = patches.float()
    above = above - above.amin(dim=-1, keepdim=True)
    return above / above.sum(dim=-1, keepdim=True).clamp_min(1e-8)


def released_channels(backbone: Any) -> tuple[int, ...]:
    """The published sink channels of these weights.

    Raises RecipeError for weights other than OpenAI's ViT-B/16 and ViT-L/14, and says what can be
    done.
    """
    name = backbone.name.removesuffix("-quickgelu").removesuffix("-quickgelu-openai")
    digest, channels = _RELEASED.get(name, ("", ()))
    if channels and (backbone.pretrained == "openai" or backbone.weights_hash == digest):
        return channels
    raise RecipeError(
        "sink_denoise.channels='released' are channels of OpenAI's ViT-B/16 and ViT-L/14 and mean "
        f"nothing in {backbone.name!r} (pretrained={backbone.pretrained!r}, weights "
        f"{backbone.weights_hash}): pass channels of these weights "
        "(ovsslib.clip.sinks.fit_sink_channels looks for some), or turn the stage off with "
        "sink_denoise=false"
    )


@dataclass(frozen=True)
class SinkRecord:
    """What a fit of sink channels saw.

    Attributes:
        model, pretrained, weights_hash: of the weights.
        sigma: a channel counts as over-active in a patch if its share exceeds sigma / width.
        pictures: how many were looked at.
        channels: those found, most frequent first.
        frequency: per channel found, share of the pictures in which it was over-active.
        largest_share: the largest share of any channel on any of the patches looked at, times the
            width.
    """

    model: str
    pretrained: str | None
    weights_hash: str
    sigma: float
    pictures: int
    channels: tuple[int, ...]
    frequency: tuple[float, ...]
    largest_share: float

    def changes(self) -> dict[str, dict[str, Any]]:
        """The change of a recipe (`Recipe.but`) that uses what was found. Raises RecipeError if
        nothing was.
        """
        if not self.channels:
            raise RecipeError(
                f"the weights {self.weights_hash} of {self.model!r} have no sink channels at "
                f"sigma={self.sigma}: in {self.pictures} pictures the largest share was "
                f"{self.largest_share:.2f} / width; turn the stage off with sink_denoise=false"
            )
        return {"sink_denoise": {"channels": self.channels, "sigma": self.sigma}}

    def save(self, path: str | Path) -> Path:
        """Write the record as JSON. Raises DataError if it cannot be written."""
        return write_file(path, (json.dumps(asdict(self), indent=1) + "\n").encode())


@torch.no_grad()
def fit_sink_channels(
    backbone: Any,
    pictures: Iterable[Tensor],
    sigma: float = 5.0,
    most: int = 8,
    share_of_patches: float = 0.05,
) -> SinkRecord:
    """Look for sink channels of any weights on unlabelled pictures.

    In the upper half of the plain trunk, the patches that receive most attention
    (`share_of_patches` of them, at least one per block; heads and rows averaged) are taken. A
    channel counts in a picture if its share exceeds sigma / width on one of them; channels that
    count in more than half of the pictures are kept, at most `most`.

    Args:
        backbone: an open CLIP.
        pictures: at least 50 of (3, H, W), CLIP-normalised.

    Raises:
        RecipeError: sigma, most or share_of_patches out of range.
        ModelError: fewer than 50 pictures.
    """
    if sigma <= 0 or most < 1 or not 0 < share_of_patches <= 1:
        raise RecipeError(
            f"fit_sink_channels: sigma={sigma}, most={most}, share_of_patches={share_of_patches}: "
            "need sigma above 0, most of 1 or more, and a share in (0, 1]"
        )
    seen, largest, total = torch.zeros(backbone.width), torch.zeros(backbone.width), 0
    for picture in pictures:
        shares = _largest_shares(backbone, picture[None], share_of_patches)
        seen += shares > sigma / backbone.width
        largest = torch.maximum(largest, shares)
        total += 1
    if total < _FEWEST_PICTURES:
        raise ModelError(
            f"fit_sink_channels: {total} pictures are too few to tell a channel from chance; give "
            f"at least {_FEWEST_PICTURES}"
        )
    frequency = seen / total
    # the most frequent first; among equals the one with the larger share
    ranked = sorted(
        (frequency > 0.5).nonzero().flatten().tolist(),
        key=lambda c: (-float(seen[c]), -float(largest[c])),
    )[:most]
    return SinkRecord(
        backbone.name, backbone.pretrained, backbone.weights_hash, sigma, total, tuple(ranked),
        tuple(round(float(frequency[c]), 4) for c in ranked), float(largest.max() * backbone.width),
    )  # fmt: skip


def _largest_shares(backbone: Any, pixels: Tensor, share_of_patches: float) -> Tensor:
    """Largest share (D,) of every channel on the patches of one picture that receive most
    attention.
    """
    upper = range(backbone.layers // 2, backbone.layers)
    trunk = backbone.trunk(pixels, taps=upper, inputs=upper)
    best = torch.zeros(backbone.width)
    for index in upper:
        tap = trunk.taps[index]
        weights = ((tap.q * backbone.scale) @ tap.k.transpose(-2, -1)).float().softmax(dim=-1)
        received = weights.mean(dim=(0, 1, 2))[1:]
        top = received.topk(max(1, round(share_of_patches * len(received)))).indices
        shares = channel_shares(trunk.inputs[index][0, 1:][top])
        best = torch.maximum(best, shares.amax(dim=0).cpu())
    return best
