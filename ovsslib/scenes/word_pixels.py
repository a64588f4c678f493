"""LSeg's stand-in on Scenes: the pixels of a picture learn the space of the words, from masks of half of the classes.

Source: Li et al., "Language-driven Semantic Segmentation", ICLR 2022, section 3: an embedding for every pixel, its products
with CLIP's text features of the words, softmax over the words with a temperature, cross-entropy; text features are frozen.
The paper trains the image encoder too; here SceneCLIP stays as it is and a decoder learns on it. What the decoder says is
added to SceneCLIP's own features of the patches, so that training starts from a training-free method: started from nothing,
pixels learn to be one of the shown words and never another. Masks of the other classes are never shown, so what is measured
on them is what words alone carry over.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.comparators.known import known
from ovsslib.errors import DataError
from ovsslib.scenes.classes import CLASSES, SPOKEN, STUFF
from ovsslib.scenes.supervised import MaskSettings, MaskTrainer
from ovsslib.text.features import encode_texts
from ovsslib.text.prompts import TextSettings

NAME = "lseg-scenes"


@dataclass(frozen=True)
class WordPixelSettings(MaskSettings):
    """Everything that decides what is learnt; `data/models/lseg-scenes.yaml` explains the choices.

    Attributes:
        split: seed of the choice of classes whose masks are shown (:func:`shown_classes`).
        temperature: the cosines of pixels and words are divided by it.
    """

    split: int = 1
    temperature: float = 0.07

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise DataError(f"temperature {self.temperature} must be above 0")


def shown_classes(split: int) -> tuple[int, ...]:
    """Numbers of the classes whose masks are shown, rising: a random half of stuff and a random half of things.

    split: seed of the choice.
    """
    generator = torch.Generator().manual_seed(split)
    stuff = torch.randperm(len(STUFF), generator=generator)[: len(STUFF) // 2].tolist()
    things = len(CLASSES) - len(STUFF)
    chosen = torch.randperm(things, generator=generator)[: things // 2].tolist()
    return tuple(sorted([*stuff, *(len(STUFF) + index for index in chosen)]))


class WordPixelTrainer(MaskTrainer):
    """One run in a folder; see :class:`~ovsslib.scenes.supervised.MaskTrainer`."""

    architecture = "word_pixels"
    residual = True
    settings: WordPixelSettings
    settings_type = WordPixelSettings

    def __init__(self, settings: WordPixelSettings, out: Path) -> None:
        super().__init__(settings, out)
        words = [SPOKEN[CLASSES[index]] for index in self.told_classes]
        how = TextSettings(prompts=known(NAME).prompts)
        self.words = encode_texts(self.backbone, words, how)  # (C, D)

    def classes(self) -> tuple[int, ...]:
        """Numbers of the classes whose masks are shown, rising."""
        return shown_classes(self.settings.split)

    def outputs(self) -> int:
        """Channels of the decoder: width of the space of the words."""
        return self.backbone.dim

    def logits(self, outputs: Tensor) -> Tensor:
        """Cosines of pixels (B, D, h, w) and words, over the temperature: (B, C, h, w) float32."""
        pixels = F.normalize(outputs.float(), dim=1)
        return torch.einsum("bdhw,cd->bchw", pixels, self.words) / self.settings.temperature

    def config(self) -> dict[str, Any]:
        """What `config.json` says besides the decoder's shape."""
        return {
            "dim": self.backbone.dim,
            "temperature": self.settings.temperature,
            "shown": [CLASSES[index] for index in self.told_classes],
        }
