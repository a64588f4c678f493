"""Exported folders: equal to PyTorch at sizes that were not traced, all or nothing, clear refusals."""

import copy
import json
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import TINY_CONFIG, relative_error

import ovsslib
from ovsslib.clip.backbone import POSITIONS, Backbone
from ovsslib.clip.loading import build_model
from ovsslib.errors import DataError, ImageError, ModelError, RecipeError
from ovsslib.export import export_onnx, open_exported, why_not_one_graph, writing
from ovsslib.export.files import GRAPH_POINTS, graph_settings
from ovsslib.export.graphs import Positions, VisionGraph
from ovsslib.export.opening import switches_of, why_not_switched
from ovsslib.export.weights import apply_weights
from ovsslib.recipe import Recipe, recipe_names
from ovsslib.segmenter import Segmenter
from ovsslib.text.vocabulary import Vocabulary

SIZES = [(64, 64), (64, 80), (48, 112), (70, 64)]
WORDS = ["sky", "dog | puppy", "grass"]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """A CLIP of two blocks, random."""
    torch.manual_seed(3)
    config = {**TINY_CONFIG, "vision_cfg": {**TINY_CONFIG["vision_cfg"], "layers": 2}}
    config["text_cfg"] = {**TINY_CONFIG["text_cfg"], "layers": 1}
    return Backbone(build_model(config), name="tiny2", weights_hash="tiny2")


def segmenter_of(backbone: Backbone, recipe: str = "naclip") -> Segmenter:
    small = {"windows.short_side": 64, "windows.crop": 64, "windows.stride": 32}
    return Segmenter(backbone, Recipe.named(recipe).but(small).but(pamr=False))


