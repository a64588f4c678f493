"""What one pass of a guide over a batch of pictures gives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ovsslib.errors import ModelError

#: Kinds of features that a reading can give.
KINDS = ("last", "penultimate", "q", "k", "v", "q+k")


@dataclass(frozen=True)
class GuideReading:
    """Tokens of a guide's last block. T = prefix + h * w tokens; the patches stand last, row by row; D is the width.

    Attributes:
        last: (B, T, D) output of the last block after the final LayerNorm.
        penultimate: (B, T, D) output of the block before it after the same LayerNorm.
        q, k, v: (B, T, D) projections of the last block, bias included, heads side by side.
        grid: (h, w) patches. heads: of the last block.
        rotary: whether the block turns q and k by position before they meet.
    """

    last: Tensor
    penultimate: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    grid: tuple[int, int]
    heads: int
    rotary: bool = False

    @property
    def prefix(self) -> int:
        """Number of tokens before the patches (the class token and registers)."""
        return self.last.shape[1] - self.grid[0] * self.grid[1]

    def features(self, kind: str = "last") -> Tensor:
        """Features (B, D, h, w) float32 of the patches, not of unit length.

        kind: "last", "penultimate", "q", "k", "v", or "q+k" (the sum of queries and keys). Raises ModelError for another, and for
        one that the guide does not have (a width of 0).
        """
        if kind not in KINDS:
            raise ModelError(f"kind {kind!r} of features: choose one of {', '.join(KINDS)}")
        tokens = self.q + self.k if kind == "q+k" else getattr(self, kind)
        if not tokens.shape[-1]:
            raise ModelError(
                f"this guide (SAM's encoder) has no features of the kind {kind!r}; choose 'last', or another guide"
            )
        return tokens[:, self.prefix :].float().transpose(1, 2).unflatten(2, self.grid)

    def class_attention(self) -> Tensor:
        """How much the class token looks at each patch in the last block: (B, heads, h, w) float32.

        The softmax runs over all tokens, so a map sums to less than one. Raises ModelError for guides with rotary
        positions, whose queries and keys are kept before they are turned.
        """
        if not self.q.shape[-1] or not self.prefix:
            raise ModelError("this guide has no class token; take a DINO or DINOv2 guide")
        if self.rotary:
            raise ModelError(
                "this guide turns queries and keys by position (DINOv3), so they do not give its attention; "
                "take a DINO or DINOv2 guide"
            )
        q, k = (
            part.float().unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.q, self.k)
        )
        weights = (q[:, :, :1] @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        return weights[:, :, 0, self.prefix :].unflatten(2, self.grid)
