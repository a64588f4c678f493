"""The references that learn from masks: they resume exactly, never see an evaluated world, and see only the masks they may."""

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from book_texts import ROOT
from safetensors.torch import load_file
from test_store import report
from training_cases import kill_after, losses

from ovsslib import comparators, paths
from ovsslib.comparators import embedded
from ovsslib.errors import DataError, ModelError
from ovsslib.networks.deeplab import MaskDecoder, word_features
from ovsslib.recipe import Recipe
from ovsslib.scenes import SPLIT_SEEDS
from ovsslib.scenes.classes import CLASSES, STUFF
from ovsslib.scenes.drawing import draw
from ovsslib.scenes.supervised import (
    MaskSettings,
    SupervisedTrainer,
    balanced_loss,
    labelled_views,
)
from ovsslib.scenes.word_pixels import (
    WordPixelSettings,
    WordPixelTrainer,
    shown_classes,
)

SMALL = {
    "width": 16, "pyramid": 16, "rates": (1,), "detail": 8, "seed": 3, "first_world": 900, "pool": 6, "fresh": 1,
    "steps": 12, "batch": 4, "size": 64, "lr": 1e-2, "warmup": 2, "bfloat16": False, "checkpoint_seconds": 1e9,
}  # fmt: skip
TINY = MaskSettings(**SMALL)
# It starts from a training-free method, whose loss is low: the same pictures all the time, and smaller steps.
TINY_WORDS = WordPixelSettings(**{**SMALL, "fresh": 0, "batch": 6, "lr": 2e-3})
KINDS = {
    "deeplabv3-scenes": (TINY, SupervisedTrainer),
    "lseg-scenes": (TINY_WORDS, WordPixelTrainer),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> dict[str, Path]:
    made = {}
    for name, (settings, trainer) in KINDS.items():
        made[name] = tmp_path_factory.mktemp("run")
        trainer.train(settings, made[name])
    return made


@pytest.mark.parametrize("name", KINDS)
def test_a_few_steps_lower_the_loss(name, finished):
    curve = losses(finished[name])
    assert curve.shape == (12,) and curve[-3:].mean() < 0.9 * curve[:3].mean()


@pytest.mark.parametrize("name", KINDS)
def test_a_stopped_run_goes_on_to_the_same_weights(name, finished, tmp_path):
    settings, trainer = KINDS[name]
    stopped = trainer(settings, tmp_path)
    for step in range(5):
        stopped.learn(step / 12)
    stopped.save()
    trainer.train(settings, tmp_path)
    np.testing.assert_array_equal(losses(tmp_path), losses(finished[name]))
    for file in ("model.safetensors", "config.json"):
        first, again = (folder / file for folder in (finished[name], tmp_path))
        if file == "config.json":
            assert first.read_bytes() == again.read_bytes()
        else:
            states = [load_file(one) for one in (first, again)]
            assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_killed_run_resumes_to_the_same_losses(name, finished, tmp_path):
    code = (
        "from dataclasses import replace; from test_supervised import KINDS; "
        f"settings, trainer = KINDS[{name!r}]; trainer.train(replace(settings, checkpoint_seconds=0.0), out)"
    )
    kill_after(4, code, tmp_path)
    settings, trainer = KINDS[name]
    run = trainer(settings, tmp_path)
    assert run.resume() and 0 < run.step < 12
    trainer.train(settings, tmp_path)
    np.testing.assert_allclose(losses(tmp_path), losses(finished[name]), rtol=0, atol=1e-6)


def test_another_trunk_or_split_is_not_resumed(finished, tmp_path):
    shutil.copy(finished["lseg-scenes"] / "checkpoint.pt", tmp_path)
    with pytest.raises(DataError, match="made with other settings"):
        WordPixelTrainer(replace(TINY_WORDS, split=2), tmp_path).resume()
    trainer = WordPixelTrainer(TINY_WORDS, tmp_path)
    assert trainer.origin == trainer.backbone.weights_hash
    trainer.origin = "another"
    with pytest.raises(DataError, match="from other weights"):
        trainer.resume()


@pytest.mark.parametrize("name", KINDS)
def test_what_is_written_is_the_comparator(name, finished):
    model = comparators.load(name, finished[name])
    scene = draw(900, 1)
    result = model(scene.image, ["sky", "brick wall", "man"])
    assert result.mask.shape == scene.labels.shape
    settings, trainer = KINDS[name]
    made = trainer(settings, finished[name])
    made.resume()
    own, there = made.net.entry[0].weight, model.network.model.entry[0].weight
    torch.testing.assert_close(there, own.detach().contiguous(), atol=1e-3, rtol=1e-3)
    # SceneCLIP is not written a second time
    assert (finished[name] / "model.safetensors").stat().st_size < 2e5
    assert model.backbone.configuration["trunk_hash"] == made.backbone.weights_hash
    if name == "deeplabv3-scenes":
        assert model.labels == CLASSES and model.about.group == "supervised, closed vocabulary"
        assert model.lacks(["man", "otter"]) == ["otter"]
    else:
        assert model.labels is None and model.about.group == "trained with masks"
        assert model.backbone.configuration["shown"] == [CLASSES[i] for i in shown_classes(1)]


def test_before_training_the_stand_in_is_a_training_free_method(tmp_path):
    trainer = WordPixelTrainer(TINY_WORDS, tmp_path)
    pixels = torch.rand(1, 3, 64, 64)
    found = trainer.net.read(trainer.backbone, pixels)
    tokens = trainer.backbone.trunk(pixels).tokens
    expected = word_features(trainer.backbone, tokens)[:, 1:]
    torch.testing.assert_close(
        found[:, -trainer.backbone.dim :].flatten(2).transpose(1, 2), expected
    )
    enlarged = torch.nn.functional.interpolate(
        expected.transpose(1, 2).unflatten(2, (4, 4)), size=(16, 16), mode="bilinear"
    )
    with torch.no_grad():
        torch.testing.assert_close(trainer.net.eval()(found, pixels), enlarged)


def test_its_features_are_those_of_sclip():
    """The library's own recipe, in whose last block queries and keys attend to their like."""
    import ovsslib

    segmenter = ovsslib.load("sclip", model="sceneclip")
    pixels = torch.rand(1, 3, 224, 224)
    theirs = torch.nn.functional.normalize(segmenter.features(pixels), dim=-1)
    tokens = segmenter.backbone.trunk(pixels).tokens
    ours = word_features(segmenter.backbone, tokens)[:, 1:].unflatten(1, (14, 14))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_half_of_stuff_and_half_of_things_are_shown():
    for split in (1, 2, 3):
        chosen = shown_classes(split)
        stuff = [index for index in chosen if index < len(STUFF)]
        assert len(stuff) == 7 and len(chosen) == 17 and sorted(set(chosen)) == list(chosen)
    assert shown_classes(1) == shown_classes(1) != shown_classes(2)


def test_masks_of_the_other_classes_are_never_in_the_loss(tmp_path):
    trainer = WordPixelTrainer(TINY_WORDS, tmp_path)
    told = trainer.told_classes
    assert trainer.words.shape == (17, trainer.backbone.dim)
    scene = draw(900, 1)
    _, _, labels = trainer.view(scene, 1)
    whole = SupervisedTrainer(TINY, tmp_path / "all")
    everything = whole.view(scene, 1)[2]
    hidden = ~torch.isin(everything, torch.tensor(told, dtype=torch.uint8))
    assert hidden.any() and (labels[hidden] == 255).all()
    assert torch.equal(torch.tensor(told)[labels[~hidden].long()], everything[~hidden].long())
    # what the network says there changes nothing
    logits, wanted = torch.randn(1, 17, 16, 16), labels.long()[None]
    other = torch.where(wanted[:, None] == 255, logits + torch.randn(1, 17, 16, 16), logits)
    assert torch.equal(balanced_loss(logits, wanted, 0.5), balanced_loss(other, wanted, 0.5))


def test_rare_classes_weigh_more_by_the_root_of_their_pixels():
    logits = torch.randn(1, 3, 4, 4)
    wanted = torch.zeros(1, 4, 4, dtype=torch.long)
    wanted[0, 0, 0], wanted[0, 1] = 2, 255
    each = torch.nn.functional.cross_entropy(logits, wanted.clamp(max=2), reduction="none")[0]
    many, rare = each[wanted[0] == 0], each[wanted[0] == 2]
    expected = (many.sum() * 11**-0.5 + rare.sum()) / (11 * 11**-0.5 + 1)
    torch.testing.assert_close(balanced_loss(logits, wanted, 0.5), expected)


def test_the_card_is_filled_from_the_weights_and_the_reports(finished):
    spec = importlib.util.spec_from_file_location("card", ROOT / "scripts/fill_supervised_card.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    told = script.trained(finished["deeplabv3-scenes"] / "model.safetensors")
    assert "| steps | 12, seed 3 |" in told and "| views | 48, with labels" in told
    assert "| pictures | 17 drawn ones" in told
    one = report(Recipe("deeplabv3-scenes"), seed=4)
    stuff = np.arange(len(one.names)) == 0
    text = script.measured(dict.fromkeys(script.PROFILES, one), stuff)
    assert text.count(f"| {one.images} |") == 3 and f"{one.miou:.1f}" in text
    assert f"Mean IoU of stuff and materials {one.per_class.iloc[0]:.1f} %" in text
    halves = script.by_halves({"one": one}, (one.names[0],))
    assert f"{one.per_class.iloc[0]:.1f}" in halves and "Masks were shown of 1 classes" in halves
    for name in KINDS:
        card = paths.data(f"models/{name}/card.md").read_text(encoding="utf-8")
        assert card.count(script.BEGIN) == 1 and card.count(script.END) == 1


def test_without_shipped_weights_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "data", lambda name: tmp_path / name)
    monkeypatch.setattr(paths, "cache_path", lambda name: tmp_path / name)
    for name in KINDS:
        with pytest.raises(ModelError, match=f"ovss pretrain {name}"):
            embedded._folder(comparators.known(name), None)


@pytest.mark.parametrize("name", KINDS)
def test_the_shipped_settings_make_a_small_network_and_draw_training_worlds_only(name):
    settings = KINDS[name][1].read_settings(paths.data(f"models/{name}.yaml"))
    net = MaskDecoder(
        34, 128, settings.blocks, settings.width, settings.pyramid, settings.rates, settings.detail
    )
    assert 2 * sum(weight.numel() for weight in net.parameters()) < 1e6  # bytes of float16
    last = settings.pool + settings.steps * settings.fresh
    worlds = range(settings.first_world, settings.first_world + last // 100 + 1)
    assert not set(worlds) & {SPLIT_SEEDS[split] for split in ("dev", "val", "test")}


def test_the_pool_has_views_that_depend_on_their_pictures_alone(tmp_path):
    trainer = SupervisedTrainer(TINY, tmp_path)
    pool = list(trainer.pool.at(2))
    assert len(pool) == TINY.pool
    again = trainer.view(draw(TINY.first_world, 4), 4)
    for kept, made in zip(pool[2], again, strict=True):
        assert torch.equal(kept, made)
    tokens, pixels, labels = again
    assert (
        tokens.shape == (3 * 128, 4, 4) and pixels.shape == (3, 64, 64) and labels.shape == (16, 16)
    )


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
        ({"size": 60}, "multiple of 16"),
        ({"size": 232}, "at most 224"),
        ({"batch": 7}, "pool of 6"),
        ({"scales": (1.2, 0.8)}, "the least one first"),
        ({"balance": 1.5}, "between 0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, match):
    with pytest.raises(DataError, match=match):
        replace(TINY, **wrong)


def test_a_temperature_above_zero_is_asked_for():
    with pytest.raises(DataError, match="temperature 0"):
        replace(TINY_WORDS, temperature=0.0)


def test_blocks_and_rates_are_asked_for():
    with pytest.raises(ModelError, match="one or more blocks"):
        MaskDecoder(3, 8, blocks=())
