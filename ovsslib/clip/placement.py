"""Where a network runs, and what it computes in: float32, or half precision where the products are made.

In "bf16" a backbone's vision tower multiplies in bfloat16 and adds in float32: weights of convolutions and linear
layers and what enters them have 8 bits, while the residual stream, layer normalisation, positions and everything that
the stages do with projections keep float32. The text tower stays in float32: it is asked once per list of words. In
"fp16" everything is in float16, as OpenAI's own code runs on a GPU; only layer normalisation is in float32.
"""

from typing import Any

import torch
from torch import nn

from ovsslib.errors import ModelError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Type of the products."""
AUTO = "auto"
"""The fastest precision that this machine computes in hardware; what is chosen is the backbone's `precision`."""


def check_device(device: str | torch.device) -> torch.device:
    """The device, if this machine has it. Raises ModelError that names the ones to choose from."""
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError):
        raise ModelError(f"device={device!r}: choose 'cpu', 'cuda', 'cuda:N' or 'mps'") from None
    here = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not here.get(device.type, False):
        raise ModelError(
            f"device={str(device)!r}: this PyTorch sees no such device; use "
            f"{' or '.join(repr(name) for name, there in here.items() if there)}"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"device={str(device)!r}: there are {torch.cuda.device_count()} CUDA devices, from 0"
        )
    return device


def check_precision(precision: str, device: torch.device) -> str:
    """One of `PRECISIONS`: the one that is asked for, or what "auto" means on a device.

    "auto" is fp16 on CUDA, bf16 on a CPU that multiplies bfloat16 in hardware (AVX-512 BF16, AMX), fp32 elsewhere.
    Raises ModelError for another name.
    """
    if precision == AUTO:
        if device.type == "cuda":
            return "fp16"
        return "bf16" if device.type == "cpu" and multiplies_bfloat16() else "fp32"
    if precision not in PRECISIONS:
        raise ModelError(f"precision={precision!r}: choose one of {', '.join((*PRECISIONS, AUTO))}")
    return precision


def multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; elsewhere it is slower than float32."""
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in asked)


def place(model: nn.Module, device: torch.device, precision: str) -> nn.Module:
    """Move a CLIP, in place, to a device and a precision, frozen; weights of the products alone in bf16."""
    dtype = PRECISIONS[precision]
    if precision != "bf16":
        return model.to(device, dtype).eval().requires_grad_(False)
    model = model.to(device, torch.float32).eval().requires_grad_(False)
    visual: Any = model.visual
    for module in visual.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.MultiheadAttention):
            module.to(dtype)
    return model
