"""Names that no file can have (a pasted page of text, a zero byte) get the error of a name that is not there."""

import re

import pytest

import ovsslib
from ovsslib import Recipe, comparators, guides
from ovsslib.errors import OvssError
from ovsslib.evaluation.contributed import import_records
from ovsslib.evaluation.profiles import Profile
from ovsslib.guides import masks
from ovsslib.guides.prompts import load_prompter
from ovsslib.images.pictures import read_picture
from ovsslib.networks.loftup import load_loftup
from ovsslib.paths import write_file
from ovsslib.segmenter.many import find_pictures
from ovsslib.study.ablation import read_grid

PLACES = {
    "data set": lambda name: ovsslib.open_dataset("voc21", root=name),
    "folder of pictures": lambda name: ovsslib.open_dataset("folder", root=name),
    "picture": read_picture,
    "pictures": find_pictures,
    "model": ovsslib.load_backbone,
    "weights": lambda name: ovsslib.load_backbone("ViT-B-16", pretrained=name),
    "checkpoint": lambda name: ovsslib.load_backbone("ViT-B-16", pretrained=f"{name}.pt"),
    "profile": lambda name: Profile.named(f"{name}.yaml"),
    "recipe": Recipe.named,
    "recipe file": lambda name: Recipe.named(f"{name}.yaml"),
    "guide": guides.load,
    "guide's weights": lambda name: guides.load("dino-vitb8", weights=name),
    "comparator": lambda name: comparators.load("clipseg", name),
    "torchvision's comparator": lambda name: comparators.load("deeplabv3", name),
    "records": import_records,
    "ablation": read_grid,
    "target": lambda name: write_file(f"{name}.png", b""),
}


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"], ids=["too long", "zero byte"])
@pytest.mark.parametrize("place", PLACES)
def test_a_name_that_no_file_can_have(place, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OvssError):
        PLACES[place](name)
    assert not list(tmp_path.iterdir())


OF_HUB = {
    "model": ovsslib.load_backbone,
    "hub model": lambda name: ovsslib.load_backbone(f"hf-hub:{name}"),
    "guide": guides.load,
    "guide, looked for": guides.check,
    "comparator": lambda name: comparators.load("clipseg", name),
    "mask proposer": lambda name: masks.load("sam2", model=name),
    "prompted segmenter": lambda name: load_prompter(f"sam2:{name}"),
    "LoftUp": load_loftup,
}


@pytest.mark.parametrize("name", ["./nowhere", "../a", "-x/y", "a b/c", "x--y/z", "no/where/x"])
@pytest.mark.parametrize("place", OF_HUB)
def test_a_path_that_is_not_there_is_no_name_of_the_hub(place, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OvssError, match=re.escape(name)):
        OF_HUB[place](name)


def test_a_file_of_weights_is_asked_for_its_model(tmp_path):
    file = tmp_path / "weights.bin"
    file.write_bytes(b"x")
    with pytest.raises(OvssError, match="pretrained='.*weights.bin'"):
        ovsslib.load_backbone(str(file))
    with pytest.raises(
        OvssError, match="no open_clip_config.json or config.json; name a folder with both"
    ):
        ovsslib.load_backbone(tmp_path)
