"""Recipes: YAML and back, changes, refusals, the thesis's switches, inert stages."""

import dataclasses
import pickle

import pytest
import yaml
from conftest import thesis_content

from ovsslib import paths, recipe
from ovsslib.errors import RecipeError
from ovsslib.recipe import (
    ALWAYS_ON,
    Recipe,
    make_settings,
    parse_changes,
    recipe_names,
    recipes,
    stage,
    stage_info,
    stages,
)

PUBLISHED = (
    "clip",
    "maskclip",
    "sclip",
    "clearclip",
    "naclip",
    "gem",
    "cliptrase",
    "resclip",
    "itaclip",
)
THESIS = tuple(
    f"thesis-{name}" for name in ("baseline", "phase1", "phase2a", "phase1+2a", "full", "2c")
)

THESIS_SWITCHES = thesis_content()["switches"]
THESIS_TEMPLATES = thesis_content()["template_strategy"]


def datasets_of(name):
    content = yaml.safe_load(paths.data(f"recipes/{name}.yaml").read_text(encoding="utf-8"))
    return [None, *(content.get("datasets") or {})]


def test_every_recipe_of_the_two_families_ships():
    assert {*PUBLISHED, *THESIS} <= set(recipe_names())
    for name, summary in recipes().items():
        assert 10 < len(summary) < 120, name


@pytest.mark.parametrize("name", recipe_names())
def test_yaml_round_trip(name):
    for dataset in datasets_of(name):
        one = Recipe.named(name, dataset)
        back = Recipe.from_yaml(one.to_yaml())
        assert back == one and hash(back) == hash(one) and back.key() == one.key()
        assert (back.name, back.summary, back.source, back.dataset) == (
            one.name,
            one.summary,
            one.source,
            one.dataset,
        )
        assert one.dataset == dataset
        assert yaml.safe_load(one.to_yaml())["stages"] == one.resolved()


def test_published_settings_per_data_set():
    voc = Recipe.named("sclip", "voc21")["labels"]
    assert (voc.logit_scale, voc.probability_threshold, voc.area_threshold) == (65, 0.1, 0.1)
    assert Recipe.named("sclip", "cityscapes")["windows"].short_side == 560
    assert Recipe.named("naclip", "voc20")["windows"].crop == 0
    rcs, sfr = (Recipe.named("resclip", "voc21")[name] for name in ("rcs", "sfr"))
    assert (rcs.tau, rcs.lam, sfr.tau, sfr.lam, sfr.threshold) == (2.0, 0.3, 2.2, 0.7, 0.5)
    assert Recipe.named("sclip", "no such data set") == Recipe.named("sclip")
    assert Recipe.named("sclip", "no such data set").dataset is None


def test_stages_run_in_the_order_of_the_flow():
    full = Recipe("all").but(
        pamr=True, densecrf=True, hierarchy=True, calibration=True, local_mask=True
    )
    points = [stage_info(name).point for name in full.stages]
    assert points == sorted(points, key=list(recipe.POINTS).index)
    assert [name for name, _ in full.at("refine")] == ["pamr", "densecrf"]
    assert [name for name, _ in full.at("confidence")] == ["calibration", "hierarchy"]
    assert set(ALWAYS_ON) <= set(Recipe("empty").stages)


