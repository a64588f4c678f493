"""A training run in a folder: what the trainings of the embedded models have in common.

A run writes `checkpoint.pt` (replaced as a whole) and `log.csv` (a line a step). It goes on after a kill to the same
weights, and refuses to go on from what other settings, or other weights to start from, have made.
"""

from __future__ import annotations

import csv
import ctypes
import json
import math
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from ovsslib import paths
from ovsslib.clip.placement import check_device
from ovsslib.errors import DataError, ModelError
from ovsslib.recipe.reading import read_yaml


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


Settings = TypeVar("Settings", bound=_Dataclass)

# They say how long and how fast a run works, not what it learns.
_FREE = ("steps", "threads", "workers", "checkpoint_seconds")


def settings_from(path: Path, kind: type[Settings], **makers: Any) -> Settings:
    """Settings of a class from a YAML file; lists become tuples.

    Args:
        path: the file.
        kind: a dataclass.
        makers: field name -> what makes its value from that of the file.

    Raises DataError for unknown names, for missing ones, and for values out of range.
    """
    values = read_yaml(Path(path).read_text(encoding="utf-8")) or {}
    names = {entry.name for entry in fields(kind)}
    unknown = sorted(set(values) - names)
    if unknown:
        raise DataError(
            f"{path}: unknown setting {unknown[0]!r}; known: {', '.join(sorted(names))}"
        )
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    values |= {name: make(values[name]) for name, make in makers.items() if name in values}
    try:
        return kind(**values)
    except TypeError as error:  # a field without a default
        raise DataError(f"{path}: {error}") from None


