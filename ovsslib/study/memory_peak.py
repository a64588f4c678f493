"""The highest memory of a piece of work: PyTorch's tensors on CUDA, else of the process, by sampling."""

import gc
import os
import threading

import numpy as np
import psutil
import torch

from ovsslib.clip.memory import give_back_free_memory
from ovsslib.segmenter import Segmenter
from ovsslib.text.features import TextFeatures

_SAMPLE_SECONDS = 0.001


class MemoryPeak:
    """The highest memory (bytes) since the last reset, inside a `with` block."""

    def __init__(self, device: torch.device, every: float = _SAMPLE_SECONDS):
        """every: seconds between two looks at the process; a short peak between them is missed."""
        self.device, self._every = device, every
        self._process = psutil.Process(os.getpid())
        self._peak = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self):
        if self.device.type != "cuda":
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        self.take()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(self._every):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def take(self) -> int:
        """The peak since the last call; starts anew."""
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            return peak
        now = self._process.memory_info().rss
        peak, self._peak = max(self._peak, now), now
        return peak


def working_bytes(segmenter: Segmenter, image: np.ndarray, text: TextFeatures) -> int:
    """Highest memory of one segmentation above what was in use before it: bytes.

    On CUDA PyTorch's tensors, on a CPU the growth of the process, sampled every millisecond.

    Args:
        image: (H, W, 3) uint8.
        text: encoded words.
    """
    device = segmenter.backbone.device
    before = bytes_in_use(device)
    with MemoryPeak(device) as memory:
        segmenter.segment(image, text)
        peak = memory.take()
    return max(0, peak - before)


def bytes_in_use(device: torch.device) -> int:
    """Bytes in use now: on CUDA PyTorch's tensors, on a CPU the process, once what is free has been given back."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.memory_allocated(device)
    gc.collect()
    give_back_free_memory()
    return psutil.Process(os.getpid()).memory_info().rss
