import numpy as np
import pytest
from editing_cases import NAMES, dog_on_grass, picture
from PIL import Image

from ovsslib.editing import edits as editing
from ovsslib.errors import DataError, ImageError, RecipeError, WordsError
from ovsslib.images.segmentation import Segmentation


@pytest.fixture
def result() -> Segmentation:
    return dog_on_grass()


# -- masks ----------------------------------------------------------------------------------------


def test_mask_is_the_words_pixels(result):
    mask = editing.mask_for(result, "dog")
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(mask == 1, result.mask == 1)
    assert mask.sum() == 216


def test_largest_piece(result):
    mask = editing.mask_for(result, "dog", component="largest")
    assert mask.sum() == 200 and not mask[38:42].any()


def test_confident_pixels_only(result):
    mask = editing.mask_for(result, "dog", confidence=0.5)
    np.testing.assert_array_equal(mask == 1, (result.mask == 1) & (result.scores[1] >= 0.5))


def test_growing_is_by_a_disc_and_shrinking_undoes_it():
    mask = np.zeros((41, 41), dtype=np.int32)
    mask[20, 20] = 1
    single = Segmentation(mask, ["rest", "dot"])
    rows, columns = np.mgrid[:41, :41]
    disc = (rows - 20) ** 2 + (columns - 20) ** 2 <= 25
    grown = editing.mask_for(single, "dot", grow=5)
    np.testing.assert_array_equal(grown == 1, disc)
    larger = Segmentation(disc.astype(np.int32), ["rest", "dot"])
    assert editing.mask_for(larger, "dot", grow=-3)[20, 20] == 1
    assert editing.mask_for(larger, "dot", grow=-3).sum() < disc.sum()


def test_nothing_shrinks_from_the_border_of_the_picture():
    mask = np.zeros((10, 20), dtype=np.int32)
    mask[:, 10:] = 1
    shrunk = editing.mask_for(Segmentation(mask, ["left", "right"]), "right", grow=-2)
    np.testing.assert_array_equal(shrunk == 1, np.arange(20)[None] >= np.full((10, 1), 12))


def test_feather_falls_from_one_to_exactly_zero(result):
    hard = editing.mask_for(result, "dog", component="largest")
    soft = editing.mask_for(result, "dog", component="largest", feather=4)
    assert (soft[hard == 1] == 1).all()
    row = soft[15, 39:48]  # along a straight edge, pixel by pixel outwards
    expected = 0.5 + 0.5 * np.cos(np.pi * np.arange(9) / 5)
    np.testing.assert_allclose(row[:5], expected[:5], atol=1e-6)
    assert (row[5:] == 0).all()


def test_words_that_cannot_be_edited(result):
    with pytest.raises(WordsError, match="'cat' is not among.*'dog', 'grass', 'unicorn'"):
        editing.mask_for(result, "cat")
    with pytest.raises(WordsError, match="no pixel of 'unicorn'.*'grass', 'background', 'dog'$"):
        editing.mask_for(result, "unicorn")
    with pytest.raises(WordsError, match="left after grow=-9"):
        editing.mask_for(result, "dog", grow=-9)
    with pytest.raises(WordsError, match="left after confidence=0.9"):
        editing.mask_for(result, "dog", confidence=0.9)


@pytest.mark.parametrize(
    "settings", [{"component": "biggest"}, {"feather": -1}, {"grow": np.nan}, {"confidence": 80}]
)
def test_settings_out_of_range(result, settings):
    with pytest.raises(RecipeError, match=next(iter(settings))):
        editing.mask_for(result, "dog", **settings)


def test_confidence_needs_scores(result):
    bare = Segmentation(result.mask, NAMES)
    with pytest.raises(DataError, match="keep_scores=True"):
        editing.mask_for(bare, "dog", confidence=0.5)


def test_surrounding_words(result):
    mask = editing.mask_for(result, "dog", component="largest", feather=2)
    assert editing.surrounding_words(result, mask) == ["grass"]  # a background is no word to paint
    far = editing.surrounding_words(result, editing.mask_for(result, "dog", grow=1), reach=60)
    assert far == ["grass"]


# -- edits without a model ------------------------------------------------------------------------

OFFLINE = {
    "recolour": lambda image, mask: editing.recolour(image, mask, "teal"),
    "blur": editing.blur,
    "grey_out": editing.grey_out,
}
BACKGROUNDS = ["blur", "grey", "#204060", (1, 2, 3), picture(20, 90)]


@pytest.mark.parametrize("name", OFFLINE)
def test_outside_the_mask_every_byte_stays(result, name):
    mask = editing.mask_for(result, "dog", feather=3)
    edited = OFFLINE[name](result.image, mask)
    assert edited.dtype == np.uint8 and edited.shape == result.image.shape
    np.testing.assert_array_equal(edited[mask == 0], result.image[mask == 0])
    assert (edited[mask == 1] != result.image[mask == 1]).any(axis=1).mean() > 0.9


@pytest.mark.parametrize("fill", BACKGROUNDS, ids=str)
def test_background_leaves_the_object_alone(result, fill):
    mask = editing.mask_for(result, "dog", feather=3)
    edited = editing.background(result.image, mask, fill)
    np.testing.assert_array_equal(edited[mask == 1], result.image[mask == 1])
    assert (edited[mask == 0] != result.image[mask == 0]).any(axis=1).mean() > 0.9


