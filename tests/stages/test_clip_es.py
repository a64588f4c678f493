"""CLIP-ES against the recorded outputs of its official code; scores of maps; limits, half precision, errors."""

import copy

import numpy as np
import pytest
import torch
from conftest import TINY_CONFIG, relative_error, vectors

from ovsslib.clip import gradients, memory
from ovsslib.clip.backbone import Backbone
from ovsslib.clip.gradients import softmax_gradcam
from ovsslib.clip.loading import build_model
from ovsslib.errors import ImageError, MemoryBudgetError, RecipeError, WordsError
from ovsslib.recipe import Recipe, make_settings
from ovsslib.segmenter import Segmenter, Words, window_logits_of
from ovsslib.stages.cam_scores import crf_image, with_background
from ovsslib.stages.class_activation import (
    averaged_blocks,
    boxes_of,
    read_whole_picture,
    stretched,
    word_maps,
)
from ovsslib.stages.whole_picture import background_rows, stuff_classes
from ovsslib.text.features import TextFeatures
from ovsslib.text.prompts import TextSettings
from ovsslib.text.vocabulary import Vocabulary

RECORDED = vectors("clip-es")
TOLERANCE = 1e-4
VARIANTS = {  # box threshold, whether the last block's attention is left out
    "voc": (0.4, False), "coco": (0.7, False), "tagvoc": (0.4, True),
}  # fmt: skip
CASES = sorted({key.rsplit("__", 1)[0] for key in RECORDED})
WORDS, RIVALS = [0, 2, 3], [4, 5]


def parts(case: str, inputs: dict) -> tuple[torch.Tensor, float, tuple[float, bool]]:
    """Pixels (1, 3, H, W), factor of the softmax, box threshold and whether the last block is left out."""
    size, scale, variant = case.split("_")
    pixels = inputs["image_64x64" if size == "64" else "image_80x112"]
    return pixels, float(scale.removeprefix("scale")), VARIANTS[variant]


@pytest.mark.parametrize("case", CASES)
def test_every_step_agrees_with_the_official_code(case, tiny_backbone, tiny_inputs):
    pixels, scale, (threshold, leave) = parts(case, tiny_inputs)
    recorded = {k.removeprefix(f"{case}__"): v for k, v in RECORDED.items() if k.startswith(case)}
    reading = read_whole_picture(tiny_backbone, pixels, averaged_blocks(12, 8, leave))
    assert relative_error(reading.attention, recorded["attn"]) < TOLERANCE
    assert relative_error(reading.affinity, recorded["affinity"]) < TOLERANCE
    text = tiny_inputs["text"]
    made = word_maps(
        tiny_backbone,
        reading,
        text[WORDS],
        text[RIVALS],
        box_threshold=threshold,
        logit_scale=scale,
    )
    assert relative_error(made.probabilities, recorded["prob"]) < TOLERANCE
    assert relative_error(made.activations, recorded["cam"]) < TOLERANCE
    assert torch.equal(made.boxes.flatten(1).to(torch.uint8), recorded["boxes"])
    assert relative_error(made.refined, recorded["refined"]) < TOLERANCE


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_the_flow_agrees_with_the_official_code(case, power, tiny_backbone, tiny_inputs):
    pixels, scale, (threshold, leave) = parts(case, tiny_inputs)
    recipe = Recipe("vector").but(
        clip_es={"box_threshold": threshold, "leave_last_out": leave, "logit_scale": scale},
        cam_scores={"power": power},
    )
    segmenter = Segmenter(tiny_backbone, recipe)
    highres = RECORDED[f"{case}__highres"]
    size = tuple(highres.shape[1:])
    vocabulary = Vocabulary.from_words(["a", "b", "c"], background=["x", "y"])
    rows = tiny_inputs["text"][RIVALS + WORDS]
    text = TextFeatures(rows, torch.tensor(vocabulary.query_class), vocabulary)
    stitched = window_logits_of([segmenter], pixels[0], [segmenter.words(text)], size)[0]
    assert relative_error(stitched.full()[2:], highres) < TOLERANCE
    image = np.zeros((*size, 3), dtype=np.uint8)
    labels = segmenter.finish(stitched, image, pixels[0], text).labels
    recorded_label = torch.tensor([0, *(row + 1 for row in WORDS)])[torch.from_numpy(labels).long()]
    assert torch.equal(recorded_label.to(torch.uint8), RECORDED[f"{case}__label_p{power}"])


