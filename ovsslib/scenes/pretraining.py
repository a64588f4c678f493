"""Pretraining of SceneCLIP: a small CLIP learns Scenes from captions alone, with CLIP's contrastive loss.

No mask and no label enters: :mod:`ovsslib.scenes.training_data` hands out pictures and captions. The model is trained on
pictures of half its size with patches of half its size, which on the 2x2 average of a picture is the same function
(:func:`~ovsslib.clip.sceneclip.enlarge_patches`). Early training sees a quarter of the patches, or four small pictures
side by side; the last part of the run sees whole pictures, and mosaics still.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ovsslib import paths
from ovsslib.clip.checkpoints import check_file
from ovsslib.clip.sceneclip import (
    coarsen_patches,
    enlarge_patches,
    load_sceneclip_state,
    save_sceneclip_state,
    shrink_patches,
    token_counts,
)
from ovsslib.errors import DataError, ModelError
from ovsslib.scenes.forward import TokenMix, encode_image, encode_text, sharpen_blocks
from ovsslib.scenes.objective import contrastive_loss, learning_rate, to_pixels, tokenise
from ovsslib.scenes.optimiser import make_optimisers
from ovsslib.scenes.training_data import training_loader
from ovsslib.scenes.training_run import TrainingRun


@dataclass(frozen=True)
class PretrainingSettings:
    """Everything that decides what is learnt; `data/models/sceneclip.yaml` explains the choices.

    Attributes:
        model: open_clip's configuration of the finished model.
        seed: of the pictures, their textures, and all random choices.
        held_out_seed: world of the pictures that measure the held-out loss.
        start: shipped weights to start from ("models/.../model.safetensors"), None for random ones.
        shrink: pictures and patches are smaller by this factor while training.
        steps: of one batch each. warmup: of these.
        context: tokens of a caption that are read.
        mosaic, mosaic_share: in this share of the steps the image tower sees mosaic x mosaic pictures of the batch side
            by side as one, and has to answer for each of them from its own patches (see forward.encode_image; after CLIM,
            Wu et al., AAAI 2024).
        final_share: last part of the run, without patch dropout. final_lr: its peak, as a share of lr.
        mix, final_mix: see TokenMix.
        sharpen, sharpen_at: block number -> factor by which its attention scores grow, once, at this share of the run
            (see forward.sharpen_blocks).
        centre: numbers of the blocks whose patches' mean query and mean key are taken out of the biases of the finished
            weights.
        text_only: the image tower stays as `start` has it, to the bit; only the text tower learns.
        wordings: captions of a crop in the words of :mod:`ovsslib.scenes.wordings`, 0 for one plain caption.
        anchor: weight of a term that keeps the features of captions that the starting weights could read where they were
            (mean of 1 - cosine).
    """

    model: dict[str, Any]
    seed: int = 1
    held_out_seed: int = 2
    start: str | None = None
    shrink: int = 2
    steps: int = 3000
    batch: int = 192
    crops: int = 3
    context: int = 32
    lr: float = 1e-3
    warmup: int = 60
    weight_decay: float = 0.05
    patch_dropout: float = 0.75
    mosaic: int = 2
    mosaic_share: float = 0.0
    final_share: float = 0.15
    final_lr: float = 0.3
    mix: TokenMix = field(default_factory=TokenMix)
    final_mix: TokenMix = field(default_factory=TokenMix)
    sharpen: dict[int, float] = field(default_factory=dict)
    sharpen_at: float = 0.7
    centre: tuple[int, ...] = ()
    text_only: bool = False
    wordings: int = 0
    anchor: float = 0.0
    bfloat16: bool = True
    threads: int = 1
    workers: int = 1
    checkpoint_seconds: float = 180.0

    def __post_init__(self) -> None:
        size, patch = self.model["vision_cfg"]["image_size"], self.model["vision_cfg"]["patch_size"]
        if size % patch or patch % self.shrink:
            raise DataError(
                f"image_size {size}, patch_size {patch}, shrink {self.shrink}: each must divide the one before"
            )
        if not 0 <= self.patch_dropout < 1 or not 0 <= self.final_share <= 1:
            raise DataError(
                f"patch_dropout {self.patch_dropout} and final_share {self.final_share} are shares, 0 to 1"
            )
        if (self.text_only or self.anchor) and not self.start:
            raise DataError(
                f"text_only {self.text_only} and anchor {self.anchor} need weights to start from: set `start`"
            )
        if not 0 <= self.mosaic_share <= 1 or self.mosaic < 2:
            raise DataError(
                f"mosaic {self.mosaic} must be 2 or more, mosaic_share {self.mosaic_share} is a share, 0 to 1"
            )
        if self.mosaic_share and (size // patch % self.mosaic or self.batch % self.mosaic**2):
            raise DataError(
                f"mosaic {self.mosaic} must divide the grid's side of {size // patch} patches, and its square the "
                f"batch of {self.batch}; take another, or mosaic_share 0 for none"
            )

    @property
    def size(self) -> int:
        """Side of the training pictures in pixels."""
        return self.model["vision_cfg"]["image_size"] // self.shrink


def make_model(settings: PretrainingSettings) -> nn.Module:
    """The model in its training size: random weights by the settings' seed, or the start weights."""
    config = json.loads(json.dumps(settings.model))
    vision = config["vision_cfg"]
    vision["image_size"] = settings.size
    vision["patch_size"] //= settings.shrink
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = open_clip.CLIP(**config)
        if settings.start:
            _start_from(model, paths.data(settings.start), settings.shrink)
    if settings.text_only:
        model.visual.requires_grad_(False)
    return model


