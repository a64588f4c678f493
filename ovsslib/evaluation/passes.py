"""One picture for many recipes: reading ahead, what recipes can share, and what to do when memory runs out."""

import gc
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, cast

import torch

from ovsslib.comparators import Comparator
from ovsslib.errors import DataError, ImageError, MemoryBudgetError
from ovsslib.recipe import POINTS
from ovsslib.segmenter import Segmenter, Words

BAD_IMAGE = (ImageError, DataError, MemoryBudgetError)
"""What one picture can be at fault for; everything else concerns the whole run."""
FRONT = tuple(POINTS)[: tuple(POINTS).index("refine")]
"""Points of the flow before the stitching."""
Measured = Segmenter | Comparator
"""What can be measured, a recipe on a backbone or a trained model."""
_Result = TypeVar("_Result")


def listed(segmenters: Measured | Sequence[Measured]) -> list[Measured]:
    """One segmenter, or several, as a list."""
    if hasattr(segmenters, "recipe"):
        return [cast("Measured", segmenters)]
    return list(segmenters)


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


def group_by_trunk(segmenters: Sequence[Measured]) -> list[list[int]]:
    """Places of the segmenters that can share a trunk pass: equal backbone, windows, views and trunk."""
    groups: dict[tuple, list[int]] = {}
    for index, segmenter in enumerate(segmenters):
        groups.setdefault(segmenter.trunk_key(), []).append(index)
    return list(groups.values())


def share_logits(
    segmenters: Sequence[Segmenter], words: Sequence[Words]
) -> tuple[list[int], list[int]]:
    """Which segmenters (of one trunk) must compute window logits, and whose logits each one can take.

    Recipes that are equal at every point before the stitching, and compare with the same rows of text features,
    have the same stitched logits.
    """
    first: dict[str, int] = {}
    leader_of = []
    for index, (segmenter, compared) in enumerate(zip(segmenters, words, strict=True)):
        resolved = segmenter.recipe.resolved()
        front = {name: resolved[name] for p in FRONT for name, _ in segmenter.recipe.at(p)}
        digest = hashlib.sha256(json.dumps(front, sort_keys=True).encode())
        digest.update(compared.rows.cpu().numpy().tobytes())
        leader_of.append(first.setdefault(digest.hexdigest(), index))
    return list(first.values()), leader_of


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