def test_rows_behind_the_words_compete_where_nobody_told_what_they_are(tiny_backbone, tiny_inputs):
    text = tiny_inputs["text"]
    recipe = Recipe("vector").but(clip_es={"logit_scale": 20})
    segmenter, pixels = Segmenter(tiny_backbone, recipe), tiny_inputs["image_64x64"]
    words = Words(text[WORDS + RIVALS], queries=3)
    logits = segmenter.logits(pixels, words)[0]
    assert relative_error(logits, RECORDED["64_scale20_voc__highres"]) < TOLERANCE
    alone = segmenter.logits(pixels, text[WORDS])[0]
    assert relative_error(alone, logits) > 1e-3


def test_windows_do_not_go_through_the_trunk(tiny_backbone, tiny_inputs, monkeypatch):
    seen = []
    own = Backbone.trunk
    monkeypatch.setattr(
        Backbone,
        "trunk",
        lambda self, pixels, *a, **k: (
            seen.append(tuple(pixels.shape)) or own(self, pixels, *a, **k)
        ),
    )
    recipe = Recipe("vector").but(
        clip_es=True, windows={"crop": 64, "stride": 32, "short_side": 64}
    )
    image = np.random.default_rng(0).integers(0, 256, (75, 101, 3), dtype=np.uint8)
    Segmenter(tiny_backbone, recipe)(image, ["cat", "dog"])
    assert seen == [(1, 3, 80, 112)]  # the photograph, sides rounded up to whole patches


def test_half_precision_keeps_gradients(tiny_backbone, tiny_inputs):
    """The block whose gradients are taken is computed in float32, so small ones do not vanish."""
    model = build_model(TINY_CONFIG)
    model.load_state_dict(tiny_backbone.model.state_dict())
    half = Backbone(model, name="half", weights_hash="half", precision="bf16")
    text, pixels = tiny_inputs["text"], tiny_inputs["image_80x112"]
    runs = []
    for backbone in (tiny_backbone, half):
        reading = read_whole_picture(backbone, pixels, range(4, 12))
        made = word_maps(
            backbone, reading, text[WORDS], text[RIVALS], box_threshold=0.4, logit_scale=20
        )
        runs.append(made)
    assert runs[1].maps.dtype == torch.float32
    agree = torch.nn.functional.cosine_similarity(
        *(run.activations.flatten() for run in runs), dim=0
    )
    assert agree > 0.9
    with pytest.raises(RuntimeError, match="does not require grad"):
        half.exact_last_block.mlp.c_fc.weight.sum().backward()


def test_gradients_are_those_of_finite_differences(tiny_backbone, tiny_inputs):
    """d y_k / d a in double precision, along the direction that the map's weights are the slope of."""
    backbone = copy.copy(tiny_backbone)
    backbone.model = copy.deepcopy(tiny_backbone.model)
    tokens = backbone.trunk(tiny_inputs["image_64x64"]).tokens
    rows = tiny_inputs["text"]
    _, maps = softmax_gradcam(backbone, tokens, rows, 6, logit_scale=5.0)
    block, scale = backbone.blocks[-1], 5.0
    normed = backbone.normalise(block.ln_1, tokens).double()
    double = copy.deepcopy(block).double()

    def probability(seen: torch.Tensor) -> torch.Tensor:
        qkv = torch.nn.functional.linear(seen, double.attn.in_proj_weight, double.attn.in_proj_bias)
        q, k, v = qkv.reshape(1, 17, 3, 4, 16).permute(2, 0, 3, 1, 4)
        mixed = ((q * 0.25) @ k.transpose(-1, -2)).softmax(-1) @ v
        out = tokens.double() + double.attn.out_proj(mixed.transpose(1, 2).flatten(2))
        out = out + double.mlp(double.ln_2(out))
        norm = backbone.visual.ln_post
        out = torch.nn.functional.layer_norm(out, (64,), norm.weight.double(), norm.bias.double())
        pooled = (out[0, 1:] @ backbone.visual.proj.double()).mean(0)
        return (scale * rows.double() @ torch.nn.functional.normalize(pooled, dim=0)).softmax(0)

    step, slopes = 1e-4, []
    for channel in range(64):
        moved = torch.zeros_like(normed)
        moved[:, 1:, channel] = step
        slopes.append((probability(normed + moved) - probability(normed - moved)) / (2 * step) / 16)
    weights = torch.stack(
        slopes, dim=1
    )  # (6, 64): mean over patches of the derivative by a channel
    expected = (weights @ normed[0, 1:].T).relu()
    assert relative_error(maps, expected) < 1e-3