def _start_from(model: Any, file: Path, shrink: int) -> None:
    """Load start weights; token rows they never trained keep the model's random ones."""
    state, kept = load_sceneclip_state(file)
    patch = model.visual.conv1.kernel_size[0]
    state = coarsen_patches(state, patch * shrink // state["visual.conv1.weight"].shape[-1])
    state = shrink_patches(state, shrink)
    table = model.token_embedding.weight.detach().clone()
    table[kept] = state["token_embedding.weight"][kept]
    state["token_embedding.weight"] = table
    model_state = model.state_dict()
    for key, value in state.items():
        if key not in model_state or model_state[key].shape != value.shape:
            raise ModelError(
                f"{file} does not fit the settings' model: {key} is {tuple(value.shape)}"
            )
    model.load_state_dict(state, strict=False)


class Trainer(TrainingRun):
    """One run in a folder; see :class:`~ovsslib.scenes.training_run.TrainingRun`."""

    told = ("images",)
    counted = ("images", "token_counts", "sharpened")
    settings: PretrainingSettings
    settings_type = PretrainingSettings
    makers = dict.fromkeys(("mix", "final_mix"), lambda values: TokenMix(**values))

    def __init__(
        self, settings: PretrainingSettings, out: Path, device: str | torch.device = "cpu"
    ) -> None:
        start = paths.data(settings.start) if settings.start else None
        super().__init__(settings, out, check_file(start) if start else "", device)
        self.model = make_model(settings).to(self.device)
        self.optimisers = make_optimisers(self.model, settings.lr, settings.weight_decay)
        self.stateful = {"model": self.model}
        self.stateful |= {f"optimiser {i}": part for i, part in enumerate(self.optimisers)}
        self.images, self.sharpened = 0, not settings.sharpen
        words = cast("int", self.model.vocab_size)  # open_clip's models are not typed
        self.token_counts = torch.zeros(words, dtype=torch.int64)
        for token, count in (token_counts(start) if start else {}).items():
            self.token_counts[token] = count  # what the start has read counts as well
        self.known_tokens = torch.zeros(words, dtype=torch.bool)
        self.teacher: nn.Module | None = None
        if start and (settings.text_only or settings.anchor):
            self.known_tokens[load_sceneclip_state(start)[1]] = True
            self.known_tokens[0] = True  # padding
        if settings.anchor:
            self.teacher = copy.deepcopy(self.model).requires_grad_(False)
            del self.teacher.visual
        self.batches: Iterator[tuple[Tensor, list[str]]] = iter(())

    def run(self, steps: int, minutes: float | None = None) -> None:
        """As :meth:`TrainingRun.run`, on the settings' pictures and captions."""
        s = self.settings
        self.batches = iter(
            training_loader(s.seed, s.batch, s.size, s.crops, self.step, s.workers, s.wordings)
        )
        super().run(steps, minutes)

    def rate(self, progress: float) -> float:
        """The learning rate of the next step, which has a second, lower arch at the end."""
        return learning_rate(self.settings, self.step, progress)

    def loss(self, progress: float, generator: torch.Generator) -> tuple[Tensor, list[float]]:
        """The contrastive loss of the next batch, and the number of pictures so far."""
        settings = self.settings
        images, captions = next(self.batches)
        final = progress >= 1 - settings.final_share
        mix = settings.final_mix if final else settings.mix
        tokens = tokenise(captions, settings.context)
        low = settings.bfloat16
        pixels = to_pixels(images, self.device)
        if not self.sharpened and progress >= settings.sharpen_at:
            sharpen_blocks(self.model, pixels[:32], settings.sharpen, low)
            self.sharpened = True
        texts = encode_text(self.model, tokens.to(self.device), low)
        tiled = torch.rand((), generator=generator).item() < settings.mosaic_share
        with torch.set_grad_enabled(not settings.text_only):
            features = encode_image(
                self.model,
                pixels,
                generator,
                mix,
                0.0 if final or tiled else settings.patch_dropout,
                low,
                settings.mosaic if tiled else 1,
            )
        weights = [1.0] if features.shape[1] == 1 else [1 - mix.foreign, mix.foreign]
        scale = self._scale()
        tellings = texts.split(len(images))  # several captions of every picture
        loss = sum(
            (contrastive_loss(features, telling, scale, weights) for telling in tellings),
            texts.new_zeros(()),
        ) / len(tellings)
        if self.teacher is not None:
            loss = loss + settings.anchor * self._moved(tokens, texts)
        self.token_counts += torch.bincount(tokens.flatten(), minlength=len(self.known_tokens))
        self.images += len(images)
        return loss, [self.images]

    def _scale(self) -> Tensor:
        """What cosines are multiplied by, which is learned as well."""
        return cast("Tensor", self.model.logit_scale).exp()

    def _moved(self, tokens: Tensor, texts: Tensor) -> Tensor:
        """Mean of 1 - cosine between a caption's feature now and at the start, over the captions readable at the start."""
        readable = self.known_tokens[tokens].all(dim=1).to(texts.device)
        if not bool(readable.any()):
            return texts.new_zeros(())
        with torch.no_grad():
            old = encode_text(
                cast(nn.Module, self.teacher),
                tokens.to(self.device)[readable],
                self.settings.bfloat16,
            )
        return (1 - (old * texts[readable]).sum(dim=1)).mean()

    @torch.no_grad()
    def held_out_loss(self, batches: int = 2) -> float:
        """The plain contrastive loss (no mix, no patch dropout) on pictures of a world that is never trained on."""
        settings = self.settings
        loader = training_loader(
            settings.held_out_seed, settings.batch, settings.size, 1, workers=0
        )
        total = 0.0
        for count, (images, captions) in enumerate(loader, start=1):
            tokens = tokenise(captions, settings.context).to(self.device)
            features = encode_image(
                self.model, to_pixels(images, self.device), torch.Generator(), low=settings.bfloat16
            )
            texts = encode_text(self.model, tokens, settings.bfloat16)
            total += contrastive_loss(features, texts, self._scale(), [1.0]).item()
            if count == batches:
                break
        return total / batches

    def finished(self) -> nn.Module:
        """A copy of the model in its training size, with the settings' blocks centred. The run itself can go on."""
        model, settings = copy.deepcopy(self.model), self.settings
        if settings.centre:
            loader = training_loader(
                settings.held_out_seed, settings.batch, settings.size, 1, workers=0
            )
            pixels = to_pixels(next(iter(loader))[0][:64], self.device)
            sharpen_blocks(model, pixels, dict.fromkeys(settings.centre, 1.0), settings.bfloat16)
        return model

    def export(self, file: Path) -> Path:
        """Write the finished weights in the finished model's size (see :mod:`ovsslib.clip.sceneclip`), and their
        open_clip configuration, so that the folder has the form of a shipped model's."""
        tqdm.write(f"held-out loss {self.held_out_loss():.4f}")
        weights = self.finished().state_dict()
        state = enlarge_patches(
            {key: value.detach().cpu() for key, value in weights.items()}, self.settings.shrink
        )
        token_mask = self.known_tokens | (self.token_counts > 0)
        token_mask[0] = (
            False  # padding stands behind the end of the text, where a causal tower never looks
        )
        kept = token_mask.nonzero()[:, 0]
        about = {**self.about(), "images": str(self.images)}
        save_sceneclip_state(file, state, kept, about, self.token_counts[kept])
        text = json.dumps(self.settings.model, indent=2) + "\n"
        paths.write_file(file.parent / "config.json", text.encode())
        return file
