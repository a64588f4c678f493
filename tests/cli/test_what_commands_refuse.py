"""Options that a branch would ignore, files that are no words, places that cannot be written: told before any work."""

import io
import os
import subprocess
import sys
import threading

import pytest
from PIL import Image

from ovsslib import paths, segmenter
from ovsslib.cli.files import expanded, read_words
from ovsslib.cli.main import main
from ovsslib.errors import WordsError
from ovsslib.evaluation import profiles

LOADED: list[str] = []


@pytest.fixture(autouse=True)
def small_world(tmp_path, monkeypatch, tiny_backbone):
    """An own cache and folder, and a tiny model, of which it is kept when it is loaded."""
    LOADED.clear()

    def load(*names, **settings):
        LOADED.append("loaded")
        return tiny_backbone

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(segmenter.loading, "load_backbone", load)
    monkeypatch.setattr(profiles, "load_backbone", load)
    monkeypatch.setattr(profiles, "_backbones", {})
    Image.new("RGB", (64, 64), (10, 90, 30)).save("photo.jpg")
    (tmp_path / "words.csv").write_text("photo.jpg,dog,grass\n")
    (tmp_path / "words.names").write_text("# two\n0: dog\n1: grass\n")


def told(capsys, *arguments: object) -> tuple[int, str]:
    """Exit code and what was printed, on one line."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return ended.value.code, " ".join((said.err + said.out).split())


EDIT = ("edit", "photo.jpg", "--word", "dog", "-o", "e.png", "--blur")
REFUSED = [
    ((*EDIT, "--seed", "3"), "--seed is of --replace, --remove and --new-background; --blur paints nothing"),
    ((*EDIT, "--negative", "x"), "--negative is of --replace"),
    ((*EDIT, "--steps", "30"), "--steps is of"),
    ((*EDIT, "--inpainter", "x"), "--inpainter is of"),
    ((*EDIT, "--download"), "--download is of"),
    ((*EDIT, "--guidance", "1"), "--guidance is of"),
    ((*EDIT, "--words", "words.csv"), "words.csv holds words per picture"),
    ((*EDIT[:5], "none/e.png", "--blur"), "there is no folder none to write e.png in"),
    (("words", "audit", "words.csv"), "words.csv holds words per picture, for `ovss segment FOLDER`"),
    (("words", "audit", "dog.txt"), "there is no file of words at dog.txt"),
    (("words", "show", "--names", "sclip"), "--names sclip goes with a vocabulary"),
    (("segment", "photo.jpg", "--words", "dog", "--workers", "3"), "--workers is for folders"),
    (("segment", "photo.jpg", "--words", "dog", "-o", "none/m.png"), "there is no folder none"),
    (("segment", "photo.jpg", "--words", "dog", "--overlay", "cache"), "cache is a folder; name a file"),
    (("recipes", "--dataset", "voc21"), "--dataset voc21 goes with one recipe"),
    (("recipes", "--profile", "embedded"), "--profile embedded goes with --long"),
    (("recipes", "sclip", "--dataset", "voc2"), "unknown data set 'voc2' (did you mean 'voc21'?)"),
    (("recipes", "sclip", "--dataset", "voc-21"), "settings for the data set 'voc21', not 'voc-21'"),
    (("results", "--dataset", "x", "export", "f"), "--dataset stands before `export`"),
    (("results", "--model", "x", "import", "f"), "--model stands before `import`"),
    (("evaluate", "--metric", "mIoU"), "unknown metric 'mIoU' (did you mean 'miou'?)"),
    (("evaluate", "--baseline", "naclip"), "no result is called 'naclip'"),
    (("evaluate", "--csv", "none/x.csv"), "there is no folder none to write x.csv in"),
    (("evaluate", "--csv", "cache"), "cache is a folder"),
    (("evaluate", "--profile", ""), "unknown profile ''"),
    (("reproduce", "thesis-table4.1", "--csv", "none/x.csv"), "there is no folder none"),
    (("scenes", "make", "--out", "s", "--count", "1", "--split", "../x"), "split='../x' is no name"),
    (("scenes", "make", "--out", "s", "--count", "1", "--split", ""), "split='' is no name"),
    (("data", "prepare", "cityscapes", "--root", ".", "--source", "x"), "only PASCAL Context has one"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=lambda value: str(value)[:50])
def test_refused_before_a_model_is_loaded(arguments, message, tmp_path, capsys):
    (tmp_path / "cache").mkdir()
    code, text = told(capsys, *arguments)
    assert code == 1 and message in text and not LOADED


def test_a_file_of_words_has_any_name(tmp_path, capsys):
    assert read_words("words.names").names == ("dog", "grass")
    assert read_words("dog, words.names") == "dog, words.names"
    (tmp_path / "words.tsv").write_text("photo.jpg\tdog\tgrass\n")
    assert read_words("words.tsv").words == {"photo.jpg": ["dog", "grass"]}
    for command in (
        ("segment", "photo.jpg", "--set", "windows.short_side=64", "--words", "words.names"),
        ("words", "audit", "words.names"),
    ):
        code, text = told(capsys, *command)
        assert code == 0 and "dog" in text and "words.names" not in text
    code, text = told(
        capsys, "segment", "photo.jpg", "--words", "dog", "--background", "words.names"
    )
    assert code == 1 and "'words.names' is a file and no word; write the words" in text


def test_words_from_a_pipe(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("dog\ngrass, lawn\n"))
    assert read_words("-").synonyms == (("dog",), ("grass", "lawn"))
    with pytest.raises(WordsError, match="no words come from the standard input"):
        read_words("-")
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text("dog\ngrass\n"))
    writer.start()
    assert read_words("pipe").names == ("dog", "grass")
    writer.join()


def test_results_say_what_there_is(tmp_path, capsys, monkeypatch):
    code, text = told(capsys, "results", "--dataset", "scene")
    assert code == 0 and "no results of data set 'scene'; there are" in text
    assert "scenes with sceneclip/embedded" in text


def test_home_folders_behind_an_equals_sign(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("--out=~/x.png") == f"--out={tmp_path}/x.png"
    for kept in ("--set=a.b=~/x", "a=~/x", "--words=dog, ~", "--root=~nobody-of-this-name/x", "-o"):
        assert expanded(kept) == kept


def started(*arguments: str, **settings) -> subprocess.CompletedProcess:
    """The command in a process of its own."""
    program = "import sys; from ovsslib.cli import start; sys.argv[0] = 'ovss'; start()"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    environment["PYTHONPATH"] = str(paths.data_root().parent)
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        stderr=subprocess.PIPE,
        env=environment,
        check=False,
        **settings,
    )


def test_a_terminal_in_ascii_and_a_full_disk(tmp_path):
    (tmp_path / "own.yaml").write_text("name: a\nsummary: caf\u00e9\n", encoding="utf-8")
    shown = started("recipes", "own.yaml", stdout=subprocess.PIPE, cwd=tmp_path)
    assert shown.returncode == 0 and b"summary: caf?" in shown.stdout
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            ended = started("profiles", stdout=full)
        assert ended.returncode and b"the output cannot be written: No space left" in ended.stderr
        assert b"Traceback" not in ended.stderr


def test_a_link_to_a_pipe_is_written_into(tmp_path):
    """As /dev/stdout is one: its text, "pipe:[123]", is no path."""
    reader, writer = os.pipe()
    (tmp_path / "link").symlink_to(f"/proc/self/fd/{writer}")
    paths.write_file(tmp_path / "link", b"numbers")
    os.close(writer)
    with open(reader, "rb") as file:
        assert file.read() == b"numbers"
    assert (tmp_path / "link").is_symlink()
