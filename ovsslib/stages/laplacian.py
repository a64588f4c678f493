"""Text-aware Laplacian propagation of PEARL: logits spread over the picture, stopped by its edges.

Source: PEARL (CVPR 2026, arXiv 2603.21528) as its released code computes it, once per picture, on
unscaled cosines.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ovsslib.errors import RecipeError
from ovsslib.recipe import stage
from ovsslib.stages.contexts import ImageContext

_EPSILON = 1e-6
_TRUST_FLOOR = 0.05
_GREY = (0.299, 0.587, 0.114)


@stage(
    "laplacian",
    point="refine",
    order=40,
    summary="logits spread between like cells of the picture (PEARL)",
)
@dataclass(frozen=True)
class LaplacianSettings:
    """Solves (diag(u) + L) X = u l on a coarse grid: u trusts decided cells, L smooths except
    across edges.

    Attributes:
        grid: the picture is averaged down to about this many cells a side (published: 80;
            Cityscapes 224).
        couple: how words of like meaning support each other in trust and smoothing: "diagonal" as
            released (each word supports itself alone), "full" as in the paper.
        text_temperature: of the softmax over the words' cosines.
        diagonal: weight of a word for itself, added to that softmax.
        edge: a difference of grey as large as the mean one is weighed by exp(-edge).
        iterations: conjugate gradient steps; no test stops them earlier.
    """

    version: ClassVar[int] = 1
    grid: int = 80
    couple: Literal["diagonal", "full"] = "diagonal"
    text_temperature: float = 0.5
    diagonal: float = 10.0
    edge: float = 5.0
    iterations: int = 25

    def __post_init__(self):
        if self.grid < 1:
            raise RecipeError(f"laplacian.grid={self.grid}: must be 1 or more cells")
        if self.text_temperature <= 0:
            raise RecipeError(
                f"laplacian.text_temperature={self.text_temperature}: must be above 0"
            )
        for name in ("diagonal", "edge", "iterations"):
            if getattr(self, name) < 0:
                raise RecipeError(f"laplacian.{name}={getattr(self, name)}: must be 0 or more")

    def on_logits(self, logits: Tensor, context: ImageContext) -> Tensor:
        """(1, Q, H, W) stitched cosines -> the same, propagated; further rows (groups) follow the
        words' system.
        """
        settings = dataclasses.asdict(self)
        pixels = context.pixels.to(logits.device)
        return propagate(logits, pixels, context.text.features.to(logits.device), **settings)


def propagate(
    logits: Tensor,
    pixels: Tensor,
    text: Tensor,
    grid: int = 80,
    couple: str = "diagonal",
    text_temperature: float = 0.5,
    diagonal: float = 10.0,
    edge: float = 5.0,
    iterations: int = 25,
) -> Tensor:
    """Laplacian propagation of logits.

    Args:
        logits: (B, Q + G, H, W) unscaled cosines; the G rows behind the words decide nothing, but
            are propagated too.
        pixels: (B, 3, H, W) CLIP-normalised picture of the same size.
        text: (Q, D) unit rows of the words.
        grid, couple, text_temperature, diagonal, edge, iterations: see :class:`LaplacianSettings`.

    Returns:
        (B, Q + G, H, W) float32. A picture that is not larger than the grid is worked on at its own
        size; otherwise incomplete blocks at the right and the bottom are left out of the averages,
        as released.

    Raises:
        RecipeError: sizes that do not fit together.
    """
    if logits.shape[-2:] != pixels.shape[-2:] or len(logits) != len(pixels):
        raise RecipeError(
            f"laplacian: logits {tuple(logits.shape)} and picture {tuple(pixels.shape)} are of "
            "other sizes; resize one"
        )
    size, words = logits.shape[-2:], len(text)
    coupling = text_coupling(text.float(), text_temperature, diagonal)
    out = []
    for cosines, picture in zip(logits.float(), pixels.float(), strict=True):
        small, picture = (block_mean(maps, grid) for maps in (cosines, picture))
        probabilities = small[:words].softmax(dim=0)
        supported = support(coupling, probabilities, couple)
        trust = trust_of(probabilities, supported)
        across, down = edge_weights(picture, probabilities, supported, edge)
        solved = torch.cat(
            [
                solve(part, trust, across, down, iterations)
                for part in (small[:words], small[words:])
                if len(part)
            ]
        )
        out.append(F.interpolate(solved[None], size, mode="bilinear")[0])
    return torch.stack(out)


def text_coupling(text: Tensor, temperature: float, diagonal: float) -> Tensor:
    """G (Q, Q): row softmax of the words' cosines over `temperature`, plus `diagonal` I, rows
    divided by their sums.
    """
    g = ((text @ text.T) / temperature).softmax(dim=-1)
    g = g + diagonal * torch.eye(len(g), dtype=g.dtype, device=g.device)
    return g / (g.sum(dim=-1, keepdim=True) + _EPSILON)


def block_mean(maps: Tensor, grid: int) -> Tensor:
    """Averages of blocks of about (H / grid, W / grid) pixels: (K, H, W) -> (K, h, w); incomplete
    blocks dropped.
    """
    block = tuple(max(1, round(side / grid)) for side in maps.shape[-2:])
    return maps if block == (1, 1) else F.avg_pool2d(maps[None], block)[0]


def support(coupling: Tensor, probabilities: Tensor, couple: str) -> Tensor:
    """G p of probabilities (Q, h, w), or G's diagonal times p, as released."""
    if couple == "full":
        return torch.einsum("qr,rhw->qhw", coupling, probabilities)
    return coupling.diagonal()[:, None, None] * probabilities


