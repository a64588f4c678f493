"""The supervised reference: it learns from masks, it resumes exactly, and it never sees an evaluated world."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from book_texts import ROOT
from test_store import report
from training_cases import losses

from ovsslib import comparators, paths
from ovsslib.comparators import loading
from ovsslib.errors import DataError, ModelError
from ovsslib.networks.deeplab import SmallDeepLab
from ovsslib.recipe import Recipe
from ovsslib.scenes import SPLIT_SEEDS
from ovsslib.scenes.classes import CLASSES
from ovsslib.scenes.drawing import draw
from ovsslib.scenes.supervised import (
    SupervisedSettings,
    SupervisedTrainer,
    labelled_views,
    pretrain_supervised,
    read_supervised_settings,
)

TINY = SupervisedSettings(
    stem=8, planes=(4, 4, 4), blocks=(1, 1, 1), rates=(1, 2), seed=3, first_world=900, pool=6, fresh=0, steps=12,
    batch=4, size=64, lr=1e-2, warmup=2, bfloat16=False, checkpoint_seconds=1e9,
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run")
    pretrain_supervised(TINY, out)
    return out


def test_a_few_steps_lower_the_loss(finished):
    curve = losses(finished)
    assert curve.shape == (12,) and curve[-3:].mean() < curve[:3].mean() - 0.3


def test_a_stopped_run_goes_on_to_the_same_losses(finished, tmp_path):
    trainer = SupervisedTrainer(TINY, tmp_path)
    for step in range(5):
        trainer.learn(step / 12)
    trainer.save()
    pretrain_supervised(TINY, tmp_path)
    np.testing.assert_allclose(losses(tmp_path), losses(finished), rtol=0, atol=1e-6)


def test_what_is_written_is_the_comparator(finished):
    model = comparators.load("deeplabv3-scenes", finished)
    assert model.labels == CLASSES and model.about.group == "supervised, closed vocabulary"
    scene = draw(900, 1)
    result = model(scene.image, ["sky", "brick wall", "man"])
    assert result.mask.shape == scene.labels.shape and model.lacks(["man", "otter"]) == ["otter"]
    trainer = SupervisedTrainer(TINY, finished)
    trainer.resume()
    own = trainer.net.trunk[0][0].weight
    there = model.network.model.trunk[0][0].weight
    torch.testing.assert_close(there, own.detach().contiguous(), atol=1e-3, rtol=1e-3)
    assert (finished / "model.safetensors").stat().st_size < 5e6


def test_the_card_is_filled_from_the_weights_and_the_reports(finished):
    spec = importlib.util.spec_from_file_location("card", ROOT / "scripts/fill_supervised_card.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    told = script.trained(finished / "model.safetensors")
    assert "| steps | 12, seed 3 |" in told and "| views | 48, with labels" in told
    assert "| pictures | 6 drawn ones" in told
    one = report(Recipe("deeplabv3-scenes"), seed=4)
    stuff = np.arange(len(one.names)) == 0
    text = script.measured(dict.fromkeys(script.PROFILES, one), stuff)
    assert text.count(f"| {one.images} |") == 3 and f"{one.miou:.1f}" in text
    assert f"Mean IoU of stuff and materials {one.per_class.iloc[0]:.1f} %" in text
    card = (paths.data("models/deeplabv3-scenes/card.md")).read_text(encoding="utf-8")
    assert card.count(script.BEGIN) == 1 and card.count(script.END) == 1


def test_without_shipped_weights_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "data", lambda name: tmp_path / name)
    about = comparators.known("deeplabv3-scenes")
    with pytest.raises(ModelError, match="ovss pretrain deeplabv3-scenes"):
        loading._embedded_network(about, None)


def test_the_shipped_settings_make_a_small_network_and_draw_training_worlds_only():
    settings = read_supervised_settings(paths.data("models/deeplabv3-scenes.yaml"))
    net = SmallDeepLab(
        len(CLASSES), settings.stem, settings.planes, settings.blocks, settings.rates
    )
    assert 2 * sum(weight.numel() for weight in net.parameters()) < 4.6e6  # bytes of float16
    last = settings.pool + settings.steps * settings.fresh
    worlds = range(settings.first_world, settings.first_world + last // 100 + 1)
    assert not set(worlds) & {SPLIT_SEEDS[split] for split in ("dev", "val", "test")}


def test_the_pool_has_pictures_with_their_labels(tmp_path):
    pool = SupervisedTrainer(TINY, tmp_path).pool.at(0)
    assert len(pool) == TINY.pool
    for index, (image, labels) in enumerate(pool):
        scene = draw(TINY.first_world, index)
        np.testing.assert_array_equal(image, scene.image)
        np.testing.assert_array_equal(labels, scene.labels)


def test_labels_stay_with_their_pixels(monkeypatch):
    """A picture whose grey level is its label: after any crop, mirror and zoom both still agree."""
    from ovsslib.scenes import supervised

    monkeypatch.setattr(supervised, "jitter", lambda pixels, generator: pixels)
    labels = torch.zeros(5, 96, 128, dtype=torch.uint8)
    labels[:, 30:, :50] = 7
    labels[:, :60, 70:] = 19
    images = labels[..., None].expand(-1, -1, -1, 3)
    generator = torch.Generator().manual_seed(0)
    pixels, wanted = labelled_views(images, labels, 64, (0.7, 1.1), generator)
    assert pixels.shape == (5, 3, 64, 64) and wanted.shape == (5, 16, 16)
    seen = (pixels[:, 0] * 255).unfold(1, 4, 4).unfold(2, 4, 4).mean((-1, -2))
    inside = (seen - seen.round()).abs() < 1e-3  # cells without an outline in them
    assert inside.float().mean() > 0.6
    torch.testing.assert_close(seen[inside].round().long(), wanted[inside])
    assert len({one.flatten().tolist().count(0) for one in wanted}) > 1, "all views are one"


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"size": 60}, "multiple of 8"),
        ({"size": 232}, "at most 224"),
        ({"batch": 7}, "pool of 6"),
        ({"scales": (1.2, 0.8)}, "the least one first"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, match):
    with pytest.raises(DataError, match=match):
        replace(TINY, **wrong)


def test_three_groups_of_planes_are_asked_for():
    with pytest.raises(ModelError, match="three planes"):
        SmallDeepLab(3, planes=(8, 8))
