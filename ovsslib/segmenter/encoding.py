"""Everything before the words: a network picture cut into windows, each encoded once, ready to be compared.

Several recipes share one trunk pass (`encode_pictures`). What a recipe keeps of a picture is as little as its stages
allow: with the words at hand nothing but logits, without them patch features, and the trunk's tokens only where a
recipe needs the words before the last block or all windows at once.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.clip.backbone import TrunkOutput
from ovsslib.clip.memory import memory_errors
from ovsslib.errors import RecipeError
from ovsslib.segmenter.kept import PictureInput, WindowFeatures
from ovsslib.segmenter.last_block import cosine_logits
from ovsslib.stages.contexts import (
    AllWindowsContext,
    DenseTokens,
    PictureContext,
    PictureTextContext,
    WholePictureContext,
    WindowContext,
    WindowsContext,
    Words,
)
from ovsslib.stages.windows import Stitched, WindowGrid, one_window

if TYPE_CHECKING:
    from ovsslib.segmenter.segmenter import Segmenter


class EncodedPicture:
    """What one recipe keeps of a picture.

    Args:
        segmenter: whose recipe it is. picture: the input. grid: where the windows lie.
        words: if given, windows are compared at once and only their logits are kept.
    """

    def __init__(
        self,
        segmenter: "Segmenter",
        picture: PictureInput,
        grid: WindowGrid,
        words: Words | None = None,
    ):
        self.segmenter, self.picture, self.grid = segmenter, picture, grid
        self.words = words if not segmenter.waits_for_all_windows else None
        self._logits: list[Tensor] = []
        self._features: list[WindowFeatures] = []
        self._trunks: list[tuple[list[TrunkOutput], list[Tensor], int]] = []
        self._windows = 0  # windows taken so far
        self._kept_of_trunk: dict[Any, Any] = {}
        self._class_token: Tensor | None = None
        self._only_trunk: TrunkOutput | None = None
        self._late = segmenter.whole_picture is not None

    @staticmethod
    def of_whole(segmenter: "Segmenter", picture: PictureInput) -> "EncodedPicture":
        """The picture as it is, as one window."""
        grid = one_window((picture.pixels.shape[-2], picture.pixels.shape[-1]))
        encoded = EncodedPicture(segmenter, picture, grid)
        window = picture.pixels[None]
        encoded.add([segmenter.trunk(window)], [window])
        return encoded

    def tokens(self, text: Tensor | None) -> DenseTokens:
        """Dense tokens in the joint space, for a recipe whose stage takes all windows at once.

        Raises RecipeError for one that gives logits only.
        """
        stage = self.segmenter.whole_picture
        if not hasattr(stage, "replace_windows"):
            raise RecipeError(
                f"recipe {self.segmenter.recipe.name!r} gives logits of a picture and no features"
            )
        words = Words(text, len(text)) if text is not None else None
        return self.segmenter.last_block.project(
            stage.replace_windows(self._picture_context(words))
        )

    def add(self, trunks: list[TrunkOutput], views: list[Tensor]) -> None:
        """Take the next chunk of windows: per view its trunk result and its pixels."""
        segmenter, start = self.segmenter, self._windows
        self._windows += len(views[0])
        for settings in segmenter.recipe.stages_with("keep_of_trunk"):
            if len(self.grid) == 1:
                self._kept_of_trunk[settings] = settings.keep_of_trunk(trunks[0])
        if self._late or (segmenter.needs_text and self.words is None):
            self._trunks.append((trunks, views, start))
            return
        text = None if self.words is None else self.words.rows[: self.words.queries]
        features = self._encode(trunks, views, start, text)
        if self.words is None:
            self._features.append(features)
        else:
            self._logits.append(self._compare(features, self.words))

    def logits(self, words: Words, size: tuple[int, int]) -> Stitched:
        """Stitched cosine logits (Q + G, H, W) of the whole picture at `size`."""
        kept = self._kept_words(words, size)
        if self.segmenter.without_windows:
            stitched = self._by_itself(words, size, kept)
        else:
            stitched = self._stitched(words, size)
        stitched.kept_of_trunk = self._kept_of_trunk
        if kept is not None:
            stitched.drop(~kept)
        return stitched

    def _kept_words(self, words: Words, size: tuple[int, int]) -> Tensor | None:
        """(Q + G,) bool: words that are in the picture, by the stages at "words"; None without such a stage."""
        kept = None
        for settings in self.segmenter.recipe.stages_with("keep_words"):
            selection = settings.keep_words(self._whole_context(words, size, kept)).cpu()
            kept = selection if kept is None else kept & selection
        if kept is None:
            return None
        return torch.cat([kept, kept.new_ones(len(words.rows) - words.queries)])

    def _whole_context(
        self, words: Words, size: tuple[int, int], kept: Tensor | None
    ) -> WholePictureContext:
        segmenter, picture = self.segmenter, self.picture
        return WholePictureContext(
            segmenter.backbone, picture.pixels, picture.image, size, words,
            None if kept is None else kept[: words.queries], segmenter.guide,
        )  # fmt: skip

    def _by_itself(self, words: Words, size: tuple[int, int], kept: Tensor | None) -> Stitched:
        """Logits of a stage that takes the picture as it is; they go to `size` in one resize."""
        stage = self.segmenter.whole_picture
        logits = stage.picture_logits(self._whole_context(words, size, kept))
        return Stitched(logits[None], WindowGrid(size, (0,), (0,), size), size)

    def _stitched(self, words: Words, size: tuple[int, int]) -> Stitched:
        if self._late:
            return self._whole_picture(words, size)
        grid = one_window(size) if self.segmenter.windows.in_one_resize else self.grid
        if self.words is not None:
            return Stitched(self._together(torch.cat(self._logits)), grid, size)
        queries = words.rows[: words.queries]
        features = self._features or [self._encode(*chunk, queries) for chunk in self._trunks]
        words = self._calibrated(features, words)
        logits = torch.cat([self._compare(f, words) for f in features])
        return Stitched(self._together(logits), grid, size)

    def _together(self, logits: Tensor) -> Tensor:
        """Logits (N, Q + G, h, w) of all windows, changed by the stages that see them together."""
        stages = self.segmenter.recipe.stages_with("on_all_windows")
        if not stages:
            return logits
        segmenter, kept = self.segmenter, self.picture.kept.setdefault("windows", {})
        crops = window_pixels(segmenter, self.grid, self.picture.pixels)
        context = AllWindowsContext(
            segmenter.backbone, self.picture.pixels, self.grid, crops, segmenter.guide, kept
        )
        for settings in stages:
            logits = settings.on_all_windows(logits, context)
        return logits

    # -- what is kept ---------------------------------------------------------------------------------------

    def release(self) -> None:
        """Let go of what no later question reads: trunk results and pixels of windows, unless a stage looks at them."""
        recipe = self.segmenter.recipe
        if self._trunks or any(recipe.stages_with(hook) for hook in _READ_THE_WINDOW):
            return
        for chunk in self._features:
            old, empty = chunk.context, chunk.maps[0].new_zeros(0)
            trunk = TrunkOutput(empty, old.trunk.grid)
            chunk.context = WindowContext(
                old.backbone, trunk, empty, old.coarse, self.picture_class_token,
                self.picture_class_token,
            )  # fmt: skip
        self.picture.kept.clear()

    def maps(self) -> tuple[Tensor, WindowGrid]:
        """Features (N, D, h, w) of all windows without words, and where the windows lie.

        Raises RecipeError for a recipe that gives logits of a picture only.
        """
        if self._late:
            tokens = self.tokens(None)
            grid = self.grid.whole() if tokens.whole else self.grid
            return tokens.map(), grid
        return torch.cat([chunk.maps[0] for chunk in self._features]), self.grid

    def kept(self) -> list[Any]:
        """All that holds tensors, for those who count bytes."""
        return [self._logits, self._features, self._trunks, self._kept_of_trunk, self.picture]

    # -- per window -----------------------------------------------------------------------------------------

    def _encode(
        self,
        trunks: list[TrunkOutput],
        views: list[Tensor],
        start: int,
        text: Tensor | None,
    ) -> WindowFeatures:
        """Features of a chunk of windows, the first of which is number `start` of the picture."""
        segmenter, first, maps = self.segmenter, None, []
        if len(self.grid) == 1 and segmenter.views is None and not any(self.grid.pad):
            self._only_trunk = trunks[0][:1]
        regions = self._window_regions(start, len(views[0]))
        for number, (trunk, window) in enumerate(zip(trunks, views, strict=True)):
            kept = self.picture.kept.setdefault((start, number), {})
            block = segmenter.last_block
            tokens = block.run(block.context(trunk, window, text, regions, kept))
            context = self._context(tokens, trunk, window, kept)
            context.features = context.coarse
            for _, settings in segmenter.recipe.at("features"):
                context.features = settings.on_features(context.features, context)
            maps.append(context.features)
            first = first or context
        assert first is not None
        return WindowFeatures(maps, first)

    def _context(
        self, tokens: DenseTokens, trunk: TrunkOutput, window: Tensor, kept: dict
    ) -> WindowContext:
        segmenter = self.segmenter

        def class_token() -> Tensor:
            if tokens.class_token is not None:
                return tokens.class_token
            return segmenter.last_block.plain_class_token(trunk)

        return WindowContext(
            segmenter.backbone, trunk, window, tokens.map(), class_token, self.picture_class_token,
            guide=segmenter.guide, kept=kept, recipe=segmenter.recipe,
        )  # fmt: skip

    def look_inside(
        self, words: Words, kept: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Logits (1, Q + G, h', w') of the first window before and after the stages at "similarity", and its grid.

        `kept` is filled with features (D, rows, columns): "patches" as the last block gives them, then after each
        stage at "features" under the stage's name.
        """
        features = self._features[0] if self._features else None
        if features is None:
            features = self._encode(*self._trunks[0], words.rows[: words.queries])
        coarse = features.context.coarse
        kept["patches"], maps = coarse[0].float().cpu(), coarse
        for name, settings in self.segmenter.recipe.at("features"):
            maps = settings.on_features(maps, features.context)
            kept[name] = maps[0].float().cpu()
        plain = cosine_logits(features.maps[0], words.rows)
        return plain, self._compare(features, words), (coarse.shape[-2], coarse.shape[-1])

    def _compare(self, features: WindowFeatures, words: Words) -> Tensor:
        """Cosine logits (B, Q + G, h', w') of a chunk, with the stages at "similarity"."""
        segmenter, context = self.segmenter, features.context
        context.text, context.queries = words.rows, words.queries
        context.query_class = words.query_class
        context.coarse_logits_at = lambda scale: segmenter.logits_at_scale(
            context.window, words.rows[: words.queries], scale
        )
        rows = words.rows
        for settings in segmenter.recipe.stages_with("on_window_text"):
            rows = settings.on_window_text(rows, context)
        if segmenter.views is None:
            logits = cosine_logits(features.maps[0], rows)
        else:
            logits = segmenter.views.merge([F.normalize(m, dim=1) for m in features.maps], rows)
        for settings in segmenter.recipe.stages_with("on_similarity"):
            logits = settings.on_similarity(logits, context)
        return logits

    def _window_regions(self, start: int, batch: int) -> Tensor | None:
        """(B, H, W) region ids of the windows from number `start` on, or None."""
        regions = self.regions()
        if regions is None:
            return None
        cut = self.grid.crops(regions[None], fill=PADDING_REGION)[:, 0]
        return cut[start : start + batch]

    def regions(self) -> Tensor | None:
        """(h, w) region ids of the network picture, resized by nearest neighbour, or None."""
        regions = self.segmenter.regions_of(self.picture)
        if regions is None:
            return None
        size = self.picture.pixels.shape[-2:]
        nearest = F.interpolate(regions[None, None].double(), size=size, mode="nearest")
        return nearest[0, 0].long()

    # -- per picture ------------------------------------------------------------------------------------------

    def picture_class_token(self) -> Tensor:
        """(D,) CLIP's class embedding of the whole network picture; computed once."""
        if self._class_token is None:
            segmenter, pixels = self.segmenter, self.picture.pixels
            trunk = self._only_trunk
            if trunk is None:
                trunk = segmenter.trunk(pixels[None], taps=(), inputs=())
            self._class_token = segmenter.last_block.plain_class_token(trunk)[0]
        return self._class_token

    def _calibrated(self, features: Sequence[WindowFeatures], words: Words) -> Words:
        """Words moved by the picture's own patches, if a stage asks for it."""
        stages = self.segmenter.recipe.stages_with("on_picture_text")
        if not stages:
            return words
        if words.query_class is None:
            classes = torch.arange(words.queries)
        else:
            classes = words.query_class
        maps = torch.cat([f.context.coarse for f in features])
        context = PictureTextContext(
            self.segmenter.backbone, self.picture.pixels, self.grid, maps, classes,
            self.segmenter.map_of,
        )  # fmt: skip
        rows = words.rows[: words.queries]
        for settings in stages:
            rows = settings.on_picture_text(rows, context)
        rows = torch.cat([rows, words.rows[words.queries :]])
        return replace(words, rows=rows)

    def _whole_picture(self, words: Words, size: tuple[int, int]) -> Stitched:
        """Recipes whose windows see each other."""
        segmenter, stage = self.segmenter, self.segmenter.whole_picture
        context = self._picture_context(words)
        picture_grid = one_window(size) if segmenter.windows.in_one_resize else self.grid.whole()
        tokens = segmenter.last_block.project(stage.replace_windows(context))
        grid = picture_grid if tokens.whole or segmenter.windows.in_one_resize else self.grid
        window = self.picture.pixels[None] if tokens.whole else context.windows
        if tokens.whole and tokens.direct:
            grid = one_window(size)
        window_context = self._context(tokens, context.trunk, window, self.picture.kept)
        if tokens.whole and tokens.class_token is None:
            # the trunk's class tokens belong to windows, of which none is left
            window_context.class_token_of = lambda: self.picture_class_token()[None]
        window_context.features = window_context.coarse
        for _, settings in segmenter.recipe.at("features"):
            window_context.features = settings.on_features(window_context.features, window_context)
        features = WindowFeatures([window_context.features], window_context)
        logits = self._compare(features, self._calibrated([features], words))
        return Stitched(logits if tokens.whole else self._together(logits), grid, size)

    def _picture_context(self, words: Words | None) -> PictureContext:
        segmenter = self.segmenter
        if any(len(trunks) > 1 for trunks, _, _ in self._trunks):
            raise RecipeError(
                f"recipe {segmenter.recipe.name!r} works on all windows at once and takes one view of each; turn "
                "the views off"
            )
        trunk = TrunkOutput.concatenated([trunks[0] for trunks, _, _ in self._trunks])
        windows = torch.cat([views[0] for _, views, _ in self._trunks])
        block = segmenter.last_block
        return PictureContext(
            segmenter.backbone, trunk, self.grid, windows, self.picture.pixels,
            block.base(trunk.grid), lambda: block.plain(trunk), self.picture.image,
            None if words is None else words.rows[: words.queries],
            None if words is None else words.query_class, segmenter.guide, self.regions(),
            self.picture.kept.setdefault("windows", {}), segmenter.recipe,
        )  # fmt: skip


