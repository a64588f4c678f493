"""Every recipe on torch's `meta` device in fp16, up to the steps that need values (`device_cases.STOPS`)."""

import pytest
from device_cases import RECIPES, check


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RECIPES)
def test_one_device_up_to_the_named_steps(name, tiny_guide, tmp_path, monkeypatch):
    check(name, "fp16", tiny_guide, tmp_path, monkeypatch)
