"""A guide: a frozen second encoder whose patch features say which patches belong together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ovsslib.clip.backbone import PIXEL_MEAN, PIXEL_STD
from ovsslib.clip.placement import PRECISIONS, check_device, check_precision
from ovsslib.errors import ImageError
from ovsslib.guides.reading import GuideReading

# ImageNet's normalisation, RGB, for pixel values in [0, 1]: what all guides were trained with.
GUIDE_MEAN = (0.485, 0.456, 0.406)
GUIDE_STD = (0.229, 0.224, 0.225)


class Guide:
    """A frozen self-supervised vision transformer. Make one with :func:`ovsslib.guides.load`.

    Attributes: `name`, `patch_size` (pixels), `dim` (width D of its features), `heads`, `layers`, `weights_hash` (16 hex
    digits), `mean` and `std` (its normalisation), `device`, `precision`.
    """

    mean = GUIDE_MEAN
    std = GUIDE_STD

    def __init__(
        self,
        network: Any,
        *,
        name: str,
        weights_hash: str = "",
        device: str | torch.device = "cpu",
        precision: str = "fp32",
    ) -> None:
        """network: a module with `width`, `heads`, `depth`, `patch` and `read(pixels) -> GuideReading`.

        Raises ModelError for a device that is not there and an unknown precision.
        """
        self.device = check_device(device)
        self.precision = check_precision(precision, self.device)
        self.network = (
            network.to(self.device, PRECISIONS[self.precision]).eval().requires_grad_(False)
        )
        self.name, self.weights_hash = name, weights_hash
        self.patch_size, self.dim = network.patch, network.width
        self.heads, self.layers = network.heads, network.depth

    def __repr__(self) -> str:
        return f"Guide({self.name!r}, patch {self.patch_size}, {self.precision} on {self.device})"

    def normalise(self, pixels01: Tensor) -> Tensor:
        """RGB pixels (B, 3, H, W) in [0, 1] -> normalised as the guide was trained, same shape."""
        mean, std = _columns(self.mean, pixels01), _columns(self.std, pixels01)
        return (pixels01 - mean) / std

    def from_clip(self, pixels: Tensor) -> Tensor:
        """CLIP-normalised pixels (B, 3, H, W) -> normalised as the guide was trained, same shape.

        CLIP's normalisation is undone first, so padding with zeros becomes CLIP's mean colour, not black.
        """
        mean, std = _columns(PIXEL_MEAN, pixels), _columns(PIXEL_STD, pixels)
        return self.normalise(pixels * std + mean)

    @torch.no_grad()
    def read(self, pixels: Tensor) -> GuideReading:
        """One pass: everything that a method may ask of the guide.

        pixels: (B, 3, H, W) float, normalised by :meth:`normalise` or :meth:`from_clip`; H and W multiples of
        `patch_size`. Raises ImageError for other shapes and sides.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ImageError(
                f"a guide takes pixels of shape (B, 3, H, W), not {tuple(pixels.shape)}; add the batch, RGB first"
            )
        height, width = pixels.shape[-2:]
        patch = self.patch_size
        if height % patch or width % patch or not height or not width:
            raise ImageError(
                f"{height}x{width} pixels are no whole number of the guide's patches of {patch}x{patch} ({self.name}); "
                f"pad to a multiple of {patch} (windows.pad_to), or take a guide of another patch size"
            )
        return self.network.read(pixels.to(self.device, PRECISIONS[self.precision]))

    def features(self, pixels: Tensor, kind: str = "last") -> Tensor:
        """Patch features (B, D, h, w) float32, not of unit length; see :meth:`read` and `GuideReading.features`."""
        return self.read(pixels).features(kind)


def _columns(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype)[:, None, None]