def test_but_takes_stages_points_fields_and_settings():
    base = Recipe.named("sclip")
    assert base.but(pamr=True)["pamr"].iterations == 10
    assert "pamr" not in base.but(pamr=True).but(pamr=False)
    both = base.but(refine=("pamr", "densecrf"))
    assert "pamr" in both and "densecrf" in both
    assert "pamr" not in both.but(refine=["densecrf"])
    kept = base.but(pamr={"iterations": 5}).but(refine=("pamr",))
    assert kept["pamr"].iterations == 5
    changed = base.but({"pamr.iterations": 3, "labels.logit_scale": 50})
    assert changed["pamr"].iterations == 3 and changed["labels"].logit_scale == 50.0
    merged = base.but(windows={"stride": 28})["windows"]
    assert (merged.stride, merged.crop) == (28, 224)
    assert base.but(pamr=make_settings("pamr", {"iterations": 2}))["pamr"].iterations == 2
    together = base.but({"attention.terms": "neighbour", "attention.gaussian_std": 5.0})
    assert together["attention"].gaussian_std == 5.0
    assert base.but(name="mine", pamr=True).name == "mine" and base.name == "sclip"
    assert "pamr" not in base


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pamrr": True}, "did you mean 'pamr'"),
        ({"pamr": {"iteration": 3}}, "did you mean 'iterations'"),
        ({"pamr.iterations": "many"}, "pamr.iterations='many'"),
        ({"pamr.iterations": -1}, "-1"),
        ({"pamr": 3}, "give True, False"),
        ({"attention": False}, "always on"),
        ({"refine": ("pamr", "rcs")}, "'rcs' stands at 'attention'"),
        ({"refine": ("pamrr",)}, "unknown stage"),
        ({"pamr": False, "pamr.iterations": 3}, "at the same time"),
        ({"attention.terms": "value", "sfr": True}, "sfr: "),
        ({"attention.combine": "average"}, "attention.combine='average'"),
        ({"windows.stride": 500}, "500"),
    ],
)
def test_bad_changes_name_the_value(changes, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.named("sclip").but(changes)


def test_stages_that_are_off_and_unknown_ones():
    with pytest.raises(RecipeError, match="is off in recipe 'sclip'"):
        Recipe.named("sclip")["pamr"]
    with pytest.raises(RecipeError, match="unknown stage"):
        Recipe.named("sclip")["pamrr"]
    assert Recipe.named("sclip").get("pamr") is None
    with pytest.raises(RecipeError, match="takes"):
        Recipe("odd", {"pamr": make_settings("labels")})


def test_recipes_are_frozen_and_compare_by_what_they_compute():
    one = Recipe.named("sclip")
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.name = "other"
    with pytest.raises(TypeError):
        one.stages["pamr"] = None
    with pytest.raises(dataclasses.FrozenInstanceError):
        one["labels"].logit_scale = 1.0
    assert one == dataclasses.replace(one, name="another", summary="x")
    assert one != one.but({"labels.logit_scale": 41})
    assert pickle.loads(pickle.dumps(one)) == one
    assert one.differences(one.but(pamr={"iterations": 4})) == {
        "pamr.dilations": (None, [8, 16]),
        "pamr.iterations": (None, 4),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "not YAML"),
        ("stages: {}", "at least a `name`"),
        ("- a", "at least a `name`"),
        ("{name: x, stagess: {}}", "stagess"),
        ("{name: x, stages: {rsc: {}}}", "did you mean 'rcs'"),
        ("{name: x, stages: {rcs: {lam: high}}}", "rcs.lam='high'"),
    ],
)
def test_bad_yaml_is_refused(text, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.from_yaml(text)


def test_unknown_recipes_list_the_known_ones(tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'sclip'.*maskclip, naclip"):
        Recipe.named("sclipp")
    with pytest.raises(RecipeError, match="unknown recipe"):
        Recipe.named(str(tmp_path / "none.yaml"))
    own = tmp_path / "own.yaml"
    own.write_text(Recipe.named("naclip").but(name="own", pamr=False).to_yaml(), encoding="utf-8")
    assert Recipe.named(str(own)).name == "own"


def test_a_stage_registers_once_and_at_a_known_point():
    with pytest.raises(RecipeError, match="unknown point"):
        stage("new", "nowhere", "x")(dataclasses.make_dataclass("New", [], frozen=True))
    with pytest.raises(RecipeError, match="frozen dataclass"):
        stage("new", "refine", "x")(type("Plain", (), {}))
    frozen = dataclasses.make_dataclass("Other", [], frozen=True)
    with pytest.raises(RecipeError, match="registered already"):
        stage("pamr", "refine", "x")(frozen)
    assert "new" not in stages()


def test_changes_from_the_command_line():
    changes = parse_changes(["pamr=true", "labels.logit_scale=50", "middle_layers.layers=[6, 7]"])
    assert changes == {"pamr": True, "labels.logit_scale": 50, "middle_layers.layers": [6, 7]}
    assert Recipe("x").but(changes)["middle_layers"].layers == (6, 7)
    for text in ("pamr", "=3", "pamr=[1"):
        with pytest.raises(RecipeError, match="change"):
            parse_changes([text])


@pytest.mark.parametrize("switch", THESIS_SWITCHES)
def test_each_thesis_switch_alone(switch):
    baseline = Recipe.from_thesis_config({})
    assert baseline == Recipe.named("thesis-baseline")
    alone = Recipe.from_thesis_config({switch: True})
    assert set(alone.stages) - set(baseline.stages) == {THESIS_SWITCHES[switch]}
    assert Recipe.from_thesis_config({switch: False}) == baseline


def test_cumulative_order_of_the_thesis():
    config, sizes = {}, []
    for switch in THESIS_SWITCHES:
        config[switch] = True
        sizes.append(len(Recipe.from_thesis_config(config).stages))
        if switch == "use_densecrf":
            assert Recipe.from_thesis_config(config) == Recipe.named("thesis-phase1")
        if switch == "use_cliprc":
            assert Recipe.from_thesis_config(config) == Recipe.named("thesis-phase1+2a")
            adaptive = {**config, "template_strategy": "adaptive"}
            assert Recipe.from_thesis_config(adaptive) == Recipe.named("thesis-full")
    assert sizes == list(range(sizes[0], sizes[0] + 8))
    config["template_strategy"] = "adaptive"
    assert Recipe.from_thesis_config(config) == Recipe.named("thesis-2c")
    phase2a = {"use_cliptrase": True, "use_cliprc": True}
    assert Recipe.from_thesis_config(phase2a) == Recipe.named("thesis-phase2a")


def test_template_strategies_and_bad_thesis_settings():
    prompts = {
        Recipe.from_thesis_config({"template_strategy": name})["text"].prompts
        for name in THESIS_TEMPLATES
    }
    assert prompts == set(THESIS_TEMPLATES.values())
    for config, message in (
        ({"use_loftupp": True}, "did you mean 'use_loftup'"),
        ({"use_loftup": 1}, "true or false"),
        ({"template_strategy": "top9"}, "top7"),
    ):
        with pytest.raises(RecipeError, match=message):
            Recipe.from_thesis_config(config)


def test_inert_stages_say_so():
    assert Recipe.named("sclip").inert() == {}
    assert "temperature" in Recipe("c").but(calibration=True).inert()["calibration"]
    assert Recipe.named("thesis-2c").inert() == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan", "-.inf"])
def test_numbers_that_are_none_are_refused(value):
    """NaN is greater than nothing: with it every pixel would be word 0."""
    with pytest.raises(
        RecipeError, match=r"labels.logit_scale=-?(nan|inf).*finite number|logit_scale='-.inf'"
    ):
        Recipe.named("sclip").but({"labels.logit_scale": value})
    settings = dataclasses.replace(Recipe.named("sclip")["labels"])
    object.__setattr__(settings, "logit_scale", float("nan"))
    with pytest.raises(RecipeError, match="finite number"):
        Recipe("own", {"labels": settings})


def test_no_field_of_any_stage_takes_what_is_no_number():
    for name, info in stages().items():
        for entry in dataclasses.fields(info.settings):
            for wrong in (float("nan"), float("inf")):
                with pytest.raises(RecipeError):
                    make_settings(name, {entry.name: wrong})


@pytest.mark.parametrize("field", ["pamr.iterations", "labels.logit_scale", "upsampling.grid"])
def test_true_is_no_number(field):
    with pytest.raises(RecipeError, match=f"{field}=True: give a number"):
        Recipe.named("sclip").but(parse_changes([f"{field}=true"]))
    assert Recipe.named("sclip").but({"attention.residual": False}) != Recipe.named("clip")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["pamr.iterations=3", "pamr.iterations=7"], "pamr.iterations is 3 as well; keep one"),
        (["pamr=true", "pamr=false"], "pamr is True as well"),
        (["densecrf=true", "refine=[pamr]"], r"densecrf=True: refine=\['pamr'\].*contradict"),
        (["refine=[pamr]", "densecrf.scale=0.5"], "densecrf=.*contradict"),
        (["refine=[pamr, densecrf]", "pamr=false"], "pamr=False.*contradict"),
        (["refine=pamr"], r"'refine' is a point of the flow.*refine=\["),
        (["PAMR=true"], "did you mean 'pamr'"),
    ],
)
def test_changes_that_contradict_each_other_are_refused(texts, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.named("sclip").but(parse_changes(texts))


def test_changes_that_agree_in_any_order():
    recipe = Recipe.named("sclip")
    for texts in (["refine=[pamr]", "pamr.iterations=3"], ["pamr.iterations=3", "refine=[pamr]"]):
        assert recipe.but(parse_changes(texts))["pamr"].iterations == 3
    assert parse_changes(["pamr=true", "pamr=true"]) == {"pamr": True}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nstages: {pamr: true}\nstages: {labels: {closing: 3}}", "'stages' stands twice"),
        ("name: a\nstages: {pamr: {iterations: 5, iterations: 7}}", "'iterations' stands twice"),
        ("name: a\nstages: [pamr]", r"stages is a mapping.*not \['pamr'\]"),
        ("name: a\ndatasets: [voc21]", "datasets is a mapping"),
        ("name: a\ndatasets: {voc21: pamr}", "settings for 'voc21' are a mapping.*not 'pamr'"),
        ("name: a\ndatasets: {voc21: {parm.iterations: 3}}", "'parm'.*did you mean 'pamr'"),
        ("name:", "name is text, not None"),
        ("name: [a]", "name is text"),
        ("name: a\nyear: x", "year is a year such as 2024, not 'x'"),
        ("name: a\nsummary: [1]", "summary is text"),
    ],
)
def test_recipes_of_the_wrong_form_are_refused(text, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.from_yaml(text)


def test_anchors_and_merges_are_no_repeated_keys():
    text = "name: a\nstages:\n  pamr: &p {iterations: 5}\n  densecrf: {scale: 0.5}\n"
    merged = text.replace("&p {iterations: 5}", "{<<: {iterations: 4}, iterations: 5}")
    assert Recipe.from_yaml(merged) == Recipe.from_yaml(text)


def test_another_spelling_of_a_data_set_is_told():
    for spelling in ("voc-21", "VOC21", "voc_21"):
        with pytest.raises(
            RecipeError, match=f"settings for the data set 'voc21', not '{spelling}'"
        ):
            Recipe.named("itaclip", spelling)
    assert Recipe.named("itaclip", "my own").dataset is None


def test_recipe_files_as_people_name_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my r\u00e9cipe.yaml").write_text(
        "\ufeffname: a\nstages: {pamr: true}\n", encoding="utf-8"
    )
    assert "pamr" in Recipe.named("~/my r\u00e9cipe.yaml")
    assert "pamr" in Recipe.named(tmp_path / "my r\u00e9cipe.yaml")
    with pytest.raises(RecipeError, match="unknown recipe 'none.yaml': there is no such file"):
        Recipe.named("none.yaml")
    (tmp_path / "latin.yaml").write_bytes("name: caf\u00e9".encode("latin-1"))
    with pytest.raises(RecipeError, match="latin.yaml.*save it as UTF-8"):
        Recipe.named("~/latin.yaml")
