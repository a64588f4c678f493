"""Comparators that take any words: CLIPSeg and GroupViT of `transformers`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_WORDS = 8  # sentences in one pass through a decoder


def _placed(inputs: Any, model: Any) -> dict[str, Tensor]:
    """Inputs of a processor on the model's device, pixels in its type."""
    placed = {}
    for name, value in inputs.items():
        value = value.to(model.device)
        placed[name] = value.to(model.dtype) if value.is_floating_point() else value
    return placed


class ClipSeg:
    """CLIPSeg: a decoder on CLIP's features, one binary mask for each word (Lüddecke & Ecker, CVPR 2022)."""

    def __init__(self, model: Any, processor: Any):
        self.model, self.processor = model, processor

    @torch.no_grad()
    def scores(self, image: np.ndarray, sentences: Sequence[str]) -> Tensor:
        """(Q, h, w): logistic function of each word's own logits; words do not compete.

        The picture goes through CLIP once, whatever the number of words.
        """
        model = self.model
        pixels = _placed(self.processor(images=image, return_tensors="pt"), model)["pixel_values"]
        seen = model.clip.vision_model(
            pixel_values=pixels, output_hidden_states=True, interpolate_pos_encoding=True
        ).hidden_states
        layers = [seen[index + 1] for index in model.extract_layers]
        maps = []
        for start in range(0, len(sentences), _WORDS):
            part = list(sentences[start : start + _WORDS])
            tokens = _placed(
                self.processor(text=part, padding=True, truncation=True, return_tensors="pt"), model
            )
            conditions = model.get_conditional_embeddings(
                batch_size=len(part),
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
            )
            logits = model.decoder(
                tuple(x.expand(len(part), -1, -1) for x in layers), conditions
            ).logits
            maps.append(logits.reshape(len(part), *logits.shape[-2:]).float().sigmoid())
        return torch.cat(maps)


class GroupViT:
    """GroupViT: groups of patches learned from captions, each compared with the words (Xu et al., CVPR 2022)."""

    def __init__(self, model: Any, processor: Any):
        self.model, self.processor = model, processor

    @torch.no_grad()
    def scores(self, image: np.ndarray, sentences: Sequence[str]) -> Tensor:
        """(Q, h, w): softmax over words of the segmentation logits."""
        inputs = self.processor(
            text=list(sentences), images=image, padding=True, truncation=True, return_tensors="pt"
        )
        out = self.model(**_placed(inputs, self.model), output_segmentation=True)
        return out.segmentation_logits[0].float().softmax(dim=0)
