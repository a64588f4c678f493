"""Stages that work on a picture by themselves: its pixels, the tower's own statistics, memory."""

import numpy as np
import pytest
import torch
from PIL import Image

from ovsslib.clip.backbone import Backbone
from ovsslib.images.preprocessing import clip_pixels, whole_patches
from ovsslib.recipe import Recipe, make_settings
from ovsslib.segmenter import PictureInput, Segmenter, Words, window_logits_of
from ovsslib.stages.contexts import WholePictureContext
from ovsslib.stages.whole_picture import own_pixels

SMALL = {"windows": {"short_side": 64, "crop": 64, "stride": 32}, "text.prompts": "none"}
STATISTICS = {"pixel_mean": (0.5, 0.4, 0.3), "pixel_std": (0.2, 0.25, 0.3)}


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


def context(backbone: Backbone, image, pixels=None) -> WholePictureContext:
    pixels = torch.zeros(3, 32, 48) if pixels is None else pixels
    return WholePictureContext(backbone, pixels, image, (50, 70), Words(torch.eye(24)[:2], 2))


def test_sides_are_rounded_up_to_whole_patches(tiny_backbone, photo):
    assert whole_patches(photo, 16).shape == (64, 80, 3)
    assert whole_patches(photo[:48, :64], 16).shape == (48, 64, 3)
    assert whole_patches(photo, 16, short_side=100).shape == (112, 144, 3)
    pixels = own_pixels(context(tiny_backbone, photo))
    resized = Image.fromarray(photo).resize((80, 64), Image.Resampling.BICUBIC)
    assert torch.equal(pixels[0], clip_pixels(np.asarray(resized)))
    assert own_pixels(context(tiny_backbone, photo), 16).shape == (1, 3, 16, 32)


def test_without_a_photograph_the_network_picture_is_taken(tiny_backbone):
    given = torch.rand(3, 32, 48)
    assert torch.equal(own_pixels(context(tiny_backbone, None, given))[0], given)


def test_a_tower_sees_its_own_statistics(tiny_backbone, photo):
    own = Backbone(tiny_backbone.model, name="own", weights_hash="own", **STATISTICS)
    seen = own_pixels(context(own, photo))[0]
    plain = seen * torch.tensor(STATISTICS["pixel_std"]).view(3, 1, 1)
    plain = plain + torch.tensor(STATISTICS["pixel_mean"]).view(3, 1, 1)
    assert (
        plain * 255 - torch.from_numpy(whole_patches(photo, 16)).permute(2, 0, 1)
    ).abs().max() < 1e-3


@pytest.mark.parametrize("name", ["clip_es", "car", "crop_pyramid", "reco"])
def test_every_stage_sees_the_picture_in_the_tower_s_own_statistics(
    name, tiny_backbone, photo, monkeypatch
):
    """Whatever goes through the trunk has the mean that the tower asks for (a grey picture is zero everywhere)."""
    grey = (0.5, 0.5, 0.5)
    own = Backbone(
        tiny_backbone.model, name="own", weights_hash="", pixel_mean=grey, pixel_std=grey
    )
    image, seen = np.full((50, 70, 3), 128, dtype=np.uint8), []
    trunk = Backbone.trunk

    def watched(self, pixels, *arguments, **keywords):
        seen.append(pixels)
        return trunk(self, pixels, *arguments, **keywords)

    values = {"pictures": 2, "imagenet_statistics": False} if name == "reco" else {}
    stage = make_settings(name, values)
    here = context(own, image, torch.full((3, 64, 80), 0.5 / 127.5))
    if name == "reco":
        references = torch.rand(2, 64)
        here.words.texts[stage] = {"references": references}
    monkeypatch.setattr(Backbone, "trunk", watched)
    logits = stage.picture_logits(here)
    assert torch.isfinite(logits).all() and seen
    assert all(pixels.abs().max() < 0.1 for pixels in seen[:1])


def test_maps_of_a_picture_go_to_its_size_in_one_resize(tiny_backbone, photo):
    recipe = Recipe("one").but(SMALL).but(clip_es={"logit_scale": 20.0})
    segmenter = Segmenter(tiny_backbone, recipe)
    text = segmenter.text(["cat", "dog"], ["wall"])
    whole = context(tiny_backbone, photo, segmenter.prepare(photo))
    whole.words = segmenter.words(text)
    maps = recipe["clip_es"].picture_logits(whole)
    expected = torch.nn.functional.interpolate(maps[None], size=(50, 70), mode="bilinear")[0]
    picture = PictureInput(segmenter.prepare(photo), photo)
    found = window_logits_of([segmenter], picture, [segmenter.words(text)], (50, 70))[0].full()
    assert (found - expected).abs().max() < 1e-5
