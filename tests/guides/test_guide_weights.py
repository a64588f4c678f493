"""Weights of guides: what is fetched, what is refused and by which name, and which extra a missing package belongs to."""

import sys
from types import SimpleNamespace

import pytest
import torch
from guide_weights import STATE, as_vit, family, vit_config
from safetensors.torch import save_file

from ovsslib import guides
from ovsslib.errors import MissingPackageError, ModelError
from ovsslib.guides import loading
from ovsslib.guides.dino_weights import official_state


def broken(**changes) -> dict[str, torch.Tensor]:
    return {key: value for key, value in {**STATE, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    "state, message",
    [
        (broken(**{"patch_embed.proj.weight": None}), "no DINO vision transformer"),
        (broken(**{"blocks.1.mlp.fc1.bias": None}), "missing: blocks.1.mlp.fc1.bias"),
        (broken(**{"norm.weight": torch.zeros(31)}), "other shape: norm.weight"),
        (broken(extra=torch.zeros(1)), "unexpected: extra"),
        (broken(register_tokens=torch.zeros(1)), "DINOv2's"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, state, message):
    save_file(state, tmp_path / "dino.safetensors")
    with pytest.raises(ModelError, match=message):
        guides.load(tmp_path / "dino.safetensors", heads=2)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ModelError, match="heads=3"):
        guides.from_state(STATE, heads=3)


def test_names_and_places_that_lead_nowhere(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="dinovit.*scenedino"):
        guides.load("dinovit")
    with pytest.raises(ModelError, match="check the path"):
        guides.load(tmp_path / "none.pth")
    with pytest.raises(ModelError, match="no config.json"):
        guides.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="no model.safetensors"):
        guides.load(tmp_path)
    save_file(STATE, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="'bert'"):
        guides.load(tmp_path)
    with pytest.raises(ModelError, match="device='cuda"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        guides.load("scenedino", device="cuda")


@pytest.fixture
def empty_cache(monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *parts: None)
    asked = []

    def unreachable(self, name, **options):
        asked.append(name)
        raise ConnectionError("no route")

    monkeypatch.setattr(loading.HfApi, "model_info", unreachable)
    return asked


def test_nothing_is_fetched_unasked_and_no_connection_is_named(empty_cache):
    with pytest.raises(ModelError, match="nothing is fetched unasked.*facebook/dino-vitb8"):
        guides.load("dino-vitb8")
    with pytest.raises(ModelError, match="not in the local cache"):
        guides.check("dinov2-vitb14-reg")
    guides.check("facebook/dino-vitb8")
    assert empty_cache == []
    with pytest.raises(ModelError, match="could not be fetched.*ConnectionError.*hf download"):
        guides.load("facebook/dino-vitb8")
    assert empty_cache == ["facebook/dino-vitb8"]


def test_a_short_name_takes_weights_of_its_own_width_and_patch_only(tmp_path):
    transformers = pytest.importorskip("transformers")
    as_vit(transformers).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="width 32, expected 768"):
        guides.check("dino-vitb8", weights=tmp_path)
    with pytest.raises(ModelError, match="width 32, expected 768"):
        guides.load("dino-vitb8", weights=tmp_path)
    right = transformers.ViTModel(
        vit_config(
            transformers,
            hidden_size=384,
            num_attention_heads=6,
            num_hidden_layers=1,
            intermediate_size=1536,
        ),
        add_pooling_layer=False,
    )
    right.save_pretrained(tmp_path)
    guides.check("dino-vits8", weights=tmp_path)
    guide = guides.load("dino-vits8", weights=tmp_path)
    assert (guide.name, guide.dim, guide.heads) == ("dino-vits8", 384, 6)
    with pytest.raises(
        ModelError, match="patches of 8 pixels, expected 16|patches of 8, expected 16"
    ):
        guides.load("dino-vits16", weights=tmp_path)
    with pytest.raises(ModelError, match="goes with a short name"):
        guides.load("facebook/dino-vits8", weights=tmp_path)


def test_a_cached_hub_model_is_opened_without_the_hub(tmp_path, monkeypatch, empty_cache):
    transformers = pytest.importorskip("transformers")
    vit_small = vit_config(
        transformers,
        hidden_size=384,
        num_attention_heads=6,
        num_hidden_layers=1,
        intermediate_size=1536,
    )
    transformers.ViTModel(vit_small, add_pooling_layer=False).save_pretrained(tmp_path)
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache",
        lambda hub, part: str(tmp_path / part) if (tmp_path / part).exists() else None,
    )
    guide = guides.load("facebook/dino-vits8")
    assert guide.name == "facebook/dino-vits8" and empty_cache == []
    assert guides.load("dino-vits8").weights_hash == guide.weights_hash


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_what_is_fetched_is_configurations_and_one_form_of_weights(
    tmp_path, monkeypatch, empty_cache, weights
):
    transformers = pytest.importorskip("transformers")
    as_vit(transformers).save_pretrained(tmp_path)
    wanted = []
    files = [
        SimpleNamespace(rfilename=name) for name in ("config.json", "flax_model.msgpack", weights)
    ]
    monkeypatch.setattr(
        loading.HfApi, "model_info", lambda self, name, **options: SimpleNamespace(siblings=files)
    )

    def snapshot(name, allow_patterns):
        wanted.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(loading, "snapshot_download", snapshot)
    assert guides.load("someone/dino-tiny").dim == 32
    assert wanted == [("someone/dino-tiny", ["*.json", weights])]


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    model, _ = family("dinov2")
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"ovsslib\[guides\]"):
        guides.load(tmp_path)
    with pytest.raises(MissingPackageError, match=r"ovsslib\[guides\]"):
        guides.check(tmp_path)


def test_dino_v1_and_the_embedded_guide_need_no_transformers(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)  # makes the import fail
    torch.save(STATE, tmp_path / "dino.pth")
    assert guides.load(tmp_path / "dino.pth", heads=2).dim == 32
    assert guides.load("scenedino").patch_size == 8


def test_official_names_pass_unchanged():
    assert official_state(STATE).keys() == STATE.keys()


def test_the_embedded_guide_is_small_and_reads_scenes():
    guide = guides.load()
    folder = loading.paths.data("models/scenedino")
    assert (folder / "model.safetensors").stat().st_size < 10e6
    assert guide.name == "scenedino" and guide.patch_size == 8
    features = guide.features(guide.normalise(torch.rand(1, 3, 224, 296)))
    assert features.shape == (1, guide.dim, 28, 37) and torch.isfinite(features).all()
    assert sum(weight.numel() for weight in guide.network.parameters()) < 6e6
