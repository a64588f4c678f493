"""Weights of tiny guides: DINO of the test vectors, as transformers has it, and tiny models of other families."""

from pathlib import Path

import numpy as np
import pytest
import torch

VECTORS = Path(__file__).resolve().parent / "vectors"
DINO = np.load(VECTORS / "dino_tiny.npz")
STATE = {key[2:]: torch.from_numpy(DINO[key]).float() for key in DINO if key.startswith("w.")}


def vit_config(transformers, **changes):
    return transformers.ViTConfig(
        **{
            "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 128,
            "image_size": 32, "patch_size": 8, "layer_norm_eps": 1e-12, **changes,
        }
    )  # fmt: skip


def as_vit(transformers):
    """A real ViTModel that carries the vectors' weights."""
    model = transformers.ViTModel(vit_config(transformers), add_pooling_layer=False)
    state = model.state_dict()
    renamed = {
        "embeddings.cls_token": "cls_token", "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
        "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
        "layernorm.weight": "norm.weight", "layernorm.bias": "norm.bias",
    }  # fmt: skip
    for key in state:
        if key in renamed:
            state[key] = STATE[renamed[key]]
            continue
        _, layer, *part, kind = key.split(".")
        part = ".".join(part)
        ours = {
            "attention.o_proj": "attn.proj", "layernorm_before": "norm1", "layernorm_after": "norm2",
            "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
        }.get(part)  # fmt: skip
        if ours:
            state[key] = STATE[f"blocks.{layer}.{ours}.{kind}"]
        else:
            third = "qkv".index(part[len("attention.")])
            state[key] = STATE[f"blocks.{layer}.attn.qkv.{kind}"].chunk(3)[third]
    model.load_state_dict(state)
    return model.eval()


FAMILIES = {
    "dinov2": ("Dinov2Config", "Dinov2Model", 14, {"image_size": 56}),
    "dinov2 with registers": (
        "Dinov2WithRegistersConfig",
        "Dinov2WithRegistersModel",
        14,
        {"image_size": 56, "num_register_tokens": 4},
    ),
    "dinov3": (
        "DINOv3ViTConfig",
        "DINOv3ViTModel",
        16,
        {"image_size": 64, "num_register_tokens": 4},
    ),
}


def family(name: str):
    transformers = pytest.importorskip("transformers")
    config, model, patch, more = FAMILIES[name]
    values = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = getattr(transformers, model)(
            getattr(transformers, config)(patch_size=patch, **values, **more)
        ).eval()
        for weight in made.parameters():  # some start at zero or one
            torch.nn.init.normal_(weight, std=0.2)
    return made, patch
