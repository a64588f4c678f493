"""Several processes give what one gives; a lost one is an error, and the next run goes on."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from engine_cases import environment, seeded_backbone, segmenters
from fake_datasets import build

from ovsslib import evaluate
from ovsslib.datasets.dataset import open_dataset
from ovsslib.errors import DataError
from ovsslib.evaluation import distributed
from ovsslib.evaluation.distributed import Processes
from ovsslib.evaluation.store import ResultsStore

# What torchrun starts: as `ovss evaluate` does, with a model from a seed. To import the library only once per
# process, each first forks a run of its own world, in which the second process dies at an image; then it runs itself.
PROGRAM = """
import os, sys
from pathlib import Path
import torch
from engine_cases import seeded_backbone, segmenters
from ovsslib import evaluate
from ovsslib.errors import DataError
from ovsslib.datasets.dataset import SegmentationDataset, open_dataset
from ovsslib.evaluation.store import ResultsStore
torch.set_num_threads(1)
root, shared, port = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
read = SegmentationDataset.__getitem__

def deadly(self, index):
    return os._exit(9) if index == 5 else read(self, index)

def run():
    return evaluate(
        segmenters(seeded_backbone()), open_dataset("folder", root), progress=False,
        resume_folder=shared / "resume", store=ResultsStore(shared / "store", shipped=shared / "none"),
    )

child = os.fork()
if not child:
    os.environ |= {"MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "False"}
    SegmentationDataset.__getitem__ = deadly
    try:
        run()
    except DataError as error:
        print("LOST", error, flush=True)
        os._exit(1)
    os._exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
parts, stored = len(list((shared / "resume").rglob("*.part"))), (shared / "store").exists()
print("FIRST", os.environ["RANK"], code, parts > 0, stored, flush=True)
reports = run()
print("MIOU", os.environ["RANK"], *(repr(report.miou) for report in reports), flush=True)
torch.distributed.destroy_process_group()
"""


def test_a_lost_process_is_an_error_and_the_next_run_gives_the_counts_of_one(tmp_path):
    fake = build("folder", tmp_path / "data", images=7)
    expected = evaluate(
        segmenters(seeded_backbone()),
        open_dataset("folder", fake.root),
        progress=False,
        store=False,
    )
    program, shared = tmp_path / "program.py", tmp_path / "shared"
    program.write_text(PROGRAM)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    done = subprocess.run(
        [*torchrun, str(program), str(fake.root), str(shared), str(port)],
        env=environment(tmp_path / "cache"), capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = sorted(line.split() for line in done.stdout.splitlines())
    assert lines[0] == ["FIRST", "0", "1", "True", "False"]
    assert lines[1] == ["FIRST", "1", "9", "True", "False"]
    assert lines[2][0] == "LOST" and "start it again" in " ".join(lines[2])
    assert lines[3][:2] == ["MIOU", "0"] and lines[4][:2] == ["MIOU", "1"]
    assert lines[3][2:] == lines[4][2:] == [repr(report.miou) for report in expected]
    store = ResultsStore(shared / "store", shipped=shared / "none")
    by_recipe = {report.recipe.key(): report for report in store.reports()}
    assert len(by_recipe) == 3
    for report in expected:
        found = by_recipe[report.recipe.key()]
        for name in ("counts", "boundary_counts", "calibration_counts", "indices"):
            np.testing.assert_array_equal(getattr(report, name), getattr(found, name))
        assert found.provenance["processes"] == 2 and found.images == 7
        assert found.provenance["resumed_images"] > 0
    assert list((shared / "resume").iterdir()) == []


def test_shards_are_strided_and_cover_every_image_once():
    for count in (1, 2, 3, 8):
        shares = [list(Processes(rank, count).share(7)) for rank in range(count)]
        assert sorted(index for share in shares for index in share) == list(range(7))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_number_of_images_is_asserted():
    distributed.assert_complete(np.array([1, 0, 1]), skipped=1)
    for done, skipped in (([1, 0, 1], 0), ([2, 0, 1], 0), ([1, 1, 1], 1)):
        with pytest.raises(DataError, match="were counted"):
            distributed.assert_complete(np.array(done), skipped)


def test_a_lost_process_names_the_remedy(monkeypatch):
    def lost(tensor):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(distributed.dist, "all_reduce", lost)
    with pytest.raises(DataError, match="start it again"):
        Processes(0, 2).sum(np.ones(3, dtype=np.int64))
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda tensor: tensor.mul_(2))
    summed = Processes(0, 2).sum(np.array([2**60, 3]))
    assert summed.tolist() == [2**61, 6] and summed.dtype == np.int64


def test_one_process_needs_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = Processes.current()
    array = np.arange(3)
    assert alone.first and alone.sum(array) is array and alone.gather([1]) == [1]
    alone.barrier()


def test_each_process_takes_its_own_gpu(monkeypatch):
    chosen = []
    monkeypatch.setattr(distributed.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(distributed.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(distributed.torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert distributed.local_device("auto") == distributed.local_device("cuda") == "cuda:1"
    assert (
        distributed.local_device("cuda:0") == "cuda:0" and distributed.local_device("cpu") == "cpu"
    )
    assert chosen == ["cuda:1"] * 2 and os.environ["LOCAL_RANK"] == "3"
