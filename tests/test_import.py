"""`import ovsslib` loads what segmenting needs, and no more: neither other rooms nor large packages that few calls use."""

import subprocess
import sys
from pathlib import Path

LATE = {
    "ovsslib.evaluation", "ovsslib.scenes", "ovsslib.study", "ovsslib.book", "ovsslib.editing", "ovsslib.datasets",
    "matplotlib", "pandas", "scipy.ndimage", "scipy.optimize", "scipy.sparse", "scipy.cluster", "skimage", "sklearn",
    "onnxruntime",
}  # fmt: skip
LOADED = "import sys, ovsslib; print(*(name for name in {late!r} if name in sys.modules))"
SEGMENTED = """
import sys, numpy as np
for name in {missing!r}:
    sys.modules[name] = None  # as if it were not installed
import ovsslib
result = ovsslib.load("sclip", "sceneclip")(np.zeros((64, 64, 3), np.uint8), ["sea", "sky"])
print(result.mask.shape)
"""


def output_of(program: str) -> str:
    """What a fresh interpreter prints."""
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=root, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_large_packages_and_other_rooms_come_late():
    assert output_of(LOADED.format(late=sorted(LATE))) == ""


def test_no_extra_is_needed_to_segment():
    missing = ["skimage", "transformers", "seaborn", "pooch", "typer", "pydensecrf", "onnxruntime"]
    assert output_of(SEGMENTED.format(missing=missing)) == "(64, 64)"
