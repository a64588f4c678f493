"""Half-precision products with float32 sums, the precision that a machine is best at, and what keys say of them."""

import copy

import pytest
import torch
from conftest import TINY_CONFIG, relative_error

import ovsslib
from ovsslib.clip import placement
from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import build_model
from ovsslib.clip.placement import PRECISIONS, check_precision
from ovsslib.errors import ModelError, RecipeError
from ovsslib.evaluation.profiles import Profile
from ovsslib.identity import model_parts, text_model_parts

PIXELS = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(4))


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_model(TINY_CONFIG).eval()


def backbone(precision: str) -> Backbone:
    return Backbone(network(), name="tiny", weights_hash="seed 0", precision=precision)


def test_products_are_in_bfloat16_and_sums_in_float32():
    half = backbone("bf16")
    kinds = {name: value.dtype for name, value in half.visual.named_parameters()}
    products = {name for name, dtype in kinds.items() if dtype == torch.bfloat16}
    in_block = (
        "attn.in_proj_weight",
        "attn.in_proj_bias",
        "attn.out_proj.weight",
        "attn.out_proj.bias",
    )
    in_block += tuple(
        f"mlp.{layer}.{part}" for layer in ("c_fc", "c_proj") for part in ("weight", "bias")
    )
    assert products == {"conv1.weight"} | {
        f"transformer.resblocks.{block}.{part}" for block in range(half.layers) for part in in_block
    }
    assert {value.dtype for value in half.model.transformer.parameters()} == {torch.float32}
    out = half.trunk(PIXELS, taps=(3, half.layers - 1), inputs=(5,))
    tensors = [out.tokens, out.inputs[5], *(vars(out.taps[3]).values())]
    tensors += [half.join(3, out.taps[3].v), half.feed_forward(3, out.tokens)]
    assert {tensor.dtype for tensor in tensors} == {torch.float32} and half.dtype == torch.bfloat16
    # rounded once on their way, which float32 would not do
    assert torch.equal(out.taps[3].q, out.taps[3].q.bfloat16().float())


def test_nearer_to_float32_than_everything_in_bfloat16():
    exact = backbone("fp32").encode_image(PIXELS)
    crude = network().bfloat16()
    with torch.no_grad():
        rounded = crude.visual(PIXELS[..., :64].bfloat16()).float()
        reference = network().visual(PIXELS[..., :64])
    ours = backbone("bf16").encode_image(PIXELS[..., :64])
    assert 0 < relative_error(ours, reference) < 0.6 * relative_error(rounded, reference)
    assert relative_error(backbone("bf16").encode_image(PIXELS), exact) < 0.02


def test_words_are_those_of_float32_to_the_last_bit():
    full, half = backbone("fp32"), backbone("bf16")
    tokens = full.tokenize(["a dog", "a photo of the sky"])
    assert torch.equal(full.encode_text(tokens), half.encode_text(tokens))
    assert text_model_parts(half) == text_model_parts(full) == model_parts(full)
    assert text_model_parts(backbone("fp16")) != model_parts(full)


def test_a_key_tells_that_sums_are_in_float32():
    parts = model_parts(backbone("bf16"))
    assert (parts["precision"], parts["sums"]) == ("bf16", "fp32")
    assert all("sums" not in model_parts(backbone(name)) for name in ("fp32", "fp16"))


@pytest.mark.parametrize("hardware, chosen", [(True, "bf16"), (False, "fp32")])
def test_auto_is_what_the_machine_is_best_at(monkeypatch, hardware, chosen):
    monkeypatch.setattr(placement, "multiplies_bfloat16", lambda: hardware)
    assert backbone("auto").precision == chosen
    segmenter = ovsslib.load("sclip", "sceneclip", precision="auto")
    assert segmenter.backbone.precision == chosen
    assert ovsslib.load("sclip", segmenter.backbone, precision="auto").backbone.precision == chosen
    assert check_precision("auto", torch.device("cuda")) == "fp16"
    assert check_precision("auto", torch.device("mps")) == "fp32"


def test_hardware_is_asked_of_torch(monkeypatch):
    for answers in ((False, False), (True, False), (False, True)):
        monkeypatch.setattr(
            torch.cpu, "_is_avx512_bf16_supported", lambda a=answers: a[0], raising=False
        )
        monkeypatch.setattr(
            torch.cpu, "_is_amx_tile_supported", lambda a=answers: a[1], raising=False
        )
        assert placement.multiplies_bfloat16() is any(answers)


def test_what_is_no_precision_is_refused_with_the_names():
    for name in ("half", "", "FP32"):
        with pytest.raises(
            ModelError, match=f"precision='{name}': choose one of fp32, bf16, fp16, auto"
        ):
            check_precision(name, torch.device("cpu"))
    with pytest.raises(
        RecipeError, match="'auto' is another one on another machine.*fp32, bf16, fp16"
    ):
        Profile("mine", precision="auto")
    for name in PRECISIONS:
        assert Profile("mine", precision=name).precision == name


def test_a_copy_in_another_precision_leaves_the_original_alone():
    model = network()
    Backbone(copy.deepcopy(model), name="half", precision="bf16")
    assert {value.dtype for value in model.parameters()} == {torch.float32}
