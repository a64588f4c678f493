"""DenseCRF over the labels that matter against all labels, on made-up scenes at 640x480 with 171
words.

Run `python bench/densecrf.py [--kinds peaky noisy]`. A scene has 9 coloured regions with texture;
the cosines of a patch grid rise by 0.08 for the right word over patchy noise. "peaky" is what a
confident model gives, "noisy" has twice the noise and dozens of words that win a few patches each.
Prints seconds of processor time (both are single-threaded), the ratio, and equal pixels.
"""

import argparse
import time

import numpy as np
import torch
from torch.nn import functional as F

from ovsslib.stages.densecrf import densecrf


def scene(
    words: int, height: int, width: int, noise: float, scale: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A photo (H, W, 3) uint8 of 9 regions and probabilities (C, H, W) float32 of a patchy
    classifier.
    """
    random = torch.Generator().manual_seed(seed)

    def smooth(channels: int, rows: int, columns: int, size: tuple[int, int]) -> torch.Tensor:
        coarse = torch.randn(1, channels, rows, columns, generator=random)
        return F.interpolate(coarse, size, mode="bicubic")[0]

    region = smooth(9, 5, 6, (height, width)).argmax(0)
    colours = 255 * torch.rand(9, 3, generator=random)[region].permute(2, 0, 1)
    texture = 12 * torch.randn(3, height, width, generator=random)
    photo = (colours + texture + 15 * smooth(3, 9, 12, (height, width))).clamp(0, 255)

    grid = (height // 16, width // 16)
    right = F.one_hot(torch.randperm(words, generator=random)[:9][region], words)
    right = F.adaptive_avg_pool2d(right.permute(2, 0, 1).float()[None], grid)[0]
    bias = noise * torch.randn(words, 1, 1, generator=random)
    cosines = 0.18 + 0.08 * right + bias + noise * smooth(words, 6, 8, grid)
    cosines += noise * torch.randn(words, *grid, generator=random)
    cosines = F.interpolate(cosines[None], (height, width), mode="bilinear")[0]
    photo = photo.to(torch.uint8).permute(1, 2, 0).contiguous()
    return photo.numpy(), (scale * cosines).softmax(0).numpy()


def main() -> None:
    """Print one row per kind of scene."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=int, default=171)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--kinds", nargs="+", default=["peaky", "noisy"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for kind in options.kinds:
        noise = {"peaky": 0.008, "noisy": 0.016}[kind]
        image, probabilities = scene(options.words, options.height, options.width, noise, 100)
        start = time.process_time()
        ours = densecrf(image, probabilities)
        middle = time.process_time()
        full = densecrf(image, probabilities, tolerance=0)
        end = time.process_time()
        fast, slow = middle - start, end - middle
        labels, reference = ours.argmax(0), full.argmax(0)
        print(
            f"densecrf {kind} | {options.words} words {options.height}x{options.width}"
            f" | {fast:.2f} s | all labels {slow:.2f} s | ratio {slow / fast:.1f}"
            f" | equal pixels {100 * (labels == reference).mean():.3f}%"
            f" | winners before {len(np.unique(probabilities.argmax(0)))}"
            f", after {len(np.unique(reference))}"
        )


if __name__ == "__main__":
    main()
