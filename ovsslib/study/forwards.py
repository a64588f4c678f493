"""How many forwards of CLIP and of the second encoder a recipe takes for a picture, counted where they run.

Seconds belong to a machine; these numbers do not. The cost of masks is in neither.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ovsslib.segmenter import Segmenter
from ovsslib.text.features import TextFeatures

Sizes = Counter[tuple[int, int]]


@dataclass(frozen=True)
class Forwards:
    """Forwards of one segmentation.

    Attributes:
        clip: (height, width) in pixels -> forwards of CLIP's vision tower, all blocks or all but the last.
        guide: the same of the second encoder; empty without one.
    """

    clip: Sizes = field(default_factory=Counter)
    guide: Sizes = field(default_factory=Counter)

    @property
    def totals(self) -> tuple[int, int]:
        """(CLIP, guide) forwards of all sizes."""
        return sum(self.clip.values()), sum(self.guide.values())


def counted_forwards(segmenter: Segmenter, image: np.ndarray, text: TextFeatures) -> Forwards:
    """Segment a picture (H, W, 3) uint8 once and count. A scorer of another model (`car.scorer`) is not counted.

    What a list of words costs once, such as the archive of `reco`, is in the first count of a list and in no later one.
    """
    forwards = Forwards()
    with _counting(segmenter.backbone, "trunk", forwards.clip):
        if segmenter.guide is None:
            segmenter.segment(image, text)
        else:
            with _counting(segmenter.guide, "read", forwards.guide):
                segmenter.segment(image, text)
    return forwards


@contextmanager
def _counting(owner: Any, method: str, count: Sizes) -> Iterator[None]:
    """Count the pictures that go through a method of an object, which takes pixels (B, 3, H, W) first."""
    plain = getattr(owner, method)

    def counting(pixels: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        count[(pixels.shape[-2], pixels.shape[-1])] += len(pixels)
        return plain(pixels, *arguments, **options)

    setattr(owner, method, counting)
    try:
        yield
    finally:
        delattr(owner, method)
