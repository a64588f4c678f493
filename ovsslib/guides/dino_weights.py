"""Checkpoints of DINO (v1) networks: the released files' names, and those of `transformers` ViT models."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor, cat

from ovsslib.errors import ModelError
from ovsslib.guides.vit import HEAD_WIDTH, DinoTransformer

# `transformers` 5 names inside a layer -> DINO's; q, k and v are joined first.
_LAYER_NAMES = {
    "attention.o_proj": "attn.proj",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
# What version 4 of `transformers` called the same parts.
_VERSION_4_NAMES = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
_WHOLE_NAMES = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
# Parts of training checkpoints that the encoder does not have.
_NOT_THE_ENCODER = re.compile(r"^(decoder|head\.|pooler\.|classifier\.|mask_token$|last_layer)")


def official_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under DINO's released names, from these or from the names of a `transformers` ViT model (versions 4, 5).

    Prefixes of training code ("module.", "backbone.", "vit.") and heads are dropped.
    """
    plain = {}
    for name, value in state.items():
        name = re.sub(r"^(module\.|backbone\.|vit\.)+", "", name)
        if not _NOT_THE_ENCODER.match(name):
            plain[name] = value
    if "embeddings.cls_token" not in plain:
        return plain
    renamed: dict[str, Tensor] = {}
    parts: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, value in plain.items():
        if name in _WHOLE_NAMES:
            renamed[_WHOLE_NAMES[name]] = value
            continue
        match = re.match(r"^(?:encoder\.layer|layers)\.(\d+)\.(.+)\.(weight|bias)$", name)
        if not match:
            renamed[name] = value  # load_dino names it as unexpected
            continue
        layer, part, kind = match.groups()
        part = _VERSION_4_NAMES.get(part, part)
        if part in ("attention.q_proj", "attention.k_proj", "attention.v_proj"):
            parts.setdefault((layer, kind), {})[part[10]] = value
        else:
            renamed[f"blocks.{layer}.{_LAYER_NAMES.get(part, part)}.{kind}"] = value
    for (layer, kind), packed in parts.items():
        if len(packed) == 3:
            renamed[f"blocks.{layer}.attn.qkv.{kind}"] = cat(
                [packed["q"], packed["k"], packed["v"]]
            )
    return renamed


def load_dino(
    state: Mapping[str, Tensor],
    origin: str,
    heads: int | None = None,
    width: int | None = None,
    patch: int | None = None,
) -> DinoTransformer:
    """The network that a state dict describes, with its weights.

    origin: named in errors. heads: of each block; None: one for every 64 of the width, as in all of DINO's. width, patch:
    what the caller expects, None: anything. Raises ModelError if it is no such network, or of another width or patch.
    """
    state = official_state(state)
    try:
        kernel, table = state["patch_embed.proj.weight"], state["pos_embed"]
        found_width, found_patch = int(kernel.shape[0]), int(kernel.shape[-1])
        side = math.isqrt(table.shape[1] - 1)
    except (KeyError, IndexError) as error:
        raise ModelError(
            f"the weights of {origin} are no DINO vision transformer (no {error}); give a checkpoint with DINO's names, "
            "or a folder that transformers' save_pretrained wrote"
        ) from None
    if width is not None and width != found_width:
        raise ModelError(
            f"the weights of {origin} have width {found_width}, expected {width}; it is another network, choose its file"
        )
    if patch is not None and patch != found_patch:
        raise ModelError(
            f"the weights of {origin} have patches of {found_patch} pixels, expected {patch}; it is another network, "
            "choose its file"
        )
    if "blocks.0.ls1.gamma" in state or "register_tokens" in state:
        raise ModelError(
            f"the weights of {origin} are DINOv2's in their first form; convert them, or take the folder of "
            "facebook/dinov2-base as transformers writes it"
        )
    heads = heads if heads is not None else max(1, found_width // HEAD_WIDTH)
    if heads < 1 or found_width % heads:
        raise ModelError(
            f"heads={heads} does not divide the width {found_width} of {origin}; pass another heads="
        )
    depth = 1 + max(
        (int(name.split(".")[1]) for name in state if name.startswith("blocks.")), default=0
    )
    net = DinoTransformer(found_width, depth, heads, found_patch, (side, side))
    _copy(net, state, origin)
    return net


def _copy(net: DinoTransformer, state: Mapping[str, Tensor], origin: str) -> None:
    expected = net.state_dict()
    problems = []
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    for title, names in (
        ("missing", missing),
        ("unexpected", unexpected),
        ("other shape", misshapen),
    ):
        if names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            problems.append(f"{title}: {', '.join(names[:4])}{more}")
    if problems:
        raise ModelError(
            f"the weights of {origin} do not make a whole DINO vision transformer ({'; '.join(problems)}); "
            "download the file again, or choose a DINO ViT's"
        )
    net.load_state_dict({name: value.float() for name, value in state.items()})
