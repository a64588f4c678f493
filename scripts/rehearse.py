"""Runs the book on a real data set's layout without the data set: fake pictures, a small random tower.

    python scripts/rehearse.py --dataset voc21                      # every notebook
    python scripts/rehearse.py 00 01 08 --dataset cityscapes        # some
    python scripts/rehearse.py --limit 14 --scale 1                 # all the pictures, at full size

Pictures of Scenes, resized to the data set's usual shape, lie in its folders with labels mapped by name and ignored
borders. The tower has the depth, the grid and the width of features of OpenAI's ViT-B/16, all else is small; LoftUp's
weights are random and lie in a cache of their own, as the hub's client keeps them. Nothing of the user's cache is read,
and nothing is fetched. The numbers mean nothing; what counts is that each notebook runs and that nothing reaches the
error stream.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from run_notebooks import ROOT, Run, find_notebooks, report_failures, run_all
from safetensors.torch import save_file
from scipy.ndimage import maximum_filter, minimum_filter

import ovsslib
from ovsslib.clip.loading import build_model
from ovsslib.networks.loftup import LoftUp
from ovsslib.study.settling import IMAGE_SIZES

sys.path.insert(0, str(ROOT / "tests"))
from fake_datasets import Fake, write

PICTURES = 14
SIDE = 375
"""Pixels of the shorter side by default, so that one data set takes minutes: PASCAL VOC's own."""
TOWER = {
    "embed_dim": 512,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 224,
        "layers": 12,
        "width": 64,
        "head_width": 32,
        "patch_size": 16,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 64,
        "heads": 2,
        "layers": 2,
    },
}
"""As deep as the recipes ask (they name layers up to the tenth), with the grid that they name strides for."""
ALIASES = {
    "brick wall": ("wall",),
    "stone wall": ("wall",),
    "plain wall": ("wall",),
    "wood floor": ("wooden floor", "floor"),
    "tile floor": ("tiled floor", "floor"),
    "tree": ("vegetation",),
    "bush": ("vegetation", "plant"),
    "grass": ("terrain",),
    "dirt": ("ground", "terrain"),
    "sand": ("ground", "terrain"),
    "sea": ("water",),
    "house": ("building",),
    "ball": ("sports ball",),
    "rug": ("carpet",),
    "mountain": ("hill",),
}
"""Class of Scenes -> what other data sets call such a thing, best first, beside its name and synonyms."""
BORDERLESS = ("coco_object", "context60")
"""Data sets whose label files ignore no pixel."""
_LOFTUP = "models--haiwen--loftup-clip"


def label_of(scenes: ovsslib.Vocabulary, target: ovsslib.Vocabulary) -> np.ndarray:
    """(256,) uint8: label of Scenes -> label of the target by name and synonym; "background" or 255 for the rest."""
    place_of = {name: place for place, name in enumerate(target.names)}
    for place, synonyms in enumerate(target.synonyms):
        for word in synonyms:
            place_of.setdefault(word, place)
    fallback = place_of.get("background", 255)
    table = np.full(256, 255, np.uint8)
    for place, name in enumerate(scenes.names):
        ways = (name, *ALIASES.get(name, ()), *scenes.synonyms[place])
        table[place] = next((place_of[word] for word in ways if word in place_of), fallback)
    return table


def fake_dataset(dataset: str, root: Path, pictures: int = PICTURES, scale: float = 1.0) -> Fake:
    """Write pictures of Scenes as the data set, `scale` times its usual size."""
    scenes = ovsslib.open_dataset("scenes", limit=pictures)
    height, width = (round(scale * side) for side in IMAGE_SIZES[dataset])
    table = label_of(scenes.vocabulary, ovsslib.Vocabulary.named(_vocabulary(dataset)))
    pairs = []
    for image, label, _ in scenes:
        large = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        nearest = Image.fromarray(label.astype(np.uint8)).resize(
            (width, height), Image.Resampling.NEAREST
        )
        mapped = table[np.asarray(nearest)]
        if dataset not in BORDERLESS:
            mapped[maximum_filter(mapped, 5) != minimum_filter(mapped, 5)] = 255
        pairs.append((large, mapped))
    return write(dataset, root, pairs)


