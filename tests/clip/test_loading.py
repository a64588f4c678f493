"""Checkpoints in: OpenAI's key names at real size, archives, refusals, the hub that cannot be reached."""

import hashlib
import json
import pickle

import numpy as np
import open_clip
import pytest
import torch
from conftest import TINY_CONFIG, relative_error
from safetensors.torch import save_file

from ovsslib.clip import loading
from ovsslib.clip.loading import build_model, load_backbone, read_state_dict
from ovsslib.errors import ModelError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter, load

EXTRA = {"input_resolution": 224, "context_length": 77, "vocab_size": 49408}


@pytest.fixture(scope="module")
def openai_files(tmp_path_factory):
    """A seeded random ViT-B/16 under OpenAI's key names, as a state dict and as safetensors."""
    folder = tmp_path_factory.mktemp("openai")
    torch.manual_seed(0)
    net = build_model(open_clip.get_model_config("ViT-B-16"), quick_gelu=True).eval()
    optional = ("attn_mask", "logit_bias")
    state = {key: value for key, value in net.state_dict().items() if not key.endswith(optional)}
    extra = {key: torch.tensor(value) for key, value in EXTRA.items()}
    torch.save({**state, **extra}, folder / "state.pt")
    save_file(
        {key: value.contiguous() for key, value in state.items()}, folder / "state.safetensors"
    )
    return net, folder


@pytest.fixture(scope="module")
def tiny_state():
    torch.manual_seed(0)
    return build_model(TINY_CONFIG).state_dict()


@pytest.mark.parametrize(
    ("file", "model"), [("state.pt", "ViT-B-16"), ("state.safetensors", "ViT-B-16-quickgelu")]
)
def test_vit_b16_of_openais_names_goes_all_the_way_to_a_mask(file, model, openai_files):
    net, folder = openai_files
    names = set(read_state_dict(folder / file)[0])
    assert {
        "visual.class_embedding",
        "visual.transformer.resblocks.11.attn.in_proj_weight",
    } <= names
    backbone = load_backbone(model, folder / file)
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert relative_error(backbone.encode_image(pixels), net.encode_image(pixels)) < 1e-5
    assert (backbone.width, backbone.heads, backbone.layers, backbone.dim) == (768, 12, 12, 512)
    assert len(backbone.weights_hash) == 16
    image = np.random.default_rng(0).integers(0, 256, (336, 448, 3), dtype=np.uint8)
    recipe = Recipe.named("sclip" if file == "state.pt" else "maskclip")
    windows = {"crop": 224 if file == "state.pt" else 0}
    recipe = recipe.but({"text.templates": ("a {}.",)}, windows=windows)
    result = Segmenter(backbone, recipe)(image, ["cat", "dog", "grass"])
    assert result.mask.shape == (336, 448) and result.mask.dtype == np.int32
    assert len(np.unique(result.mask)) > 1


class Holder(torch.nn.Module):
    """A module whose state dict is the given tensors, names with dots included."""

    def __init__(self, state):
        super().__init__()
        for name, value in state.items():
            module = self
            *folders, last = name.split(".")
            for part in folders:
                if part not in module._modules:
                    module.add_module(part, torch.nn.Module())
                module = module._modules[part]
            module.register_buffer(last, value)

    def forward(self, x):
        return x


def test_torchscript_archive_of_openai_is_read(tmp_path, tiny_state):
    extra = {key: torch.tensor(value) for key, value in EXTRA.items()}
    archive = torch.jit.trace(Holder({**tiny_state, **extra}), torch.zeros(1))
    archive.save(str(tmp_path / "model.pt"))
    state, openai = read_state_dict(tmp_path / "model.pt")
    assert openai and not set(state) & set(EXTRA)
    config = {key: value for key, value in TINY_CONFIG.items() if key != "quick_gelu"}
    ours = load_backbone(config, tmp_path / "model.pt")
    net = build_model(TINY_CONFIG)  # an archive of OpenAI's means QuickGELU
    net.load_state_dict(tiny_state)
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert relative_error(ours.encode_image(pixels), net.eval().encode_image(pixels)) < 1e-5


def test_wrappings_of_training_code_are_taken_off(tmp_path, tiny_state):
    wrapped = {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in tiny_state.items()}}
    torch.save(wrapped, tmp_path / "epoch.pt")
    (tmp_path / "config.json").write_text(json.dumps({"model_cfg": TINY_CONFIG}), encoding="utf-8")
    backbone = load_backbone(tmp_path / "config.json", tmp_path / "epoch.pt")
    assert backbone.name == "config" and backbone.width == 64


def test_keys_that_do_not_fit_are_named(tmp_path, tiny_state):
    renamed = dict(tiny_state)
    renamed["visual.projection"] = renamed.pop("visual.proj")
    renamed["visual.ln_post.bias"] = torch.zeros(7)
    torch.save(renamed, tmp_path / "other.pt")
    message = r"missing: visual.proj; unexpected: visual.projection; .*visual.ln_post.bias \(7,\)"
    with pytest.raises(ModelError, match=message):
        load_backbone(TINY_CONFIG, tmp_path / "other.pt")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "none.pt")
    with pytest.raises(ModelError, match=r"and \d+ more.*unexpected: weight"):
        load_backbone(TINY_CONFIG, tmp_path / "none.pt")


