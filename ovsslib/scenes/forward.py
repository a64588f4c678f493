"""The forward pass of a CLIP as pretraining needs it: fast on processors, open in the last block.

It computes what open_clip's ``CLIP.encode_image`` and ``CLIP.encode_text`` compute, from the same parameters, but

* matrix products run in bfloat16 if asked (about three times as fast on processors that have it), while the residual
  stream, the layer norms and the attention scores stay float32;
* the image tower can see a subset of the patches (patch dropout), or several pictures side by side (mosaics);
* the last block answers for the class token only, or for what stands for it while training.

The parts of an open_clip model have no declared types; they are ``Any`` here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def _norm(x: torch.Tensor, layer: nn.LayerNorm) -> torch.Tensor:
    return F.layer_norm(x, (x.shape[-1],), layer.weight, layer.bias, layer.eps)


def _linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, low: bool
) -> torch.Tensor:
    if not low:
        return F.linear(x, weight, bias)
    return F.linear(x.bfloat16(), weight.bfloat16(), None if bias is None else bias.bfloat16())


def _heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, N, D) -> (B, heads, N, D / heads), float32 on a CPU, whose bfloat16 attention is slow."""
    split = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    return split.float() if split.device.type == "cpu" else split


def _feed_forward(block: Any, x: torch.Tensor, low: bool) -> torch.Tensor:
    hidden = block.mlp.gelu(
        _linear(_norm(x, block.ln_2), block.mlp.c_fc.weight, block.mlp.c_fc.bias, low)
    )
    return x + _linear(hidden, block.mlp.c_proj.weight, block.mlp.c_proj.bias, low)


def run_block(block: nn.Module, x: torch.Tensor, low: bool, causal: bool = False) -> torch.Tensor:
    """One residual attention block over all tokens. ``x``: (B, N, D) float32; returns the same."""
    parts: Any = block
    attention = parts.attn
    packed = _linear(_norm(x, parts.ln_1), attention.in_proj_weight, attention.in_proj_bias, low)
    q, k, v = (_heads(part, attention.num_heads) for part in packed.chunk(3, dim=-1))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)
    x = x + _linear(mixed, attention.out_proj.weight, attention.out_proj.bias, low)
    return _feed_forward(block, x, low)


