"""Which CLIP a configuration describes, and whether this library computes it rightly.

A configuration is open_clip's (`model_cfg`) or that of `transformers` (`config.json`). Every setting that changes the
computation is either followed or refused by name; nothing is ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import open_clip
import torch
from torch import Tensor

from ovsslib.errors import ModelError, did_you_mean

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""CLIP's own normalisation, RGB, for pixel values in [0, 1] (mean and standard deviation)."""
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
VOCABULARY = 49408
"""Tokens of CLIP's byte-pair encoding, the one tokenizer that this library has."""

_ADVICE = "choose a ViT model of open_clip such as 'ViT-B-16-quickgelu' or 'ViT-L-14-quickgelu'"
# Settings that this library follows, whatever their value (dropout does nothing outside training).
_FOLLOWED_VISION = {
    "layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "ls_init_value", "patch_dropout",
    "no_ln_pre", "act_kwargs", "norm_kwargs", "output_tokens", "final_ln_after_pool", "timm_model_pretrained",
    "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop", "timm_drop_path", "attn_pooler_queries",
    "attn_pooler_heads",
}  # fmt: skip
_FOLLOWED_TEXT = {
    "context_length", "width", "heads", "layers", "mlp_ratio", "ls_init_value", "act_kwargs", "norm_kwargs",
    "output_tokens", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type", "final_ln_after_pool", "eos_id",
}  # fmt: skip
# Settings that must have this value, and what another one means.
_FIXED_VISION: dict[str, tuple[Any, str]] = {
    "timm_model_name": (None, "its image tower is a timm model (SigLIP, EVA, ViTamin, ...), not CLIP's transformer"),
    "attentional_pool": (False, "it pools by attention (CoCa), so there is no class token"),
    "pool_type": ("tok", "it does not pool the class token"),
    "pos_embed_type": ("learnable", "its positions are not CLIP's table"),
    "block_type": ((None, "default"), "its attention blocks are not CLIP's"),
    **{
        name: (False, "its attention blocks are not CLIP's")
        for name in ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")
    },
}  # fmt: skip
_FIXED_TEXT: dict[str, tuple[Any, str]] = {
    "hf_model_name": (None, "its text tower is a model of `transformers`"),
    "hf_tokenizer_name": (None, "its tokenizer is not CLIP's byte-pair encoding"),
    "tokenizer_mode": ((None, "clip"), "its tokenizer is not CLIP's byte-pair encoding"),
    "tokenizer_kwargs": ((None, {}), "its tokenizer is not CLIP's byte-pair encoding"),
    "vocab_size": (VOCABULARY, "its tokenizer is not CLIP's byte-pair encoding"),
    "embed_cls": (False, "its text tower has a class token (CoCa)"),
    "pool_type": (("argmax", "last", "first", "eos"), "the way it pools the text is unknown"),
    "no_causal_mask": ((False, True), "its text mask is unknown"),
    "proj_type": ("linear", "its text tower has no linear projection"),
    "proj_bias": ((False, True), "its text projection is unknown"),
    "pad_id": (0, "its padding is not CLIP's"),
    "block_type": ((None, "default"), "its text blocks are not CLIP's"),
    **{
        name: (False, "its text blocks are not CLIP's")
        for name in ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")
    },
}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """A CLIP that this library runs.

    Attributes:
        name: what it is called.
        config: open_clip's `model_cfg`, checked.
        mean, std: normalisation of its pixels, RGB, for values in [0, 1].
        activation_known: whether something says if its activation is QuickGELU.
    """

    name: str
    config: Mapping[str, Any]
    mean: tuple[float, float, float] = PIXEL_MEAN
    std: tuple[float, float, float] = PIXEL_STD
    activation_known: bool = field(default=True, compare=False)


