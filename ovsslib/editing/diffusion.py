"""Painting into a mask with a latent diffusion model, through diffusers' inpainting pipelines
(extra `edit`).

The default is Stable Diffusion 2's inpainting model (Rombach et al. 2022, "High-Resolution Image
Synthesis with Latent Diffusion Models"). Weights are read from a local folder or from the Hugging
Face cache; they are fetched only if asked for. The pipeline runs as its authors ship it, its safety
checker included.
"""

import inspect
import math
import os
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HFValidationError
from PIL import Image

from ovsslib.errors import (
    ImageError,
    MemoryBudgetError,
    MissingPackageError,
    ModelError,
    RecipeError,
)

DEFAULT_MODEL = "stabilityai/stable-diffusion-2-inpainting"
COMMUNITY_COPY = "sd2-community/stable-diffusion-2-inpainting"
"""A copy of the default model, which its authors took off the hub in November 2025. The people who
keep it are not Stability AI."""

_PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_NATIVE_SIDE = 512  # of models that do not say what they were trained at
_GUIDANCE = 7.5
_LONGEST = 2  # longest side worked at, in native sides: more costs memory and repeats objects


@dataclass(frozen=True, eq=False)
class Inpainter:
    """A diffusers inpainting pipeline, ready to paint.

    Attributes:
        pipeline: any pipeline of diffusers that is called with prompt, image and mask_image (Stable
            Diffusion, SDXL, SD 3, Flux, ...); of the other arguments it gets those it has. Its
            settings are the user's: load one yourself to change its scheduler or its safety
            checker.
        name: model id or folder, for messages.
    """

    pipeline: Any
    name: str = ""

    @property
    def native_side(self) -> int:
        """Side in pixels of the pictures that the model was trained on."""
        for part in ("unet", "transformer"):
            config = getattr(getattr(self.pipeline, part, None), "config", None)
            cells = getattr(config, "sample_size", None)
            if isinstance(cells, int):
                return cells * self._latent
        cells = getattr(self.pipeline, "default_sample_size", None)
        return cells * self._latent if isinstance(cells, int) else _NATIVE_SIDE

    def paint(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        prompt: str,
        negative_prompt: str = "",
        seed: int = 0,
        steps: int = 30,
        guidance: float = _GUIDANCE,
        short_side: int | None = None,
        progress: bool = True,
    ) -> np.ndarray:
        """Paint a masked region anew.

        The picture is scaled to the size the model was trained at (at most twice that for the
        longer side), padded at the right and below to whole latent cells, painted, and brought back
        to its own size.

        Args:
            image: (H, W, 3) uint8 RGB.
            mask: (H, W) bool, True where to paint.
            prompt, negative_prompt: what to paint, what to avoid (not every pipeline can).
            seed: of the noise; drawn on the CPU, so that it is the same for every device.
            steps: denoising steps. More than about 50 change little.
            guidance: how closely the prompt is followed (classifier-free guidance; 1: not at all).
            short_side: pixels of the shorter side to work at; None: the model's own size.
            progress: show a bar.

        Returns:
            (H, W, 3) uint8 RGB. The pipeline passes everything through its autoencoder, so pixels
            outside the mask are only nearly the same: blend the result into the picture
            (:func:`ovsslib.editing.edits.blend`).

        Raises:
            ImageError: an empty mask, or one of another size.
            RecipeError: a setting is out of range, or the pipeline has nothing like it.
            ModelError: the pipeline's safety checker withheld the picture, or it gave no numbers.
            MemoryBudgetError: the pictures do not fit into the memory.
        """
        if mask.shape != image.shape[:2]:
            raise ImageError(
                f"the mask must be {image.shape[:2]} like the picture, not {mask.shape}"
            )
        if not mask.any():
            raise ImageError("the mask is empty: it marks no pixel, so there is nothing to paint")
        self._check_settings(seed, steps, guidance, short_side)
        picture, hole, size = self._prepared(image, mask, short_side or self.native_side)
        further = self._further(picture.shape[:2], negative_prompt, steps, guidance, seed)
        if hasattr(self.pipeline, "set_progress_bar_config"):
            self.pipeline.set_progress_bar_config(disable=not progress, desc="painting")
        try:
            output = self.pipeline(
                prompt=prompt,
                image=Image.fromarray(picture),
                mask_image=Image.fromarray(hole),
                **further,
            )
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise MemoryBudgetError(
                f"painting at {picture.shape[1]} x {picture.shape[0]} pixels ran out of memory; "
                f"lower short_side (now {short_side or self.native_side}), or use "
                "precision='fp16' on a GPU"
            ) from error
        painted = self._checked(output, seed)
        painted = np.rint(255 * painted[: size[0], : size[1]]).astype(np.uint8)
        return _resized(painted, image.shape[:2])

    @property
    def _latent(self) -> int:
        """Pixels of a latent cell's side."""
        return int(getattr(self.pipeline, "vae_scale_factor", 8))

    @property
    def _cell(self) -> int:
        """Sides must be multiples of this: a latent cell, two where a transformer patches them, and at least
        diffusers' 8 pixels.
        """
        patched = getattr(self.pipeline, "transformer", None) is not None
        return int(np.lcm(8, self._latent * (2 if patched else 1)))

    def _further(
        self, size: tuple[int, int], negative_prompt: str, steps: int, guidance: float, seed: int
    ) -> dict[str, Any]:
        """Those further arguments that the pipeline has. RecipeError for one that was asked for and it has not."""
        wished = {
            "negative_prompt": negative_prompt,
            "height": size[0],
            "width": size[1],
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "generator": torch.Generator("cpu").manual_seed(seed),
            "output_type": "np",
        }
        name = self.name or type(self.pipeline).__name__
        parameters = inspect.signature(self.pipeline.__call__).parameters
        anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        further = {key: value for key, value in wished.items() if key in parameters or anything}
        missing = [
            k for k in ("num_inference_steps", "generator", "output_type") if k not in further
        ]
        if missing:  # without them seed and steps would be ignored, or the picture's range unknown
            raise RecipeError(
                f"{name} takes no {missing[0]}; choose an inpainting pipeline of diffusers"
            )
        # Flux has the argument and follows it under a second kind of guidance only, which nobody asked for here
        ignored = "negative_prompt" not in further or "true_cfg_scale" in parameters
        if ignored:
            further.pop("negative_prompt", None)
            if negative_prompt:
                raise RecipeError(
                    f"{name} follows no negative prompt ({negative_prompt!r}): leave it out, and say in the "
                    "prompt what is to be there instead"
                )
        if guidance != _GUIDANCE and "guidance_scale" not in further:
            raise RecipeError(f"{name} has no guidance ({guidance}): leave it out")
        # some repaint only in part by default, and would let the object shine through
        strength = parameters.get("strength")
        if strength is not None and isinstance(strength.default, float) and strength.default < 0.99:
            further["strength"] = 1.0
        return further

    def _check_settings(
        self, seed: int, steps: int, guidance: float, short_side: int | None
    ) -> None:
        if seed < 0 or steps < 1 or not 0 <= guidance < math.inf:
            raise RecipeError(
                f"seed={seed}, steps={steps}, guidance={guidance}: seed and guidance are at least "
                "0, steps 1"
            )
        if short_side is not None and short_side < self._cell:
            raise RecipeError(f"short_side={short_side} must be at least {self._cell} pixels")

    def _prepared(
        self, image: np.ndarray, mask: np.ndarray, short_side: int
    ) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        """Picture and mask (0 or 255) for the model, and their (height, width) before padding."""
        height, width = image.shape[:2]
        scale = min(short_side / min(height, width), _LONGEST * short_side / max(height, width))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        # a pixel that the mask touches at all is painted, so that no small mask vanishes
        hole = np.uint8(255) * (_resized(mask.astype(np.float32), size) > 0)
        below, right = (-side % self._cell for side in size)
        picture = np.pad(_resized(image, size), ((0, below), (0, right), (0, 0)), mode="edge")
        return picture, np.pad(hole, ((0, below), (0, right)), mode="edge"), size

    def _checked(self, output: Any, seed: int) -> np.ndarray:
        if any(getattr(output, "nsfw_content_detected", None) or ()):
            raise ModelError(
                f"the safety checker of {self.name or 'the pipeline'} withheld the picture of "
                f"seed {seed}; try another seed or another prompt"
            )
        painted = np.asarray(output.images[0], dtype=np.float32)
        if not np.isfinite(painted).all():
            raise ModelError(
                f"{self.name or 'the pipeline'} gave values that are no numbers; use "
                "precision='fp32'"
            )
        return painted


