"""The two towers as modules that can be traced for any number of windows, any height and any width.

What depends on the size of a window (the positional table, neighbourhoods) is computed inside the graph. Resizing
the table is linear and separable: it is written as one product per axis with a matrix of the kernel's weights, which
every runtime computes alike, where their own resize operators differ in the rounding of scales.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovsslib.clip.backbone import Backbone
from ovsslib.clip.geometry import squared_distances
from ovsslib.errors import RecipeError

SWITCHES = ("qk", "qq", "kk", "vv", "value")
"""Order of the input `terms` of a graph with switches."""

_CUBIC = -0.75  # PyTorch's bicubic kernel; -0.5 with antialiasing


def axis_weights(size: int, target: int, ratio: Any, kernel: str) -> Tensor:
    """(target, size): interpolation of `size` cells to `target` as a matrix, as PyTorch's own does it.

    Args:
        ratio: cells per target cell, a number or a 0-d tensor.
        kernel: "cubic", "linear", or "cubic-antialias" (its support grows with the ratio).
    """
    at = torch.arange(target, dtype=torch.float32)
    cells = torch.arange(size, dtype=torch.float32)
    centre = (at + 0.5) * ratio - 0.5
    if kernel == "cubic-antialias":
        stretch = torch.as_tensor(ratio, dtype=torch.float32).clamp_min(1.0)
        weights = _cubic((cells[None] - centre[:, None]) / stretch, -0.5)
        return weights / weights.sum(dim=1, keepdim=True)
    if kernel == "linear":
        centre = centre.clamp_min(0.0)
    first, matrix = centre.floor(), torch.zeros(1)
    taps = (-1, 0, 1, 2) if kernel == "cubic" else (0, 1)
    for tap in taps:
        distance = centre - (first + tap)
        weight = _cubic(distance, _CUBIC) if kernel == "cubic" else 1 - distance.abs()
        place = (first + tap).clamp(0, size - 1)
        matrix = matrix + weight[:, None] * (cells[None] == place[:, None])
    return matrix


def _cubic(x: Tensor, a: float) -> Tensor:
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


class Positions(nn.Module):
    """`Backbone.positions` for a window of any size: (H, W) pixels -> (1 + h * w, width), class token first."""

    first: Tensor
    patches: Tensor

    def __init__(self, backbone: Backbone, how: str):
        super().__init__()
        visual: Any = backbone.visual
        table = visual.positional_embedding.detach().float()
        self.register_buffer("first", table[:1].clone())
        self.register_buffer("patches", table[1:].reshape(*backbone.base_grid, -1).clone())
        self.base, self.how, self.native = backbone.base_grid, how, backbone.image_size

    def forward(self, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
        """The table for a window of `size` pixels and `grid` patches."""
        keeps_table = self._keeps_table(size, grid)
        matrices = []
        for side, base in zip(grid, self.base, strict=True):
            cells = torch.full((), side, dtype=torch.float32)
            ratio = base / (cells + 0.1 if self.how == "sclip" else cells)
            matrix = axis_weights(base, side, ratio, self._kernel())
            same = torch.arange(side)[:, None] == torch.arange(base)[None]
            matrices.append(torch.where(keeps_table, same.float(), matrix))
        down, across = matrices
        wide = torch.einsum("hr,rcd->hcd", down, self.patches)
        table = torch.einsum("wc,hcd->hwd", across, wide)
        table = torch.cat([self.first, table.flatten(0, 1)])
        if self.how.startswith("bilinear-half"):
            table = torch.where(keeps_table, table, table.half().float())
        return table

    def _kernel(self) -> str:
        if self.how.startswith("bilinear"):
            return "linear"
        return "cubic-antialias" if self.how == "size-antialias" else "cubic"

    def _keeps_table(self, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
        """0-d bool: whether the table is taken as it is (`Backbone._keeps_table`, inside the graph)."""
        if self.how == "bilinear-half-always":
            return torch.zeros((), dtype=torch.bool)
        sides = torch.stack([torch.full((), n, dtype=torch.int64) for n in (*grid, *size)])
        base = torch.tensor([*self.base])
        same_grid = (sides[:2] == base).all()
        if self.how == "bilinear-half":
            return same_grid & (sides[2:] == torch.tensor([*self.native])).all()
        square = sides[2] == sides[3]
        return same_grid & square if self.base[0] == self.base[1] else same_grid


class VisionGraph(nn.Module):
    """Trunk and last block of a segmenter, windows at a time.

    Args:
        segmenter: whose recipe it is; one that `why_not_one_graph` has nothing against.
    """

    def __init__(self, segmenter: Any):
        super().__init__()
        backbone = copy.copy(segmenter.backbone)
        self.visual = backbone.visual  # so that the weights are found
        self.positions = Positions(backbone, segmenter.windows.positions)
        backbone.embed = self._embed
        self.backbone = backbone
        self.segmenter = type(segmenter)(backbone, segmenter.recipe)

    def _embed(self, pixels: Tensor, positions: str = "") -> tuple[Tensor, tuple[int, int]]:
        """`Backbone.embed` with the positional table computed from the size of the pixels."""
        visual: Any = self.visual
        size = (pixels.shape[-2], pixels.shape[-1])
        x = F.conv2d(pixels, visual.conv1.weight, stride=self.backbone.patch_size)
        grid = (x.shape[-2], x.shape[-1])
        x = x.flatten(2).transpose(1, 2)
        first = visual.class_embedding.expand(x.shape[0], 1, -1)
        x = torch.cat([first, x], dim=1) + self.positions(size, grid)
        return self.backbone.normalise(visual.ln_pre, x), grid

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) normalised -> features (B, D, h, w) and the class token (B, D), projected, not unit length."""
        segmenter = self.segmenter
        trunk = segmenter.trunk(pixels)
        block = segmenter.last_block
        tokens = block.run(block.context(trunk, pixels))
        if tokens.class_token is None:
            raise RecipeError(
                f"recipe {segmenter.recipe.name!r} cannot be one graph: its last block gives no class token"
            )
        return tokens.map(), tokens.class_token


