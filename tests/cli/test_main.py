"""The command line: each command calls the library's function; errors are one line."""

from importlib import import_module

import numpy as np
import pytest
import typer
import yaml
from comparator_cases import clipseg
from fake_datasets import build
from PIL import Image

from ovsslib import paths, segmenter
from ovsslib.cli.main import main
from ovsslib.clip import loading
from ovsslib.evaluation import profiles, store
from ovsslib.evaluation.store import SHIPPED
from ovsslib.recipe import recipe_names

cli = import_module("ovsslib.cli.main")


@pytest.fixture(autouse=True)
def small_world(tmp_path, monkeypatch, tiny_backbone):
    """An own cache, and the tiny model wherever a command loads one."""
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(segmenter.loading, "load_backbone", lambda *a, **k: tiny_backbone)
    monkeypatch.setattr(profiles, "load_backbone", lambda *a, **k: tiny_backbone)
    monkeypatch.setattr(profiles, "_backbones", {})


@pytest.fixture
def folder(tmp_path):
    return build("folder", tmp_path / "data", images=3)


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


SMALL = [
    part
    for change in (
        "windows.crop=64",
        "windows.stride=64",
        "windows.short_side=64",
        "text.prompts=single",
    )
    for part in ("--set", change)
]


def test_segment_writes_the_mask_and_the_overlay(folder, tmp_path, capsys):
    picture = folder.images[folder.names[0]]
    mask, overlay = tmp_path / "mask.png", tmp_path / "overlay.png"
    code = run(
        "segment", picture, "--words", "person, dog", "--background", "sky,wall", *SMALL,
        "-o", mask, "--overlay", overlay, "--model", "any",
    )  # fmt: skip
    assert code == 0
    values = np.asarray(Image.open(mask))
    assert values.shape == Image.open(picture).size[::-1] and set(np.unique(values)) <= {0, 1, 2}
    assert Image.open(overlay).size[0] > 0
    assert "share" in capsys.readouterr().out


def test_an_error_is_one_red_line_and_exit_code_1(folder, tmp_path, capsys):
    picture = folder.images[folder.names[0]]
    for arguments, expected in (
        (["segment", "nothing.jpg", "--words", "a"], "nothing.jpg does not exist"),
        (["segment", picture, "--words", ""], "words"),
        (["segment", picture, "--words", "a", "--recipe", "sclap"], "did you mean 'sclip'?"),
        (["segment", picture, "--words", "a", "--format", "coco"], "--format coco is for folders"),
        (["segment", picture, "--words", "a", "--instances"], "--instances is for folders"),
        (
            ["segment", folder.root, "--words", "a", "--out", tmp_path, "--overlay", "x.png"],
            "ask for --format overlays",
        ),
        (["segment", picture, "--words", "a", "--set", "pamr.iteration=3"], "no field 'iteration'"),
        (["evaluate", "--profile", "embeded"], "unknown profile 'embeded'"),
        (["data", "check", "voc22"], None),
        (["words", "show", "voc22"], "unknown vocabulary"),
        (["pretrain", "sceneclop"], "no model 'sceneclop'"),
        (["reproduce", "thesis-table99"], "unknown target"),
        (["reproduce", "thesis-tabel4.6"], "did you mean thesis-table4.6"),
        (
            ["reproduce", "thesis-table4.6", "--profile", "embedded", "--dataset", "voc21"],
            "coco_stuff",
        ),
        (["reproduce"], "--list shows them"),
        (["ablate", tmp_path / "none.yaml"], "cannot read the ablation"),
    ):
        assert run(*arguments) == 1, arguments
        captured = capsys.readouterr()
        if expected is not None:
            assert expected in captured.err and "Traceback" not in captured.err
            assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["segment"])


