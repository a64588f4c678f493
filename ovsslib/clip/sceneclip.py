"""SceneCLIP's weights: their files, and their forms for other sizes of patches.

A file is a float16 safetensors without the token embeddings that were never trained. It holds open_clip's state dict,
with two differences: `token_embedding.weight` has the rows of the trained tokens only, and the int32 tensor
`kept_token_ids` says which rows those are. `token_counts`, if it is there, says how often each of these tokens was read in
the last training.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ovsslib import paths
from ovsslib.errors import ModelError

VOCABULARY_SIZE = 49408
_TABLE, _KEPT, _COUNTS = "token_embedding.weight", "kept_token_ids", "token_counts"


def save_sceneclip_state(
    path: Path,
    state: Mapping[str, Tensor],
    kept_ids: Tensor,
    about: dict[str, str],
    counts: Tensor | None = None,
) -> None:
    """Write a SceneCLIP to `path`, through a temporary file.

    Args:
        state: open_clip's state dict with the full token table.
        kept_ids: (K,) ids of the tokens that were trained.
        about: short texts for the file's header (steps, seed, ...).
        counts: (K,) how often each was read, or None.
    """
    order = kept_ids.argsort()
    kept_ids = kept_ids[order]
    tensors = {
        key: value.detach().to("cpu", torch.float16).contiguous()
        for key, value in state.items()
        if not key.endswith("attn_mask") and key != _TABLE
    }
    tensors[_TABLE] = state[_TABLE].detach().cpu()[kept_ids].half().contiguous()
    tensors[_KEPT] = kept_ids.to(torch.int32).contiguous()
    if counts is not None:
        tensors[_COUNTS] = counts[order].to(torch.int32).contiguous()
    with paths.replacing(path, make_folder=True) as temporary:
        save_file(tensors, temporary, metadata=about)


def load_sceneclip_state(path: Path) -> tuple[dict[str, Tensor], Tensor]:
    """Read a SceneCLIP: (state dict in float32 with all 49,408 token rows, (K,) int64 ids of the trained tokens).

    Rows of tokens that were never trained are zero: a word made of them says nothing to the text tower, so callers
    warn when such a word names a class. Raises ModelError if the file is damaged or of another kind.
    """
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"cannot read {path}: {error}; restore the file or run `ovss pretrain sceneclip`"
        ) from None
    if _KEPT not in stored or _TABLE not in stored:
        raise ModelError(
            f"{path} is no SceneCLIP file (no {_KEPT!r} in it); open it with load_backbone(config, pretrained=path)"
        )
    token_ids = stored.pop(_KEPT).long()
    stored.pop(_COUNTS, None)
    rows = stored[_TABLE].float()
    state = {key: value.float() for key, value in stored.items()}
    table = torch.zeros(VOCABULARY_SIZE, rows.shape[1])
    table[token_ids] = rows
    state[_TABLE] = table
    return state, token_ids


def token_counts(path: Path) -> dict[int, int]:
    """Token id -> how often the training of a SceneCLIP file read it; empty for files that do not say.

    Raises ModelError if the file is damaged.
    """
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"cannot read {path}: {error}; restore the file") from None
    if _COUNTS not in stored:
        return {}
    return dict(zip(stored[_KEPT].tolist(), stored[_COUNTS].tolist(), strict=True))


def enlarge_patches(state: dict[str, Tensor], factor: int) -> dict[str, Tensor]:
    """Weights for pictures `factor` times as large: each value of a patch kernel is spread evenly over factor x factor
    pixels, so that the new model on a picture is the old one on its block average, exactly."""
    kernel = state["visual.conv1.weight"]
    larger = kernel.repeat_interleave(factor, 2).repeat_interleave(factor, 3) / factor**2
    return {**state, "visual.conv1.weight": larger}


def shrink_patches(state: dict[str, Tensor], factor: int) -> dict[str, Tensor]:
    """The reverse of :func:`enlarge_patches`: kernels summed over blocks of factor x factor pixels."""
    kernel = state["visual.conv1.weight"]
    smaller = F.avg_pool2d(kernel, factor) * factor**2
    return {**state, "visual.conv1.weight": smaller}


def coarsen_patches(state: dict[str, Tensor], factor: int) -> dict[str, Tensor]:
    """Weights to start a model of `factor` times larger patches from: each patch is seen at 1 / factor of its size, and
    positions are averaged. Factor 1 changes nothing."""
    if factor == 1:
        return state
    table = state["visual.positional_embedding"]
    side = math.isqrt(len(table) - 1)
    patches = table[1:].T.reshape(1, -1, side, side)
    coarse = F.avg_pool2d(patches, factor)[0].flatten(1).T
    state = {**state, "visual.positional_embedding": torch.cat([table[:1], coarse])}
    return enlarge_patches(state, factor)
