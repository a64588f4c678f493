"""The supervised reference on Scenes: a DeepLabV3 that sees the masks of training pictures.

Everything else of the embedded world learns from captions or from pictures alone. This one is told every pixel's class,
and knows these 34 classes only: what it reaches is a ceiling for methods that are told words. Training is the usual one:
crops of several sizes, other light and colours, cross-entropy over all pixels (Chen et al., "Rethinking Atrous
Convolution for Semantic Image Segmentation", 2017), AdamW with half a cosine.
"""

import csv
import json
import math
import time
from collections import deque
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ovsslib import paths
from ovsslib.errors import DataError, ModelError
from ovsslib.networks.deeplab import STRIDE, SmallDeepLab
from ovsslib.scenes.classes import CLASSES
from ovsslib.scenes.drawing import draw
from ovsslib.scenes.layout import NATIVE_SIZE
from ovsslib.scenes.pretraining import keep_freed_memory
from ovsslib.scenes.views import Views, jitter, token_places

# ImageNet's, as torchvision's transforms have it: pixel values in [0, 1], RGB.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
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
    values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    known = {entry.name for entry in fields(SupervisedSettings)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise DataError(
            f"{path}: unknown setting {unknown[0]!r}; known: {', '.join(sorted(known))}"
        )
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return SupervisedSettings(**values)


class LabelledPool:
    """The last `size` drawn pictures with their labels; each step `fresh` new ones push out the oldest.

    The pool at a step depends on (first_world, step) alone, so a run that was stopped goes on with the same pictures.
    """

    def __init__(self, first_world: int, size: int, fresh: int) -> None:
        self.first_world, self.size, self.fresh = first_world, size, fresh
        self._pairs: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=size)
        self._next = 0

    def at(self, step: int) -> deque[tuple[np.ndarray, np.ndarray]]:
        """Pairs at `step`, oldest first: image (224, 298, 3) uint8 RGB, labels (224, 298) uint8, indices into CLASSES."""
        end = self.size + step * self.fresh
        if self._next > end:
            self._next = 0
            self._pairs.clear()
        for index in range(max(self._next, end - self.size), end):
            scene = draw(self.first_world + index // _PICTURES_A_WORLD, index)
            self._pairs.append((scene.image, scene.labels))
        self._next = end
        return self._pairs


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
    mean, std = (torch.tensor(values)[:, None, None] for values in (_MEAN, _STD))
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


class SupervisedTrainer:
    """One run in a folder: `checkpoint.pt` (replaced as a whole) and `log.csv` (a line a step)."""

    def __init__(self, settings: SupervisedSettings, out: Path) -> None:
        self.settings, self.out = settings, Path(out)
        self.out.mkdir(parents=True, exist_ok=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            net = SmallDeepLab(
                len(CLASSES), settings.stem, settings.planes, settings.blocks, settings.rates
            )
        # Dropout would draw from the global generator: without it a resumed run repeats to the bit.
        for module in net.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        self.net = net.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        matrices = [weight for weight in net.parameters() if weight.ndim > 1]
        others = [weight for weight in net.parameters() if weight.ndim == 1]
        groups = [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=settings.lr)
        self.pool = LabelledPool(settings.first_world, settings.pool, settings.fresh)
        self.step, self.seconds = 0, 0.0
        self.log: list[list[float]] = []

    @property
    def _checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"

    def _settings_text(self) -> str:
        """What a checkpoint belongs to: everything but how long and with how many threads."""
        own = asdict(self.settings)
        for name in ("steps", "threads", "checkpoint_seconds"):
            del own[name]
        return json.dumps(own)

    def resume(self) -> bool:
        """Go on from the folder's checkpoint, if there is one. Raises DataError if other settings made it."""
        if not self._checkpoint.is_file():
            return False
        stored = torch.load(self._checkpoint, weights_only=True)
        if stored["settings"] != self._settings_text():
            raise DataError(
                f"{self._checkpoint} was made with other settings; choose another --out, or remove that folder"
            )
        self.net.load_state_dict(stored["net"])
        self.optimiser.load_state_dict(stored["optimiser"])
        self.step, self.seconds, self.log = stored["step"], stored["seconds"], stored["log"]
        return True

    def save(self) -> None:
        """Write the checkpoint and the log, each through a temporary file."""
        state = {
            "net": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "log": self.log,
            "settings": self._settings_text(),
        }
        with paths.replacing(self._checkpoint) as temporary:
            torch.save(state, temporary)
        with (
            paths.replacing(self.out / "log.csv") as temporary,
            open(temporary, "w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(["step", "seconds", "lr", "loss", "right"])
            writer.writerows(self.log)

    def loss(self, generator: torch.Generator) -> tuple[Tensor, float]:
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
        return F.cross_entropy(logits, wanted), right

    def learn(self, progress: float) -> float:
        """One step at `progress`, from 0 to 1, of the run. Returns the loss."""
        s = self.settings
        # A generator of its own for every step: nothing to restore after an interruption.
        generator = torch.Generator().manual_seed(s.seed * 1_000_003 + self.step)
        rate = s.lr * min(1.0, (self.step + 1) / max(1, s.warmup))
        rate *= 0.5 + 0.5 * math.cos(math.pi * min(1.0, progress))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        loss, right = self.loss(generator)
        if not torch.isfinite(loss):
            raise ModelError(
                f"the loss is {loss.item()} at step {self.step}; lower lr ({s.lr}) and start anew"
            )
        loss.backward()
        self.optimiser.step()
        self.step += 1
        self.log.append(
            [self.step, round(self.seconds, 1), rate, round(loss.item(), 6), round(right, 4)]
        )
        return loss.item()

    def run(self, steps: int, minutes: float | None = None) -> None:
        """Train until `steps`, or until `minutes` of training time are spent (earlier parts of the run included).

        With `minutes` the schedule follows the clock, so the run cools down in time on any machine, but is then not
        repeatable to the bit; with steps it is.
        """
        saved = before = time.monotonic()
        with tqdm(total=steps, initial=self.step, unit="step", mininterval=5) as bar:
            while True:
                progress = self.seconds / (minutes * 60) if minutes else self.step / steps
                if progress >= 1:
                    break
                loss = self.learn(progress)
                now = time.monotonic()
                self.seconds += now - before
                before = now
                right = self.log[-1][-1]
                bar.set_postfix(
                    loss=f"{loss:.3f}", right=right, done=f"{progress:.1%}", refresh=False
                )
                bar.update()
                if now - saved > self.settings.checkpoint_seconds:
                    self.save()
                    saved = time.monotonic()
        self.save()

    def export(self, file: Path) -> Path:
        """Write the network as float16 safetensors, and `config.json`, which says how to build it, beside it."""
        s = self.settings
        state = {
            name: (value.half() if value.is_floating_point() else value).contiguous()
            for name, value in self.net.state_dict().items()
        }
        about = {
            "steps": str(self.step),
            "views": str(self.step * s.batch),
            "pictures": str(s.pool + max(0, self.step - 1) * s.fresh),
            "seconds": f"{self.seconds:.0f}",
            "seed": str(s.seed),
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

    resume: go on from the folder's checkpoint (after a kill, say) instead of starting anew. steps: instead of the
    settings' number. minutes: spend this much time instead; the learning rate cools down in time.
    """
    keep_freed_memory()
    torch.set_num_threads(settings.threads)
    settings = replace(settings, steps=steps or settings.steps)
    trainer = SupervisedTrainer(settings, out)
    if resume and trainer.resume():
        tqdm.write(f"resumed at step {trainer.step}")
    trainer.run(settings.steps, minutes)
    return trainer.export(trainer.out / "model.safetensors")