def window_pixels(segmenter: "Segmenter", grid: WindowGrid, pixels: Tensor) -> Tensor:
    """Windows (N, 3, h, w) of a network picture (3, H, W), padded and changed as the recipe asks."""
    crops = grid.crops(pixels, segmenter.windows.fill(segmenter.backbone))
    for settings in segmenter.recipe.stages_with("on_crops"):
        crops = settings.on_crops(crops, WindowsContext(segmenter.backbone, grid))
    return crops


# hooks whose stages may look at the windows' pixels and trunk results for every list of words
_READ_THE_WINDOW = ("on_window_text", "on_similarity", "on_picture_text", "on_all_windows")
PADDING_REGION = 10000
"""Region id of the padding around a window (CorrCLIP)."""


def chunk_sizes(windows: int, most: int) -> list[int]:
    """Numbers of windows that go through the tower together: powers of two up to `most`, the largest first.

    They are few, so that a GPU meets few shapes, and leave nothing to be filled up. Which windows share a chunk
    depends on the picture alone, so its result does, too.
    """
    sizes: list[int] = []
    while windows:
        sizes.append(1 << (min(windows, max(1, most)).bit_length() - 1))
        windows -= sizes[-1]
    return sizes


def encode_pictures(
    segmenters: Sequence["Segmenter"],
    picture: PictureInput,
    words: Sequence[Words | None],
) -> list[EncodedPicture]:
    """Encode one picture for several segmenters that share backbone, windows, views and trunk.

    The trunk runs once per window and view; windows go through it in chunks of a few fixed sizes (`chunk_sizes`).
    """
    first = segmenters[0]
    backbone = first.backbone
    for segmenter in segmenters[1:]:
        if segmenter.trunk_key() != first.trunk_key():
            raise RecipeError(
                f"recipes {first.recipe.name!r} and {segmenter.recipe.name!r} differ in windows, views or stages in "
                "the trunk and cannot share a trunk pass"
            )
    taps = set().union(*(s.taps for s in segmenters))
    inputs = set().union(*(s.inputs for s in segmenters))
    words = [None if w is None else w.to(backbone.device) for w in words]
    grid = first.windows.boxes(*picture.pixels.shape[-2:])
    encoded = [EncodedPicture(s, picture, grid, w) for s, w in zip(segmenters, words, strict=True)]
    by_windows = [encoding for encoding in encoded if not encoding.segmenter.without_windows]
    if not by_windows:
        return encoded
    with torch.no_grad(), memory_errors():
        crops = window_pixels(first, grid, picture.pixels)
        start = 0
        for size in chunk_sizes(len(crops), backbone.batch_of_windows):
            chunk = crops[start : start + size]
            views = [chunk] if first.views is None else first.views.views(chunk)
            joint = first.trunk(torch.cat(views), taps, inputs)
            trunks = [joint[i * size : (i + 1) * size] for i in range(len(views))]
            for encoding in by_windows:
                encoding.add(trunks, views)
            start += size
    return encoded
