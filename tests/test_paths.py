"""Shipped data, the cache, and files that are whole or not there."""

import os

import pytest

from ovsslib import paths
from ovsslib.errors import DataError


def test_shipped_data_is_found():
    assert paths.data("recipes/sclip.yaml").is_file()
    assert not paths.data("no/such/file").exists()


def test_cache_follows_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path / "own"))
    assert paths.cache("text") == tmp_path / "own" / "text" and (tmp_path / "own" / "text").is_dir()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set OVSSLIB_CACHE"):
        paths.cache("text")


def test_a_file_is_written_whole_and_replaced(tmp_path):
    file = tmp_path / "new" / "numbers.csv"
    assert paths.write_file(file, b"one", make_folder=True) == file
    paths.write_file(str(file), b"two")
    assert file.read_bytes() == b"two" and os.listdir(file.parent) == ["numbers.csv"]


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none" / "a.csv", tmp_path / "file" / "a.csv", tmp_path / ("n" * 300)):
        with pytest.raises(DataError, match="cannot write"):
            paths.write_file(path, b"")
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(DataError, match="No space left"):
        paths.write_file(tmp_path / "b.csv", b"")
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_stays_a_link_and_a_file_keeps_its_mode(tmp_path):
    file, link = tmp_path / "there" / "file", tmp_path / "link"
    paths.write_file(file, b"one", make_folder=True)
    file.chmod(0o600)
    link.symlink_to(file)
    paths.write_file(link, b"two")
    assert link.is_symlink() and file.read_bytes() == b"two"
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(file.parent) == ["file"]


def test_a_pipe_is_written_into(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    paths.write_file(pipe, b"through")
    assert os.read(reader, 99) == b"through" and pipe.is_fifo()
    os.close(reader)


def test_new_files_can_be_read_by_whom_the_umask_allows(tmp_path):
    (tmp_path / "plain").touch()
    with paths.replacing(tmp_path / "new") as temporary:
        temporary.write_bytes(b"x")
        temporary.chmod(0o600)  # as safetensors does
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_writer_that_fails_leaves_the_old_file(tmp_path):
    paths.write_file(tmp_path / "file", b"old")
    with pytest.raises(KeyError), paths.replacing(tmp_path / "file") as temporary:
        temporary.write_bytes(b"half")
        raise KeyError("of the writer")
    assert (tmp_path / "file").read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]
