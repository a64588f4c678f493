"""The optimiser of SceneCLIP's pretraining: orthogonalised momentum for block matrices, AdamW for the rest.

A weight matrix of a transformer block moves by the orthogonal factor of its momentum, so that all directions of the
matrix learn at the same pace; everything else (embeddings, gains, biases, the two projections) is left to AdamW.
Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); the update scale that
lets both parts share one learning rate is that of J. Liu et al., "Muon is scalable for LLM training" (2025), section 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

# Coefficients of the odd quintic a s + b s^3 + c s^5 (Jordan et al.) that drives singular values in (0, 1] towards 1.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonal_factor(
    matrix: torch.Tensor, iterations: int = 5, dtype: torch.dtype = torch.bfloat16
) -> torch.Tensor:
    """The nearest orthogonal matrix, roughly: every singular value brought to between about 0.7 and 1.2.

    ``matrix``: (m, n), any float type. ``dtype``: it is computed in; bfloat16 is exact enough for a direction, float32 is
    faster on processors that lack the former. Returns (m, n) of that type.
    """
    a, b, c = QUINTIC
    x = matrix.to(dtype)
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.T


class MatrixMomentum(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, for two-dimensional weights of transformer blocks.

    ``parts``: a packed weight (q, k and v stacked by rows) is split by rows into square pieces, each made orthogonal by
    itself, computed in ``dtype``. ``lr`` is on AdamW's scale: the update of an (m, n) piece has root mean square 0.2. Weight decay is decoupled.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__(
            list(parameters), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        )
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # None, but typed as PyTorch's, which may be a loss
        """One update from the gradients at hand."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                direction = weight.grad.lerp(momentum, group["momentum"])
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                rows, columns = weight.shape
                height = columns if rows == 3 * columns else rows
                scale = 0.2 * math.sqrt(max(height, columns))
                for piece, towards in zip(
                    weight.split(height), direction.split(height), strict=True
                ):
                    factor = orthogonal_factor(towards, dtype=self.dtype).to(weight.dtype)
                    piece.add_(factor, alpha=-group["lr"] * scale)


def make_optimisers(
    model: torch.nn.Module, lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """The optimisers of a CLIP: :class:`MatrixMomentum` for the block matrices of both towers, AdamW for the rest. Weights
    that need no gradient are left out.

    Only matrices (not gains, biases, embeddings of tokens and positions, the class token, the logit scale) decay.
    """
    blocks, matrices, without_decay = [], [], []
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        if "resblocks" in name and weight.ndim == 2:
            blocks.append(weight)
        elif name in ("visual.conv1.weight", "visual.proj", "text_projection"):
            matrices.append(weight)
        else:
            without_decay.append(weight)
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": without_decay, "weight_decay": 0.0},
    ]
    return [
        MatrixMomentum(blocks, lr, weight_decay=weight_decay),
        torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=1e-8),
    ]
