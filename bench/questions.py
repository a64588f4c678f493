"""What users do with a picture and a folder: a second question against the first, a folder against a loop, threads.

Run `python bench/questions.py [--only sclip,naclip] [--pictures 6] [--clock cpu]`. The seeded random ViT-B/16 of
`flow.py`, pictures of 336 x 448 pixels. Questions: ten words, encoded, asked of the picture for the first time and of the
opened picture for the second. Folder: `Segmenter.many` on files against reading and segmenting them one by one.
Threads: one picture with one and with two. All in one run, medians of ratios; equal pixels are checked.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import ovsslib  # noqa: F401 - first of all: it repairs torchvision's missing operators, which open_clip needs

# isort: split
import numpy as np
import torch
from flow import Bench, picture, random_text
from PIL import Image

from ovsslib.images.pictures import read_picture
from ovsslib.segmenter import Segmenter
from ovsslib.segmenter.opened import OpenedPicture
from ovsslib.text.features import TextFeatures
from ovsslib.text.vocabulary import Vocabulary

RECIPES = ("sclip", "clearclip", "naclip", "resclip")
WORDS = [f"word {number}" for number in range(10)]


def second_question(bench: Bench, segmenter: Segmenter) -> tuple[float, bool]:
    """Time of ten words on an opened picture, in the picture's first answer; whether the pixels are equal."""
    first, second = random_text(11), random_text(10)
    image, ratios = bench.image, []

    def ask(opened: OpenedPicture, text: TextFeatures) -> np.ndarray:
        return segmenter.answer(
            opened._encoded, image, text
        ).mask  # encoding words is not timed here

    for _ in range(bench.repeats):
        before = bench.seconds(lambda: ask(segmenter.open(image), first))
        opened = segmenter.open(image)
        ratios.append(bench.seconds(lambda opened=opened: ask(opened, second)) / before)
    return statistics.median(ratios), np.array_equal(
        ask(opened, second), segmenter.segment(image, second).mask
    )


def folder(bench: Bench, segmenter: Segmenter, pictures: int) -> float:
    """Time of `many` on a folder, in a loop over its files."""
    words = Vocabulary.from_words(WORDS)
    segmenter.text = lambda *_, **__: random_text(10)  # type: ignore[method-assign]
    text = segmenter.text(words)
    with tempfile.TemporaryDirectory() as name:
        for number in range(pictures):
            Image.fromarray(np.roll(picture(), 16 * number, axis=1)).save(
                Path(name) / f"{number}.png"
            )
        files = sorted(Path(name).iterdir())

        def loop() -> None:
            for file in files:
                segmenter.segment(read_picture(file), text)

        def together() -> None:
            for _ in segmenter.many(name, words):
                pass

        ratios = [1 / bench.seconds(loop) * bench.seconds(together) for _ in range(bench.repeats)]
    return statistics.median(ratios)


def threads(bench: Bench, segmenter: Segmenter) -> float:
    """Time on the wall with two threads, in that with one."""
    text, ratios = random_text(10), []
    for _ in range(bench.repeats):
        walls = []
        for count in (1, 2):
            torch.set_num_threads(count)
            start = time.perf_counter()
            segmenter.segment(bench.image, text)
            walls.append(time.perf_counter() - start)
        torch.set_num_threads(1)
        ratios.append(walls[1] / walls[0])
    return statistics.median(ratios)


def main() -> None:
    """Print one row per recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", default=",".join(RECIPES), help="names of recipes (commas between)"
    )
    parser.add_argument("--pictures", type=int, default=6, help="in the folder")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(
        time.perf_counter if options.clock == "wall" else time.process_time, options.repeats
    )
    bench.forwards()
    print(f"questions | 336x448, 10 words, {options.clock} clock")
    for name in options.only.split(","):
        segmenter = Segmenter(bench.backbone, bench.base(name))
        ratio, same = second_question(bench, segmenter)
        equal = "equal pixels" if same else "DIFFERENT pixels"
        print(
            f"{name:12s} | second question {ratio:.3f} of the first, {equal} | "
            f"folder {folder(bench, segmenter, options.pictures):.2f} of a loop | "
            f"two threads {threads(bench, segmenter):.2f} of one",
            flush=True,
        )


if __name__ == "__main__":
    main()
