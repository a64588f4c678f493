"""Whether a picture is anything like those that the embedded models were trained on (drawn scenes).

Class features of scenes lie near a plane of few dimensions; those of photographs lie off it. The distance to the mean
alone says nothing (photographs are nearer to it than most scenes are), the distance to the plane does.
"""

from functools import cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib import paths
from ovsslib.clip.backbone import Backbone
from ovsslib.images.pictures import normalise

DIRECTIONS = 32
"""Principal directions that span the plane."""


def class_feature(backbone: Backbone, image: np.ndarray) -> Tensor:
    """(D,) unit class feature of an (H, W, 3) uint8 picture resized to the model's own size."""
    small = cv2.resize(image, backbone.image_size[::-1], interpolation=cv2.INTER_AREA)
    pixels = normalise(small, *backbone.normalisation)[None]
    return F.normalize(backbone.encode_image(pixels), dim=-1)[0].cpu()


def plane_of(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and the DIRECTIONS leading principal directions (K, D) of rows (N, D)."""
    mean = rows.mean(dim=0)
    return mean, torch.linalg.svd(rows - mean, full_matrices=False).Vh[:DIRECTIONS]


def plane_distance(rows: Tensor, mean: Tensor, directions: Tensor) -> Tensor:
    """Distances (N,) of rows (N, D) from the plane through `mean` along unit `directions` (K, D)."""
    off = rows - mean
    return (off - off @ directions.T @ directions).norm(dim=-1)


@cache
def _scenes_plane(name: str) -> tuple[Tensor, Tensor, float] | None:
    file = paths.data(f"models/{name}/scenes_features.npz")
    if not file.is_file():
        return None
    with np.load(file) as content:
        mean, directions = (torch.from_numpy(content[key]) for key in ("mean", "directions"))
        return mean, directions, float(content["threshold"])


def distance_from_scenes(backbone: Backbone, image: np.ndarray) -> float | None:
    """How far a picture is from Scenes, as a multiple of the farthest held-out scene; above 1 it is plainly none.

    None for a model that is not an embedded one as shipped.
    """
    plane = _scenes_plane(backbone.name) if backbone.pretrained == "embedded" else None
    if plane is None:
        return None
    mean, directions, threshold = plane
    return float(plane_distance(class_feature(backbone, image)[None], mean, directions)) / threshold
