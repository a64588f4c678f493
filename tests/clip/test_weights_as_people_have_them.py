"""Weights as people have them: every form gives open_clip's own embeddings, or is refused by name."""

import copy
import json

import numpy as np
import open_clip
import pytest
import torch
from conftest import relative_error
from safetensors.torch import save_file

import ovsslib
from ovsslib.clip.architectures import build_model
from ovsslib.clip.loading import load_backbone
from ovsslib.errors import ModelError

CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
PIXELS = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
TEXTS = ["a photo of a dog.", "grass"]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return build_model(CONFIG).eval()


def same_as(backbone, net, text=True) -> bool:
    """Whether image and text embeddings are those of an open_clip model."""
    tokens = open_clip.tokenize(TEXTS)
    with torch.no_grad():
        close = relative_error(backbone.encode_image(PIXELS), net.encode_image(PIXELS)) < 1e-5
        return close and (
            not text or relative_error(backbone.encode_text(tokens), net.encode_text(tokens)) < 1e-5
        )


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "clip."]
)
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict"])
def test_prefixes_and_wrappers_of_training_code(prefix, wrapper, net, tmp_path):
    state = {prefix + key: value for key, value in net.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "w.pt")
    assert same_as(load_backbone(CONFIG, tmp_path / "w.pt"), net)


def test_half_files_and_any_shape_of_the_logit_scale(net, tmp_path):
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in net.state_dict().items()
    }
    half = copy.deepcopy(net)
    half.load_state_dict({key: value.float() for key, value in state.items()})
    for name, scale in (("a", torch.ones(1)), ("b", torch.tensor(1.0)), ("c", None)):
        changed = {**state, "logit_scale": scale}
        if scale is None:
            del changed["logit_scale"]
        torch.save(changed, tmp_path / f"{name}.pt")
        assert same_as(load_backbone(CONFIG, tmp_path / f"{name}.pt"), half)


def transformers_folder(folder, act="quick_gelu", **preprocessing):
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(3)
    size = {
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 128,
        "hidden_act": act,
    }
    config = CLIPConfig(
        text_config={**size, "hidden_size": 32, "vocab_size": 49408, "eos_token_id": 49407, "bos_token_id": 49406},
        vision_config={**size, "hidden_size": 64, "image_size": 64, "patch_size": 16}, projection_dim=24,
    )  # fmt: skip
    model = CLIPModel(config).eval()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing), encoding="utf-8")
    return model


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_a_folder_of_transformers(act, tmp_path):
    model = transformers_folder(
        tmp_path, act, image_mean=[0.5, 0.5, 0.5], image_std=[0.25, 0.25, 0.25]
    )
    backbone = load_backbone(tmp_path)
    tokens = open_clip.tokenize(TEXTS)
    with torch.no_grad():
        image = model.visual_projection(model.vision_model(pixel_values=PIXELS).pooler_output)
        text = model.text_projection(model.text_model(input_ids=tokens).pooler_output)
    assert relative_error(backbone.encode_image(PIXELS), image) < 1e-5
    assert relative_error(backbone.encode_text(tokens), text) < 1e-5
    assert backbone.pixel_mean == (0.5, 0.5, 0.5)
    with pytest.raises(ModelError, match="folder with its own weights; leave pretrained out"):
        load_backbone(tmp_path, "openai")


def test_the_file_of_such_a_folder_under_an_open_clip_configuration(tmp_path):
    transformers_folder(tmp_path)
    config = {**CONFIG, "embed_dim": 24, "quick_gelu": True}
    config["vision_cfg"] = {**CONFIG["vision_cfg"], "layers": 2, "mlp_ratio": 2.0}
    config["text_cfg"] = {**CONFIG["text_cfg"], "width": 32}
    one = load_backbone(config, tmp_path / "model.safetensors")
    assert (
        relative_error(one.encode_image(PIXELS), load_backbone(tmp_path).encode_image(PIXELS))
        < 1e-6
    )


