"""Trident: windows mixed by a guide, spliced to one map, mixed once more by SAM's attention (Shi et al., ICCV 2025)."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib import guides
from ovsslib.clip.backbone import Backbone
from ovsslib.errors import RecipeError, did_you_mean
from ovsslib.guides.reading import KINDS
from ovsslib.images.pictures import denormalise
from ovsslib.recipe import stage
from ovsslib.stages.contexts import DenseTokens, PictureContext, guide_reading
from ovsslib.stages.correlation import Rows, attention_rows, correlated
from ovsslib.stages.guided import (
    guided_attention,
    mean_similarity,
    out_projection,
    unit_patches,
    values_on,
)
from ovsslib.stages.stitching import PatchGrid

if TYPE_CHECKING:
    from ovsslib.recipe import Recipe

Look = tuple[tuple[int, int], Rows, Tensor]
"""What a mixer saw of a picture, namely its grid (h, w), its attention by rows, its values (heads, h w, d)."""


@stage(
    "spliced_attention",
    point="picture",
    order=40,
    summary="windows mixed by a guide, spliced, mixed again by a second attention (Trident)",
)
@dataclass(frozen=True)
class SplicedAttentionSettings:
    """Replaces the last block of all windows by one map of the picture: ProxyCLIP's, averaged where windows overlap,
    then mixed by the correlation matrix of a model that sees the whole picture.

    Attributes:
        guide, kind: the second encoder of the windows and which of its features (`ovsslib.guides.KINDS`).
        beta, gamma: as in ProxyCLIP; the mean similarity is that of all windows together, as released.
        mixer: whose attention mixes the spliced map: "sam" (released: the last block of SAM's image encoder), "guide"
            (the guide's last block over the whole picture: this project's, for where there is no SAM), or "none".
        sam: for mixer "sam": "sam" (facebook/sam-vit-base of the local cache), a hub name, or a folder.
        factor: of the mean cosine, the threshold above which cells count as alike; 0 takes those above 0.
        keep_negative: leave negative thresholds as they are (`refine_neg_cos`); else they become 0.6.
        halves: the left and the right half of the picture go through the mixer by themselves (Cityscapes).
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"one_map", "ignores_attention"})

    guide: str = "scenedino"
    kind: str = "last"
    beta: float = 1.2
    gamma: float = 3.0
    mixer: Literal["sam", "guide", "none"] = "guide"
    sam: str = "sam"
    factor: float = 1.2
    keep_negative: bool = True
    halves: bool = False

    def __post_init__(self):
        for name in ("beta", "gamma"):
            if getattr(self, name) <= 0:
                raise RecipeError(
                    f"spliced_attention.{name}={getattr(self, name)}: must be above 0"
                )
        if self.factor < 0:
            raise RecipeError(f"spliced_attention.factor={self.factor}: must be 0 or more")
        if self.kind not in KINDS:
            raise RecipeError(
                f"spliced_attention.kind={self.kind!r}{did_you_mean(self.kind, KINDS)}"
            )

    def refuse(self, recipe: "Recipe") -> str | None:
        """Why these settings cannot work with the rest of a recipe."""
        for hook in ("on_weights", "feed_back", "second_weights", "replace_block"):
            if recipe.stages_with(hook):
                return (
                    f"it computes the last block of all windows by itself, so a stage with {hook} would never be "
                    "asked; turn one of them off"
                )
        if recipe.at("views"):
            return "it takes one view of each window; turn the views off"
        return None

    def inert(self, recipe: "Recipe") -> dict[str, str]:
        """Fields that were changed and have no part, each with the reason."""
        reasons = {}
        if self.mixer != "sam":
            reasons["sam"] = f"mixer is {self.mixer!r}"
        if self.mixer == "none":
            reasons |= dict.fromkeys(("factor", "keep_negative", "halves"), "mixer is 'none'")
        default = SplicedAttentionSettings()
        return {
            n: reason for n, reason in reasons.items() if getattr(self, n) != getattr(default, n)
        }

    def guide_name(self) -> str:
        """The second encoder that is needed."""
        return self.guide

    def check(self, backbone: Backbone) -> None:
        """Open SAM before any work, if it is asked for. Raises ModelError, MissingPackageError."""
        if self.mixer == "sam":
            opened_sam(self.sam, str(backbone.device))

    def networks(self, backbone: Backbone) -> dict[str, str]:
        """Hash of SAM's weights, if it is asked for."""
        if self.mixer != "sam":
            return {}
        return {"sam": opened_sam(self.sam, str(backbone.device)).weights_hash}

    def replace_windows(self, context: PictureContext) -> DenseTokens:
        """Tokens (1, h w, width) on the mixer's grid of the whole picture, before ln_post."""
        spliced_map = spliced(context, self.kind, self.beta, self.gamma)
        if self.mixer == "none":
            return DenseTokens(
                spliced_map.flatten(1).T[None],
                (spliced_map.shape[-2], spliced_map.shape[-1]),
                whole=True,
            )
        mixed = self._mixed(spliced_map, context)
        tokens = mixed.flatten(1).T[None].to(context.backbone.stream_dtype)
        return DenseTokens(tokens, (mixed.shape[-2], mixed.shape[-1]), whole=True, direct=True)

    def _mixed(self, spliced_map: Tensor, context: PictureContext) -> Tensor:
        """The spliced map (D, rows, columns) mixed on the mixer's grid: (D, h, w) float32."""
        looks = [self._look(part, context) for part in self._parts(context)]
        widths = [grid[1] for grid, _, _ in looks]
        size = (looks[0][0][0], sum(widths))
        resized = F.interpolate(spliced_map[None].float(), size=size, mode="bilinear")[0]
        mixed_parts = []
        for part, (grid, attention, values) in zip(
            resized.split(widths, dim=2), looks, strict=True
        ):
            cells = part.flatten(1).T
            out = correlated(
                cells, attention, values.to(cells.device), self.factor, self.keep_negative
            )
            mixed_parts.append(out.T.unflatten(1, grid))
        return torch.cat(mixed_parts, dim=2)

    def _parts(self, context: PictureContext) -> list[Any]:
        """What the mixer is shown: pictures (H, W, 3) uint8 for SAM, pixels (3, H, W) for the guide."""
        if self.mixer == "guide":
            pixels = context.pixels
            middle = pixels.shape[2] // 2
            return [pixels[:, :, :middle], pixels[:, :, middle:]] if self.halves else [pixels]
        image = context.image
        if image is None:
            image = denormalise(context.pixels, *context.backbone.normalisation)
        picture = stretched(image)
        middle = picture.shape[1] // 2
        return [picture[:, :middle], picture[:, middle:]] if self.halves else [picture]

    def _look(self, part: Any, context: PictureContext) -> Look:
        if self.mixer == "sam":
            reading = opened_sam(self.sam, str(context.backbone.device)).read(
                np.ascontiguousarray(part)
            )
            attention = reading.attention
            return reading.grid, lambda rows: attention[:, rows], reading.values.flatten(1, 2)
        return guide_look(part, context)


