"""TagCLIP's tags against the recorded outputs of its official code; tags behind other recipes; limits and errors."""

import numpy as np
import pytest
import torch
from conftest import TINY_CONFIG, relative_error, vectors

from ovsslib.clip import memory
from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import build_model
from ovsslib.errors import MemoryBudgetError, RecipeError
from ovsslib.recipe import Recipe, make_settings
from ovsslib.segmenter import Segmenter, Words, window_logits_of
from ovsslib.segmenter.encoding import PictureInput
from ovsslib.stages.contexts import WholePictureContext
from ovsslib.stages.tagging import bounding_box, box_refine, read_patches, tag
from ovsslib.stages.windows import DROPPED
from ovsslib.text.vocabulary import Vocabulary

RECORDED = vectors("tagclip")
TOLERANCE = 1e-4
VARIANTS = {  # share, first block of attention, words before the background's
    "voc": (0.5, 9, 4), "stuff": (0.1, 1, 6),
}  # fmt: skip
CASES = sorted({key.rsplit("__", 1)[0] for key in RECORDED if "_scale" in key})


def parts(case: str, inputs: dict):
    size, scale, variant = case.split("_")
    pixels = inputs["image_64x64" if size == "64" else "image_80x112"]
    return pixels, float(scale.removeprefix("scale")), VARIANTS[variant], size


@pytest.mark.parametrize("case", CASES)
def test_every_step_agrees_with_the_official_code(case, tiny_backbone, tiny_inputs):
    pixels, scale, (share, first, words), size = parts(case, tiny_inputs)
    recorded = {k.removeprefix(f"{case}__"): v for k, v in RECORDED.items() if k.startswith(case)}
    reading = read_patches(tiny_backbone, pixels, first, 11)
    assert relative_error(reading.features, RECORDED[f"tokens__{size}"][0, 1:]) < TOLERANCE
    assert relative_error(reading.attention, recorded["attn"]) < TOLERANCE
    made = tag(tiny_backbone, pixels, reading, tiny_inputs["text"], words, share, scale)
    for name, ours in (
        ("coarse", made.coarse), ("first", made.first), ("refined", made.refined),
        ("max_before", made.before), ("scores", made.scores),
        ("cwr_class_tokens", torch.stack(made.class_tokens)),
    ):  # fmt: skip
        assert relative_error(ours, recorded[name]) < TOLERANCE, name
    assert torch.equal(torch.stack(made.masks).to(torch.uint8), recorded["cwr_masks"])
    assert torch.equal(torch.nonzero(made.kept)[:, 0], recorded["tags"])


@pytest.mark.parametrize("size", ["64x64", "80x112"])
def test_the_unmasked_attention_of_the_last_block_agrees(size, tiny_backbone, tiny_inputs):
    trunk = tiny_backbone.trunk(tiny_inputs[f"image_{size}"], (11,), positions="bilinear-half")
    weights = tiny_backbone.attention(trunk.taps[11]).mean(dim=1)[0]
    key = "attn_last__64" if size == "64x64" else "attn_last__80x112"
    assert relative_error(weights, RECORDED[key]) < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_the_stage_keeps_the_words_of_the_official_code(case, tiny_backbone, tiny_inputs):
    pixels, scale, (share, first, words), _ = parts(case, tiny_inputs)
    settings = make_settings("tags", {"share": share, "first_block": first, "logit_scale": scale})
    context = WholePictureContext(
        tiny_backbone, pixels[0], None, (64, 64), Words(tiny_inputs["text"], words)
    )
    kept = settings.keep_words(context)
    assert torch.equal(torch.nonzero(kept)[:, 0], RECORDED[f"{case}__tags"])


# -- behind any recipe -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image():
    return np.kron(
        np.random.default_rng(0).integers(0, 256, (5, 7, 3)), np.ones((13, 11, 1))
    ).astype(np.uint8)


SMALL = {"windows": {"short_side": 64, "crop": 64, "stride": 32}, "text.templates": ("a {}.",)}
WORDS = ["cat", "dog", "grass", "sky", "car"]


def test_words_that_are_out_lose_every_pixel_and_the_others_keep_theirs(tiny_backbone, image):
    plain = Recipe("plain").but(SMALL)
    tagged = plain.but(tags={"logit_scale": 20.0})
    found = []
    for recipe in (plain, tagged):
        segmenter = Segmenter(tiny_backbone, recipe)
        text = segmenter.text(WORDS, ["wall"])
        picture = PictureInput(segmenter.prepare(image), image)
        words = segmenter.words(text)
        found.append(window_logits_of([segmenter], picture, [words], image.shape[:2])[0].full())
    out = (found[1] == DROPPED).flatten(1).all(dim=1)
    assert 0 < out.sum() < 5 and not out[0]  # the background is never out
    assert torch.equal(found[0][~out], found[1][~out])
    result = Segmenter(tiny_backbone, tagged)(image, WORDS, ["wall"], keep_scores=True)
    assert not set(np.unique(result.mask)) & set(torch.nonzero(out)[:, 0].tolist())
    assert (result.scores[out.numpy()] == 0).all() and np.isfinite(result.scores).all()


