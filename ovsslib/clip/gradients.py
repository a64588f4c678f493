"""Gradients through CLIP's last block: which channels of its input make a word more probable.

The blocks before it run without gradients, so what a backward pass must keep is one block's worth, whatever the
depth of the tower.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.clip.backbone import Backbone
from ovsslib.clip.memory import check_free, memory_errors
from ovsslib.errors import ImageError


def softmax_gradcam(
    backbone: Backbone,
    tokens: Tensor,
    rows: Tensor,
    words: int,
    logit_scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Grad-CAM of words that compete in a softmax.

    With a = ln_1 of the last block's input and z the mean over patches of ln_post behind the block, in the joint
    space: y = softmax(logit_scale cos(z, rows)); w_k = mean over patches of d y_k / d a; map_k = relu(a w_k).
    Everything is computed in float32, whatever the backbone's precision: in half precision small gradients vanish.

    Args:
        backbone: the open CLIP.
        tokens: (1, T, width) input of the last block for one picture, class token first.
        rows: (K + B, D) unit text rows, the words first, then those that only compete.
        words: K.
        logit_scale: None takes the tower's own.

    Returns:
        y (K + B,), and the maps (K, P), P = T - 1, not scaled; float32.

    Raises:
        ImageError: more than one picture at a time. MemoryBudgetError: the block does not fit.

    Source: CLIP-ES, section 3.1 (softmax-GradCAM), and its released code.
    """
    if tokens.ndim != 3 or len(tokens) != 1:
        raise ImageError(
            f"Grad-CAM takes one picture at a time, tokens (1, T, width), not {tuple(tokens.shape)}"
        )
    count = tokens.shape[1]
    check_free(
        4 * 4 * backbone.heads * count * count, backbone.device,
        f"gradients through a block of {count} tokens", "give the stage a smaller short_side",
    )  # fmt: skip
    block: Any = backbone.exact_last_block  # open_clip's parts have no declared types
    scale = logit_scale or backbone.logit_scale
    tokens, rows = tokens.detach().float(), rows.to(backbone.device).float()
    with torch.enable_grad(), memory_errors():
        seen = backbone.normalise(block.ln_1, tokens).requires_grad_()
        qkv = F.linear(seen, block.attn.in_proj_weight, block.attn.in_proj_bias)
        q, k, v = qkv.reshape(1, count, 3, backbone.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out = tokens + block.ls_1(block.attn.out_proj(mixed))
        out = out + block.ls_2(block.mlp(backbone.normalise(block.ln_2, out)))
        pooled = F.normalize(backbone.head(out)[0, 1:].mean(dim=0), dim=0)
        probabilities = (scale * (rows @ pooled)).softmax(dim=0)
        patches, maps = seen.detach()[0, 1:], []
        for word in range(words):
            (slope,) = torch.autograd.grad(probabilities[word], seen, retain_graph=word + 1 < words)
            maps.append((patches @ slope[0, 1:].mean(dim=0)).relu())
    stacked = torch.stack(maps) if maps else patches.new_zeros(0, count - 1)
    return probabilities.detach(), stacked
