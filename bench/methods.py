"""What every method costs beside its bare forwards, and beside the forwards of its official code.

Run `python bench/methods.py [--only proxyclip,lposs] [--group guide] [--threads 2] [--clock cpu] [--repeats 3]`. The model
is a seeded random ViT-B/16 in float32, the picture has 336 x 448 pixels, the words are 21 random queries; every recipe
works on its own published windows. Printed for each recipe:

- forwards of CLIP's vision tower (ours, counted while it runs / the official code's), and the same for the guide;
- seconds of a picture, and of the bare forwards that were counted, timed just behind it: open_clip's own blocks on the
  same sizes, and the guide's own; their ratio;
- the highest memory above what was in use before (MiB).

Guides have their real size and random weights. `felzenszwalb` cuts pictures into masks and answers prompts in the place
of SAM and SAM 2, and Trident's SAM mixes nothing: the cost of a trained segmenter is not in these numbers.

`--counts` counts the forwards with a narrow tower and narrow guides, and times nothing.

`--memory` runs one picture of 3000 x 4000 pixels with 171 words through `proxyclip` and `corrclip` instead, each in a
process of its own, and prints the highest resident memory of the process.
"""

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from flow import (  # first of all: it imports ovsslib before torch
    HEIGHT,
    SINKS,
    WIDTH,
    picture,
    random_guide,
    random_text,
    without_weights,
)  # fmt: skip

# isort: split
import numpy as np
import open_clip
import torch

import ovsslib
from ovsslib import guides
from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import build_model
from ovsslib.guides import loading
from ovsslib.guides.guide import Guide
from ovsslib.guides.vit import DinoTransformer
from ovsslib.recipe import Recipe, recipe_names
from ovsslib.segmenter import Segmenter
from ovsslib.stages.windows import WindowSettings
from ovsslib.study.forwards import counted_forwards
from ovsslib.study.memory_peak import MemoryPeak, bytes_in_use
from ovsslib.study.methods import GROUPS

WORDS = 21
LARGE, LARGE_WORDS, LIMIT_GB = (3000, 4000), 171, 8.0
LOOK_SECONDS = 0.01  # between two looks at the memory of a timed run, rare enough to cost nothing
LARGE_RECIPES = ("proxyclip", "corrclip")


@dataclass(frozen=True)
class Official:
    """Forwards of a method's released code, by its reference page.

    Attributes:
        window: CLIP forwards for each window. picture: for each picture. crops: one for each window of 224 at 112 besides.
        guide_window, guide_picture: the same of the second encoder; with `crops` the guide sees those windows too.
        more: what comes on top.
        varies: whether that is more forwards, as many as the picture asks for.
    """

    window: int = 1
    picture: int = 0
    crops: bool = False
    guide_window: int = 0
    guide_picture: int = 0
    more: str = ""
    varies: bool = False


GUIDED = Official(guide_window=1)
OFFICIAL = {
    **dict.fromkeys(
        (
            "clip", "maskclip", "sclip", "clearclip", "naclip", "gem", "cliptrase", "resclip", "segearth-ov", "sc-clip",
            "sfp", "dih-clip", "clip-surgery", "clip-surgery-maps", "pearl", "cdam", "naclip-floss", "gla-clearclip",
        ),
        Official(),
    ),
    **dict.fromkeys(
        ("freecp-maskclip", "freecp-gem", "freecp-sclip", "freecp-clearclip"),
        Official(more="crops of 112, up to about 5 a window", varies=True),
    ),
    "itaclip": Official(window=5),
    "rf-clip": Official(window=2, more="the second of a window sees the whole picture"),
    "naclip-ptc": Official(crops=True),
    "proxyclip-ptc": Official(guide_window=1, crops=True),
    "proxyclip": GUIDED,
    "proxyclip-dinov2": GUIDED,
    "gla-proxyclip": GUIDED,
    "lposs": GUIDED,
    "lposs-plus": GUIDED,
    "corrclip": GUIDED,
    "ov-stitcher": GUIDED,
    "trident": Official(guide_window=1, more="SAM once"),
    "reco": Official(window=0, picture=1, guide_picture=1, more="the archive once"),
    "clip-diy": Official(window=0, picture=59, guide_picture=1),
    "clip-diy-plain": Official(window=0, picture=59),
    "clip-es": Official(window=0, picture=1, more="a last block there and back for each word"),
    "tagclip": Official(window=0, picture=2, more="a crop of 224 for each candidate word", varies=True),
    "car": Official(window=0, more="each round: one forward, and a crop of 224 for each word left", varies=True),
}  # fmt: skip


def recipe_of(name: str, small: bool = False) -> Recipe:
    """A shipped recipe on its published windows, with stand-ins for what needs trained weights. small: for a small tower."""
    recipe = Recipe.named(name)
    if "sink_denoise" in recipe:
        recipe = recipe.but({"sink_denoise": SINKS | ({"channels": (4,)} if small else {})})
    if "upsampling" in recipe:
        # LoftUp's weights are the user's; its own time is in bench/loftup.py
        recipe = recipe.but({"upsampling": False})
    return without_weights(recipe)