# -- scores ------------------------------------------------------------------------------------------------


def test_the_background_is_what_the_words_leave():
    maps = torch.tensor([[[0.25, 1.0]], [[0.5, 0.0]]])
    assert torch.equal(with_background(maps)[0], torch.tensor([[0.5, 0.0]]))
    assert torch.equal(with_background(maps, 2)[0], torch.tensor([[0.25, 0.0]]))
    assert torch.equal(with_background(maps[:0]), torch.ones(1, 1, 2))


def test_the_released_crf_sees_a_wrapped_picture():
    recorded = vectors("car")
    wrapped = crf_image(recorded["image_u8"].numpy())
    assert np.array_equal(wrapped, recorded["circle_blur__crf_image"].numpy())
    # -3.7 becomes -3, and -3 becomes 253
    assert crf_image(np.array([[[119, 113, 103]]], dtype=np.uint8))[0, 0].tolist() == [
        255,
        253,
        253,
    ]
    assert crf_image(wrapped, "rgb") is wrapped


def labelled(maps: torch.Tensor, vocabulary: Vocabulary, backbone, **settings) -> np.ndarray:
    """Label map of given maps (Q, H, W)."""
    recipe = Recipe("scores").but(cam_scores={"half": False, **settings})
    segmenter = Segmenter(backbone, recipe)
    queries = torch.tensor(vocabulary.query_class)
    text = TextFeatures(torch.zeros(len(queries), 24), queries, vocabulary)

    class Given:
        queries, size, kept_of_trunk = len(maps), tuple(maps.shape[1:]), {}

        def windows(self):
            return maps[None]

        def full(self):
            return maps

    image = np.full((*maps.shape[1:], 3), 128, dtype=np.uint8)
    return segmenter.finish(Given(), image, torch.zeros(3, *maps.shape[1:]), text).labels


def test_things_lie_over_stuff(tiny_backbone):
    words = Vocabulary(
        ("background", "dog", "grass"), (("background",), ("dog",), ("grass",)),
        ("stuff", "thing", "stuff"), (None,) * 3, background=0,
    )  # fmt: skip
    maps = torch.tensor([[[0.0] * 4], [[0.6, 0.4, 0.0, 0.6]], [[0.9, 0.7, 0.2, 0.0]]])
    one = labelled(maps, words, tiny_backbone)
    two = labelled(maps, words, tiny_backbone, passes="things over stuff")
    assert one.tolist() == [[2, 2, 0, 1]]
    assert two.tolist() == [[1, 2, 0, 1]]
    named = labelled(maps, words, tiny_backbone, passes="things over stuff", stuff=("dog",))
    assert named.tolist() == [[2, 2, 0, 1]]


def test_without_a_background_class_every_pixel_has_a_word(tiny_backbone):
    words = Vocabulary.from_words(["dog", "grass"])
    maps = torch.tensor([[[0.1, 0.4]], [[0.2, 0.0]]])
    for row in (True, False):
        assert labelled(maps, words, tiny_backbone, row=row).tolist() == [[1, 0]]
    assert labelled(torch.zeros(2, 1, 2), words, tiny_backbone).tolist() == [[0, 0]]


def test_the_crf_runs_over_words_that_are_there(tiny_backbone):
    words = Vocabulary.from_words(["dog", "grass", "car"], background=["sky"])
    maps = torch.zeros(4, 8, 8)
    maps[1, :4], maps[2, 4:] = 0.9, 0.8
    maps[2, 2, 2] = 0.95  # a speck that the CRF takes away
    assert labelled(maps, words, tiny_backbone)[2, 2] == 2
    smooth = labelled(maps, words, tiny_backbone, crf="deeplab", image="rgb")
    assert smooth[2, 2] == 1 and set(np.unique(smooth)) <= {1, 2}


# -- parts and errors --------------------------------------------------------------------------------------


