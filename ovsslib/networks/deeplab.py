"""A decoder of masks on CLIP's frozen tokens: torchvision's atrous pyramid, and a few convolutions on the pixels.

CLIP's patches say what is there; they are too coarse to say where it ends. So the tokens of some blocks go through the
pyramid of DeepLabV3 (Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017), are enlarged, and
are joined with features of the pixels themselves, as in the decoder of DeepLabV3+ (Chen et al., ECCV 2018, section 3.1). The
network ends in labels (a supervised reference) or in the space of the words (LSeg).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovsslib import (
    _torchvision,  # noqa: F401 - must come before anything that imports torchvision
)
from ovsslib.errors import ModelError

STRIDE = 4
"""Pixels of the picture for each cell of the output."""


class MaskDecoder(nn.Module):
    """Tokens and pixels of a window -> outputs for each cell of 4 x 4 pixels.

    Args:
        outputs: channels that come out. token_width: width of CLIP's tokens. blocks: 0-based blocks of the vision tower whose
            input tokens are read. width: channels that the tokens are brought to. pyramid: channels of the pyramid and
            behind it. rates: atrous rates of the pyramid, in patches. detail: channels of the convolutions on the pixels.
        residual: what comes out is added to CLIP's own features of the patches (:func:`word_features`), and is zero before
            training; outputs is the width of the joint space then.

    Raises ModelError for numbers that make no network.
    """

    def __init__(
        self,
        outputs: int,
        token_width: int,
        blocks: Sequence[int] = (3, 7, 11),
        width: int = 96,
        pyramid: int = 48,
        rates: Sequence[int] = (1, 2, 4),
        detail: int = 32,
        residual: bool = False,
    ) -> None:
        from torchvision.models.segmentation.deeplabv3 import ASPP
        from torchvision.ops.misc import Conv2dNormActivation

        super().__init__()
        numbers = (outputs, token_width, width, pyramid, *rates)
        if not blocks or min(blocks) < 0 or not rates or min(numbers) < 1 or detail < 2:
            raise ModelError(
                f"outputs {outputs}, token width {token_width}, blocks {list(blocks)}, width {width}, pyramid {pyramid}, "
                f"rates {list(rates)}, detail {detail}: give one or more blocks (0 or more) and rates, detail 2 or more, and "
                "the rest 1 or more"
            )
        self.blocks = tuple(blocks)
        self.token_width, self.residual = token_width, residual
        self.entry = Conv2dNormActivation(token_width * len(self.blocks), width, 1)
        self.pyramid = ASPP(width, list(rates), pyramid)
        self.detail = nn.Sequential(
            Conv2dNormActivation(3, detail // 2, 3, stride=2),
            Conv2dNormActivation(detail // 2, detail, 3, stride=2),
            Conv2dNormActivation(detail, detail, 3),
        )
        self.join = nn.Sequential(
            Conv2dNormActivation(pyramid + detail, pyramid, 3),
            Conv2dNormActivation(pyramid, pyramid, 3),
            nn.Conv2d(pyramid, outputs, 1),
        )
        if residual:
            for weight in self.join[-1].parameters():
                nn.init.zeros_(weight)
        for module in self.modules():
            # Dropout would draw from the global generator: without it a resumed training repeats to the bit.
            if isinstance(module, nn.Dropout):
                module.p = 0.0

    def forward(self, found: Tensor, pixels: Tensor) -> Tensor:
        """found: (B, C, h, w) of :meth:`read`. pixels: (B, 3, H, W) normalised as CLIP's, H and W multiples of 4. Returns
        (B, outputs, H / 4, W / 4)."""
        tokens = found[:, : self.token_width * len(self.blocks)]
        coarse = self.pyramid(self.entry(tokens))
        fine = self.detail(pixels)
        size = fine.shape[-2:]
        coarse = F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
        answer = self.join(torch.cat([coarse, fine], dim=1))
        if not self.residual:
            return answer
        start = found[:, tokens.shape[1] :]
        return answer + F.interpolate(start, size=size, mode="bilinear", align_corners=False)

    @torch.no_grad()
    def read(self, backbone: Any, pixels: Tensor) -> Tensor:
        """What the frozen CLIP says: pixels (B, 3, H, W), normalised -> (B, C, h, w) float32.

        C is blocks * token_width: tokens of each block, brought to mean 0 and variance 1, without the class token; behind them,
        for a residual decoder, the features in the joint space. Raises ModelError for a CLIP of another width or with fewer
        blocks.
        """
        if backbone.width != self.token_width or max(self.blocks) >= backbone.layers:
            raise ModelError(
                f"{backbone.name} has {backbone.layers} blocks of width {backbone.width}; this decoder reads the blocks "
                f"{list(self.blocks)} (counted from 0) of width {self.token_width}: open it on the model it was trained on"
            )
        out = backbone.trunk(pixels, inputs=self.blocks)
        maps = [F.layer_norm(out.inputs[n].float(), (self.token_width,)) for n in self.blocks]
        if self.residual:
            maps.append(word_features(backbone, out.tokens))
        return torch.cat(maps, dim=2)[:, 1:].transpose(1, 2).unflatten(2, out.grid)


def word_features(backbone: Any, tokens: Tensor) -> Tensor:
    """Input tokens of the last block (B, T, D) -> features in CLIP's joint space (B, T, dim) float32, unit length.

    The last block attends by softmax(q q^T) + softmax(k k^T) instead of its own weights (Wang et al., "SCLIP", ECCV 2024).
    """
    last = backbone.layers - 1
    tap = backbone.project(last, tokens)
    pairs = (x @ x.transpose(-2, -1) * backbone.scale for x in (tap.q, tap.k))
    mixed = sum(scores.softmax(dim=-1) for scores in pairs) @ tap.v
    tokens = tokens + backbone.blocks[last].ls_1(backbone.join(last, mixed))
    tokens = tokens + backbone.feed_forward(last, tokens)
    return F.normalize(backbone.head(tokens), dim=-1)