def load_inpainter(
    model: str | os.PathLike = DEFAULT_MODEL,
    device: str = "auto",
    precision: str = "auto",
    save_memory: bool = True,
    download: bool = False,
    **settings: Any,
) -> Inpainter:
    """Load an inpainting pipeline.

    Args:
        model: a folder in diffusers' layout (with `model_index.json`), or a model id of the Hugging
            Face hub, which is looked up in the local cache.
        device: "cpu", "cuda", "cuda:N", or "auto": cuda if there is one.
        precision: "fp32", "fp16", "bf16", or "auto": fp16 on CUDA, fp32 on the CPU.
        save_memory: compute attention in slices and the autoencoder in tiles; on CUDA hold in the
            GPU's memory only the part that is at work.
        download: fetch the model from the hub if it is not in the cache.
        settings: handed on to the pipeline's `from_pretrained`; nothing is set by default, so the
            safety checker stays as the model's authors ship it.

    Raises:
        ModelError: the model cannot be found or read; the message says what to fetch and where to
            put it.
        MissingPackageError: diffusers is not installed.
        RecipeError: unknown device or precision.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    on_gpu = device.startswith("cuda")
    if precision == "auto":
        precision = "fp16" if on_gpu else "fp32"
    if precision not in _PRECISIONS:
        raise RecipeError(f"unknown precision {precision!r}; known: auto, {', '.join(_PRECISIONS)}")
    if device != "cpu" and not (on_gpu and torch.cuda.is_available()):
        raise RecipeError(f"no device {device!r} here; use 'cpu'")
    _require_packages()
    source = _source(model, download)
    try:
        from diffusers import AutoPipelineForInpainting

        pipeline = AutoPipelineForInpainting.from_pretrained(
            source,
            dtype=_PRECISIONS[precision],
            local_files_only=not download,
            use_safetensors=True,  # pickled weights could run code
            **settings,
        )
    except Exception as error:
        # diffusers, transformers and the hub's client raise many kinds; all mean the same here
        raise ModelError(_not_found(model, download, error)) from error
    if save_memory:
        if hasattr(pipeline, "enable_attention_slicing"):
            pipeline.enable_attention_slicing()
        if hasattr(pipeline, "vae") and hasattr(pipeline.vae, "enable_tiling"):
            pipeline.vae.enable_tiling()
    if on_gpu and save_memory:
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)
    return Inpainter(pipeline, str(model))


def inpainter_for(model: str | os.PathLike | Inpainter) -> Inpainter:
    """The inpainter itself, or the one of a model id or folder, kept from the last call. Errors as
    :func:`load_inpainter`."""
    return model if isinstance(model, Inpainter) else _kept(str(model))


@lru_cache(maxsize=1)
def _kept(model: str) -> Inpainter:
    return load_inpainter(model)


def _require_packages() -> None:
    """Looks for the packages without importing them, which takes seconds."""
    missing = [name for name in ("diffusers", "transformers", "accelerate") if not find_spec(name)]
    if missing:
        raise MissingPackageError(
            f"painting needs {' and '.join(missing)}; install with: pip install 'ovsslib[edit]'. "
            "recolour, blur, grey_out and background with a colour or a picture work without"
        )


def _source(model: str | os.PathLike, download: bool) -> str:
    """What `from_pretrained` gets: a folder or an id. Raises ModelError if neither is there."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise ModelError(
                f"{folder} is not a model folder of diffusers: it has no model_index.json; name "
                "the folder that has it, with unet/, vae/, text_encoder/ and tokenizer/ beside it"
            )
        return str(folder)
    if isinstance(model, os.PathLike) or folder.is_absolute() or str(model).count("/") > 1:
        raise ModelError(_not_found(model, False, f"there is no folder {folder}"))
    if download or _is_cached(str(model)):
        return str(model)
    if str(model) == DEFAULT_MODEL and _is_cached(COMMUNITY_COPY):
        return COMMUNITY_COPY
    raise ModelError(_not_found(model, False, f"{HF_HUB_CACHE} has no model of this name"))


