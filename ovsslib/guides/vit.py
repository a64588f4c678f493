"""DINO's vision transformer, with the parts open that methods of this field read.

Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, and the released code's
arithmetic: class token first, patches row by row, no normalisation before the blocks, pre-norm blocks with epsilon 1e-6,
exact GELU, a final LayerNorm. Parameter names are the released checkpoints'.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovsslib.guides.reading import GuideReading

HEAD_WIDTH = 64
_EPSILON = 1e-6


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPSILON)
        self.attn = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=_EPSILON)
        self.mlp = _FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _PatchEmbed(nn.Module):
    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels)


class DinoTransformer(nn.Module):
    """The network of DINO's ViT-S/8, S/16, B/8, B/16, of MAE's encoder and of SceneDINO.

    width: D. depth: number of blocks. heads: of each block. patch: side of a patch in pixels. native: (rows, columns) of
    the position table. Weights are random; `load_state_dict` takes DINO's released names.
    """

    def __init__(
        self, width: int, depth: int, heads: int, patch: int, native: tuple[int, int]
    ) -> None:
        super().__init__()
        self.width, self.depth, self.heads = width, depth, heads
        self.patch, self.native = patch, native
        self.rule = "offset"  # of positions; "size" for MAE
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + native[0] * native[1], width))
        self.patch_embed = _PatchEmbed(width, patch)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=_EPSILON)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position table (1 + h * w, D) for a grid of (h, w) patches.

        Bicubic with the scale factors (h + 0.1) / h0 and (w + 0.1) / w0 of the released code, which shift the samples a
        little. The native grid has the table as it is.
        """
        table = self.pos_embed[0]
        if grid == self.native:
            return table
        return interpolate_positions(table, self.native, grid, offset=self.rule == "offset")

    def embed(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Pixels (B, 3, H, W) -> tokens (B, 1 + h * w, D) that enter the first block, and the grid (h, w)."""
        x = self.patch_embed(pixels)
        grid = (x.shape[-2], x.shape[-1])
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
        return x + self.positions(grid).to(x.dtype), grid

    def read(self, pixels: Tensor) -> GuideReading:
        """One pass over pictures (B, 3, H, W), normalised, with sides that are multiples of the patch."""
        x, grid = self.embed(pixels)
        for block in self.blocks[:-1]:
            x = block(x)
        penultimate, block = self.norm(x), cast(_Block, self.blocks[-1])
        q, k, v = block.attn.qkv(block.norm1(x)).chunk(3, dim=-1)
        heads = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        x = x + block.attn.proj(mixed)
        x = x + block.mlp(block.norm2(x))
        return GuideReading(self.norm(x), penultimate, q, k, v, grid, self.heads)


def interpolate_positions(
    table: Tensor, native: tuple[int, int], grid: tuple[int, int], offset: bool = True
) -> Tensor:
    """DINO's rule (`offset`), or a plain resize, for a position table (1 + h0 * w0, D) on another grid: (1 + h * w, D); the class row is kept."""
    patches = table[1:].float().reshape(1, *native, -1).permute(0, 3, 1, 2)
    if offset:
        factors = ((grid[0] + 0.1) / native[0], (grid[1] + 0.1) / native[1])
        patches = F.interpolate(patches, scale_factor=factors, mode="bicubic")
    else:
        patches = F.interpolate(patches, size=grid, mode="bicubic")
    return torch.cat([table[:1].float(), patches[0].flatten(1).T])
