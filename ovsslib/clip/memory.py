"""Memory: work that cannot fit is refused before it starts, PyTorch's own errors say what to do, long runs stay flat."""

import ctypes
from contextlib import suppress

import psutil
import torch

from ovsslib.errors import MemoryBudgetError

GROWTH = 2**29
"""Bytes that a process may grow by before `FreeMemory` looks for what is free in it."""


def check_memory(queries: int, size: tuple[int, int], device: torch.device) -> None:
    """Raise MemoryBudgetError before work that holds four float32 tensors `(queries, *size)` would end in a kill."""
    need = 4 * 4 * queries * size[0] * size[1]
    free = psutil.virtual_memory().available
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    if need > free:
        raise MemoryBudgetError(
            f"{queries} queries at {size[0]}x{size[1]} pixels need about {need / 1e9:.1f} GB for the stages behind the "
            f"stitching (refine, confidence, area threshold, kept scores), and {free / 1e9:.1f} GB are free; use a "
            "smaller picture, fewer words, or turn them off"
        )


def check_free(need: int, device: torch.device, what: str, remedy: str) -> None:
    """Raise MemoryBudgetError before work that needs `need` bytes more than there are; it says `what` and `remedy`."""
    free = psutil.virtual_memory().available
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    if need > free:
        raise MemoryBudgetError(
            f"{what} need about {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; {remedy}"
        )


class memory_errors:
    """Context that turns PyTorch's out-of-memory errors into MemoryBudgetError with a remedy."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        text = str(error)
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in text:
            raise MemoryBudgetError(
                f"out of memory ({text.splitlines()[0][:120]}); use a smaller picture, fewer words, a smaller "
                "windows.crop, or precision='fp16' on a GPU"
            ) from error
        return False


def give_back_free_memory() -> None:
    """Have the C library return to the system what is free. glibc alone; elsewhere nothing happens."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class FreeMemory:
    """Keeps a long run flat: between pictures, free memory goes back to the system once the process has grown.

    glibc keeps freed blocks of up to 32 MB for later. Tensors of many sizes leave holes between them that fit nothing
    again, so that a process which needs 0.7 GB for a picture holds 15 GB after some hundred.
    """

    def __init__(self, growth: int = GROWTH) -> None:
        self._process, self.growth = psutil.Process(), growth
        self._floor = self._used()

    def _used(self) -> int:
        return self._process.memory_info().rss

    def between_pictures(self) -> None:
        """Give back what is free if the process has grown by more than `growth` bytes."""
        if self._used() > self._floor + self.growth:
            give_back_free_memory()
            self._floor = self._used()
