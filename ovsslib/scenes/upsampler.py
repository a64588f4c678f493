"""A LoftUp for SceneCLIP, trained without labels: `ovss pretrain loftup-sceneclip`.

Target: what SceneCLIP itself says when it looks closer. A 224-pixel window is enlarged and read in
windows of the tower's own size; their patch features, averaged where windows overlap, make a grid that is
`zoom` times finer. LoftUp sees the coarse grid and the window as it is, and learns to give the fine grid: the loss
is one minus the cosine, so the output lives in CLIP's text-aligned space by training. No word, caption, mask or
label is used.
"""

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ovsslib import paths
from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import load_backbone
from ovsslib.errors import DataError
from ovsslib.images.pictures import normalise
from ovsslib.networks.loftup import LoftUp
from ovsslib.recipe import Recipe
from ovsslib.scenes.crops import training_crops
from ovsslib.scenes.training_run import settings_from
from ovsslib.segmenter import Segmenter


@dataclass(frozen=True)
class UpsamplerSettings:
    """Everything that decides what is learnt.

    Attributes:
        model: embedded model whose features are upsampled.
        recipes: recipes whose patch features are learnt, in turn: a LoftUp for several attentions.
        seed: world of the pictures.
        windows: training windows, drawn and read once before training.
        zoom: the target's grid is this many times finer.
        stride: between the windows on the enlarged picture, in patches of the tower.
        epochs, batch, lr, weight_decay: of AdamW with a linear warm-up (5%) and a cosine to zero.
    """

    model: str = "sceneclip"
    recipes: tuple[str, ...] = ("maskclip", "thesis-baseline")
    seed: int = 21
    windows: int = 3000
    zoom: int = 2
    stride: int = 7
    epochs: int = 8
    batch: int = 24
    lr: float = 1e-3
    weight_decay: float = 0.01
    threads: int = 2
    checkpoint_seconds: float = 120.0

    def __post_init__(self):
        object.__setattr__(self, "recipes", tuple(self.recipes))
        if (
            min(self.windows, self.zoom, self.stride, self.epochs, self.batch) < 1
            or not self.recipes
        ):
            raise DataError(
                f"windows {self.windows}, zoom {self.zoom}, stride {self.stride}, epochs {self.epochs}, "
                f"batch {self.batch} must be 1 or more, and there must be a recipe"
            )


def read_upsampler_settings(path: Path) -> UpsamplerSettings:
    """Settings from a YAML file. Raises DataError for unknown names and values out of range."""
    return settings_from(path, UpsamplerSettings)


@dataclass
class FeaturePairs:
    """Training material: everything LoftUp sees and shall give, in half precision.

    Attributes:
        coarse: (N, D, h, w) patch features of the window as it is.
        fine: (N, D, zoom * h, zoom * w) unit features of the closer look.
        pictures: (N, 3, H, W) uint8 RGB windows.
    """

    coarse: Tensor
    fine: Tensor
    pictures: Tensor


