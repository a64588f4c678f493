"""The as-published methods against outputs recorded from their official implementations."""

import pytest
import torch
from conftest import relative_error, vectors

from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages.gem import gem_attention
from ovsslib.stages.sfr import feedback_matrix, patch_labels

OUTPUTS = vectors("tiny_outputs")
TOLERANCE = 1e-4

REDUCED = {"residual": False, "feed_forward": False}
WHOLE = {"residual": True, "feed_forward": True}
RCS = {"tau": 2.0, "lam": 0.4}
SFR = {"tau": 1.8, "lam": 0.7, "threshold": 0.25, "logit_scale": 40.0}

ATTENTION = {
    "clip_vanilla": {"terms": "qk", **WHOLE},
    "sclip_csa": {"terms": "qq+kk", **WHOLE},
    "naclip_reduced_naclip_std5": {"terms": "kk", "gaussian_std": 5.0, **REDUCED},
    "naclip_reduced_nonly_std5": {"terms": "neighbour", "gaussian_std": 5.0, **REDUCED},
    "naclip_reduced_kk_std5": {"terms": "kk", **REDUCED},
    "naclip_reduced_vanilla_std5": {"terms": "qk", **REDUCED},
    "naclip_vanilla_naclip_std5": {"terms": "kk", "gaussian_std": 5.0, **WHOLE},
    "resclip_wo_resi_resclip": {"terms": "kk", "gaussian_std": 5.0, **REDUCED},
    "resclip_w_resi_sclip": {"terms": "qq+kk", **WHOLE},
    "resclip_wo_resi_clearclip": {"terms": "qq", **REDUCED},
}


def changes_of(key: str) -> dict:
    """Recipe changes that a vector's name stands for."""
    method = key.rsplit("__", 1)[0]
    if method == "itaclip":
        attention = {"terms": "qq+kk", "residual": True, "feed_forward": False}
        return {"attention": attention, "middle_layers": {"layers": (7, 8, 10)}}
    base = next(
        name for name in sorted(ATTENTION, key=len, reverse=True) if method.startswith(name)
    )
    changes = {"attention": ATTENTION[base]}
    if "rcs" in method:
        changes["rcs"] = RCS
    if "sfr" in method:
        changes["sfr"] = SFR
    return changes


@pytest.mark.parametrize("key", sorted(key for key in OUTPUTS if not key.startswith("posembed")))
def test_tokens_agree_with_the_official_code(key, tiny_backbone, tiny_inputs):
    size = key.rsplit("__", 1)[1]
    pixels = tiny_inputs["image_64x64" if size == "64" else "image_80x112"]
    recipe = Recipe("vector").but(changes_of(key))
    tokens = Segmenter(tiny_backbone, recipe).features(pixels, tiny_inputs["text"], keep_cls=True)
    assert relative_error(tokens, OUTPUTS[key]) < TOLERANCE


@pytest.mark.parametrize("size", ["64x64", "80x112"])
def test_maskclip_features_agree(size, tiny_backbone, tiny_inputs):
    recipe = Recipe("vector").but(attention={"terms": "value", **REDUCED})
    features = Segmenter(tiny_backbone, recipe).features(tiny_inputs[f"image_{size}"])
    key = "feat__64" if size == "64x64" else "feat__80x112"
    assert relative_error(features.flatten(1, 2), vectors("maskclip_value")[key]) < TOLERANCE


@pytest.mark.parametrize("size", ["64", "80x112"])
def test_cliptrase_features_agree(size, tiny_backbone, tiny_inputs):
    expected = vectors("cliptrase")[f"features__{size}"]
    recipe = Recipe("vector").but(attention={"terms": "qq+kk+vv", **WHOLE})
    pixels = tiny_inputs["image_64x64" if size == "64" else "image_80x112"]
    tokens = Segmenter(tiny_backbone, recipe).features(pixels, keep_cls=True)
    if expected.shape[1] == tokens.shape[1] - 1:
        tokens = tokens[:, 1:]
    assert relative_error(tokens, expected) < TOLERANCE


def test_positions_agree(tiny_backbone):
    assert (
        relative_error(tiny_backbone.positions((5, 7))[None], OUTPUTS["posembed_80x112"])
        < TOLERANCE
    )


def test_gem_attention_agrees(tiny_backbone):
    recorded = vectors("gem_block11_attention")
    normed = recorded["x_after_ln1"].transpose(0, 1)
    block = tiny_backbone.blocks[11]
    qkv = torch.nn.functional.linear(normed, block.attn.in_proj_weight, block.attn.in_proj_bias)
    q, k, v = qkv.reshape(1, 17, 3, 4, 16).permute(2, 0, 3, 1, 4)
    tap = type("Tap", (), {"normed": normed, "q": q, "k": k, "v": v})
    ours = gem_attention(tiny_backbone, 11, tap, iterations=1)
    assert relative_error(ours.transpose(0, 1), recorded["gem"]) < TOLERANCE


def test_feedback_matrix_agrees():
    recorded = vectors("sfr_matrix")
    for name, std, path in (
        ("std5_decay", 5.0, True),
        ("std5_nodecay", 5.0, False),
        ("std1_decay", 1.0, True),
    ):
        key = next(k for k in recorded if k.endswith(name))
        ours = feedback_matrix(recorded["labels"].long(), std, path, released=True)
        assert relative_error(ours, recorded[key].reshape(ours.shape)) < TOLERANCE


def test_patch_labels_agree():
    recorded = vectors("sfr_patch_labels")
    key = next(k for k in recorded if "thd" in k)
    ours = patch_labels(recorded["probs"][0], 0.6, 16)
    assert torch.equal(ours, recorded[key].reshape(ours.shape).long())
