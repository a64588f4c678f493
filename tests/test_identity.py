"""Keys: what changes them, and what must not."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import stage_defaults
from engine_cases import CONFIG, seeded_backbone, small_dataset, small_recipe

import ovsslib
from ovsslib import Recipe, Segmenter, identity
from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import build_model
from ovsslib.evaluation.keys import network_fingerprints, parts_of
from ovsslib.evaluation.predictions import predict
from ovsslib.identity import defaults_of, key_of, model_parts, recipe_parts, version_of
from ovsslib.recipe import stages
from ovsslib.text.features import clear_memory, encode_texts

ROOT = Path(__file__).resolve().parents[1]


# -- recipes -----------------------------------------------------------------------------------------------


def test_only_settings_that_differ_from_their_default_are_in_the_key():
    parts = recipe_parts(Recipe("mine").but({"pamr": {"iterations": 3}}))
    assert parts["pamr"] == {"version": 1, "settings": {"iterations": 3}}
    assert parts["labels"] == {"version": 1, "settings": {}}
    assert set(parts) == {"text", "windows", "attention", "labels", "pamr"}


def test_a_new_field_changes_no_key_and_a_new_version_does():
    @dataclasses.dataclass(frozen=True)
    class Before:
        version: ClassVar[int] = 1
        strength: float = 0.5
        sizes: tuple[int, ...] = (1, 2)

    @dataclasses.dataclass(frozen=True)
    class After(Before):
        added: bool = False

    @dataclasses.dataclass(frozen=True)
    class Later(After):
        version: ClassVar[int] = 2

    def key(settings) -> str:
        return key_of(recipe_parts(type("Bare", (), {"stages": {"one": settings}})))

    assert key(Before(0.7)) == key(After(0.7)) != key(Before())
    assert key(After(added=True)) != key(After())
    assert key(Later()) != key(After()) and version_of(Later) == 2
    assert key(Before(sizes=(1, 2))) == key(Before()) != key(Before(sizes=(2, 1)))


def test_a_field_without_a_default_is_always_in_the_key():
    @dataclasses.dataclass(frozen=True)
    class Needs:
        size: int
        names: list = dataclasses.field(default_factory=lambda: ["a"])

    assert defaults_of(Needs) == {"names": ["a"]}
    assert recipe_parts(type("Bare", (), {"stages": {"n": Needs(3)}}))["n"] == {
        "version": 1, "settings": {"size": 3}
    }  # fmt: skip


def test_every_stage_declares_a_version():
    missing = [name for name, info in stages().items() if "version" not in vars(info.settings)]
    assert not missing, f"give these settings classes `version: ClassVar[int] = 1`: {missing}"


def test_defaults_are_those_of_the_declared_versions():
    problems = stage_defaults.problems(stage_defaults.recorded(), stage_defaults.now())
    assert not problems, "\n".join(problems)


def test_a_default_that_changes_under_its_version_is_found():
    recorded = {"pamr": {"1": {"iterations": 10, "dilations": [8, 16]}}}
    same = {"pamr": (1, {"iterations": 10, "dilations": [8, 16]})}
    assert stage_defaults.problems(recorded, same) == []
    (changed,) = stage_defaults.problems(recorded, {"pamr": (1, {"iterations": 9})})
    assert "pamr.iterations" in changed and "raise `version` to 2" in changed
    assert "--write" in stage_defaults.problems(recorded, {"pamr": (2, {"iterations": 9})})[0]
    (new,) = stage_defaults.problems(recorded, {"pamr": (1, {**same["pamr"][1], "more": 1})})
    assert "pamr.more" in new and "--write" in new


# -- models ------------------------------------------------------------------------------------------------


def backbone_with(config: dict, **more) -> Backbone:
    return Backbone(build_model(config), name="other", weights_hash="seed3", **more)


@pytest.mark.parametrize(
    "change",
    [
        {"quick_gelu": True},
        {"vision_cfg": {"head_width": 8}},
        {"vision_cfg": {"image_size": 64}},
        {"vision_cfg": {"no_ln_pre": True}},
        {"vision_cfg": {"norm_kwargs": {"eps": 1e-6}}},
        {"vision_cfg": {"act_kwargs": {"approximate": "tanh"}}},
        {"text_cfg": {"heads": 4}},
        {"text_cfg": {"pool_type": "last"}},
        {"text_cfg": {"no_causal_mask": True}},
        {"text_cfg": {"norm_kwargs": {"eps": 1e-3}}},
    ],
    ids=str,
)
def test_equal_weights_under_another_configuration_are_another_model(change):
    config = {
        key: {**value, **change.get(key, {})} if isinstance(value, dict) else value
        for key, value in {"quick_gelu": False, **CONFIG}.items()
    }
    config |= {key: value for key, value in change.items() if not isinstance(value, dict)}
    plain, other = model_parts(backbone_with(CONFIG)), model_parts(backbone_with(config))
    assert plain == model_parts(seeded_backbone()) and json.loads(json.dumps(plain)) == plain
    assert key_of(plain) != key_of(other)


def test_precision_and_normalisation_are_part_of_the_model():
    backbone = backbone_with(CONFIG)
    assert model_parts(backbone) != model_parts(backbone_with(CONFIG, precision="bf16"))
    dark = backbone_with(CONFIG)
    dark.pixel_mean = (0.5, 0.5, 0.5)
    assert model_parts(dark) != model_parts(backbone)


def test_text_features_of_another_configuration_are_not_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path))

    def features(**change):
        clear_memory()
        return encode_texts(seeded_like(**change), ["dog"])

    def seeded_like(**change):
        backbone = seeded_backbone()
        state = backbone.model.state_dict()
        other = Backbone(build_model({**CONFIG, **change}), name="other", weights_hash="seed3")
        other.model.load_state_dict(state)
        return other

    plain, quick = features(), features(quick_gelu=True)
    assert not (plain - quick).abs().max() < 1e-4
    assert (features(quick_gelu=True) - quick).abs().max() == 0
    assert len(list((tmp_path / "text").glob("*.safetensors"))) == 2


def test_text_features_of_unknown_weights_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path))
    clear_memory()
    first, second = seeded_backbone(), seeded_backbone()
    first.weights_hash = second.weights_hash = ""
    second.model.text_projection.mul_(-1)
    assert (encode_texts(first, ["dog"]) + encode_texts(second, ["dog"])).abs().max() < 1e-6
    assert not (tmp_path / "text").exists()


# -- label maps --------------------------------------------------------------------------------------------


def test_label_maps_follow_the_words_and_the_further_networks(tmp_path, monkeypatch):
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path / "cache"))
    dataset, backbone = small_dataset(tmp_path / "data", images=2), seeded_backbone()
    file = tmp_path / "words.txt"

    def maps() -> int:
        predict(Segmenter(backbone, small_recipe()), dataset)
        return len(list((tmp_path / "cache/predictions").glob("*.npz")))

    assert maps() == 1 and maps() == 1
    dataset._words = tuple(f"other {word}" for word in dataset._words)
    del dataset.__dict__["vocabulary"]
    assert maps() == 2
    file.write_bytes(b"one")

    def key() -> str:
        recipe = small_recipe(upsampling={"method": "loftup", "weights": str(file)})
        return key_of(parts_of(Segmenter(backbone, recipe), dataset))

    before = key()
    file.write_bytes(b"two")
    assert key() != before


def test_any_stage_may_bring_networks_along():
    class Guided:
        def networks(self, backbone):
            return {"guide": f"hash of {backbone.name}'s", "b": "2"}

    recipe = type("Bare", (), {"stages": {"guided": Guided(), "plain": object()}})
    assert network_fingerprints(recipe, seeded_backbone()) == {
        "guided": {"b": "2", "guide": "hash of seeded's"}
    }


# -- code --------------------------------------------------------------------------------------------------

ASK = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import ovsslib
from engine_cases import seeded_backbone, small_recipe
from ovsslib.evaluation.keys import evaluation_parts, key_of
from ovsslib.identity import model_parts
assert ovsslib.__file__.startswith(sys.argv[1]), ovsslib.__file__
recipe = small_recipe(pamr=True, upsampling={"method": "bilinear"})
print(key_of(evaluation_parts(recipe, model_parts(seeded_backbone()), "d", 3)))
"""


