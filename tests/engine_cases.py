"""What the tests of the engine share: a small recipe, a small data set, a backbone from a seed."""

import os
from pathlib import Path

import torch
from fake_datasets import build

from ovsslib import Recipe, Segmenter
from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import build_model
from ovsslib.datasets.dataset import SegmentationDataset, open_dataset

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16, "mlp_ratio": 2.0,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}  # fmt: skip


def seeded_backbone() -> Backbone:
    """A random CLIP, the same in every process."""
    torch.manual_seed(3)
    return Backbone(build_model(CONFIG), name="seeded", pretrained="random", weights_hash="seed3")


def small_recipe(**changes) -> Recipe:
    """SCLIP on small windows with one prompt per word."""
    base = Recipe.named("sclip").but(
        {"windows": {"short_side": 48, "crop": 32, "stride": 16}, "text.prompts": "single"}
    )
    return base.but(changes)


def small_dataset(root: Path, images: int = 6, kind: str = "folder") -> SegmentationDataset:
    """A fake data set of three sizes of pictures."""
    return open_dataset(kind, build(kind, root, images=images).root)


def segmenters(backbone: Backbone) -> list[Segmenter]:
    """Three recipes: two that differ behind the stitching only, one with another attention."""
    recipes = [
        small_recipe(),
        small_recipe(labels={"closing": 3}),
        small_recipe(attention={"terms": "qq", "residual": False}),
    ]
    return [Segmenter(backbone, recipe) for recipe in recipes]


def environment(cache: Path) -> dict[str, str]:
    """Environment of a process that runs this library with one thread and its own cache."""
    here = Path(__file__).resolve().parent
    search = os.pathsep.join(str(p) for p in (here.parent, here))
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OVSSLIB_CACHE": str(cache)}
    return {**os.environ, **threads, "PYTHONPATH": search}
