"""PAMR against a version that stores the neighbourhood of every query, on one core; and labels from
a few queries at a time against labels from all refined logits.

Run `python bench/pamr.py [--queries 171] [--height 336] [--width 448]`. The stored version works
through the queries in groups, so that it fits in memory; this favours it. Prints seconds, the
ratio, and the difference. The second row is of a picture of 672 x 896 pixels unless `--labels-of`
says otherwise: processor seconds and growth of the process, each in a process of its own, and whether the
labels are equal.
"""

import argparse
import multiprocessing
import threading
import time
from types import SimpleNamespace

import numpy as np
import psutil
import torch
from torch.nn import functional as F

from ovsslib.recipe import Recipe
from ovsslib.segmenter import finishing
from ovsslib.stages.contexts import ImageContext
from ovsslib.stages.pixel_adaptive import pamr, pamr_affinity
from ovsslib.stages.windows import Stitched
from ovsslib.text.features import TextFeatures
from ovsslib.text.vocabulary import Vocabulary


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


def finish(by_query: bool, queries: int, size: tuple[int, int]) -> tuple[np.ndarray, float, float]:
    """Labels of random windows after PAMR, seconds, and megabytes by which the process grew."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    recipe = Recipe.named("sclip").but(pamr=True)
    grid = recipe["windows"].boxes(336, 448)
    windows = torch.rand(len(grid), queries, 14, 14, generator=generator)
    words = Vocabulary.from_words([f"word {number}" for number in range(queries)])
    text = TextFeatures(torch.zeros(queries, 4), torch.arange(queries), words)
    picture = torch.randn(1, 3, 336, 448, generator=generator)
    image = np.zeros((*size, 3), dtype=np.uint8)
    backbone = SimpleNamespace(device=torch.device("cpu"))
    context = ImageContext(backbone, image, picture, text, recipe)  # type: ignore[arg-type]
    pamr(picture, torch.rand(1, 4, 336, 448), 1)  # warm up
    if not by_query:
        finishing.goes_by_query = lambda *anything: False
    process, done = psutil.Process(), threading.Event()
    sizes = [process.memory_info().rss]

    def watch() -> None:
        while not done.wait(0.005):
            sizes.append(process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    start = time.process_time()
    with torch.inference_mode():
        labels = finishing.finish(recipe, Stitched(windows, grid, size), context).labels
    seconds = time.process_time() - start
    done.set()
    watching.join()
    return labels, seconds, (max(sizes) - sizes[0]) / 1e6


def row_of_labels(queries: int, size: tuple[int, int]) -> None:
    """Print the row of labels from a few queries at a time."""
    answers = []
    for by_query in (True, False):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            answers.append(pool.apply(finish, (by_query, queries, size)))
    (labels, fast, little), (labels_at_once, slow, much) = answers
    print(
        f"labels after pamr | {queries} queries {size[0]}x{size[1]}"
        f" | a few at a time {fast:.2f} s, {little:.0f} MB | all at once {slow:.2f} s, {much:.0f} MB"
        f" | ratio {slow / fast:.2f}, memory {much / little:.1f} | equal labels {np.mean(labels == labels_at_once):.6%}"
    )


def main() -> None:
    """Time both on the same random input and print one row; then the row of labels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=171)
    parser.add_argument("--height", type=int, default=336)
    parser.add_argument("--width", type=int, default=448)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--group", type=int, default=57, help="queries stored at a time")
    parser.add_argument(
        "--labels-of", type=int, nargs=3, default=(171, 672, 896), metavar=("Q", "H", "W"),
        help="queries, height and width of the second row; one query leaves it out",
    )  # fmt: skip
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
    queries, height, width = options.labels_of
    if queries > 1:
        row_of_labels(queries, (height, width))


if __name__ == "__main__":
    main()