def test_a_stopped_command_says_so(monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", stop)
    assert run("recipes") == 130
    assert "goes on" in capsys.readouterr().err


def test_evaluate_prints_a_table_and_goes_on_from_the_store(folder, tmp_path, capsys):
    table = tmp_path / "numbers.csv"
    arguments = [
        "evaluate", "--recipe", "sclip", "--recipe", "maskclip", "--dataset", "folder", "--root", folder.root,
        "--limit", 2, "--baseline", "sclip", "--csv", table, "--workers", 0, *SMALL,
    ]  # fmt: skip
    assert run(*arguments) == 0
    first = capsys.readouterr()
    assert "maskclip" in first.out and "tiny/vectors on folder" in first.out
    assert "points" in first.out and "too few images" in first.out  # two images have no interval
    assert "2 images" in first.out and "2/2" in first.err
    numbers = table.read_text()
    assert numbers.splitlines()[0].startswith("recipe,metric,value,low,high,difference")
    assert run(*arguments) == 0
    second = capsys.readouterr()
    assert second.out == first.out and "2/2" not in second.err and table.read_text() == numbers


def test_evaluate_skips_or_stops(folder, capsys):
    folder.images[folder.names[1]].write_bytes(b"not a picture")
    arguments = ["evaluate", "--dataset", "folder", "--root", folder.root, "--workers", 0, *SMALL]
    assert run(*arguments) == 1
    assert folder.names[1] in capsys.readouterr().err
    assert run(*arguments, "--on-error", "skip") == 0
    assert "1 images were skipped" in capsys.readouterr().out


def test_switches_without_effect_are_named(folder, capsys):
    arguments = ["evaluate", "--dataset", "folder", "--root", folder.root, "--limit", 1, *SMALL]
    assert run(*arguments, "--workers", 0, "--set", "calibration=true") == 0
    assert "sclip: calibration cannot change the mask here: a temper" in capsys.readouterr().out
    picture = folder.images[folder.names[0]]
    changes = [*SMALL, "--set", "labels.merge=logit"]
    assert run("segment", picture, "--words", "person, dog", "--model", "any", *changes) == 0
    assert "labels.merge cannot change the mask here" in capsys.readouterr().out


def test_a_recipe_tuned_for_another_data_set_is_reported(folder, tmp_path, capsys):
    from ovsslib.recipe import Recipe

    free = {"labels.probability_threshold": 0, "labels.area_threshold": 0}
    own = tmp_path / "own.yaml"
    own.write_text(Recipe.named("sclip", "voc21").but(free).to_yaml())
    arguments = ["evaluate", "--recipe", own, "--dataset", "folder", "--root", folder.root, *SMALL]
    assert run(*arguments, "--limit", 1, "--workers", 0) == 0
    assert "tuned for voc21, and is measured on folder" in capsys.readouterr().err


def test_only_the_first_process_prints(folder, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert run("recipes") == 0
    assert capsys.readouterr().out == ""


def test_ablate(folder, tmp_path, capsys, monkeypatch):
    small = {
        "windows.crop": 64,
        "windows.stride": 64,
        "windows.short_side": 64,
        "text.prompts": "single",
    }
    grid = {
        "base": "sclip",
        "trials": {"small": small, "small, q": {**small, "attention.terms": "qq"}},
    }
    file, profile = tmp_path / "grid.yaml", tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(grid))
    profile.write_text(yaml.safe_dump({"dataset": "folder", "root": str(folder.root)}))
    code = run(
        "ablate", file, "--profile", profile, "--limit", 1, "--engine", "local", "--workers", 0
    )
    out = capsys.readouterr().out
    assert code == 0 and "small, q" in out and "against sclip" in out


def test_recipes_and_profiles(capsys):
    assert run("recipes") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in recipe_names())
    assert run("recipes", "sclip") == 0
    content = yaml.safe_load(capsys.readouterr().out)
    assert content["name"] == "sclip" and "voc21" in content["datasets"]
    assert run("recipes", "sclip", "--dataset", "voc21") == 0
    content = yaml.safe_load(capsys.readouterr().out)
    assert content["dataset"] == "voc21" and content["stages"]["labels"]["logit_scale"] == 65
    assert run("recipes", "sclip", "--long") == 0
    assert "22.40" in capsys.readouterr().out  # the paper's number, from the claims
    assert run("profiles") == 0
    assert "openai-vitb16-voc21" in capsys.readouterr().out


