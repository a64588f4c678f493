"""Folders as people have them: linked, of many kinds, with the results inside; tables of words as they are saved."""

import numpy as np
import pytest
from PIL import Image

import ovsslib
from ovsslib.errors import DataError, WordsError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter, WordsByPicture, read_words_by_picture
from ovsslib.segmenter.folder import segment_folder
from ovsslib.segmenter.many import find_pictures

WORDS = ["cat", "dog", "grass"]


@pytest.fixture(scope="module")
def segmenter(tiny_backbone):
    recipe = Recipe.named("sclip").but({"windows.short_side": 64, "text.prompts": "single"})
    return Segmenter(tiny_backbone, recipe)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for number, name in enumerate(("a.jpg", "b.jpg")):
        Image.new("RGB", (64, 64), (90 * number, 50, 20)).save(tmp_path / "in" / name)
    return tmp_path / "in"


def test_linked_folders_and_all_kinds_of_pictures_count(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for name in ("c.jfif", "d.jpe"):
        Image.new("RGB", (8, 8)).save(tmp_path / "elsewhere" / name, "JPEG")
    (tmp_path / "elsewhere" / "e.HEIC").write_bytes(b"\0" * 40)
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "round").symlink_to(folder)
    (folder / "broken.png").symlink_to(folder / "none.png")
    (folder / ".thumbs").mkdir()
    Image.new("RGB", (8, 8)).save(folder / ".thumbs" / "a.jpg")
    names = ["a.jpg", "b.jpg", "broken.png", "linked/c.jfif", "linked/d.jpe", "linked/e.HEIC"]
    assert list(find_pictures(folder)) == names


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_cannot_be_read_is_reported_not_left_out(segmenter, folder):
    (folder / "phone.heic").write_bytes(b"\0" * 40)
    (folder / "broken.png").symlink_to(folder / "none.png")
    run = segmenter.many(folder, WORDS)
    assert [name for name, _ in run] == ["a.jpg", "b.jpg"]
    assert "HEIC" in run.failed["phone.heic"] and "does not exist" in run.failed["broken.png"]


def test_a_second_run_takes_no_mask_for_a_picture(segmenter, folder):
    out = folder / "results"
    formats = ["masks", "overlays", "coco"]
    assert segment_folder(segmenter, folder, WORDS, out, formats=formats).done == ["a.jpg", "b.jpg"]
    again = segment_folder(segmenter, folder, WORDS, out, formats=formats)
    assert (again.done, again.kept) == ([], ["a.jpg", "b.jpg"])
    with pytest.raises(DataError, match="holds the pictures themselves.*choose another folder"):
        segment_folder(segmenter, folder, WORDS, folder)
    beside = segment_folder(segmenter, folder, WORDS, folder.parent)
    assert beside.done[:2] == ["a.jpg", "b.jpg"] and "results/masks/a.png" in beside.done


def test_pieces_without_a_format_that_has_them_are_refused(segmenter, folder, tmp_path):
    with pytest.raises(DataError, match="--instances.*coco and label-studio.*writes masks"):
        segment_folder(segmenter, folder, WORDS, tmp_path / "out", components=True)


@pytest.mark.filterwarnings("ignore:.*could not be used")
def test_lines_without_a_picture_and_pictures_without_a_line_are_told(segmenter, folder, tmp_path):
    words = WordsByPicture({"A.jpg": ["cat"], "b.jpg": ["dog"], "b": ["sky"]})
    with pytest.warns(UserWarning, match="2 picture.s. that are not here: 'A.jpg', 'b'"):
        report = segment_folder(segmenter, folder, words, tmp_path / "out")
    assert report.done == ["b.jpg"]
    assert "no words are listed for 'a.jpg'; add a line" in report.failed["a.jpg"]
    words.words["a.jpg"] = ["cat"]  # the remedy, followed
    with pytest.warns(UserWarning, match="'A.jpg', 'b'"):
        report = segment_folder(segmenter, folder, words, tmp_path / "out")
    assert not report.failed


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("a.jpg\tcat\tdog\n", {"a.jpg": ["cat", "dog"]}),
        ("filename,words\na.jpg,cat\n", {"a.jpg": ["cat"]}),
        ('\ufeffimage;words\n\n"my; dog.jpg";cat\n', {"my; dog.jpg": ["cat"]}),
    ],
)
def test_tables_as_they_are_saved(table, expected, tmp_path):
    (tmp_path / "w.csv").write_text(table, encoding="utf-8")
    assert read_words_by_picture(tmp_path / "w.csv") == expected


def test_tables_that_cannot_be_used(tmp_path):
    file = tmp_path / "w.csv"
    for empty in ("", "\n\n", "picture,words\n"):
        file.write_text(empty)
        with pytest.raises(WordsError, match="holds no words; write lines such as"):
            read_words_by_picture(file)
    for coding in ("latin-1", "utf-16"):
        file.write_bytes("a.jpg,café\n".encode(coding))
        with pytest.raises(WordsError, match="save the table as CSV in UTF-8"):
            read_words_by_picture(file)


def test_arguments_that_would_be_misread(segmenter, folder):
    with pytest.raises(WordsError, match="'a.jpg' is one of the pictures.*WordsByPicture"):
        segmenter.many(folder, {"a.jpg": ["cat"], "b.jpg": ["dog"]})
    assert segmenter.many(folder, WORDS, skip="a.jpg").names == ["b.jpg"]
    with pytest.raises(DataError, match="holds paths, not ndarray"):
        segmenter.many([np.zeros((8, 8, 3), dtype=np.uint8)], WORDS)
    with pytest.raises(DataError, match="workers=1.5"):
        segmenter.many(folder, WORDS, workers=1.5)


def test_a_trained_model_segments_folders_too(folder, tmp_path):
    made = ovsslib.load("deeplabv3-scenes")
    report = segment_folder(made, folder, ["sky", "grass"], tmp_path / "out")
    assert report.done == ["a.jpg", "b.jpg"]
    for name in ("a", "b"):
        expected = made(folder / f"{name}.jpg", ["sky", "grass"], keep_scores=True)
        assert np.array_equal(
            np.asarray(Image.open(tmp_path / f"out/masks/{name}.png")), expected.mask
        )
    text = made.text(["sky", "grass"])
    result = made.segment(expected.image, text, confidence=True)
    first, second = np.sort(expected.scores, axis=0)[::-1]
    assert np.allclose(result.confidence, first) and np.allclose(result.margin, first - second)