class Trap:
    """Leaves a file behind if a reader runs it."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return open, (self.file, "w")


def test_pickled_code_is_refused_and_not_run(tmp_path):
    trap = tmp_path / "ran"
    torch.save({"visual.proj": Trap(trap)}, tmp_path / "zip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"visual.proj": Trap(trap)}, 2))
    for name in ("zip.pt", "plain.pt"):
        with pytest.raises(ModelError, match="refused.*execute code"):
            load_backbone(TINY_CONFIG, tmp_path / name)
    assert not trap.exists()


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_damaged_and_foreign_files_are_refused(name, tmp_path, tiny_state):
    file = tmp_path / name
    if name.endswith("pt"):
        torch.save(tiny_state, file)
    else:
        save_file({k: v.contiguous() for k, v in tiny_state.items()}, file)
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"<html>404</html>", bytes(1000)):
        file.write_bytes(content)
        with pytest.raises(ModelError, match="cannot read the checkpoint"):
            load_backbone(TINY_CONFIG, file)
    if name.endswith("pt"):
        torch.save([1, 2], file)
        with pytest.raises(ModelError, match="holds no state dict"):
            load_backbone(TINY_CONFIG, file)


def test_hashes_are_checked(tmp_path, tiny_state, monkeypatch):
    file = tmp_path / "tiny.pt"
    torch.save(tiny_state, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert load_backbone(TINY_CONFIG, file, sha256=digest).weights_hash == digest[:16]
    with pytest.raises(ModelError, match=f"{digest}, expected 00ff"):
        load_backbone(TINY_CONFIG, file, sha256="00ff")
    same_name = file.rename(tmp_path / "ViT-B-16.pt")
    assert load_backbone(TINY_CONFIG, same_name).weights_hash == digest[:16]


def test_an_archive_called_like_openais_must_be_openais(tmp_path):
    archive = tmp_path / "ViT-B-16.pt"
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(archive)
    with pytest.raises(ModelError, match="damaged or another file"):
        load_backbone("ViT-B-16", archive)


def test_unknown_models_tags_and_missing_files(tmp_path):
    for model, pretrained, message in (
        ("ViT-B-17", "openai", "unknown model 'ViT-B-17'.*ViT-B-16"),
        ("ViT-B-16", None, "needs weights.*openai"),
        ("ViT-B-16", "no-such-tag", "neither a file nor a pretrained tag.*openai"),
        ("ViT-B-16", tmp_path / "none.pt", "there is no checkpoint"),
        (tmp_path / "none.json", "x.pt", "no model configuration"),
        ({"embed_dim": 3}, tmp_path / "none.pt", "there is no checkpoint"),
    ):
        with pytest.raises(ModelError, match=message):
            load_backbone(model, pretrained)
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="not JSON"):
        load_backbone(tmp_path / "bad.json", "x.pt")
    with pytest.raises(ModelError, match="not an open_clip CLIP configuration"):
        build_model({"embed_dim": 3})


def test_unreachable_hub_says_what_to_download(monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(loading, "cached_pretrained", lambda name, tag: None)
    monkeypatch.setattr(loading.HfApi, "model_info", unreachable)
    with pytest.raises(ModelError, match="ConnectionError.*download .*pretrained='/path/to/file'"):
        load_backbone("ViT-B-16-quickgelu", "openai")


def test_a_device_that_is_not_there_is_told_before_anything_is_downloaded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(loading, "fetch_pretrained", lambda *names: pytest.fail("downloads"))
    with pytest.raises(ModelError, match="cuda"):
        load_backbone("ViT-B-16-quickgelu", "openai", device="cuda")


def test_auto_takes_the_cached_clip_and_else_the_embedded_model_with_a_notice(
    tmp_path, monkeypatch, capsys, openai_files
):
    monkeypatch.setattr("ovsslib.segmenter.loading.cached_pretrained", lambda name, tag: None)
    segmenter = load("sclip")
    assert segmenter.backbone.name == "sceneclip"
    assert "SceneCLIP" in capsys.readouterr().out
    assert segmenter.recipe.dataset == "scenes"
    file = openai_files[1] / "state.pt"
    for module in ("ovsslib.segmenter.loading", "ovsslib.clip.loading"):
        monkeypatch.setattr(f"{module}.cached_pretrained", lambda name, tag: file)
    segmenter = load("sclip")
    assert segmenter.backbone.name == "ViT-B-16-quickgelu" and segmenter.recipe.dataset is None
    assert capsys.readouterr().out == ""
    with pytest.raises(ModelError, match="unknown model"):
        load("sclip", model="ViT-none", pretrained="openai")
