import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from ovsslib.errors import DataError, ImageError, WordsError
from ovsslib.images import palette
from ovsslib.images.segmentation import Segmentation

NAMES = ["background", "dog", "grass", "unicorn"]


@pytest.fixture
def result() -> Segmentation:
    mask = np.zeros((40, 60), dtype=np.int64)
    mask[:, 20:] = 2
    mask[10:20, 30:40] = 1
    scores = np.zeros((4, 40, 60), dtype=np.float32)
    scores[1] = 0.25
    scores[2, :, :] = np.linspace(0, 1, 60)
    image = np.full((40, 60, 3), 100, dtype=np.uint8)
    return Segmentation(mask, NAMES, scores, image, recipe="sclip", model="sceneclip")


def test_table_counts_pixels_and_averages_scores(result):
    rows = result.table().set_index("name")
    assert list(rows.index) == ["grass", "background", "dog"]
    assert rows["pixels"].to_dict() == {"grass": 1500, "background": 800, "dog": 100}
    assert rows["share"].sum() == pytest.approx(100)
    assert rows.loc["dog", "score"] == pytest.approx(0.25)
    assert rows.loc["grass", "score"] == pytest.approx(
        result.scores[2][result.mask == 2].mean(), rel=1e-5
    )
    assert rows.loc["grass", "colour"] == palette.to_hex(palette.class_colours(["grass"])[0])


def test_table_can_list_words_without_a_pixel(result):
    rows = result.table(all_words=True)
    assert rows.iloc[-1]["name"] == "unicorn" and rows.iloc[-1]["pixels"] == 0
    assert np.isnan(rows.iloc[-1]["score"])


def test_table_without_scores_has_no_score_column(result):
    assert "score" not in dataclasses.replace(result, scores=None).table()


def test_mask_of_a_word(result):
    assert result.mask_of("dog").sum() == 100 and result.mask_of("dog").dtype == bool
    assert not result.mask_of("unicorn").any()
    with pytest.raises(WordsError, match="'cat' is not among.*'background', 'dog', 'grass'"):
        result.mask_of("cat")


def test_plain_overlay_is_the_exact_blend(result):
    drawn = np.asarray(result.overlay(opacity=0.5, legend=False)).astype(int)
    expected = (result.colours[result.mask].astype(int) + 100) / 2
    assert drawn.shape == (40, 60, 3)
    assert np.abs(drawn - expected).max() <= 0.5
    np.testing.assert_array_equal(result.overlay(opacity=0, legend=False), result.image)


def test_opacity_out_of_range_is_refused(result):
    with pytest.raises(ImageError, match="between 0 and 1, not 1.5"):
        result.overlay(opacity=1.5)


def legend_swatches(drawn: Image.Image, below: int, colours: np.ndarray) -> int:
    """How many of the colours fill a swatch in the part of the sheet below the picture."""
    part = np.asarray(drawn)[below:].reshape(-1, 3)
    return sum(int((part == colour).all(1).sum() > 100) for colour in colours)


@pytest.mark.parametrize("count", [1, 2, 9, 40])
def test_legend_shows_every_present_word(count):
    mask = np.repeat(np.arange(count, dtype=np.int32), 6)[None].repeat(60, axis=0)
    mask = np.pad(mask, ((0, 0), (0, max(0, 120 - mask.shape[1]))), mode="edge")
    names = [f"word {number}" for number in range(count)]
    result = Segmentation(mask, names, image=np.zeros((*mask.shape, 3), np.uint8))
    drawn = result.overlay()
    width, height = drawn.size
    picture_height = round(mask.shape[0] * width / mask.shape[1])
    assert width >= 560 and height > picture_height
    assert legend_swatches(drawn, picture_height, result.colours) == count


def test_legend_leaves_absent_words_out_unless_asked(result):
    below = round(40 * 560 / 60)
    unicorn = palette.class_colours(NAMES)[3:]
    assert legend_swatches(result.overlay(), below, unicorn) == 0
    assert legend_swatches(result.overlay(all_words=True), below, unicorn) == 1


def test_legend_stands_beside_an_upright_picture_and_long_words_are_shortened():
    mask = np.zeros((300, 100), dtype=np.int32)
    mask[:150] = 1
    drawn = Segmentation(mask, ["a " + "very " * 60 + "long word", "sky"]).overlay()
    assert drawn.size[1] == 560 and 187 < drawn.size[0] < 1000