def check_configuration(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """open_clip's `model_cfg` as keywords of `open_clip.CLIP`.

    Raises ModelError that names the setting which this library would not compute rightly.
    """
    known = {
        "embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "cast_dtype", "output_dict",
        "init_logit_scale", "nonscalar_logit_scale", "init_logit_bias", "multimodal_cfg",
    }  # fmt: skip
    for key in config:
        if key not in known:
            raise ModelError(
                f"model {name!r}: its configuration has an unknown entry {key!r}{did_you_mean(key, known)}"
            )
    if config.get("multimodal_cfg") is not None:
        raise ModelError(
            f"model {name!r} cannot be run rightly: it is a CoCa (multimodal_cfg); {_ADVICE}"
        )
    if config.get("init_logit_bias") is not None:
        raise ModelError(
            f"model {name!r} cannot be run rightly: it is a SigLIP (init_logit_bias); {_ADVICE}"
        )
    for part in ("embed_dim", "vision_cfg", "text_cfg"):
        if part not in config:
            raise ModelError(f"not an open_clip CLIP configuration: {name!r} has no {part!r}")
    for tower, fixed, followed in (
        ("vision_cfg", _FIXED_VISION, _FOLLOWED_VISION),
        ("text_cfg", _FIXED_TEXT, _FOLLOWED_TEXT),
    ):
        if not isinstance(config[tower], Mapping):
            raise ModelError(
                f"not an open_clip CLIP configuration: {tower} of {name!r} is {config[tower]!r}"
            )
        _check_tower(name, tower, config[tower], fixed, followed)
    layers = config["vision_cfg"].get("layers", 12)
    if not isinstance(layers, int):
        raise ModelError(
            f"model {name!r} cannot be run rightly: it is a ResNet (layers={layers}); {_ADVICE}"
        )
    # custom_text only says in which class open_clip keeps the same text tower
    return {
        k: v for k, v in config.items() if k not in ("custom_text", "multimodal_cfg", "cast_dtype")
    }


def _check_tower(
    name: str, tower: str, settings: Mapping[str, Any], fixed: Mapping[str, Any], followed: set[str]
) -> None:
    for key, value in settings.items():
        if key in followed:
            continue
        if key not in fixed:
            raise ModelError(
                f"model {name!r} cannot be run rightly: this library does not know what {tower}.{key}={value!r} "
                f"computes; {_ADVICE}"
            )
        wanted, why = fixed[key]
        allowed = wanted if isinstance(wanted, tuple) else (wanted,)
        if value not in allowed:
            raise ModelError(
                f"model {name!r} cannot be run rightly: {why} ({tower}.{key}={value!r}); {_ADVICE}"
            )


def build_model(
    config: Mapping[str, Any], quick_gelu: bool = False, name: str = "custom"
) -> open_clip.CLIP:
    """An open_clip model of a configuration mapping, with open_clip's random weights.

    Raises ModelError for a configuration that this library cannot run rightly.
    """
    settings = check_configuration(config, name)
    if quick_gelu:
        settings["quick_gelu"] = True
    try:
        return open_clip.CLIP(**settings)
    except (TypeError, KeyError, ValueError, AttributeError, RuntimeError) as error:
        raise ModelError(f"not an open_clip CLIP configuration: {error}") from None


def from_transformers(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """open_clip's `model_cfg` of a `config.json` of the `transformers` CLIP format.

    Raises ModelError for another model type, or settings that have no counterpart.
    """
    kind = config.get("model_type")
    if kind != "clip" or "vision_config" not in config or "text_config" not in config:
        raise ModelError(
            f"{name!r} is a {kind!r} of `transformers`, not a whole CLIP (model_type 'clip'); {_ADVICE}"
        )
    vision, text = dict(config["vision_config"]), dict(config["text_config"])
    acts = {vision.get("hidden_act", "quick_gelu"), text.get("hidden_act", "quick_gelu")}
    if len(acts) != 1 or not acts <= {"quick_gelu", "gelu"}:
        raise ModelError(
            f"model {name!r} cannot be run rightly: its activations are {sorted(acts)}; {_ADVICE}"
        )
    width, heads = vision.get("hidden_size", 768), vision.get("num_attention_heads", 12)
    text_width = text.get("hidden_size", 512)
    eps = {part.get("layer_norm_eps", 1e-5) for part in (vision, text)}
    norm = {"eps": eps.pop()} if eps != {1e-5} and len(eps) == 1 else None
    if len(eps) > 1:
        raise ModelError(
            f"model {name!r} cannot be run rightly: its towers have different layer_norm_eps; {_ADVICE}"
        )
    architecture = {
        "embed_dim": config.get("projection_dim", 512),
        "quick_gelu": acts == {"quick_gelu"},
        "vision_cfg": {
            "layers": vision.get("num_hidden_layers", 12),
            "width": width,
            "head_width": width // heads,
            "mlp_ratio": vision.get("intermediate_size", 4 * width) / width,
            "patch_size": vision.get("patch_size", 32),
            "image_size": vision.get("image_size", 224),
        },
        "text_cfg": {
            "context_length": text.get("max_position_embeddings", 77),
            "vocab_size": text.get("vocab_size", VOCABULARY),
            "width": text_width,
            "heads": text.get("num_attention_heads", 8),
            "layers": text.get("num_hidden_layers", 12),
            "mlp_ratio": text.get("intermediate_size", 4 * text_width) / text_width,
        },
    }
    if norm is not None:
        architecture["vision_cfg"]["norm_kwargs"] = architecture["text_cfg"]["norm_kwargs"] = norm
    return architecture


def names_of_transformers(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the key names of `transformers`' CLIP."""
    return "vision_model.embeddings.class_embedding" in state and "text_projection.weight" in state


_RENAMED = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
_PLACES = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "logit_scale": "logit_scale",
}
_NORMS = {
    "vision_model.pre_layrnorm": "visual.ln_pre", "vision_model.post_layernorm": "visual.ln_post",
    "text_model.final_layer_norm": "ln_final",
}  # fmt: skip
_TOWERS = {
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
    "text_model.encoder.layers.": "transformer.resblocks.",
}


def state_from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's state dict of one with the names of `transformers`' CLIP; unknown names are kept as they are."""
    renamed: dict[str, Tensor] = {}
    joined: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        if key.endswith("position_ids"):
            continue
        if key in _PLACES:
            renamed[_PLACES[key]] = value
        elif key == "visual_projection.weight":
            renamed["visual.proj"] = value.T.contiguous()
        elif key == "text_projection.weight":
            renamed["text_projection"] = value.T.contiguous()
        elif (norm := key.rpartition(".")[0]) in _NORMS:
            renamed[f"{_NORMS[norm]}.{key.rpartition('.')[2]}"] = value
        elif (tower := next((t for t in _TOWERS if key.startswith(t)), None)) is not None:
            number, _, rest = key.removeprefix(tower).partition(".")
            block = f"{_TOWERS[tower]}{number}"
            part, _, kind = rest.rpartition(".")
            if part.startswith("self_attn.") and part[-7:] in (
                "_q_proj",
                ".q_proj",
                ".k_proj",
                ".v_proj",
            ):
                joined.setdefault(f"{block}.attn.in_proj_{kind}", {})[part[-6]] = value
            else:
                renamed[f"{block}.{_RENAMED.get(part, part)}.{kind}"] = value
        else:
            renamed[key] = value
    for key, parts in joined.items():
        if set(parts) == {"q", "k", "v"}:
            renamed[key] = torch.cat([parts["q"], parts["k"], parts["v"]])
    return renamed
