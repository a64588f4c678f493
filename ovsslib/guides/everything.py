"""SAM, SAM 2 and SAM 3 asked for everything: a grid of points, and the masks that survive three filters.

The steps are those of automatic mask generation in the package `transformers` (Kirillov et al., "Segment Anything", ICCV
2023, appendix B), on its image processors and models; the suppression of overlapping boxes is computed here, since
torchvision's needs operators that a CPU installation may lack.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovsslib.clip.loading import check_file
from ovsslib.clip.placement import check_device
from ovsslib.errors import MissingPackageError, ModelError
from ovsslib.guides.loading import cached_folder, fetch_folder, weights_of
from ovsslib.guides.transformers_networks import no_progress_bars

#: Name of a proposer -> (class of the model, class of its image processor, usual hub model).
CLASSES = {
    "sam": ("SamModel", "SamImageProcessor", "facebook/sam-vit-base"),
    "sam2": ("Sam2Model", "Sam2ImageProcessor", "facebook/sam2.1-hiera-tiny"),
    "sam3": ("Sam3TrackerModel", "Sam3ImageProcessor", "facebook/sam3"),
}
_TYPES = {
    "sam": ("sam",),
    "sam2": ("sam2", "sam2_video"),
    "sam3": ("sam3_tracker", "sam3_video", "sam3_tracker_video"),
}
_POINTS_AT_ONCE = 16


def open_segmenter(
    name: str,
    model: str | Path | None = None,
    device: str | torch.device = "cpu",
    attention: str | None = None,
) -> tuple[Any, Any, str]:
    """The model, its image processor and the SHA-256 of its weights.

    model: folder that `save_pretrained` wrote, or hub name (fetched if it is not in the local cache); None: the usual hub
    model, from the local cache only. attention: "eager" hands out weights; None: what is fastest. Raises ModelError, MissingPackageError.
    """
    check_device(device)
    if find_spec("transformers") is None:
        raise MissingPackageError(
            f"{name} needs the package transformers: pip install 'ovsslib[guides]'; the mask proposers felzenszwalb "
            "and slic need it not"
        )
    import transformers

    folder = _folder(name, model)
    model_class, processor_class, _ = CLASSES[name]
    file = weights_of(folder)
    for part in (folder / "config.json", file):
        if not part.is_file():
            raise ModelError(
                f"there is no {part.name} in {folder}; give the folder of a {model_class} as save_pretrained writes it"
            )
    digest = check_file(file)
    try:
        model_type = transformers.PreTrainedConfig.get_config_dict(folder)[0].get("model_type")
        if model_type not in _TYPES[name]:
            raise ModelError(
                f"{folder} holds a model of type {model_type!r}, but {name} needs {' or '.join(_TYPES[name])}; "
                "choose its folder"
            )
        with no_progress_bars():
            network, report = getattr(transformers, model_class).from_pretrained(
                folder,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                attn_implementation=attention,
            )
        processor = getattr(transformers, processor_class).from_pretrained(
            folder, local_files_only=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"the segmenter in {folder} cannot be read: {reason}") from None
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ModelError(f"the segmenter in {folder} lacks weights: {', '.join(missing[:4])}")
    return network.to(device).eval().requires_grad_(False), processor, digest


def _folder(name: str, model: str | Path | None) -> Path:
    usual = CLASSES[name][2]
    if model is None:
        folder = cached_folder(usual)
        if folder is None:
            raise ModelError(
                f"the weights of {name} are not in the local cache, and nothing is fetched unasked; ask for them by "
                f"name, model={usual!r}, or pass a folder; felzenszwalb and slic need no weights"
            )
        return folder
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    text = str(model)
    if text.count("/") != 1 or text[:1] in "./~":
        raise ModelError(
            f"there is no folder {text}; check the path, or give a hub name such as {usual!r}"
        )
    return cached_folder(text) or fetch_folder(text)


class Everything:
    """Masks of everything in a picture, by a trained segmenter."""

    def __init__(
        self,
        name: str,
        settings: Mapping[str, Any],
        model: str | Path | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        """settings: see `ovsslib.guides.masks.defaults`. Raises what :func:`open_segmenter` raises."""
        self.network, self.processor, digest = open_segmenter(name, model, device)
        self.settings, self.device = dict(settings), torch.device(device)
        self.weights_hash = digest[:16]

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 RGB -> masks (M, h, w) bool, the surest first."""
        s, processor = self.settings, self.processor
        size = processor.size
        target = size.get("longest_edge", size.get("height"))
        _, points, pictures, labels = processor.generate_crop_boxes(
            image, target, 0, 512 / 1500, int(s["points_per_side"]), 1
        )
        inputs = processor(images=pictures, return_tensors="pt")
        sizes = inputs["original_sizes"].tolist()
        extra = {}
        if "reshaped_input_sizes" in inputs:
            extra["reshaped_input_sizes"] = inputs["reshaped_input_sizes"].tolist()
        embeddings = self.network.get_image_embeddings(inputs["pixel_values"].to(self.device))
        masks, scores, frames = [], [], []
        for start in range(0, points.shape[1], _POINTS_AT_ONCE):
            part = slice(start, start + _POINTS_AT_ONCE)
            answer = self.network(
                image_embeddings=list(embeddings) if isinstance(embeddings, list) else embeddings,
                input_points=points[:, part].to(self.device, torch.float32),
                input_labels=labels[:, part].to(self.device),
                multimask_output=bool(s["multimask"]),
            )
            logits = processor.post_process_masks(
                answer.pred_masks, sizes, mask_threshold=0.0, binarize=False, **extra
            )
            sure_masks, sure, frame = self._filtered(logits[0], answer.iou_scores[0])
            masks.append(sure_masks.cpu())
            scores.append(sure.cpu())
            frames.append(frame.cpu())
        keep = suppressed(torch.cat(frames).float(), torch.cat(scores), s["box_overlap"])
        return torch.cat(masks)[keep].numpy()

    def _filtered(self, logits: Tensor, iou: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Masks (M, h, w), their scores (M,) and frames (M, 4) that are sure and stable."""
        s = self.settings
        logits, iou = logits.flatten(0, 1), iou.flatten(0, 1).to(logits.device)
        keep = iou > s["iou_threshold"] if s["iou_threshold"] > 0 else torch.ones_like(iou) > 0
        logits, iou = logits[keep], iou[keep]
        if s["stability_threshold"] > 0:
            offset = s["stability_offset"]
            inner = (logits > offset).flatten(1).sum(1)
            outer = (logits > -offset).flatten(1).sum(1)
            keep = (
                inner / outer > s["stability_threshold"]
            )  # nothing in nothing is no number, and goes
            logits, iou = logits[keep], iou[keep]
        masks = logits > 0
        return masks, iou, frames_of(masks)


def frames_of(masks: Tensor) -> Tensor:
    """Frames (M, 4) int64 of masks (M, h, w): left, top, right, bottom of their pixels; zeros for an empty mask."""
    out = torch.zeros(len(masks), 4, dtype=torch.int64, device=masks.device)
    for number, mask in enumerate(masks):
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        if len(rows):
            out[number] = torch.stack([columns[0], rows[0], columns[-1], rows[-1]])
    return out


def suppressed(boxes: Tensor, scores: Tensor, overlap: float) -> Tensor:
    """Greedy suppression: indices of the boxes (N, 4) that no surer kept box overlaps by more than `overlap` (IoU), the
    surest first; equal scores in their order."""
    order = torch.argsort(scores, descending=True, stable=True)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    chosen = []
    while len(order):
        first, candidates = order[0], order[1:]
        chosen.append(int(first))
        least = torch.maximum(boxes[first, :2], boxes[candidates, :2])
        most = torch.minimum(boxes[first, 2:], boxes[candidates, 2:])
        shared = (most - least).clamp(min=0).prod(1)
        union = area[first] + area[candidates] - shared
        order = candidates[~(shared / union > overlap)]
    return torch.tensor(chosen, dtype=torch.int64)
