"""Comparators that take any words: CLIPSeg, GroupViT and SAM 3 of `transformers`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_WORDS = 8  # sentences in one pass through a decoder
_SAM3_TOKENS = 32  # to which its processor pads each prompt


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


class Sam3:
    """SAM 3: every instance of a word, each with a score and a mask (Carion et al., "SAM 3: Segment Anything with Concepts",
    2025). Words are asked one by one, so memory does not grow with their number."""

    def __init__(self, model: Any, processor: Any):
        self.model, self.processor = model, processor

    @torch.no_grad()
    def scores(self, image: np.ndarray, sentences: Sequence[str]) -> Tensor:
        """(Q, h, w): how sure the model is that a pixel belongs to the word; words do not compete.

        A word's score at a pixel is the best of its instances, score times mask, and of its semantic map, all times the
        probability that the word is in the picture at all (the model's presence token). Nothing is cut by a threshold. The
        picture goes through the encoder once, whatever the number of words.
        """
        model = self.model
        pixels = _placed(self.processor(images=image, return_tensors="pt"), model)["pixel_values"]
        seen = model.get_vision_features(pixel_values=pixels)
        return torch.stack([self._of_word(seen, sentence) for sentence in sentences])

    def _of_word(self, seen: Any, sentence: str) -> Tensor:
        """(h, w) float32 of a picture's features and one word."""
        told = self.processor.tokenizer(
            sentence, padding="max_length", max_length=_SAM3_TOKENS, truncation=True, return_tensors="pt"
        )  # fmt: skip
        tokens = _placed(told, self.model)
        out = self.model(
            vision_embeds=seen, input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )  # fmt: skip
        instances = out.pred_logits[0].float().sigmoid()  # (N,)
        best = out.semantic_seg[0, 0].float().sigmoid()
        for score, mask in zip(instances, out.pred_masks[0], strict=True):
            best = torch.maximum(best, score * mask.float().sigmoid())
        return best * out.presence_logits[0, 0].float().sigmoid()
