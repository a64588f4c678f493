"""What stages may look at: typed views of one flow, from words to a label map.

A `window` is a crop of the network picture; `image` is the photograph at its own size. All pixel tensors are
CLIP-normalised RGB; the photograph is uint8.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.clip.backbone import Backbone, TrunkOutput
from ovsslib.errors import RecipeError
from ovsslib.text.features import TextFeatures

if TYPE_CHECKING:
    from ovsslib.guides.guide import Guide, GuideReading
    from ovsslib.recipe import Recipe

Adjust = Callable[[Tensor], Tensor]
"""A change of a score matrix (B, heads, T, T), before the softmax."""


@dataclass(frozen=True)
class DenseTokens:
    """What a last block gives.

    Attributes:
        patches: (B, N, D), N = grid[0] * grid[1], row by row.
        grid: (rows, columns) of the patches, which need not be the tower's.
        class_token: (B, D), or None where the block computes none.
        projected: whether ln_post and the projection have been applied (D is then the joint space's width).
        whole: the patches are those of the whole network picture, not of a window; B is then 1.
        direct: with `whole`, the map goes to the photograph's size in one resize, without the network picture's.
    """

    patches: Tensor
    grid: tuple[int, int]
    class_token: Tensor | None = None
    projected: bool = False
    whole: bool = False
    direct: bool = False

    @staticmethod
    def split(tokens: Tensor, grid: tuple[int, int], projected: bool = False) -> "DenseTokens":
        """From tokens (B, 1 + N, D), class token first."""
        return DenseTokens(tokens[:, 1:], grid, tokens[:, 0], projected)

    def joined(self) -> Tensor:
        """Tokens (B, 1 + N, D), class token first. Needs a class token."""
        assert self.class_token is not None
        return torch.cat([self.class_token[:, None], self.patches], dim=1)

    def map(self) -> Tensor:
        """Patches as a map (B, D, rows, columns)."""
        return self.patches.transpose(1, 2).unflatten(2, self.grid)


@dataclass(frozen=True)
class Words:
    """Rows that are compared with the patches, and what else stages made of the words.

    Attributes:
        rows: (Q + G, D) float32: the queries, then texts of groups if a stage asked for them.
        queries: Q. query_class: (Q,) long, class of each query, or None where nobody told.
        background: index of the class that stands for "none of the words", or None.
        texts: by settings object, what its `further_texts` made of the words.
    """

    rows: Tensor
    queries: int
    query_class: Tensor | None = None
    background: int | None = None
    texts: Mapping[Any, Mapping[str, Tensor]] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Words":
        """The same on a device, rows in float32."""
        texts = {
            owner: {name: rows.to(device) for name, rows in named_rows.items()}
            for owner, named_rows in self.texts.items()
        }
        rows = self.rows.to(device).float()
        return Words(rows, self.queries, self.query_class, self.background, texts)

    def in_background(self) -> Tensor:
        """(Q,) bool on the CPU: which queries stand for the background."""
        if self.background is None or self.query_class is None:
            return torch.zeros(self.queries, dtype=torch.bool)
        return self.query_class.cpu() == self.background


@dataclass
class TextContext:
    """What stages at "text" may look at: once per list of words."""

    backbone: Backbone
    recipe: "Recipe"


@dataclass
class WindowsContext:
    """What stages at "windows" may look at: `backbone`, and where the windows lie (`grid`, a `WindowGrid`)."""

    backbone: Backbone
    grid: Any


@dataclass
class TrunkContext:
    """What stages at "trunk" may look at: `backbone`, and the `grid` (h, w) of the patches."""

    backbone: Backbone
    grid: tuple[int, int]


@dataclass
class AttentionContext:
    """What stages at "attention" may look at; all tensors are of a batch of windows.

    Attributes:
        backbone, trunk: the open CLIP and its trunk result, with the taps and inputs that were asked for.
        window: (B, 3, H, W) CLIP-normalised pixels.
        base: function (tap, adjust=None) -> weights (B, heads, T, T) of the recipe's own attention there.
        plain_block: function () -> tokens (B, T, D) behind CLIP's own last block, with the trunk's stages applied.
        text: (Q, D) unit text features, or None.
        guide: second encoder, or None; `guide_features(kind)` gives its map of these windows.
        regions: (B, H, W) int64 region ids of these windows, or None.
        once: by settings object, what its stage made for the first pass of the block and takes again for a second.
    """

    backbone: Backbone
    trunk: TrunkOutput
    window: Tensor
    base: Callable[..., Tensor]
    plain_block: Callable[[], Tensor]
    text: Tensor | None = None
    guide: "Guide | None" = None
    regions: Tensor | None = None
    kept: dict[Any, Any] = field(default_factory=dict)
    once: dict[Any, Any] = field(default_factory=dict)

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) patches of the tower."""
        return self.trunk.grid

    @property
    def pixels(self) -> Tensor:
        """The same as `window`."""
        return self.window

    def guide_reading(self) -> "GuideReading":
        """What the guide sees in these windows; one pass for all recipes of an evaluation."""
        return guide_reading(self.guide, self.backbone, self.window, self.kept)

    def guide_features(self, kind: str = "last") -> Tensor:
        """(B, D, h', w') features of the guide for these windows."""
        return self.guide_reading().features(kind)


@dataclass
class PictureContext:
    """What stages at "picture" may look at: all windows of one network picture, before the last block.

    Attributes:
        backbone: the open CLIP. trunk: its trunk result for the N windows.
        grid: where the windows lie (`WindowGrid`). windows: (N, 3, h, w) their pixels.
        pixels: (3, H, W) the network picture. image: (H', W', 3) uint8 photograph, or None.
        text: (Q, D) unit rows of the queries, or None. query_class: (Q,) class of each, or None.
        base, plain_block: as for `AttentionContext`.
        guide, guide_features: second encoder and its maps of the windows.
        regions: (H, W) int64 region ids of the network picture, or None.
        recipe: the recipe that runs; its `attention` settings say what to keep around an attention of one's own.
    """

    backbone: Backbone
    trunk: TrunkOutput
    grid: Any
    windows: Tensor
    pixels: Tensor
    base: Callable[..., Tensor]
    plain_block: Callable[[], Tensor]
    image: np.ndarray | None = None
    text: Tensor | None = None
    query_class: Tensor | None = None
    guide: "Guide | None" = None
    regions: Tensor | None = None
    kept: dict[Any, Any] = field(default_factory=dict)
    recipe: "Recipe | None" = None

    def guide_reading(self) -> "GuideReading":
        """What the guide sees in all windows; one pass for all recipes of an evaluation."""
        return guide_reading(self.guide, self.backbone, self.windows, self.kept)

    def guide_features(self, kind: str = "last") -> Tensor:
        """(N, D, h', w') features of the guide for all windows."""
        return self.guide_reading().features(kind)


@dataclass
class WholePictureContext:
    """What stages may look at that work on a picture by themselves, without windows.

    Attributes:
        backbone: the open CLIP. pixels: (3, H, W) CLIP-normalised network picture.
        image: (H', W', 3) uint8 photograph, or None. size: (H, W) wanted of the label map.
        words: the words; `kept`: (Q,) bool, those that a stage at "words" found in the picture, or None.
        guide: second encoder, or None.
    """

    backbone: Backbone
    pixels: Tensor
    image: np.ndarray | None
    size: tuple[int, int]
    words: Words
    kept: Tensor | None = None
    guide: "Guide | None" = None

    @property
    def text(self) -> Tensor:
        """(Q, D) unit rows of the queries."""
        return self.words.rows[: self.words.queries]

    def texts(self, settings: Any) -> Mapping[str, Tensor]:
        """What `further_texts` of a stage made of the words; empty where no words are known."""
        return self.words.texts.get(settings, {})


@dataclass
class WindowContext:
    """What stages at "features" and "similarity" may look at; all tensors are of a batch of windows.

    Attributes:
        backbone, trunk: the open CLIP and its trunk result. recipe: the recipe that runs.
        window: (B, 3, H, W) CLIP-normalised pixels.
        coarse: (B, D, h, w) patch features before any upsampling. features: the same after the stages at
            "features".
        class_token: (B, D) class token of the last block in the joint space (CLIP's own if the block gives none).
        text: (Q + G, D) rows that are compared, queries first; `queries`: Q. query_class: (Q,) or None.
        coarse_logits_at: function (scale) -> (B, Q, h, w) cosines of a pass over the windows resized by `scale`.
        picture_class_token: function () -> (D,) CLIP's class embedding of the whole network picture.
    """

    backbone: Backbone
    trunk: TrunkOutput
    window: Tensor
    coarse: Tensor
    class_token_of: Callable[[], Tensor]
    picture_class_token: Callable[[], Tensor]
    features: Tensor | None = None
    text: Tensor | None = None
    queries: int = 0
    query_class: Tensor | None = None
    coarse_logits_at: Callable[[float], Tensor] | None = None
    guide: "Guide | None" = None
    kept: dict[Any, Any] = field(default_factory=dict)
    recipe: "Recipe | None" = None

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the last block's map, before any upsampling."""
        return (self.coarse.shape[-2], self.coarse.shape[-1])

    @property
    def coarse_grid(self) -> tuple[int, int]:
        """The same as `grid`."""
        return self.grid

    @property
    def pixels(self) -> Tensor:
        """The same as `window`."""
        return self.window

    @property
    def class_token(self) -> Tensor:
        """(B, D) class token in the joint space, not normalised."""
        return self.class_token_of()


@dataclass
class AllWindowsContext:
    """What stages at "similarity" may look at when the logits of all windows of a picture are there.

    Attributes:
        backbone: the open CLIP. pixels: (3, H, W) network picture.
        grid: where the windows lie (`WindowGrid`). windows: (N, 3, h, w) their pixels.
        guide: second encoder, or None; `guide_features(kind)` gives its maps of the windows.
    """

    backbone: Backbone
    pixels: Tensor
    grid: Any
    windows: Tensor
    guide: "Guide | None" = None
    kept: dict[Any, Any] = field(default_factory=dict)

    def guide_reading(self) -> "GuideReading":
        """What the guide sees in all windows; one pass for all recipes of an evaluation."""
        return guide_reading(self.guide, self.backbone, self.windows, self.kept)

    def guide_features(self, kind: str = "last") -> Tensor:
        """(N, D, h', w') features of the guide for all windows."""
        return self.guide_reading().features(kind)


@dataclass
class PictureTextContext:
    """What stages at "picture_text" may look at: the patches of all windows of one picture.

    Attributes:
        backbone: the open CLIP. pixels: (3, H, W) network picture. grid: its `WindowGrid`.
        features: (N, D, h, w) maps of the inference windows. query_class: (Q,) class of each row.
        features_of: function ((B, 3, h, w) pixels) -> (B, D, h', w') by the recipe's own trunk and last block.
    """

    backbone: Backbone
    pixels: Tensor
    grid: Any
    features: Tensor
    query_class: Tensor
    features_of: Callable[[Tensor], Tensor]


@dataclass
class ImageContext:
    """What stages after the stitching may look at.

    Attributes:
        backbone: the open CLIP.
        image: (H, W, 3) uint8 photograph.
        network_picture: (1, 3, h, w) resized, CLIP-normalised.
        text: text features with their vocabulary.
        recipe: the recipe that runs.
        group_logits: (G, H, W) scaled logits of group texts, if a stage asked for them.
        window_logits: function () -> (N, Q + G, h, w) unscaled logits of the windows on their patch grids.
        kept_of_trunk: by settings object, what `keep_of_trunk` kept of the trunk, if the picture was one window.
        trunk_of: function ((B, 3, h, w) pixels, taps, until=...) -> trunk result, for a stage here that must look again.
        regions: (H, W) int64 region ids of the photograph, or None.
        scores: (C, H, W) class scores that the labels came from, for stages that read them (capability
            "reads_scores"), or None. Such a stage may put its own in their place.
        guide: second encoder, or None.
    """

    backbone: Backbone
    image: np.ndarray
    network_picture: Tensor
    text: TextFeatures
    recipe: "Recipe"
    group_logits: Tensor | None = None
    regions: Tensor | None = None
    window_logits: Callable[[], Tensor] | None = None
    kept_of_trunk: Mapping[Any, Any] = field(default_factory=dict)
    trunk_of: Callable[..., TrunkOutput] | None = None
    scores: Tensor | None = None
    guide: "Guide | None" = None

    @property
    def network_pixels(self) -> Tensor:
        """The same as `network_picture`."""
        return self.network_picture

    @property
    def pixels(self) -> Tensor:
        """(1, 3, H, W) network picture resized bilinearly to the photograph's size."""
        return F.interpolate(self.network_picture, size=self.image.shape[:2], mode="bilinear")


def guide_reading(
    guide: "Guide | None", backbone: Backbone, pixels: Tensor, kept: dict[Any, Any]
) -> "GuideReading":
    """What a guide sees in the backbone's pixels (B, 3, H, W): one pass per place, whatever the recipes.

    Windows go through it in small chunks, so that its inner tensors stay small however many windows there are.
    """
    if guide is None:
        raise RecipeError("the recipe has no guide; give its stage one (field `guide`)")
    if guide.weights_hash not in kept:
        mean, std = (
            torch.tensor(values, device=pixels.device).view(1, 3, 1, 1)
            for values in (backbone.pixel_mean, backbone.pixel_std)
        )
        plain = pixels.float() * std + mean
        step = 1 if guide.device.type == "cpu" else 8
        parts = [
            guide.read(guide.normalise(plain[start : start + step]))
            for start in range(0, len(plain), step)
        ]
        readings: dict[str, Any] = {
            name: torch.cat([getattr(part, name) for part in parts])
            for name in ("last", "penultimate", "q", "k", "v")
        }
        kept[guide.weights_hash] = replace(parts[0], **readings)
    return kept[guide.weights_hash]
