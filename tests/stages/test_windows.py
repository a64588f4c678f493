"""Sliding windows: where they lie, and the stitch against a plain accumulate-and-divide loop."""

import math

import cv2
import numpy as np
import pytest
import torch
from conftest import relative_error, vectors
from PIL import Image
from torch.nn import functional as F

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter, window_logits_of
from ovsslib.stages.windows import Stitched, WindowSettings


def official_stitch(pixels, cells_of, crop, stride, size):
    """The released loop: upsample each window, add it up, divide by the counts, resize."""
    height, width = pixels.shape[-2:]
    rows = max(height - crop + stride - 1, 0) // stride + 1
    columns = max(width - crop + stride - 1, 0) // stride + 1
    total, count = None, torch.zeros(1, 1, height, width)
    for row in range(rows):
        for column in range(columns):
            bottom, right = min(row * stride + crop, height), min(column * stride + crop, width)
            top, left = max(bottom - crop, 0), max(right - crop, 0)
            window = pixels[None, :, top:bottom, left:right]
            logits = F.interpolate(cells_of(window), window.shape[-2:], mode="bilinear")
            if total is None:
                total = torch.zeros(1, logits.shape[1], height, width)
            total[:, :, top:bottom, left:right] += logits
            count[:, :, top:bottom, left:right] += 1
    return F.interpolate(total / count, size, mode="bilinear")[0]


