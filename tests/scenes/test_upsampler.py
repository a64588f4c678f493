"""LoftUp's training for SceneCLIP: targets, a falling loss, the same weights after a kill."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from ovsslib.errors import DataError
from ovsslib.images.pictures import normalise
from ovsslib.recipe import Recipe
from ovsslib.scenes.crops import training_crops
from ovsslib.scenes.upsampler import (
    UpsamplerSettings,
    closer_look,
    feature_pairs,
    interpolation_loss,
    pretrain_upsampler,
    read_upsampler_settings,
)
from ovsslib.segmenter import Segmenter

SETTINGS = UpsamplerSettings(
    recipes=("maskclip",),
    seed=5,
    windows=8,
    stride=4,
    epochs=6,
    batch=4,
    lr=3e-3,
    threads=1,
    checkpoint_seconds=0,
)


@pytest.fixture(scope="module")
def segmenter(tiny_backbone):
    return Segmenter(tiny_backbone, Recipe.named("maskclip", "scenes"))


def test_closer_look_is_the_finer_grid_of_unit_features(segmenter):
    image, _ = next(training_crops(5, crop_size=64))
    fine = closer_look(segmenter, normalise(image), zoom=2, stride=4)
    assert fine.shape == (24, 8, 8)
    assert torch.allclose(fine.norm(dim=0), torch.ones(8, 8), atol=1e-5)


def test_closer_look_without_zoom_is_the_window_itself(segmenter):
    pixels = normalise(next(training_crops(5, crop_size=64))[0])
    own = torch.nn.functional.normalize(segmenter.features(pixels[None])[0], dim=-1)
    assert torch.allclose(closer_look(segmenter, pixels, 1, 4), own.permute(2, 0, 1), atol=1e-4)


def test_loss_falls_and_weights_are_written(tiny_backbone, tmp_path):
    card = pretrain_upsampler(SETTINGS, tmp_path, progress=False, backbone=tiny_backbone)
    assert card["loss_last"] < card["loss_first"]
    assert card["held_out_loss"] > 0 and card["held_out_loss_of_interpolation"] > 0
    assert "upsampler.final_conv.0.weight" in load_file(tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_killed_run_goes_on_to_the_same_weights(tiny_backbone, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    pretrain_upsampler(SETTINGS, whole, progress=False, backbone=tiny_backbone)
    from ovsslib.scenes import upsampler

    calls, real = [], upsampler._save

    def stop_after_four(*arguments):
        real(*arguments)
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(upsampler, "_save", stop_after_four)
    with pytest.raises(KeyboardInterrupt):
        pretrain_upsampler(SETTINGS, broken, progress=False, backbone=tiny_backbone)
    monkeypatch.setattr(upsampler, "_save", real)
    pretrain_upsampler(SETTINGS, broken, progress=False, backbone=tiny_backbone)
    one, two = load_file(whole / "model.safetensors"), load_file(broken / "model.safetensors")
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_checkpoint_of_other_settings_is_refused(tiny_backbone, tmp_path):
    pretrain_upsampler(SETTINGS, tmp_path, progress=False, backbone=tiny_backbone)
    other = dataclasses.replace(SETTINGS, lr=1e-2)
    with pytest.raises(DataError, match="other settings"):
        pretrain_upsampler(other, tmp_path, progress=False, backbone=tiny_backbone)


def test_interpolation_is_measured_the_same_way(tiny_backbone):
    pairs = feature_pairs(tiny_backbone, SETTINGS, 5, 2, progress=False)
    assert pairs.coarse.shape == (2, 24, 4, 4) and pairs.fine.shape == (2, 24, 8, 8)
    assert 0 < interpolation_loss(pairs) < 2


def test_settings_are_checked(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("windows: 3\nzom: 2\n")
    with pytest.raises(DataError, match="zom"):
        read_upsampler_settings(file)
    with pytest.raises(DataError, match="batch 0"):
        UpsamplerSettings(batch=0)
