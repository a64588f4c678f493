"""SAM's image encoder as a guide: the output of its neck, as ProxyCLIP reads it.

Source: Kirillov et al., "Segment Anything", ICCV 2023, as the package `transformers` computes it; Lan et al., "ProxyCLIP",
ECCV 2024, for how a window is shown to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ovsslib.guides.everything import open_segmenter
from ovsslib.guides.reading import GuideReading


class SamEncoder(nn.Module):
    """The image encoder of a SAM, read behind its neck.

    Every picture is stretched to the encoder's own square (1024 pixels for the released models), so the grid of its
    features is always the same (64 x 64), whatever the picture's size and shape.
    """

    def __init__(self, sam: nn.Module) -> None:
        """sam: a `SamModel` of transformers; its prompt encoder and mask decoder are not kept."""
        super().__init__()
        parts: Any = sam  # which have no declared types
        config = parts.config.vision_config
        self.encoder = parts.vision_encoder
        self.side = config.image_size
        self.width, self.heads = config.output_channels, config.num_attention_heads
        self.depth = config.num_hidden_layers
        self.patch = 1  # pictures of any size are taken

    def read(self, pixels: Tensor) -> GuideReading:
        """One pass over pictures (B, 3, H, W), normalised; the reading has "last" only, without a class token."""
        square = F.interpolate(pixels, size=(self.side, self.side), mode="bilinear")
        maps = self.encoder(square).last_hidden_state
        tokens = maps.flatten(2).transpose(1, 2)
        none = tokens[..., :0]
        return GuideReading(
            tokens, none, none, none, none, (maps.shape[-2], maps.shape[-1]), self.heads
        )


def open_sam_encoder(folder: str | Path) -> tuple[SamEncoder, str]:
    """The encoder of a SAM in a folder, and the SHA-256 of its weights. Raises what `open_segmenter` raises."""
    network, _, digest = open_segmenter("sam", folder)
    return SamEncoder(network), digest
