"""The opened tower: open_clip's own numbers, positions, precision, batches, odd sizes."""

import open_clip
import pytest
import torch
from conftest import TINY_CONFIG, relative_error

from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import build_model
from ovsslib.errors import ImageError, ModelError


def random_net(seed=0, **vision):
    torch.manual_seed(seed)
    config = {**TINY_CONFIG, "vision_cfg": {**TINY_CONFIG["vision_cfg"], **vision}}
    return build_model(config).eval()


def test_sizes_are_read_from_the_model(tiny_backbone):
    found = [
        getattr(tiny_backbone, name) for name in ("width", "heads", "layers", "patch_size", "dim")
    ]
    assert found == [64, 4, 12, 16, 24]
    assert tiny_backbone.base_grid == (4, 4) and tiny_backbone.image_size == (64, 64)
    assert tiny_backbone.scale == 0.25
    assert "tiny" in repr(tiny_backbone) and "fp32" in repr(tiny_backbone)


@pytest.mark.parametrize("patch", [16, 32])
def test_class_embedding_equals_open_clips(patch):
    net = random_net(patch_size=patch)
    pixels = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = net.encode_image(pixels)
    assert relative_error(Backbone(net, name="tiny").encode_image(pixels), theirs) < 1e-5


def test_text_equals_open_clips_for_rows_cut_short():
    net = random_net()
    backbone = Backbone(net, name="tiny")
    ids = backbone.tokenize(["a cat", "a photo of a very large dog on a sofa"])
    assert ids.shape == (2, 77) and ids.dtype == torch.long
    assert backbone.token_counts(["a cat", ""]) == [4, 2]
    with torch.no_grad():
        theirs = net.encode_text(ids)
    assert relative_error(backbone.encode_text(ids), theirs) < 1e-5
    longest = int(ids.argmax(-1).max()) + 1
    assert relative_error(backbone.encode_text(ids[:, :longest]), theirs) < 1e-5


def test_taps_and_inputs_are_those_of_the_blocks(tiny_backbone, tiny_inputs):
    pixels = tiny_inputs["image_80x112"]
    out = tiny_backbone.trunk(pixels, taps={0, 11}, inputs={0, 5, 11})
    assert set(out.taps) == {0, 11} and set(out.inputs) == {0, 5, 11} and out.grid == (5, 7)
    assert torch.equal(out.inputs[11], out.tokens)
    block = tiny_backbone.visual.transformer.resblocks
    tokens = out.inputs[0]
    for index in range(11):
        if index == 5:
            torch.testing.assert_close(tokens, out.inputs[5], atol=1e-4, rtol=1e-4)
        with torch.no_grad():
            tokens = block[index](tokens)
    torch.testing.assert_close(tokens, out.tokens, atol=1e-4, rtol=1e-4)
    assert out.taps[0].q.shape == (1, 4, 36, 16) and out.taps[0].normed.shape == (1, 36, 64)
    part = out[0:1]
    assert torch.equal(part.taps[11].k, out.taps[11].k) and part.grid == out.grid


@pytest.mark.parametrize("until", [0, 4, 10])
def test_a_pass_may_end_early_at_a_blocks_projections(until, tiny_backbone, tiny_inputs):
    pixels, visited = tiny_inputs["image_80x112"], []

    def after_block(tokens, block, grid):
        visited.append(block)
        return tokens * 1.01

    whole = tiny_backbone.trunk(pixels, {0, until}, {until}, after_block=after_block)
    assert visited == list(range(11))
    visited.clear()
    short = tiny_backbone.trunk(pixels, {0, until}, {until}, after_block=after_block, until=until)
    assert visited == list(range(until))
    assert set(short.taps) == {0, until} and short.grid == whole.grid
    for block in (0, until):
        for name in ("q", "k", "v", "normed"):
            theirs = getattr(whole.taps[block], name)
            assert torch.equal(getattr(short.taps[block], name), theirs)
    assert torch.equal(short.tokens, whole.inputs[until])
    assert torch.equal(short.inputs[until], whole.inputs[until])


