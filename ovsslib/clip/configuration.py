"""What a CLIP computes besides its weights, read off the network itself.

The same weights under another activation, another number of heads or another normalisation are another
model: their features differ, so nothing that is kept of one may be taken for the other (`identity.py`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn


def configuration_of(
    model: nn.Module, mean: Sequence[float], std: Sequence[float]
) -> dict[str, dict[str, Any]]:
    """Settings of both towers and of the normalisation as plain values (JSON).

    Args:
        model: an open_clip CLIP.
        mean, std: the normalisation of pixels in [0, 1], RGB.

    Returns:
        "image": {"mean", "std"}; "vision" and "text": what decides the tower's features.
    """
    visual: Any = model.visual
    text = getattr(
        model, "text", model
    )  # open_clip keeps the text tower in a part of its own at times
    image_size, patch = getattr(visual, "image_size", None), visual.conv1.kernel_size
    return {
        "image": {"mean": [float(x) for x in mean], "std": [float(x) for x in std]},
        "vision": {
            **_tower(getattr(visual.transformer, "resblocks", ())),
            "image_size": _plain(image_size),
            "patch_size": _plain(patch),
            "first_norm": _norm(getattr(visual, "ln_pre", None)),
            "last_norm": _norm(getattr(visual, "ln_post", None)),
            "pool": str(getattr(visual, "pool_type", "tok")),
            "pool_first": bool(getattr(visual, "final_ln_after_pool", False)),
            "projection": _plain(visual.proj.shape),
        },
        "text": {
            **_tower(getattr(getattr(text, "transformer", None), "resblocks", ())),
            "context_length": int(
                getattr(text, "context_length", getattr(model, "context_length", 77))
            ),
            "words": int(getattr(text, "vocab_size", 0)),
            "causal": getattr(text, "attn_mask", None) is not None,
            "last_norm": _norm(getattr(text, "ln_final", None)),
            "pool": str(getattr(text, "text_pool_type", getattr(text, "pool_type", "argmax"))),
            "end": _plain(getattr(text, "text_eos_id", getattr(text, "eos_id", None))),
            "projection": type(getattr(text, "text_projection", None)).__name__,
        },
    }


def _tower(blocks: Iterable[Any]) -> dict[str, Any]:
    """Settings of a tower's blocks; those that all blocks share are given once."""
    blocks = list(blocks)
    return {
        "layers": len(blocks),
        "block": _shared(type(block).__name__ for block in blocks),
        "heads": _shared(getattr(block.attn, "num_heads", None) for block in blocks),
        "width": _shared(getattr(block.attn, "embed_dim", None) for block in blocks),
        "activation": _shared(_activation(block) for block in blocks),
        "norm": _shared(f"{_norm(block.ln_1)}, {_norm(block.ln_2)}" for block in blocks),
    }


def _activation(block: Any) -> str:
    """Names of the parts of a block's feed-forward network that have no weights."""
    parts = (part for part in block.mlp.modules() if part is not block.mlp)
    plain = [
        part for part in parts if not isinstance(part, (nn.Linear, nn.LayerNorm, nn.Sequential))
    ]
    return "+".join(
        f"{type(p).__name__}({p.extra_repr()})" for p in plain if type(p) is not nn.Identity
    )


def _norm(norm: nn.Module | None) -> str:
    return "none" if norm is None else f"{type(norm).__name__}({getattr(norm, 'eps', '')})"


def _shared(values: Iterable[Any]) -> Any:
    """The value that all have, or the list of them."""
    listed = list(values)
    return listed[0] if listed and all(value == listed[0] for value in listed) else listed


def _plain(value: Any) -> Any:
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value