def lasting(settings: Settings, steps: int | None, minutes: float | None) -> Settings:
    """The settings with another number of steps, if one is given. Raises DataError for steps or minutes of no length."""
    if steps is not None and steps < 1:
        raise DataError(f"--steps {steps}: take 1 or more")
    if minutes is not None and not 0 < minutes < math.inf:
        raise DataError(f"--minutes {minutes}: take more than 0")
    return settings if steps is None else replace(settings, steps=steps)


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for reuse: handing every large tensor back to the system and fetching it anew costs
    half the time of a step on a processor. Does nothing elsewhere than on Linux with glibc."""
    if platform.system() == "Linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL("libc.so.6")
        trim_threshold, most_maps, most_arenas = -1, -4, -8
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(most_maps, 0)
        libc.mallopt(most_arenas, 1)


def half_cosine(settings: Any, step: int, progress: float) -> float:
    """Learning rate: `warmup` steps up to `lr`, then half a cosine over progress (0 to 1) down to zero."""
    rate = settings.lr * min(1.0, (step + 1) / max(1, settings.warmup))
    return rate * (0.5 + 0.5 * math.cos(math.pi * min(1.0, progress)))


class TrainingRun(ABC):
    """One run in a folder.

    A subclass builds its networks, sets `stateful` and `optimisers`, and computes the loss of a step. Everything random in a
    step comes from the step's own generator, so that there is nothing to restore after an interruption.

    Attributes:
        settings: a dataclass with seed, lr, checkpoint_seconds and what the subclass needs.
        out: the folder.
        stateful: name -> module or optimiser: what a checkpoint holds.
        optimisers: all take the same learning rate.
        step: steps made. seconds: of training time.
        log: a row a step: step, seconds, lr, loss, and the columns of `told`.
    """

    told: ClassVar[tuple[str, ...]] = ()
    """Columns of `log.csv` behind the loss, the numbers that :meth:`loss` gives."""
    counted: ClassVar[tuple[str, ...]] = ()
    """Attributes that change with the steps and stand in a checkpoint."""

    settings_type: ClassVar[type]
    """Class of the settings."""
    makers: ClassVar[dict[str, Any]] = {}
    """For :func:`settings_from`."""

    stateful: dict[str, Any]
    optimisers: list[torch.optim.Optimizer]

    def __init__(
        self, settings: Any, out: Path, origin: str = "", device: str | torch.device = "cpu"
    ) -> None:
        """origin: hash of the weights that the run starts from, "" for random ones.

        Raises DataError for a folder that cannot be made, ModelError for a device that is not there.
        """
        self.settings, self.out, self.origin = settings, Path(out), origin
        self.device = check_device(device)
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"cannot write a run into {self.out} ({error.strerror}); choose another --out"
            ) from None
        self.step, self.seconds = 0, 0.0
        self.log: list[list[float]] = []

    @classmethod
    def read_settings(cls, path: Path) -> Any:
        """Settings from a YAML file. Raises DataError for unknown names, missing ones, and values out of range."""
        return settings_from(path, cls.settings_type, **cls.makers)

    @classmethod
    def train(
        cls,
        settings: Any,
        out: Path,
        *,
        resume: bool = True,
        steps: int | None = None,
        minutes: float | None = None,
        **more: Any,
    ) -> Path:
        """A whole run in the folder `out`; returns the path of the weights, `out/model.safetensors`.

        steps: instead of the settings' number. resume, minutes: see :meth:`carry_out`. more: of the class, such as `device`.
        """
        return cls(lasting(settings, steps, minutes), out, **more).carry_out(resume, minutes)

    @abstractmethod
    def loss(self, progress: float, generator: torch.Generator) -> tuple[Tensor, list[float]]:
        """The loss of the next step, and the numbers of `told`. progress: from 0 to 1, of the run."""

    @abstractmethod
    def export(self, file: Path) -> Path:
        """Write the finished weights, and what is needed to open them beside it; returns `file`."""

    def rate(self, progress: float) -> float:
        """The learning rate of the next step."""
        return half_cosine(self.settings, self.step, progress)

    def after_step(self, progress: float) -> None:
        """What follows the optimisers' step; nothing, unless a subclass says so."""
        return

    @property
    def _checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"

    def _identity(self) -> str:
        """What a checkpoint belongs to."""
        values = {k: v for k, v in asdict(self.settings).items() if k not in _FREE}
        return json.dumps({"settings": values, "origin": self.origin}, sort_keys=True)

    def resume(self) -> bool:
        """Go on from the folder's checkpoint, if there is one.

        Raises DataError if other settings or other first weights made it, or if it is damaged.
        """
        if not self._checkpoint.is_file():
            return False
        try:
            stored = torch.load(self._checkpoint, map_location=self.device, weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError, KeyError, UnpicklingError) as error:
            raise DataError(
                f"cannot read {self._checkpoint}: {error}; choose another --out, or remove that folder"
            ) from None
        if stored.get("identity") != self._identity():
            raise DataError(
                f"{self._checkpoint} was made with other settings, or from other weights; choose another --out, or "
                "remove that folder"
            )
        for name, part in self.stateful.items():
            part.load_state_dict(stored["stateful"][name])
        self.step, self.seconds, self.log = stored["step"], stored["seconds"], stored["log"]
        for name in self.counted:
            value = stored["counted"][name]
            setattr(self, name, value.cpu() if isinstance(value, Tensor) else value)
        return True

    def save(self) -> None:
        """Write the checkpoint and the log, each through a temporary file."""
        state = {
            "identity": self._identity(),
            "stateful": {name: part.state_dict() for name, part in self.stateful.items()},
            "counted": {name: getattr(self, name) for name in self.counted},
            "step": self.step,
            "seconds": self.seconds,
            "log": self.log,
        }
        with paths.replacing(self._checkpoint) as temporary:
            torch.save(state, temporary)
        with (
            paths.replacing(self.out / "log.csv") as temporary,
            open(temporary, "w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(["step", "seconds", "lr", "loss", *self.told])
            writer.writerows(self.log)

    def learn(self, progress: float) -> float:
        """One step at `progress`, from 0 to 1, of the run. Returns the loss. Raises ModelError if it is not finite."""
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.step)
        rate = self.rate(progress)
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = rate
        loss, numbers = self.loss(progress, generator)
        if not torch.isfinite(loss):
            raise ModelError(
                f"the loss is {loss.item()} at step {self.step}; lower lr ({self.settings.lr}) and start anew"
            )
        loss.backward()
        for optimiser in self.optimisers:
            optimiser.step()
        self.after_step(progress)
        self.step += 1
        figures = [round(float(number), 4) for number in numbers]
        self.log.append([self.step, round(self.seconds, 1), rate, round(loss.item(), 6), *figures])
        return loss.item()

    def run(self, steps: int, minutes: float | None = None) -> None:
        """Train until `steps`, or until `minutes` of training time are spent (earlier parts of the run included).

        With `minutes` the schedule follows the clock, so the run cools down in time on any machine, but is then not
        repeatable to the bit; with steps it is.
        """
        unit, total = ("s", round(minutes * 60)) if minutes else ("step", steps)
        saved = before = time.monotonic()
        start = round(self.seconds) if minutes else self.step
        with tqdm(total=total, initial=start, unit=unit, mininterval=5) as bar:
            while True:
                progress = self.seconds / (minutes * 60) if minutes else self.step / steps
                if progress >= 1:
                    break
                self.learn(progress)
                now = time.monotonic()
                self.seconds += now - before
                before = now
                bar.set_postfix(self._last(), refresh=False)
                bar.update((min(total, round(self.seconds)) if minutes else self.step) - bar.n)
                if now - saved > self.settings.checkpoint_seconds:
                    self.save()
                    saved = time.monotonic()
        self.save()

    def _last(self) -> Mapping[str, float]:
        return dict(zip(("loss", *self.told), self.log[-1][3:], strict=True))

    def about(self) -> dict[str, str]:
        """Short texts for the header of the weights."""
        facts = {"steps": self.step, "seconds": round(self.seconds), "seed": self.settings.seed}
        return {name: str(value) for name, value in facts.items()}

    def carry_out(self, resume: bool = True, minutes: float | None = None) -> Path:
        """The whole of a run: go on if there is something, train, export. Returns `out/model.safetensors`.

        Args:
            resume: go on from the folder's checkpoint (after a kill, say) instead of starting anew.
            minutes: spend this much time instead of the settings' steps; the learning rate cools down in time.
        """
        keep_freed_memory()
        if self.device.type == "cpu":
            torch.set_num_threads(self.settings.threads)
        if resume and self.resume():
            tqdm.write(f"resumed at step {self.step}")
        self.run(self.settings.steps, minutes)
        return self.export(self.out / "model.safetensors")