@pytest.fixture(scope="module")
def plain(backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "out"
    report = export_onnx(segmenter_of(backbone), folder, pictures=1)
    return folder, report


@pytest.fixture(scope="module")
def switched(backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("switched") / "out"
    export_onnx(segmenter_of(backbone, "sclip"), folder, switches=True, weights="fp16", pictures=1)
    return folder


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (70, 150, 3), dtype=np.uint8)


@pytest.mark.parametrize("how", [p for p in POSITIONS if "half" not in p])
def test_positional_tables_are_those_of_the_backbone(backbone, how):
    graph = Positions(backbone, how)
    for size in [*SIZES, (224, 96), (32, 32)]:
        grid = (size[0] // 16, size[1] // 16)
        rule = "keep" if backbone._keeps_table(size, grid, how) else how
        assert relative_error(graph(size, grid), backbone.positions(grid, rule)) < 5e-6


def test_features_at_sizes_that_were_not_traced(backbone, plain):
    segmenter, exported = segmenter_of(backbone), ovsslib.load(str(plain[0]))
    for count, size in enumerate(SIZES, start=1):
        pixels = torch.randn(count, 3, *size)
        for keep_cls in (False, True):
            made = exported.features(pixels, keep_cls=keep_cls)
            assert relative_error(made, segmenter.features(pixels, keep_cls=keep_cls)) < 1e-5


def test_the_same_interface(backbone, plain, picture):
    segmenter, exported = segmenter_of(backbone), ovsslib.load(str(plain[0]))
    wanted = segmenter(picture, WORDS, background=["wall"], keep_scores=True)
    made = exported(picture, WORDS, background=["wall"], keep_scores=True)
    assert made.names == wanted.names and made.recipe == "naclip" and made.model == "tiny2"
    assert np.abs(made.scores - wanted.scores).max() < 1e-5
    sure = wanted.margin > 1e-5
    assert sure.mean() > 0.9 and (made.mask == wanted.mask)[sure].all()
    opened = exported.open(picture)
    assert (opened(WORDS).mask == exported(picture, WORDS).mask).all()
    assert np.allclose(
        opened.similarity("dog"), segmenter.open(picture).similarity("dog"), atol=1e-5
    )
    with pytest.raises(RecipeError, match="PyTorch"):
        opened.attention(patch=(0, 0))


def test_report_and_description(plain):
    folder, report = plain
    about = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    assert about["check"]["pictures"] == report.pictures == 1
    assert report.agreement > 0.999 and 0 < report.image_error < 1e-4
    assert "label maps equal" in str(report) and f"{report.megabytes:.1f} MB" in str(report)
    assert about["recipe"]["stages"]["windows"]["stride"] == 32
    assert about["prompts"]["thing"][0].count("{}") == 1
    assert {path.name for path in folder.iterdir()} == {
        "vision.onnx", "text.onnx", "merges.txt", "vocab.json", "recipe.json",
    }  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_tokenizer_files_are_the_tokenizers(backbone, plain):
    vocabulary = json.loads((plain[0] / "vocab.json").read_text(encoding="utf-8"))
    merges = (plain[0] / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    tokenizer = backbone._tokenizer
    assert vocabulary["grass</w>"] == tokenizer.encode("grass")[0]
    assert (vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]) == (49406, 49407)
    assert list(vocabulary)[:-2] == list(tokenizer.encoder)[:-2]
    assert tokenizer.bpe_ranks[tuple(merges[100].split())] == 100
    assert len(merges) == len(tokenizer.bpe_ranks)


@pytest.mark.parametrize("recipe", ["clip", "maskclip", "sclip", "clearclip", "naclip"])
def test_one_graph_with_switches_serves_all_recipes(backbone, switched, recipe):
    half = open_exported(switched)[0]
    segmenter = segmenter_of(backbone, recipe)
    exported = Segmenter(half, segmenter.recipe)
    pixels = torch.randn(1, 3, 64, 96)
    assert relative_error(exported.features(pixels), segmenter.features(pixels)) < 5e-3
    weights = segmenter.attention_of(pixels).mean(dim=1)
    assert relative_error(exported.attention_of(pixels)[:, 0], weights) < 5e-3


def test_switches_change_the_features(switched):
    half = open_exported(switched)[0]
    pixels, switches = torch.randn(1, 3, 64, 64), switches_of(Recipe.named("sclip")["attention"])
    made = half.encode(pixels, switches)[0]
    for name in switches:
        other = {**switches, name: 1 - switches[name]}
        if name == "gaussian":
            other[name] = torch.tensor([1.0, 2.0])
        assert relative_error(half.encode(pixels, other)[0], made) > 1e-3, name


def _copying(folder, weights="fp32"):
    """In place of tracing again: a folder's files, with other weights."""

    def write(segmenter, part, *asked):
        shutil.copytree(folder, part, dirs_exist_ok=True)
        for name in ("vision.onnx", "text.onnx"):
            apply_weights(part / name, weights)

    return write


def test_weights_are_smaller(plain, switched, backbone, tmp_path, monkeypatch):
    full = (plain[0] / "text.onnx").stat().st_size
    assert (switched / "text.onnx").stat().st_size < 0.6 * full
    monkeypatch.setattr("ovsslib.export.writing._write", _copying(plain[0], "int8"))
    report = export_onnx(segmenter_of(backbone), tmp_path / "int8", weights="int8", pictures=1)
    kinds = {node.op_type for node in onnx.load(tmp_path / "int8" / "vision.onnx").graph.node}
    assert "MatMulInteger" in kinds and report.image_error > 1e-4
    assert 0.3 < report.agreement <= 1


def test_another_recipe_on_the_folder_is_refused(plain, switched):
    fixed, half = open_exported(plain[0])[0], open_exported(switched)[0]
    with pytest.raises(RecipeError, match="other settings of attention"):
        Segmenter(fixed, "sclip")
    with pytest.raises(RecipeError, match="other settings of positions"):
        Segmenter(half, Recipe.named("sclip").but({"windows.positions": "size"}))
    with pytest.raises(RecipeError, match="joint"):
        Segmenter(half, Recipe.named("sclip").but({"attention.combine": "joint"}))
    assert "local_mask" in why_not_switched(Recipe.named("thesis-phase2a"))


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ("resclip", "stage sfr"),
        ("corrclip", "masks"),
        ("proxyclip", "second network"),
        ("ov-stitcher", "all windows"),
        ("clip-es", "without windows"),
        ("cliptrase", "inner blocks"),
        ("sc-clip", "no class token, which is the graph's second output (stage self_calibration)"),
        ("rf-clip", "depend on the values of a window (stage sink_denoise)"),
        ("freecp-sclip", "asks CLIP again behind the last block"),
    ],
)
def test_recipes_that_are_not_one_graph_say_why(recipe, reason):
    assert reason in why_not_one_graph(Recipe.named(recipe))


