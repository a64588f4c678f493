"""Several processes on one evaluation, started by torchrun::

    torchrun --nproc-per-node 4 -m ovsslib evaluate --recipe sclip --profile openai-vitb16-voc21

Process r of n takes the images r, r + n, r + 2n, ... Nothing is padded or counted twice: at the end every process
puts its images' counts into an array of zeros for all images, the arrays are summed as integers, and each image
must have been counted exactly once. So the result is that of one process, image by image.
"""

import os
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from ovsslib.errors import DataError

# A process that has finished waits for the slowest one; torchrun itself ends the run when one is lost.
_PATIENCE = timedelta(hours=24)


class Processes:
    """The processes of this run: one, unless torchrun started several.

    Attributes:
        rank, count: which process this is, of how many.
    """

    def __init__(self, rank: int = 0, count: int = 1, device: torch.device | None = None):
        self.rank, self.count = rank, count
        self._device = device or torch.device("cpu")

    @staticmethod
    def current(device: torch.device | str = "cpu") -> "Processes":
        """The processes that torchrun's environment describes, connected (gloo on a CPU, nccl on CUDA)."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return Processes()
        device = torch.device(device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
        return Processes(dist.get_rank(), dist.get_world_size(), device)

    @property
    def first(self) -> bool:
        """Whether this process is the one that prints and stores."""
        return self.rank == 0

    def share(self, images: int) -> range:
        """The images of this process."""
        return range(self.rank, images, self.count)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.count > 1:
            self.sum(np.zeros(1, dtype=np.int64))

    def sum(self, array: np.ndarray) -> np.ndarray:
        """The int64 array summed over all processes, exact. Raises DataError if one of them is lost."""
        if self.count == 1:
            return array
        tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(self._device)
        with _all_present():
            dist.all_reduce(tensor)
        return tensor.cpu().numpy()

    def gather(self, items: list) -> list:
        """The lists of all processes, one behind the other. Raises DataError if one of them is lost."""
        if self.count == 1:
            return items
        parts: list = [None] * self.count
        with _all_present():
            dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]


@contextmanager
def _all_present():
    """Turn what gloo and nccl raise when another process is gone into an error that says what to do."""
    try:
        yield
    except RuntimeError as error:
        raise DataError(
            "one of the processes is lost, so the evaluation is not complete; start it again and it goes on "
            f"where it stopped ({str(error).splitlines()[0][:120]})"
        ) from error


def local_device(device: str) -> str:
    """The device of this process: "cuda" (or "auto" where CUDA is) becomes the process's own GPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{int(os.environ['LOCAL_RANK']) % max(1, torch.cuda.device_count())}"
        torch.cuda.set_device(device)
    return device


def assert_complete(done: np.ndarray, skipped: int) -> None:
    """Check that each image was counted exactly once, or skipped.

    Args:
        done: (N,) how often each image was counted, over all processes.
    Raises DataError otherwise.
    """
    if (done > 1).any() or int(done.sum()) + skipped != len(done):
        raise DataError(
            f"{int(done.sum())} of {len(done)} images were counted and {skipped} skipped; the processes did not share "
            "the images rightly: start all of them with the same arguments"
        )
