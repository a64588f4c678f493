"""Guides: equal to DINO's released arithmetic, from every form of weights, with named errors before any work."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from guide_weights import DINO, FAMILIES, STATE, VECTORS, as_vit, family
from safetensors.torch import load_file, save_file

from ovsslib import guides
from ovsslib.clip.backbone import PIXEL_MEAN, PIXEL_STD
from ovsslib.errors import ImageError, ModelError

PICTURES = np.load(VECTORS / "tiny_inputs.npz")
SIZES = ("32", "64", "80x112")


def picture(size: str) -> torch.Tensor:
    """The CLIP-normalised picture of a vector."""
    name = "image_80x112" if size == "80x112" else "image_64x64"
    pixels = torch.from_numpy(PICTURES[name]).float()
    pixels = pixels if pixels.ndim == 4 else pixels[None]
    return pixels[..., :32, :32] if size == "32" else pixels


def off(mine: torch.Tensor, theirs: np.ndarray) -> float:
    theirs = torch.from_numpy(theirs)
    assert mine.shape == theirs.shape
    return float((mine - theirs).abs().max() / theirs.abs().max())


@pytest.fixture(scope="module")
def guide() -> guides.Guide:
    return guides.from_state(STATE, heads=2, name="tiny")


@pytest.mark.parametrize("size", SIZES)
def test_a_reading_equals_the_released_code(guide, size):
    reading = guide.read(guide.from_clip(picture(size)))
    assert off(reading.last, DINO[f"last__{size}"]) < 1e-4
    assert off(reading.penultimate, DINO[f"penultimate__{size}"]) < 1e-4
    qkv = torch.cat([reading.q, reading.k, reading.v], dim=-1)
    assert off(qkv, DINO[f"qkv__{size}"]) < 1e-4
    if f"positions__{size}" in DINO:
        assert off(guide.network.positions(reading.grid)[None], DINO[f"positions__{size}"]) < 1e-5


def test_features_are_the_patches_row_by_row(guide):
    reading = guide.read(guide.from_clip(picture("80x112")))
    assert reading.grid == (10, 14) and reading.prefix == 1
    features = reading.features()
    assert features.shape == (1, 32, 10, 14) and features.dtype == torch.float32
    torch.testing.assert_close(features[0, :, 3, 5], reading.last[0, 1 + 3 * 14 + 5])
    torch.testing.assert_close(
        reading.features("q+k"), reading.features("q") + reading.features("k")
    )
    torch.testing.assert_close(
        guide.features(guide.from_clip(picture("80x112")), "v"), reading.features("v")
    )
    with pytest.raises(ModelError, match="'values'.*penultimate"):
        reading.features("values")


def test_the_class_token_s_attention_mixes_the_values_as_the_block_does(guide):
    reading = guide.read(guide.from_clip(picture("64")))
    attention = reading.class_attention()
    assert attention.shape == (1, 2, 8, 8)
    assert (attention > 0).all() and (attention.sum((2, 3)) < 1).all()
    q, k = (x.unflatten(-1, (2, 16)).transpose(1, 2) for x in (reading.q, reading.k))
    eye = torch.eye(65).expand(1, 2, -1, -1)
    whole = F.scaled_dot_product_attention(q, k, eye)
    torch.testing.assert_close(attention.flatten(2), whole[:, :, 0, 1:])


def test_clip_s_normalisation_is_undone(guide):
    pixels = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    torch.testing.assert_close(
        guide.from_clip((pixels - mean) / std), guide.normalise(pixels), atol=1e-6, rtol=1e-6
    )
    grey = guide.from_clip(torch.zeros(1, 3, 1, 1))[0, :, 0, 0]
    expected = [(a - m) / s for a, m, s in zip(PIXEL_MEAN, guide.mean, guide.std, strict=True)]
    torch.testing.assert_close(grey, torch.tensor(expected))


@pytest.mark.parametrize(
    "form",
    [
        "pth",
        "checkpoint",
        "safetensors",
        "vit",
        "vit of version 4",
        "vit without safetensors",
        "embedded",
    ],
)
def test_every_form_of_weights_gives_the_same_features(guide, tmp_path, form):
    expected = guide.features(guide.from_clip(picture("80x112")))
    if form == "pth":
        source = tmp_path / "dino.pth"
        torch.save(STATE, source)
    elif form == "checkpoint":  # of training: teacher with its head, wrapped twice
        source = tmp_path / "checkpoint.pth"
        teacher = {f"module.backbone.{key}": value for key, value in STATE.items()}
        teacher["module.head.mlp.0.weight"] = torch.zeros(2, 2)
        torch.save({"teacher": teacher, "student": {}, "epoch": 7}, source)
    elif form == "safetensors":
        source = tmp_path / "dino.safetensors"
        save_file(STATE, source)
    elif form == "embedded":
        source = tmp_path
        save_file(STATE, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(
            json.dumps({"architecture": "dino", "width": 32, "heads": 2, "patch": 8})
        )
    else:
        transformers = pytest.importorskip("transformers")
        as_vit(transformers).save_pretrained(tmp_path)
        source = tmp_path
        if form == "vit without safetensors":
            state = load_file(tmp_path / "model.safetensors")
            torch.save(state, tmp_path / "pytorch_model.bin")
            (tmp_path / "model.safetensors").unlink()
        if form == "vit of version 4":
            state = load_file(tmp_path / "model.safetensors")
            names = {
                "attention.q_proj": "attention.attention.query", "attention.k_proj": "attention.attention.key",
                "attention.v_proj": "attention.attention.value", "attention.o_proj": "attention.output.dense",
                "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
            }  # fmt: skip
            old = {}
            for key, value in state.items():
                key = key.removeprefix("vit.")
                for new, name in names.items():
                    key = key.replace(new, name)
                if key.startswith("layers."):
                    key = "encoder.layer." + key.removeprefix("layers.")
                old[key] = value
            assert any("attention.attention.query" in key for key in old)
            save_file(old, tmp_path / "model.safetensors")
    heads = None if source.is_dir() else 2
    opened = guides.load(source, heads=heads)
    torch.testing.assert_close(
        opened.features(opened.from_clip(picture("80x112"))), expected, atol=1e-6, rtol=1e-5
    )
    assert len(opened.weights_hash) == 16 and int(opened.weights_hash, 16) >= 0
    assert opened.name == source.name and opened.patch_size == 8 and opened.dim == 32


def test_the_hub_s_vit_at_its_native_size_gives_what_transformers_gives(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = as_vit(transformers)
    model.save_pretrained(tmp_path)
    opened = guides.load(tmp_path)
    pixels = opened.from_clip(picture("32"))
    with torch.no_grad():
        theirs = model(pixels).last_hidden_state
    torch.testing.assert_close(opened.read(pixels).last, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_other_families_open_from_a_folder(tmp_path, name):
    model, patch = family(name)
    model.save_pretrained(tmp_path)
    guide = guides.load(tmp_path)
    registers = 0 if name == "dinov2" else 4
    assert (guide.patch_size, guide.dim, guide.heads, guide.layers) == (patch, 32, 2, 3)
    pixels = torch.randn(2, 3, 4 * patch, 4 * patch, generator=torch.Generator().manual_seed(0))
    reading = guide.read(pixels)
    assert reading.grid == (4, 4) and reading.prefix == 1 + registers
    with torch.no_grad():
        output = model(pixels, output_hidden_states=True)
    torch.testing.assert_close(reading.last, output.last_hidden_state)
    norm = model.norm if name == "dinov3" else model.layernorm
    torch.testing.assert_close(reading.penultimate, norm(output.hidden_states[-2]))
    # q, k and v are those of the last block's normalised input.
    block = (model.model.layer if name == "dinov3" else model.encoder.layer)[-1]
    normed = block.norm1(output.hidden_states[-2])
    for kind in ("q", "k", "v"):
        layer = getattr(block.attention, f"{kind}_proj")
        torch.testing.assert_close(getattr(reading, kind), layer(normed))
    wide = guide.read(torch.zeros(1, 3, 2 * patch, 5 * patch))
    assert wide.features("k").shape == (1, 32, 2, 5)
    if name == "dinov3":
        with pytest.raises(ModelError, match="DINOv3"):
            reading.class_attention()
    else:
        assert reading.class_attention().shape == (2, 2, 4, 4)


def test_dinov2_without_registers_interpolates_as_it_was_released(tmp_path):
    model, patch = family("dinov2")
    model.save_pretrained(tmp_path)
    guide = guides.load(tmp_path)
    seen = []
    guide.network.model.embeddings.patch_embeddings.register_forward_hook(
        lambda module, arguments, output: output.zero_()
    )
    guide.network.blocks[0].register_forward_pre_hook(
        lambda module, arguments: seen.append(arguments[0])
    )
    guide.read(torch.zeros(1, 3, 6 * patch, 7 * patch))
    table = model.embeddings.position_embeddings[0, 1:].reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    expected = F.interpolate(table, scale_factor=(6.1 / 4, 7.1 / 4), mode="bicubic")
    torch.testing.assert_close(seen[0][:, 1:], expected.flatten(2).transpose(1, 2))


def test_pixels_that_are_no_whole_patches_are_refused(guide):
    with pytest.raises(ImageError, match="30x32.*multiple of 8"):
        guide.read(torch.zeros(1, 3, 30, 32))
    with pytest.raises(ImageError, match="add the batch"):
        guide.read(torch.zeros(3, 32, 32))


def test_half_precision_stays_close(guide):
    half = guides.from_state(STATE, heads=2, precision="bf16")
    pixels = guide.from_clip(picture("64"))
    exact, rough = guide.features(pixels), half.features(pixels)
    assert rough.dtype == torch.float32
    assert float(F.cosine_similarity(exact, rough).min()) > 0.98
    with pytest.raises(ModelError, match="fp64"):
        guides.from_state(STATE, heads=2, precision="fp64")
