"""What the tests of the trainings share: the losses of a run, and a run that is killed on the way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LOSS = 3  # column of log.csv


def losses(out: Path) -> np.ndarray:
    """The losses of a run's steps so far; none before the first line is written."""
    log = out / "log.csv"
    if not log.is_file() or len(log.read_text(encoding="utf-8").splitlines()) < 2:
        return np.empty(0)
    return np.loadtxt(log, delimiter=",", skiprows=1, ndmin=2)[:, LOSS]


def kill_after(steps: int, code: str, out: Path) -> None:
    """Run `code`, which trains in the folder `out` (a variable there), and kill it once it has made some steps."""
    start = (
        "import sys; from pathlib import Path\n"
        "out = Path(sys.argv[1]); sys.path[:0] = sys.argv[2:]\n"
    )
    places = [str(ROOT / "tests" / room) for room in ("", "scenes", "evaluation")]
    quiet = subprocess.DEVNULL
    child = subprocess.Popen(
        [sys.executable, "-c", start + code, str(out), *places],
        cwd=ROOT,
        stdout=quiet,
        stderr=quiet,
    )
    give_up = time.monotonic() + 120
    while len(losses(out)) < steps:
        assert child.poll() is None and time.monotonic() < give_up
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
