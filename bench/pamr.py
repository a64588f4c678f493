"""PAMR against a version that stores the neighbourhood of every query, on one core.

Run `python bench/pamr.py [--queries 171] [--height 336] [--width 448]`. The stored version works
through the queries in groups, so that it fits in memory; this favours it. Prints seconds, the
ratio, and the difference.
"""

import argparse
import time

import torch
from torch.nn import functional as F

from ovsslib.stages.pixel_adaptive import pamr, pamr_affinity


def neighbourhood(maps: torch.Tensor, dilations: tuple[int, ...]) -> torch.Tensor:
    """(1, Q, H, W) -> (Q, 8 * len(dilations), H, W): a copy of every neighbour of every query."""
    kernel = torch.zeros(8, 1, 3, 3)
    for index, tap in enumerate(t for t in range(9) if t != 4):
        kernel[index, 0, tap // 3, tap % 3] = 1
    groups = []
    for dilation in dilations:
        padded = F.pad(maps, (dilation,) * 4, mode="replicate").transpose(0, 1)
        groups.append(F.conv2d(padded, kernel, dilation=dilation))
    return torch.cat(groups, 1)


def stored_neighbourhood_pamr(
    image: torch.Tensor,
    logits: torch.Tensor,
    iterations: int,
    dilations: tuple[int, ...],
    group: int,
) -> torch.Tensor:
    """The textbook way: gather all neighbours by convolution with one-hot kernels, multiply,
    sum.
    """
    affinity = pamr_affinity(image[0], dilations)
    parts = []
    for part in logits.split(group, 1):
        for _ in range(iterations):
            part = (neighbourhood(part, dilations) * affinity).sum(1)[None]
        parts.append(part)
    return torch.cat(parts, 1)


def main() -> None:
    """Time both on the same random input and print one row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=171)
    parser.add_argument("--height", type=int, default=336)
    parser.add_argument("--width", type=int, default=448)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--group", type=int, default=57, help="queries stored at a time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    image = torch.randn(1, 3, options.height, options.width)
    logits = torch.rand(1, options.queries, options.height, options.width)
    with torch.inference_mode():
        start = time.perf_counter()
        ours = pamr(image, logits, options.iterations, (8, 16))
        middle = time.perf_counter()
        stored = stored_neighbourhood_pamr(
            image, logits, options.iterations, (8, 16), options.group
        )
        end = time.perf_counter()
    fast, slow = middle - start, end - middle
    print(
        f"pamr | {options.queries} queries {options.height}x{options.width}"
        f", {options.iterations} iterations"
        f" | {fast:.2f} s | stored neighbourhoods {slow:.2f} s | ratio {slow / fast:.1f}"
        f" | largest difference {(ours - stored).abs().max():.1e}"
    )


if __name__ == "__main__":
    main()
