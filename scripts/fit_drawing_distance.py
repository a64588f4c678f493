"""Measure what the embedded models' class tokens look like on Scenes, for the notice about pictures that are none.

    python scripts/fit_drawing_distance.py

Writes data/models/<name>/scenes_features.npz: the mean and the leading principal directions of the unit class
features of every second validation picture, and a threshold for the distance from the plane that they span. The threshold is
the largest distance of a held-out picture (five folds), so that hardly a scene is taken for something else.
"""

import io

import numpy as np
import torch

from ovsslib import load_backbone, open_dataset, paths
from ovsslib.clip.loading import EMBEDDED
from ovsslib.images.drawings import DIRECTIONS, class_feature, plane_distance, plane_of

FOLDS = 5


def fit(name: str) -> dict[str, np.ndarray]:
    """Mean (D,), directions (K, D) and threshold of a model's class features on Scenes."""
    backbone = load_backbone(name)
    dataset = open_dataset("scenes")
    rows = torch.stack([class_feature(backbone, dataset[i][0]) for i in range(0, len(dataset), 2)])
    fold = torch.arange(len(rows)) % FOLDS
    held_out = torch.cat(
        [plane_distance(rows[fold == k], *plane_of(rows[fold != k])) for k in range(FOLDS)]
    )
    mean, directions = plane_of(rows)
    quantiles = np.percentile(held_out.numpy(), [50, 95, 100])
    print(f"{name}: {len(rows)} pictures, {DIRECTIONS} directions, held-out distances {quantiles}")
    return {
        "mean": mean.numpy(),
        "directions": directions.numpy(),
        "threshold": np.float32(quantiles[-1]),
    }


for model in EMBEDDED:
    buffer = io.BytesIO()
    np.savez(buffer, **fit(model))
    print(paths.write_file(paths.data(f"models/{model}/scenes_features.npz"), buffer.getvalue()))
