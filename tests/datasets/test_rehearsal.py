"""The rehearsal's fake data sets and weights: what the book runs on in CI must be what it stands for."""

import numpy as np
import pytest
import rehearse
import run_notebooks
from fake_datasets import name_of
from huggingface_hub import constants

import ovsslib
from ovsslib.evaluation.profiles import Profile
from ovsslib.networks.loftup import load_loftup


@pytest.mark.parametrize("dataset", sorted(rehearse.IMAGE_SIZES))
def test_pictures_of_scenes_in_the_layout_of_a_data_set(dataset, tmp_path):
    scenes = ovsslib.open_dataset("scenes", limit=8)
    rehearse.fake_dataset(dataset, tmp_path, pictures=8, scale=0.25)
    made = ovsslib.open_dataset(dataset, root=tmp_path)
    assert len(made) == 8
    names, known = scenes.vocabulary.names, made.vocabulary.names
    seen = ignored = 0
    order = {name_of(dataset, index): index for index in range(8)}  # a data set sorts its names
    for image, label, name in made:
        truth = scenes[order[name]][1]
        height, width = rehearse.IMAGE_SIZES[dataset]
        assert image.shape[:2] == label.shape == (round(height / 4), round(width / 4))
        rows, columns = (  # the nearest pixel's centre
            ((np.arange(after) + 0.5) * before / after).astype(int)
            for before, after in zip(truth.shape, label.shape, strict=True)
        )
        there = truth[rows][:, columns]
        ignored += int((label == 255).sum())
        for word in ("person", "car", "sky", "bus", "bottle", "dog", "horse", "boat", "chair"):
            if word not in known:
                continue
            place = (there == names.index(word)) & (label != 255)
            if place.sum() > 300:  # but for the borders the label is the class of that name
                right = np.mean(label[place] == known.index(word))
                assert right > 0.9, (word, right)
                seen += 1
    assert seen and (ignored == 0) == (dataset in rehearse.BORDERLESS)


def test_every_size_and_layout_is_that_of_a_real_profile():
    shipped = {name.removeprefix("openai-vitb16-") for name in run_notebooks.profiles()}
    assert set(rehearse.IMAGE_SIZES) <= shipped


def test_the_tower_carries_every_recipe_of_the_book(tmp_path, monkeypatch):
    monkeypatch.setattr(rehearse, "fake_dataset", lambda dataset, root, **more: root.mkdir())
    profile = Profile.named(str(rehearse.prepare("voc21", tmp_path, limit=3)))
    backbone = profile.backbone()
    assert (backbone.layers, backbone.dim, backbone.base_grid) == (12, 512, (14, 14))
    assert profile.dataset == "voc21" and profile.limit == 3
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub" / "hub"))
    assert load_loftup("haiwen/loftup-clip", dim=512).training is False
    for name in ("itaclip", "resclip", "naclip", "gem"):
        ovsslib.Segmenter(backbone, ovsslib.Recipe.named(name, "voc21"))


def test_bad_requests(capsys):
    for arguments, told in (
        (["--limit", "0"], "there are 14 pictures"),
        (["--scale", "2"], "choose above 0, at most 1"),
        (["--scale", "0"], "choose above 0, at most 1"),
        (["--dataset", "voc22"], "invalid choice"),
    ):
        with pytest.raises(SystemExit):
            rehearse.main(arguments)
        assert told in capsys.readouterr().err