def spliced(context: PictureContext, kind: str, beta: float, gamma: float) -> Tensor:
    """Attention outputs of all windows, averaged on the picture's grid of patches: (width, rows, columns).

    The mean similarity runs over all windows. A window's map keeps the guide's grid if that is a multiple of CLIP's,
    else it is resized to the largest multiple in it.
    """
    backbone = context.backbone
    maps = context.guide_features(kind)
    features, grid = unit_patches(maps), (maps.shape[-2], maps.shape[-1])
    tap, coarse = context.trunk.taps[backbone.layers - 1], (*context.trunk.grid,)
    mean = float(mean_similarity(features).mean())
    times = max(1, grid[1] // coarse[1])
    size = (times * coarse[0], times * coarse[1])
    if backbone.patch_size % times:
        times, size = 1, coarse
    window_maps = []
    for index, window_features in enumerate(features):
        values = values_on(tap.v[index : index + 1], coarse, grid)[0]
        mixed = out_projection(
            backbone, guided_attention(window_features, values, mean, beta, gamma)
        )
        mixed = mixed.T.unflatten(1, grid)
        if size != grid:
            mixed = F.interpolate(mixed[None].float(), size=size, mode="bilinear")[0]
        window_maps.append(mixed)
    patches = PatchGrid(context.grid, backbone.patch_size // times)
    return patches.stitched(torch.stack(window_maps))


def guide_look(pixels: Tensor, context: PictureContext) -> Look:
    """The guide's last block over pixels (3, H, W), whose sides are padded to whole patches.

    Raises RecipeError for a guide that turns queries and keys by position or has none to give.
    """
    guide = context.guide
    assert guide is not None
    patch, (height, width) = guide.patch_size, pixels.shape[-2:]
    h, w = height // patch, width // patch
    padded = F.pad(pixels, (0, -width % patch, 0, -height % patch))
    reading = guide_reading(guide, context.backbone, padded[None], {})
    if reading.rotary or not reading.q.shape[-1]:
        raise RecipeError(
            f"spliced_attention.guide={guide.name!r} does not give queries and keys as they meet, so its attention is not to be "
            "had; take a DINO or DINOv2 guide, or set spliced_attention.mixer to 'none' or 'sam'"
        )
    # only patches that the picture fills, besides the tokens that are no patches
    kept = torch.arange(reading.grid[0] * reading.grid[1]).unflatten(0, reading.grid)[:h, :w]
    places = torch.cat([torch.arange(reading.prefix), reading.prefix + kept.flatten()])
    heads = {
        name: getattr(reading, name)[0].unflatten(1, (reading.heads, -1)).transpose(0, 1)
        for name in ("q", "k", "v")
    }
    q, v = heads["q"][:, places], heads["v"][:, places[reading.prefix :]]
    rows_of = attention_rows(q, heads["k"], reading.prefix)
    columns = places[reading.prefix :] - reading.prefix
    if (h, w) == tuple(reading.grid):
        return (h, w), rows_of, v
    return (h, w), lambda rows: rows_of(rows)[:, :, columns], v


def stretched(image: np.ndarray, step: int = 16) -> np.ndarray:
    """A picture (H, W, 3) uint8 with sides rounded up to multiples of `step` by stretching."""
    height, width = (-(-side // step) * step for side in image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


@lru_cache(maxsize=2)
def opened_sam(name: str, device: str) -> Any:
    """A SAM, opened once; see `ovsslib.guides.load_sam`."""
    return guides.load_sam(None if name == "sam" else name, device)