def random_backbone(small: bool = False) -> Backbone:
    """ViT-B/16 with seeded random weights. small: with its pixels, patches and depth, and all else narrow."""
    torch.manual_seed(0)
    config = copy.deepcopy(open_clip.get_model_config("ViT-B-16-quickgelu"))
    if small:
        config["vision_cfg"] |= {"width": 64, "head_width": 32}
        config["text_cfg"] |= {"width": 64, "heads": 2, "layers": 1}
    net = build_model(config).eval().requires_grad_(False)
    return Backbone(net, name="ViT-B-16-quickgelu", weights_hash="random")


def small_guide(name: str, **options: Any) -> Guide:
    """A narrow guide with the patches of a known one, for `guides.load`."""
    torch.manual_seed(0)
    patch = loading.KNOWN[name].patch if name in loading.KNOWN else 8
    network = DinoTransformer(64, 2, 2, patch, (224 // patch, 224 // patch))
    torch.nn.init.normal_(network.pos_embed, std=0.02)
    return Guide(network, name=name, weights_hash="random")


def counts(backbone: Backbone, name: str) -> dict[str, Any]:
    """Forwards of a recipe, and those of the official code, without times."""
    segmenter = Segmenter(backbone, recipe_of(name, small=True))
    image, text = picture(), random_text(WORDS)
    segmenter.segment(image, text)  # an archive goes through the towers once for a list of words
    clip, guide = counted_forwards(segmenter, image, text).totals
    return {
        "recipe": name, "group": segmenter.recipe.group, "clip": clip, "guide": guide,
        "official": official_forwards(segmenter.recipe, image), "more": remark(name),
    }  # fmt: skip


def remark(name: str) -> str:
    """What is said beside the official code's forwards."""
    return OFFICIAL[name].more if name in OFFICIAL else "no released code"


class Costs:
    """Runs recipes, and the bare forwards that they need."""

    def __init__(self, clock: Callable[[], float], repeats: int):
        self.backbone, self.image, self.text = random_backbone(), picture(), random_text(WORDS)
        self.clock, self.repeats = clock, repeats

    def seconds(self, work: Callable[[], object]) -> float:
        """Time of one call."""
        start = self.clock()
        work()
        return self.clock() - start

    @torch.no_grad()
    def forward(self, size: tuple[int, int]) -> None:
        """open_clip's own blocks on one picture of a size; positions are resized, which its tower does not do."""
        backbone = self.backbone
        tokens, _ = backbone.embed(torch.zeros(1, 3, *size))
        backbone.head(backbone.visual.transformer(tokens)[:, :1])

    def bare(self, count: Counter, forward: Callable[[tuple[int, int]], object]) -> float:
        """Seconds of as many forwards as were counted, one of each size timed."""
        return sum(
            number * self.seconds(lambda s=size: forward(s)) for size, number in count.items()
        )

    def row(self, name: str) -> dict[str, Any]:
        """All columns of one recipe."""
        segmenter = Segmenter(self.backbone, recipe_of(name))
        guide: Any = segmenter.guide
        segmenter.segment(self.image, self.text)  # fills the caches of a list of words
        times, peaks = [], []
        for _ in range(self.repeats):
            before = bytes_in_use(self.backbone.device)
            with MemoryPeak(self.backbone.device, LOOK_SECONDS) as memory:
                start = self.clock()
                count = counted_forwards(segmenter, self.image, self.text)
                seconds = self.clock() - start
                peaks.append(memory.take() - before)
            bare_clip = self.bare(count.clip, self.forward)
            bare_guide = self.bare(count.guide, lambda s: guide.read(torch.zeros(1, 3, *s)))
            times.append((seconds, bare_clip, bare_guide))
        totals = count.totals
        seconds, bare_clip, bare_guide = (
            statistics.median(column) for column in zip(*times, strict=True)
        )
        ratio = statistics.median(
            recipe_seconds / (clip_seconds + guide_seconds)
            for recipe_seconds, clip_seconds, guide_seconds in times
        )
        official = official_forwards(segmenter.recipe, self.image)
        return {
            "recipe": name, "group": segmenter.recipe.group, "clip": totals[0], "guide": totals[1],
            "official": official, "seconds": seconds, "bare_clip": bare_clip, "bare_guide": bare_guide, "ratio": ratio,
            "mib": max(peaks) / 2**20,
            "more": remark(name),
        }  # fmt: skip


def official_forwards(recipe: Recipe, image: np.ndarray) -> tuple[int, int] | None:
    """(CLIP, guide) forwards of the official code on a picture, or None where there is no released code."""
    official, windows = OFFICIAL.get(recipe.name), recipe["windows"]
    if official is None:
        return None
    size = windows.stretched(*windows.resized(image).shape[:2])
    count = len(windows.boxes(*size))
    crops = len(WindowSettings(crop=224, stride=112).boxes(*size)) if official.crops else 0
    guide = official.guide_window * (count + crops) + official.guide_picture
    return official.window * count + official.picture + crops, guide


COUNTS = f"{'recipe':18s} {'group':5s} {'CLIP ours/official':>18s} {'guide ours/official':>19s}"
TIMES = f"{'seconds':>8s} {'bare CLIP':>9s} {'bare guide':>10s} {'ratio':>6s} {'MiB':>6s}"
BESIDES = "official code besides"


def line(row: dict[str, Any]) -> str:
    """A row as it is printed."""
    clip, guide = row["official"] or ("-", "-")
    shown = f"{row['recipe']:18s} {row['group']:5s} {row['clip']:>9d}/{clip!s:8s} {row['guide']:>10d}/{guide!s:8s} "
    if "seconds" in row:
        shown += f"{row['seconds']:8.2f} {row['bare_clip']:9.2f} {row['bare_guide']:10.2f} {row['ratio']:6.2f} "
        shown += f"{row['mib']:6.0f} "
    return f"{shown} {row['more']}".rstrip()


def above_official(row: dict[str, Any]) -> bool:
    """Whether a recipe takes more forwards than the official code, where those are a fixed number."""
    if row["official"] is None or OFFICIAL[row["recipe"]].varies:
        return False
    return row["clip"] > row["official"][0] or row["guide"] > row["official"][1]


def large_picture(name: str) -> dict[str, Any]:
    """Run one large picture here; {"recipe", "shape", "seconds", "before_gb", "peak_gb"} of this process (GB = 10^9)."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (LARGE[0] // 50, LARGE[1] // 50, 3))
    image = np.kron(small, np.ones((50, 50, 1), np.int64)).astype(np.uint8)
    segmenter, text = Segmenter(random_backbone(), recipe_of(name)), random_text(LARGE_WORDS)
    unit = 1024 if sys.platform != "darwin" else 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    start = time.perf_counter()
    result = segmenter.segment(image, text, confidence=True)  # as a call of the segmenter does
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {
        "recipe": name, "shape": list(result.mask.shape), "seconds": seconds, "before_gb": before / 1e9,
        "peak_gb": peak / 1e9,
    }  # fmt: skip


def print_memory(names: list[str], threads: int) -> bool:
    """Each recipe on a large picture in a process of its own; whether all stayed under the limit."""
    print(f"{LARGE[0]}x{LARGE[1]} pixels, {LARGE_WORDS} words, limit {LIMIT_GB:g} GB", flush=True)
    fine = True
    for name in names:
        command = [sys.executable, __file__, "--large", name, "--threads", str(threads)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            print(f"{name:18s} failed: {result.stderr.strip().splitlines()[-1]}")
            fine = False
            continue
        row = json.loads(result.stdout.splitlines()[-1])
        under = row["peak_gb"] < LIMIT_GB
        fine = fine and under
        print(
            f"{name:18s} peak resident {row['peak_gb']:.2f} GB ({row['before_gb']:.2f} GB before the picture), "
            f"{row['seconds']:.0f} s, {'under' if under else 'NOT UNDER'} the limit",
            flush=True,
        )
    return fine


def main() -> int:
    """Print all rows, or those asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="recipes, commas between; all by default")
    parser.add_argument("--group", choices=tuple(GROUPS), help="recipes of one group")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--memory", action="store_true", help="peak memory of a 12-megapixel picture with 171 words"
    )
    parser.add_argument(
        "--counts", action="store_true", help="forwards only, by a narrow tower: minutes, not hours"
    )
    parser.add_argument(
        "--large", help=argparse.SUPPRESS
    )  # one recipe of --memory, in this process
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    guides.load = random_guide  # nothing is fetched, and speed does not depend on the weights
    names = [name.strip() for name in options.only.split(",") if name.strip()]
    unknown = sorted(set(names) - set(recipe_names()))
    if unknown:
        parser.error(f"unknown recipe {unknown[0]!r}; known: {', '.join(recipe_names())}")
    if options.large:
        print(json.dumps(large_picture(options.large)))
        return 0
    if options.memory:
        return 0 if print_memory(names or list(LARGE_RECIPES), options.threads) else 1
    print(f"methods | ovsslib {ovsslib.__version__}, {HEIGHT}x{WIDTH}, {WORDS} words", end=", ")
    row_of: Callable[[str], dict[str, Any]]
    if options.counts:
        guides.load = small_guide
        row_of = partial(counts, random_backbone(small=True))
        print(f"counted only\n{COUNTS}  {BESIDES}", flush=True)
    else:
        clock = time.perf_counter if options.clock == "wall" else time.process_time
        row_of = Costs(clock, max(1, options.repeats)).row
        print(
            f"{options.threads} threads, {options.clock} clock\n{COUNTS} {TIMES}  {BESIDES}",
            flush=True,
        )
    above = []
    for name in names or recipe_names():
        if options.group and Recipe.named(name).group != options.group:
            continue
        row = row_of(name)
        print(line(row), flush=True)
        if above_official(row):
            above.append(name)
    print(f"more forwards than the official code: {', '.join(above) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