def test_reasons_hang_on_settings():
    pearl = Recipe.named("pearl")
    assert not why_not_one_graph(pearl)
    assert "ONNX" in why_not_one_graph(pearl.but({"procrustes.solver": "svd"}))
    window = dict.fromkeys(("visual_text.class_token", "class_token_mix.class_token"), "window")
    assert "visual_text" in why_not_one_graph(Recipe.named("rf-clip"))
    assert "visual_text" not in why_not_one_graph(Recipe.named("rf-clip").but(window))


SMALL = {"windows.short_side": 64, "windows.crop": 64, "windows.stride": 32, "text.prompts": "none"}
SHALLOW = {"middle_layers": {"layers": (1,)}, "gem": {"depth": 2}}  # for two blocks


def small(name: str) -> Recipe:
    """A recipe for the tiny backbone, without what comes behind the logits and reads no graph."""
    recipe = Recipe.named(name).but(SMALL).but(refine=())
    changes = {stage: fields for stage, fields in SHALLOW.items() if stage in recipe}
    return recipe.but({**changes, **({"upsampling": False} if "upsampling" in recipe else {})})


def kind_of_graph(recipe: Recipe) -> tuple:
    """What decides which operators a graph has."""
    attention = recipe["attention"]
    stages = (name for point in GRAPH_POINTS for name, _ in recipe.at(point))
    return (attention.combine, attention.is_identity, *stages)


ONE_GRAPH = [name for name in recipe_names() if not why_not_one_graph(Recipe.named(name))]
KINDS = {kind_of_graph(small(name)): name for name in ONE_GRAPH}


@pytest.mark.parametrize("name", [name for name in recipe_names() if name not in ONE_GRAPH])
def test_a_recipe_that_is_no_graph_is_refused_before_anything_is_traced(
    name, backbone, tmp_path, monkeypatch
):
    monkeypatch.setattr(writing, "_trace", lambda *asked: pytest.fail("traced"))
    with pytest.raises(RecipeError, match="cannot be one graph: .*stage ") as refused:
        export_onnx(_with_recipe(segmenter_of(backbone), name), tmp_path / "out")
    named = re.findall(r"[(]stage ([^)]*)[)]", str(refused.value))
    assert {stage for names in named for stage in names.split(", ")} <= set(
        Recipe.named(name).stages
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS.values())
def test_every_kind_of_graph_can_be_traced(name, backbone, tmp_path):
    segmenter, any_size = Segmenter(backbone, small(name)), torch.export.Dim.DYNAMIC
    shape = {0: any_size, 2: any_size, 3: any_size}
    example = {"pixels": torch.zeros(2, 3, 64, 80)}
    outputs = ["features", "class_token"]
    writing._trace(VisionGraph(segmenter), example, [shape], outputs, tmp_path / "graph", name)
    pixels = torch.randn(1, 3, 48, 112)
    graph = onnxruntime.InferenceSession(str(tmp_path / "graph"))
    made = torch.from_numpy(graph.run(["features"], {"pixels": pixels.numpy()})[0])
    assert relative_error(made.permute(0, 2, 3, 1), segmenter.features(pixels)) < 1e-3


@pytest.mark.parametrize("name", [name for name in ONE_GRAPH if name != "naclip-floss"])
def test_what_stands_behind_a_graph_asks_for_nothing_more(name, plain, picture):
    """The features are those of another recipe: only what the flow asks of an exported folder is looked at.

    `naclip-floss` needs a table that was fitted for the folder's weights.
    """
    recipe, half = small(name), copy.copy(open_exported(plain[0])[0])
    half.about = {**half.about, "graph": graph_settings(recipe)}
    words = "scenes-object" if recipe.has("needs_background") else "scenes"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # near ties of random features
        made = Segmenter(half, recipe)(picture, Vocabulary.named(words))
    assert made.mask.shape == picture.shape[:2]


