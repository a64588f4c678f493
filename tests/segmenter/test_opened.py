"""A picture opened once answers as if it were segmented anew, and without another pass over it."""

import numpy as np
import pytest
import torch

from ovsslib.book.figures.attention import attention_map
from ovsslib.errors import ImageError, OvssError, RecipeError
from ovsslib.recipe import Recipe, recipe_names
from ovsslib.segmenter import Segmenter

SMALL = {
    "windows.short_side": 64,
    "windows.crop": 64,
    "windows.stride": 32,
    "text.prompts": "single",
}
FIRST, SECOND = ["cat", "dog", "grass"], {"sky": ["clouds"], "car": None}


@pytest.fixture(scope="module")
def image():
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3))
    return np.kron(coarse, np.ones((13, 11, 1))).astype(np.uint8)


def opened_with(name, backbone, image):
    """The recipe on the tiny model, opened; skips nothing: a recipe that cannot run here gives None."""
    recipe = Recipe.named(name).but(SMALL)
    if "upsampling" in recipe:
        recipe = recipe.but(upsampling=False)  # its weights fit a real CLIP only
    try:
        segmenter = Segmenter(backbone, recipe)
        return segmenter, segmenter.open(image)
    except OvssError:
        return None


@pytest.fixture
def trunk_calls(tiny_backbone, monkeypatch):
    calls, real = [], tiny_backbone.trunk

    def counted(*arguments, **named):
        calls.append(1)
        return real(*arguments, **named)

    monkeypatch.setattr(tiny_backbone, "trunk", counted)
    return calls


# hooks whose stages may look at the picture again: for class tokens of the whole, at other scales, for crops of it
MAY_LOOK_AGAIN = (
    "on_picture_text",
    "on_window_text",
    "keep_of_trunk",
    "picture_logits",
    "on_similarity",
)


def test_every_recipe_answers_equally_and_without_another_pass(tiny_backbone, image, trunk_calls):
    ran, alone = set(), set()
    for name in recipe_names():
        found = opened_with(name, tiny_backbone, image)
        if found is None:
            continue
        segmenter, opened = found
        background = "auto" if segmenter.recipe["labels"].probability_threshold else None
        background = "auto" if segmenter.recipe["labels"].area_threshold else background
        try:
            opened(FIRST, background)
        except RecipeError as error:
            assert "table is empty" in str(error)  # naclip-floss: this model has no fitted table
            continue
        before = len(trunk_calls)
        answers = [opened(words, background, keep_scores=True) for words in (SECOND, FIRST)]
        if not any(segmenter.recipe.stages_with(hook) for hook in MAY_LOOK_AGAIN):
            assert len(trunk_calls) == before, name
            alone.add(name)
        for words, answer in zip((SECOND, FIRST), answers, strict=True):
            anew = segmenter(image, words, background, keep_scores=True)
            assert np.array_equal(answer.mask, anew.mask), name
            assert np.array_equal(answer.scores, anew.scores), name
            assert answer.names == anew.names
        assert opened.redoes_last_block == ("redoes the last block" in repr(opened)), name
        ran.add(name)
    assert len(ran) >= 20 and {"sclip", "naclip", "resclip", "itaclip"} <= alone


def test_which_recipes_redo_the_last_block(tiny_backbone, image):
    for name, redoes in (("sclip", False), ("naclip", False), ("resclip", True)):
        assert opened_with(name, tiny_backbone, image)[1].redoes_last_block is redoes


def test_features_are_kept_and_neither_logits_nor_trunk_results(tiny_backbone, image):
    segmenter, opened = opened_with("sclip", tiny_backbone, image)
    windows = len(segmenter.windows.boxes(64, 76))
    features = windows * 24 * 4 * 4 * 4  # windows of 4 x 4 patches, 24 numbers of 4 bytes
    picture = 3 * 64 * 76 * 4
    assert opened.bytes_kept <= 1.02 * (features + picture)
    kept = opened.bytes_kept
    opened(FIRST)
    assert opened.bytes_kept <= kept + len(FIRST) * (24 * 4 + 8)  # the rows of the last words


def test_features_of_the_picture(tiny_backbone, image):
    segmenter, opened = opened_with("naclip", tiny_backbone, image)
    assert opened.features.shape == (4, 5, 24) and opened.features.dtype == torch.float32
    whole = Segmenter(tiny_backbone, segmenter.recipe.but({"windows.crop": 0}))
    expected = whole.features(whole.prepare(image)[None])[0]
    torch.testing.assert_close(whole.open(image).features, expected, rtol=1e-4, atol=1e-5)
    still = Segmenter(
        tiny_backbone, segmenter.recipe.but({"windows.stride": 64, "windows.short_side": 128})
    )
    wide = still.open(np.tile(image[:64, :64], (1, 2, 1)))  # 128 x 256 pixels: windows side by side
    windows = still.features(still.prepare(wide.image)[None, :, :64, 64:128])[0]
    torch.testing.assert_close(wide.features[:4, 4:8], windows, rtol=1e-4, atol=1e-5)
    with pytest.raises(RecipeError, match="depend on the words"):
        _ = opened_with("resclip", tiny_backbone, image)[1].features


def test_similarity_is_the_logit_of_the_word(tiny_backbone, image):
    _, opened = opened_with("sclip", tiny_backbone, image)
    one = opened.similarity("dog")
    assert one.shape == image.shape[:2] and one.dtype == np.float32 and np.abs(one).max() <= 1
    other = opened.similarity("cat")
    mask = opened(["dog", "cat"]).mask
    assert np.array_equal(mask == 1, other > one)


def test_attention_is_that_of_the_book_and_is_computed_once(tiny_backbone, image, trunk_calls):
    segmenter, opened = opened_with("naclip", tiny_backbone, image)
    expected = attention_map(segmenter, image, (1, 2))
    np.testing.assert_array_equal(opened.attention((1, 2)), expected)
    before = len(trunk_calls)
    assert opened.attention((0, 3), head=1).shape == expected.shape
    np.testing.assert_array_equal(
        opened.attention(pixel=(20, 40)), opened.attention(opened.patch_at((20, 40)))
    )
    assert len(trunk_calls) == before
    np.testing.assert_array_equal(
        opened.attention((1, 2), layer=3), attention_map(segmenter, image, (1, 2), layer=3)
    )


def test_a_pixel_belongs_to_the_patch_under_it(tiny_backbone, image):
    _, opened = opened_with("sclip", tiny_backbone, image)
    assert opened.patch_at((0, 0)) == (0, 0)
    assert opened.patch_at((image.shape[0] - 1, image.shape[1] - 1)) == tuple(
        n - 1 for n in opened.patch_grid
    )


def test_bad_questions_are_refused(tiny_backbone, image):
    _, opened = opened_with("sclip", tiny_backbone, image)
    for question in (
        {"patch": (9, 0)}, {"pixel": (500, 0)}, {}, {"patch": (0, 0), "pixel": (0, 0)},
        {"patch": (0, 0), "head": 99}, {"patch": (0, 0), "layer": 99},
    ):  # fmt: skip
        with pytest.raises(RecipeError):
            opened.attention(**question)
    with pytest.raises(ImageError):
        opened.segmenter.open("nothing.jpg")
