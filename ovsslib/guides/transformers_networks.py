"""DINOv2 and DINOv3 as the package `transformers` computes them, read by hooks at the last block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ovsslib.errors import ModelError
from ovsslib.guides.reading import GuideReading
from ovsslib.guides.vit import interpolate_positions

#: `model_type` of a configuration -> name of the class.
CLASSES = {
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
}


class TransformersNetwork(nn.Module):
    """A `Dinov2Model`, `Dinov2WithRegistersModel` or `DINOv3ViTModel`, opened at its last block.

    model: an instance of one of these classes.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        parts: Any = model  # which have no declared types
        self.model = parts
        config = parts.config
        self.rotary = config.model_type == "dinov3_vit"
        self.blocks = parts.model.layer if self.rotary else parts.encoder.layer
        self.norm = parts.norm if self.rotary else parts.layernorm
        self.width, self.heads = config.hidden_size, config.num_attention_heads
        self.depth, self.patch = config.num_hidden_layers, config.patch_size
        if config.model_type == "dinov2":
            parts.embeddings.interpolate_pos_encoding = self._positions

    def _positions(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Position table (1, 1 + h * w, D). The released DINOv2 without registers has DINO's offset of 0.1, which
        `transformers` leaves out (2e-3 apart)."""
        table = self.model.embeddings.position_embeddings
        side = round((table.shape[1] - 1) ** 0.5)
        grid = (height // self.patch, width // self.patch)
        if grid == (side, side):
            return table
        return interpolate_positions(table[0], (side, side), grid).to(table.dtype)[None]

    def read(self, pixels: Tensor) -> GuideReading:
        """One pass over pictures (B, 3, H, W), normalised, with sides that are multiples of the patch."""
        last = self.blocks[-1]
        outputs: dict[str, Any] = {}

        def keep(name: str) -> Any:
            return lambda module, arguments, output: outputs.__setitem__(name, output)

        hooks = [
            getattr(last.attention, f"{name}_proj").register_forward_hook(keep(name))
            for name in ("q", "k", "v")
        ]
        hooks.append(
            last.register_forward_pre_hook(
                lambda module, arguments: outputs.__setitem__("input", arguments[0])
            )
        )
        try:
            output = self.model(pixels).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        grid = (pixels.shape[-2] // self.patch, pixels.shape[-1] // self.patch)
        return GuideReading(
            output,
            self.norm(outputs["input"]),
            outputs["q"],
            outputs["k"],
            outputs["v"],
            grid,
            self.heads,
            self.rotary,
        )


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """While weights are read from a folder, `transformers` draws no bar: it takes a second, and notebooks keep the bar."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def open_folder(folder: str, dtype: torch.dtype = torch.float32) -> TransformersNetwork:
    """A model that `save_pretrained` wrote. Nothing is fetched. Raises ModelError if it cannot be read."""
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        model_class = getattr(transformers, CLASSES[config.model_type])
        with no_progress_bars():
            model, report = model_class.from_pretrained(
                folder, local_files_only=True, dtype=dtype, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"the guide in {folder} cannot be read: {reason}; it needs config.json and model.safetensors of a "
            f"{' or '.join(CLASSES.values())}"
        ) from None
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"the guide in {folder} lacks weights: {', '.join(missing[:4])}; download it again"
        )
    return TransformersNetwork(model)