def key_in(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(folder), str(ROOT / "tests")],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    return done.stdout.strip()


def edit(file: Path, *changes: tuple[str, str]) -> None:
    text = file.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text, f"{file.name} has no {old!r}"
        text = text.replace(old, new)
    file.write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_moving_renaming_and_typing_code_changes_no_key_and_a_version_does(tmp_path):
    package = Path(ovsslib.__file__).parent
    shutil.copytree(package, tmp_path / "ovsslib", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "data").symlink_to(ROOT / "data")
    before = key_in(tmp_path)
    stage, copy = tmp_path / "ovsslib/stages/pamr.py", tmp_path / "ovsslib/clip/backbone.py"
    edit(stage, ("class PAMR", "class Renamed"))
    edit(copy, ("visual = self.visual\n", "tower: object = self.visual\n        visual = tower\n"))
    shutil.move(stage, stage.with_name("renamed.py"))
    for file in (tmp_path / "ovsslib").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace("stages.pamr", "stages.renamed"), encoding="utf-8")
    assert key_in(tmp_path) == before
    edit(
        stage.with_name("renamed.py"), ("version: ClassVar[int] = 1", "version: ClassVar[int] = 2")
    )
    after = key_in(tmp_path)
    assert after != before
    edit(
        tmp_path / "ovsslib/identity.py",
        (f"CORE_VERSION = {identity.CORE_VERSION}", "CORE_VERSION = 99"),
    )
    assert key_in(tmp_path) not in (before, after)
