"""`ovss export onnx`: what is asked reaches the exporter, and a refusal is one line that says why."""

import pytest

from ovsslib import export
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
