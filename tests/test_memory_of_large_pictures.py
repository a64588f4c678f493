"""A large picture with 171 words through methods with a second model: memory stays bounded.

Two megapixels, so that the test takes seconds; what is bounded does not grow with the picture but for its labels.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, resource, sys
import numpy as np
import torch
from conftest import TINY_CONFIG
from guide_cases import tiny_guide
from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import build_model
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter

name = sys.argv[1]
torch.manual_seed(0)
backbone = Backbone(build_model(TINY_CONFIG), name="tiny")
Segmenter._guide = lambda self: tiny_guide()
recipe = Recipe.named(name, "scenes").but(
    {"windows": {"short_side": 336, "crop": 336}, "text.templates": ("{}",)}
)
image = np.kron(np.random.default_rng(0).integers(0, 256, (30, 40, 3)), np.ones((40, 40, 1)))
segmenter = Segmenter(backbone, recipe)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = segmenter(image.astype(np.uint8), [f"word {chr(97 + i % 26)}{i}" for i in range(171)])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"shape": result.mask.shape, "before": before, "peak": peak}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["proxyclip", "corrclip", "lposs"])
def test_two_megapixels_and_171_words(name):
    here = Path(__file__).resolve().parent
    path = os.pathsep.join(str(p) for p in (here.parent, here))
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": path}
    made = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, name],
        env={**os.environ, **threads}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr[-2000:]
    answer = json.loads(made.stdout.splitlines()[-1])
    assert answer["shape"] == [1200, 1600]
    # all logits at this size would be 1.3 GB
    assert answer["peak"] - answer["before"] < 700_000, answer  # kB
