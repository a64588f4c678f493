"""Profiles, and `measure`, which notebooks and commands call."""

import pytest
from engine_cases import seeded_backbone, small_recipe
from fake_datasets import build

from ovsslib import Recipe, measure
from ovsslib.datasets.dataset import VIEWS
from ovsslib.errors import DataError, OvssError, RecipeError
from ovsslib.evaluation import intervals, profiles, results
from ovsslib.evaluation.profiles import Profile
from ovsslib.evaluation.store import ResultsStore


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """A small data set with a seeded model."""
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path / "cache"))
    fake = build("folder", tmp_path / "data", images=5)
    made = Profile("small", model="seeded", dataset="folder", root=str(fake.root))
    monkeypatch.setitem(profiles._backbones, ("seeded", None, "cpu", "fp32"), seeded_backbone())
    return made


def test_every_shipped_profile_is_complete():
    names = profiles.profile_names()
    assert "embedded" in names and "embedded-quick" in names
    assert {f"openai-vitb16-{name}" for name in VIEWS if not name.startswith("scenes")} < set(names)
    for name, title in profiles.profiles().items():
        found = Profile.named(name)
        assert found.dataset in VIEWS and title == found.title != ""
        if name.startswith("openai-vitb16-"):
            assert (found.model, found.pretrained) == ("ViT-B-16-quickgelu", "openai")
            assert name == f"openai-vitb16-{found.dataset}" and found.limit is None
        else:
            assert found.model == "sceneclip" and found.dataset.startswith("scenes")
    assert Profile.named("embedded-quick").limit == 60


def test_unknown_profiles_and_fields(tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'embedded-quick'.*openai-vitb16-voc21"):
        Profile.named("embeded-quick")
    with pytest.raises(RecipeError, match="no field 'modell'"):
        Profile.named("embedded").but(modell="x")
    own = tmp_path / "mine.yaml"
    own.write_text("dataset: voc21\nlimit: 3\n")
    assert Profile.named(str(own)).name == "mine" and Profile.named(str(own)).limit == 3
    for text in ("voc21", "- voc21\n", ""):  # no mapping
        own.write_text(text)
        with pytest.raises(RecipeError, match="not a profile"):
            Profile.named(str(own))
    own.write_text("data: voc21\n")
    with pytest.raises(RecipeError, match="not a profile"):
        Profile.named(str(own))
    assert Profile("a").but(limit=None, device="cuda").limit is None


def test_paths_in_a_profile_count_from_its_folder(tmp_path, monkeypatch):
    """A book's kernel has another working directory than the shell in which the profile was named."""
    for folder in ("mine/photos", "mine/openai", "mine/weights", "away"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "mine" / "weights" / "own.pt").write_bytes(b"x")
    own = tmp_path / "mine" / "own.yaml"
    own.write_text(
        "dataset: folder\nroot: photos\nmodel: ViT-B-16\npretrained: weights/own.pt\n",
        encoding="utf-8-sig",
    )
    monkeypatch.chdir(tmp_path / "away")
    found = Profile.named("../mine/own.yaml")
    assert found.root == str(tmp_path / "mine" / "photos")
    assert found.pretrained == str(tmp_path / "mine" / "weights" / "own.pt")
    own.write_text("root: elsewhere\nmodel: ViT-B-16\npretrained: openai\n")
    found = Profile.named(str(own))
    assert (found.root, found.pretrained) == ("elsewhere", "openai")  # a tag stays a tag
    monkeypatch.setenv("HOME", str(tmp_path / "mine"))
    assert Profile.named("~/own.yaml") == found
    with pytest.raises(RecipeError, match="no profile file 'none.yaml'.*embedded"):
        Profile.named("none.yaml")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("limit: few", "limit is a whole number of at least 1, or null for all images, not 'few'"),
        ("limit: 0", "limit is a whole number"),
        ("limit: true", "limit is a whole number"),
        ("device: 0", "device is text, not 0"),
        ("model: null", "model is text, not None"),
        ("model: sceneclip\nmodel: ViT-B-16", "'model' stands twice"),
        ("root: [a]", r"root is text, or null, not \['a'\]"),
    ],
)
def test_values_that_a_profile_cannot_hold(tmp_path, content, told):
    own = tmp_path / "own.yaml"
    own.write_text(content)
    with pytest.raises(RecipeError, match=told):
        Profile.named(str(own))


