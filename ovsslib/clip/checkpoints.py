"""Checkpoint files: read without executing code, hashed, unwrapped, checked to be finite."""

import hashlib
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ovsslib import paths
from ovsslib.clip.architectures import names_of_transformers, state_from_transformers
from ovsslib.errors import ModelError

_EXTRA_KEYS = ("input_resolution", "context_length", "vocab_size")
# What training code wraps a state dict in, and what compilers and wrappers put before its names.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "ema", "clip", "net")
_PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "clip.",
    "clip_model.",
    "backbone.",
    "net.",
    "ema.",
    "student.",
)
_ANCHORS = ("visual.class_embedding", "vision_model.embeddings.class_embedding")


def read_state_dict(file: Path) -> tuple[dict[str, Tensor], bool]:
    """Tensors of a checkpoint with open_clip's key names, and whether it is one of OpenAI's own.

    Wrappers (`{"model": ...}`), prefixes (`module.`, `_orig_mod.`, ...) and the key names of `transformers` are
    taken off. Executes no code of the file. Raises ModelError for a file that is damaged or holds no state dict.
    """
    try:
        if file.suffix == ".safetensors":
            state, openai = load_file(file), False
        elif is_torchscript(file):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                state, openai = torch.jit.load(file, map_location="cpu").state_dict(), True
        else:
            state, openai = torch.load(file, map_location="cpu", weights_only=True), False
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ModelError(_unreadable(file, error)) from None
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):  # no pickle at all: a web page, another format
            raise ModelError(_unreadable(file, "its content is not PyTorch's")) from None
        raise ModelError(
            f"{file} is refused, since reading it would execute code ({type(error).__name__}); "
            "convert it to safetensors where you trust it"
        ) from None
    tensors = _unwrapped(state)
    if tensors is None:
        raise ModelError(f"{file} holds no state dict (a mapping of names to tensors)")
    tensors = _without_prefix(tensors)
    openai = openai or all(key in tensors for key in _EXTRA_KEYS)
    tensors = {key: value for key, value in tensors.items() if key not in _EXTRA_KEYS}
    if names_of_transformers(tensors):
        tensors = state_from_transformers(tensors)
    return tensors, openai


def _unwrapped(state: Any, depth: int = 3) -> dict[str, Tensor] | None:
    """The mapping of names to tensors inside what training code saved, or None."""
    if not isinstance(state, Mapping):
        return None
    if state and all(isinstance(value, Tensor) for value in state.values()):
        return {str(key): value for key, value in state.items()}
    if depth:
        for name in _WRAPPERS:
            inner = _unwrapped(state.get(name), depth - 1)
            if inner is not None:
                return inner
    return None


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same without the prefixes of wrappers; names that have none stay out if others have one."""
    anchor = next((key for key in state for end in _ANCHORS if key.endswith(end)), None)
    if anchor is None:
        while prefix := next(
            (p for p in _PREFIXES if state and all(k.startswith(p) for k in state)), None
        ):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
        return state
    end = next(end for end in _ANCHORS if anchor.endswith(end))
    prefix = anchor.removesuffix(end)
    rest = prefix
    while rest:
        known = next((p for p in _PREFIXES if rest.startswith(p)), None)
        if known is None:  # no prefix that we know: leave the names for the message about keys
            return state
        rest = rest.removeprefix(known)
    return {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }


def load_state(net: torch.nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Copy a state dict into a model, whatever its precision.

    Raises ModelError that names missing, unexpected and misshapen keys, or one with a value that is not finite.
    """
    state = dict(state)
    expected = net.state_dict()
    scale = state.get("logit_scale")
    if (
        scale is not None and scale.numel() == 1
    ):  # no computation here reads it, and its shape varies
        state["logit_scale"] = (
            scale.reshape(expected["logit_scale"].shape) if "logit_scale" in expected else scale
        )
    state.pop("logit_bias", None) if "logit_bias" not in expected else None
    optional = {key for key in expected if key.endswith(("attn_mask", "logit_bias", "logit_scale"))}
    missing = [key for key in expected if key not in state and key not in optional]
    unexpected = [key for key in state if key not in expected and not key.endswith("attn_mask")]
    misshapen = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    problems = []
    for title, keys in (
        ("missing", missing),
        ("unexpected", unexpected),
        ("other shape", misshapen),
    ):
        if keys:
            more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
            problems.append(f"{title}: {', '.join(keys[:4])}{more}")
    if problems:
        raise ModelError(
            f"the weights of {origin} do not fit this architecture ({'; '.join(problems)}); choose the model name "
            "they belong to, with OpenAI's, open_clip's or transformers' key names"
        )
    for key, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(
                f"the weights of {origin} are damaged: {key} holds values that are not finite; fetch the file again, or "
                "take an earlier checkpoint"
            )
    net.load_state_dict(
        {key: value for key, value in state.items() if key in expected}, strict=False
    )


def is_torchscript(file: Path) -> bool:
    """Whether a file is a TorchScript archive, as OpenAI published."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(
            name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist()
        )


def _unreadable(file: Path, error: Exception | str) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f"cannot read the checkpoint {file}: {reason}; it is damaged, cut off, or no checkpoint"


def check_file(file: Path, sha256: str | None = None) -> str:
    """SHA-256 of a checkpoint. Raises ModelError if the file is missing or its hash is not the expected one."""
    if not paths.is_file(file):
        raise ModelError(
            f"there is no checkpoint at {file}; check the path, or give a pretrained tag"
        )
    summed = hashlib.sha256()
    try:
        with open(file, "rb") as stream:
            while block := stream.read(1 << 22):
                summed.update(block)
    except OSError as error:
        raise ModelError(f"cannot read the checkpoint {file}: {error.strerror}") from None
    digest = summed.hexdigest()
    if sha256 and digest != sha256:
        raise ModelError(
            f"{file} is damaged or another file: its SHA-256 is {digest}, expected {sha256}; download it again"
        )
    return digest