def cells(patch):
    """A stand-in for a model: averages over patches, pixels beyond the last patch are not seen."""

    def of(window):
        h, w = (side // patch for side in window.shape[-2:])
        pooled = F.avg_pool2d(window[..., : h * patch, : w * patch], patch)
        return torch.cat([pooled, pooled[:, :1] * pooled[:, 1:2]], dim=1)

    return of


def test_stitch_equals_the_recorded_official_result():
    recorded = vectors("sclip_slide")
    pixels = recorded["img"][0]
    settings = WindowSettings(short_side=60, crop=32, stride=20)
    grid = settings.boxes(60, 90)

    def window_function(crop):
        pooled = F.adaptive_avg_pool2d(crop, (crop.shape[-2] // 16, crop.shape[-1] // 16))
        return torch.stack([pooled[:, 0], pooled[:, 1] * pooled[:, 2]], dim=1)

    ours = Stitched(window_function(grid.crops(pixels)), grid, (75, 113)).full()
    assert relative_error(ours[None], recorded["out_stride20_crop32_to_75x113"]) < 1e-5


@pytest.mark.parametrize(
    ("height", "width", "crop", "stride", "size"),
    [
        (48, 64, 32, 16, (48, 64)),
        (48, 64, 32, 16, (75, 131)),
        (50, 71, 32, 12, (200, 300)),
        (33, 32, 32, 7, (20, 11)),
        (32, 32, 32, 16, (32, 32)),
        (20, 90, 32, 16, (45, 201)),  # one side shorter than the crop
        (20, 21, 32, 16, (40, 42)),  # both shorter: one window
        (37, 53, 20, 20, (37, 53)),  # no overlap but at the shifted last windows
    ],
)
def test_stitch_equals_the_plain_loop(height, width, crop, stride, size):
    pixels = torch.randn(3, height, width, generator=torch.Generator().manual_seed(height))
    grid = WindowSettings(short_side=32, crop=crop, stride=stride).boxes(height, width)
    ours = Stitched(cells(4)(grid.crops(pixels)), grid, size).full()
    expected = official_stitch(pixels, cells(4), crop, stride, size)
    assert ours.dtype == torch.float32
    assert relative_error(ours, expected) < 1e-5


def test_whole_picture_is_one_stretched_window():
    pixels = torch.randn(3, 21, 30, generator=torch.Generator().manual_seed(0))
    grid = WindowSettings(short_side=16, crop=0).boxes(21, 30)
    assert len(grid) == 1 and torch.equal(grid.crops(pixels)[0], pixels)
    logits = cells(4)(pixels[None])
    expected = F.interpolate(
        F.interpolate(logits, (21, 30), mode="bilinear"), (50, 70), mode="bilinear"
    )
    assert relative_error(Stitched(logits, grid, (50, 70)).full(), expected[0]) < 1e-5


def test_strips_equal_the_whole():
    grid = WindowSettings(short_side=48, crop=32, stride=16).boxes(48, 70)
    stitched = Stitched(torch.randn(len(grid), 5, 8, 8), grid, (101, 67))
    strips = [stitched.rows(start, min(start + 13, 101)) for start in range(0, 101, 13)]
    torch.testing.assert_close(torch.cat(strips, dim=1), stitched.full(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [10, 224, 225, 336, 337, 448, 1000])
@pytest.mark.parametrize("stride", [28, 112, 224])
def test_windows_cover_every_pixel_and_none_is_needless(side, stride):
    grid = WindowSettings(crop=224, stride=stride).boxes(side, 300)
    crop = grid.size[0]
    assert crop == min(224, side)
    assert grid.tops[0] == 0 and grid.tops[-1] + crop == side
    assert all(b - a <= stride for a, b in zip(grid.tops, grid.tops[1:], strict=False))
    assert len(grid.tops) == math.ceil(max(side - 224, 0) / stride) + 1


@pytest.mark.parametrize(
    "values",
    [
        {"crop": -1},
        {"stride": 0},
        {"crop": 100, "stride": 101},
        {"short_side": 8},
        {"short_side": 400, "long_side": 300},
    ],
)
def test_impossible_windows_are_refused(values):
    with pytest.raises(RecipeError, match="windows"):
        WindowSettings(**values)


def test_whole_pictures_may_be_squeezed_and_enlarged_at_once(tiny_backbone):
    picture = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    base = Recipe("whole").but(windows={"short_side": 64, "crop": 0}, text={"templates": ("{}",)})
    assert base["windows"].resized(picture).shape == (64, 96, 3)
    squeezed = base.but(windows={"square": True})
    segmenter = Segmenter(tiny_backbone, squeezed)
    pixels = segmenter.prepare(picture)
    assert pixels.shape == (3, 64, 64)
    text = segmenter.text(["cat", "dog", "sky"])
    cells = F.normalize(segmenter.features(pixels[None]), dim=-1) @ text.features.T
    cells = cells.permute(0, 3, 1, 2)
    twice = F.interpolate(
        F.interpolate(cells, (64, 64), mode="bilinear"), (60, 90), mode="bilinear"
    )
    once = F.interpolate(cells, (60, 90), mode="bilinear")
    for direct, expected in ((False, twice), (True, once)):
        made = Segmenter(tiny_backbone, squeezed.but({"windows.direct": direct}))
        stitched = window_logits_of([made], pixels, [text.features], (60, 90))[0].full()
        assert relative_error(stitched[None], expected) < 1e-5
    assert relative_error(once, twice) > 1e-3
    cut = squeezed.but(windows={"direct": True, "crop": 32, "stride": 16})
    assert set(cut.inert()) == {"windows.direct"}
    plain = window_logits_of([Segmenter(tiny_backbone, cut)], pixels, [text.features], (60, 90))
    other = Segmenter(tiny_backbone, cut.but({"windows.direct": False}))
    same = window_logits_of([other], pixels, [text.features], (60, 90))
    assert torch.equal(plain[0].full(), same[0].full())


def test_bicubic_is_pillows_and_bilinear_opencvs():
    picture = np.random.default_rng(0).integers(0, 256, (120, 180, 3), dtype=np.uint8)
    bicubic = WindowSettings(short_side=32, square=True, resampling="bicubic").resized(picture)
    expected = Image.fromarray(picture).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.array_equal(bicubic, np.asarray(expected))
    bilinear = WindowSettings(short_side=32).resized(picture)
    assert np.array_equal(bilinear, cv2.resize(picture, (48, 32), interpolation=cv2.INTER_LINEAR))
