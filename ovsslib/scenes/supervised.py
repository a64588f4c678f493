"""Networks of the embedded world that are shown masks: the supervised reference, and what LSeg's stand-in shares with it.

Everything else of the embedded world learns from captions or from pictures alone. These have the same frozen SceneCLIP as
the training-free methods, with a decoder of masks on it (`ovsslib.networks.deeplab`) that is told pixels' classes. The
reference is told all of them: what it has over methods that are told words is masks. Training is the usual one: crops,
other light and colours, cross-entropy (Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017),
AdamW with half a cosine. SceneCLIP never changes, so each view goes through it once.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ovsslib import paths
from ovsslib.clip.loading import load_backbone
from ovsslib.errors import DataError
from ovsslib.networks.deeplab import MaskDecoder
from ovsslib.scenes.classes import CLASSES
from ovsslib.scenes.drawing import Scene
from ovsslib.scenes.layout import NATIVE_SIZE
from ovsslib.scenes.training_run import TrainingRun
from ovsslib.scenes.views import DrawnPool, Views, jitter, token_places

TRUNK = "sceneclip"
"""The frozen CLIP below the decoders."""
_PATCH = 16
# Pictures drawn from one world before the next one is taken: every world has textures of its own.
_PICTURES_A_WORLD = 100
_UNTOLD = 255  # label of pixels that are not in the loss


@dataclass(frozen=True)
class MaskSettings:
    """Everything that decides what is learnt; `data/models/deeplabv3-scenes.yaml` explains the choices.

    Attributes:
        blocks, width, pyramid, rates, detail: of the network (see MaskDecoder).
        seed: of its first weights and of all random choices.
        first_world: of the pictures, 100 of each world.
        pool, fresh: views at hand, one of each picture, and new ones a step.
        batch: views a step.
        size: side of a view in pixels, as SceneCLIP sees it.
        scales: least and largest length of a view in the picture, as multiples of size.
        balance: a class with n pixels of the batch weighs n ** -balance in the loss: 0 counts pixels, 1 classes.
        lr, warmup, weight_decay: of AdamW.
    """

    blocks: tuple[int, ...] = (3, 7, 11)
    width: int = 96
    pyramid: int = 48
    rates: tuple[int, ...] = (1, 2, 4)
    detail: int = 32
    seed: int = 1
    first_world: int = 200
    pool: int = 256
    fresh: int = 1
    steps: int = 1000
    batch: int = 8
    size: int = 224
    scales: tuple[float, float] = (0.75, 1.1)
    balance: float = 0.5
    lr: float = 4e-3
    warmup: int = 20
    weight_decay: float = 0.02
    bfloat16: bool = True
    threads: int = 1
    checkpoint_seconds: float = 120.0

    def __post_init__(self) -> None:
        if self.size % _PATCH or not 0 < self.size <= min(NATIVE_SIZE):
            raise DataError(
                f"size {self.size} must be a multiple of {_PATCH} and at most {min(NATIVE_SIZE)}, a picture's height"
            )
        if not 2 <= self.batch <= self.pool or self.fresh < 0:
            raise DataError(
                f"batch {self.batch} must be at least 2 and at most the pool of {self.pool} pictures, and fresh "
                f"{self.fresh} 0 or more"
            )
        low, high = self.scales
        if not 0 < low <= high:
            raise DataError(f"scales {self.scales} must be above 0, the least one first")
        if not 0 <= self.balance <= 1:
            raise DataError(f"balance {self.balance} must lie between 0 (pixels) and 1 (classes)")


def labelled_views(
    images: Tensor,
    labels: Tensor,
    size: int,
    scales: tuple[float, float],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """A random square view of every picture, perhaps mirrored, in another light.

    images: (B, H, W, 3) uint8. labels: (B, H, W) uint8. scales: see MaskSettings. Returns pixels (B, 3, size, size)
    in [0, 1], and the labels (B, size / 4, size / 4) int64 of every fourth place, nearest neighbour.
    """
    batch, height, width = labels.shape
    pictures = images.permute(0, 3, 1, 2).float() / 255

    def uniform(*shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator)

    low, high = scales
    side = (size * (low + (high - low) * uniform())).clamp(max=float(min(height, width)))
    bounds = torch.tensor([width, height], dtype=torch.float32)
    centre = side[:, None] / 2 + uniform(2) * (bounds - side[:, None])
    mirror = torch.where(uniform() < 0.5, -1.0, 1.0)
    view = Views(pictures, centre, side, mirror)

    def grid(cells: int) -> Tensor:
        return view.to_picture(token_places(cells)[None].expand(batch, -1, -1, -1)) / bounds * 2 - 1

    cut = F.grid_sample(pictures, grid(size), align_corners=False, padding_mode="border")
    told = F.grid_sample(
        labels[:, None].float(), grid(size // 4), "nearest", "border", align_corners=False
    )
    return jitter(cut, generator), told[:, 0].long()


def balanced_loss(logits: Tensor, wanted: Tensor, balance: float) -> Tensor:
    """Cross-entropy in which a class with n pixels of the batch weighs n ** -balance; pixels labelled 255 do not count.

    logits: (B, C, h, w). wanted: (B, h, w) int64.
    """
    counts = torch.bincount(wanted[wanted != _UNTOLD], minlength=logits.shape[1])
    weight = counts.clamp(min=1).to(logits.dtype) ** -balance
    return F.cross_entropy(logits, wanted, weight=weight, ignore_index=_UNTOLD)


class MaskTrainer(TrainingRun):
    """One run in a folder; see :class:`~ovsslib.scenes.training_run.TrainingRun`.

    Attributes:
        backbone: the frozen CLIP. net: the decoder that learns. told_classes: numbers of the classes whose masks it is shown.
    """

    told = ("right",)
    architecture: ClassVar[str]
    residual: ClassVar[bool] = False
    settings: MaskSettings
    settings_type = MaskSettings

    def __init__(self, settings: MaskSettings, out: Path) -> None:
        self.backbone = load_backbone(TRUNK)
        super().__init__(settings, out, origin=self.backbone.weights_hash)
        self.told_classes = self.classes()
        table = np.full(256, _UNTOLD, np.uint8)
        table[list(self.told_classes)] = range(len(self.told_classes))
        self._table = torch.from_numpy(table)
        s = settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(s.seed)
            net = MaskDecoder(
                self.outputs(), self.backbone.width, s.blocks, s.width, s.pyramid, s.rates, s.detail, self.residual
            )  # fmt: skip
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        self.net = net.train()
        matrices = [weight for weight in net.parameters() if weight.ndim > 1]
        others = [weight for weight in net.parameters() if weight.ndim == 1]
        groups = [
            {"params": matrices, "weight_decay": s.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimisers = [torch.optim.AdamW(groups, lr=s.lr)]
        self.stateful = {"net": self.net, "optimiser": self.optimisers[0]}
        self.pool = DrawnPool(s.first_world, s.pool, s.fresh, self.view, _PICTURES_A_WORLD)

    def classes(self) -> tuple[int, ...]:
        """Numbers of the classes whose masks are shown, rising: all."""
        return tuple(range(len(CLASSES)))

    def outputs(self) -> int:
        """Channels of the decoder."""
        return len(CLASSES)

    def logits(self, outputs: Tensor) -> Tensor:
        """What the decoder gives, (B, outputs, h, w) -> logits of the shown classes, (B, C, h, w) float32."""
        return outputs.float()

    def view(self, scene: Scene, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """What is kept of a picture: a view's tokens (C, h, w) and pixels (3, S, S), both float16, and labels (S/4, S/4)
        uint8 of the shown classes, 255 for all others. It depends on the picture and its number alone."""
        s = self.settings
        generator = torch.Generator().manual_seed((s.seed + 1000) * 1_000_003 + index)
        image, labels = torch.from_numpy(scene.image)[None], torch.from_numpy(scene.labels)[None]
        pixels, seen = labelled_views(image, labels, s.size, s.scales, generator)
        mean, std = (torch.tensor(part)[:, None, None] for part in self.backbone.normalisation)
        pixels = (255 * pixels - mean) / std
        tokens = self.net.read(self.backbone, pixels)
        return tokens[0].half(), pixels[0].half(), self._table[seen[0]]

    def loss(self, progress: float, generator: torch.Generator) -> tuple[Tensor, list[float]]:
        """Cross-entropy of one batch, and the share of the shown places that are right."""
        s = self.settings
        pool = self.pool.at(self.step)
        chosen = torch.randperm(len(pool), generator=generator)[: s.batch].tolist()
        tokens, pixels, wanted = (torch.stack([pool[i][part] for i in chosen]) for part in range(3))
        with torch.autocast("cpu", torch.bfloat16, enabled=s.bfloat16):
            outputs = self.net(
                *(x.float().contiguous(memory_format=torch.channels_last) for x in (tokens, pixels))
            )
        logits = self.logits(outputs)
        wanted = wanted.long()
        right = (logits.detach().argmax(1) == wanted)[wanted != _UNTOLD].float().mean().item()
        return balanced_loss(logits, wanted, s.balance), [right]

    def config(self) -> dict[str, Any]:
        """What `config.json` says besides the decoder's shape."""
        return {"labels": list(CLASSES)}

    def export(self, file: Path) -> Path:
        """Write the decoder as float16 safetensors, and `config.json`, which says how to build it and on which CLIP, beside
        it. SceneCLIP's own weights are not written again."""
        s = self.settings
        state = {
            name: (value.half() if value.is_floating_point() else value).contiguous()
            for name, value in self.net.state_dict().items()
        }
        about = {
            **self.about(),
            "views": str(self.step * s.batch),
            "pictures": str(self.pool.drawn(self.step)),
        }
        with paths.replacing(file) as temporary:
            save_file(state, temporary, metadata=about)
        config = {
            "architecture": self.architecture,
            "trunk": TRUNK,
            "trunk_hash": self.backbone.weights_hash,
            "short_side": min(NATIVE_SIZE),
            "window": s.size,
            "token_width": self.backbone.width,
            "blocks": list(s.blocks),
            "width": s.width,
            "pyramid": s.pyramid,
            "rates": list(s.rates),
            "detail": s.detail,
            "residual": self.residual,
            **self.config(),
        }
        text = json.dumps(config, indent=2) + "\n"
        paths.write_file(file.parent / "config.json", text.encode())
        return file


class SupervisedTrainer(MaskTrainer):
    """The supervised reference: all masks, a label for each class."""

    architecture = "deeplabv3_on_tokens"
