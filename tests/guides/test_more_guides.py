"""MAE and SAM's encoder as guides: tiny random ones of the real classes of transformers."""

import json

import pytest
import torch
import torch.nn.functional as F
from conftest import relative_error
from tiny_segmenters import make

from ovsslib import guides
from ovsslib.errors import ModelError, RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter

TINY_MAE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "image_size": 32,
    "patch_size": 8, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32, "layer_norm_eps": 1e-6,
}  # fmt: skip


@pytest.fixture(scope="module")
def mae(tmp_path_factory):
    """A model for pretraining, as the hub has it, and its folder."""
    transformers = pytest.importorskip("transformers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**TINY_MAE)).eval()
        torch.nn.init.normal_(model.vit.embeddings.position_embeddings)
    folder = tmp_path_factory.mktemp("mae")
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model, processor = make("sam")
    folder = tmp_path_factory.mktemp("sam")
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, folder


def picture(height: int, width: int) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_mae_is_what_transformers_computes_without_a_mask(mae):
    model, folder = mae
    guide = guides.load(folder)
    assert (guide.patch_size, guide.dim, guide.heads, guide.layers) == (8, 32, 2, 2)
    model.vit.config.mask_ratio = 0.0
    noise = torch.arange(16.0).expand(2, -1)
    with torch.no_grad():
        theirs = model.vit(picture(32, 32), noise=noise).last_hidden_state
    assert relative_error(guide.read(picture(32, 32)).last, theirs) < 1e-5


def test_positions_of_mae_are_resized_without_an_offset(mae):
    _, folder = mae
    network = guides.load(folder).network
    table = network.pos_embed[0]
    grid = table[1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(6, 5), mode="bicubic")[0].flatten(1).T
    assert torch.equal(network.positions((6, 5))[1:], expected)
    network.rule = "offset"
    assert not torch.allclose(network.positions((6, 5))[1:], expected, atol=1e-5)


def test_the_encoder_of_sam_is_its_embedding_of_the_stretched_picture(sam):
    model, folder = sam
    guide = guides.load(folder)
    assert (guide.patch_size, guide.dim) == (1, 16)
    features = guide.features(picture(50, 70))
    square = F.interpolate(picture(50, 70), size=(64, 64), mode="bilinear")
    with torch.no_grad():
        theirs = model.get_image_embeddings(square)
    assert relative_error(features, theirs) < 1e-5
    for kind in ("k", "q+k", "penultimate"):
        with pytest.raises(ModelError, match="no features of the kind"):
            guide.features(picture(50, 70), kind)
    with pytest.raises(ModelError, match="no class token"):
        guide.read(picture(50, 70)).class_attention()


@pytest.mark.parametrize("which", ["mae", "sam"])
def test_proxyclip_runs_with_them(which, request, tiny_backbone, tiny_inputs):
    _, folder = request.getfixturevalue(which)
    guides.check(folder)
    recipe = Recipe("p").but(
        {"windows": {"crop": 64, "stride": 32}, "proxy_attention": {"guide": str(folder)}}
    )
    segmenter = Segmenter(tiny_backbone, recipe)
    tokens = segmenter.dense_tokens(tiny_inputs["image_64x64"])
    assert tokens.grid == ((8, 8) if which == "mae" else (4, 4))
    logits = segmenter.logits(tiny_inputs["image_80x112"], tiny_inputs["text"])
    assert torch.isfinite(logits).all()


def test_where_patches_are_needed_sam_s_encoder_is_refused(sam, tiny_backbone, tiny_inputs):
    _, folder = sam
    spread = Recipe("p").but({"patch_propagation": {"guide": str(folder), "kind": "last"}})
    mixed = Recipe("p").but({"spliced_attention": {"guide": str(folder)}})
    for recipe, message in ((spread, "no patches of the picture"), (mixed, "its attention is not")):
        segmenter = Segmenter(tiny_backbone, recipe.but({"windows": {"crop": 64, "stride": 32}}))
        with pytest.raises(RecipeError, match=message):
            segmenter.logits(tiny_inputs["image_80x112"], tiny_inputs["text"])


def test_another_network_under_a_short_name_is_refused(mae, sam, tmp_path):
    _, folder = mae
    for name in ("mae-vitb16", "sam-vitb"):
        assert name in guides.NAMES
    with pytest.raises(ModelError, match="expected 768"):
        guides.load("mae-vitb16", weights=folder)
    with pytest.raises(ModelError, match="width 16, expected 256"):
        guides.load("sam-vitb", weights=sam[1])
    with pytest.raises(ModelError, match="width 16, expected 256"):
        guides.check("sam-vitb", weights=sam[1])
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (other / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="vit_mae.*sam"):
        guides.load(other)