@torch.no_grad()
def closer_look(segmenter: Segmenter, pixels: Tensor, zoom: int, stride: int) -> Tensor:
    """Unit patch features (D, zoom * h, zoom * w) of a window (3, H, W) enlarged `zoom` times.

    Windows of the tower's own size are read, `stride` patches apart, and their unit features averaged where they
    overlap.
    """
    backbone = segmenter.backbone
    patch = backbone.patch_size
    enlarged = F.interpolate(pixels[None], scale_factor=zoom, mode="bicubic")[0]
    side = backbone.image_size[0]
    rows, columns = (size // patch for size in enlarged.shape[-2:])
    total = torch.zeros(backbone.dim, rows, columns)
    count = torch.zeros(rows, columns)
    cells = side // patch
    for top in _starts(rows, cells, stride):
        for left in _starts(columns, cells, stride):
            crop = enlarged[:, top * patch : top * patch + side, left * patch : left * patch + side]
            features = segmenter.features(crop[None])[0]
            view = slice(top, top + cells), slice(left, left + cells)
            total[:, view[0], view[1]] += F.normalize(features, dim=-1).permute(2, 0, 1).cpu()
            count[view] += 1
    return F.normalize(total / count, dim=0)


def _starts(cells: int, window: int, stride: int) -> list[int]:
    starts = list(range(0, max(cells - window, 0) + 1, stride))
    if starts[-1] != cells - window:
        starts.append(cells - window)
    return starts


@torch.no_grad()
def feature_pairs(
    backbone: Backbone, settings: UpsamplerSettings, seed: int, windows: int, progress: bool = True
) -> FeaturePairs:
    """Draw pictures of the world `seed` and read them coarse and close; window i uses recipe i modulo their number."""
    segmenters = [
        Segmenter(backbone, Recipe.named(name, "scenes").but({"pamr": False, "densecrf": False}))
        for name in settings.recipes
    ]
    coarse, fine, pictures = [], [], []
    side = backbone.image_size[0]
    stream = training_crops(seed, crop_size=side, crops_per_picture=2)
    for index in tqdm(range(windows), desc="features", unit="window", disable=not progress):
        image, _ = next(stream)
        pixels = normalise(image).to(backbone.device)
        segmenter = segmenters[index % len(segmenters)]
        coarse.append(segmenter.features(pixels[None])[0].permute(2, 0, 1).cpu().half())
        fine.append(closer_look(segmenter, pixels, settings.zoom, settings.stride).half())
        pictures.append(torch.from_numpy(image).permute(2, 0, 1))
    return FeaturePairs(torch.stack(coarse), torch.stack(fine), torch.stack(pictures))


def upsampling_loss(net: LoftUp, pairs: FeaturePairs, chosen: Tensor) -> Tensor:
    """Mean of one minus the cosine between LoftUp's output and the closer look, for the chosen windows."""
    target = pairs.fine[chosen].float()
    guidance = F.interpolate(
        pairs.pictures[chosen].float() / 255,
        size=target.shape[-2:],
        mode="bilinear",
        align_corners=False,
    )
    output = net(pairs.coarse[chosen].float(), guidance)
    return (1 - F.cosine_similarity(output, target, dim=1)).mean()


@torch.no_grad()
def interpolation_loss(pairs: FeaturePairs) -> float:
    """The same loss for bilinear interpolation of the coarse features: what LoftUp has to beat."""
    size = pairs.fine.shape[-2:]
    output = F.interpolate(pairs.coarse.float(), size=size, mode="bilinear", align_corners=False)
    return float((1 - F.cosine_similarity(output, pairs.fine.float(), dim=1)).mean())


def pretrain_upsampler(
    settings: UpsamplerSettings,
    out: Path,
    device: str | torch.device = "cpu",
    resume: bool = True,
    progress: bool = True,
    backbone: Backbone | None = None,
) -> dict[str, Any]:
    """Train a LoftUp in the folder `out`; writes `model.safetensors` (float32) and `card.json`.

    Batches are a function of the seed and the step, and a checkpoint holds everything else, so a killed run goes on
    to the same weights. Returns the card: losses before and after, on held-out pictures, and of interpolation.
    """
    torch.set_num_threads(settings.threads)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    backbone = backbone or load_backbone(settings.model, device=device)
    started = time.time()
    pairs = feature_pairs(backbone, settings, settings.seed, settings.windows, progress)
    held_out = feature_pairs(
        backbone, settings, settings.seed + 1, max(8, settings.windows // 20), progress
    )
    torch.manual_seed(settings.seed)
    net = LoftUp(backbone.dim).train()
    optimiser = torch.optim.AdamW(net.parameters(), settings.lr, weight_decay=settings.weight_decay)
    per_epoch = max(1, settings.windows // settings.batch)
    steps = per_epoch * settings.epochs
    checkpoint = out / "checkpoint.pt"
    identity = json.dumps({"settings": asdict(settings), "backbone": backbone.weights_hash})
    step, losses = 0, list[float]()
    if resume and checkpoint.is_file():
        step, losses = _restore(checkpoint, net, optimiser, identity)
    saved = time.time()
    bar = tqdm(total=steps, initial=step, desc="loftup", unit="step", disable=not progress)
    while step < steps:
        order = np.random.default_rng([settings.seed, step // per_epoch]).permutation(
            settings.windows
        )
        start = step % per_epoch * settings.batch
        chosen = torch.from_numpy(order[start : start + settings.batch])
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * _schedule(step, steps)
        loss = upsampling_loss(net, pairs, chosen)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        step += 1
        losses.append(loss.item())
        bar.update()
        bar.set_postfix(loss=f"{losses[-1]:.4f}")
        if time.time() - saved > settings.checkpoint_seconds or step == steps:
            _save(checkpoint, net, optimiser, step, losses, identity)
            saved = time.time()
    bar.close()
    net.eval()
    card = {
        "settings": json.loads(json.dumps(asdict(settings))),
        "backbone_weights": backbone.weights_hash,
        "steps": step,
        "minutes": round((time.time() - started) / 60, 1),
        "loss_first": float(np.mean(losses[:10])),
        "loss_last": float(np.mean(losses[-10:])),
        "held_out_loss": _held_out(net, held_out, settings.batch),
        "held_out_loss_of_interpolation": interpolation_loss(held_out),
    }
    with paths.replacing(out / "model.safetensors") as temporary:
        save_file(net.state_dict(), temporary)
    paths.write_file(out / "card.json", (json.dumps(card, indent=2) + "\n").encode())
    return card


@torch.no_grad()
def _held_out(net: LoftUp, pairs: FeaturePairs, batch: int) -> float:
    parts = torch.arange(len(pairs.coarse)).split(batch)
    return float(sum(upsampling_loss(net, pairs, p) * len(p) for p in parts) / len(pairs.coarse))


def _schedule(step: int, steps: int) -> float:
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _save(file: Path, net, optimiser, step: int, losses: list[float], identity: str) -> None:
    content = {
        "net": net.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
        "losses": losses,
        "identity": identity,
    }
    with paths.replacing(file) as temporary:
        torch.save(content, temporary)


def _restore(file: Path, net, optimiser, identity: str) -> tuple[int, list[float]]:
    content = torch.load(file, weights_only=True)
    if content.get("identity") != identity:
        raise DataError(
            f"{file} belongs to a run with other settings or another backbone; name another folder, or remove it"
        )
    net.load_state_dict(content["net"])
    optimiser.load_state_dict(content["optimiser"])
    return content["step"], content["losses"]
