"""RF-CLIP's trunk: sinks, denoising, redistribution, and the channels that belong to one set of
weights.
"""

import copy
import hashlib
import json
from types import SimpleNamespace

import pytest
import torch
from conftest import relative_error, vectors

from ovsslib.clip.sinks import (
    channel_shares,
    fit_sink_channels,
    released_channels,
)
from ovsslib.errors import ModelError, RecipeError
from ovsslib.paths import data
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages.refocus_attention import RefocusAttentionSettings, refocus
from ovsslib.stages.sink_denoise import SinkDenoiseSettings, denoise, sinks

RFCLIP = vectors("rf-clip")
CHANNELS = tuple(RFCLIP["sink_channels"].tolist())


def test_masks_and_trunk_agree_with_the_official_code(tiny_backbone, tiny_inputs):
    recipe = Recipe("x").but(sink_denoise={"channels": CHANNELS, "sigma": 1.6})
    segmenter = Segmenter(tiny_backbone, recipe)
    masks, plain = [], tiny_backbone.trunk(tiny_inputs["image_80x112"]).tokens

    def watch(tokens, index, grid):
        masks.append(sinks(tokens[0, 1:], CHANNELS, 1.6))
        return segmenter.last_block.after_block(tokens, index, grid)

    pixels = tiny_inputs["image_80x112"]
    trunk = tiny_backbone.trunk(pixels, after_block=watch)
    final = tiny_backbone.plain_last_block(trunk.tokens)
    masks.append(sinks(final[0, 1:], CHANNELS, 1.6))
    assert torch.equal(torch.stack(masks), RFCLIP["masks__80x112"])
    assert relative_error(segmenter.trunk(pixels).tokens[0], RFCLIP["trunk__80x112"]) < 1e-4
    assert relative_error(plain[0], RFCLIP["trunk__80x112"]) > 1e-2


def test_a_sink_is_mixed_with_nine_cells_and_the_others_stay():
    tokens = torch.randn(1, 13, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 12, dtype=torch.bool)
    mask[0, [0, 5]] = True  # a corner and an inner cell of 3 x 4
    ours = denoise(tokens, (3, 4), mask, 0.4)
    patches = tokens[0, 1:].reshape(3, 4, 8)
    corner = 0.6 * patches[0, 0] + 0.4 * patches[:2, :2].sum(dim=(0, 1)) / 9
    inner = 0.6 * patches[1, 1] + 0.4 * patches[:3, :3].sum(dim=(0, 1)) / 9
    torch.testing.assert_close(ours[0, 1], corner)
    torch.testing.assert_close(ours[0, 6], inner)
    kept = [0, *(1 + i for i in range(12) if i not in (0, 5))]
    assert torch.equal(ours[0, kept], tokens[0, kept])
    assert denoise(tokens, (3, 4), mask.logical_and(torch.tensor(False)), 0.4) is tokens


def test_half_precision_and_batches(tiny_inputs):
    tokens = torch.randn(2, 13, 64, generator=torch.Generator().manual_seed(1))
    mask = sinks(tokens[:, 1:], CHANNELS, 1.6)
    assert mask.any() and not mask.all()
    both = denoise(tokens, (3, 4), mask, 0.4)
    for index in range(2):
        one = denoise(tokens[index : index + 1], (3, 4), mask[index : index + 1], 0.4)
        torch.testing.assert_close(both[index : index + 1], one)
    half = denoise(tokens.half(), (3, 4), mask, 0.4)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), both, atol=5e-3, rtol=5e-3)


def test_shares_sum_to_one():
    shares = channel_shares(torch.randn(3, 5, 7))
    torch.testing.assert_close(shares.sum(dim=-1), torch.ones(3, 5))
    assert shares.min() == 0
    assert channel_shares(torch.zeros(2, 4)).isfinite().all()


def test_redistribution_keeps_row_sums_and_the_class_token():
    weights = torch.rand(2, 3, 10, 10, generator=torch.Generator().manual_seed(2))
    weights[..., 4] += 3  # a sink
    weights = weights / weights.sum(dim=-1, keepdim=True)
    ours = refocus(weights, 0.2, 0.6)
    torch.testing.assert_close(ours.sum(dim=-1), weights.sum(dim=-1))
    assert torch.equal(ours[..., 0, :], weights[..., 0, :])
    assert torch.equal(ours[..., 0], weights[..., 0])
    torch.testing.assert_close(ours[..., 1:, 4], 0.6 * weights[..., 1:, 4])
    ratio = ours[..., 1:, 5] / weights[..., 1:, 5]
    torch.testing.assert_close(ratio, ours[..., 1:, 6] / weights[..., 1:, 6])
    assert refocus(weights, 0.99, 0.6) is weights


