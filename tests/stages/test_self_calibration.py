"""SC-CLIP, SFP and DiH-CLIP against outputs recorded from their official code, step by step and as a whole."""

import pytest
import torch
from conftest import TINY_CONFIG, relative_error, vectors

from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import build_model
from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages.calibrated import class_and_self_attention, head_entropy, local_outlier_factors
from ovsslib.stages.self_calibration import SelfCalibrationSettings, head_paths, self_attention

RECORDED = {name: vectors(name) for name in ("sc-clip", "sfp", "dih-clip")}
TOLERANCE = 1e-4
OTHER = {
    "guide_block": 7, "detail_block": 3, "fused_blocks": (3, 4, 5, 6, 7, 8), "class_weight": 0.1, "threshold": 0.55,
}  # fmt: skip
VARIANTS = {
    "sc-clip": {
        "96x96": {}, "128x128": {}, "fixed_80x112": {}, "96x96_other": OTHER,
    },
    "sfp": {
        "96x96": {}, "128x128": {}, "64x64": {}, "fixed_80x112": {}, "96x96_L2": {"outliers": "norm"},
        "96x96_LOF": {"outliers": "lof"}, "96x96_res_scale0.8": {"class_scale": 0.24},
        "96x96_res_scale0": {"class_scale": 0.0},
    },
    "dih-clip": {
        f"{size}_top{count}": {"heads": count, "guide_heads": count}
        for size in ("64x64", "80x112")
        for count in (1, 2, 4)
    },
}  # fmt: skip
CASES = [(method, key) for method, keys in VARIANTS.items() for key in keys]


def picture_of(method: str, key: str, inputs: dict) -> torch.Tensor:
    """The picture that a recorded array belongs to: (1, 3, H, W)."""
    size = key.removeprefix("fixed_").split("_")[0]
    name = f"image_{size}"
    return RECORDED[method][name] if name in RECORDED[method] else inputs[name]


def segmenter_of(method: str, key: str, backbone: Backbone) -> Segmenter:
    """The shipped recipe with the settings of a recorded variant."""
    changes = {"self_calibration": VARIANTS[method][key]} if VARIANTS[method][key] else {}
    return Segmenter(backbone, Recipe.named(method).but(changes))


