"""A tiny random model of each kind, as `save_pretrained` writes it, and a picture."""

import numpy as np
import pytest
from comparator_cases import MAKERS, save_tiny, save_tiny_deeplab, save_tiny_scenes

import ovsslib


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each kind of model."""
    root = tmp_path_factory.mktemp("models")
    made = {name: save_tiny(name, root / name) for name in MAKERS}
    made["deeplabv3"] = save_tiny_deeplab(root / "deeplabv3")
    made["deeplabv3-scenes"] = save_tiny_scenes(root / "deeplabv3-scenes")
    made["lseg-scenes"] = save_tiny_scenes(root / "lseg-scenes", words=True)
    return made


@pytest.fixture(scope="module")
def loaded(folders):
    return {name: ovsslib.load(name, pretrained=str(folder)) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 256, (5, 7, 3)), np.ones((9, 8, 1))).astype(np.uint8)  # 45 x 56