def test_a_threshold_that_no_cell_passes_falls_where_it_is_asked_to():
    maps = torch.tensor([[[0.2, 0.1, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    assert not boxes_of(maps, 1.0).any()
    assert boxes_of(maps, 1.0, lower=True)[0].tolist() == [
        [True, False, False],
        [False] * 3,
        [False] * 3,
    ]
    assert boxes_of(maps[:0], 0.4).shape == (0, 3, 3)


def test_a_map_without_range_vanishes():
    assert torch.equal(stretched(torch.full((1, 4), 0.3), 1e-7), torch.zeros(1, 4))
    assert stretched(torch.tensor([[0.0, 2.0]]), 1e-15).tolist() == [[0.0, 1.0]]


def test_background_words_leave_out_what_is_asked_for(tiny_backbone):
    settings = TextSettings(prompts="origami")

    def rows(words, background=None, **more):
        vocabulary = Vocabulary.from_words(words, background)
        text = TextFeatures(torch.zeros(1, 24), torch.zeros(1), vocabulary)
        return len(background_rows(tiny_backbone, text, settings, "clip-es", **more))

    assert rows(["dog"]) == 25
    assert rows(["dog", "Sky", "road"]) == 23
    assert rows(["dog"], ["wall"]) == 0  # its own background stands in
    assert rows(["dog", "sky"], ["wall"], besides=["dog", "sky"]) == 24
    assert rows(["dog"], besides=[]) == 25


def test_classes_that_count_as_stuff():
    vocabulary = Vocabulary.named("voc21")
    assert stuff_classes(vocabulary, ()) == []
    assert stuff_classes(vocabulary, ("tv monitor", "Bird")) == [3, 20]
    with pytest.raises(WordsError, match="no class is called 'birds'.*did you mean 'bird'"):
        stuff_classes(vocabulary, ("birds",))


@pytest.mark.parametrize(
    ("stage", "values", "message"),
    [
        ("clip_es", {"box_threshold": 1.0}, "clip_es.box_threshold=1.0"),
        ("clip_es", {"blocks": 1, "leave_last_out": True}, "leaves no block"),
        ("clip_es", {"eps": 0.0}, "must be above 0"),
        ("clip_es", {"background_words": "none"}, "background_words='none'; known: sclip"),
        ("clip_es", {"short_side": 7}, "short_side=7"),
        ("cam_scores", {"power": 0.0}, "cam_scores.power=0.0"),
        ("cam_scores", {"crf": "strong"}, "cam_scores.crf='strong'; known: standard"),
    ],
)
def test_bad_settings_are_named(stage, values, message):
    with pytest.raises(RecipeError, match=message):
        make_settings(stage, values)


def test_stages_that_would_never_run_are_refused():
    with pytest.raises(RecipeError, match="rcs.*would never run; turn rcs off"):
        Recipe("both").but(clip_es=True, rcs=True)
    inert = (
        Recipe("own").but({"clip_es": True, "windows.stride": 50, "attention.terms": "kk"}).inert()
    )
    assert set(inert) == {"windows.stride", "attention.terms"}
    assert "crf is off" in Recipe("s").but(cam_scores={"image": "rgb"}).inert()["cam_scores.image"]


def test_what_does_not_fit_is_refused_before_it_starts(tiny_backbone, tiny_inputs, monkeypatch):
    tokens = torch.zeros(2, 17, 64)
    with pytest.raises(ImageError, match="one picture at a time"):
        softmax_gradcam(tiny_backbone, tokens, tiny_inputs["text"], 6)
    free = type("Memory", (), {"available": 1000})
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: free)
    with pytest.raises(MemoryBudgetError, match="smaller short_side"):
        read_whole_picture(tiny_backbone, tiny_inputs["image_64x64"], range(4, 12))
    with pytest.raises(MemoryBudgetError, match="gradients through a block of 17 tokens"):
        softmax_gradcam(tiny_backbone, tokens[:1], tiny_inputs["text"], 6)
    assert gradients.check_free is memory.check_free


def test_no_word_gives_no_map(tiny_backbone, tiny_inputs):
    tokens = tiny_backbone.trunk(tiny_inputs["image_64x64"]).tokens
    probabilities, maps = softmax_gradcam(tiny_backbone, tokens, tiny_inputs["text"], 0)
    assert maps.shape == (0, 16) and probabilities.shape == (6,)