def test_data_commands(tmp_path, capsys):
    assert run("data", "list") == 0
    assert "coco_stuff164k" in capsys.readouterr().out
    fake = build("folder", tmp_path / "own", images=2)
    assert run("data", "check", "folder", "--root", fake.root) == 0
    assert "all is well" in capsys.readouterr().out
    fake.masks[fake.names[0]].unlink()
    assert run("data", "check", "folder", "--root", fake.root) == 1
    assert "1 problems" in capsys.readouterr().out
    city = build("cityscapes", tmp_path, images=2, raw=True)
    assert run("data", "prepare", "cityscapes", "--root", city.root) == 0
    assert "2 label files written" in capsys.readouterr().out
    assert run("data", "get", "voc2013", "--root", tmp_path) == 1
    assert "cannot fetch 'voc2013'" in capsys.readouterr().err


def test_words_commands(tmp_path, capsys, monkeypatch):
    from ovsslib.text import auxiliary

    assert run("words", "show") == 0
    assert "voc21" in capsys.readouterr().out.split()
    assert run("words", "show", "voc20", "--names", "sclip") == 0
    assert "aeroplane" in capsys.readouterr().out
    asked = []
    monkeypatch.setattr(
        auxiliary, "define_words", lambda *a: asked.append(a) or [(w, f"a {w}") for w in a[0]]
    )
    out = tmp_path / "texts.txt"
    assert run("words", "define", "otter", "lynx", "--out", out) == 0
    assert capsys.readouterr().out == "otter: a otter\nlynx: a lynx\n"
    assert (
        asked[0][0] == ["otter", "lynx"] and dict(auxiliary.read_official(out))["lynx"] == "a lynx"
    )


def test_defining_without_a_model_is_one_line_with_the_remedy(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run("words", "define", "otter", "--model", "nobody/has-this-model") == 1
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and (
        "hf download nobody/has-this-model" in shown or "ovsslib[llm]" in shown
    )
    assert run("words", "define", "otter", "--kind", "poems") == 1
    assert "known: definitions, synonyms" in capsys.readouterr().err


def test_scenes_make(tmp_path, capsys):
    assert run("scenes", "make", "--count", 2, "--seed", 5, "--out", tmp_path / "world") == 0
    assert len(list((tmp_path / "world/images/val").glob("*.jpg"))) == 2
    assert "2 pictures in" in capsys.readouterr().out


def test_the_test_split_of_scenes_is_drawn_checked_and_measured(tmp_path, monkeypatch, capsys):
    from ovsslib.scenes import dataset_files, write_split

    shipped = tmp_path / "data/scenes"
    write_split(shipped, 2, 5, "test")
    own_data = dataset_files.paths.data
    monkeypatch.setattr(
        dataset_files.paths, "data",
        lambda name: tmp_path / "data" / name if "manifests" in name else own_data(name),
    )  # fmt: skip
    out = tmp_path / "drawn"
    where = ["--root", out, "--split", "test"]
    assert run("data", "check", "scenes", *where[2:]) == 1
    assert "ovss scenes test" in capsys.readouterr().out
    assert run("scenes", "test", "--out", out) == 0
    assert "2 pictures in" in capsys.readouterr().out
    assert run("data", "check", "scenes-object", *where) == 0
    capsys.readouterr()
    arguments = ["--dataset", "scenes", *where, "--workers", 0, *SMALL]
    assert run("evaluate", *arguments) == 0
    assert "tiny/vectors on scenes, 2 images" in capsys.readouterr().out


def test_pretrain_calls_the_trainer(tmp_path, monkeypatch, capsys):
    from ovsslib.scenes import pretraining

    asked = []

    def trainer(settings, out, device, **more):
        asked.append((settings, out, device, more))
        return out / "model.safetensors"

    monkeypatch.setattr(pretraining.Trainer, "train", trainer)
    assert run("pretrain", "sceneclip-p32", "--steps", 3, "--out", tmp_path) == 0
    settings, out, device, more = asked[0]
    assert settings.model["vision_cfg"]["patch_size"] == 32 and out == tmp_path and device == "cpu"
    assert more == {"steps": 3, "minutes": None}
    assert "model.safetensors" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "module", "trainer_name"),
    [
        ("scenedino", "scenedino", "SceneDinoTrainer"),
        ("deeplabv3-scenes", "supervised", "SupervisedTrainer"),
        ("lseg-scenes", "word_pixels", "WordPixelTrainer"),
    ],
)
def test_pretrain_calls_the_trainer_of_its_model(
    name, module, trainer_name, tmp_path, monkeypatch, capsys
):
    asked = []

    def trainer(settings, out, steps, minutes):
        asked.append((type(settings).__module__, out, steps, minutes))
        return out / "model.safetensors"

    monkeypatch.setattr(f"ovsslib.scenes.{module}.{trainer_name}.train", trainer)
    assert run("pretrain", name, "--minutes", 2, "--steps", 5, "--out", tmp_path) == 0
    assert asked == [(f"ovsslib.scenes.{module}", tmp_path, 5, 2.0)]
    assert "model.safetensors" in capsys.readouterr().out
    assert run("pretrain", name, "--device", "cuda") == 1 and len(asked) == 1


