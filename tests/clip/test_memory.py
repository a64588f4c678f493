"""Long runs give back the memory that they no longer use."""

import sys
import warnings

import numpy as np
import psutil
import pytest
from PIL import Image

import ovsslib
from ovsslib.clip import memory


def used() -> int:
    return psutil.Process().memory_info().rss


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's way of keeping memory")
def test_holes_between_blocks_that_live_on_go_back_to_the_system():
    large = np.ones(31 * 2**20, np.uint8)
    del large  # from now on glibc keeps all smaller blocks
    free = memory.FreeMemory(growth=50 * 2**20)
    before = used()
    blocks = []
    for _ in range(200):
        blocks += [np.ones(2**20, np.uint8), np.ones(2**17, np.uint8)]
    survivors = blocks[1::2]
    del blocks
    kept = used() - before
    free.between_pictures()
    assert len(survivors) == 200
    if kept < 100 * 2**20:
        pytest.skip("this C library keeps nothing")
    assert used() - before < kept / 2


def test_it_is_asked_only_once_the_process_has_grown(monkeypatch):
    asked, size = [], [100]
    monkeypatch.setattr(memory, "give_back_free_memory", lambda: asked.append(size[0]))
    monkeypatch.setattr(memory.FreeMemory, "_used", lambda self: size[0])
    free = memory.FreeMemory(growth=50)
    for size[0] in (120, 150, 151, 160, 201, 202):
        free.between_pictures()
    assert asked == [151, 202]


def test_measuring_many_and_films_look_between_their_pictures(monkeypatch, tmp_path):
    looked = []
    monkeypatch.setattr(memory.FreeMemory, "between_pictures", lambda self: looked.append(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        segment = ovsslib.load("clip", model="sceneclip")
        dataset = ovsslib.open_dataset("scenes")[:2]
        ovsslib.evaluate(segment, dataset, progress=False, store=False)
        assert len(looked) == 2
        images = [dataset[index][0] for index in range(2)]
        for index, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / f"{index}.png")
        assert len(list(segment.many(tmp_path, ["dog", "sky"]))) == 2
        assert len(looked) == 4
        assert len(list(segment.frames(images, ["dog", "sky"]))) == 2
    assert len(looked) == 6
