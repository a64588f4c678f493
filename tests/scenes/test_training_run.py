"""A training run in a folder: it resumes exactly, refuses what others have made, and says what is wrong."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_cases import losses

from ovsslib.errors import DataError, ModelError
from ovsslib.scenes.training_run import TrainingRun, half_cosine, lasting, settings_from


@dataclass(frozen=True)
class Settings:
    width: int
    seed: int = 1
    steps: int = 12
    lr: float = 0.1
    warmup: int = 2
    sizes: tuple[int, ...] = (1, 2)
    threads: int = 1
    checkpoint_seconds: float = 1e9


class Line(TrainingRun):
    """Learns a straight line."""

    told = ("seen",)
    counted = ("seen", "sums")

    def __init__(
        self, settings: Settings, out: Path, origin: str = "", device: str = "cpu"
    ) -> None:
        super().__init__(settings, out, origin, device)
        torch.manual_seed(settings.seed)
        self.net = torch.nn.Linear(settings.width, 1)
        self.optimisers = [torch.optim.Adam(self.net.parameters())]
        self.stateful = {"net": self.net, "optimiser": self.optimisers[0]}
        self.seen, self.sums = 0, torch.zeros(1)

    def loss(self, progress, generator):
        x = torch.rand(8, self.settings.width, generator=generator)
        self.seen += 8
        self.sums += x.sum()
        return (self.net(x) - x.sum(1, keepdim=True)).square().mean(), [self.seen]

    def export(self, file):
        file.write_bytes(b"weights")
        return file


SETTINGS = Settings(width=3)


@pytest.fixture
def finished(tmp_path) -> Path:
    Line(SETTINGS, tmp_path / "whole").carry_out()
    return tmp_path / "whole"


def test_a_stopped_run_goes_on_to_the_same_losses_and_counts(finished, tmp_path):
    first = Line(SETTINGS, tmp_path / "parts")
    for step in range(5):
        first.learn(step / 12)
    first.save()
    second = Line(SETTINGS, tmp_path / "parts")
    assert second.carry_out() == tmp_path / "parts" / "model.safetensors"
    np.testing.assert_array_equal(losses(tmp_path / "parts"), losses(finished))
    assert (second.step, second.seen) == (12, 96) and losses(finished)[-1] < losses(finished)[0]
    whole = Line(SETTINGS, finished)
    assert whole.resume() and torch.equal(whole.sums, second.sums)
    head = (finished / "log.csv").read_text().splitlines()[0]
    assert head == "step,seconds,lr,loss,seen"


def test_without_resume_it_starts_anew(finished):
    again = Line(replace(SETTINGS, lr=0.2), finished)
    again.carry_out(resume=False)
    assert again.seen == 96


@pytest.mark.parametrize("change", [{"lr": 0.2}, {"width": 4}, {"seed": 2}, {"sizes": (1, 3)}])
def test_a_checkpoint_of_other_settings_is_refused(finished, change):
    with pytest.raises(DataError, match="other settings.*choose another --out"):
        Line(replace(SETTINGS, **change), finished).resume()


@pytest.mark.parametrize("change", [{"steps": 20}, {"threads": 2}, {"checkpoint_seconds": 1.0}])
def test_how_long_and_how_fast_are_no_other_settings(finished, change):
    assert Line(replace(SETTINGS, **change), finished).resume()


def test_a_checkpoint_from_other_first_weights_is_refused(finished):
    with pytest.raises(DataError, match="other weights"):
        Line(SETTINGS, finished, origin="0123").resume()


def test_a_damaged_checkpoint_is_named(finished):
    file = finished / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="cannot read .*checkpoint.pt"):
        Line(SETTINGS, finished).resume()


def test_minutes_end_the_run(tmp_path):
    run = Line(SETTINGS, tmp_path)
    run.run(10**9, minutes=0.002)
    assert run.step >= 1 and 0.12 <= run.seconds < 10


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    run = Line(SETTINGS, tmp_path)
    with torch.no_grad():
        run.net.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="lower lr [(]0.1[)]"):
        run.learn(0.0)


def test_the_learning_rate_warms_up_and_falls_to_zero():
    assert half_cosine(SETTINGS, 0, 0.0) == pytest.approx(0.05)
    assert half_cosine(SETTINGS, 5, 0.5) == pytest.approx(0.05)
    assert half_cosine(SETTINGS, 11, 1.0) == pytest.approx(0.0)


def test_settings_from_a_file(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("width: 3\nsizes: [4, 5]\n")
    assert settings_from(file, Settings) == Settings(width=3, sizes=(4, 5))
    assert settings_from(file, Settings, width=str).width == "3"
    file.write_text("widht: 3\n")
    with pytest.raises(DataError, match="unknown setting 'widht'; known: .*width"):
        settings_from(file, Settings)
    file.write_text("seed: 3\n")
    with pytest.raises(DataError, match="own.yaml: .*'width'"):
        settings_from(file, Settings)


def test_a_run_of_no_length_is_refused():
    assert lasting(SETTINGS, None, 0.5) is SETTINGS
    assert lasting(SETTINGS, 3, None).steps == 3
    with pytest.raises(DataError, match="--steps 0"):
        lasting(SETTINGS, 0, None)
    for minutes in (0, -1, float("inf"), float("nan")):
        with pytest.raises(DataError, match="--minutes"):
            lasting(SETTINGS, None, minutes)


def test_a_folder_or_a_device_that_is_not_there_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file"):
        Line(SETTINGS, tmp_path / "file")
    with pytest.raises(ModelError, match="abacus"):
        Line(SETTINGS, tmp_path / "run", "", "abacus")
