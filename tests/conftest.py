"""Shared fixtures: small random models, the recorded outputs of the official implementations."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny_segmenters import save_segmenter

from ovsslib import paths
from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import build_model, load_state

torch.set_num_threads(1)  # several workers at once, each with all cores, wait for one another

VECTORS = Path(__file__).parent / "vectors"

TINY_CONFIG = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 64,
        "patch_size": 16,
        "width": 64,
        "layers": 12,
        "head_width": 16,
        "mlp_ratio": 4.0,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def vectors(name: str) -> dict[str, torch.Tensor]:
    """Arrays of a test vector file as tensors."""
    with np.load(VECTORS / f"{name}.npz") as content:
        return {key: torch.from_numpy(np.asarray(content[key])) for key in content.files}


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """max|a - b| / max|b|."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A training sets the number of threads: each module gives it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_backbone() -> Backbone:
    """The vision tower of the test vectors, with a seeded random text tower."""
    torch.manual_seed(0)
    net = build_model(TINY_CONFIG)
    state = net.state_dict()
    state |= {f"visual.{key}": value for key, value in vectors("tiny_clip_visual").items()}
    load_state(net, state, "the test vectors")
    return Backbone(net, name="tiny", pretrained="vectors", weights_hash="tiny")


@pytest.fixture(scope="session")
def tiny_inputs() -> dict[str, torch.Tensor]:
    """Pictures and unit text rows of the test vectors."""
    return vectors("tiny_inputs")


def thesis_content() -> dict:
    """Switches and strategies of the thesis's configuration dictionary, as shipped."""
    return yaml.safe_load(paths.data("thesis.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def tiny_guide():
    """The second encoder of the test vectors: a random DINO of patch 8, width 32."""
    from ovsslib import guides

    state = {key[2:]: value for key, value in vectors("dino_tiny").items() if key.startswith("w.")}
    return guides.from_state(state, heads=2, name="tiny")


@pytest.fixture(scope="session")
def segmenter_folder(tmp_path_factory):
    """Function of "sam", "sam2" or "sam3": the folder of a tiny random one, made once."""

    @functools.cache
    def folder_of(name: str) -> Path:
        return save_segmenter(name, tmp_path_factory.mktemp(name))

    return folder_of


@pytest.fixture(scope="session")
def tiny_sam(segmenter_folder):
    """A tiny random SAM, opened."""
    from ovsslib import guides

    return guides.load_sam(segmenter_folder("sam"))


@pytest.fixture
def second_models(monkeypatch, tiny_guide, tiny_sam):
    """Whatever guide, mask proposer or SAM a recipe names, one that is at hand stands in for it."""
    from ovsslib import guides
    from ovsslib.guides import masks, prompts
    from ovsslib.stages import spliced_attention

    proposer = masks.load("felzenszwalb")
    monkeypatch.setattr(guides, "load", lambda name, **keywords: tiny_guide)
    monkeypatch.setattr(masks, "load", lambda name, **settings: proposer)
    monkeypatch.setattr(prompts, "load_sam", lambda model, device: tiny_sam)
    monkeypatch.setattr(spliced_attention, "opened_sam", lambda name, device: tiny_sam)