def steps_of(segmenter: Segmenter, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every step of the stage on a picture as one window."""
    trunk = segmenter.trunk(pixels)
    settings = segmenter.recipe["self_calibration"]
    return settings.steps(segmenter.last_block.context(trunk, pixels))


@pytest.mark.parametrize(("method", "key"), CASES)
def test_features_agree_with_the_official_code(method, key, tiny_backbone, tiny_inputs):
    segmenter = segmenter_of(method, key, tiny_backbone)
    ours = segmenter.features(picture_of(method, key, tiny_inputs))
    assert relative_error(ours.flatten(1, 2), RECORDED[method][f"{key}__out"]) < TOLERANCE


@pytest.mark.parametrize(("method", "key"), CASES)
def test_each_step_agrees_with_the_official_code(method, key, tiny_backbone, tiny_inputs):
    recorded = RECORDED[method]
    made = steps_of(segmenter_of(method, key, tiny_backbone), picture_of(method, key, tiny_inputs))
    names = {
        "tokens_fixed": "fixed", "S": "similarity", "pre": "pre", "attn_out": "attention", "main": "main",
        "multi": "multi",
    }  # fmt: skip
    for theirs, ours in names.items():
        if f"{key}__{theirs}" in recorded:
            error = relative_error(made[ours][0], recorded[f"{key}__{theirs}"])
            assert error < TOLERANCE, (theirs, error)
    if f"{key}__outliers" in recorded:
        found = made["outliers"][0].nonzero()[:, 0]
        assert found.tolist() == recorded[f"{key}__outliers"].sort().values.tolist()


@pytest.mark.parametrize("key", ["96x96", "128x128", "fixed_80x112"])
def test_outlier_factors_agree(key, tiny_backbone, tiny_inputs):
    tokens = tiny_backbone.trunk(picture_of("sc-clip", key, tiny_inputs)).tokens[:, 1:]
    ours = local_outlier_factors(tokens, 30)
    assert relative_error(ours[0], RECORDED["sc-clip"][f"{key}__lof_scores"]) < TOLERANCE


def test_attention_of_class_token_and_patches_agrees(tiny_backbone, tiny_inputs):
    tap = tiny_backbone.trunk(picture_of("sfp", "96x96", tiny_inputs), taps={10}).taps[10]
    of_class, of_self = class_and_self_attention(tap.q, tap.k, tiny_backbone.scale)
    assert relative_error(1.5 * of_class[0], RECORDED["sfp"]["96x96__cls_to_patch"]) < TOLERANCE
    assert relative_error(of_self[0], RECORDED["sfp"]["96x96__patch_self"]) < TOLERANCE


@pytest.mark.parametrize("size", ["64x64", "80x112"])
def test_head_paths_and_entropies_agree(size, tiny_backbone, tiny_inputs):
    recorded, pixels = RECORDED["dih-clip"], tiny_inputs[f"image_{size}"]
    key, scale = f"{size}_top2", tiny_backbone.scale
    tap = tiny_backbone.trunk(pixels, taps={8}).taps[8]
    entropy = head_entropy(((tap.q * scale) @ tap.k.mT).softmax(dim=-1))
    assert relative_error(entropy[0], recorded[f"{key}__entropy_qk9"]) < TOLERANCE
    paths = head_paths(tiny_backbone, 8, tap, 2)
    assert relative_error(paths[0], recorded[f"{key}__head_paths9"]) < TOLERANCE
    # the last block's weights in both passes, from the recorded steps
    made = steps_of(segmenter_of("dih-clip", key, tiny_backbone), pixels)
    shared = made["similarity"] - made["similarity"].mean()
    shared = (3 * shared).masked_fill(shared < 0, -torch.inf).softmax(dim=-1)
    fused = sum(tiny_backbone.trunk(pixels, inputs=range(4, 11)).inputs.values())[:, 1:]
    for name, tokens in (("entropy_last", made["pre"]), ("entropy_multi", fused)):
        keys = tiny_backbone.project(11, tokens).k
        entropy = head_entropy((shared[:, None] + self_attention(keys, scale)) / 2)
        assert relative_error(entropy[0], recorded[f"{key}__{name}"]) < TOLERANCE


@pytest.mark.parametrize("method", ["sc-clip", "sfp"])
def test_stitched_logits_agree(method, tiny_backbone, tiny_inputs):
    recipe = Recipe.named(method).but(windows={"crop": 96, "stride": 48})
    pixels = RECORDED[method]["image_128x128"]
    ours = Segmenter(tiny_backbone, recipe).logits(pixels, tiny_inputs["text"])
    expected = RECORDED[method]["logits_slide_128x128_crop96_stride48"]
    assert relative_error(ours[:, :, ::2, ::2], expected) < TOLERANCE


@pytest.mark.parametrize("method", list(VARIANTS))
def test_windows_of_a_batch_do_not_see_each_other(method, tiny_backbone):
    pixels = torch.randn(3, 3, 80, 112, generator=torch.Generator().manual_seed(0))
    segmenter = Segmenter(tiny_backbone, method)
    together = segmenter.features(pixels)
    assert together.shape == (3, 5, 7, 24)
    for index in range(3):
        alone = segmenter.features(pixels[index : index + 1])
        assert relative_error(together[index], alone[0]) < 1e-4


def test_class_token_is_clips_own(tiny_backbone, tiny_inputs):
    pixels = tiny_inputs["image_80x112"]
    tokens = Segmenter(tiny_backbone, "sc-clip").features(pixels, keep_cls=True)
    assert tokens.shape == (1, 36, 24)
    assert relative_error(tokens[:, 0], tiny_backbone.encode_image(pixels)) < 1e-5


@pytest.mark.parametrize("method", list(VARIANTS))
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precisions_are_near_float32(method, precision):
    torch.manual_seed(3)
    net = build_model(TINY_CONFIG)
    pixels = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    recipe = Recipe.named(method).but({"self_calibration.outliers": "none"})
    full = Segmenter(Backbone(net, name="tiny"), recipe).features(pixels)
    half = Backbone(net, name="tiny", precision=precision)
    ours = Segmenter(half, recipe).features(pixels)
    assert ours.dtype == torch.float32 and torch.isfinite(ours).all()
    assert torch.cosine_similarity(ours, full, dim=-1).min() > 0.98
    repaired = Segmenter(half, method).features(pixels)
    assert torch.isfinite(repaired).all()


@pytest.mark.parametrize("method", list(VARIANTS))
@pytest.mark.parametrize("size", [(16, 16), (16, 48), (16, 32), (48, 16), (64, 64), (32, 160)])
def test_small_and_flat_windows_give_finite_features(method, size, tiny_backbone):
    pixels = torch.zeros(1, 3, *size)
    for picture in (pixels, torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))):
        assert torch.isfinite(Segmenter(tiny_backbone, method).features(picture)).all()


def test_without_second_pass_and_outliers_less_is_computed(tiny_backbone, tiny_inputs):
    pixels = tiny_inputs["image_80x112"]
    recipe = Recipe("less").but(self_calibration={"second_pass": False, "outliers": "none"})
    segmenter = Segmenter(tiny_backbone, recipe)
    assert segmenter.inputs == {9, 4}
    made = steps_of(segmenter, pixels)
    assert not {"multi", "outliers"} & set(made) and made["out"] is made["main"]
    whole = steps_of(Segmenter(tiny_backbone, Recipe("more").but(self_calibration=True)), pixels)
    assert {"multi", "outliers"} <= set(whole)
    assert relative_error(whole["out"], whole["main"] + whole["multi"]) < 1e-6


def test_terms_are_averaged_with_the_shared_weights(tiny_backbone, tiny_inputs):
    pixels = tiny_inputs["image_80x112"]
    for terms, letters in (("kk", "k"), ("kk+qq", "kq"), ("none", "")):
        change = {"terms": terms, "outliers": "none", "second_pass": False}
        segmenter = Segmenter(tiny_backbone, Recipe("terms").but(self_calibration=change))
        made = steps_of(segmenter, pixels)
        tap = tiny_backbone.project(11, made["pre"])
        scores = 3 * (made["similarity"] - made["similarity"].mean())
        weights = [
            scores.masked_fill(scores < 0, -torch.inf).softmax(-1)[:, None].expand(1, 4, 35, 35)
        ]
        for letter in letters:
            p = getattr(tap, letter)
            weights.append((0.25 * p @ p.mT).softmax(-1))
        expected = tiny_backbone.join(11, torch.stack(weights).mean(0) @ tap.v)
        assert relative_error(made["attention"], expected) < 1e-5


def test_blocks_follow_the_depth_of_the_tower(tiny_backbone):
    settings = SelfCalibrationSettings()
    assert settings.blocks(12) == (9, 4, (4, 5, 6, 7, 8, 9, 10), 0.3)
    assert settings.blocks(24) == (17, 7, tuple(range(9, 20)), 0.1)
    assert settings.inputs(12) == {4, 5, 6, 7, 8, 9, 10} and settings.taps(12) == set()
    assert SelfCalibrationSettings(outliers="class_attention").taps(24) == {22}
    assert SelfCalibrationSettings(guide_heads=4).taps(24) == {16}
    assert SelfCalibrationSettings(guide_block=5).blocks(12).guide == 5
    with pytest.raises(
        RecipeError, match=r"guide_block=None.*3 blocks.*set guide_block, detail_block"
    ):
        settings.blocks(3)
    own = {"guide_block": 2, "detail_block": 1, "fused_blocks": (1, 2), "class_weight": 0.3}
    assert SelfCalibrationSettings(**own).blocks(3) == (2, 1, (1, 2), 0.3)


@pytest.mark.parametrize(
    "change", [{"guide_block": 12}, {"detail_block": 13}, {"fused_blocks": (4, 12)}]
)
def test_blocks_that_the_model_lacks_are_refused_when_model_and_recipe_meet(change, tiny_backbone):
    recipe = Recipe("deep").but(self_calibration=change)
    with pytest.raises(RecipeError, match=f"{next(iter(change))}.*12 blocks.*up to 11"):
        Segmenter(tiny_backbone, recipe)


def test_towers_of_another_depth_need_their_blocks_named():
    torch.manual_seed(0)
    vision = {**TINY_CONFIG["vision_cfg"], "layers": 3}
    small = Backbone(build_model({**TINY_CONFIG, "vision_cfg": vision}), name="small")
    for method in VARIANTS:
        with pytest.raises(RecipeError, match="3 blocks"):
            Segmenter(small, method)
    own = {"guide_block": 2, "detail_block": 1, "fused_blocks": (1, 2), "class_weight": 0.3}
    recipe = Recipe.named("sc-clip").but(self_calibration=own)
    assert Segmenter(small, recipe).features(torch.zeros(1, 3, 64, 64)).shape == (1, 4, 4, 24)


def test_what_it_cannot_stand_beside():
    for name in ("middle_layers", "rcs", "sfr", "local_mask", "gem"):
        with pytest.raises(RecipeError, match="self_calibration|gem"):
            Recipe("both").but(self_calibration=True, **{name: True})


def test_inert_names_what_has_no_part():
    recipe = Recipe("x").but(
        self_calibration={
            "outliers": "none", "neighbours": 5, "share": 0.1, "most": 3, "class_scale": 2.0, "second_pass": False,
            "fused_blocks": (4,), "second_terms": "none",
        },
        attention={"terms": "kk"},
    )  # fmt: skip
    fields = ("neighbours", "share", "most", "class_scale", "fused_blocks", "second_terms")
    assert set(recipe.inert()) == {*(f"self_calibration.{f}" for f in fields), "attention.terms"}
    assert Recipe("x").but(self_calibration=True).inert() == {}
    assert Recipe.named("sfp").inert() == {}


@pytest.mark.parametrize(
    "values",
    [
        {"neighbours": 0}, {"share": 0.0}, {"share": 1.0}, {"threshold": 1.0}, {"guide_block": 0},
        {"fused_blocks": ()}, {"fused_blocks": (4, 4)}, {"fused_blocks": (0,)}, {"heads": -1}, {"most": 0},
        {"class_scale": -1.0}, {"temperature": -1.0}, {"detail_block": 0}, {"guide_heads": -1},
    ],
)  # fmt: skip
def test_bad_values_are_refused(values):
    with pytest.raises(RecipeError, match=f"self_calibration.{next(iter(values))}"):
        SelfCalibrationSettings(**values)


def test_leaving_a_step_out_moves_the_features(tiny_backbone, tiny_inputs):
    """The size of each step's effect on the recorded picture, as the reference gives it (0.1 for the repair, ...)."""
    pixels = picture_of("sc-clip", "96x96", tiny_inputs)
    whole = Segmenter(tiny_backbone, "sc-clip").features(pixels)
    for change, least in (
        ({"outliers": "none"}, 0.05), ({"threshold": 0.99}, 0.05), ({"class_weight": 0.0}, 0.5), ({"temperature": 0.0}, 0.01),
    ):  # fmt: skip
        other = Segmenter(tiny_backbone, Recipe.named("sc-clip").but(self_calibration=change))
        assert relative_error(other.features(pixels), whole) > least, change
