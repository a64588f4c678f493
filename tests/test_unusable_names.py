"""Names that no file can have (a pasted page of text, a zero byte) get the error of a name that is not there."""

import pytest

import ovsslib
from ovsslib import Recipe, comparators, guides
from ovsslib.errors import OvssError
from ovsslib.evaluation.contributed import import_records
from ovsslib.evaluation.profiles import Profile
from ovsslib.images.pictures import read_picture
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
