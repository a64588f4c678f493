"""Hooks for all windows and for the network picture's size; labels that follow strips; padding and stretching."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import relative_error

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe, registry, stage
from ovsslib.segmenter import Segmenter, finishing
from ovsslib.stages.windows import WindowSettings

WORDS = ["cat", "dog", "grass", "sky"]
SMALL = {"windows": {"short_side": 64, "crop": 48, "stride": 16}, "text.templates": ("a {}.",)}


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


@pytest.fixture
def image():
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3))
    return np.kron(coarse, np.ones((19, 17, 1))).astype(np.uint8)


def probe(point: str, capabilities=(), **hooks):
    members = {"version": 1, "capabilities": frozenset(capabilities), **hooks}
    members["__annotations__"] = {"version": ClassVar[int], "capabilities": ClassVar[frozenset]}
    made = dataclasses.dataclass(frozen=True)(type("Probe", (), members))
    return stage("probe", point=point, summary="a probe")(made)


def test_all_windows_are_seen_together_and_may_be_changed(tiny_backbone, tiny_inputs):
    seen = []

    def together(self, logits, context):
        seen.append((logits.shape, context.windows.shape, len(context.grid)))
        return logits - logits.mean(dim=0, keepdim=True)

    probe("similarity", on_all_windows=together)
    plain = Recipe("p").but(SMALL)
    pixels, text = tiny_inputs["image_80x112"], tiny_inputs["text"]
    ours = Segmenter(tiny_backbone, plain.but(probe=True)).logits(pixels, text)
    grid = plain["windows"].boxes(80, 112)
    assert seen == [((len(grid), 6, 3, 3), (len(grid), 3, 48, 48), len(grid))]
    assert relative_error(ours, Segmenter(tiny_backbone, plain).logits(pixels, text)) > 0.1


def test_network_logits_are_those_of_the_network_picture(tiny_backbone, image):
    """Doubled where the network picture has its left half, then resized to the photograph."""

    def double(self, logits, context):
        assert logits.shape[-2:] == context.network_picture.shape[-2:] == (64, 80)
        logits = logits.clone()
        logits[:, :, :40] *= 2
        return logits

    probe("refine", on_network_logits=double)
    recipe = Recipe("p").but(SMALL)
    segmenter = Segmenter(tiny_backbone, recipe.but(probe=True))
    assert segmenter.is_local()
    text = segmenter.text(WORDS)
    pixels = segmenter.prepare(image)
    plain = Segmenter(tiny_backbone, recipe).logits(pixels[None], text.features)
    plain[..., :40] *= 2
    expected = F.interpolate(plain, size=image.shape[:2], mode="bilinear")[0]
    result = segmenter.segment(image, text, keep_scores=True)
    scores = torch.from_numpy(result.scores)
    assert relative_error(scores, (40 * expected).softmax(0)) < 1e-4
    assert (segmenter.segment(image, text).mask == result.mask).all()


@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_what_follows_labels_gives_the_same_by_strips(threshold, tiny_backbone, image, monkeypatch):
    """Closing and stages on labels see the whole map; the confidence is that of the final labels."""
    probe("labels", on_labels=lambda self, labels, context: np.maximum(labels, 1))
    changes = {"labels": {"closing": 3, "probability_threshold": threshold}, "probe": True}
    segmenter = Segmenter(tiny_backbone, Recipe("p").but(SMALL).but(changes))
    text, pixels = segmenter.text(WORDS, background=["wall"]), segmenter.prepare(image)
    from ovsslib.segmenter import window_logits_of

    def made(**more):
        stitched = window_logits_of([segmenter], pixels, [segmenter.words(text)], image.shape[:2])
        return segmenter.finish(stitched[0], image, pixels, text, confidence=True, **more)

    whole = made(keep_scores=True)
    monkeypatch.setattr(finishing, "STRIP", 5 * image.shape[1] * 7)
    strips = made()
    assert strips.scores is None and whole.scores is not None
    assert (strips.labels == whole.labels).all() and strips.labels.min() == 1
    np.testing.assert_allclose(strips.confidence, whole.confidence, atol=1e-5)
    np.testing.assert_allclose(strips.margin, whole.margin, atol=1e-5)


def test_a_stage_that_reads_scores_gets_them_and_may_put_others_in_their_place(
    tiny_backbone, image
):
    def swap(self, labels, context):
        assert context.scores.shape == (4, *image.shape[:2])
        assert (context.scores.argmax(0).numpy() == labels).all()
        context.scores = context.scores.flip(0)
        return 3 - labels

    probe("labels", capabilities={"reads_scores"}, on_labels=swap)
    recipe = Recipe("p").but(SMALL)
    segmenter = Segmenter(tiny_backbone, recipe.but(probe=True))
    assert not segmenter.is_local()
    result = segmenter(image, WORDS, keep_scores=True)
    plain = Segmenter(tiny_backbone, recipe)(image, WORDS, keep_scores=True)
    assert (result.mask == 3 - plain.mask).all()
    np.testing.assert_array_equal(result.scores, plain.scores[::-1])


def test_black_padding_lies_right_and_below(tiny_backbone):
    settings = WindowSettings(crop=0, pad_to=16, padding="black")
    grid = settings.boxes(40, 55)
    assert grid.pad == (0, 8, 0, 9)
    pixels = torch.ones(3, 40, 55)
    (crop,) = grid.crops(pixels, settings.fill(tiny_backbone))
    assert crop.shape == (3, 48, 64) and (crop[:, :40, :55] == 1).all()
    mean, std = (torch.tensor(v) for v in tiny_backbone.normalisation)
    for part in (crop[:, 40:], crop[:, :, 55:]):
        assert torch.equal(part, (-mean / std)[:, None, None].expand_as(part))
    assert WindowSettings(pad_to=16).boxes(40, 55).pad == (4, 4, 4, 5)
    inert = Recipe("x").but({"windows.padding": "black"}).inert()
    assert set(inert) == {"windows.padding"}


@pytest.mark.parametrize(
    ("size", "crop", "expected"),
    [
        ((448, 597), 336, (464, 608)),  # 448 * 608 / 597 = 456.3
        ((597, 448), 336, (608, 464)),
        ((448, 608), 336, (448, 608)),
        ((450, 608), 336, (464, 608)),
        ((100, 500), 336, (336, 512)),
        ((100, 96), 0, (112, 112)),
    ],
)
def test_pictures_are_stretched_to_multiples(size, crop, expected, tiny_backbone):
    settings = WindowSettings(crop=crop, stride=16, multiple=16)
    assert settings.stretched(*size) == expected
    assert WindowSettings(crop=crop, stride=16).stretched(*size) == size
    recipe = Recipe("x").but(
        {"windows": {"short_side": 50, "multiple": 16, "crop": 64, "stride": 32}}
    )
    pixels = Segmenter(tiny_backbone, recipe).prepare(np.zeros((50, 71, 3), np.uint8))
    assert pixels.shape == (3, 64, 80)


def test_sizes_below_zero_are_refused():
    for name in ("pad_to", "multiple"):
        with pytest.raises(RecipeError, match=f"windows.{name}=-1"):
            WindowSettings(**{name: -1})
