"""The forward pass of a CLIP as pretraining needs it: fast on processors and with several queries of the last block.

It computes what open_clip's ``CLIP.encode_image`` and ``CLIP.encode_text`` compute, from the same parameters, but

* matrix products run in bfloat16 if asked (about three times as fast on processors that have it), while the residual
  stream, the layer norms and the attention scores stay float32;
* the image tower can see a subset of the patches (patch dropout);
* the last block answers for chosen query tokens only, so that one pass of the trunk serves several of them.
"""

from __future__ import annotations

from dataclasses import dataclass

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


def _feed_forward(block: nn.Module, x: torch.Tensor, low: bool) -> torch.Tensor:
    hidden = block.mlp.gelu(
        _linear(_norm(x, block.ln_2), block.mlp.c_fc.weight, block.mlp.c_fc.bias, low)
    )
    return x + _linear(hidden, block.mlp.c_proj.weight, block.mlp.c_proj.bias, low)


def run_block(block: nn.Module, x: torch.Tensor, low: bool, causal: bool = False) -> torch.Tensor:
    """One residual attention block over all tokens. ``x``: (B, N, D) float32; returns the same."""
    attention = block.attn
    packed = _linear(_norm(x, block.ln_1), attention.in_proj_weight, attention.in_proj_bias, low)
    q, k, v = (_heads(part, attention.num_heads) for part in packed.chunk(3, dim=-1))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)
    x = x + _linear(mixed, attention.out_proj.weight, attention.out_proj.bias, low)
    return _feed_forward(block, x, low)


def run_block_for_queries(
    block: nn.Module, x: torch.Tensor, queries: torch.Tensor, low: bool
) -> torch.Tensor:
    """The block's answer for ``queries`` (B, Q, D) that look at the tokens ``x`` (B, N, D). Returns (B, Q, D)."""
    attention, width = block.attn, x.shape[-1]
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    q = _linear(_norm(queries, block.ln_1), weight[:width], bias[:width], low)
    k, v = _linear(_norm(x, block.ln_1), weight[width:], bias[width:], low).chunk(2, dim=-1)
    q, k, v = (_heads(part, attention.num_heads) for part in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return _feed_forward(
        block,
        queries + _linear(mixed, attention.out_proj.weight, attention.out_proj.bias, low),
        low,
    )


@dataclass(frozen=True)
class TokenMix:
    """What stands for the class token at the last block's input, while training only (the prototype's trick, extended).

    Without it the class token gathers its evidence in the earlier blocks and carries it along the residual, so that the
    last block's values never have to name what a patch shows; the methods of the field read exactly those values.

    * ``initial``: probability, per picture, that the class token is replaced by its initial embedding (after ``ln_pre``,
      before any block), so that all evidence has to come through the last block's values.
    * ``patch_weight``: weight in the loss, in [0, 1), of a second query of the last block: a patch token. It makes the
      last block's residual and feed-forward path useful on patch-like inputs, which methods such as SCLIP keep.
    * ``patch_share``: the second query is the mean of a random subset of the patches, of between one patch and this
      share of them; 0 is one patch.
    * ``patch_gradient``: whether the loss of the second query reaches the earlier blocks through the query itself. If it
      does, they learn to spread what the whole picture shows over all its patches.
    """

    initial: float = 0.9
    patch_weight: float = 0.3
    patch_share: float = 0.0
    patch_gradient: bool = False


def _patch_query(patches: torch.Tensor, mix: TokenMix, generator: torch.Generator) -> torch.Tensor:
    """(B, N, D) -> (B, D): the mean of a random subset of each picture's patch tokens."""
    batch, count, _ = patches.shape
    share = torch.rand(batch, generator=generator) * mix.patch_share
    size = (share * count).long().clamp(min=1)
    rank = torch.rand(batch, count, generator=generator).argsort(1).argsort(1)
    weight = ((rank < size[:, None]) / size[:, None]).to(patches)
    source = patches if mix.patch_gradient else patches.detach()
    return torch.einsum("bn,bnd->bd", weight, source)


def encode_image(
    model: nn.Module,
    pixels: torch.Tensor,
    generator: torch.Generator,
    mix: TokenMix | None = None,
    patch_dropout: float = 0.0,
    low: bool = True,
) -> torch.Tensor:
    """Image features of an open_clip ``CLIP`` with a ViT image tower.

    ``pixels``: (B, 3, H, W) float32, normalised as CLIP's, H and W those of the tower. ``mix``: see :class:`TokenMix`;
    None is the plain class token, as at inference. ``patch_dropout``: share of the patches that no block sees.
    ``generator``: on the CPU, all random choices. Returns (B, Q, E) unit rows: Q = 1, or 2 where ``mix`` has a second
    query.
    """
    tower = model.visual
    x = F.conv2d(pixels, tower.conv1.weight, stride=tower.conv1.stride).flatten(2).transpose(1, 2)
    x = x + tower.positional_embedding[1:]
    batch, count, width = x.shape
    if patch_dropout > 0:
        kept = max(1, round(count * (1 - patch_dropout)))
        index = torch.rand(batch, count, generator=generator).argsort(1)[:, :kept].to(x.device)
        x = x.gather(1, index[..., None].expand(-1, -1, width))
    first = (tower.class_embedding + tower.positional_embedding[0]).expand(batch, 1, width)
    x = _norm(torch.cat([first, x], dim=1), tower.ln_pre)
    initial = x[:, :1]
    *blocks, last = tower.transformer.resblocks
    for block in blocks:
        x = run_block(block, x, low)
    queries = x[:, :1]
    if mix is not None:
        swap = (torch.rand(batch, 1, 1, generator=generator) < mix.initial).to(x.device)
        token = torch.where(swap, initial, queries)
        patches = x[:, 1:]
        x = torch.cat([token, patches], dim=1)
        queries = token
        if mix.patch_weight > 0:
            queries = torch.cat([token, _patch_query(patches, mix, generator)[:, None]], dim=1)
    answers = run_block_for_queries(last, x, queries, low)
    return F.normalize(_norm(answers, tower.ln_post) @ tower.proj, dim=-1)


def encode_text(model: nn.Module, tokens: torch.Tensor, low: bool = True) -> torch.Tensor:
    """Text features of an open_clip ``CLIP``. ``tokens``: (B, L) int64, L up to the context length, padded with zeros
    behind the end-of-text token (the largest id). Returns (B, E) unit rows.
    """
    x = model.token_embedding(tokens) + model.positional_embedding[: tokens.shape[1]]
    for block in model.transformer.resblocks:
        x = run_block(block, x, low, causal=True)
    x = _norm(x, model.ln_final)
    ends = x[torch.arange(x.shape[0], device=x.device), tokens.argmax(dim=1)]
    return F.normalize(ends @ model.text_projection, dim=-1)