def test_a_missing_data_set_is_an_error_that_says_where(tmp_path, monkeypatch):
    monkeypatch.delenv("OVSSLIB_DATA", raising=False)
    with pytest.raises(OvssError, match="OVSSLIB_DATA"):
        Profile.named("openai-vitb16-voc21").open()


def test_names_stand_for_the_settings_of_the_data_set():
    voc = Profile.named("openai-vitb16-voc21")
    assert voc.recipe("sclip") == Recipe.named("sclip", "voc21") != Recipe.named("sclip")


def test_measure_looks_up_and_prints_a_table(profile, monkeypatch):
    base = small_recipe()
    wanted = [
        base,
        base.but({"attention.terms": "qq"}),
        base.but(labels={"closing": 3}, name="closed"),
    ]
    first = measure(wanted, profile, progress=False)
    assert list(first) == ["sclip", "sclip (attention.terms=qq)", "closed"] and first.images == 5
    monkeypatch.setattr(results.Segmenter, "prepare", None)  # nothing may be computed again
    again = measure(wanted, profile)
    table = again.table(["miou", "calibration_error"], baseline="sclip")
    assert table.equals(first.table(["miou", "calibration_error"], baseline="sclip"))
    assert table.index.name == "folder, 5 images"
    row = table.loc["closed"]
    assert row["mIoU"].endswith(" % (too few images for an interval)")
    assert row["mIoU: against sclip"].endswith(" points (too few images for an interval)")
    assert row["mIoU: verdict"] == "no difference shown"
    assert table.loc["sclip", "mIoU: verdict"] == ""
    numbers = again.numbers("miou", baseline="sclip").set_index("recipe")
    expected = first["closed"].miou - first["sclip"].miou
    assert numbers.loc["closed", "difference"] == pytest.approx(expected)
    assert numbers.loc["closed", ["difference_low", "difference_high"]].isna().all()
    unpaired = again.table(baseline="sclip", paired=False)
    assert list(unpaired) == ["mIoU", "against sclip"]
    assert "5 images" in again.provenance and "seeded/random" in again.provenance
    assert "<table" in again._repr_html_() and "<table" in again["sclip"]._repr_html_()
    with pytest.raises(DataError, match="no result is called 'x'"):
        again.table(baseline="x")
    with pytest.raises(DataError, match="unknown metric 'mio'"):
        again.table("mio")


def test_limits_and_mappings(profile, tmp_path):
    kept = ResultsStore(tmp_path / "own", shipped=tmp_path / "none")
    found = measure({"A": small_recipe()}, profile.but(limit=2), progress=False, store=kept)
    assert found.images == 2 and found["A"].limit == 2
    frame = kept.frame()
    assert set(frame["limit"].dropna()) == {2} and set(frame["dataset"]) == {"folder"}
    assert measure(small_recipe(), profile, 3, progress=False, store=kept).images == 3
    again = small_recipe()
    assert list(results.named_recipes([again, again], profile)) == ["sclip", "sclip (again)"]
    with pytest.raises(RecipeError, match="two recipes are called"):
        results.named_recipes([again, again, again], profile)


def test_lower_is_better_for_the_calibration_error(profile, monkeypatch):
    monkeypatch.setattr(intervals, "MINIMUM_PAIRED", 5)  # the folder has 5 images
    base = small_recipe()
    sharp = base.but({"labels.logit_scale": 4000.0}, name="sharp")
    flat = base.but({"labels.logit_scale": 0.001}, name="flat")
    found = measure([sharp, flat], profile, progress=False).numbers(
        ["calibration_error"], baseline="sharp"
    )
    row = found.set_index("recipe").loc["flat"]
    assert row["difference_high"] < 0 and row["verdict"] == "better"