def trust_of(probabilities: Tensor, supported: Tensor) -> Tensor:
    """Weight u (h, w) of the data: the best probability squared (at least 0.05 of it), raised by
    agreeing words.
    """
    agreement = (probabilities * supported).sum(dim=0).clamp(0, 1)
    return probabilities.amax(dim=0).clamp_min(_TRUST_FLOOR).square() * (1 + agreement)


def edge_weights(
    picture: Tensor, probabilities: Tensor, supported: Tensor, edge: float
) -> tuple[Tensor, Tensor]:
    """Weights of horizontal (h, w - 1) and vertical (h - 1, w) neighbours, in [0, 1].

    Args:
        picture: (3, h, w) normalised colours.
        probabilities, supported: p and G p (Q, h, w).
        edge: see the settings.
    """
    grey = sum(weight * channel for weight, channel in zip(_GREY, picture, strict=True))

    def weights(dim: int) -> Tensor:
        length = grey.shape[dim]
        difference = grey.diff(dim=dim).abs()
        if length < 2:
            return difference
        cells = probabilities.narrow(dim, 1, length - 1)
        neighbours = supported.narrow(dim, 0, length - 1)
        gain = 1 + (cells * neighbours).sum(dim=0).clamp(0, 1)
        return (torch.exp(-edge * difference / (difference.mean() + _EPSILON)) * gain).clamp(0, 1)

    return weights(-1), weights(-2)


def solve(data: Tensor, trust: Tensor, across: Tensor, down: Tensor, iterations: int) -> Tensor:
    """Conjugate gradient steps on (diag(u) + L) X = u data for all rows together, from X = data:
    (K, h, w).

    One step length serves all rows, as released, so the rows are not independent. Holds five maps
    of the data's size.
    """
    x, product, scratch = data.clone(), torch.empty_like(data), torch.empty_like(data)
    residual = trust * data - _apply(x, trust, across, down, product, scratch)
    direction = residual.clone()
    power = torch.dot(residual.flatten(), residual.flatten())
    for _ in range(iterations):
        _apply(direction, trust, across, down, product, scratch)
        step = power / (torch.dot(direction.flatten(), product.flatten()) + 1e-12)
        x.addcmul_(direction, step.expand_as(x))
        residual.addcmul_(product, step.expand_as(x), value=-1)
        before, power = power, torch.dot(residual.flatten(), residual.flatten())
        direction.mul_(power / (before + 1e-12)).add_(residual)
    return x


def _apply(
    x: Tensor, trust: Tensor, across: Tensor, down: Tensor, out: Tensor, scratch: Tensor
) -> Tensor:
    """out = u x + L x for maps (K, h, w); `scratch` is overwritten."""
    torch.mul(x, trust, out=out)
    for dim, weight in ((-1, across), (-2, down)):
        length = x.shape[dim] - 1
        if length < 1:
            continue
        flow = scratch.narrow(dim, 0, length)
        torch.sub(x.narrow(dim, 1, length), x.narrow(dim, 0, length), out=flow)
        flow.mul_(weight)
        out.narrow(dim, 1, length).add_(flow)
        out.narrow(dim, 0, length).sub_(flow)
    return out
