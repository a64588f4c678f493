"""Where comparators' weights come from: folders, caches and files, and what is said of those that do not serve."""

import shutil

import numpy as np
import pytest
import torch
from comparator_cases import save_tiny

import ovsslib
from ovsslib import comparators
from ovsslib.errors import MissingPackageError, ModelError, RecipeError
from ovsslib.text.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of two open vocabularies."""
    root = tmp_path_factory.mktemp("models")
    return {name: save_tiny(name, root / name) for name in ("clipseg", "groupvit")}


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (45, 56, 3), dtype=np.uint8)


def test_nothing_is_fetched_unasked(monkeypatch, tmp_path):
    import huggingface_hub

    def refuse(*arguments, **keywords):
        raise AssertionError("asked the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for name in set(comparators.names()) - {"deeplabv3-scenes", "lseg-scenes"}:  # on no hub
        with pytest.raises(ModelError, match="not in the local cache.*nothing is fetched unasked"):
            ovsslib.load(name)


def test_the_local_cache_is_enough(monkeypatch, folders, image):
    import huggingface_hub

    cached = folders["clipseg"] / "config.json"
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda entry, file: str(cached))
    comparator = ovsslib.load("clipseg")
    assert comparator.backbone.pretrained == "CIDAS/clipseg-rd64-refined"
    assert comparator(image, ["cat"]).mask.shape == (45, 56)


def test_a_hub_entry_that_cannot_be_had_says_what_to_do(monkeypatch):
    import huggingface_hub

    def fail(*arguments, **keywords):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError, match="run `hf download CIDAS/clipseg-rd64-refined`"):
        ovsslib.load("clipseg", pretrained="CIDAS/clipseg-rd64-refined")


@pytest.mark.parametrize("name", ["lseg", "tcl", "deeplabv3plus"])
def test_what_cannot_be_run_says_why(name):
    row = next(one for one in comparators.quoted() if one.name == name)
    with pytest.raises(ModelError, match=f"{row.title.replace('+', '[+]')} cannot be run here: "):
        ovsslib.load(name)
    assert row.group in comparators.GROUPS and len(row.reason) > 40


def test_wrong_arguments_are_named(folders, tmp_path):
    with pytest.raises(ModelError, match="unknown comparator 'clipsec'.*did you mean 'clipseg'"):
        comparators.load("clipsec")
    with pytest.raises(RecipeError, match="unknown recipe"):
        ovsslib.load("clipsec")
    with pytest.raises(
        ModelError, match="model='sceneclip': 'clipseg' is a trained model by itself"
    ):
        ovsslib.load("clipseg", model="sceneclip")
    with pytest.raises(ModelError, match="dataset='voc21'"):
        ovsslib.load("clipseg", dataset="voc21")
    with pytest.raises(ModelError, match="precision='fp8'"):
        ovsslib.load("clipseg", pretrained=str(folders["clipseg"]), precision="fp8")
    with pytest.raises(ModelError, match="there is no such folder"):
        ovsslib.load("clipseg", pretrained=str(tmp_path / "nothing"))
    with pytest.raises(ModelError, match="needs CLIPSegForImageSegmentation"):
        ovsslib.load("clipseg", pretrained=str(folders["groupvit"]))
    with pytest.raises(ModelError, match="there is no config.json"):
        ovsslib.load("clipseg", pretrained=str(tmp_path))


def test_damaged_folders_are_named(folders, tmp_path):
    folder = shutil.copytree(folders["clipseg"], tmp_path / "damaged")
    (folder / "processor_config.json").unlink()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="cannot be opened"):
        ovsslib.load("clipseg", pretrained=str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds no \*.safetensors"):
        ovsslib.load("clipseg", pretrained=str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="is not JSON"):
        ovsslib.load("clipseg", pretrained=str(folder))


def test_without_transformers_the_extra_is_named(monkeypatch, folders):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        MissingPackageError, match=r"CLIPSeg needs transformers.*ovsslib\[comparators\]"
    ):
        ovsslib.load("clipseg", pretrained=str(folders["clipseg"]))


def test_files_of_torchvision(tmp_path, image):
    """Its own checkpoint files, with and without the auxiliary head; what does not fit is named."""
    from torchvision.models import get_model

    torch.manual_seed(0)
    model = get_model(
        "deeplabv3_resnet50", weights=None, weights_backbone=None, num_classes=21, aux_loss=True
    )
    file = tmp_path / "deeplabv3_resnet50_coco-cd0a2569.pth"
    torch.save(model.state_dict(), file)
    comparator = ovsslib.load("deeplabv3", pretrained=str(file))
    assert len(comparator.labels) == 21 and comparator.labels[15] == "person"
    assert comparator.lacks(Vocabulary.named("voc20")) == []
    small = {key: value for key, value in model.state_dict().items() if "classifier.4" not in key}
    torch.save(small, file)
    with pytest.raises(ModelError, match="does not fit deeplabv3_resnet50 with 21 labels"):
        ovsslib.load("deeplabv3", pretrained=str(file))
    file.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be read as weights"):
        ovsslib.load("deeplabv3", pretrained=str(file))
    with pytest.raises(ModelError, match="unknown weights 'V9' of deeplabv3_resnet50"):
        ovsslib.load("deeplabv3", pretrained="deeplabv3_resnet50/V9")
    with pytest.raises(ModelError, match="unknown architecture 'fcn'"):
        ovsslib.load("deeplabv3", pretrained="fcn/V1")
    with pytest.raises(ModelError, match="lacks architecture"):
        (tmp_path / "config.json").write_text("{}")
        ovsslib.load("deeplabv3", pretrained=str(tmp_path))