class SwitchedVisionGraph(VisionGraph):
    """The same with the settings of the last block as inputs, so that one graph serves many recipes."""

    def forward(  # type: ignore[override]  # an exported graph is called by its own inputs
        self,
        pixels: Tensor,
        terms: Tensor,
        gaussian: Tensor,
        residual: Tensor,
        feed_forward: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features, class token, and the attention (B, T, T) averaged over heads.

        Args:
            pixels: (B, 3, H, W).
            terms: (5,) factors of the softmaxes of qk, qq, kk, vv and of the identity.
            gaussian: (2,) strength of the neighbourhood (0 or 1) and its standard deviation in patches.
            residual, feed_forward: (1,) 1 to keep them, 0 to drop them.
        """
        backbone = self.backbone
        trunk = self.segmenter.trunk(pixels)
        last = backbone.layers - 1
        tap = trunk.taps[last]
        near = torch.exp(-squared_distances(trunk.grid) / (2 * gaussian[1] * gaussian[1]))
        omega = F.pad(near * gaussian[0], (1, 0, 1, 0))
        weights = terms[4] * torch.eye(trunk.tokens.shape[1])
        for factor, term in zip(terms, SWITCHES[:4], strict=False):
            left, right = (getattr(tap, letter) for letter in term)
            score = (left * backbone.scale) @ right.transpose(-2, -1)
            weights = weights + factor * (score + omega).softmax(dim=-1)
        mixed = backbone.blocks[last].ls_1(backbone.join(last, weights @ tap.v))
        tokens = residual * trunk.tokens + mixed
        tokens = tokens + feed_forward * backbone.feed_forward(last, tokens)
        projected = backbone.head(tokens)
        patches = projected[:, 1:].transpose(1, 2)
        features = patches.reshape(pixels.shape[0], -1, *trunk.grid)
        return features, projected[:, 0], weights.mean(dim=1)


class _KnownTokens(nn.Module):
    """A token table without the rows that were never trained: they are zero."""

    place: Tensor
    rows: Tensor

    def __init__(self, table: Tensor, ids: Tensor):
        super().__init__()
        place = torch.full((len(table),), len(ids), dtype=torch.int32)
        place[ids] = torch.arange(len(ids), dtype=torch.int32)
        self.register_buffer("place", place)
        rows = torch.cat([table[ids], table.new_zeros(1, table.shape[1])])
        self.register_buffer("rows", rows)

    def forward(self, token_ids: Tensor) -> Tensor:
        """(N, L) -> (N, L, width)."""
        return self.rows[self.place[token_ids].long()]


class TextGraph(nn.Module):
    """CLIP's text tower: tokens (N, L) int64 -> text features (N, D), not of unit length; L up to the context's."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.text = backbone
        if backbone.known_token_ids is not None:
            model: Any = copy.copy(backbone.model)
            model._modules = dict(model._modules)
            table = model.token_embedding.weight.detach()
            model.token_embedding = _KnownTokens(table, backbone.known_token_ids.cpu())
            self.text = copy.copy(backbone)
            self.text.model = model
        self.model = self.text.model

    def forward(self, token_ids: Tensor) -> Tensor:
        """`Backbone.encode_text`."""
        return self.text.encode_text(token_ids)