def test_hub_names_come_from_the_cache_and_else_say_what_to_download(monkeypatch, tmp_path):
    model = transformers_folder(tmp_path)
    here = {
        name: str(tmp_path / name)
        for name in ("config.json", "model.safetensors", "preprocessor_config.json")
    }
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, name: here.get(name))
    backbone = load_backbone("openai/clip-vit-tiny")
    with torch.no_grad():
        image = model.visual_projection(model.vision_model(pixel_values=PIXELS).pooler_output)
    assert relative_error(backbone.encode_image(PIXELS), image) < 1e-5
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, name: None)

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr("ovsslib.clip.loading.HfApi.model_info", unreachable)
    for name in ("openai/clip-vit-tiny", "hf-hub:laion/some-clip"):
        with pytest.raises(ModelError, match="not in the local cache.*into a folder"):
            load_backbone(name)


def test_the_published_configuration_of_a_tag_decides(net, tmp_path, monkeypatch):
    """Activation, mean and std of a tag; a name that contradicts it is warned of."""
    file = tmp_path / "w.pt"
    torch.save(net.state_dict(), file)
    published = {"quick_gelu": True, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}
    monkeypatch.setattr("ovsslib.clip.loading.get_pretrained_cfg", lambda name, tag: published)
    monkeypatch.setattr("ovsslib.clip.loading.fetch_pretrained", lambda name, tag: file)
    monkeypatch.setattr("open_clip.get_model_config", lambda name: copy.deepcopy(CONFIG))
    backbone = load_backbone("ViT-B-32", "metaclip_400m")
    quick = build_model(CONFIG, quick_gelu=True).eval()
    quick.load_state_dict(net.state_dict())
    assert same_as(backbone, quick) and not same_as(backbone, net)
    assert backbone.pixel_mean == (0.5, 0.4, 0.3) and backbone.normalisation[0][0] == pytest.approx(
        127.5
    )
    monkeypatch.setattr("open_clip.get_model_config", lambda name: {**CONFIG, "quick_gelu": True})
    published["quick_gelu"] = False
    with pytest.warns(
        UserWarning, match="trained with GELU, but 'ViT-B-32-quickgelu' computes QuickGELU"
    ):
        load_backbone("ViT-B-32-quickgelu", "laion2b")


def test_a_file_that_does_not_decide_its_activation_is_warned_of(net, tmp_path, monkeypatch):
    torch.save(net.state_dict(), tmp_path / "w.pt")
    monkeypatch.setattr("open_clip.get_model_config", lambda name: copy.deepcopy(CONFIG))
    with pytest.warns(UserWarning, match="ViT-B-16-quickgelu"):
        load_backbone("ViT-B-16", tmp_path / "w.pt")


def test_normalisation_of_a_configuration_reaches_the_pixels(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "w.pt")
    own = {"model_cfg": CONFIG, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (tmp_path / "c.json").write_text(json.dumps(own), encoding="utf-8")
    image = np.full((64, 64, 3), 255, dtype=np.uint8)
    for model in (own, tmp_path / "c.json"):
        segmenter = ovsslib.Segmenter(load_backbone(model, tmp_path / "w.pt"), "sclip")
        assert torch.allclose(segmenter.prepare(image), torch.ones(1))
    with pytest.raises(ModelError, match="preprocess_cfg.std"):
        load_backbone(
            {"model_cfg": CONFIG, "preprocess_cfg": {"std": [0, 1, 1]}}, tmp_path / "w.pt"
        )


def test_values_that_are_not_finite_are_refused(net, tmp_path):
    state = {key: value.clone() for key, value in net.state_dict().items()}
    state["visual.proj"][3, 2] = float("nan")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="visual.proj holds values that are not finite"):
        load_backbone(CONFIG, tmp_path / "w.pt")


