"""SAM as a second model: its encoder's last attention, and masks for prompts (Trident needs both).

Source: Kirillov et al., "Segment Anything", ICCV 2023, as the package `transformers` computes it; Shi et al., "Harnessing
Vision Foundation Models for High-Performance, Training-Free Open Vocabulary Segmentation" (Trident), ICCV 2025.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovsslib.errors import ImageError, ModelError
from ovsslib.guides.everything import open_segmenter


@dataclass(frozen=True)
class SamLook:
    """What SAM saw in a picture. grid: (h, w), the part of SAM's grid that the picture fills, n = h * w.

    values: (heads, h, w, d) float32 values of the last encoder block. attention: (heads, n, n) float32 weights of that block
    after the softmax, cut to the picture's part and not normalised again. embeddings: for :meth:`Sam.predict`. size: (H, W)
    of the picture. prompt_size: (rows, columns) of the picture as SAM sees it.
    """

    grid: tuple[int, int]
    values: Tensor
    attention: Tensor
    embeddings: Tensor
    size: tuple[int, int]
    prompt_size: tuple[int, int]


class Sam:
    """A frozen SAM. Make one with :func:`load_sam`. Attributes: `name`, `weights_hash`, `patch_size`, `device`."""

    def __init__(self, name: str, model: str | Path | None, device: str | torch.device) -> None:
        """model: see `ovsslib.guides.everything.open_segmenter`, which says what is raised."""
        self.network, self.processor, digest = open_segmenter("sam", model, device, "eager")
        self.name, self.weights_hash, self.device = name, digest[:16], torch.device(device)
        vision = self.network.config.vision_config
        if vision.num_hidden_layers - 1 not in vision.global_attn_indexes:
            raise ModelError(
                f"the last block of {name} attends inside windows only; take a SAM whose last block is global, such as "
                "facebook/sam-vit-base"
            )
        self.patch_size, self.heads = vision.patch_size, vision.num_attention_heads

    @torch.no_grad()
    def read(self, image: np.ndarray) -> SamLook:
        """One pass over a picture (H, W, 3) uint8 RGB. Raises ImageError for another array.

        Trident stretches the picture to multiples of 16 first; that is the caller's.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ImageError(
                f"SAM takes (H, W, 3) uint8 RGB, not {image.shape} {image.dtype}; convert the picture first"
            )
        inputs = self.processor(images=[image], return_tensors="pt")
        rows, columns = inputs["reshaped_input_sizes"][0].tolist()
        h, w = rows // self.patch_size, columns // self.patch_size
        if not h or not w:
            raise ImageError(
                f"a picture of {image.shape[0]}x{image.shape[1]} pixels is narrower than one of SAM's patches; "
                "cut it to a wider one"
            )
        encoder, outputs = self.network.vision_encoder, []
        hook = encoder.layers[-1].attn.qkv.register_forward_hook(
            lambda module, arguments, output: outputs.append(output)
        )
        try:
            out = encoder(inputs["pixel_values"].to(self.device), output_attentions=True)
        finally:
            hook.remove()
        side = outputs[0].shape[1]
        values = outputs[0][0].unflatten(-1, (3, self.heads, -1))[:h, :w, 2].permute(2, 0, 1, 3)
        weights = out.attentions[-1].reshape(self.heads, side, side, side, side)
        weights = weights[:, :h, :w, :h, :w].flatten(3).flatten(1, 2)
        return SamLook(
            (h, w),
            values.float().contiguous(),
            weights.float().contiguous(),
            out.last_hidden_state,
            image.shape[:2],
            (rows, columns),
        )

    @torch.no_grad()
    def predict(
        self, look: SamLook, points: Tensor, boxes: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One mask for each of n prompts: logits (n, s, s) float32 on SAM's low-resolution square (s 256 for the released
        models; the picture fills its top left part), and predicted IoUs (n,) float32.

        points: (n, 2) x, y. boxes: (n, 4) left, top, right, bottom; both in pixels of the picture. mask: (s, s) logits, one
        for all prompts. Raises ImageError for shapes that do not go together.
        """
        if points.ndim != 2 or boxes.shape != (len(points), 4) or points.shape[1] != 2:
            raise ImageError(
                f"prompts of shapes {tuple(points.shape)} and {tuple(boxes.shape)}: give points (n, 2) and boxes (n, 4)"
            )
        scale = torch.tensor(
            [look.prompt_size[1] / look.size[1], look.prompt_size[0] / look.size[0]]
        )
        out = self.network(
            image_embeddings=look.embeddings,
            input_points=(points.float() * scale)[None, :, None].to(self.device),
            input_labels=torch.ones(1, len(points), 1, dtype=torch.int64, device=self.device),
            input_boxes=(boxes.float() * scale.repeat(2))[None].to(self.device),
            input_masks=None if mask is None else mask[None, None].float().to(self.device),
            multimask_output=False,
        )
        return out.pred_masks[0, :, 0].float().cpu(), out.iou_scores[0, :, 0].float().cpu()


def load_sam(model: str | Path | None = None, device: str | torch.device = "cpu") -> Sam:
    """Open a SAM: a hub name (fetched if it is not in the local cache), a folder, or None for facebook/sam-vit-base in the
    local cache. Raises ModelError (missing, of another kind, no connection) and MissingPackageError (no transformers)."""
    name = "facebook/sam-vit-base" if model is None else str(model)
    return Sam(name if not Path(name).exists() else Path(name).name, model, device)