def test_released_channels_are_for_openai_weights_alone(tiny_backbone):
    def weights(name, pretrained="openai", digest="x"):
        return SimpleNamespace(name=name, pretrained=pretrained, weights_hash=digest, width=768)

    assert released_channels(weights("ViT-B-16-quickgelu"))[:2] == (4, 162)
    assert released_channels(weights("ViT-L-14", "/a/file.pt", "b8cca3fd41ae0c99"))[-1] == 1005
    for other in (weights("ViT-B-16", "laion2b"), weights("ViT-B-32"), weights("ViT-L-14-336")):
        with pytest.raises(RecipeError, match=f"{other.name}.*{other.pretrained}"):
            released_channels(other)
    with pytest.raises(RecipeError, match="'tiny'.*sink_denoise=false"):
        Segmenter(tiny_backbone, Recipe("x").but(sink_denoise=True))
    with pytest.raises(RecipeError, match="64 channels"):
        Segmenter(tiny_backbone, Recipe("x").but(sink_denoise={"channels": (64,)}))


def test_bad_values_are_refused_and_empty_ones_are_inert():
    for values in (
        {"channels": ()}, {"channels": (1, 1)}, {"channels": (-1,)}, {"sigma": 0.0}, {"alpha": 1.5},
    ):  # fmt: skip
        with pytest.raises(RecipeError, match=f"sink_denoise.{next(iter(values))}="):
            SinkDenoiseSettings(**values)
    for values in ({"threshold": 0.0}, {"beta": -0.1}):
        with pytest.raises(RecipeError, match=f"refocus_attention.{next(iter(values))}="):
            RefocusAttentionSettings(**values)
    recipe = Recipe("x").but(sink_denoise={"alpha": 0.0}, refocus_attention={"beta": 1.0})
    assert set(recipe.inert()) == {"sink_denoise", "refocus_attention"}


def pictures(count):
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(3, 64, 80, generator=generator) for _ in range(count)]


def test_a_planted_channel_is_found_and_recorded(tiny_backbone, tmp_path):
    """One channel made large before the first block stays large on every patch."""
    tower = copy.deepcopy(tiny_backbone)
    tower.visual.ln_pre.bias.data[17] += 4000.0
    record = fit_sink_channels(tower, pictures(50), sigma=5.0)
    assert record.channels == (17,) and record.frequency == (1.0,) and record.pictures == 50
    assert record.changes() == {"sink_denoise": {"channels": (17,), "sigma": 5.0}}
    stored = json.loads(record.save(tmp_path / "sinks.json").read_text())
    assert stored["channels"] == [17] and stored["weights_hash"] == "tiny"
    Segmenter(tower, Recipe("x").but(record.changes()))


def test_random_weights_have_no_sinks_and_few_pictures_are_refused(tiny_backbone):
    record = fit_sink_channels(tiny_backbone, pictures(50))
    assert record.channels == () and 1 < record.largest_share < 5
    with pytest.raises(RecipeError, match="weights tiny .*no sink channels"):
        record.changes()
    with pytest.raises(ModelError, match="49 pictures"):
        fit_sink_channels(tiny_backbone, pictures(49))
    with pytest.raises(RecipeError, match="most=0"):
        fit_sink_channels(tiny_backbone, pictures(1), most=0)


@pytest.mark.parametrize("name", ["sceneclip", "sceneclip-p32"])
def test_the_embedded_models_have_none_and_the_recipe_knows(name):
    """The stored record is of the shipped weights; run scripts/fit_sinks.py if this fails."""
    record = json.loads(data(f"models/{name}/sinks.json").read_text())
    weights = data(f"models/{name}/model.safetensors").read_bytes()
    assert record["weights_hash"] == hashlib.sha256(weights).hexdigest()[:16]
    assert record["channels"] == [] and record["pictures"] >= 50
    for view in ("scenes", "scenes-object", "scenes-things"):
        assert "sink_denoise" not in Recipe.named("rf-clip", view)
    assert Recipe.named("rf-clip", "voc21")["sink_denoise"].channels == "released"


def test_a_stage_of_the_trunk_is_told_each_block_once(tiny_backbone, tiny_inputs, monkeypatch):
    """Blocks are counted from 0; the last one's turn comes when its own output is asked for."""
    told = []
    monkeypatch.setattr(
        SinkDenoiseSettings,
        "on_block",
        lambda self, tokens, index, context: told.append(index) or tokens,
    )
    recipe = Recipe("r").but({"sink_denoise": {"channels": (1, 2)}, "windows.crop": 0})
    segmenter = Segmenter(tiny_backbone, recipe)
    trunk = segmenter.trunk(tiny_inputs["image_64x64"])
    assert told == list(range(11))
    segmenter.last_block.plain(trunk)
    assert told == list(range(12))
