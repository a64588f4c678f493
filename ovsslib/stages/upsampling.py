"""Upsampling of patch features: LoftUp, with bilinear and bicubic interpolation as controls.

The network is in `ovsslib.networks.loftup`. The thesis (section 3.2.1) upsamples 14x14 features to
28x28 and matches the result with text directly. LoftUp's output, however, lives in a
channel-normalised space of its own, so three ways back to text space are offered; none of them is
published.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ovsslib import paths
from ovsslib.clip.checkpoints import check_file
from ovsslib.errors import ModelError, RecipeError
from ovsslib.networks.loftup import LoftUp, load_loftup, weights_file
from ovsslib.recipe import Recipe, stage

_RELEASED = "haiwen/loftup-clip"
_EMBEDDED = "models/loftup-{}/model.safetensors"
_LEAST_SCALE = 1e-4


def output_size(
    features: Tensor, pixels: Tensor, grid: int | tuple[int, int] | Literal["image"]
) -> tuple[int, int]:
    """(rows, columns) of the upsampled grid: a factor of the features' grid, a size, or "image"
    for the window's.
    """
    if grid == "image":
        return (pixels.shape[-2], pixels.shape[-1])
    if isinstance(grid, int):
        return features.shape[-2] * grid, features.shape[-1] * grid
    rows, columns = grid
    return rows, columns


def interpolate_features(features: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """(B, D, h, w) -> `(B, D, *size)` float32; mode "bilinear" or "bicubic", corners not aligned."""
    return F.interpolate(features.float(), size, mode=mode, align_corners=False)


def loftup_features(
    net: LoftUp,
    features: Tensor,
    pixels: Tensor,
    size: tuple[int, int],
    way_back: Literal["as_is", "inverse_norm", "attention_affinity"],
) -> Tensor:
    """Features at `size` by LoftUp, guided by the window.

    Args:
        net: network of the features' width.
        features: (B, D, h, w), not L2-normalised.
        pixels: (B, 3, H, W) window, resized bilinearly to `size` as guidance.
        size: (rows, columns) of the result.
        way_back: "as_is" gives the network's output; "inverse_norm" undoes the affine map of its
            input normalisation and puts the local mean and deviation of the input (bilinear) back;
            "attention_affinity" spreads the input features by the network's attention, which keeps
            them in their convex hull.

    Returns:
        `(B, D, *size)` float32.
    """
    guidance = F.interpolate(pixels.float(), size, mode="bilinear", align_corners=False)
    if way_back == "attention_affinity":
        return net.interpolate(features, guidance, features)
    output = net(features, guidance)
    if way_back == "as_is":
        return output
    norm = net.channelnorm.norm
    weight = norm.weight.view(1, -1, 1, 1)
    # A channel whose learned scale is next to nothing carries no signal; its sign is kept, its gain
    # bounded.
    weight = torch.where(weight < 0, -1.0, 1.0) * weight.abs().clamp_min(_LEAST_SCALE)
    features = features.float()
    mean = features.mean(1, keepdim=True)
    deviation = (features.var(1, keepdim=True, unbiased=False) + norm.eps).sqrt()
    mean, deviation = (
        interpolate_features(statistic, size, "bilinear") for statistic in (mean, deviation)
    )
    return (output - norm.bias.view(1, -1, 1, 1)) / weight * deviation + mean


@lru_cache(maxsize=4)
def _loaded(
    source: str, changed: int, dim: int, scaling: Literal["image", "batch"], device: str
) -> LoftUp:
    """A network from weights; `changed` (modification time) makes a rewritten file load anew."""
    return load_loftup(source, dim, scaling).to(device)


def find_weights(weights: str | None, backbone_name: str) -> str:
    """File or hub name of LoftUp weights.

    None means those of the backbone: the embedded ones for an embedded backbone, else the released
    CLIP weights from the local hub cache. A name such as "sceneclip" means the embedded ones for
    that model.

    Raises ModelError if embedded weights are asked for that do not exist.
    """
    if weights is None:
        weights = backbone_name if backbone_name.startswith("sceneclip") else _RELEASED
    if weights.startswith("sceneclip"):
        file = paths.data(_EMBEDDED.format(weights))
        if not file.is_file():
            raise ModelError(
                f"there are no LoftUp weights for {weights!r} at {file}; train them with "
                "`ovss pretrain loftup-sceneclip`, or set upsampling.method to bilinear"
            )
        return str(file)
    return weights


@stage(
    "upsampling",
    point="features",
    order=10,
    summary="finer grid of patch features (LoftUp or interpolation)",
)
@dataclass(frozen=True)
class Upsampling:
    """Settings of feature upsampling.

    Attributes:
        method: "loftup", or "bilinear" or "bicubic" as controls.
        grid: whole factor of the patch grid (thesis: 2, so 14x14 becomes 28x28), size (rows,
            columns), or "image" for one feature per pixel of the window (LoftUp's paper).
        way_back: what becomes of LoftUp's output, see :func:`loftup_features`; for LoftUp only. The
            default had the highest mIoU on the dev split of Scenes, `as_is` close behind it.
        guidance_scaling: colours scaled per "image" or per "batch" (released; answers then depend
            on neighbours: on a CPU windows go one at a time, so that both are the same there).
        weights: file, hub name, "sceneclip", or None for those of the backbone. Nothing is
            downloaded.
    """

    version: ClassVar[int] = 1
    method: Literal["loftup", "bilinear", "bicubic"] = "loftup"
    grid: int | tuple[int, int] | Literal["image"] = 2
    way_back: Literal["as_is", "inverse_norm", "attention_affinity"] = "inverse_norm"
    guidance_scaling: Literal["image", "batch"] = "image"
    weights: str | None = None

    def __post_init__(self) -> None:
        grid: Any = self.grid  # a file of settings may hold anything
        numbers = (grid,) if isinstance(grid, int) else grid
        if grid != "image" and (
            isinstance(grid, str) or len(numbers) not in (1, 2) or min(numbers) < 1
        ):
            raise RecipeError(
                f"upsampling.grid is {self.grid!r}; give a factor, two sizes, or 'image'"
            )
        for name, allowed in (
            ("method", ("loftup", "bilinear", "bicubic")),
            ("way_back", ("as_is", "inverse_norm", "attention_affinity")),
            ("guidance_scaling", ("image", "batch")),
        ):
            if getattr(self, name) not in allowed:
                raise RecipeError(
                    f"upsampling.{name} is {getattr(self, name)!r}; choose one of "
                    f"{', '.join(allowed)}"
                )

    def refuse(self, recipe: Recipe) -> str | None:
        """Fields of LoftUp do nothing in interpolation."""
        for name in ("way_back", "guidance_scaling", "weights"):
            default = Upsampling.__dataclass_fields__[name].default
            if self.method != "loftup" and getattr(self, name) != default:
                value = getattr(self, name)
                return f"{name}={value!r} concerns loftup, not {self.method}; leave it out"
        return None

    def inert(self, recipe: Recipe) -> str | None:
        """Interpolation onto the same grid changes nothing."""
        same = self.method != "loftup" and self.grid == 1
        return "interpolation by the factor 1 is the identity" if same else None

    def networks(self, backbone: Any) -> dict[str, str]:
        """Hash of the weights that are used with this backbone: part of the key of a result."""
        if self.method != "loftup":
            return {}
        file = weights_file(find_weights(self.weights, backbone.name))
        return {"loftup": check_file(file)[:16]}

    def on_features(self, features: Tensor, context: Any) -> Tensor:
        """(B, D, h, w) features of windows `context.pixels` (B, 3, H, W) -> `(B, D, *grid)`
        float32.
        """
        size = output_size(features, context.pixels, self.grid)
        if self.method != "loftup":
            return interpolate_features(features, size, self.method)
        source = find_weights(self.weights, context.backbone.name)
        changed = Path(source).stat().st_mtime_ns if paths.is_file(source) else 0
        net = _loaded(
            source, changed, features.shape[1], self.guidance_scaling, str(features.device)
        )
        return loftup_features(net, features, context.pixels, size, self.way_back)