def _vocabulary(dataset: str) -> str:
    return "coco_stuff" if dataset == "coco_stuff10k" else dataset


def fake_weights(folder: Path) -> tuple[Path, Path]:
    """A tower with seeded random weights, and LoftUp's in the hub's cache; returns configuration and weights file."""
    torch.manual_seed(0)
    config, weights = folder / "tower.json", folder / "tower.safetensors"
    config.write_text(json.dumps(TOWER))
    state = build_model(TOWER).state_dict()
    save_file({name: value.contiguous().clone() for name, value in state.items()}, weights)
    snapshot = folder / "hub" / "hub" / _LOFTUP / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True, exist_ok=True)
    torch.save(LoftUp(TOWER["embed_dim"]).state_dict(), snapshot / "pytorch_model.bin")
    refs = snapshot.parent.parent / "refs"
    refs.mkdir(exist_ok=True)
    (refs / "main").write_text("0" * 40)
    return config, weights


def prepare(dataset: str, folder: Path, limit: int, scale: float = 1.0) -> Path:
    """Make data and weights once, and the profile; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"data-{scale:g}"
    if not (data / f"{dataset}.made").exists():
        fake_dataset(dataset, data, scale=scale)
        (data / f"{dataset}.made").touch()
    config, weights = folder / "tower.json", folder / "tower.safetensors"
    if not weights.exists():
        fake_weights(folder)
    profile = folder / f"rehearsal-{dataset}.yaml"
    content = {
        "title": f"a rehearsal: fake {dataset}, a small random tower",
        "model": str(config),
        "pretrained": str(weights),
        "dataset": dataset,
        "root": str(data),
        "limit": limit,
    }
    profile.write_text(yaml.safe_dump(content, sort_keys=False))
    return profile


def rehearse(
    dataset: str, names: Sequence[str], folder: Path, limit: int, jobs: int, scale: float = 1.0
) -> list[Run]:
    """Run the notebooks whose names begin with `names` (all if empty) on the fake data set."""
    profile = prepare(dataset, folder, limit, scale)
    objects = profile if dataset == "voc21" else prepare("voc21", folder, limit, scale)
    os.environ |= {
        "OVSSLIB_CACHE": str(folder / "cache"),
        "HF_HOME": str(folder / "hub"),
        "HF_HUB_OFFLINE": "1",
    }
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "OVSSLIB_DATA"):
        os.environ.pop(variable, None)
    few = str(limit)
    parameters = {"profile": str(profile), "object_profile": str(objects)}
    parameters |= dict.fromkeys(("small_limit", "maps", "pictures"), few) | {"repeats": "1"}
    return run_all(find_notebooks(names), folder / "notebooks" / dataset, parameters, jobs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="beginnings of notebook names; all if none")
    parser.add_argument("--dataset", default="voc21", choices=sorted(IMAGE_SIZES))
    parser.add_argument("--limit", type=int, default=3, help=f"pictures measured, 1 to {PICTURES}")
    parser.add_argument(
        "--scale",
        type=float,
        help=f"of the data set's usual size; by default at most {SIDE} pixels high",
    )
    parser.add_argument("--jobs", type=int, default=1, help="notebooks at once")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "rehearsal")
    options = parser.parse_args(arguments)
    if not 1 <= options.limit <= PICTURES:
        parser.error(f"--limit {options.limit}: there are {PICTURES} pictures")
    if options.scale is None:
        options.scale = min(1.0, SIDE / IMAGE_SIZES[options.dataset][0])
    if not 0 < options.scale <= 1:
        parser.error(f"--scale {options.scale:g}: choose above 0, at most 1")
    started = time.monotonic()
    folder = options.folder.resolve()
    try:
        runs = rehearse(
            options.dataset, options.names, folder, options.limit, options.jobs, options.scale
        )
    except ValueError as error:
        parser.error(str(error))
    failed = report_failures(runs)
    minutes = (time.monotonic() - started) / 60
    print(
        f"{options.dataset}: {len(runs) - failed} of {len(runs)} notebooks ran, {minutes:.1f} minutes"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
