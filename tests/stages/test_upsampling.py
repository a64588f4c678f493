"""Feature upsampling: grids, ways back, weights, controls, batch and odd sizes."""

import os
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from ovsslib.errors import ModelError, RecipeError
from ovsslib.networks.loftup import LoftUp
from ovsslib.recipe import Recipe, make_settings
from ovsslib.stages.upsampling import Upsampling, find_weights, loftup_features, output_size


@pytest.fixture(scope="module")
def net():
    """A random network with plausible statistics."""
    torch.manual_seed(0)
    net = LoftUp(16)
    with torch.no_grad():
        net.channelnorm.norm.weight.uniform_(0.5, 1.5)
        net.channelnorm.norm.bias.normal_(0, 0.2)
    return net


@pytest.fixture(scope="module")
def weights(net, tmp_path_factory):
    file = tmp_path_factory.mktemp("loftup") / "net.safetensors"
    save_file(net.state_dict(), file)
    return str(file)


def context_of(pixels):
    return SimpleNamespace(pixels=pixels, backbone=SimpleNamespace(name="tiny"), text=None)


@pytest.mark.parametrize(
    ("grid", "size"), [(2, (6, 10)), (1, (3, 5)), ((7, 9), (7, 9)), ("image", (24, 40))]
)
@pytest.mark.parametrize("method", ["loftup", "bilinear", "bicubic"])
def test_every_grid_and_method(method, grid, size, weights):
    features, pixels = torch.randn(2, 16, 3, 5), torch.randn(2, 3, 24, 40)
    settings = Upsampling(method, grid, weights=weights if method == "loftup" else None)
    ours = settings.on_features(features, context_of(pixels))
    assert ours.shape == (2, 16, *size) == (2, 16, *output_size(features, pixels, grid))
    if method != "loftup":
        expected = F.interpolate(features, size, mode=method, align_corners=False)
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("way_back", ["as_is", "inverse_norm", "attention_affinity"])
def test_batch_and_odd_sizes_change_nothing(net, way_back):
    torch.manual_seed(1)
    features, pixels = torch.randn(7, 16, 3, 5), torch.randn(7, 3, 33, 51)
    together = loftup_features(net, features, pixels, (7, 9), way_back)
    for item in range(7):
        one = slice(item, item + 1)
        alone = loftup_features(net, features[one], pixels[one], (7, 9), way_back)
        assert (alone[0] - together[item]).abs().max() < 1e-5


def test_ways_back(net):
    features, pixels = torch.randn(1, 16, 3, 4), torch.randn(1, 3, 12, 16)
    as_is = loftup_features(net, features, pixels, (6, 8), "as_is")
    guidance = F.interpolate(pixels, (6, 8), mode="bilinear")
    torch.testing.assert_close(as_is, net(features, guidance))
    convex = loftup_features(net, features, pixels, (6, 8), "attention_affinity")
    torch.testing.assert_close(convex, net.interpolate(features, guidance, features))

    class Perfect(torch.nn.Module):
        """An upsampler that hands its normalised input through."""

        channelnorm = net.channelnorm

        def forward(self, low, _):
            return F.interpolate(net.channelnorm(low), (6, 8), mode="nearest")

    with torch.no_grad():
        flat = features[:, :, :1, :1].expand(-1, -1, 3, 4)
        back = loftup_features(Perfect(), flat, pixels, (6, 8), "inverse_norm")
    torch.testing.assert_close(back, flat[:, :, :1, :1].expand(-1, -1, 6, 8), atol=1e-4, rtol=1e-4)


def test_weights_by_name(monkeypatch, tmp_path):
    assert find_weights(None, "ViT-B-16-quickgelu") == "haiwen/loftup-clip"
    assert find_weights("own.pt", "sceneclip") == "own.pt"
    monkeypatch.setattr("ovsslib.paths.data", lambda relative: tmp_path / relative)
    with pytest.raises(ModelError, match="ovss pretrain loftup"):
        find_weights(None, "sceneclip")
    file = tmp_path / "models/loftup-sceneclip/model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    assert find_weights(None, "sceneclip") == find_weights("sceneclip", "tiny") == str(file)


def test_rewritten_weights_are_loaded_anew(net, tmp_path):
    file = tmp_path / "net.safetensors"
    features, pixels = torch.randn(1, 16, 3, 5), torch.randn(1, 3, 24, 40)
    save_file(net.state_dict(), file)
    first = Upsampling(weights=str(file)).on_features(features, context_of(pixels))
    save_file(LoftUp(16).state_dict(), file)
    os.utime(file, ns=(1, 1))
    second = Upsampling(weights=str(file)).on_features(features, context_of(pixels))
    assert not torch.allclose(first, second)
    with pytest.raises(ModelError, match="16 channels, and 8"):
        Upsampling(weights=str(file)).on_features(features[:, :8], context_of(pixels))


def test_settings_are_checked_and_survive_yaml():
    for grid in (3, (28, 37), "image"):
        made = make_settings(
            "upsampling", {"grid": list(grid) if isinstance(grid, tuple) else grid}
        )
        assert made.grid == grid
    for wrong in (0, (3, 0), (1, 2, 3)):
        with pytest.raises(RecipeError, match="upsampling.grid"):
            Upsampling(grid=wrong)
    with pytest.raises(RecipeError, match="upsampling.method"):
        Upsampling(method="nearest")
    with pytest.raises(RecipeError, match="concerns loftup, not bilinear"):
        Recipe("x", {"upsampling": Upsampling("bilinear", way_back="as_is")})
    assert Upsampling("bilinear", 1).inert(None)
    assert Upsampling("bilinear", 2).inert(None) is None