def test_background_from_a_file_is_the_picture_itself(result, tmp_path):
    other = picture(45, 61)[::-1].copy()
    Image.fromarray(other).save(tmp_path / "beach.png")
    mask = editing.mask_for(result, "dog")
    for fill in (tmp_path / "beach.png", str(tmp_path / "beach.png")):
        edited = editing.background(result.image, mask, fill)
        np.testing.assert_array_equal(edited[mask == 0], other[mask == 0])


def test_recolour_takes_the_hue_and_keeps_the_shading():
    shades = np.linspace(60, 200, 50).astype(np.uint8)
    image = np.repeat(shades[None, :, None], 3, axis=2).repeat(4, axis=0)
    edited = editing.recolour(image, np.ones((4, 50)), (200, 30, 30), lightness=0).astype(int)
    assert (edited[..., 0] > edited[..., 1] + 40).all()
    assert (np.diff(edited[0].sum(axis=1)) >= 0).all()
    flat = np.full((4, 50, 3), 128, dtype=np.uint8)
    exact = editing.recolour(flat, np.ones((4, 50)), (200, 30, 30), lightness=1)
    assert np.abs(exact.astype(int) - (200, 30, 30)).max() <= 1


def test_blur_does_not_bleed_over_the_edge():
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    image[:, :20] = 200
    mask = np.zeros((40, 40), dtype=bool)
    mask[:, :20] = True
    np.testing.assert_array_equal(editing.blur(image, mask, sigma=6), image)


def test_grey_has_equal_channels(result):
    edited = editing.grey_out(result.image, editing.mask_for(result, "dog"))
    assert (np.ptp(edited[result.mask == 1], axis=1) == 0).all()


def test_half_weight_is_half_the_edit():
    image, changed = np.full((2, 2, 3), 100, np.uint8), np.full((2, 2, 3), 200.0)
    assert (editing.blend(image, changed, np.full((2, 2), 0.5)) == 150).all()


def test_soft_rims_lie_between_before_and_after(result):
    hard, soft = np.ones((45, 61)), editing.mask_for(result, "dog", feather=6)
    for edit in (editing.grey_out, lambda image, mask: editing.recolour(image, mask, "teal", 0)):
        after, edited = edit(result.image, hard), edit(result.image, soft)
        low, high = np.minimum(result.image, after), np.maximum(result.image, after)
        assert ((low <= edited) & (edited <= high)).all()
    other = picture(45, 61)[::-1].copy()
    edited = editing.background(result.image, soft, other)
    low, high = np.minimum(result.image, other), np.maximum(result.image, other)
    assert ((low <= edited) & (edited <= high)).all()


def test_masks_that_cannot_be_used(result):
    image = result.image
    with pytest.raises(ImageError, match="the mask is empty"):
        editing.blur(image, np.zeros((45, 61)))
    with pytest.raises(ImageError, match=r"must be \(45, 61\)"):
        editing.blur(image, np.ones((61, 45)))
    with pytest.raises(ImageError, match="divide an 8-bit mask by 255"):
        editing.grey_out(image, np.full((45, 61), 255, np.uint8))
    with pytest.raises(ImageError, match="covers the whole picture"):
        editing.background(image, np.ones((45, 61)))


@pytest.mark.parametrize(
    ("colour", "value"),
    [
        ((255, 255, 255), 255),
        (np.array([255, 255, 255]), 255),
        (np.array([254.6, 254.6, 254.6]), 255),
        ([1, 1, 1], 1),
        ((0.0, 0.0, 0.0), 0),
        ("white", 255),
        ("#fff", 255),
        ("#ffffffff", 255),
        ("rgb(100%, 100%, 100%)", 255),
    ],
)
def test_the_colour_that_was_asked_for(result, colour, value):
    mask = editing.mask_for(result, "dog")
    edited = editing.background(result.image, mask, colour)
    assert (edited[mask == 0] == value).all()


@pytest.mark.parametrize("colour", [(1.0, 1.0, 1.0), np.ones(3), (0.2, 0.4, 0.6), (1, 0.5, 0)])
def test_a_colour_on_another_scale_is_no_black(result, colour):
    mask = editing.mask_for(result, "dog")
    for edit in (editing.background, editing.recolour):
        with pytest.raises(ImageError, match=r"scale of 0 to 1; colours are 0 to 255 here: \("):
            edit(result.image, mask, colour)


def test_a_see_through_colour_is_refused(result):
    for colour in ("#ff000080", "rgba(255, 0, 0, 10)"):
        with pytest.raises(ImageError, match="see-through"):
            editing.background(result.image, editing.mask_for(result, "dog"), colour)


@pytest.mark.parametrize("path", ["beach.jpg", "no/such/beach", "~/beach.png"])
def test_a_missing_background_is_no_colour(result, path):
    with pytest.raises(ImageError, match="beach") as told:
        editing.background(result.image, editing.mask_for(result, "dog"), path)
    assert "colour" not in str(told.value)


@pytest.mark.parametrize(
    "colour", ["greenish", (1, 2), (0, 0, 300), 7, ("1", "2", "3"), (0, 0, float("nan")), None]
)
def test_what_is_no_colour(result, colour):
    with pytest.raises(ImageError, match="colour"):
        editing.recolour(result.image, editing.mask_for(result, "dog"), colour)


def test_painting_settings_need_a_prompt(result):
    with pytest.raises(RecipeError, match="seed belong to painting"):
        editing.background(result.image, editing.mask_for(result, "dog"), "blur", seed=3)
