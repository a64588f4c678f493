"""Drawing: determinism, masks that agree with each other, sizes, figures of every class."""

import numpy as np
import pytest

from ovsslib.errors import DataError
from ovsslib.scenes import (
    CLASSES,
    NATIVE_SIZE,
    PARTS,
    STUFF,
    THINGS,
    VIEW_CLASSES,
    VIEWS,
    contact_sheet,
    draw,
    label_colours,
)
from ovsslib.scenes.canvas import Canvas, box, limb
from ovsslib.scenes.layout import MAKERS
from ovsslib.scenes.textures import HEIGHT, WIDTH, texture, wave

SEED = 7


@pytest.fixture(scope="module")
def scenes():
    return [draw(SEED, index) for index in range(80)]


def test_same_seed_and_index_give_the_same_bytes(scenes):
    again = draw(SEED, 5)
    assert again.image.tobytes() == scenes[5].image.tobytes()
    assert again.labels.tobytes() == scenes[5].labels.tobytes()
    assert again.objects == scenes[5].objects


def test_other_index_or_seed_gives_another_picture(scenes):
    assert draw(SEED, 6).image.tobytes() != scenes[5].image.tobytes()
    assert draw(SEED + 1, 5).image.tobytes() != scenes[5].image.tobytes()


def test_shapes_and_types(scenes):
    scene = scenes[0]
    assert scene.image.shape == (*NATIVE_SIZE, 3) and scene.image.dtype == np.uint8
    assert scene.labels.shape == NATIVE_SIZE and scene.labels.dtype == np.uint8
    assert scene.instances.shape == NATIVE_SIZE and scene.instances.dtype == np.uint16
    assert scene.parts.shape == NATIVE_SIZE and scene.parts.dtype == np.uint8


def test_masks_agree_with_each_other(scenes):
    person = CLASSES.index("person")
    for scene in scenes:
        assert scene.labels.max() < len(CLASSES)
        assert np.array_equal(scene.instances > 0, scene.labels >= len(STUFF))
        assert (scene.labels[scene.parts > 0] == person).all()
        assert (scene.parts[scene.labels == person] > 0).all()
        assert scene.parts.max() < len(PARTS)
        for thing in scene.objects:
            mask = scene.instances == thing.instance
            assert mask.sum() == thing.pixels > 0
            assert (scene.labels[mask] == CLASSES.index(thing.name)).all()
        assert len({thing.instance for thing in scene.objects}) == len(scene.objects)


def test_world_is_rich(scenes):
    seen = {CLASSES[k] for scene in scenes for k in np.unique(scene.labels)}
    assert len(seen) >= 30
    shares = [thing.pixels / scene.labels.size for scene in scenes for thing in scene.objects]
    assert min(shares) < 0.004 and max(shares) > 0.4
    names = [thing.name for scene in scenes for thing in scene.objects]
    assert names.count("person") > 1.5 * len(names) / len(THINGS)
    several = [s for s in scenes if len({t.name for t in s.objects}) < len(s.objects)]
    assert several
    assert {scene.layout.kind for scene in scenes} == {"outdoor", "indoor", "patchwork", "single"}


@pytest.mark.parametrize("size", [(112, 150), (300, 200), (336, 700)])
def test_any_size_can_be_drawn(size):
    scene = draw(SEED, 3, size)
    assert scene.image.shape == (*size, 3)
    assert scene.labels.shape == scene.instances.shape == size


def test_size_keeps_the_layout():
    small, native = draw(SEED, 3, (112, 149)), draw(SEED, 3)
    assert (small.labels == native.labels[::2, ::2]).mean() > 0.95


def test_values_out_of_range_are_refused():
    with pytest.raises(DataError, match="-1"):
        draw(-1, 0)
    with pytest.raises(DataError, match="too small"):
        draw(0, 0, (16, 300))


