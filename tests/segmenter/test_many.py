"""Folders: every good picture once, bad ones at the end, runs that go on, formats that load elsewhere."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from ovsslib.cli.main import main
from ovsslib.errors import DataError, WordsError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter, WordsByPicture, loading, read_words_by_picture
from ovsslib.segmenter.folder import FORMATS, segment_folder

WORDS = ["cat", "dog", "grass"]


@pytest.fixture(scope="module")
def segmenter(tiny_backbone):
    recipe = Recipe.named("sclip").but({"windows.short_side": 64, "text.prompts": "single"})
    return Segmenter(tiny_backbone, recipe)


@pytest.fixture
def folder(tmp_path):
    """Five pictures in two folders, a damaged one, an empty one, and things that are no pictures."""
    rng, root = np.random.default_rng(0), tmp_path / "in"
    (root / "sub").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "b.png", "sub/a.png", "sub/c.jpeg"):
        blocks = np.kron(rng.integers(0, 256, (4, 5, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        Image.fromarray(blocks).save(root / name)
    content = (root / "a.png").read_bytes()
    (root / "damaged.png").write_bytes(content[: len(content) // 2])
    (root / "sub" / "empty.jpg").write_bytes(b"")
    (root / "notes.txt").write_text("no picture")
    (root / ".hidden.png").write_bytes(content)
    return root


GOOD = ["a.png", "b.jpg", "b.png", "sub/a.png", "sub/c.jpeg"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_many_equals_one_by_one_and_sets_bad_files_aside(segmenter, folder):
    run = segmenter.many(folder, WORDS)
    assert len(run) == 7
    found = dict(run)
    assert sorted(found) == GOOD and sorted(run.failed) == ["damaged.png", "sub/empty.jpg"]
    for name, result in found.items():
        assert np.array_equal(result.mask, segmenter(folder / name, WORDS).mask)
    assert [n for n, _ in segmenter.many([folder / "a.png"], WORDS)] == [
        (folder / "a.png").as_posix()
    ]
    with pytest.raises(DataError, match="holds no picture"):
        (folder / "none").mkdir()
        segmenter.many(folder / "none", WORDS)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_killed_run_goes_on_and_does_nothing_twice(segmenter, folder, tmp_path, monkeypatch):
    out, seen = tmp_path / "out", []

    class Killed(BaseException):
        pass

    def killed(done, total):
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        segment_folder(segmenter, folder, WORDS, out, progress=killed)
    real = Segmenter.segment
    monkeypatch.setattr(
        Segmenter, "segment", lambda self, *a, **k: seen.append(1) or real(self, *a, **k)
    )
    (out / "masks" / ".0123.part").write_bytes(b"half")  # what kill -9 leaves behind
    report = segment_folder(segmenter, folder, WORDS, out)
    assert len(report.kept) >= 2 and sorted(report.kept + report.done) == GOOD
    assert len(seen) == len(report.done) and not list(out.rglob("*.part"))
    assert sorted(report.failed) == ["damaged.png", "sub/empty.jpg"]
    masks = sorted(p.relative_to(out / "masks").as_posix() for p in (out / "masks").rglob("*.png"))
    assert masks == ["a.png", "b.jpg.png", "b.png.png", "sub/a.png", "sub/c.png"]
    assert segment_folder(segmenter, folder, WORDS, out).done == []
    assert len(segment_folder(segmenter, folder, ["sky", "sea"], out).done) == 5  # other words
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "a.png")
    assert segment_folder(segmenter, folder, ["sky", "sea"], out).done == [
        "a.png"
    ]  # another picture


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_format_and_coco_gives_the_same_masks(segmenter, folder, tmp_path):
    report = segment_folder(
        segmenter, folder, WORDS, tmp_path, formats=list(FORMATS), components=True
    )
    assert sorted(report.done) == GOOD
    for name in ("masks", "plain", "overlays", "cutouts", "polygons"):
        assert any((tmp_path / name).rglob("*.*")), name
    coco = COCO(str(tmp_path / "coco.json"))
    for image in coco.dataset["images"]:
        mask = segmenter(folder / image["file_name"], WORDS).mask
        rebuilt = np.full(mask.shape, -1)
        for one in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            name = coco.loadCats(one["category_id"])[0]["name"]
            rebuilt[coco.annToMask(one) > 0] = WORDS.index(name)
        assert np.array_equal(rebuilt, mask)
    ids = [one["id"] for one in coco.dataset["annotations"]]
    assert len(set(ids)) == len(ids) and min(ids) == 1
    assert len(json.loads((tmp_path / "label_studio.json").read_text())) == 5
    with pytest.raises(DataError, match="unknown format gif"):
        segment_folder(segmenter, folder, WORDS, tmp_path, formats=["gif"])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_words_per_picture(segmenter, folder, tmp_path):
    table = tmp_path / "words.csv"
    table.write_text('picture,words\na.png,"cat; dog"\nb.jpg,sky,sea,sand\nsub/c.jpeg,car,road\n')
    words = WordsByPicture(read_words_by_picture(table))
    run = segmenter.many(folder, words)
    named = {name: result.names for name, result in run}
    assert named == {
        "a.png": ["cat", "dog"], "sub/a.png": ["cat", "dog"], "b.jpg": ["sky", "sea", "sand"],
        "sub/c.jpeg": ["car", "road"],
    }  # fmt: skip
    assert "no words are listed" in run.failed["b.png"]
    assert sorted(segment_folder(segmenter, folder, words, tmp_path / "o").done) == sorted(named)
    table.write_text(
        "picture;words\na.png;cat, dog\nnone.png;sea\n"
    )  # a spreadsheet's other separator
    listed = read_words_by_picture(table)
    assert listed == {"a.png": ["cat", "dog"], "none.png": ["sea"]}
    with pytest.warns(UserWarning, match="1 picture.s. that are not here: 'none.png'"):
        segmenter.many(folder, WordsByPicture(listed, usual=["sky", "sea"]))
    table.write_text("a.png,cat\na.png,dog\n")
    with pytest.raises(WordsError, match="line 2.*has words already"):
        read_words_by_picture(table)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_command(tiny_backbone, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loading, "load_backbone", lambda *a, **k: tiny_backbone)
    words = tmp_path / "words.txt"
    words.write_text("cat\ndog\n")
    asked = [
        "segment",
        str(folder),
        "--words",
        str(words),
        "--model",
        "any",
        "--set",
        "windows.short_side=64",
    ]
    with pytest.raises(SystemExit):
        main([*asked])
    assert "--out FOLDER" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([*asked, "--out", str(tmp_path / "out"), "--format", "coco", "--format", "masks"])
    said = capsys.readouterr()
    assert ended.value.code == 0 and "5 pictures done, 2 could not be used" in said.out
    assert "damaged.png" in said.err and (tmp_path / "out" / "coco.json").is_file()
