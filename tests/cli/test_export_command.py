"""`ovss export onnx`: what is asked reaches the exporter, and a refusal is one line that says why."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ovsslib import export
from ovsslib.cli.ending import clearing_up
from ovsslib.cli.main import app, main


def run(*arguments: object) -> None:
    app(args=["export", "onnx", *map(str, arguments)], standalone_mode=False)


def test_settings_reach_the_exporter(monkeypatch, tmp_path, capsys):
    asked = {}

    def exporter(segmenter, folder, **settings):
        asked.update(settings, folder=folder, recipe=segmenter.recipe)
        return "the report"

    monkeypatch.setattr(export, "export_onnx", exporter)
    run("--model", "sceneclip", "--recipe", "naclip", "--set", "pamr=false", "--weights", "fp16",
        "--switches", "--out", tmp_path / "made")  # fmt: skip
    recipe = asked.pop("recipe")
    assert asked == {"weights": "fp16", "switches": True, "folder": tmp_path / "made"}
    assert recipe.name == "naclip" and not recipe.at("refine")
    assert "the report" in capsys.readouterr().out


def test_a_refusal_names_recipe_and_reason(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["export", "onnx", "--model", "sceneclip", "--recipe", "resclip", "--out", str(tmp_path / "x")])  # fmt: skip
    said = " ".join(capsys.readouterr().err.split())
    assert "'resclip' cannot be one graph" in said and "stage sfr" in said
    assert not list(tmp_path.iterdir())


INTERRUPTED = """
import sys, time
from ovsslib.cli.main import main
from ovsslib.export import writing

def write(segmenter, part, *asked):
    (part / "vision.onnx").write_bytes(b"half")
    time.sleep(120)

writing._write = write
main(["export", "onnx", "--model", "sceneclip", "--out", sys.argv[1]])
"""


@pytest.mark.skipif(
    sys.platform == "win32", reason="Windows has no SIGTERM that a program can take"
)
def test_an_export_that_is_told_to_end_leaves_nothing(tmp_path):
    root = Path(__file__).resolve().parents[2]
    export = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "made")],
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    try:
        for _ in range(2400):
            if list(tmp_path.rglob("vision.onnx")):
                break
            assert export.poll() is None
            time.sleep(0.1)
        assert [path.name.endswith(".part") for path in tmp_path.iterdir()] == [True]
        export.send_signal(signal.SIGTERM)
        assert export.wait(timeout=60) == 128 + signal.SIGTERM
    finally:
        export.kill()
    assert not list(tmp_path.iterdir())


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with clearing_up():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signals_are_taken_inside_only_and_in_the_main_thread_only():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, clearing_up():
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    seen = []

    def elsewhere():
        with clearing_up():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before]
