"""The stage contract: hooks and their typed forms agree, and a stage that would never run is refused."""

import inspect
from dataclasses import dataclass

import pytest

from ovsslib.errors import RecipeError
from ovsslib.recipe import POINTS, Recipe, registry, stage, stages
from ovsslib.stages.hooks import PROTOCOLS


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


def methods_of(protocol: type) -> dict[str, int]:
    """Hooks of a protocol and their numbers of arguments, `self` not counted."""
    return {
        name: len(inspect.signature(value).parameters) - 1
        for name, value in vars(protocol).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }


def test_points_and_protocols_name_the_same_hooks():
    assert list(PROTOCOLS) == list(POINTS)
    for point, protocols in PROTOCOLS.items():
        typed = {}
        for protocol in protocols:
            typed |= methods_of(protocol)
        assert typed == dict(POINTS[point]), point


def test_every_stage_answers_a_protocol_of_its_point():
    for name, info in stages().items():
        if name in ("text", "windows", "attention", "labels"):
            continue
        assert any(issubclass(info.settings, p) for p in PROTOCOLS[info.point]), name
        assert info.version >= 1


def register(point: str, **members):
    settings = dataclass(frozen=True)(type("Settings", (), members))
    return stage("probe", point=point, summary="a probe")(settings)


@pytest.mark.parametrize(
    ("point", "members", "message"),
    [
        (
            "refine",
            {"on_logit": lambda self, x, context: x},
            "on_logit is no hook of the point 'refine'",
        ),
        ("refine", {"on_similarity": lambda self, x, context: x}, "on_similarity is no hook"),
        ("refine", {"smooth": lambda self, x: x}, "would never run"),
        ("refine", {}, "would never run"),
        ("refine", {"on_logits": lambda self, x: x}, r"must take 2 argument"),
        ("attention", {"replace_blocks": lambda self, c: c}, "did you mean 'replace_block'"),
        ("attention", {"on_weights": lambda self, w, c: w, "tap": lambda self, n: set()}, "'taps'"),
        ("views", {"on_window": lambda self, x, c: x}, "no hook of the point 'views'"),
        ("nowhere", {"on_logits": lambda self, x, c: x}, "unknown point 'nowhere'"),
        (
            "refine",
            {"on_logits": lambda self, x, c: x, "capabilities": frozenset({"reads_minds"})},
            "unknown capability 'reads_minds'",
        ),
    ],
)
def test_a_stage_that_would_never_run_is_refused(point, members, message):
    with pytest.raises(RecipeError, match=message):
        register(point, **members)


def test_inert_stays_true_when_a_plug_in_reads_probabilities():
    recipe = Recipe.named("sclip").but({"labels.merge": "logit"})
    assert "labels.merge" in recipe.inert()
    register("refine", on_probabilities=lambda self, scores, context: scores.sqrt())
    assert recipe.but(probe=True).inert() == {}
    calibrated = Recipe.named("sclip").but(calibration=True)
    assert "calibration" in calibrated.inert()
    assert "calibration" not in calibrated.but(probe=True).inert()


def test_two_stages_cannot_both_replace_the_last_block():
    register("attention", replace_block=lambda self, context: None)
    with pytest.raises(RecipeError, match="probe and gem both do what only one stage can do"):
        Recipe.named("gem").but(probe=True)


def test_stages_at_text_windows_and_views_run(tiny_backbone, tmp_path, monkeypatch):
    import numpy as np

    from ovsslib.segmenter import Segmenter

    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path))
    picture = np.random.default_rng(0).integers(0, 256, (80, 96, 3), dtype=np.uint8)
    small = {"windows": {"short_side": 64, "crop": 64, "stride": 32}, "text.templates": ("a {}.",)}
    plain = Recipe("p").but(small)
    words = ["cat", "dog", "sky"]

    def mask(recipe):
        return Segmenter(tiny_backbone, recipe)(picture, words, keep_scores=True).scores

    before = mask(plain)
    members = {
        "text": {"on_text": lambda self, text, c: type(text)(-text.features, text.query_class, text.vocabulary)},
        "windows": {"on_crops": lambda self, crops, c: crops.flip(-1)},
        "views": {"views": lambda self, x: [x.flip(-2)], "merge": lambda self, f, t: f[0].new_ones(
            len(f[0]), len(t), *f[0].shape[-2:]) * f[0].mean()},
    }  # fmt: skip
    for point, hooks in members.items():
        registry._REGISTRY.pop("probe", None)
        register(point, **hooks)
        assert not np.allclose(mask(plain.but(probe=True)), before), point