def test_shows_itself_with_an_alternative_text(result):
    data, metadata = result._repr_mimebundle_()
    assert Image.open(io.BytesIO(data["image/png"])).size == result.overlay().size
    assert "grass 62.5 %" in metadata["image/png"]["alt"] and "grass 62.5 %" in data["text/plain"]
    assert Image.open(io.BytesIO(result._repr_png_())).format == "PNG"
    assert "sceneclip with sclip" in repr(result) and "unicorn" not in repr(result)


def test_show_displays_the_picture_in_a_notebook(result, monkeypatch):
    import IPython
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    monkeypatch.setattr(IPython.display, "display", lambda data, **more: shown.append((data, more)))
    result.show(legend=False)
    [(data, more)] = shown
    assert Image.open(io.BytesIO(data["image/png"])).size == (60, 40)
    assert more["metadata"]["image/png"]["alt"].startswith("Segmentation overlay")


def test_show_opens_the_picture_outside_a_notebook(result, monkeypatch):
    opened = []
    monkeypatch.setattr(Image.Image, "show", lambda self, title=None: opened.append(self.size))
    result.show(legend=False)
    assert opened == [(60, 40)]


def test_save_writes_an_index_png_in_the_palette(result, tmp_path):
    path = result.save(tmp_path / "out.png")
    saved = Image.open(path)
    assert saved.mode == "P"
    np.testing.assert_array_equal(np.asarray(saved), result.mask)
    np.testing.assert_array_equal(np.asarray(saved.convert("RGB")), result.colours[result.mask])
    assert [item.name for item in tmp_path.iterdir()] == ["out.png"]


def test_save_uses_16_bits_past_256_words(tmp_path):
    mask = np.arange(300, dtype=np.int32).reshape(15, 20)
    path = Segmentation(mask, [f"word {number}" for number in range(300)]).save(
        tmp_path / "many.png"
    )
    saved = Image.open(path)
    assert saved.mode.startswith("I")
    np.testing.assert_array_equal(np.asarray(saved), mask)


def test_save_refuses_what_it_cannot_write(result, tmp_path):
    with pytest.raises(DataError, match="no such|folder that exists"):
        result.save(tmp_path / "missing" / "out.png")
    with pytest.raises(DataError, match=r"must end in \.png"):
        result.save(tmp_path / "out.jpg")
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(DataError, match="cannot write"):
        result.save(tmp_path / "taken.png")
    assert [item.name for item in tmp_path.iterdir()] == ["taken.png"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mask": np.full((40, 60), 4)}, WordsError, "labels 4 to 4 but there are 4 words"),
        ({"mask": np.full((40, 60), -1)}, WordsError, "labels -1"),
        ({"mask": np.zeros((40, 60))}, ImageError, "whole numbers"),
        ({"scores": np.zeros((3, 40, 60), np.float32)}, ImageError, "scores must be"),
        ({"image": np.zeros((40, 61, 3), np.uint8)}, ImageError, "picture must be"),
    ],
)
def test_parts_that_do_not_fit_are_refused(result, change, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(result, **change)


def test_it_cannot_be_changed(result):
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.mask = None
    assert result.mask.dtype == np.int32


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["dog", "dog"], "two labels are called 'dog'"),
        ([1, 2], "1 is no name of a word; write it as text, such as '1'"),
        ("ab", "names='ab': give a list"),
    ],
)
def test_names_that_nobody_could_ask_for_are_refused(names, message):
    with pytest.raises(WordsError, match=message):
        Segmentation(np.zeros((4, 4), dtype=np.int32), names)


def test_a_word_with_a_line_break_is_drawn():
    mask = np.zeros((40, 40), dtype=np.int32)
    drawn, plain = (Segmentation(mask, [name]).overlay() for name in ("a\nred\tdog", "a red dog"))
    assert drawn.size == plain.size


def test_thresholds_and_tolerances_are_checked():
    mask = np.zeros((4, 4), dtype=np.int32)
    made = Segmentation(mask, ["dog"], margin=np.full((4, 4), 0.3))
    assert made.uncertain_below(0.4)["(picture)"] == 100
    for threshold in (float("nan"), -1, 5):
        with pytest.raises(DataError, match="a margin lies between 0 and 1"):
            made.uncertain_below(threshold)
    for tolerance in (float("nan"), -1, float("inf")):
        with pytest.raises(ImageError, match="tolerance=.*at least 0"):
            made.to_polygons(tolerance)
    with pytest.raises(ImageError, match=r"margin must be \(4, 4\)"):
        Segmentation(mask, ["dog"], margin=[1.0])
