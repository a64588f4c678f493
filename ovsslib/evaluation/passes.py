"""One picture for many recipes: reading ahead, what recipes can share, and what to do when memory runs out."""

import gc
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ovsslib.errors import DataError, ImageError, MemoryBudgetError
from ovsslib.segmenter import Segmenter, memory_errors
from ovsslib.text.features import TextFeatures

BAD_IMAGE = (ImageError, DataError, MemoryBudgetError)
"""What one picture can be at fault for; everything else concerns the whole run."""
FRONT = ("text", "windows", "views", "attention", "features", "similarity")
"""Points of the flow before the stitching."""
_STRIP = 24_000_000  # float32 scores held at a time while confidences are read off
_Result = TypeVar("_Result")


def read_ahead(dataset: Any, indices: Sequence[int], workers: int) -> Iterator[tuple[int, Any]]:
    """(index, item or the error that reading it raised), in order; `workers` threads read ahead."""

    def read(index: int) -> Any:
        try:
            return dataset[index]
        except BAD_IMAGE as error:
            return error

    if workers < 1:
        for index in indices:
            yield index, read(index)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ovss-read")
    waiting: list[tuple[int, Future]] = []
    try:
        for index in indices:
            waiting.append((index, pool.submit(read, index)))
            if len(waiting) > 2 * workers:
                ready, future = waiting.pop(0)
                yield ready, future.result()
        for ready, future in waiting:
            yield ready, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def group_by_trunk(segmenters: Sequence[Segmenter]) -> list[list[int]]:
    """Places of the segmenters that can share a trunk pass: equal backbone, windows and views."""
    groups: dict[tuple, list[int]] = {}
    for index, segmenter in enumerate(segmenters):
        key = (id(segmenter.backbone), segmenter.windows, segmenter.views)
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def share_logits(
    segmenters: Sequence[Segmenter], rows: Sequence[Tensor]
) -> tuple[list[int], list[int]]:
    """Which segmenters (of one trunk) must compute window logits, and whose logits each one can take.

    Recipes that are equal at every point before the stitching, and compare with the same rows of text features,
    have the same stitched logits.
    """
    first: dict[str, int] = {}
    leader_of = []
    for index, (segmenter, text) in enumerate(zip(segmenters, rows, strict=True)):
        resolved = segmenter.recipe.resolved()
        front = {name: resolved[name] for p in FRONT for name, _ in segmenter.recipe.at(p)}
        digest = hashlib.sha256(json.dumps(front, sort_keys=True).encode())
        digest.update(text.cpu().numpy().tobytes())
        leader_of.append(first.setdefault(digest.hexdigest(), index))
    return list(first.values()), leader_of


def labels_and_confidence(
    segmenter: Segmenter, stitched: Any, image: np.ndarray, pixels: Tensor, text: TextFeatures
) -> tuple[np.ndarray, np.ndarray]:
    """Label map (H, W) int32 and the score (H, W) float32 that the label of each pixel has."""
    with torch.no_grad(), memory_errors():
        labels, scores = segmenter.finish(
            stitched, image, pixels, text, keep_scores=not segmenter.is_local()
        )
        if scores is not None:
            confidence = np.take_along_axis(scores, labels[None].astype(np.int64), axis=0)[0]
            return labels, np.clip(confidence, 0, 1)
        settings, classes = segmenter.recipe["labels"], len(text.vocabulary)
        height, width = stitched.size
        step = max(1, _STRIP // (stitched.queries * width))
        confidence = np.empty((height, width), dtype=np.float32)
        for start in range(0, height, step):
            logits = stitched.rows(start, min(start + step, height))[: len(text)]
            strip = settings.class_scores(logits * settings.logit_scale, text.query_class, classes)
            chosen = torch.from_numpy(labels[start : start + step]).to(strip.device).long()
            confidence[start : start + step] = strip.gather(0, chosen[None])[0].cpu().numpy()
        return labels, confidence


def with_smaller_chunks(backbone: Any, work: Callable[[], _Result]) -> _Result:
    """Run `work()`; when memory runs out, halve the windows per chunk (for good) and try again.

    Raises MemoryBudgetError if one window at a time does not fit either.
    """
    while True:
        try:
            return work()
        except (MemoryBudgetError, torch.OutOfMemoryError) as error:
            if backbone.batch_of_windows <= 1:
                if isinstance(error, MemoryBudgetError):
                    raise
                raise MemoryBudgetError(
                    f"out of memory with one window at a time ({str(error).splitlines()[0][:120]}); use a smaller "
                    "windows.crop, fewer words, or precision='fp16' on a GPU"
                ) from error
            backbone.batch_of_windows //= 2
            warnings.warn(
                f"memory ran out: from now on {backbone.batch_of_windows} windows at a time",
                stacklevel=2,
            )
        gc.collect()
        if backbone.device.type == "cuda":
            torch.cuda.empty_cache()
