"""Pretraining of SceneDINO: a small vision transformer learns Scenes from pictures alone, without masks or captions.

A student and a teacher, its running mean, look at two views of a picture: other crops, scales, colours and light. Every
place that the student saw has to be told from the other places of the batch by the teacher's answer for the same place
(van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018; momentum teacher after He et al.,
"Momentum Contrast", CVPR 2020). Half of the target goes to the places that the teacher itself finds similar (after Wei
et al., "CO2: Consistent Contrast for Unsupervised Visual Representation Learning", ICLR 2021), since most other places of
a sky are no wrong answers. Some of the student's patches are hidden or left out, so that it has to look around.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ovsslib import paths
from ovsslib.errors import DataError
from ovsslib.guides.guide import GUIDE_MEAN, GUIDE_STD
from ovsslib.guides.vit import DinoTransformer
from ovsslib.scenes.optimiser import MatrixMomentum
from ovsslib.scenes.training_run import TrainingRun
from ovsslib.scenes.views import DrawnPool, Views, image_of, token_places, view_pair


@dataclass(frozen=True)
class SceneDinoSettings:
    """Everything that decides what is learnt; `data/models/scenedino.yaml` explains the choices.

    width, depth, heads, patch, native: of the finished network (see DinoTransformer; native: side of its position table in
    patches). first_world: of the pictures (see PicturePool); pool, fresh: pictures at hand, and new ones a step. batch:
    pairs of views a step. size: side of a view in pixels. scales: least and largest length of a view in the picture, as
    multiples of size. hidden, dropped: shares of the student's patches that it sees as a mask token, and that it does not
    see at all. places: of a view that enter the loss. head: width of what is compared. temperature, teacher_temperature:
    of the student's and the teacher's cosines. soft: share of the target that the teacher's similarities give. memory: how
    much of the teacher stays from step to step, at the end of the run; it
    starts at start_memory.
    """

    width: int = 128
    depth: int = 6
    heads: int = 4
    patch: int = 8
    native: int = 28
    seed: int = 1
    first_world: int = 100
    pool: int = 512
    fresh: int = 4
    steps: int = 2000
    batch: int = 20
    size: int = 96
    scales: tuple[float, float] = (0.7, 1.5)
    hidden: float = 0.25
    dropped: float = 0.25
    places: int = 40
    head: int = 128
    temperature: float = 0.15
    teacher_temperature: float = 0.1
    soft: float = 0.5
    start_memory: float = 0.97
    memory: float = 0.995
    lr: float = 3e-3
    warmup: int = 20
    weight_decay: float = 0.05
    threads: int = 1
    checkpoint_seconds: float = 180.0

    def __post_init__(self) -> None:
        if self.size % self.patch or self.size // self.patch > self.native:
            raise DataError(
                f"size {self.size} must be a multiple of patch {self.patch} and at most {self.native} patches"
            )
        if self.width % self.heads:
            raise DataError(f"width {self.width} must be a multiple of heads {self.heads}")
        if min(self.hidden, self.dropped) < 0 or self.hidden + self.dropped >= 1:
            raise DataError(
                f"hidden {self.hidden} and dropped {self.dropped} are shares and must leave some patches"
            )
        patches = (self.size // self.patch) ** 2
        if self.batch > self.pool or self.batch < 2:
            raise DataError(
                f"batch {self.batch} must be at least 2 and at most the pool of {self.pool} pictures"
            )
        if not 1 <= self.places <= patches - round(self.dropped * patches):
            raise DataError(
                f"places {self.places} must be at least 1 and at most the patches that a student sees of a view, "
                f"{patches - round(self.dropped * patches)}"
            )


class Learner(nn.Module):
    """The network with what only training needs: a mask token and a head."""

    def __init__(self, settings: SceneDinoSettings) -> None:
        super().__init__()
        s = settings
        self.vit = DinoTransformer(s.width, s.depth, s.heads, s.patch, (s.native, s.native))
        self.mask_token = nn.Parameter(torch.zeros(s.width))
        self.head = nn.Sequential(
            nn.Linear(s.width, 2 * s.width), nn.GELU(), nn.Linear(2 * s.width, s.head)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.vit.cls_token, std=0.02)
        with torch.no_grad():
            self.vit.pos_embed[0, 1:] = 0.1 * waves(s.native, s.width)


def waves(side: int, width: int) -> Tensor:
    """Sines and cosines of row and column (side * side, width), row-major: where a position table starts from."""
    steps = 10000 ** (-torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * steps
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, -1)


def contrast(answers: Tensor, targets: Tensor, settings: SceneDinoSettings) -> tuple[Tensor, float]:
    """The loss of N places, and the share of places whose best answer is their own.

    answers, targets: (N, head) the student's and the teacher's for the same places, in the same order. What all places
    share is taken out of both.
    """
    answers, targets = (F.normalize(x - x.mean(0), dim=-1) for x in (answers, targets))
    logits = answers @ targets.T / settings.temperature
    similar = (targets @ targets.T / settings.teacher_temperature).softmax(1)
    places = torch.arange(len(logits))
    agreement = (logits.argmax(1) == places).float().mean().item()
    sharp = F.cross_entropy(logits, places)
    soft = -(similar * logits.log_softmax(1)).sum(1).mean()
    return (1 - settings.soft) * sharp + settings.soft * soft, agreement


def optimisers_of(learner: Learner, settings: SceneDinoSettings) -> list[torch.optim.Optimizer]:
    """Orthogonalised momentum for the matrices of the blocks, AdamW for the rest; gains, biases and tables don't decay."""
    blocks, matrices, without_decay = [], [], []
    for name, weight in learner.named_parameters():
        if weight.ndim == 2 and ".blocks." in name:
            blocks.append(weight)
        elif name.endswith("weight") and weight.ndim > 1:
            matrices.append(weight)
        else:
            without_decay.append(weight)
    decay = settings.weight_decay
    groups = [
        {"params": matrices, "weight_decay": decay},
        {"params": without_decay, "weight_decay": 0.0},
    ]
    return [
        MatrixMomentum(blocks, settings.lr, weight_decay=decay, dtype=torch.float32),
        torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98), eps=1e-8),
    ]


