"""The public interface, line by line as readers of the book use it."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from skimage import data

import ovsslib


@pytest.fixture(scope="module")
def segment():
    """The embedded model, whatever lies in the local cache."""
    return ovsslib.load("naclip", model="sceneclip")


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A photograph as a file."""
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    Image.fromarray(data.chelsea()).resize((200, 140)).save(path)
    return path


def test_segment_a_photograph(segment, photo, tmp_path):
    result = segment(photo, ["person", "dog", "grass"], background=None)
    assert result.mask.shape == (140, 200) and result.mask.dtype == np.int32
    assert result.names == ["person", "dog", "grass"] and result.scores is None
    assert isinstance(result.table(), pd.DataFrame) and result.table()["pixels"].sum() == 28_000
    assert isinstance(result.overlay(), Image.Image)
    result.save(tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as saved:
        assert np.array_equal(np.asarray(saved), result.mask)


@pytest.mark.filterwarnings("ignore:the model 'sceneclip' was never trained")
@pytest.mark.parametrize("background", ["auto", ["sky", "wall"]], ids=str)
def test_background_is_index_0(segment, photo, background):
    picture = Image.open(photo)
    result = segment(picture, ["dog", "grass"], background=background, keep_scores=True)
    assert result.names == ["background", "dog", "grass"]
    assert result.scores.shape == (3, 140, 200) and result.scores.dtype == np.float32


def test_recipes():
    recipe = ovsslib.Recipe.named("itaclip", dataset="voc21")
    changed = recipe.but(refine=("pamr", "densecrf"))
    assert [name for name, _ in changed.at("refine")] == ["pamr", "densecrf"]
    assert "densecrf" not in recipe
    config = {"use_loftup": True, "use_densecrf": True, "template_strategy": "top7"}
    thesis = ovsslib.Recipe.from_thesis_config(config)
    assert {"upsampling", "densecrf"} <= set(thesis.stages)
    assert thesis["text"].prompts == "thesis-top7"
    assert all(ovsslib.recipes().values()) and "itaclip" in ovsslib.recipes()


def test_segmenter_of_a_backbone_and_a_recipe():
    backbone = ovsslib.load_backbone("sceneclip", device="cpu", precision="fp32")
    segmenter = ovsslib.Segmenter(backbone, ovsslib.Recipe.named("sclip"))
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    text = torch.nn.functional.normalize(torch.randn(5, backbone.dim), dim=1)
    features = segmenter.features(pixels, text_features=None, keep_cls=False)
    assert features.shape == (2, 4, 6, backbone.dim)
    tokens = segmenter.features(pixels, keep_cls=True)
    assert torch.equal(tokens[:, 1:].reshape(features.shape), features)
    assert segmenter.logits(pixels, text).shape == (2, 5, 64, 96)


def test_stages_by_their_public_names():
    image, logits = torch.rand(1, 3, 32, 40), torch.randn(1, 4, 32, 40)
    assert ovsslib.stages.pamr(image, logits, 10, (8, 16)).shape == logits.shape
    named = ovsslib.stages.pamr(image=image, logits=logits, iterations=10, dilations=(8, 16))
    assert torch.equal(named, ovsslib.stages.pamr(image, logits, 10, (8, 16)))
    features = torch.randn(1, 512, 4, 4)
    upsampler = ovsslib.stages.LoftUp(dim=512)
    assert upsampler(features, torch.rand(1, 3, 8, 12)).shape == (1, 512, 8, 12)


def test_vocabulary_and_dataset():
    vocabulary = ovsslib.Vocabulary.named("voc21")
    lengths = {len(vocabulary.names), len(vocabulary.synonyms), len(vocabulary.kinds)}
    assert lengths == {21} and vocabulary.groups is not None
    dataset = ovsslib.open_dataset("scenes")
    assert isinstance(dataset, Sequence)
    image, label, name = dataset[0]
    assert image.shape == (224, 298, 3) and label.shape == (224, 298) and isinstance(name, str)
    assert label[label != dataset.ignore_index].max() < len(dataset.vocabulary)


def test_evaluate():
    segmenter = ovsslib.load("clip", model="sceneclip")
    report = ovsslib.evaluate(segmenter, ovsslib.open_dataset("scenes"), limit=1)
    for percent in (report.miou, report.pixel_accuracy, report.boundary_f1):
        assert 0 <= percent <= 100
    assert report.per_class.max() <= 100 and report.seconds_per_image > 0
