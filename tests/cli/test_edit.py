import numpy as np
import pytest
from editing_cases import dog_on_grass
from PIL import Image
from tiny_diffusion import tiny_pipeline

import ovsslib
from ovsslib.cli.main import app
from ovsslib.datasets.dataset import open_dataset
from ovsslib.editing import edits as editing
from ovsslib.errors import OvssError


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inpainting")
    tiny_pipeline(folder / "text").save_pretrained(folder / "model")
    return folder / "model"


def run(*arguments: object) -> None:
    app(args=["edit", *map(str, arguments)], standalone_mode=False)


@pytest.fixture(scope="module")
def photo():
    return open_dataset("scenes").paths(0)[0]


@pytest.fixture(scope="module")
def found():
    """Arguments that name a word that SceneCLIP sees in a part of a picture."""
    dataset = open_dataset("scenes", limit=20)
    segmenter = ovsslib.load("sclip", model="sceneclip")
    for index in range(len(dataset)):
        names = [dataset.vocabulary.names[label] for label in np.unique(dataset.label(index))]
        rows = segmenter(dataset.paths(index)[0], names).table()
        if rows["share"][0] < 90:
            break
    source, words = dataset.paths(index)[0], ", ".join(names)
    return source, "--word", rows["name"][0], "--words", words, "--model", "sceneclip"


def test_command_edits_a_picture_offline(found, tmp_path, capsys):
    out = tmp_path / "out.png"
    run(*found, "--recolour", "purple", "--feather", "0", "-o", out)
    original, edited = np.asarray(Image.open(found[0])), np.asarray(Image.open(out))
    pixels = int(capsys.readouterr().out.split(f"{found[2]}: ")[1].split()[0])
    changed = int((original != edited).any(axis=2).sum())
    assert edited.shape == original.shape and 0 < changed <= pixels
    run(*found, "--background", "grey", "-o", out)
    assert (np.asarray(Image.open(out)) != original).any()


def test_command_paints_with_a_model_in_a_folder(found, model_folder, tmp_path):
    painting = ("--inpainter", model_folder, "--steps", "2", "--device", "cpu")
    run(*found, *painting, "--replace", "a red fox", "-o", tmp_path / "one.png")
    run(*found, *painting, "--replace", "a red fox", "-o", tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    run(*found, *painting, "--remove", "-o", tmp_path / "gone.png")
    assert (tmp_path / "gone.png").read_bytes() != (tmp_path / "one.png").read_bytes()


def test_command_needs_one_word_only(photo, tmp_path, monkeypatch):
    asked, result = [], dog_on_grass()

    def segment(image, words, background, keep_scores):
        asked.append((words, background, keep_scores))
        return result

    monkeypatch.setattr("ovsslib.segmenter.load", lambda *names, **settings: segment)
    run(photo, "--word", "dog", "--blur", "--confidence", "0.5", "-o", tmp_path / "out.png")
    assert asked == [(["dog"], "auto", True)]
    expected = editing.mask_for(result, "dog", feather=2, confidence=0.5)
    edited = np.asarray(Image.open(tmp_path / "out.png"))
    np.testing.assert_array_equal(edited, editing.blur(result.image, expected))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-o", "out.png"], "give one edit, not none"),
        (["--blur", "--remove", "-o", "out.png"], "not --blur, --remove"),
        (["--blur", "-o", "out.jpg"], "must end in .png"),
        (["--replace", "x", "--inpainter", "nowhere/at/all", "-o", "out.png"], "no folder nowhere"),
    ],
)
def test_command_refuses_before_any_work(photo, arguments, message):
    with pytest.raises(OvssError, match=message):
        run(photo, "--word", "dog", *arguments)