def answer_of_block(
    block: nn.Module, x: torch.Tensor, query: torch.Tensor, residuals: torch.Tensor, low: bool
) -> torch.Tensor:
    """The block's answer for one query token a picture, over several residuals.

    x: (B, N, D) the tokens that are looked at. query: (B, 1, D) the token that looks. residuals: (B, R, D) what the
    attention's result is added to before the feed-forward network; `query` itself in an ordinary block. Returns (B, R, D).
    """
    parts: Any = block
    attention, width = parts.attn, x.shape[-1]
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    q = _linear(_norm(query, parts.ln_1), weight[:width], bias[:width], low)
    k, v = _linear(_norm(x, parts.ln_1), weight[width:], bias[width:], low).chunk(2, dim=-1)
    q, k, v = (_heads(part, attention.num_heads) for part in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    out = _linear(mixed, attention.out_proj.weight, attention.out_proj.bias, low)
    return _feed_forward(block, residuals + out, low)


@dataclass(frozen=True)
class TokenMix:
    """What stands for the class token in the last block, while training only.

    Without it the class token gathers its evidence in the earlier blocks and carries it along the residual, so that the
    last block's values never have to name what a patch shows; the methods of the field read exactly those values.

    * `initial`: probability, per picture (1 in mosaics), that the class token entering the last block is its initial
      embedding (after `ln_pre`, before any block), so that all evidence has to come through the last block's values.
    * `foreign`: weight, from 0 to below 1, of a second answer in the loss: the same attention result, but added to a
      patch token of *another* picture of the batch instead of the class token. It teaches the path behind the attention
      (residual, feed-forward network, projection) to read the values over a patch's residual, as methods that keep that
      path need (SCLIP). A patch of the same picture would teach earlier blocks to spread over all patches what the whole
      picture shows; a foreign one has nothing to tell.
    """

    initial: float = 0.9
    foreign: float = 0.5


def _foreign_patches(
    patches: torch.Tensor, generator: torch.Generator, away: int = 1
) -> torch.Tensor:
    """(B, N, D) -> (B, 1, D): for every picture a random patch token of the picture `away` places before it."""
    batch, count, width = patches.shape
    index = torch.randint(count, (batch, 1, 1), generator=generator).to(patches.device)
    return patches.roll(away, 0).gather(1, index.expand(-1, -1, width))


def embed(
    model: nn.Module, pixels: torch.Tensor, generator: torch.Generator, patch_dropout: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (B, 1 + kept patches, D) that enter the first block, and the class token among them (B, 1, D). Arguments as
    those of :func:`encode_image`."""
    tower: Any = model.visual
    x = F.conv2d(pixels, tower.conv1.weight, stride=tower.conv1.stride).flatten(2).transpose(1, 2)
    x = x + tower.positional_embedding[1:]
    batch, count, width = x.shape
    if patch_dropout > 0:
        kept = max(1, round(count * (1 - patch_dropout)))
        index = torch.rand(batch, count, generator=generator).argsort(1)[:, :kept].to(x.device)
        x = x.gather(1, index[..., None].expand(-1, -1, width))
    first = (tower.class_embedding + tower.positional_embedding[0]).expand(batch, 1, width)
    x = _norm(torch.cat([first, x], dim=1), tower.ln_pre)
    return x, x[:, :1]


def compose_mosaics(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """(B, 3, S, S) -> (B / side^2, 3, S, S): side x side pictures in one, row by row, each at 1 / side of its size."""
    small = F.avg_pool2d(pixels, side).unflatten(0, (-1, side, side))
    return small.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3).contiguous()


def _tiles(patches: torch.Tensor, side: int) -> torch.Tensor:
    """Patch tokens of mosaics, (B / side^2, N, D), one row for each of their pictures: (B, N / side^2, D)."""
    rows = math.isqrt(patches.shape[1]) // side
    grid = patches.unflatten(1, (side, rows, side, rows))
    return grid.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def encode_image(
    model: nn.Module,
    pixels: torch.Tensor,
    generator: torch.Generator,
    mix: TokenMix | None = None,
    patch_dropout: float = 0.0,
    low: bool = True,
    mosaic: int = 1,
) -> torch.Tensor:
    """Image features of an open_clip ``CLIP`` with a ViT image tower.

    ``pixels``: (B, 3, H, W) float32, normalised as CLIP's, H and W those of the tower. ``mix``: see :class:`TokenMix`;
    None is the plain class token, as at inference. ``patch_dropout``: share of the patches that no block sees.
    ``generator``: on the CPU, all random choices. ``mosaic``: 2, say, lets the tower see 2 x 2 pictures side by side as
    one (:func:`compose_mosaics`; B must be a multiple of 4); the last block's initial class token then looks at the
    patches of one picture at a time. Returns (B, Q, E) unit rows: Q = 1, or 2 where ``mix`` has a foreign residual.
    """
    tower: Any = model.visual
    *blocks, last = tower.transformer.resblocks
    if mosaic > 1:
        pixels = compose_mosaics(pixels, mosaic)
    x, initial = embed(model, pixels, generator, patch_dropout)
    for block in blocks:
        x = run_block(block, x, low)
    if (
        mosaic > 1
    ):  # the class token has seen all pictures of its mosaic: only the initial one will do
        patches = _tiles(x[:, 1:], mosaic)
        initial = initial[:1].expand(len(patches), -1, -1)
        x = torch.cat([initial, patches], dim=1)
    batch = x.shape[0]
    token = x[:, :1]
    if mix is not None:
        swap = (torch.rand(batch, 1, 1, generator=generator) < mix.initial).to(x.device)
        token = torch.where(swap, initial, token)
        patches = x[:, 1:]
        x = torch.cat([token, patches], dim=1)
        if mix.foreign > 0:
            residuals = torch.cat([token, _foreign_patches(patches, generator, mosaic**2)], dim=1)
            answers = answer_of_block(last, x, token, residuals, low)
            return F.normalize(_norm(answers, tower.ln_post) @ tower.proj, dim=-1)
    answers = answer_of_block(last, x, token, token, low)
    return F.normalize(_norm(answers, tower.ln_post) @ tower.proj, dim=-1)


@torch.no_grad()
def sharpen_blocks(
    model: nn.Module, pixels: torch.Tensor, factors: Mapping[int, float], low: bool = True
) -> None:
    """Make the attention of some image blocks more selective, in place.

    A class token that asks the same of all pictures leaves the patches' own queries and keys with a large common part
    and small differences: q q^T and k k^T hardly tell one patch from another. This takes the patches' mean query and mean
    key, measured on ``pixels`` (B, 3, H, W), out of the biases and multiplies attention scores by a factor.

    ``factors``: block number (1 is the first) -> factor.
    """
    tower: Any = model.visual
    x, _ = embed(model, pixels, torch.Generator())
    queries_and_keys = slice(0, 2 * x.shape[-1])
    for number, block in enumerate(tower.transformer.resblocks, start=1):
        if number in factors:
            weight, bias = (
                block.attn.in_proj_weight[queries_and_keys],
                block.attn.in_proj_bias[queries_and_keys],
            )
            bias -= F.linear(_norm(x[:, 1:], block.ln_1), weight, bias).mean((0, 1))
            weight *= factors[number] ** 0.5
            bias *= factors[number] ** 0.5
        x = run_block(block, x, low)


def encode_text(model: nn.Module, tokens: torch.Tensor, low: bool = True) -> torch.Tensor:
    """Text features of an open_clip ``CLIP``. ``tokens``: (B, L) int64, L up to the context length, padded with zeros
    behind the end-of-text token (the largest id). Returns (B, E) unit rows.
    """
    parts: Any = model
    x = parts.token_embedding(tokens) + parts.positional_embedding[: tokens.shape[1]]
    for block in parts.transformer.resblocks:
        x = run_block(block, x, low, causal=True)
    x = _norm(x, parts.ln_final)
    ends = x[torch.arange(x.shape[0], device=x.device), tokens.argmax(dim=1)]
    return F.normalize(ends @ parts.text_projection, dim=-1)