def test_the_tables_that_can_be_reproduced_are_listed(capsys):
    assert run("reproduce", "--list") == 0
    shown = capsys.readouterr().out
    assert "thesis-table4.9" in shown and "10_itaclip" in shown and "sclip-paper-main" in shown


def test_pretrain_loftup_calls_its_own_trainer(tmp_path, monkeypatch, capsys):
    from ovsslib.scenes import upsampler

    asked = []
    monkeypatch.setattr(upsampler, "pretrain_upsampler", lambda *given: asked.append(given))
    assert run("pretrain", "loftup", "--out", tmp_path) == 0
    settings, out, device = asked[0]
    assert settings.model == "sceneclip" and out == tmp_path and device == "cpu"
    assert run("pretrain", "loftup", "--steps", 3) == 1 and len(asked) == 1


def test_another_app_can_be_added():
    assert isinstance(cli.app, typer.Typer) and loading.EMBEDDED[0] == "sceneclip"
    names = {group.name for group in cli.app.registered_groups}
    assert names >= {"data", "words", "scenes"}


def test_results_go_out_and_come_in(folder, tmp_path, capsys, monkeypatch):
    run(
        "evaluate",
        "--dataset",
        "folder",
        "--root",
        folder.root,
        "--recipe",
        "clip",
        "--device",
        "cpu",
    )
    assert run("results", "--dataset", "folder") == 0
    assert "clip" in capsys.readouterr().out
    file = tmp_path / "out.sqlite"
    assert run("results", "export", file, "--dataset", "voc21") == 1
    assert "data set 'voc21'" in capsys.readouterr().err and not file.exists()
    assert run("results", "export", file) == 1, (
        "a folder of one's own is no data set of the library"
    )
    written = [paths.data(SHIPPED)]
    monkeypatch.setattr(store, "SHIPPED", "results/none.sqlite")
    assert run("results", "import", *written) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "new records, 0 were there, 0 refused" in said
    assert run("results", "export", file, "--dataset", "scenes") == 0
    assert file.is_file() and run("results", "import", tmp_path / "no.sqlite") == 1


def test_a_trained_model_has_no_stages_to_set(folder, tmp_path, capsys):
    model, processor = clipseg()
    model.save_pretrained(tmp_path / "tiny")
    processor.save_pretrained(tmp_path / "tiny")
    picture = folder.images[folder.names[0]]
    arguments = [
        "segment",
        picture,
        "--words",
        "a, b",
        "--recipe",
        "clipseg",
        "--pretrained",
        tmp_path / "tiny",
    ]
    capsys.readouterr()
    assert run(*arguments, "--set", "labels.closing=3") == 1
    refused = capsys.readouterr().err
    assert (
        "--set labels.closing=3: 'clipseg' is a trained model" in refused
        and "leave --set out" in refused
    )
    assert run(*arguments) == 0  # the remedy
