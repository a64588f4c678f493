"""What half-precision products save, and how many labels they change.

Run `python bench/precision.py [--only sclip,itaclip] [--pictures 100] [--threads 1] [--clock cpu]`. Time: the seeded
random ViT-B/16 of `flow.py`, 336 x 448 pixels, 56 queries; each picture in bf16 stands beside the bare float32
forwards that the recipe needs and beside the same picture in float32, taken in turn. Labels: SceneCLIP on pictures of
Scenes, because the near ties of random weights say nothing about trained ones.
"""

import argparse
import copy
import statistics
import time

import ovsslib  # first of all: it repairs torchvision's missing operators, which open_clip needs

# isort: split
import torch
from flow import QUERIES, Bench

from ovsslib.clip.backbone import Backbone
from ovsslib.clip.placement import multiplies_bfloat16
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.study.timing import equal_labels

RECIPES = ("sclip", "clearclip", "naclip", "resclip", "itaclip")


def times(bench: Bench, half: Backbone, name: str) -> tuple[float, float]:
    """Medians: bf16 in the bare float32 forwards needed, and in the same recipe's float32."""
    recipe, text = bench.base(name), bench.texts[QUERIES[0]]
    full, fast = Segmenter(bench.backbone, recipe), Segmenter(half, recipe)
    of_floor, of_full = [], []
    for _ in range(bench.repeats):
        forwards = bench.seconds(bench.forwards) / len(bench.crops) * bench.needed(recipe)
        before = bench.seconds(lambda: full.segment(bench.image, text))
        after = bench.seconds(lambda: fast.segment(bench.image, text))
        of_floor.append(after / forwards)
        of_full.append(after / before)
    return statistics.median(of_floor), statistics.median(of_full)


def agreement(name: str, pictures: int) -> float:
    """Share of the pixels of the first pictures of Scenes that bf16 labels as float32 does."""
    dataset, recipe = ovsslib.open_dataset("scenes"), Recipe.named(name, "scenes")
    segmenters = (
        Segmenter(ovsslib.load_backbone("sceneclip", precision=precision), recipe)
        for precision in ("fp32", "bf16")
    )
    images = (dataset[index][0] for index in range(pictures))
    return equal_labels(*segmenters, images, dataset.vocabulary)


def main() -> None:
    """Print one row per recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", default=",".join(RECIPES), help="names of recipes (commas between)"
    )
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = Bench(
        time.perf_counter if options.clock == "wall" else time.process_time, options.repeats
    )
    half = Backbone(copy.deepcopy(bench.net), name="half", weights_hash="random", precision="bf16")
    bench.forwards()
    hardware = "multiplies bfloat16" if multiplies_bfloat16() else "has no bfloat16 products"
    print(f"precision | {options.threads} threads, {options.clock} clock; this CPU {hardware}")
    for name in options.only.split(","):
        of_floor, of_full = times(bench, half, name)
        same = agreement(name, options.pictures)
        print(
            f"{name:12s} | bf16: {of_floor:.2f} of the float32 forwards, {of_full:.2f} of float32 | "
            f"{same:.2%} equal labels on {options.pictures} pictures of Scenes",
            flush=True,
        )


if __name__ == "__main__":
    main()
