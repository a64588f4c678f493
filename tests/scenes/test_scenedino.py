"""SceneDINO's pretraining: it learns, it resumes exactly after a kill, and it sees pictures alone."""

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_cases import kill_after, losses

from ovsslib import guides, paths
from ovsslib.errors import DataError
from ovsslib.scenes import scenedino, views
from ovsslib.scenes.drawing import draw
from ovsslib.scenes.scenedino import (
    SceneDinoSettings,
    SceneDinoTrainer,
    contrast,
    waves,
)
from ovsslib.scenes.views import DrawnPool, Views, image_of, token_places, view_pair

TINY = SceneDinoSettings(
    width=32, depth=2, heads=2, native=8, seed=3, first_world=900, pool=8, fresh=1, steps=30, batch=6, size=48,
    places=12, head=16, lr=4e-3, warmup=3, checkpoint_seconds=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run")
    SceneDinoTrainer.train(replace(TINY, checkpoint_seconds=1e9), out)
    return out


def test_thirty_steps_lower_the_loss(finished):
    curve = losses(finished)
    assert curve.shape == (30,)
    assert curve[-5:].mean() < curve[:5].mean() - 0.3


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_losses(finished, tmp_path):
    code = "from test_scenedino import TINY, SceneDinoTrainer; SceneDinoTrainer.train(TINY, out)"
    kill_after(5, code, tmp_path)
    trainer = SceneDinoTrainer(TINY, tmp_path)
    assert trainer.resume() and 0 < trainer.step < 30
    SceneDinoTrainer.train(TINY, tmp_path)
    np.testing.assert_allclose(losses(tmp_path), losses(finished), rtol=0, atol=1e-6)


def test_what_is_written_is_a_guide(finished):
    guide = guides.load(finished)
    assert (guide.dim, guide.layers, guide.heads, guide.patch_size) == (32, 2, 2, 8)
    features = guide.features(guide.normalise(torch.rand(1, 3, 64, 80)))
    assert features.shape == (1, 32, 8, 10)
    trainer = SceneDinoTrainer(TINY, finished)
    trainer.resume()
    own = trainer.teacher.vit.norm.weight
    torch.testing.assert_close(guide.network.norm.weight, own.detach(), atol=1e-3, rtol=1e-3)


def test_no_mask_caption_or_label_enters():
    pool = DrawnPool(7, 3, 1, image_of).at(0)
    assert all(type(image) is np.ndarray and image.dtype == np.uint8 for image in pool)
    for module in (views, scenedino):
        source = inspect.getsource(module)
        for word in (".labels", ".instances", ".objects", ".parts", "caption(", "crops_of"):
            assert word not in source


def test_the_pool_depends_on_the_step_alone():
    straight = DrawnPool(7, 4, 2, image_of)
    for step in range(3):
        last = list(straight.at(step))
    jumped = list(DrawnPool(7, 4, 2, image_of).at(2))
    assert len(last) == 4
    for index, (a, b) in enumerate(zip(last, jumped, strict=True)):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, draw(7, 4 + index).image)
    again = straight.at(0)
    np.testing.assert_array_equal(again[0], draw(7, 0).image)


def test_training_never_draws_a_world_that_is_evaluated():
    settings = SceneDinoTrainer.read_settings(paths.data("models/scenedino.yaml"))
    last = settings.pool + settings.steps * settings.fresh
    worlds = range(settings.first_world, settings.first_world + last // 500 + 1)
    assert not set(worlds) & {1, 2, 3, 4, 12}


def test_places_of_two_views_meet_in_the_picture():
    picture = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    picture[0, 20:24, 30:34] = 255
    view = Views(picture, torch.tensor([[32.0, 22.0]]), torch.tensor([20.0]), torch.tensor([-1.0]))
    places = token_places(5)[None]
    there = view.to_picture(places)
    torch.testing.assert_close(there[0, 2, 2], torch.tensor([32.0, 22.0]))
    torch.testing.assert_close(
        there[0, 0, 0], torch.tensor([40.0, 14.0])
    )  # mirrored: left is right
    torch.testing.assert_close(view.from_picture(there), places)


def test_views_show_the_same_places(monkeypatch):
    monkeypatch.setattr(views, "jitter", lambda pixels, generator: pixels)
    rows, columns = torch.meshgrid(torch.arange(96), torch.arange(128), indexing="ij")
    ramp = torch.stack([rows * 2, columns * 2 - 20, rows + columns], -1).clamp(0, 255)
    images = ramp.to(torch.uint8)[None].expand(4, -1, -1, -1)
    first, second = view_pair(images, 48, (0.7, 1.5), torch.Generator().manual_seed(0))
    assert first.pixels.shape == (4, 3, 48, 48)
    places = token_places(48)[None].expand(4, -1, -1, -1)
    seen = second.to_picture(first.from_picture(second.to_picture(places)))
    assert seen.shape == (4, 48, 48, 2)
    for view in (first, second):
        where = view.to_picture(places)
        assert where[..., 0].min() >= 0 and where[..., 0].max() <= 128
        assert where[..., 1].min() >= 0 and where[..., 1].max() <= 96
        expected = (where[..., 1] - 0.5) * 2 / 255
        torch.testing.assert_close(view.pixels[:, 0], expected.clamp(0, 1), atol=0.02, rtol=0)
    overlap = (first.from_picture(second.to_picture(places)).abs() < 1).all(-1).flatten(1)
    assert (overlap.float().mean(1) > 0.05).all()


def test_the_loss_is_least_for_answers_that_agree():
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(40, 16, generator=generator)
    right, same = contrast(wanted, wanted, TINY)
    wrong, none = contrast(wanted.roll(1, 0), wanted, TINY)
    assert right < wrong - 1 and same == 1 and none == 0
    hard = replace(TINY, soft=0.0)
    cosines = torch.nn.functional.normalize(wanted - wanted.mean(0), dim=-1)
    logits = cosines @ cosines.T / hard.temperature
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(40))
    torch.testing.assert_close(contrast(wanted, wanted, hard)[0], expected)


def test_neighbouring_positions_start_alike():
    table = torch.nn.functional.normalize(waves(6, 32), dim=-1)
    cosines = (table @ table.T)[14]
    assert cosines[15] > cosines[17] and cosines[20] > cosines[32]


def test_settings_out_of_range_and_unknown_names(tmp_path):
    with pytest.raises(DataError, match="size 50"):
        replace(TINY, size=50)
    with pytest.raises(DataError, match="heads 5"):
        replace(TINY, heads=5)
    with pytest.raises(DataError, match="hidden 0.6 and dropped 0.5"):
        replace(TINY, hidden=0.6, dropped=0.5)
    with pytest.raises(DataError, match="batch 9"):
        replace(TINY, batch=9)
    with pytest.raises(DataError, match="places 40"):
        replace(TINY, places=40)
    file = tmp_path / "own.yaml"
    file.write_text("widht: 3")
    with pytest.raises(DataError, match="'widht'.*width"):
        SceneDinoTrainer.read_settings(file)
    file.write_text("scales: [0.5, 2]")
    assert SceneDinoTrainer.read_settings(file).scales == (0.5, 2)