def _is_cached(model: str) -> bool:
    try:
        return isinstance(try_to_load_from_cache(model, "model_index.json"), str)
    except HFValidationError:  # no name that a model could have
        return False


def _not_found(model: str | os.PathLike, download: bool, error: object) -> str:
    reason = " ".join(str(error).split())[:300].rstrip(".")
    source = str(model)
    note = ""
    if source == DEFAULT_MODEL:
        source = COMMUNITY_COPY
        note = (
            f" Stability AI took {DEFAULT_MODEL} off the hub; {COMMUNITY_COPY} is a copy kept by "
            "others. Any other inpainting model that diffusers can load will do as well."
        )
    elif Path(model).is_absolute() or isinstance(model, os.PathLike) or source.count("/") != 1:
        source = COMMUNITY_COPY
    tried = "on the hub" if download else "in the local cache (nothing is downloaded unasked)"
    return (
        f"the inpainting model {str(model)!r} was not found as a folder or {tried}: {reason}. "
        f"To get one, on a machine with network: hf download {source} --local-dir inpainting, "
        "put that folder anywhere on this machine and name it: "
        f"model='path/to/inpainting', or --inpainter path/to/inpainting.{note}"
    )


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W[, 3]) scaled to (height, width): area means to shrink, cubic or linear to enlarge."""
    if picture.shape[:2] == size:
        return picture
    shrinks = size[0] < picture.shape[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC if picture.ndim == 3 else cv2.INTER_LINEAR
    return cv2.resize(picture, size[::-1], interpolation=how)
