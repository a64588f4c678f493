"""The references beside the published tables: halves of the classes, and sentences that follow the counts."""

import numpy as np
import pytest
from test_store import report

from ovsslib.errors import DataError
from ovsslib.recipe import Recipe
from ovsslib.study.references import (
    REFERENCES,
    SUPERVISED,
    halves,
    of_classes,
    reference,
    shown,
    what_masks_add,
)


def test_halves_are_means_over_their_own_classes():
    whole = report(Recipe("lseg-scenes"), seed=4)
    first, *others = whole.names
    parts = halves(whole, (first, "no such class"))
    rest = [name for name in others if name != "background"]
    assert parts["shown"].value == pytest.approx(whole.per_class[first])
    assert parts["not shown"].value == pytest.approx(whole.per_class[rest].mean())
    assert of_classes(whole, whole.names).value == pytest.approx(whole.miou)
    nothing = of_classes(whole, ("otter",))
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()


def test_a_background_is_in_neither_half():
    from dataclasses import replace

    whole = report(Recipe("lseg-scenes"), seed=4)
    others = whole.names[1:]
    named = replace(whole, names=("background", *others))
    assert halves(named, (others[0],))["not shown"].value == pytest.approx(
        named.per_class[list(others[1:])].mean()
    )
    assert halves(named, ("background",))["shown"].value == pytest.approx(
        named.per_class["background"]
    )


def test_the_sentences_follow_the_counts():
    import re
    from dataclasses import replace

    free = report(Recipe("sclip"), seed=1)
    counts = free.counts.copy()
    counts[:, 0] = np.minimum(counts[:, 1], counts[:, 2])  # as right as its areas allow
    better = replace(free, recipe=Recipe("deeplabv3-scenes"), counts=counts)
    half = replace(free, recipe=Recipe("lseg-scenes"))
    up = what_masks_add(free, better, half, (free.names[0],))
    assert len(up) == 5 and f"{better.miou - free.miou:+.1f} points" in up[0]
    assert "is ahead" in up[0] or "no difference" in up[0]
    assert f"Of {len(free.names)} classes the masks raise" in up[2]
    assert f"{free.per_class.iloc[0]:.1f} %" in up[3] and "was not shown" in up[4]
    down = what_masks_add(better, replace(free, recipe=Recipe("deeplabv3-scenes")))
    assert len(down) == 3 and f"{free.miou - better.miou:+.1f} points" in down[0]
    assert "is above" in down[0] or "no difference" in down[0]
    assert re.search(r"no difference shown", down[1])
    with pytest.raises(DataError, match="other images or classes"):
        what_masks_add(free, replace(better, dataset="another"))


@pytest.mark.parametrize("name", REFERENCES)
def test_the_shipped_ones_are_here_and_say_whose_masks_they_saw(name):
    model = reference(name)
    told = shown(name)
    assert model.about.name == name and len(told) == (34 if name == SUPERVISED else 17)
    assert model.backbone.pretrained == name and "person" in shown(SUPERVISED)