@pytest.mark.parametrize("name", THINGS)
def test_every_thing_has_several_looks_and_a_solid_shape(name):
    rng = np.random.default_rng(0)
    outlines = set()
    for _ in range(24):
        figure = MAKERS[name](rng)
        outlines.add(tuple(len(piece.points) for piece in figure.pieces))
        left, top, right, bottom = figure.bounds
        scale = 150 / max(right - left, bottom - top)
        canvas = Canvas(np.zeros((160, 160, 3), np.uint8))
        middle = 80 - scale * (left + right) / 2, 80 - scale * (top + bottom) / 2
        canvas.put(figure, ((scale, 0), (0, scale)), middle, 1)
        covered = (canvas.instances == 1).mean()
        assert 0.08 < covered < 0.95, (name, covered)
        assert canvas.image.any()
    assert len(outlines) >= 2


def test_limbs_of_a_person_are_wider_than_a_patch():
    """Arms and legs of a person as tall as the picture are at least 1.2 patches (19 pixels) wide."""
    rng = np.random.default_rng(1)
    for _ in range(12):
        figure = MAKERS["person"](rng)
        tall = figure.bounds[3] - figure.bounds[1]
        scale = 200 / tall
        for part, least in ((3, 12.0), (4, 17.0)):
            capsules = [p.points for p in figure.pieces if p.part == part and len(p.points) == 12]
            assert capsules
            # The two ends of a half circle of a capsule are its width apart.
            widths = [np.hypot(*np.subtract(points[0], points[5])) * scale for points in capsules]
            assert min(widths) > least and max(widths) > 19.2


def test_canvas_masks_are_exact():
    canvas = Canvas(np.zeros((40, 60, 3), np.uint8))
    figure = MAKERS["ball"](np.random.default_rng(0))
    figure.pieces = [figure.pieces[0]._replace(points=box(10, 5, 29, 24), part=2)]
    canvas.put(figure, ((1, 0), (0, 1)), (0, 0), 300)
    assert (canvas.instances == 300).sum() == 20 * 20
    assert set(np.unique(canvas.parts)) == {0, 2}
    assert (canvas.instances[5:25, 10:30] == 300).all()


def test_limb_is_as_long_and_wide_as_asked():
    points = np.array(limb((0, 0), (10, 0), 2.0))
    assert points[:, 0].max() == pytest.approx(12, abs=0.1)
    assert points[:, 1].max() == pytest.approx(2, abs=0.01)


def test_textures_differ_between_seeds_and_are_larger_than_a_picture():
    one, other = texture(1, "grass", 0), texture(2, "grass", 0)
    assert one.shape == (HEIGHT, WIDTH, 3) and HEIGHT > NATIVE_SIZE[0] and WIDTH > NATIVE_SIZE[1]
    assert (one != other).any(-1).mean() > 0.5
    assert not one.flags.writeable


def test_wave_is_periodic_between_minus_one_and_one():
    phase = np.linspace(0, 3, 301, dtype=np.float32)
    assert np.allclose(wave(phase), wave(phase + 1), atol=1e-4)
    assert wave(phase).min() == pytest.approx(-1, abs=1e-3)
    assert wave(phase).max() == pytest.approx(1, abs=1e-3)


def test_views_map_every_class():
    index = np.arange(len(CLASSES))
    stuff, things = index[: len(STUFF)], index[len(STUFF) :]
    assert (VIEWS["scenes"][index] == index).all()
    assert (VIEWS["scenes-object"][stuff] == 0).all()
    assert VIEWS["scenes-object"][things].tolist() == list(range(1, len(THINGS) + 1))
    assert (VIEWS["scenes-things"][stuff] == 255).all()
    assert VIEWS["scenes-things"][things].tolist() == list(range(len(THINGS)))
    for name, table in VIEWS.items():
        assert table[255] == 255 and table.dtype == np.uint8
        kept = table[index][table[index] != 255]
        assert kept.max() == len(VIEW_CLASSES[name]) - 1


def test_contact_sheet(scenes):
    height, width = NATIVE_SIZE
    sheet = contact_sheet(scenes[:5], columns=3, gap=4)
    assert sheet.shape == (2 * (2 * height + 4), 3 * (width + 4), 3)
    assert np.array_equal(sheet[:height, :width], scenes[0].image)
    assert np.array_equal(sheet[height : 2 * height, :width], label_colours()[scenes[0].labels])
    with pytest.raises(DataError, match="at least one"):
        contact_sheet([])