class SceneDinoTrainer(TrainingRun):
    """One run in a folder; see :class:`~ovsslib.scenes.training_run.TrainingRun`."""

    told = ("agreement",)
    settings: SceneDinoSettings
    settings_type = SceneDinoSettings

    def __init__(self, settings: SceneDinoSettings, out: Path) -> None:
        super().__init__(settings, out)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.student = Learner(settings)
            self.teacher = Learner(settings)
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.optimisers = optimisers_of(self.student, settings)
        self.stateful = {"student": self.student, "teacher": self.teacher}
        self.stateful |= {f"optimiser {i}": part for i, part in enumerate(self.optimisers)}
        self.pool = DrawnPool(settings.first_world, settings.pool, settings.fresh, image_of)

    def _views(self, generator: torch.Generator) -> tuple[Views, Views]:
        s = self.settings
        pool = self.pool.at(self.step)
        chosen = torch.randperm(len(pool), generator=generator)[: s.batch].tolist()
        images = torch.stack([torch.from_numpy(pool[index]) for index in chosen])
        return view_pair(images, s.size, s.scales, generator)

    def _tokens(
        self, learner: Learner, views: Views, generator: torch.Generator, whole: bool
    ) -> tuple[Tensor, Tensor]:
        """Outputs of the head (B, kept, head) and the places of the kept tokens (B, kept), row-major numbers.

        Positions are those of a random window of the table, so that nothing but the picture says where a view lies.
        """
        s, vit = self.settings, learner.vit
        mean, std = (torch.tensor(values)[:, None, None] for values in (GUIDE_MEAN, GUIDE_STD))
        x = vit.patch_embed((views.pixels - mean) / std).flatten(2).transpose(1, 2)
        batch, count, width = x.shape
        side = s.size // s.patch
        top, left = torch.randint(s.native - side + 1, (2,), generator=generator).tolist()
        table = vit.pos_embed[0, 1:].unflatten(0, (s.native, s.native))
        kept = torch.arange(count)[None].expand(batch, -1)
        if not whole:
            order = torch.rand(batch, count, generator=generator).argsort(1)
            kept = order[:, : count - round(s.dropped * count)]
            x = x.gather(1, kept[..., None].expand(-1, -1, width))
            hide = round(s.hidden * count)
            x = torch.cat([learner.mask_token.expand(batch, hide, -1), x[:, hide:]], dim=1)
        x = x + table[top : top + side, left : left + side].flatten(0, 1)[kept]
        first = vit.cls_token + vit.pos_embed[:, :1]
        x = torch.cat([first.expand(batch, -1, -1), x], dim=1)
        for block in vit.blocks:
            x = block(x)
        return learner.head(vit.norm(x)[:, 1:]), kept

    def loss(self, progress: float, generator: torch.Generator) -> tuple[Tensor, list[float]]:
        """The loss of one batch, and the share of places that find themselves (see :func:`contrast`)."""
        s = self.settings
        target, student_views = self._views(generator)
        side = s.size // s.patch
        with torch.no_grad():
            answers, _ = self._tokens(self.teacher, target, generator, whole=True)
            answers = answers.transpose(1, 2).unflatten(2, (side, side))
            places = token_places(side)[None].expand(s.batch, -1, -1, -1)
            places = target.from_picture(student_views.to_picture(places))
            inside = (places.abs() < 1 - 0.5 / side).all(-1).flatten(1)
            answers = F.grid_sample(answers, places, align_corners=False).flatten(2).transpose(1, 2)
        tokens, kept = self._tokens(self.student, student_views, generator, whole=False)
        order = torch.rand(kept.shape, generator=generator) - 2 * (~inside.gather(1, kept)).float()
        chosen = order.topk(s.places, dim=1)
        valid = chosen.values > 0
        student_answers = tokens.gather(1, chosen.indices[..., None].expand(-1, -1, s.head))[valid]
        places = kept.gather(1, chosen.indices)
        targets = answers.gather(1, places[..., None].expand(-1, -1, s.head))[valid]
        loss, agreement = contrast(student_answers, targets, s)
        return loss, [agreement]

    def after_step(self, progress: float) -> None:
        """The teacher moves towards the student."""
        s = self.settings
        keep = s.start_memory + (s.memory - s.start_memory) * min(1.0, progress)
        with torch.no_grad():
            for mean, weight in zip(
                self.teacher.parameters(), self.student.parameters(), strict=True
            ):
                mean.lerp_(weight, 1 - keep)

    def export(self, file: Path) -> Path:
        """Write the teacher's network as float16 safetensors in DINO's names, and `config.json` beside it."""
        s = self.settings
        state = {
            name: value.half().contiguous() for name, value in self.teacher.vit.state_dict().items()
        }
        about = {
            **self.about(),
            "views": str(2 * self.step * s.batch),
            "pictures": str(self.pool.drawn(self.step)),
        }
        with paths.replacing(file) as temporary:
            save_file(state, temporary, metadata=about)
        config = {
            "architecture": "dino",
            "width": s.width,
            "depth": s.depth,
            "heads": s.heads,
            "patch": s.patch,
            "native": [s.native, s.native],
        }
        text = json.dumps(config, indent=2) + "\n"
        paths.write_file(file.parent / "config.json", text.encode())
        return file
