"""Comparators with labels of their own: MaskFormer, Mask2Former and OneFormer of `transformers`, DeepLabV3 of torchvision."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ovsslib.comparators.open_words import _placed

_SIDE = (
    384  # pixels to which mask logits are enlarged before they are weighed, as the processors do
)


class MaskQueries:
    """A network of the MaskFormer family: queries with a class and a mask each.

    Attributes:
        labels: of the model's configuration, in order.
    """

    def __init__(self, model: Any, processor: Any):
        self.model, self.processor = model, processor
        names = model.config.id2label
        self.labels = tuple(str(names[index]) for index in sorted(names))

    @torch.no_grad()
    def label_scores(self, image: np.ndarray) -> Tensor:
        """(L, 384, 384): sum over queries of class probability times mask probability (semantic inference)."""
        tasks = {"task_inputs": ["semantic"]} if "task_inputs" in self._inputs() else {}
        inputs = self.processor(images=[image], return_tensors="pt", **tasks)
        wanted = {
            name: inputs[name]
            for name in ("pixel_values", "pixel_mask", "task_inputs")
            if name in inputs
        }
        out = self.model(**_placed(wanted, self.model))
        classes = out.class_queries_logits[0].float().softmax(dim=-1)[:, :-1]
        masks = F.interpolate(
            out.masks_queries_logits.float(), size=(_SIDE, _SIDE), mode="bilinear"
        )
        return torch.einsum("qc,qhw->chw", classes, masks[0].sigmoid())

    def _inputs(self) -> tuple[str, ...]:
        """OneFormer is told its task in words."""
        return ("task_inputs",) if hasattr(self.processor, "task_seq_length") else ()


class DeepLab:
    """DeepLabV3 of torchvision (Chen et al., 2017), or another network of its segmentation models.

    Attributes:
        labels: the categories of its weights, the background among them.
    """

    def __init__(self, model: Any, transforms: Any, labels: tuple[str, ...]):
        self.model, self.transforms, self.labels = model, transforms, labels

    @torch.no_grad()
    def label_scores(self, image: np.ndarray) -> Tensor:
        """(L, h, w): softmax over labels, at the size that its transforms give."""
        weight = next(self.model.parameters())
        pixels = self.transforms(Image.fromarray(image))[None].to(weight)
        return self.model(pixels)["out"][0].float().softmax(dim=0)
