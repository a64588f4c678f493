"""Every recipe on torch's `meta` device in fp32, up to the steps that need values (`device_cases.STOPS`)."""

import pytest
import torch
from device_cases import ELSEWHERE, PACKAGE, RECIPES, STOPS, OneDevice, check

from ovsslib.recipe.recipe import recipe_names


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RECIPES)
def test_one_device_up_to_the_named_steps(name, tiny_guide, tmp_path, monkeypatch):
    check(name, "fp32", tiny_guide, tmp_path, monkeypatch)


def test_the_checker_sees_what_a_gpu_would_refuse():
    here, there = torch.zeros(2, 2), torch.zeros(2, 2, device="meta")
    with OneDevice():
        for wrong in (
            lambda: here @ there,
            lambda: here + there,
            lambda: there.half() @ there,
            lambda: torch.nn.functional.layer_norm(there, (2,), there[0].half()),
        ):
            with pytest.raises(AssertionError, match="on tensors of"):
                wrong()
        assert (there * torch.tensor(2.0) + here.to("meta")).device.type == "meta"


def test_every_listed_step_is_one_of_the_library():
    for step in STOPS:
        module, _, function = step.rpartition(".")
        source = (PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        assert f"def {function}(" in source, step
    assert set(ELSEWHERE) <= set(recipe_names())
