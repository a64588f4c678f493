"""Segmenters that answer prompts: SAM, SAM 2 and SAM 3, or a mask proposer in their place.

Source: Kirillov et al., "Segment Anything", ICCV 2023; Ravi et al., "SAM 2", 2024; as the package `transformers` computes
them. All of them are asked in one way: prompts lie in a *frame* of 1024 pixels a side, of which the picture fills the top
left part (SAM) or all (SAM 2, SAM 3).
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.errors import ImageError, ModelError, RecipeError, did_you_mean
from ovsslib.guides import masks
from ovsslib.guides.everything import CLASSES, open_segmenter
from ovsslib.guides.sam import load_sam

FRAME = 1024
#: Names that :func:`load_prompter` takes; those of trained segmenters also as "name:hub name or folder".
NAMES = (*CLASSES, "felzenszwalb", "slic")


class Prompter(Protocol):
    """A segmenter that answers prompts.

    Attributes: `name`; `identity`, text that tells its answers from others' (hash of the weights, or the settings of a
    proposer); `square`, whether both sides of a picture fill the frame.
    """

    name: str
    identity: str
    square: bool

    def look(self, image: np.ndarray) -> Any:
        """What it sees in a picture (H, W, 3) uint8 RGB. Raises ImageError for another array."""

    def answer(
        self, look: Any, points: Tensor, boxes: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (n, s, s) float32 of the frame, and predicted IoUs (n,), for n prompts.

        points: (n, 2) x, y. boxes: (n, 4) left, top, right, bottom; in the frame. mask: (256, 256) hint of the frame for all
        prompts, above 0 inside.
        """


class SamPrompts:
    """SAM behind the interface; see `ovsslib.guides.sam`."""

    square = False

    def __init__(self, model: str | None, device: str) -> None:
        """model: hub name or folder; None: the usual one of the local cache."""
        self.sam = load_sam(model, device)
        self.name, self.identity = self.sam.name, self.sam.weights_hash
        self.side = self.sam.network.config.vision_config.image_size

    def look(self, image: np.ndarray) -> Any:
        """See :class:`Prompter`."""
        return self.sam.read(image)

    def answer(
        self, look: Any, points: Tensor, boxes: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :class:`Prompter`."""
        # SAM takes pixels of the picture and makes them those of its own frame
        back = torch.tensor(
            [look.size[1] / look.prompt_size[1], look.size[0] / look.prompt_size[0]]
        )
        back = back * self.side / FRAME
        hint = None if mask is None else _hint(mask, self.side // self.sam.patch_size * 4)
        return self.sam.predict(look, points * back, boxes * back.repeat(2), hint)


class Sam2Prompts:
    """SAM 2, or SAM 3's tracker, behind the interface."""

    square = True

    def __init__(self, kind: str, model: str | None, device: str) -> None:
        """kind: "sam2" or "sam3". model: hub name or folder; None: the usual one of the local cache."""
        self.network, self.processor, digest = open_segmenter(kind, model, device)
        self.name, self.identity = model or CLASSES[kind][2], digest[:16]
        self.device = torch.device(device)
        prompts = self.network.config.prompt_encoder_config
        self.side, self.hint_side = prompts.image_size, prompts.image_size // prompts.patch_size * 4

    @torch.no_grad()
    def look(self, image: np.ndarray) -> list[Tensor]:
        """Its embeddings of the picture; see :class:`Prompter`."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ImageError(
                f"{self.name} takes (H, W, 3) uint8 RGB, not {image.shape} {image.dtype}; convert the picture first"
            )
        inputs = self.processor(images=[image], return_tensors="pt")
        return self.network.get_image_embeddings(inputs["pixel_values"].to(self.device))

    @torch.no_grad()
    def answer(
        self, look: list[Tensor], points: Tensor, boxes: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :class:`Prompter`."""
        scale = self.side / FRAME
        hint = None if mask is None else _hint(mask, self.hint_side)[None, None].to(self.device)
        out = self.network(
            image_embeddings=list(look),
            input_points=(points.float() * scale)[None, :, None].to(self.device),
            input_labels=torch.ones(1, len(points), 1, dtype=torch.int64, device=self.device),
            input_boxes=(boxes.float() * scale)[None].to(self.device),
            input_masks=hint,
            multimask_output=False,
        )
        return out.pred_masks[0, :, 0].float().cpu(), out.iou_scores[0, :, 0].float().cpu()


class ProposedMasks:
    """A mask proposer in a segmenter's place: the union of its regions that lie mostly inside a prompt.

    Inside is the box, and where there is a hint, what of the box the hint fills. The predicted IoU is that of the union
    with the inside. The point is not used.
    """

    square = True
    _ANSWER = 10.0  # logit of a pixel inside

    def __init__(self, name: str) -> None:
        """name: of a proposer without weights, "felzenszwalb" or "slic"."""
        self.proposer = masks.load(name)
        self.name = name
        self.identity = json.dumps(self.proposer.settings, sort_keys=True)

    def look(self, image: np.ndarray) -> np.ndarray:
        """Regions (1024, 1024) of the picture, brought to the frame; see :class:`Prompter`."""
        regions = self.proposer.regions(image)
        rows, columns = (
            ((np.arange(FRAME) + 0.5) * side / FRAME).astype(int) for side in regions.shape
        )
        return regions[rows[:, None], columns]

    def answer(
        self, look: np.ndarray, points: Tensor, boxes: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :class:`Prompter`."""
        hint = np.ones((FRAME, FRAME), bool)
        if mask is not None:
            wide = F.interpolate(mask[None, None].float(), size=(FRAME, FRAME), mode="bilinear")
            hint = (wide[0, 0] > 0).numpy()
        areas, answers, sure = np.bincount(look.ravel()), [], []
        for left, top, right, bottom in boxes.tolist():
            part = (
                slice(round(top), round(bottom) + 1),
                slice(round(left), round(right) + 1),
            )
            inside = np.bincount(look[part][hint[part]], minlength=len(areas))
            chosen = inside * 2 > areas
            shared, union = inside[chosen].sum(), areas[chosen].sum() + inside[~chosen].sum()
            answers.append(torch.from_numpy(np.where(chosen[look], self._ANSWER, -self._ANSWER)))
            sure.append(float(shared / max(int(union), 1)))
        return torch.stack(answers).float(), torch.tensor(sure)


def _hint(mask: Tensor, side: int) -> Tensor:
    """A mask prompt at the side that the model takes."""
    if mask.shape[-1] == side:
        return mask
    return F.interpolate(mask[None, None].float(), size=(side, side), mode="bilinear")[0, 0]


@lru_cache(maxsize=4)
def load_prompter(name: str, device: str = "cpu") -> Prompter:
    """A segmenter that answers prompts, opened once.

    Args:
        name: one of `NAMES`: "sam", "sam2" and "sam3" are the usual models of the local cache; with a colon and a hub name
            or folder ("sam2:facebook/sam2.1-hiera-large") that model, fetched if it is a hub name that is not here.
            "felzenszwalb" and "slic" need no weights.

    Raises:
        RecipeError: unknown name. ModelError: weights missing or of another model. MissingPackageError: no transformers.
    """
    kind, _, model = name.partition(":")
    if kind not in NAMES:
        raise RecipeError(f"unknown prompter {name!r}{did_you_mean(kind, NAMES)}")
    if kind in masks.NAMES and kind not in CLASSES:
        if model:
            raise ModelError(f"prompter {name!r}: {kind} has no weights; write {kind!r}")
        return ProposedMasks(kind)
    if kind == "sam":
        return SamPrompts(model or None, device)
    return Sam2Prompts(kind, model or None, device)
