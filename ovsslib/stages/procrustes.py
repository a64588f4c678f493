"""Procrustes attention of PEARL: keys are turned onto the queries before they are compared.

Source: PEARL (CVPR 2026, arXiv 2603.21528) as its released code computes it; everything in float32.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe, stage
from ovsslib.stages.contexts import AttentionContext

_EPSILON = 1e-6


@stage(
    "procrustes",
    point="attention",
    order=5,
    summary="keys rotated onto the queries before they meet (PEARL)",
)
@dataclass(frozen=True)
class ProcrustesSettings:
    """The attention of the last block becomes softmax(s q (k R)^T + alpha s k_c k_c^T), head by
    head.

    R maps the centred keys onto the centred queries in the least-squares sense; s is CLIP's scale.
    The weights take the place of those that `attention.terms` would give; "value" saves computing
    these. What stands around them (`attention.residual`, `attention.feed_forward`) stays the
    recipe's.

    Attributes:
        alpha: share of the centred key-key scores; 0 leaves them out (published: 0.08; Cityscapes,
            ADE20K 0.3).
        solver: "polar" takes R by `iterations` Newton-Schulz steps, as released; they do not
            converge, so R shrinks directions of small singular values. "svd" is the paper's
            rotation U V^T.
        iterations: Newton-Schulz steps of "polar" (published: 5).
    """

    version: ClassVar[int] = 1
    alpha: float = 0.08
    solver: Literal["polar", "svd"] = "polar"
    iterations: int = 5

    def __post_init__(self):
        if self.alpha < 0:
            raise RecipeError(f"procrustes.alpha={self.alpha}: must be 0 (no key-key term) or more")
        if self.iterations < 1:
            raise RecipeError(f"procrustes.iterations={self.iterations}: must be 1 or more")

    @property
    def capabilities(self) -> frozenset[str]:
        """ONNX has no singular value decomposition."""
        exact = {"untraceable"} if self.solver == "svd" else set()
        return frozenset({"replaces_weights", *exact})

    def refuse(self, recipe: Recipe) -> str | None:
        """Why these settings cannot work with the rest of a recipe."""
        for name, settings in recipe.at("attention"):
            if settings in recipe.stages_with("feed_back"):
                return f"its weights take the place of the scores that {name} would feed back into"
        return None

    def inert(self, recipe: Recipe) -> dict[str, str]:
        """Fields that were changed and cannot move a label, each with the reason."""
        if self.solver == "svd" and self.iterations != 5:
            return {"iterations": "solver is 'svd'"}
        return {}

    def on_weights(self, weights: Tensor, context: AttentionContext) -> Tensor:
        """Weights (B, heads, T, T) of the last block; those handed in are not looked at."""
        tap = context.trunk.taps[context.backbone.layers - 1]
        attention = procrustes_weights(
            tap.q, tap.k, context.backbone.scale, self.alpha, self.solver, self.iterations
        )
        return attention.to(tap.v.dtype)


def procrustes_weights(
    q: Tensor, k: Tensor, scale: float, alpha: float, solver: str = "polar", iterations: int = 5
) -> Tensor:
    """PEARL's attention weights (..., T, T) float32 for queries and keys (..., T, d), class token
    first.
    """
    q, k = q.float(), k.float()
    q_centred, k_centred = centred(q, k)
    rotation = alignment(cross_covariance(q_centred, k_centred), solver, iterations)
    scores = scale * (q @ (k @ rotation).transpose(-2, -1))
    if alpha:
        scores = scores + alpha * scale * (k_centred @ k_centred.transpose(-2, -1))
    return scores.softmax(dim=-1)


def centred(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys (..., T, d) minus their means, both weighed by the lengths of the queries.

    The class token (first row) has no weight in the means, but is centred like the rest.
    """
    weight = q.norm(dim=-1, keepdim=True).clone()
    weight[..., :1, :] = 0
    weight = weight / (weight.sum(dim=-2, keepdim=True) + _EPSILON)
    return tuple(x - (weight * x).sum(dim=-2, keepdim=True) for x in (q, k))


def cross_covariance(q_centred: Tensor, k_centred: Tensor) -> Tensor:
    """M = k_c^T q_c over all tokens, class token included: (..., T, d) twice -> (..., d, d)."""
    return k_centred.transpose(-2, -1) @ q_centred


def alignment(matrix: Tensor, solver: str = "polar", iterations: int = 5) -> Tensor:
    """R (..., d, d) for M = k_c^T q_c: its polar factor by Newton-Schulz steps, or U V^T exactly
    ("svd").
    """
    if solver == "svd":
        u, _, vh = torch.linalg.svd(matrix)
        return u @ vh
    gram = matrix.transpose(-2, -1) @ matrix
    norm = gram.flatten(-2).norm(dim=-1)[..., None, None].clamp_min(_EPSILON)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    y, z = gram / norm + _EPSILON * eye, eye.expand_as(gram)
    for _ in range(iterations):
        step = (3 * eye - z @ y) / 2
        y, z = y @ step, step @ z
    return matrix @ z / norm.sqrt()