def test_dropped_words_take_no_part_in_the_maps(tiny_backbone, image):
    """The softmax of CLIP-ES runs over the words that tags keep: the same as asking for those alone."""
    recipe = (
        Recipe("tagclip")
        .but(SMALL)
        .but(
            tags={"logit_scale": 20.0, "prompts": "single"},
            clip_es={"logit_scale": 20.0},
            cam_scores=True,
        )
    )
    walls, segmenter = ["wall", "water"], Segmenter(tiny_backbone, recipe)
    words = segmenter.words(segmenter.text(WORDS, walls))
    context = WholePictureContext(
        tiny_backbone, segmenter.prepare(image), image, image.shape[:2], words
    )
    stays = recipe["tags"].keep_words(context)[2:]
    kept = [name for name, one in zip(WORDS, stays, strict=True) if one]
    assert 0 < len(kept) < 5
    result = segmenter(image, WORDS, walls, keep_scores=True)
    named = dict(zip(result.names, result.scores, strict=True))
    assert not any(named[name].any() for name in set(WORDS) - set(kept))
    alone = Segmenter(tiny_backbone, recipe.but(tags=False))(image, kept, walls, keep_scores=True)
    for name, scores in zip(alone.names, alone.scores, strict=True):
        assert np.abs(scores - named[name]).max() < 1e-3


def test_shipped_words_are_tagged_by_their_own_names_and_synonyms_share_a_tag(tiny_backbone):
    recipe = Recipe("t").but({"tags": {"names": "canonical"}, "text.names": "sclip"})
    segmenter = Segmenter(tiny_backbone, recipe)
    text = segmenter.text(Vocabulary.named("voc21", names="sclip"))
    texts = segmenter.words(text).texts[recipe["tags"]]
    assert len(texts["words"]) == 20 and texts["owner"].tolist() == list(range(1, 21))
    assert len(texts["background"]) == len(text.vocabulary.synonyms[0])
    free = segmenter.text({"dog": ["puppy"], "cat": []})
    assert segmenter.words(free).texts[recipe["tags"]]["owner"].tolist() == [0, 0, 1]


def test_every_class_of_a_picture_can_be_kept_by_any_of_its_words(tiny_backbone, image):
    recipe = Recipe("t").but(SMALL).but(tags={"logit_scale": 20.0})
    segmenter = Segmenter(tiny_backbone, recipe)
    text = segmenter.text({"animal": ["cat", "dog"], "ground": ["grass", "sky"], "car": []})
    context = WholePictureContext(
        tiny_backbone, segmenter.prepare(image), image, image.shape[:2], segmenter.words(text)
    )
    kept = recipe["tags"].keep_words(context)
    for owner in range(3):
        assert len(kept[text.query_class == owner].unique()) == 1


def test_tags_run_in_half_precision(image):
    torch.manual_seed(0)
    half = Backbone(build_model(TINY_CONFIG), name="half", weights_hash="half", precision="fp16")
    recipe = Recipe("t").but(SMALL).but(tags=True)
    result = Segmenter(half, recipe)(image, WORDS, ["wall"], keep_scores=True)
    assert np.isfinite(result.scores).all()


# -- parts and errors --------------------------------------------------------------------------------------


def test_a_box_loses_the_last_row_and_column():
    mask = np.zeros((4, 5), dtype=bool)
    assert bounding_box(mask) is None
    mask[1:3, 1:3] = True
    assert bounding_box(mask) == (1, 3, 1, 3)
    mask[3, 4] = True
    assert bounding_box(mask) == (1, 3, 1, 4)
    assert bounding_box(np.eye(4, dtype=bool)[::-1] & (np.arange(4) == 3)) is None


def test_a_word_that_all_patches_share_alike_has_no_box():
    attention = torch.full((4, 4), 0.25)
    coarse = torch.tensor([[0.5, 0.1], [0.5, 0.9], [0.5, 0.2], [0.5, 0.3]])
    first = torch.tensor([[0.5, 0.0], [0.5, 1.0], [0.5, 0.0], [0.5, 0.0]])
    refined = box_refine(coarse, first, attention, (2, 2))
    assert torch.equal(refined[:, 0], torch.zeros(4))
    # the peak lies in the last column, so its box is empty
    assert torch.equal(refined[:, 1], torch.zeros(4))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 1.0}, "tags.share=1.0"),
        ({"first_block": 0}, "blocks count from 1"),
        ({"logit_scale": -1.0}, "tags.logit_scale=-1.0"),
        ({"prompts": "many"}, "tags.prompts='many'"),
        ({"names": "mine"}, "tags.names='mine'"),
        ({"background_words": "mine"}, "tags.background_words='mine'"),
    ],
)
def test_bad_settings_are_named(values, message):
    with pytest.raises(RecipeError, match=message):
        make_settings("tags", values)


def test_blocks_that_the_tower_lacks_are_named(tiny_backbone):
    with pytest.raises(RecipeError, match="the tower has blocks 1 to 12"):
        Segmenter(tiny_backbone, Recipe("t").but(tags={"last_block": 13}))
    with pytest.raises(RecipeError, match="first_block=12"):
        Segmenter(tiny_backbone, Recipe("t").but(tags={"first_block": 12}))


def test_attention_that_does_not_fit_is_refused(tiny_backbone, tiny_inputs, monkeypatch):
    free = type("Memory", (), {"available": 1000})
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: free)
    with pytest.raises(MemoryBudgetError, match="attention between 16 patches.*smaller short_side"):
        read_patches(tiny_backbone, tiny_inputs["image_64x64"], 9, 11)
