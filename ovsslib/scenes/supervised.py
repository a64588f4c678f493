"""The supervised reference on Scenes: a DeepLabV3 that sees the masks of training pictures.

Everything else of the embedded world learns from captions or from pictures alone. This one is told every pixel's class,
and knows these 34 classes only: what it reaches is a ceiling for methods that are told words. Training is the usual one:
crops of several sizes, other light and colours, cross-entropy over all pixels (Chen et al., "Rethinking Atrous
Convolution for Semantic Image Segmentation", 2017), AdamW with half a cosine.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ovsslib import paths
from ovsslib.errors import DataError
from ovsslib.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from ovsslib.networks.deeplab import STRIDE, SmallDeepLab
from ovsslib.scenes.classes import CLASSES
from ovsslib.scenes.layout import NATIVE_SIZE
from ovsslib.scenes.training_run import TrainingRun, lasting, settings_from
from ovsslib.scenes.views import DrawnPool, Views, jitter, token_places

# Pictures drawn from one world before the next one is taken: every world has textures of its own.
_PICTURES_A_WORLD = 100


@dataclass(frozen=True)
class SupervisedSettings:
    """Everything that decides what is learnt; `data/models/deeplabv3-scenes.yaml` explains the choices.

    Attributes:
        stem, planes, blocks, rates: of the network (see SmallDeepLab).
        seed: of its first weights and of all random choices.
        first_world: of the pictures, 100 of each world.
        pool, fresh: pictures at hand, and new ones a step.
        batch: views a step.
        size: side of a view in pixels.
        scales: least and largest length of a view in the picture, as multiples of size.
        lr, warmup, weight_decay: of AdamW.
    """

    stem: int = 32
    planes: tuple[int, ...] = (16, 32, 32)
    blocks: tuple[int, ...] = (2, 4, 6)
    rates: tuple[int, ...] = (4, 8, 12)
    seed: int = 1
    first_world: int = 200
    pool: int = 256
    fresh: int = 1
    steps: int = 4000
    batch: int = 8
    size: int = 192
    scales: tuple[float, float] = (0.7, 1.15)
    lr: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.05
    bfloat16: bool = True
    threads: int = 1
    checkpoint_seconds: float = 120.0

    def __post_init__(self) -> None:
        if self.size % STRIDE or not 0 < self.size <= min(NATIVE_SIZE):
            raise DataError(
                f"size {self.size} must be a multiple of {STRIDE} and at most {min(NATIVE_SIZE)}, a picture's height"
            )
        if not 2 <= self.batch <= self.pool or self.fresh < 0:
            raise DataError(
                f"batch {self.batch} must be at least 2 and at most the pool of {self.pool} pictures, and fresh "
                f"{self.fresh} 0 or more"
            )
        low, high = self.scales
        if not 0 < low <= high:
            raise DataError(f"scales {self.scales} must be above 0, the least one first")


def read_supervised_settings(path: Path) -> SupervisedSettings:
    """Settings from a YAML file. Raises DataError for unknown names and values out of range."""
    return settings_from(path, SupervisedSettings)


def labelled_views(
    images: Tensor,
    labels: Tensor,
    size: int,
    scales: tuple[float, float],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """A random square view of every picture, perhaps mirrored, in another light.

    images: (B, H, W, 3) uint8. labels: (B, H, W) uint8. scales: see SupervisedSettings. Returns pixels (B, 3, size, size)
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


def normalised(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> what the network takes."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


class SupervisedTrainer(TrainingRun):
    """One run in a folder; see :class:`~ovsslib.scenes.training_run.TrainingRun`."""

    told = ("right",)
    settings: SupervisedSettings

    def __init__(self, settings: SupervisedSettings, out: Path) -> None:
        super().__init__(settings, out)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            net = SmallDeepLab(
                len(CLASSES), settings.stem, settings.planes, settings.blocks, settings.rates
            )
        # Dropout would draw from the global generator: without it a resumed run repeats to the bit.
        for module in net.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        self.net = net.train()
        matrices = [weight for weight in net.parameters() if weight.ndim > 1]
        others = [weight for weight in net.parameters() if weight.ndim == 1]
        groups = [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimisers = [torch.optim.AdamW(groups, lr=settings.lr)]
        self.stateful = {"net": self.net, "optimiser": self.optimisers[0]}
        self.pool = DrawnPool(
            settings.first_world,
            settings.pool,
            settings.fresh,
            lambda scene: (scene.image, scene.labels),
            _PICTURES_A_WORLD,
        )

    def loss(self, progress: float, generator: torch.Generator) -> tuple[Tensor, list[float]]:
        """Cross-entropy of one batch, and the share of places that are right."""
        s = self.settings
        pool = self.pool.at(self.step)
        chosen = torch.randperm(len(pool), generator=generator)[: s.batch].tolist()
        images = torch.stack([torch.from_numpy(pool[index][0]) for index in chosen])
        labels = torch.stack([torch.from_numpy(pool[index][1]) for index in chosen])
        pixels, wanted = labelled_views(images, labels, s.size, s.scales, generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=s.bfloat16):
            logits = self.net.logits(normalised(pixels))
        logits = F.interpolate(
            logits.float(), size=wanted.shape[1:], mode="bilinear", align_corners=False
        )
        right = (logits.detach().argmax(1) == wanted).float().mean().item()
        return F.cross_entropy(logits, wanted), [right]

    def export(self, file: Path) -> Path:
        """Write the network as float16 safetensors, and `config.json`, which says how to build it, beside it."""
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
            "architecture": "small_deeplabv3",
            "labels": list(CLASSES),
            "resize": min(NATIVE_SIZE),
            "stem": s.stem,
            "planes": list(s.planes),
            "blocks": list(s.blocks),
            "rates": list(s.rates),
        }
        paths.write_file(
            file.parent / "config.json", (json.dumps(config, indent=2) + "\n").encode()
        )
        return file


def pretrain_supervised(
    settings: SupervisedSettings,
    out: Path,
    resume: bool = True,
    steps: int | None = None,
    minutes: float | None = None,
) -> Path:
    """Train the supervised reference in the folder `out`; returns the path of the weights, `out/model.safetensors`.

    steps: instead of the settings' number. resume, minutes: see :meth:`TrainingRun.carry_out`.
    """
    settings = lasting(settings, steps, minutes)
    return SupervisedTrainer(settings, out).carry_out(resume, minutes)