def test_base_grid_uses_the_table_as_it_is(tiny_backbone):
    table = tiny_backbone.visual.positional_embedding
    assert torch.equal(tiny_backbone.positions((4, 4), "keep"), table)
    shifted = tiny_backbone.positions((4, 4))
    assert (shifted - table).abs().max() > 1e-3  # the published +0.1 moves the samples
    for grid in [(1, 1), (3, 17), (21, 28), (14, 14), (40, 128)]:
        assert tiny_backbone.positions(grid).shape == (1 + grid[0] * grid[1], 64)


@pytest.mark.parametrize("size", [(80, 112), (91, 130), (64, 70), (16, 40)])
def test_batches_of_seven_equal_single_pictures(size, tiny_backbone):
    pixels = torch.randn(7, 3, *size, generator=torch.Generator().manual_seed(2))
    together = tiny_backbone.trunk(pixels)
    assert together.grid == (size[0] // 16, size[1] // 16)
    for index in (0, 6):
        alone = tiny_backbone.trunk(pixels[index : index + 1])
        assert relative_error(alone.tokens[0], together.tokens[index]) < 1e-5


def test_pixels_behind_the_last_patch_are_not_seen(tiny_backbone):
    pixels = torch.randn(1, 3, 80, 112, generator=torch.Generator().manual_seed(3))
    more = torch.nn.functional.pad(pixels, (0, 9, 0, 15), value=5.0)
    assert torch.equal(tiny_backbone.trunk(more).tokens, tiny_backbone.trunk(pixels).tokens)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precisions_are_near_float32(precision):
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(4))
    full = Backbone(random_net(), name="tiny").encode_image(pixels)
    half = Backbone(random_net(), name="tiny", precision=precision)
    assert half.trunk(pixels).tokens.dtype == half.stream_dtype and half.dtype != torch.float32
    ours = half.encode_image(pixels)
    assert ours.dtype == torch.float32 and torch.isfinite(ours).all()
    assert torch.cosine_similarity(ours, full).min() > 0.99


def test_what_cannot_be_opened_is_refused():
    with pytest.raises(ModelError, match="precision='fp8'"):
        Backbone(random_net(), name="tiny", precision="fp8")
    with pytest.raises(ModelError, match="device='toaster'"):
        Backbone(random_net(), name="tiny", device="toaster")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="sees no such device"):
            Backbone(random_net(), name="tiny", device="cuda")
    small = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "head_width": 8}
    resnet = open_clip.CLIP(24, {**small, "patch_size": None}, TINY_CONFIG["text_cfg"])
    with pytest.raises(ModelError, match="not a CLIP vision transformer"):
        Backbone(resnet, name="RN")
    with pytest.raises(ModelError, match="does not pool the class token"):
        random_net(pool_type="avg")
    with pytest.raises(ImageError, match="smaller than one patch"):
        Backbone(random_net(), name="tiny").trunk(torch.zeros(1, 3, 15, 64))


def test_a_mask_of_scores_acts_alike_on_both_ways_through_a_block(tiny_backbone):
    """The fused attention, and the one whose weights are handed out, add the same mask before the softmax."""
    generator = torch.Generator().manual_seed(6)
    pixels = torch.randn(2, 3, 64, 64, generator=generator)
    mask = torch.randn(17, 17, generator=generator)
    mask[:, 5] = -torch.inf
    weights = []

    def look(each, block, grid):
        weights.append(each)
        return each

    fused = tiny_backbone.trunk(pixels, score_mask=mask).tokens
    handed_out = tiny_backbone.trunk(pixels, score_mask=mask, on_weights=look).tokens
    assert relative_error(handed_out, fused) < 1e-5
    assert relative_error(tiny_backbone.trunk(pixels).tokens, fused) > 1e-3
    tap = tiny_backbone.trunk(pixels, taps=(0,)).taps[0]
    expected = ((tap.q @ tap.k.transpose(-2, -1)) * tiny_backbone.scale + mask).softmax(dim=-1)
    assert torch.allclose(weights[0], expected, atol=1e-6) and (weights[0][..., 5] == 0).all()
