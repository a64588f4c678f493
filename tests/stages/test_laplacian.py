"""PEARL's Laplacian propagation against outputs recorded from its official code, and against a
dense solution.
"""

import numpy as np
import pytest
import torch
from conftest import relative_error, vectors
from torch.nn import functional as F

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages.laplacian import (
    LaplacianSettings,
    block_mean,
    edge_weights,
    propagate,
    solve,
    support,
    text_coupling,
    trust_of,
)

PEARL = vectors("pearl")
CASES = [
    (key.split("__")[1].removeprefix("grid"), key.split("__")[2])
    for key in PEARL
    if "propagated" in key
]


@pytest.mark.parametrize(("grid", "size"), CASES)
def test_propagation_agrees_with_the_official_code(grid, size, tiny_inputs):
    logits = PEARL[f"logits__{size}"] * (10 if grid.endswith("x10") else 1)
    ours = propagate(
        logits, tiny_inputs[f"image_{size}"], tiny_inputs["text"], int(grid.split("_")[0])
    )
    assert relative_error(ours, PEARL[f"propagated__grid{grid}__{size}"]) < 1e-4


def test_each_step_agrees_with_the_official_code(tiny_inputs):
    small = block_mean(PEARL["logits__80x112"][0], 20)
    picture = block_mean(tiny_inputs["image_80x112"][0], 20)
    coupling = text_coupling(tiny_inputs["text"], 0.5, 10.0)
    assert relative_error(coupling, PEARL["text_similarity"]) < 1e-4
    known = small.softmax(dim=0)
    supported = support(coupling, known, "diagonal")
    trust = trust_of(known, supported)
    assert relative_error(trust, PEARL["trust__grid20__80x112"][0, 0]) < 1e-4
    across, down = edge_weights(picture, known, supported, 5.0)
    # the release keeps a first column and row that nothing reads
    assert relative_error(across, PEARL["edges_horizontal__grid20__80x112"][0, 0, :, 1:]) < 1e-4
    assert relative_error(down, PEARL["edges_vertical__grid20__80x112"][0, 0, 1:]) < 1e-4


def test_conjugate_gradients_reach_the_solution_of_the_dense_system():
    rng = torch.Generator().manual_seed(0)
    data = torch.randn(3, 4, 5, generator=rng)
    trust = torch.rand(4, 5, generator=rng) + 0.5
    across, down = torch.rand(4, 4, generator=rng), torch.rand(3, 5, generator=rng)
    system = torch.diag(trust.flatten()).double()
    pairs = [((y, x), (y, x + 1), across[y, x]) for y in range(4) for x in range(4)]
    pairs += [((y, x), (y + 1, x), down[y, x]) for y in range(3) for x in range(5)]
    for (y, x), (v, u), weight in pairs:
        i, j = y * 5 + x, v * 5 + u
        system[i, i] += weight
        system[j, j] += weight
        system[i, j] -= weight
        system[j, i] -= weight
    exact = torch.linalg.solve(system, (trust * data).flatten(1).double().T).T.reshape(3, 4, 5)
    assert relative_error(solve(data, trust, across, down, 60), exact) < 1e-5
    torch.testing.assert_close(solve(data, trust, across, down, 0), data)


def test_full_coupling_is_another_thing_where_words_support_each_other(tiny_inputs):
    text = F.normalize(tiny_inputs["text"] + 2 * tiny_inputs["text"].mean(dim=0), dim=-1)
    args = (20 * PEARL["logits__80x112"], tiny_inputs["image_80x112"], text, 40)
    apart, together = (propagate(*args, couple, diagonal=0.0) for couple in ("diagonal", "full"))
    assert relative_error(apart, together) > 1e-3


def test_rows_of_groups_do_not_move_the_words(tiny_inputs):
    logits = PEARL["logits__80x112"]
    more = torch.cat([logits, -3 * logits[:, :2]], dim=1)
    args = (tiny_inputs["image_80x112"], tiny_inputs["text"])
    ours = propagate(more, *args, 30)
    assert ours.shape == (1, 8, 80, 112)
    assert torch.equal(ours[:, :6], propagate(logits, *args, 30))
    assert not torch.equal(ours[:, 6:], more[:, 6:])


def test_edges_stop_what_crosses_them():
    picture = torch.zeros(1, 3, 8, 12)
    picture[..., 6:] = 2.0
    logits = torch.zeros(1, 2, 8, 12)
    logits[0, 0, :, :6] = 0.3
    logits[0, 1, :, 6:] = 0.3
    logits[0, :, 2, 2] = logits[0, :, 2, 2].flip(0)
    text = torch.eye(2)
    ours = propagate(logits, picture, text)
    assert ours[0, 0, 2, 2] > ours[0, 1, 2, 2]
    assert (ours.argmax(dim=1)[0] == (torch.arange(12) >= 6).long()).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (90, 3), (7, 5)])
def test_pictures_of_any_shape(size):
    logits = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(2))
    picture = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(3))
    ours = propagate(logits, picture, torch.eye(3), 20)
    assert ours.shape == logits.shape and ours.isfinite().all()


def test_it_changes_masks_of_another_base(tiny_backbone):
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    recipe = Recipe.named("clearclip").but({"windows.short_side": 64})
    masks = [
        Segmenter(tiny_backbone, recipe.but(laplacian=on))(image, ["cat", "dog", "sky"]).mask
        for on in (False, True)
    ]
    assert (masks[0] != masks[1]).any()


def test_bad_values_are_refused():
    for values in ({"grid": 0}, {"text_temperature": 0.0}, {"edge": -1.0}, {"iterations": -1}):
        with pytest.raises(RecipeError, match=f"laplacian.{next(iter(values))}="):
            LaplacianSettings(**values)
    with pytest.raises(RecipeError, match="other sizes"):
        propagate(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 8, 8), torch.eye(2))
