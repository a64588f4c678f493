"""CLIP opened at its last block.

The vision tower is split in two: the *trunk* (all blocks but the last, run once per window, whatever the
recipes) and the *last block* whose parts (projections, output layer, feed-forward network, head) are handed to the
attention stage. Weights come from open_clip models, OpenAI's own checkpoints, or local files; see `loading.py`.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovsslib.clip.architectures import PIXEL_MEAN, PIXEL_STD
from ovsslib.clip.configuration import configuration_of
from ovsslib.clip.placement import PRECISIONS, check_device, check_precision, place
from ovsslib.errors import ImageError, ModelError

POSITIONS = ("sclip", "size", "size-antialias", "bilinear", "bilinear-half", "bilinear-half-always")
"""Rules by which the positional table is resized to another grid (`Backbone.positions`)."""

BlockChange = Callable[[Tensor, int, tuple[int, int]], Tensor]
"""Function (tensor, 0-based block, grid (h, w)) -> tensor of the same shape."""


@dataclass
class Tap:
    """What a block saw: its normalised input and projections.

    Attributes:
        normed: (B, T, D) ln_1 of the block's input, class token first.
        q, k, v: (B, heads, T, D / heads) projections, bias included.
    """

    normed: Tensor
    q: Tensor
    k: Tensor
    v: Tensor

    def to(self, dtype: torch.dtype) -> "Tap":
        """The same in another type."""
        return Tap(*(getattr(self, name).to(dtype) for name in ("normed", "q", "k", "v")))


@dataclass
class TrunkOutput:
    """Result of the trunk for a batch of windows.

    Attributes:
        tokens: (B, 1 + h * w, D) input of the last block, class token first.
        grid: (h, w) patches.
        taps: block index (0-based, last block included) -> Tap, for the blocks asked for.
        inputs: block index -> (B, T, D) input of that block, for the blocks asked for.
    """

    tokens: Tensor
    grid: tuple[int, int]
    taps: dict[int, Tap] = field(default_factory=dict)
    inputs: dict[int, Tensor] = field(default_factory=dict)

    def __getitem__(self, rows: slice) -> "TrunkOutput":
        """The same for some windows of the batch."""
        taps = self.taps  # an empty one is passed on: an exported graph's says why it has none
        if taps:
            taps = {
                i: Tap(t.normed[rows], t.q[rows], t.k[rows], t.v[rows]) for i, t in taps.items()
            }
        inputs = {index: x[rows] for index, x in self.inputs.items()}
        return TrunkOutput(self.tokens[rows], self.grid, taps, inputs)

    @staticmethod
    def concatenated(parts: "Sequence[TrunkOutput]") -> "TrunkOutput":
        """The trunk results of several batches of windows as one."""
        first = parts[0]
        if len(parts) == 1:
            return first
        taps = first.taps
        if taps:
            fields = ("normed", "q", "k", "v")
            taps = {
                i: Tap(*(torch.cat([getattr(p.taps[i], name) for p in parts]) for name in fields))
                for i in taps
            }
        inputs = {index: torch.cat([p.inputs[index] for p in parts]) for index in first.inputs}
        return TrunkOutput(torch.cat([p.tokens for p in parts]), first.grid, taps, inputs)


class Backbone:
    """A frozen CLIP whose last vision block is open.

    Made by :func:`ovsslib.load_backbone`. Attributes: `name`, `pretrained`, `weights_hash` (16 hex digits),
    `width`, `heads`, `layers`, `patch_size`, `dim` (of the joint embedding), `base_grid`, `image_size`, `context_length`,
    `device`, `precision`, `dtype` (of what enters a product), `stream_dtype` (of tokens and projections: float32 but in
    "fp16"), `known_token_ids` (None: all), `times_read` (token id -> count in training, {}: unknown).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        pretrained: str | None = None,
        weights_hash: str = "",
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        known_token_ids: Tensor | None = None,
        times_read: dict[int, int] | None = None,
        pixel_mean: tuple[float, float, float] = PIXEL_MEAN,
        pixel_std: tuple[float, float, float] = PIXEL_STD,
    ):
        self.device = check_device(device)
        self.precision = check_precision(precision, self.device)
        self.dtype = PRECISIONS[self.precision]
        self.stream_dtype = torch.float32 if self.precision == "bf16" else self.dtype
        self.visual = _check_vision_tower(model, name)
        self.model = place(model, self.device, self.precision)
        self.name, self.pretrained, self.weights_hash = name, pretrained, weights_hash
        self.known_token_ids, self.times_read = known_token_ids, dict(times_read or {})
        self.pixel_mean, self.pixel_std = (*pixel_mean,), (*pixel_std,)
        visual = self.visual
        self.blocks = visual.transformer.resblocks
        self.layers = len(self.blocks)
        self.heads: int = self.blocks[0].attn.num_heads
        self.width: int = visual.class_embedding.shape[0]
        self.patch_size: int = visual.conv1.kernel_size[0]
        self.base_grid = tuple(visual.grid_size)
        self.image_size = tuple(visual.image_size)
        self.dim: int = visual.proj.shape[1]
        self.context_length = int(getattr(model, "context_length", 77))
        # One window per call on a CPU and a fixed number on a GPU: the shapes of the products, and with them
        # the last bits of the results, do not depend on how many windows an image has.
        self.batch_of_windows = 1 if self.device.type == "cpu" else 8
        self._tokenizer = open_clip.SimpleTokenizer()
        self._positions: dict[tuple[int, int, str], Tensor] = {}

    def __repr__(self) -> str:
        return f"Backbone({self.name!r}, pretrained={self.pretrained!r}, {self.precision} on {self.device})"

    @cached_property
    def configuration(self) -> dict[str, dict[str, Any]]:
        """What the model computes besides its weights (`configuration_of`), part of every key."""
        return configuration_of(self.model, self.pixel_mean, self.pixel_std)

    @cached_property
    def text_is_cut(self) -> bool:
        """Whether a text's padding may be cut away, as in a causal tower that answers at the end token (CLIP's)."""
        model = self.model
        return (
            hasattr(model, "token_embedding")
            and getattr(model, "text_pool_type", "argmax") == "argmax"
            and getattr(model, "attn_mask", None) is not None
            and isinstance(getattr(model, "text_projection", None), torch.Tensor)
        )

    @property
    def normalisation(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Mean and standard deviation for pixels on the 0..255 scale; CLIP's own are rounded as published."""
        if (self.pixel_mean, self.pixel_std) == (PIXEL_MEAN, PIXEL_STD):
            return (122.771, 116.746, 104.094), (68.501, 66.632, 70.323)
        (r, g, b), (dr, dg, db) = self.pixel_mean, self.pixel_std
        return (255 * r, 255 * g, 255 * b), (255 * dr, 255 * dg, 255 * db)

    @property
    def logit_scale(self) -> float:
        """Factor of the cosines that the model was trained with, exp of its own parameter (100 for OpenAI's CLIP)."""
        scale = getattr(self.model, "logit_scale", None)
        return 100.0 if scale is None else float(scale.detach().float().exp())

    @cached_property
    def exact_last_block(self) -> nn.Module:
        """The last block with its weights in float32, for gradients that half precision would round to nothing."""
        block = self.blocks[self.layers - 1]
        return block if self.dtype == torch.float32 else copy.deepcopy(block).float()

    @property
    def scale(self) -> float:
        """Scale of the attention scores, (width / heads) ** -0.5."""
        return (self.width // self.heads) ** -0.5

    def positions(self, grid: tuple[int, int], how: str = "sclip") -> Tensor:
        """Positional table (1 + h * w, width) for a grid of patches, class token first.

        Args:
            grid: (h, w) patches.
            how: rule of the resizing, out of `POSITIONS`. "sclip" is the released SCLIP-family code's: bicubic with
                scale factors (h + 0.1) / h0 and (w + 0.1) / w0, which shift the samples. "size" and
                "size-antialias" are bicubic to the size (LPOSS; GEM), "bilinear" to the size (CLIP Surgery),
                "bilinear-half" the same with the table rounded to float16 (TagCLIP). "keep" takes the table as it
                is. "bilinear-half-always" differs from "bilinear-half" in :meth:`embed` only: it rounds the table
                of the tower's own size too (CLIP-ES).
        """
        key = (*grid, how)
        if key not in self._positions:
            table = self.visual.positional_embedding.float()
            if how != "keep":
                table = self._resized_positions(table, grid, how)
            self._positions[key] = table.to(self.stream_dtype)
        return self._positions[key]

    def _resized_positions(self, table: Tensor, grid: tuple[int, int], how: str) -> Tensor:
        h0, w0 = self.base_grid
        patches = table[1:].reshape(1, h0, w0, -1).permute(0, 3, 1, 2)
        if how == "sclip":
            factors = ((grid[0] + 0.1) / h0, (grid[1] + 0.1) / w0)
            patches = F.interpolate(patches, scale_factor=factors, mode="bicubic")
        elif how in ("size", "size-antialias"):
            patches = F.interpolate(
                patches, size=grid, mode="bicubic", antialias=how == "size-antialias"
            )
        elif how in ("bilinear", "bilinear-half", "bilinear-half-always"):
            patches = F.interpolate(patches, size=grid, mode="bilinear")
        else:
            raise ModelError(f"positions={how!r}: choose one of {', '.join(POSITIONS)}")
        if patches.shape[-2:] != grid:
            raise ImageError(
                f"a grid of {grid[0]}x{grid[1]} patches cannot be reached from "
                f"{h0}x{w0} positions; use windows (windows.crop) of at most 2,000 pixels"
            )
        table = torch.cat([table[:1], patches[0].flatten(1).T])
        return table.half().float() if how.startswith("bilinear-half") else table

    def _keeps_table(self, size: tuple[int, int], grid: tuple[int, int], positions: str) -> bool:
        """Whether a picture of `size` pixels takes the positional table as it is."""
        if positions == "bilinear-half-always" or grid != self.base_grid:
            return False
        if positions == "bilinear-half":
            return size == self.image_size
        return size[0] == size[1] or self.base_grid[0] != self.base_grid[1]

    def embed(self, pixels: Tensor, positions: str = "sclip") -> tuple[Tensor, tuple[int, int]]:
        """Pixels (B, 3, H, W) -> tokens (B, 1 + h * w, width) entering block 0, and the grid (h, w).

        Rows and columns of pixels beyond a multiple of the patch size have no patch. A picture of the tower's own
        size takes the positional table as it is; any other resizes it by the rule `positions`.

        Raises ImageError for a side shorter than one patch, ModelError for an unknown rule.
        """
        if positions not in POSITIONS:
            raise ModelError(f"positions={positions!r}: choose one of {', '.join(POSITIONS)}")
        height, width = pixels.shape[-2:]
        if min(height, width) < self.patch_size:
            raise ImageError(
                f"a picture of {height}x{width} pixels is smaller than one patch "
                f"({self.patch_size}x{self.patch_size}); enlarge it"
            )
        visual = self.visual
        pixels = pixels.to(self.device, self.dtype)
        x = F.conv2d(pixels, visual.conv1.weight, stride=self.patch_size)
        grid = (x.shape[-2], x.shape[-1])
        x = x.flatten(2).transpose(1, 2).to(self.stream_dtype)
        first = visual.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        keeps_table = self._keeps_table((height, width), grid, positions)
        x = torch.cat([first, x], dim=1) + self.positions(
            grid, "keep" if keeps_table else positions
        )
        return self.normalise(visual.ln_pre, x), grid

    @torch.no_grad()
    def trunk(
        self,
        pixels: Tensor,
        taps: Iterable[int] = (),
        inputs: Iterable[int] = (),
        *,
        positions: str = "sclip",
        after_block: BlockChange | None = None,
        on_weights: BlockChange | None = None,
        score_mask: Tensor | None = None,
        until: int | None = None,
    ) -> TrunkOutput:
        """All blocks but the last, once.

        Args:
            pixels: (B, 3, H, W) CLIP-normalised RGB.
            taps: 0-based blocks whose projections are kept (the last block's are computed if it is named).
            inputs: 0-based blocks whose input tokens are kept.
            positions: rule of :meth:`positions`.
            after_block: function (tokens (B, T, width), block, grid) -> tokens, called behind each block.
            on_weights: function (weights (B, heads, T, T), block, grid) -> weights, called inside each block.
            score_mask: (T, T) or (B, 1, T, T), added to the scores of every block before the softmax.
            until: 0-based block at whose projections the pass ends, for who needs no more; its input are the tokens.
        """
        taps, inputs = set(taps), set(inputs)
        tokens, grid = self.embed(pixels, positions)
        out = TrunkOutput(tokens, grid)
        for index in range(self.layers - 1):
            if index in inputs:
                out.inputs[index] = tokens
            tap = self._project(index, tokens)
            if index in taps:
                out.taps[index] = tap.to(self.stream_dtype)
            if index == until:
                out.tokens = tokens
                return out
            if on_weights is None:
                mixed = self._mixed(tap, score_mask)
            else:
                tap = tap.to(self.stream_dtype)
                weights = self.attention(tap, score_mask)
                mixed = on_weights(weights, index, grid) @ tap.v
            tokens = self._behind_attention(index, tokens, mixed)
            if after_block is not None:
                tokens = after_block(tokens, index, grid)
        out.tokens = tokens
        last = self.layers - 1
        if last in inputs:
            out.inputs[last] = tokens
        if last in taps:
            out.taps[last] = self.project(last, tokens)
        return out

    def _behind_attention(self, index: int, tokens: Tensor, mixed: Tensor) -> Tensor:
        """A block's output for its input tokens and its mixed values (B, heads, T, D / heads)."""
        tokens = tokens + self.blocks[index].ls_1(self.join(index, mixed))
        return tokens + self.feed_forward(index, tokens)

    def _mixed(self, tap: Tap, score_mask: Tensor | None) -> Tensor:
        """Values mixed by CLIP's own attention: (B, heads, T, D / heads)."""
        mask = None if score_mask is None else score_mask.to(tap.q)
        return F.scaled_dot_product_attention(tap.q, tap.k, tap.v, attn_mask=mask)

    def attention(self, tap: Tap, score_mask: Tensor | None = None) -> Tensor:
        """CLIP's own weights (B, heads, T, T) of a block: softmax of the scores, with `score_mask` added to them."""
        scores = (tap.q * self.scale) @ tap.k.transpose(-2, -1)
        return (scores if score_mask is None else scores + score_mask.to(scores)).softmax(dim=-1)

    def plain_last_block(self, tokens: Tensor, score_mask: Tensor | None = None) -> Tensor:
        """CLIP's own last block on its input tokens: (B, T, width) -> (B, T, width), before ln_post.

        `score_mask` as for :meth:`trunk`.
        """
        last = self.layers - 1
        mixed = self._mixed(self._project(last, tokens), score_mask)
        return self._behind_attention(last, tokens, mixed)

    def project(self, index: int, tokens: Tensor) -> Tap:
        """ln_1 and the q, k, v projections of a block for tokens (B, T, width)."""
        return self._project(index, tokens).to(self.stream_dtype)

    def _project(self, index: int, tokens: Tensor) -> Tap:
        """The same in the type of the products."""
        block = self.blocks[index]
        normed = self.normalise(block.ln_1, tokens).to(self.dtype)
        qkv = F.linear(normed, block.attn.in_proj_weight, block.attn.in_proj_bias)
        batch, count, _ = tokens.shape
        qkv = qkv.reshape(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return Tap(normed, qkv[0], qkv[1], qkv[2])

    def join(self, index: int, heads: Tensor) -> Tensor:
        """Heads (B, heads, T, D / heads) -> output layer of the block's attention (B, T, width)."""
        return self.output_layer(index, heads.transpose(1, 2).flatten(2))

    def output_layer(self, index: int, mixed: Tensor) -> Tensor:
        """Mixed values of all heads side by side (..., width) -> output layer of the block's attention (..., width)."""
        return self.blocks[index].attn.out_proj(mixed.to(self.dtype)).to(self.stream_dtype)

    def feed_forward(self, index: int, tokens: Tensor) -> Tensor:
        """MLP(ln_2(x)) of a block, to be added to x: (B, T, width) -> (B, T, width)."""
        block = self.blocks[index]
        normed = self.normalise(block.ln_2, tokens).to(self.dtype)
        return block.ls_2(block.mlp(normed).to(self.stream_dtype))

    def head(self, tokens: Tensor) -> Tensor:
        """ln_post and projection on every token: (B, T, width) -> (B, T, dim) float32, not normalised."""
        visual = self.visual
        x = self.normalise(visual.ln_post, tokens)
        return (x @ visual.proj.to(x.dtype)).float()

    @staticmethod
    def normalise(norm: nn.Module, x: Tensor) -> Tensor:
        """Layer normalisation in float32, cast back: what CLIP does in half precision."""
        if not isinstance(norm, nn.LayerNorm):
            return norm(x)
        weight = norm.weight.float() if norm.weight is not None else None
        bias = norm.bias.float() if norm.bias is not None else None
        return F.layer_norm(x.float(), norm.normalized_shape, weight, bias, norm.eps).to(x.dtype)

    @torch.no_grad()
    def encode_image(
        self,
        pixels: Tensor,
        *,
        positions: str = "sclip",
        score_mask: Tensor | None = None,
        skip_last_block: bool = False,
    ) -> Tensor:
        """CLIP's own image embedding (B, dim), float32, not normalised: the class token after all blocks.

        `positions` and `score_mask` as for :meth:`trunk`; `skip_last_block`: the class token before the last block.
        """
        tokens = self.trunk(pixels, positions=positions, score_mask=score_mask).tokens
        if not skip_last_block:
            tokens = self.plain_last_block(tokens, score_mask)
        return self.head(tokens[:, :1])[:, 0]

    def tokenize(self, texts: list[str]) -> Tensor:
        """Byte-pair tokens (N, 77) long: start, words, end, zero padding. Longer texts are cut by the tokenizer;
        :meth:`token_counts` tells their true lengths.
        """
        return self._tokenizer(list(texts), context_length=77)

    def token_counts(self, texts: list[str]) -> list[int]:
        """Number of tokens of each text, start and end included, before any cut."""
        return [len(self._tokenizer.encode(text)) + 2 for text in texts]

    @torch.no_grad()
    def encode_text(self, token_ids: Tensor) -> Tensor:
        """Tokens (N, L), L <= context_length -> text features (N, dim), float32, not normalised.

        The text tower is causal and reads its answer at the end token, so padding behind it may be cut away
        without changing the result.
        """
        model: Any = self.model
        token_ids = token_ids.to(self.device)
        if not self.text_is_cut:
            pad = self.context_length - token_ids.shape[1]
            return model.encode_text(F.pad(token_ids, (0, pad))).float()
        length = token_ids.shape[1]
        x = model.token_embedding(token_ids)
        x = x + model.positional_embedding[:length]
        x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
        ends = token_ids.argmax(dim=-1)
        x = x[torch.arange(x.shape[0], device=x.device), ends]
        return (self.normalise(model.ln_final, x) @ model.text_projection.to(x.dtype)).float()


def _check_vision_tower(model: nn.Module, name: str) -> Any:
    visual: Any = getattr(model, "visual", None)
    wanted = ("conv1", "class_embedding", "positional_embedding", "transformer", "ln_post", "proj")
    missing = [part for part in wanted if getattr(visual, part, None) is None]
    pooled = getattr(visual, "pool_type", "tok") != "tok" or getattr(visual, "attn_pool", None)
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", [])
    plain = blocks and all(isinstance(block.attn, nn.MultiheadAttention) for block in blocks)
    if missing or pooled or not plain:
        why = f"it has no {missing[0]}" if missing else "its class token is not what it pools"
        why = why if missing or pooled else "its attention blocks are not CLIP's"
        raise ModelError(
            f"model {name!r} is not a CLIP vision transformer with a class token: {why}; choose a ViT model of "
            "open_clip such as 'ViT-B-16-quickgelu', 'ViT-B-32-quickgelu' or 'ViT-L-14-quickgelu'"
        )
    return visual
