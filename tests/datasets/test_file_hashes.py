"""Hashes of files: right at every moment, and remembered while nothing has changed."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from ovsslib.datasets import file_hashes as module
from ovsslib.datasets.file_hashes import file_hashes


@pytest.fixture
def read(tmp_path, monkeypatch) -> list[Path]:
    """Files whose content has been read."""
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path / "cache"))
    files, hash_of = [], module._hash
    monkeypatch.setattr(module, "_hash", lambda file: files.append(file) or hash_of(file))
    return files


@pytest.fixture
def later(monkeypatch):
    """Makes every file look old enough to be remembered."""
    real = time.time_ns
    monkeypatch.setattr(module.time, "time_ns", lambda: real() + 10_000_000_000)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_hashes_are_those_of_the_content(tmp_path, read):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1" * 3_000_000)
    two.write_bytes(b"")
    missing = tmp_path / "three"
    assert file_hashes([one, two, one, missing, tmp_path]) == {
        one: sha(b"1" * 3_000_000), two: sha(b""), missing: None, tmp_path: None
    }  # fmt: skip
    assert len(read) == 3  # each file once; the folder was tried


def test_a_file_is_read_once_while_it_stays_the_same(tmp_path, read, later):
    file = tmp_path / "a"
    file.write_bytes(b"one")
    assert file_hashes([file]) == file_hashes([file]) == {file: sha(b"one")} and len(read) == 1
    file.write_bytes(b"two")
    assert file_hashes([file]) == {file: sha(b"two")} and len(read) == 2


def test_another_file_of_equal_size_and_date_is_seen(tmp_path, read, later):
    file, other = tmp_path / "a", tmp_path / "b"
    file.write_bytes(b"one")
    other.write_bytes(b"two")
    for path in (file, other):
        os.utime(path, ns=(10**18, 10**18))
    assert file_hashes([file]) == {file: sha(b"one")}
    os.replace(other, file)
    assert file.stat().st_mtime_ns == 10**18
    assert file_hashes([file]) == {file: sha(b"two")}


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path, read):
    file = tmp_path / "a"
    for content in (b"one", b"two", b"six"):  # faster than the clock of some disks
        file.write_bytes(content)
        assert file_hashes([file]) == {file: sha(content)}
    assert len(read) == 3


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b'{"a": 7}', b'{"a": [[3], "x", 0]}'])
def test_a_damaged_memory_is_made_again(tmp_path, read, later, damage):
    file = tmp_path / "a"
    file.write_bytes(b"one")
    file_hashes([file])
    (memory,) = (tmp_path / "cache/hashes").iterdir()
    memory.write_bytes(damage)
    assert file_hashes([file]) == {file: sha(b"one")} == file_hashes([file])
    assert len(read) == 2


def test_without_a_cache_it_only_takes_longer(tmp_path, read, later, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path / "file"))
    file = tmp_path / "a"
    file.write_bytes(b"one")
    assert file_hashes([file]) == file_hashes([file]) == {file: sha(b"one")} and len(read) == 2
