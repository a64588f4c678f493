"""What the tests of methods with a second model share: the tiny DINO of the vectors, a guide of given features."""

import torch
from conftest import vectors

from ovsslib import guides
from ovsslib.clip.backbone import PIXEL_MEAN, PIXEL_STD
from ovsslib.guides.guide import Guide
from ovsslib.guides.reading import GuideReading


def tiny_guide() -> Guide:
    """The DINO of the test vectors: patch 8, width 32, 3 blocks, 2 heads."""
    state = {k[2:]: v for k, v in vectors("dino_tiny").items() if k.startswith("w.")}
    return guides.from_state(state, heads=2, name="tiny")


class GivenGuide:
    """A guide whose features are given, whatever it is shown; (1, C, H, W)."""

    name, weights_hash, device, patch_size = "given", "given", torch.device("cpu"), 1

    def __init__(self, features: torch.Tensor):
        tokens = features.flatten(2).transpose(1, 2)
        self.reading = GuideReading(*([tokens] * 5), tuple(features.shape[-2:]), 1)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """As they are."""
        return pixels

    def read(self, pixels: torch.Tensor) -> GuideReading:
        """The same for every picture."""
        return self.reading


def clip_pixels(image_u8: torch.Tensor) -> torch.Tensor:
    """(H, W, 3) bytes -> (3, H, W) as the vectors were made: over 255, less CLIP's mean, over its deviation."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (PIXEL_MEAN, PIXEL_STD))
    return (image_u8.permute(2, 0, 1) / 255 - mean) / std
