"""Sentences that begin alike go through CLIP's text tower together: each distinct prefix is computed once.

The tower is causal: what it computes at a token depends on this token and those before it. Prompts made of templates
share most of their beginnings ("a photo of a ..."), so that 80 templates of 171 words have 122,076 tokens but
47,040 distinct prefixes. The sentences are sorted, cut into batches of a bounded number of prefixes, and a batch goes
through the blocks as one list of prefixes; only the attention, a small part of the work, is done sentence by sentence.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PREFIXES_PER_BATCH = 4096
"""Prefixes that go through the tower at a time, enough to keep the products busy, few enough for any memory."""
_TOKENS_PER_ATTENTION = 4096


@dataclass(frozen=True)
class Sentences:
    """Sentences of one length in a batch.

    Attributes:
        rows: (n,) their places in the batch.
        prefixes: (n, L) the prefix that ends at each of their tokens.
        first: (k,) of these n L places, counted row by row, those whose prefix no earlier sentence of the batch has.
    """

    rows: Tensor
    prefixes: Tensor
    first: Tensor

    def to(self, device: torch.device) -> "Sentences":
        """The same on another device."""
        return Sentences(self.rows.to(device), self.prefixes.to(device), self.first.to(device))


@dataclass(frozen=True)
class PrefixTree:
    """The distinct prefixes of a batch of sentences.

    Attributes:
        tokens: (N,) last token of each prefix.
        places: (N,) its place in the sentence, from 0.
        sentences: all sentences of the batch, by length.
    """

    tokens: Tensor
    places: Tensor
    sentences: tuple[Sentences, ...]

    def __len__(self) -> int:
        """Number of distinct prefixes N."""
        return len(self.tokens)


def can_share(backbone: Any) -> bool:
    """Whether a backbone's text tower is causal, of open_clip's plain blocks, and computes in float32."""
    if not getattr(backbone, "text_is_cut", False):
        return False
    if getattr(backbone, "precision", None) not in ("fp32", "bf16"):
        return False
    model: Any = getattr(backbone, "model", None)
    blocks = getattr(getattr(model, "transformer", None), "resblocks", None)
    if not blocks or not all(isinstance(block.attn, nn.MultiheadAttention) for block in blocks):
        return False
    mask = model.attn_mask
    return mask.device.type != "meta" and bool(
        torch.equal(mask, torch.full_like(mask, -torch.inf).triu(1))
    )


def prefix_trees(token_ids: np.ndarray) -> Iterator[tuple[np.ndarray, PrefixTree]]:
    """Batches of sentences: the rows of `token_ids` in each, and their distinct prefixes.

    Args:
        token_ids: (P, L) int64; a sentence ends at its highest number (CLIP's end token), what follows is padding.

    A batch has at most `PREFIXES_PER_BATCH` prefixes, or one sentence.
    """
    lengths = token_ids.argmax(axis=1) + 1
    tokens = np.where(np.arange(token_ids.shape[1]) < lengths[:, None], token_ids, -1)
    order = np.lexsort(tokens.T[::-1])
    tokens, lengths = tokens[order], lengths[order]
    # prefixes that a sentence does not share with the one before it
    fresh = _first(tokens).sum(axis=1)
    start = 0
    while start < len(order):
        total = np.cumsum(fresh[start:])
        total += lengths[start] - fresh[start]  # the batch's first sentence shares with none
        stop = start + max(1, int(np.searchsorted(total, PREFIXES_PER_BATCH, side="right")))
        yield order[start:stop], _tree(tokens[start:stop], lengths[start:stop])
        start = stop


def _first(tokens: np.ndarray) -> np.ndarray:
    """(P, L) bool, whether the prefix that ends here is new; `tokens` sorted, padding -1."""
    differs = np.ones(tokens.shape, dtype=bool)
    differs[1:] = np.logical_or.accumulate(tokens[1:] != tokens[:-1], axis=1)
    return differs & (tokens >= 0)


def _tree(tokens: np.ndarray, lengths: np.ndarray) -> PrefixTree:
    """Distinct prefixes of sorted sentences (P, L), numbered row by row."""
    first = _first(tokens)
    numbers = np.where(first, np.cumsum(first).reshape(first.shape) - 1, -1)
    prefixes = np.maximum.accumulate(
        numbers, axis=0
    )  # a prefix is that of the last row to start it
    groups = []
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        step = max(1, _TOKENS_PER_ATTENTION // int(length))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            parts = (part, prefixes[part, :length], np.flatnonzero(first[part, :length]))
            groups.append(Sentences(*(torch.from_numpy(values) for values in parts)))
    ends = np.nonzero(first)
    return PrefixTree(torch.from_numpy(tokens[ends]), torch.from_numpy(ends[1]), tuple(groups))


@torch.no_grad()
def encode_sharing(backbone: Any, token_ids: Tensor) -> Tensor:
    """Tokens (P, L), L <= context_length -> text features (P, dim), float32, not normalised.

    As `Backbone.encode_text` computes them, to rounding; `can_share(backbone)` must hold.
    """
    features = torch.empty(len(token_ids), backbone.model.text_projection.shape[1])
    features = features.to(backbone.device)
    for rows, tree in prefix_trees(token_ids.cpu().numpy()):
        features[torch.from_numpy(rows).to(features.device)] = _encode(backbone, tree)
    return features


def _encode(backbone: Any, tree: PrefixTree) -> Tensor:
    """Text features (P, dim) of the sentences of a tree."""
    model, device = backbone.model, backbone.device
    positions = model.positional_embedding
    groups = [group.to(device) for group in tree.sentences]
    x = model.token_embedding(tree.tokens.to(device))
    x = x + positions[tree.places.to(device)]  # (N, width)
    *blocks, last = model.transformer.resblocks
    for block in blocks:
        qkv = _projections(backbone, block, x)
        mixed = torch.empty_like(x)
        for group in groups:
            q, k, v = _heads(block, qkv, group.prefixes)
            heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            here = heads.transpose(1, 2).flatten(2).flatten(0, 1)  # (n L, width)
            mixed[group.prefixes.flatten()[group.first]] = here[group.first].to(mixed.dtype)
        x = _behind_attention(backbone, block, x, mixed)
    # the last block's answer is read at the end tokens alone
    qkv = _projections(backbone, last, x)
    count = sum(len(group.rows) for group in groups)
    mixed, ends = x.new_empty(count, x.shape[1]), x.new_empty(count, x.shape[1])
    for group in groups:
        q, k, v = _heads(last, qkv, group.prefixes)
        heads = F.scaled_dot_product_attention(q[:, :, -1:], k, v)
        mixed[group.rows] = heads.flatten(1).to(mixed.dtype)
        ends[group.rows] = x[group.prefixes[:, -1]]
    x = _behind_attention(backbone, last, ends, mixed)
    x = backbone.normalise(model.ln_final, x)
    return (x @ model.text_projection.to(x.dtype)).float()


def _projections(backbone: Any, block: Any, x: Tensor) -> Tensor:
    """q, k and v (N, 3 width) of a block for its input (N, width)."""
    normed = backbone.normalise(block.ln_1, x)
    return F.linear(normed, block.attn.in_proj_weight, block.attn.in_proj_bias)


def _heads(block: Any, qkv: Tensor, prefixes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v (n, heads, L, width / heads) of sentences, by the prefixes (n, L) at their tokens."""
    here = qkv[prefixes].unflatten(2, (3, block.attn.num_heads, -1))
    q, k, v = here.permute(2, 0, 3, 1, 4)
    return q, k, v


def _behind_attention(backbone: Any, block: Any, x: Tensor, mixed: Tensor) -> Tensor:
    """A block's output (N, width) for its input and its mixed values."""
    x = x + block.ls_1(block.attn.out_proj(mixed))
    return x + block.ls_2(block.mlp(backbone.normalise(block.ln_2, x)))
