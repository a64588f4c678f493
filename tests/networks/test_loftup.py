"""LoftUp: against the released network's recorded outputs, its weights' names and count, memory,
bad input.
"""

import sys

import pytest
import torch
from conftest import relative_error, vectors
from safetensors.torch import save_file

from ovsslib.errors import ModelError, RecipeError
from ovsslib.networks.loftup import LoftUp, load_loftup

module = sys.modules["ovsslib.networks.loftup"]


@pytest.fixture(scope="module")
def state():
    return vectors("loftup_tiny_state")


@pytest.fixture(scope="module")
def recorded():
    return vectors("loftup_tiny_io")


@pytest.fixture
def net(state):
    net = LoftUp(16)
    net.load_state_dict(state)
    return net


def test_equals_the_released_network(net, recorded):
    net.guidance_scaling = "batch"
    assert relative_error(net(recorded["lr"], recorded["image"]), recorded["out_batch2"]) < 1e-4
    alone = net(recorded["lr"][:1], recorded["image"][:1])
    assert relative_error(alone, recorded["out_first_alone"]) < 1e-4


@torch.no_grad()
def test_codes_equal_the_released_ones(net, recorded):
    colours = net.scale_guidance(recorded["image"][:1])
    places = torch.meshgrid(torch.linspace(-1, 1, 12), torch.linspace(-1, 1, 16), indexing="ij")
    maps = torch.cat([torch.stack(places)[None], colours], 1)
    assert relative_error(net.upsampler.fourier_feat[1](maps), recorded["fourier_first"]) < 1e-4
    patches = net.upsampler.patches(torch.zeros(1, 16, 4, 5))
    code = patches[..., 16:].transpose(1, 2).unflatten(2, (4, 5))
    assert relative_error(code, recorded["lr_pe"]) < 1e-4


def test_scaling_per_image_makes_batches_harmless(net, recorded):
    together = net(recorded["lr"], recorded["image"])
    assert relative_error(together[:1], recorded["out_first_alone"]) < 1e-4
    torch.manual_seed(0)
    features, pictures = torch.randn(7, 16, 3, 5), torch.randn(7, 3, 11, 17)
    together = net(features, pictures)
    for item in range(7):
        alone = net(features[item : item + 1], pictures[item : item + 1])
        assert (alone[0] - together[item]).abs().max() < 1e-5


def test_colours_in_any_affine_scale_give_the_same(net, recorded):
    scaled = recorded["image"] * torch.tensor([2.0, 0.5, 3.0]).view(1, 3, 1, 1) + 1
    before, after = net(recorded["lr"], recorded["image"]), net(recorded["lr"], scaled)
    # Frequencies reach exp(10), so a rounding error of 1e-7 in a colour turns its fastest phases by
    # 1e-3.
    assert relative_error(after, before) < 1e-2


def test_rows_in_strips_are_the_whole(net, recorded, monkeypatch):
    whole = net(recorded["lr"], recorded["image"])
    seen = []
    original = net.upsampler.queries

    def watched(guidance, start, stop):
        seen.append(stop - start)
        return original(guidance, start, stop)

    monkeypatch.setattr(net.upsampler, "queries", watched)
    for pixels, rows in ((32, 1), (96, 3), (320, 10)):
        seen.clear()
        monkeypatch.setattr(module, "_STRIP_PIXELS", pixels)
        assert relative_error(net(recorded["lr"], recorded["image"]), whole) < 1e-5
        assert max(seen) == rows
        assert sum(seen) == 12


def test_interpolation_by_attention_is_convex(net, recorded):
    values = torch.rand(2, 3, 4, 5)
    ours = net.interpolate(recorded["lr"], recorded["image"], values)
    assert ours.shape == (2, 3, 12, 16)
    low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
    assert ((ours >= low - 1e-5) & (ours <= high + 1e-5)).all()
    constant = net.interpolate(recorded["lr"], recorded["image"], torch.full((2, 1, 4, 5), 3.0))
    torch.testing.assert_close(constant, torch.full((2, 1, 12, 16), 3.0))


def test_released_size_names_and_shapes():
    net = LoftUp(512)
    assert sum(parameter.numel() for parameter in net.parameters()) == 7_165_462
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    assert shapes["upsampler.first_conv.1.weight"] == (532, 203, 3, 3)
    assert shapes["upsampler.ca_transformer.layers.1.0.attention.in_proj_weight"] == (1596, 532)
    assert shapes["upsampler.ca_transformer.layers.0.1.net.4.weight"] == (532, 512)
    assert shapes["channelnorm.norm.weight"] == (512,)
    assert not net.training


def test_training_records_gradients_and_evaluation_does_not(net, recorded):
    assert not net(recorded["lr"], recorded["image"]).requires_grad
    net.train()
    net(recorded["lr"], recorded["image"]).square().mean().backward()
    missing = [name for name, parameter in net.named_parameters() if parameter.grad is None]
    assert missing == []


@pytest.mark.parametrize("form", ["safetensors", "pytorch", "older", "parallel"])
def test_weights_load_from_every_form(form, state, recorded, net, tmp_path):
    file = tmp_path / "loftup.pt"
    if form == "safetensors":
        file = tmp_path / "loftup.safetensors"
        save_file(state, file)
    elif form == "pytorch":
        torch.save(state, file)
    elif form == "parallel":
        torch.save({f"module.{key}": value for key, value in state.items()}, file)
    else:
        old = {key.replace("channelnorm.", "model.1."): value for key, value in state.items()}
        torch.save({"state_dict": {**old, "model.0.conv.weight": torch.zeros(2)}, "epoch": 3}, file)
    loaded = load_loftup(file, dim=16)
    expected = net(recorded["lr"], recorded["image"])
    assert torch.equal(loaded(recorded["lr"], recorded["image"]), expected)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_weights_that_do_not_fit_are_named(state, tmp_path, monkeypatch):
    file = tmp_path / "loftup.safetensors"
    save_file(state, file)
    with pytest.raises(ModelError, match="16 channels, and 512"):
        load_loftup(file, dim=512)
    bare = {k.removeprefix("upsampler."): v for k, v in state.items() if "channelnorm" not in k}
    save_file(bare, file)
    with pytest.raises(ModelError, match="use pytorch_model.bin"):
        load_loftup(file)
    save_file({"weight": torch.zeros(2)}, file)
    with pytest.raises(ModelError, match="not a LoftUp checkpoint"):
        load_loftup(file)
    short = dict(state)
    del short["upsampler.lr_pe.biases"]
    save_file(short, file)
    with pytest.raises(ModelError, match="lr_pe.biases"):
        load_loftup(file)
    file.write_bytes(b"not weights")
    with pytest.raises(ModelError, match="cannot read"):
        load_loftup(file)
    with pytest.raises(ModelError, match="not a file"):
        load_loftup(tmp_path / "nowhere.pt")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="download=True"):
        load_loftup("haiwen/loftup-of-nobody")


def test_bad_input_is_named(net):
    with pytest.raises(RecipeError, match="multiple of 4"):
        LoftUp(18)
    with pytest.raises(RecipeError, match="'image' or 'batch'"):
        LoftUp(16, "window")
    with pytest.raises(RecipeError, match=r"\(B, 16, h, w\)"):
        net(torch.zeros(1, 8, 3, 3), torch.zeros(1, 3, 6, 6))
    with pytest.raises(RecipeError, match="2 feature maps for 1"):
        net(torch.zeros(2, 16, 3, 3), torch.zeros(1, 3, 6, 6))
    flat = net(torch.randn(1, 16, 1, 1), torch.zeros(1, 3, 1, 1))
    assert flat.isfinite().all()