def test_nothing_is_left_behind_by_a_refusal(backbone, plain, tmp_path, monkeypatch):
    segmenter = Segmenter(backbone, "sclip")
    with pytest.raises(RecipeError, match="'resclip' cannot be one graph"):
        export_onnx(_with_recipe(segmenter, "resclip"), tmp_path / "a")
    with pytest.raises(ModelError, match="weights='fp4'"):
        export_onnx(segmenter, tmp_path / "a", weights="fp4")
    monkeypatch.setattr("ovsslib.export.writing._write", _copying(plain[0]))
    monkeypatch.setattr("ovsslib.export.writing.LARGEST_ERROR", 0.0)
    with pytest.raises(ModelError, match="nothing was written"):
        export_onnx(segmenter_of(backbone), tmp_path / "a", pictures=1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("kept")
    with pytest.raises(DataError, match="new or an empty folder"):
        export_onnx(segmenter, tmp_path / "b")
    (tmp_path / "b" / "recipe.json").write_text("{}")  # a project of its own, called as ours is
    with pytest.raises(DataError, match="thesis.txt"):
        export_onnx(segmenter, tmp_path / "b")
    with pytest.raises(DataError, match="pictures=0"):
        export_onnx(segmenter, tmp_path / "a", pictures=0)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["b", "recipe.json", "thesis.txt"]


def test_an_export_takes_the_place_of_another_and_of_nothing_else(plain, tmp_path, monkeypatch):
    folder, part = tmp_path / "out", tmp_path / ".out.part"
    shutil.copytree(plain[0], folder)
    (folder / "merges.txt").write_text("old")
    shutil.copytree(plain[0], part)
    rename = Path.rename

    def fails(self, target):
        if self == part:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="No space"):
        writing._put_in_place(part, folder)
    assert (folder / "merges.txt").read_text() == "old"
    monkeypatch.undo()
    writing._put_in_place(part, folder)
    assert (folder / "merges.txt").read_text() != "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def _with_recipe(segmenter: Segmenter, name: str) -> Segmenter:
    other = copy.copy(segmenter)
    other.recipe = Recipe.named(name)
    return other


def test_a_recipe_goes_before_a_folder_of_its_name(plain, tmp_path, monkeypatch):
    shutil.copytree(plain[0], tmp_path / "sclip")
    monkeypatch.chdir(tmp_path)
    assert ovsslib.load("sclip", "sceneclip").backbone.name == "sceneclip"
    assert ovsslib.load("./sclip").backbone.name == "tiny2"


def test_bad_folders_and_arguments(plain, tmp_path):
    with pytest.raises(ModelError, match="precision='fp16'"):
        ovsslib.load(str(plain[0]), precision="fp16")
    with pytest.raises(ImageError, match="one patch"):
        ovsslib.load(str(plain[0])).features(torch.zeros(1, 3, 8, 64))
    broken = tmp_path / "broken"
    shutil.copytree(plain[0], broken)
    (broken / "vision.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match="vision.onnx cannot be run"):
        ovsslib.load(str(broken))
    (broken / "recipe.json").write_text('{"format": 7}')
    with pytest.raises(DataError, match="format 7"):
        ovsslib.load(str(broken))


def _without(key: str, part: str = ""):
    def change(folder: Path) -> None:
        content = json.loads((folder / "recipe.json").read_text())
        if part:
            del content[key][part]
        else:
            del content[key]
        (folder / "recipe.json").write_text(json.dumps(content))

    return change


def _of_another_patch_size(folder: Path) -> None:
    content = json.loads((folder / "recipe.json").read_text())
    content["model"]["patch_size"] = 32
    (folder / "recipe.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *(
            (_without(key), f"lacks {key}")
            for key in ("model", "graph", "recipe", "pixels", "weights")
        ),
        (_without("model", "width"), "lacks model.width;"),
        (_without("pixels", "std"), "lacks pixels.std;"),
        (
            lambda folder: (folder / "known_tokens.json").write_text("x"),
            "cannot read .*known_tokens",
        ),
        (
            lambda folder: shutil.copy(folder / "vision.onnx", folder / "text.onnx"),
            "text.onnx takes pixels, not tokens: it is another graph",
        ),
        (_of_another_patch_size, "they are of two exports"),
    ],
)
def test_half_a_folder_and_parts_of_two_exports_are_told(plain, damage, message, tmp_path, picture):
    shutil.copytree(plain[0], tmp_path / "copy")
    damage(tmp_path / "copy")
    with pytest.raises(
        (DataError, ModelError), match=f"(?s){message}.*export the folder again|{message}"
    ):
        ovsslib.load(tmp_path / "copy")(picture, WORDS)
