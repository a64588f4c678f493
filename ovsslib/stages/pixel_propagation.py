"""LPOSS+: scores propagated over the pixels of the network picture, between like colours (CVPR 2025)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ovsslib.errors import RecipeError
from ovsslib.recipe import stage
from ovsslib.stages.contexts import ImageContext
from ovsslib.stages.patch_graph import conjugate_gradient

QUERIES_AT_ONCE = 8
_LAB_SCALE = (100.0, 128.0, 128.0)
_RGB_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_WHITE = (0.95047, 1.0, 1.08883)


@stage(
    "pixel_propagation",
    point="refine",
    order=30,
    summary="scores spread between near pixels of like colour (LPOSS+)",
)
@dataclass(frozen=True)
class PixelPropagationSettings:
    """Solves (I - alpha D^-1/2 W D^-1/2) z = y for the stitched scores y of each query, at the network picture's size.

    W joins every pixel to those of the square around it with weight `exp(-|c_a - c_b| / tau)`, c = CIE Lab over
    (100, 128, 128). Useful behind any recipe; in the release it follows the propagation over patches.

    Attributes:
        reach: side of the square in pixels, odd.
        tau: difference of colour at which an edge falls to 1/e.
        alpha: weight of the graph, below 1.
        iterations: of the solver; released: 10, which is far from the solution and part of the method.
    """

    version: ClassVar[int] = 1

    reach: int = 13
    tau: float = 0.01
    alpha: float = 0.95
    iterations: int = 10

    def __post_init__(self):
        if self.reach < 3 or self.reach % 2 == 0:
            raise RecipeError(
                f"pixel_propagation.reach={self.reach}: use an odd number of pixels from 3"
            )
        if self.tau <= 0:
            raise RecipeError(f"pixel_propagation.tau={self.tau}: must be above 0")
        if not 0 <= self.alpha < 1:
            raise RecipeError(f"pixel_propagation.alpha={self.alpha}: must lie in [0, 1)")
        if self.iterations < 1:
            raise RecipeError(f"pixel_propagation.iterations={self.iterations}: must be 1 or more")

    def inert(self, recipe: object) -> str | None:
        """Without weight the graph changes nothing."""
        return "alpha is 0" if self.alpha == 0 else None

    def on_network_logits(self, logits: Tensor, context: ImageContext) -> Tensor:
        """Stitched scores (Q, h, w) at the network picture's size -> the same, propagated."""
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in context.backbone.normalisation)
        pixels = context.network_picture[0].float().cpu() * std + mean
        colours = lab((pixels / 255).clamp(0, 1)).to(logits.device)
        return spread(logits, colours, self.reach, self.tau, self.alpha, self.iterations)


def lab(rgb: Tensor) -> Tensor:
    """sRGB (3, H, W) in [0, 1] -> CIE Lab (3, H, W), L in [0, 100]; white point D65, constants as released."""
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055).pow(2.4), rgb / 12.92)
    xyz = torch.einsum("cd,dhw->chw", torch.tensor(_RGB_TO_XYZ).to(rgb), linear)
    xyz = xyz / torch.tensor(_WHITE).to(rgb)[:, None, None]
    cube = torch.where(xyz > 0.008856, xyz.clamp_min(1e-12).pow(1 / 3), 7.787 * xyz + 4 / 29)
    x, y, z = cube
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


Edge = tuple[tuple[slice, slice], tuple[slice, slice], Tensor]
"""Where pixels and their neighbours at one offset lie, and the weights of the edges between them."""


def pixel_edges(colours: Tensor, reach: int, tau: float) -> list[Edge]:
    """Normalised weights between every pixel and its neighbours of one half of the square; the others are the same.

    Args:
        colours: (3, H, W) Lab.
        reach, tau: see :class:`PixelPropagationSettings`.

    Returns:
        one entry per offset, weights D^-1/2 W D^-1/2 in float32.
    """
    height, width = colours.shape[-2:]
    scaled = colours.float() / torch.tensor(_LAB_SCALE).to(colours.device)[:, None, None]
    half, edges = reach // 2, []
    degree = torch.zeros(height, width, device=colours.device)
    for down in range(half + 1):
        for right in range(-half if down else 1, half + 1):
            if down >= height or abs(right) >= width:
                continue
            pixels = (slice(0, height - down), slice(max(0, -right), width - max(0, right)))
            neighbours = (slice(down, height), slice(max(0, right), width + min(0, right)))
            gap = scaled[:, pixels[0], pixels[1]] - scaled[:, neighbours[0], neighbours[1]]
            weights = torch.exp(-gap.square().sum(0).sqrt() / tau)
            degree[pixels] += weights
            degree[neighbours] += weights
            edges.append((pixels, neighbours, weights))
    scale = torch.where(degree == 0, 1, degree).rsqrt()
    for pixels, neighbours, weights in edges:
        weights.mul_(scale[pixels]).mul_(scale[neighbours])
    return edges


def spread(
    logits: Tensor,
    colours: Tensor,
    reach: int = 13,
    tau: float = 0.01,
    alpha: float = 0.95,
    iterations: int = 10,
) -> Tensor:
    """Scores (Q, H, W) propagated between pixels of like colours (3, H, W) Lab: (Q, H, W) float32.

    A few queries at a time, without a matrix: memory is that of the edges, (reach^2 - 1) / 2 pictures of float32. In
    float64, as released; on a device that has none of it, on the CPU.
    """
    device = logits.device
    if device.type == "mps":
        logits, colours = logits.cpu(), colours.cpu()
    edges = pixel_edges(colours, reach, tau)

    def apply(x: Tensor) -> Tensor:
        out = x.clone()
        for pixels, neighbours, weights in edges:
            wide = weights.double() * -alpha
            out[:, pixels[0], pixels[1]].addcmul_(wide, x[:, neighbours[0], neighbours[1]])
            out[:, neighbours[0], neighbours[1]].addcmul_(wide, x[:, pixels[0], pixels[1]])
        return out

    parts = [
        conjugate_gradient(apply, part.double(), iterations).float()
        for part in logits.split(QUERIES_AT_ONCE)
    ]
    return torch.cat(parts).to(device)
