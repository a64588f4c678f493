"""What surrounds the code: pins, the wheel, the README, the Makefile, the citations."""

import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from PIL import Image
from pybtex.database import parse_file

import ovsslib
from ovsslib import paths

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()


def pins(python: str) -> dict[str, str]:
    """Versions of constraints.txt for a Python version on Linux: name -> version."""
    environment = {"python_version": python, "python_full_version": f"{python}.8"}
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate(environment | {"sys_platform": "linux"}):
            assert pin.name not in found, f"{pin.name} is pinned twice for Python {python}"
            [specifier] = pin.specifier
            assert specifier.operator == "==", line
            found[canonicalize_name(pin.name)] = specifier.version
    return found


def requirements(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for, extras that name other extras of this project resolved."""
    found = [Requirement(line) for line in PROJECT["dependencies"]]
    waiting, seen = list(extras), set()
    while waiting:
        extra = waiting.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for line in PROJECT["optional-dependencies"][extra]:
            requirement = Requirement(line)
            if requirement.name == PROJECT["name"]:
                waiting += requirement.extras
            else:
                found.append(requirement)
    return found


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_every_requirement_is_pinned_within_its_range(python):
    pinned = pins(python)
    for requirement in requirements(*PROJECT["optional-dependencies"]):
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} has no pin"
        assert requirement.specifier.contains(pinned[name]), f"{requirement} but {pinned[name]}"


def test_pins_suit_every_build_of_torch():
    pinned = pins("3.11")
    assert (pinned["torch"], pinned["torchvision"]) == ("2.13.0", "0.28.0")
    assert "+" not in (ROOT / "constraints.txt").read_text().replace("c++", "")
    assert not [name for name in pinned if name.startswith("nvidia")]


def test_installed_versions_are_the_pinned_ones():
    """The tests run on what the pins say (checked for the packages that decide numbers)."""
    import importlib.metadata

    pinned = pins(f"{sys.version_info.major}.{sys.version_info.minor}")
    for name in ("torch", "numpy", "open-clip-torch", "pillow", "scipy", "opencv-python-headless"):
        assert importlib.metadata.version(name).partition("+")[0] == pinned[name]


def test_environment_has_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    [python] = [e for e in environment["dependencies"] if isinstance(e, str) and "python=" in e]
    [inner] = [entry for entry in environment["dependencies"] if isinstance(entry, dict)]
    listed = {}
    for line in inner["pip"]:
        if not line.startswith("--"):
            name, version = line.split("==")
            listed[canonicalize_name(name)] = version
    pinned = pins(python.removeprefix("python="))
    wanted = {canonicalize_name(requirement.name) for requirement in requirements("book", "dev")}
    assert listed == {name: pinned[name] for name in wanted}
    assert "--constraint constraints.txt" in inner["pip"]


def test_extras():
    assert set(PROJECT["optional-dependencies"]) == {
        "all",
        "book",
        "cli",
        "cluster",
        "comparators",
        "crf",
        "data",
        "dev",
        "edit",
        "guides",
        "llm",
        "onnx",
    }
    assert PROJECT["scripts"]["ovss"] == "ovsslib.cli:start"
    assert PROJECT["version"] == ovsslib.__version__


def test_torchvision_can_be_imported_after_the_library():
    code = "import ovsslib, torchvision, torch; print(hasattr(torch.ops.torchvision, 'nms'))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.strip() == "True", done.stderr


def test_operators_are_declared_once():
    from ovsslib import _torchvision

    assert _torchvision.declare_missing_operators() == ()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel of the checkout, built without the network and unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps"]
    command += ["--no-index", "--disable-pip-version-check", "--wheel-dir", str(folder), str(ROOT)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [file] = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_wheel_holds_all_shipped_data(wheel):
    shipped = {
        path.relative_to(paths.data_root())
        for path in paths.data_root().rglob("*")
        if path.is_file()
    }
    inside = wheel / "ovsslib" / "_data"
    assert {path.relative_to(inside) for path in inside.rglob("*") if path.is_file()} == shipped
    assert not (wheel / "tests").exists() and not (wheel / "data").exists()
    assert list(wheel.glob("*.dist-info/licenses/LICENSE"))


def test_installed_wheel_reads_its_own_data(wheel, tmp_path):
    code = (
        "import ovsslib; from ovsslib import paths;"
        "print(paths.data_root());"
        "print(len(ovsslib.Recipe.named('sclip', dataset='voc21').stages) > 2);"
        "print(ovsslib.Vocabulary.named('voc21').names[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=_clean(wheel),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(wheel / "ovsslib" / "_data"), "True", "background"]


def _clean(site: Path) -> dict[str, str]:
    """This environment with one folder before all others on Python's path."""
    import os

    return os.environ | {"PYTHONPATH": str(site)}


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def shell_lines() -> list[str]:
    """Every command line of the README."""
    return [line for block in blocks("bash") for line in block.splitlines() if line.strip()]


def needs_download(text: str) -> bool:
    """Whether an example is about weights or data that have to be fetched first."""
    return 'pretrained="openai"' in text or "openai-vitb16" in text


def _holiday(folder):
    """The folder of pictures that the README speaks of."""
    from skimage import data

    (folder / "holiday").mkdir()
    for name, picture in {"cat": data.chelsea(), "rocket": data.rocket()}.items():
        Image.fromarray(picture).resize((120, 90)).save(folder / "holiday" / f"{name}.jpg")


def test_readme_python_runs(tmp_path, monkeypatch):
    """All blocks that need no download, one after the other, as a reader would type them."""
    from skimage import data

    Image.fromarray(data.chelsea()).resize((224, 160)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ovsslib.segmenter.loading.cached_pretrained", lambda *names: None)
    _holiday(tmp_path)
    runnable = [block for block in blocks("python") if not needs_download(block)]
    assert len(runnable) == 3
    names: dict[str, object] = {}
    for block in runnable:
        # The text is this repository's own README, which this test is there to run.
        exec(compile(block, "README.md", "exec"), names)  # noqa: S102
    assert names["result"].names == ["person", "dog", "grass"]
    assert (tmp_path / "overlay.png").exists() and (tmp_path / "mask.png").exists()
    assert not names["recipe"].get("pamr") and names["segment"].recipe == names["recipe"]


def test_readme_python_that_needs_weights_is_sound():
    blocks_left = [block for block in blocks("python") if needs_download(block)]
    assert len(blocks_left) == 1
    compile(blocks_left[0], "README.md", "exec")


def test_readme_make_lines_name_targets():
    lines = [line for line in shell_lines() if line.startswith("make ")]
    assert {"make book", "make test"} <= set(lines)
    for line in lines:
        done = subprocess.run(
            [*shlex.split(line), "-n"], check=False, capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"


def test_style_formatting_and_types_are_checked_by_both_targets():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("quick", "test"):
        recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", text, flags=re.MULTILINE)
        assert recipe, target
        for check in ("ruff check .", "ruff format --check .", "mypy"):
            assert f"-m {check}\n" in recipe[1], f"make {target} lacks {check}"


def test_an_ignored_type_error_names_its_code_and_its_reason():
    for file in sorted((ROOT / "ovsslib").rglob("*.py")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if "type: ignore" in line:
                assert re.search(r"# type: ignore\[[a-z-]+\]  # \w+", line), f"{file.name}: {line}"


def test_readme_ovss_lines_run(tmp_path, monkeypatch, capsys):
    from skimage import data

    from ovsslib.cli.main import main

    Image.fromarray(data.chelsea()).resize((224, 160)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    lines = [line for line in shell_lines() if line.startswith("ovss ")]
    assert len(lines) == 8
    _holiday(tmp_path)
    for line in lines:
        arguments = shlex.split(line)[1:]
        if needs_download(line):
            arguments = [arguments[0], "--help"]
        elif arguments[0] in ("segment", "export"):
            arguments += ["--model", "sceneclip"]
        try:
            main(arguments)
        except SystemExit as stopped:
            assert not stopped.code, line
        flags = set(re.findall(r"(--[a-z-]+)", line))
        shown = set(re.findall(r"(--[a-z-]+)", capsys.readouterr().out))
        assert not needs_download(line) or flags <= shown
    assert (tmp_path / "mask.png").exists() and (tmp_path / "masks" / "coco.json").exists()
    assert (tmp_path / "sclip-onnx" / "recipe.json").exists()


def test_every_shell_line_is_tried():
    assert not [
        line for line in shell_lines() if line.split()[0] not in ("make", "ovss", "papermill")
    ]


def test_readme_names_every_recipe_and_only_those():
    listed = re.findall(r"^\| `([^`]+)` \|", README, flags=re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in paths.data("recipes").glob("*.yaml"))


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_readmes_picture_has_a_text_for_those_who_do_not_see_it():
    for page in ("README.md", "book/index.md"):
        text = (ROOT / page).read_text()
        alt = re.search(
            r"!\[([^]]+)\]\(book/images/readme.png\)|images/readme.png\n:alt: (.+)", text
        )
        assert len(alt[1] or alt[2]) > 60
    with Image.open(ROOT / "book/images/readme.png") as picture:
        assert picture.width >= 800


def test_the_landing_pages_caption_names_the_picture_that_is_drawn():
    script = (ROOT / "scripts" / "draw_readme_picture.py").read_text()
    drawn = int(re.search(r'PICTURE = "images/val/(\d+)\.jpg"', script)[1])
    assert f"\nPicture {drawn} of Scenes" in (ROOT / "book" / "index.md").read_text()


def test_make_help_lists_the_targets():
    done = subprocess.run(["make", "help"], capture_output=True, text=True, cwd=ROOT, check=True)
    listed = {line.split()[0] for line in done.stdout.splitlines()[1:]}
    assert {"book", "test", "check-book", "lab", "bench", "help", "clean"} <= listed


def test_make_says_when_there_is_no_suitable_python(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        ["make", "install", "PYTHON="], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode != 0 and "needs Python 3.10, 3.11, 3.12 or 3.13" in done.stdout


def test_ci_script_is_sound():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", script], check=True)


def test_citation_file():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == ovsslib.__version__ and citation["license"] == PROJECT["license"]


def test_bibliography_is_complete_and_cited_keys_exist():
    entries = parse_file(ROOT / "book" / "references.bib").entries
    for key, entry in entries.items():
        assert {"title", "year"} <= set(entry.fields) and entry.persons["author"], key
        assert entry.fields["year"] in key, f"{key} is of {entry.fields['year']}"
    cited = set()
    sources = [*(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    for path in sources:
        for keys in re.findall(r"\{cite(?::[a-z]+)?\}`([^`]+)`", path.read_text()):
            cited |= {key.strip() for key in keys.split(",")}
    assert cited and cited <= set(entries), cited - set(entries)
    recipes = {
        key.strip()
        for path in paths.data("recipes").glob("*.yaml")
        for key in yaml.safe_load(path.read_text())["source"].split(",")
    }
    assert recipes <= set(entries), recipes - set(entries)


def test_wrong_authors_of_the_thesis_are_not_repeated():
    entries = parse_file(ROOT / "book" / "references.bib").entries
    first = {key: str(entries[key].persons["author"][0].last_names[0]) for key in entries}
    assert first["wang2024sclip"] == "Wang" and first["yang2025resclip"] == "Yang"
    assert first["shao2024cliptrase"] == "Shao" and first["zhang2024cliprc"] == "Zhang"
    assert entries["zhang2024cliprc"].fields["pages"] == "3270--3280"
    assert entries["yang2025resclip"].fields["pages"] == "29968--29978"
    assert entries["huang2025loftup"].fields["eprint"] == "2504.14032"


def test_markers_of_the_pins_are_valid():
    markers = re.findall(r" ; (.+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert markers and all(str(Marker(marker)) for marker in markers)
