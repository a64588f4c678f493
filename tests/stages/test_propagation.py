"""LPOSS and LPOSS+ against results recorded from the official code; the solver against SciPy's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import relative_error, vectors
from guide_cases import clip_pixels, tiny_guide
from scipy.sparse.linalg import cg

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages import patch_graph, pixel_propagation
from ovsslib.stages.contexts import ImageContext
from ovsslib.stages.guided import unit_patches
from ovsslib.stages.patch_graph import (
    conjugate_gradient,
    patch_laplacian,
    patch_places,
    propagated,
)
from ovsslib.stages.patch_propagation import PatchPropagationSettings
from ovsslib.stages.pixel_propagation import (
    PixelPropagationSettings,
    lab,
    pixel_edges,
    spread,
)
from ovsslib.text.features import TextFeatures
from ovsslib.text.vocabulary import Vocabulary

RECORDED = vectors("lposs")
TOLERANCE = 1e-4
VALUE = {"attention": {"terms": "value"}, "windows.positions": "size"}
SLIDE = {"windows": {"crop": 64, "stride": 32}}
RUNS = {
    "lposs_whole_k40__80x112": ({"windows": {"crop": 0}}, {"neighbours": 40}),
    "lposs_slide64_32_k60__80x112": (SLIDE, {"neighbours": 60}),
    "lposs_slide64_32_k60_keys_gamma1_sigma.03_pow2_alpha.8__80x112": (
        SLIDE,
        {"neighbours": 60, "kind": "k", "gamma": 1.0, "sigma": 0.03, "power": 2.0, "alpha": 0.8},
    ),
}


@pytest.fixture
def segmenter_with(tiny_backbone, monkeypatch):
    """Function (windows, patch settings, more) -> Segmenter of LPOSS with the tiny guide."""
    monkeypatch.setattr(Segmenter, "_guide", lambda self: tiny_guide())

    def make(windows, settings, more=None):
        changes = {**VALUE, "patch_propagation": settings, **(more or {})}
        return Segmenter(tiny_backbone, Recipe("lposs").but(windows).but(changes))

    return make


def pixels_of() -> torch.Tensor:
    return clip_pixels(RECORDED["image_u8__80x112"])[None]


def unit_map(features: torch.Tensor) -> torch.Tensor:
    """(1, h, w, D) -> (1, h, w, D) of unit length."""
    return F.normalize(features, dim=-1)


@pytest.mark.parametrize("key", sorted(RUNS))
def test_stitched_scores_agree_with_the_official_code(key, segmenter_with, tiny_inputs):
    logits = segmenter_with(*RUNS[key]).logits(pixels_of(), tiny_inputs["text"])
    assert relative_error(logits, RECORDED[key]) < TOLERANCE


def test_features_graph_and_its_solution_agree(segmenter_with, tiny_inputs):
    segmenter = segmenter_with({"windows": {"crop": 0}}, {"neighbours": 40})
    features = unit_map(segmenter.features(pixels_of()))
    assert relative_error(features, RECORDED["clip_feats__80x112"]) < TOLERANCE
    maps = segmenter.guide.features(segmenter.guide.from_clip(pixels_of()), "v")
    guided = unit_patches(maps)[0]
    assert (
        relative_error(guided.unflatten(0, (10, 14))[None], RECORDED["dino_feats__80x112"])
        < TOLERANCE
    )
    places = patch_places([(0, 0)], (10, 14), 8)
    laplacian = patch_laplacian(guided, places, 40)
    expected = RECORDED["laplacian_k40__80x112"]
    assert relative_error(torch.from_numpy(laplacian.toarray()), expected) < TOLERANCE
    resized = F.interpolate(features.permute(0, 3, 1, 2), size=(10, 14), mode="bilinear")
    cosines = F.normalize(resized, dim=1)[0].flatten(1).T @ tiny_inputs["text"].T
    assert relative_error(cosines, RECORDED["patch_cosines__80x112"]) < TOLERANCE
    z = propagated(laplacian, RECORDED["patch_cosines__80x112"])
    assert relative_error(z, RECORDED["patch_lp__80x112"]) < TOLERANCE


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("lpossplus_slide64_32_k60__80x112", {}),
        ("lpossplus_slide64_32_k60_tau.1_r5__80x112", {"tau": 0.1, "reach": 5}),
    ],
)
def test_scores_over_pixels_agree_and_at_the_pictures_size(
    key, settings, segmenter_with, tiny_inputs
):
    segmenter = segmenter_with(SLIDE, {"neighbours": 60})
    logits = segmenter.logits(pixels_of(), tiny_inputs["text"])[0]
    image = RECORDED["image_u8__80x112"]
    text = TextFeatures(tiny_inputs["text"], torch.arange(6), Vocabulary.from_words(list("abcdef")))
    # the network picture as the flow makes it, from bytes
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in segmenter.backbone.normalisation)
    pixels = (image.permute(2, 0, 1).float() - mean) / std
    context = ImageContext(segmenter.backbone, image.numpy(), pixels[None], text, segmenter.recipe)
    ours = PixelPropagationSettings(**settings).on_network_logits(logits, context)
    assert relative_error(ours[None], RECORDED[key]) < TOLERANCE


def test_first_queries_of_the_background_agree(segmenter_with, tiny_inputs):
    """Six queries, four classes: the released code gives the first three to class 0."""
    key = "lposs_background_first3_slide64_32_k60__80x112"
    z = segmenter_with(SLIDE, {"neighbours": 60}).logits(pixels_of(), tiny_inputs["text"])[0]
    merged = torch.cat([z[:3].amax(0, keepdim=True), z[3:]])[None]
    assert relative_error(merged, RECORDED[key]) < TOLERANCE


def test_colours_agree():
    rgb = RECORDED["image_u8__80x112"].permute(2, 0, 1) / 255
    assert relative_error(lab(rgb)[None], RECORDED["lab__80x112"]) < TOLERANCE


# -- the solver and the graphs -----------------------------------------------------------------------------------


def test_steps_are_those_of_scipy():
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((30, 30))
    matrix = matrix @ matrix.T + np.eye(30)
    right = np.concatenate([rng.standard_normal((3, 30)), np.zeros((1, 30))])
    ours = conjugate_gradient(lambda x: x @ matrix.T, right, 10)
    for row, y in zip(ours, right, strict=True):
        theirs, _ = cg(matrix, y, rtol=1e-6, atol=0, maxiter=10)
        np.testing.assert_allclose(row, theirs, atol=1e-9)
    assert not ours[3].any()
    easy = conjugate_gradient(lambda x: 2 * x, right, 10)
    np.testing.assert_allclose(easy, right / 2, atol=1e-12)


def test_fewer_patches_than_neighbours_join_all_of_them():
    features = F.normalize(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    laplacian = patch_laplacian(features, torch.zeros(5, 2), 400, gamma=1.0).toarray()
    weights = (features @ features.T).clamp_min(0).double().numpy() * 2
    np.fill_diagonal(weights, 0)
    scale = 1 / np.sqrt(np.where(weights.sum(1) == 0, 1, weights.sum(1)))
    expected = np.eye(5) - 0.95 * scale[:, None] * weights * scale
    np.testing.assert_allclose(laplacian, expected, atol=1e-6)


def test_the_graph_by_rows_is_the_graph(monkeypatch):
    features = F.normalize(torch.randn(40, 6, generator=torch.Generator().manual_seed(1)), dim=1)
    places = patch_places([(0, 0), (8, 16)], (4, 5), 8)
    whole = patch_laplacian(features, places, 7).toarray()
    monkeypatch.setattr(patch_graph, "ENTRIES", 90)
    np.testing.assert_allclose(patch_laplacian(features, places, 7).toarray(), whole, atol=1e-6)
    assert (np.abs(whole - whole.T) < 1e-7).all() and (whole.diagonal() == 1).all()


def test_places_are_centres_of_patches_in_the_picture():
    places = patch_places([(0, 0), (32, 48)], (2, 3), 8)
    assert places[:6].tolist() == [[4, 4], [4, 12], [4, 20], [12, 4], [12, 12], [12, 20]]
    assert places[6].tolist() == [36, 52]


def test_edges_of_pixels_are_the_matrix_of_the_definition(monkeypatch):
    colours = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0)) * 20
    scaled = (colours / torch.tensor([100.0, 128, 128])[:, None, None]).flatten(1).T.double()
    rows, columns = np.divmod(np.arange(24), 6)
    near = np.maximum(abs(rows[:, None] - rows), abs(columns[:, None] - columns)) <= 2
    weights = np.exp(-torch.cdist(scaled, scaled).numpy() / 0.1) * near
    np.fill_diagonal(weights, 0)
    scale = 1 / np.sqrt(weights.sum(1))
    laplacian = np.eye(24) - 0.9 * scale[:, None] * weights * scale
    logits = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(pixel_propagation, "QUERIES_AT_ONCE", 2)
    ours = spread(logits, colours, reach=5, tau=0.1, alpha=0.9, iterations=60)
    expected = np.linalg.solve(laplacian, logits.flatten(1).double().numpy().T).T
    np.testing.assert_allclose(ours.flatten(1).numpy(), expected, atol=1e-4)
    assert len(pixel_edges(colours, 5, 0.1)) == 12
    assert len(pixel_edges(colours[:, :1, :2], 13, 0.1)) == 1


def test_the_padding_of_windows_shifts_no_place(segmenter_with, tiny_inputs):
    windows = {"windows": {"crop": 64, "stride": 32, "pad_to": 80}}
    segmenter = segmenter_with(windows, {"neighbours": 60})
    logits = segmenter.logits(pixels_of(), tiny_inputs["text"])
    assert logits.shape == (1, 6, 80, 112) and torch.isfinite(logits).all()


def test_the_whole_flow_with_both_gives_labels(segmenter_with):
    more = {"pixel_propagation": True, "labels": {"logit_scale": 1.0}, "windows.short_side": 80}
    segmenter = segmenter_with(SLIDE, {"neighbours": 60}, more)
    image = RECORDED["image_u8__80x112"].numpy()
    words = ["cat", "dog", "grass"]
    result = segmenter(image, words, background=["wall", "sky"], keep_scores=True)
    strips = segmenter(image, words, background=["wall", "sky"])
    assert result.mask.shape == (80, 112) and np.isfinite(result.scores).all()
    assert (strips.mask == result.mask).all()


# -- refusals ----------------------------------------------------------------------------------------------------


def test_what_cannot_work_is_refused():
    for other in ("stitch", "stitched_regions"):
        with pytest.raises(RecipeError, match="one map of the picture"):
            Recipe("x").but({"patch_propagation": True, other: True})
    for values in (
        {"alpha": 1.0}, {"neighbours": 1}, {"gamma": -1.0}, {"kind": "first"}, {"power": 0.0},
        {"iterations": 0},
    ):  # fmt: skip
        with pytest.raises(RecipeError, match="patch_propagation"):
            PatchPropagationSettings(**values)
    for values in ({"reach": 4}, {"reach": 1}, {"tau": 0.0}, {"alpha": 1.0}, {"iterations": 0}):
        with pytest.raises(RecipeError, match="pixel_propagation"):
            PixelPropagationSettings(**values)
    inert = (
        Recipe("x").but({"patch_propagation.alpha": 0.0, "pixel_propagation.alpha": 0.0}).inert()
    )
    assert set(inert) == {"patch_propagation", "pixel_propagation"}