def test_no_argument_is_ignored(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match="no checkpoint at .*file.pt"):
        ovsslib.load("naclip", pretrained="no/such/file.pt")
    backbone = load_backbone(CONFIG, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="leave pretrained out"):
        ovsslib.load("naclip", backbone, pretrained="openai")
    with pytest.raises(ModelError, match="has precision 'fp32'"):
        ovsslib.load("naclip", backbone, precision="bf16")
    with pytest.raises(ovsslib.errors.RecipeError, match="dataset='voc21'"):
        ovsslib.load(ovsslib.Recipe.named("sclip"), backbone, dataset="voc21")
    with pytest.raises(ModelError, match="expected 00"):
        load_backbone("sceneclip", sha256="00")


def test_a_folder_called_like_a_tag_is_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openai").mkdir()
    asked = []

    def fetch(name, tag):
        asked.append((name, tag))
        raise ModelError("not here")

    monkeypatch.setattr("ovsslib.clip.loading.fetch_pretrained", fetch)
    with pytest.raises(ModelError, match="not here"):
        load_backbone("ViT-B-16-quickgelu", "openai")
    assert asked == [("ViT-B-16-quickgelu", "openai")]
    with pytest.raises(ModelError, match="is a folder; pass the file in it"):
        load_backbone(CONFIG, tmp_path / "openai")
    with pytest.raises(ModelError, match="did you mean 'ViT-B-16'"):
        load_backbone("ViT-B/16", "openai")


@pytest.mark.parametrize("pool", ["last", "first", "argmax"])
@pytest.mark.parametrize("mask", [False, True])
def test_other_ways_to_pool_the_text_are_open_clips_own(pool, mask, tmp_path):
    config = copy.deepcopy(CONFIG)
    config["text_cfg"] |= {"pool_type": pool, "no_causal_mask": mask}
    torch.manual_seed(5)
    net = build_model(config).eval()
    torch.save(net.state_dict(), tmp_path / "w.pt")
    backbone = load_backbone(config, tmp_path / "w.pt")
    assert same_as(backbone, net)
    features = (
        ovsslib.Segmenter(backbone, ovsslib.Recipe("t").but({"text.templates": ("{}",)}))
        .text(["dog"])
        .features
    )
    with torch.no_grad():
        own = net.encode_text(open_clip.tokenize(["dog"]), normalize=True)
    assert relative_error(features, own) < 1e-5


def test_every_vit_of_open_clip_runs_as_it_does_itself_or_is_refused():
    """Layers cut to 2: image and text embeddings equal open_clip's own, or the model is refused by name."""
    ran, refused = 0, 0
    for name in open_clip.list_models():
        if not name.startswith(
            ("ViT-", "ViTamin", "EVA", "coca", "MobileCLIP", "RN50", "nllb", "roberta", "xlm")
        ):
            continue
        config = open_clip.get_model_config(name)
        try:
            ovsslib.clip.architectures.check_configuration(config, name)
        except ModelError as error:
            assert "cannot be run rightly" in str(error), name
            assert repr(name) in str(error)
            refused += 1
            continue
        small = copy.deepcopy(config)
        small["vision_cfg"]["layers"] = small["text_cfg"]["layers"] = 2
        size = small["vision_cfg"]["patch_size"] * 3
        small["vision_cfg"]["image_size"] = size
        torch.manual_seed(0)
        net = build_model(small, name=name).eval()
        backbone = ovsslib.Backbone(net, name=name, weights_hash="x")
        pixels = torch.randn(1, 3, size, size)
        tokens = open_clip.tokenize(["a photo of a dog."], context_length=net.context_length)
        with torch.no_grad():
            assert relative_error(backbone.encode_image(pixels), net.encode_image(pixels)) < 1e-4, (
                name
            )
            assert relative_error(backbone.encode_text(tokens), net.encode_text(tokens)) < 1e-4, (
                name
            )
        ran += 1
    assert ran >= 20 and refused >= 15, (ran, refused)


def test_safetensors_of_open_clip_names(net, tmp_path):
    save_file(
        {key: value.contiguous() for key, value in net.state_dict().items()},
        tmp_path / "w.safetensors",
    )
    assert same_as(load_backbone(CONFIG, tmp_path / "w.safetensors"), net)
