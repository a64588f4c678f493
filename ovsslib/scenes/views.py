"""Views of drawn pictures, a function of the seed and the step: pairs of them for SceneDINO, single ones for the supervised
reference. SceneDINO's pool keeps images alone (:func:`image_of`): no mask, no caption and no label.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.scenes.drawing import Scene, draw

Kept = TypeVar("Kept")


def image_of(scene: Scene, index: int) -> np.ndarray:
    """The picture alone, (224, 298, 3) uint8 RGB: for what learns without masks and captions. Its number is not used."""
    return scene.image


class DrawnPool(Generic[Kept]):
    """What is kept of the last `size` drawn pictures; each step `fresh` new ones push out the oldest.

    The pool at a step depends on (first_world, step) alone, so a run that was stopped goes on with the same pictures.

    Args:
        first_world: seed of the first world; a new one, with textures of its own, every `a_world` pictures.
        keep: what is kept of a picture; it is told the picture's number as well.
    """

    def __init__(
        self,
        first_world: int,
        size: int,
        fresh: int,
        keep: Callable[[Scene, int], Kept],
        a_world: int = 500,
    ) -> None:
        self.first_world, self.size, self.fresh = first_world, size, fresh
        self.keep, self.a_world = keep, a_world
        self._kept: deque[Kept] = deque(maxlen=size)
        self._next = 0

    def at(self, step: int) -> deque[Kept]:
        """The pool at `step`, oldest first."""
        end = self.size + step * self.fresh
        if self._next > end:
            self._next = 0
            self._kept.clear()
        for index in range(max(self._next, end - self.size), end):
            scene = draw(self.first_world + index // self.a_world, index)
            self._kept.append(self.keep(scene, index))
        self._next = end
        return self._kept

    def drawn(self, steps: int) -> int:
        """How many pictures the first `steps` steps have looked at."""
        return self.size + max(0, steps - 1) * self.fresh


@dataclass(frozen=True)
class Views:
    """A batch of square views. pixels: (B, 3, S, S) in [0, 1]. centre: (B, 2) x, y in pixels of the picture. side: (B,)
    length of the view in the picture, in pixels. mirror: (B,) -1 where the view is mirrored, else 1."""

    pixels: Tensor
    centre: Tensor
    side: Tensor
    mirror: Tensor

    def to_picture(self, places: Tensor) -> Tensor:
        """View coordinates (B, ..., 2), x and y from -1 to 1, -> pixels of the picture."""
        scale = self._scale(places.ndim)
        return places * scale + self.centre.reshape(len(places), *[1] * (places.ndim - 2), 2)

    def from_picture(self, places: Tensor) -> Tensor:
        """The reverse of :meth:`to_picture`."""
        centre = self.centre.reshape(len(places), *[1] * (places.ndim - 2), 2)
        return (places - centre) / self._scale(places.ndim)

    def _scale(self, dimensions: int) -> Tensor:
        half = self.side / 2
        scale = torch.stack([half * self.mirror, half], dim=-1)
        return scale.reshape(len(scale), *[1] * (dimensions - 2), 2)


def token_places(grid: int) -> Tensor:
    """View coordinates of the middles of grid x grid tokens: (grid, grid, 2), x before y."""
    middles = (torch.arange(grid) + 0.5) / grid * 2 - 1
    return torch.stack(torch.meshgrid(middles, middles, indexing="xy"), dim=-1)


def view_pair(
    images: Tensor,
    size: int,
    scales: tuple[float, float],
    generator: torch.Generator,
) -> tuple[Views, Views]:
    """Two overlapping views of every picture.

    images: (B, H, W, 3) uint8. size: side of a view, as the network sees it. scales: the least and the largest length of a
    view in the picture, as multiples of `size`.
    """
    batch, height, width = images.shape[:3]
    pictures = images.permute(0, 3, 1, 2).float() / 255
    longest = float(min(height, width))

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator) * (high - low) + low

    sides = [(size * uniform(*scales)).clamp(max=longest) for _ in range(2)]
    bounds = torch.tensor([width, height], dtype=torch.float32)
    centres = [sides[0][:, None] / 2 + uniform(0, 1, 2) * (bounds - sides[0][:, None])]
    near = centres[0] + uniform(-0.4, 0.4, 2) * sides[0][:, None]
    half = sides[1][:, None] / 2
    centres.append(torch.minimum(torch.maximum(near, half), bounds - half))
    views = []
    for centre, side in zip(centres, sides, strict=True):
        mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
        view = Views(pictures, centre, side, mirror)
        places = view.to_picture(token_places(size)[None].expand(batch, -1, -1, -1))
        grid = places / bounds * 2 - 1
        cut = F.grid_sample(pictures, grid, align_corners=False, padding_mode="border")
        views.append(Views(jitter(cut, generator), centre, side, mirror))
    return views[0], views[1]


def jitter(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Other light, other colours, blur and noise: (B, 3, S, S) in [0, 1] -> the same form."""
    batch = len(pixels)

    def normal(deviation: float, *shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator) * deviation

    def chosen(share: float) -> Tensor:
        return (torch.rand(batch, generator=generator) < share)[:, None, None, None]

    mixing = torch.eye(3) + normal(0.05, 3, 3)
    x = torch.einsum("bij,bjhw->bihw", mixing, pixels - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (1 + normal(0.15, 1, 1, 1)).clamp(0.5, 1.5)
    x = x * (1 + normal(0.1, 1, 1, 1)).clamp(0.7, 1.3) + 0.5 + normal(0.04, 1, 1, 1)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = torch.where(chosen(0.2), blurred, x)
    noise = torch.randn(x.shape, generator=generator) * 0.02
    return (x + torch.where(chosen(0.5), noise, torch.zeros(()))).clamp(0, 1)
