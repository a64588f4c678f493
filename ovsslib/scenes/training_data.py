"""What SceneCLIP is trained on: batches of captioned crops, a function of the seed and the step alone."""

from collections import deque
from collections.abc import Iterator
from typing import Any, cast

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ovsslib.errors import DataError
from ovsslib.scenes.crops import training_crops

# Batches between two crops of one picture; many worker counts divide it.
_SPREAD = 12


class CaptionedBatches(IterableDataset):
    """Batches of (images (B, S, S, 3) uint8 RGB, B captions); no mask or label is among them.

    wordings: n above 0 gives n captions for every crop, B x n in all: first the first one of every crop, and so on.

    Every picture is drawn once and cropped `crops` times. Its crops go to different batches, 12 apart, since crops of
    one picture in one batch would be each other's false negatives. Batch t depends on (seed, t) alone, whatever the
    number of workers and wherever the iteration starts. Raises DataError for settings that cannot be met.
    """

    def __init__(
        self, seed: int, batch: int, size: int, crops: int, first: int = 0, wordings: int = 0
    ) -> None:
        if crops < 1 or batch < 2 or batch % crops:
            raise DataError(
                f"batch {batch} must be at least 2 and a multiple of the crops a picture, {crops}"
            )
        self.seed, self.batch, self.size, self.crops, self.first = seed, batch, size, crops, first
        self.wordings = wordings

    def _draw(self, chunk: int) -> list[list[tuple[np.ndarray, str | tuple[str, ...]]]]:
        """The crops of one chunk of pictures, sorted by which crop of its picture each is."""
        pictures = self.batch // self.crops
        first = chunk * pictures
        pairs = list(
            training_crops(
                self.seed, first, pictures, self.size, self.crops, wordings=self.wordings
            )
        )
        return [pairs[number :: self.crops] for number in range(self.crops)]

    def __iter__(self) -> Iterator[tuple[torch.Tensor, list[str]]]:
        worker = get_worker_info()
        index, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        if _SPREAD % stride:
            raise DataError(f"{stride} data workers: take a number that divides {_SPREAD}")
        cv2.setNumThreads(1)
        # Chunk t gives its first crops to batch t and its crop number j to batch t - 12 j: a window of chunks slides.
        reach = _SPREAD // stride * (self.crops - 1)
        step = self.first + index
        window = deque(self._draw(step + offset * stride) for offset in range(reach))
        while True:
            window.append(self._draw(step + reach * stride))
            pairs = [
                pair
                for number in range(self.crops)
                for pair in window[number * _SPREAD // stride][number]
            ]
            captions = [caption for _, caption in pairs]
            # a crop has one caption, or with `wordings` a tuple of them
            texts = cast("list[str]", captions)
            if self.wordings:
                texts = [
                    wordings[number] for number in range(self.wordings) for wordings in captions
                ]
            yield torch.from_numpy(np.stack([image for image, _ in pairs])), texts
            window.popleft()
            step += stride


def training_loader(
    seed: int,
    batch: int,
    size: int,
    crops: int,
    first: int = 0,
    workers: int = 1,
    wordings: int = 0,
) -> DataLoader:
    """A loader of :class:`CaptionedBatches` from batch number `first` on. With 0 workers it draws in this process."""
    batches = CaptionedBatches(seed, batch, size, crops, first, wordings)
    extra: dict[str, Any] = {"prefetch_factor": 4, "persistent_workers": True} if workers else {}
    return DataLoader(batches, batch_size=None, num_workers=workers, **extra)
