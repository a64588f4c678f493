"""What a step of SceneCLIP's pretraining is made of: pixels, tokens, CLIP's contrastive loss, the learning rate."""

from __future__ import annotations

import math

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.clip.backbone import PIXEL_MEAN, PIXEL_STD

_LARGEST_SCALE = 100.0


def to_pixels(images: Tensor, device: torch.device) -> Tensor:
    """(B, S, S, 3) uint8 -> (B, 3, S, S) float32, normalised as CLIP's."""
    pixels = images.to(device).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (PIXEL_MEAN, PIXEL_STD))
    return ((pixels - mean) / std).contiguous()


def tokenise(captions: list[str], context: int) -> Tensor:
    """Captions -> (B, L) int64 tokens, L the longest caption's length, at most `context`."""
    tokens = open_clip.get_tokenizer("ViT-B-16")(captions, context_length=context)
    return tokens[:, : int((tokens != 0).sum(1).max())]


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, weights: list[float]) -> Tensor:
    """CLIP's loss: the mean of picture-to-caption and caption-to-picture cross-entropy.

    Args:
        images: (B, Q, E) unit rows, Q answers of the image tower, whose losses are weighted by `weights` (Q).
        texts: (B, E) unit rows.
        scale: logit scale, capped at 100.
    """
    target = torch.arange(texts.shape[0], device=texts.device)
    total = texts.new_zeros(())
    for query, weight in enumerate(weights):
        logits = scale.clamp(max=_LARGEST_SCALE) * images[:, query] @ texts.T
        total = (
            total
            + weight * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        )
    return total


def learning_rate(settings, step: int, progress: float) -> float:
    """Warm-up over steps, then half a cosine over progress (0 to 1) down to zero, in the final part from a lower peak.

    Args:
        settings: lr, warmup, final_share and final_lr of :class:`~ovsslib.scenes.pretraining.PretrainingSettings`.
    """
    start = 1 - settings.final_share
    if progress < start:
        share = progress / max(start, 1e-9)
        low = settings.final_lr
        rate = low + (1 - low) * (0.5 + 0.5 * math.cos(math.pi * share))
    else:
        share = (progress - start) / max(settings.final_share, 1e-9)
        rate = settings.final_lr * (0.5 + 0.5 * math.cos(math.pi * min(1.0, share)))
    return settings.lr * rate * min(1.0, (step + 1) / max(1, settings.warmup))
