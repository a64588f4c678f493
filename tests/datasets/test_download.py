"""Fetching from a server on this machine, with small archives in the structure of the real ones."""

import hashlib
import io
import os
import shutil
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from fake_datasets import build

from ovsslib.datasets import download
from ovsslib.datasets.dataset import open_dataset
from ovsslib.datasets.download import ARCHIVES, Archive, get_dataset, unpack
from ovsslib.errors import DataError


class Server:
    """Serves bytes by file name; can break off transfers and knows what was asked."""

    def __init__(self):
        self.content: dict[str, bytes] = {}
        self.break_after: int | None = None
        self.ranges = True
        self.tag = '"one"'
        self.requests: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        name, asked = handler.path.lstrip("/"), handler.headers.get("Range")
        self.requests.append((name, asked))
        if name not in self.content:
            handler.send_error(404)
            return
        body, start = self.content[name], 0
        if asked and self.ranges and handler.headers.get("If-Range") == self.tag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        if start and start >= len(body):
            handler.send_error(416)
            return
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(body) - start))
        handler.send_header("ETag", self.tag)
        handler.end_headers()
        rest = body[start:]
        handler.wfile.write(rest if self.break_after is None else rest[: self.break_after])
        handler.close_connection = True

    def archive(self, name: str, into: str = "", known_hash=None, only=()) -> Archive:
        address = f"http://127.0.0.1:{self.http.server_address[1]}/{name}"
        return Archive(address, into, known_hash, only)


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    one = Server()
    yield one
    one.http.shutdown()
    one.http.server_close()


def packed(folder, form: str, start: str = "") -> bytes:
    """A zip or tar of everything in a folder, member names below `start`."""
    buffer = io.BytesIO()
    paths = sorted(folder.rglob("*"))
    names = [start + path.relative_to(folder).as_posix() for path in paths]
    if form == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for path, name in zip(paths, names, strict=True):
                archive.write(path, name)
    else:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path, name in zip(paths, names, strict=True):
                archive.add(path, name, recursive=False)
    return buffer.getvalue()


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


def fetch(archives, root, name="voc2012"):
    return get_dataset(name, root, archives, progress=False)


def test_voc2012(server, tmp_path):
    fake = build("voc21", tmp_path / "made")
    content = packed(tmp_path / "made", "tar")
    server.content["voc.tar"] = content
    (done,) = fetch((server.archive("voc.tar", "", md5(content)),), tmp_path / "root")
    assert done.checked and done.files == 3 + 3 + 1 and "as expected" in str(done)
    for _, label, name in open_dataset("voc20", tmp_path / "root"):
        expected = fake.labels[name].astype(int)
        reduced = np.where((expected == 0) | (expected == 255), 255, expected - 1)
        assert np.array_equal(label, reduced)


def test_ade20k(server, tmp_path):
    fake = build("ade20k", tmp_path / "made")
    server.content["ade.zip"] = packed(tmp_path / "made", "zip")
    fetch((server.archive("ade.zip"),), tmp_path / "root")
    assert np.array_equal(
        open_dataset("ade20k", tmp_path / "root")[2][1], fake.labels[fake.names[2]]
    )


def test_coco_takes_the_validation_part_only(server, tmp_path):
    fake = build("coco_stuff", tmp_path / "made", raw=True)
    annotations = fake.root / "annotations"
    shutil.copytree(annotations / "val2017", annotations / "train2017")
    server.content["val2017.zip"] = packed(fake.root / "images", "zip")
    server.content["maps.zip"] = packed(annotations, "zip")
    archives = (
        server.archive("val2017.zip", "coco_stuff164k/images"),
        server.archive("maps.zip", "coco_stuff164k/annotations", only=("val2017",)),
    )
    fetch(archives, tmp_path / "root", "coco-stuff164k")
    assert not (tmp_path / "root/coco_stuff164k/annotations/train2017").exists()
    for _, label, name in open_dataset("coco_stuff", tmp_path / "root"):
        assert np.array_equal(label, fake.labels[name])


def test_official_addresses():
    assert set(ARCHIVES) == {"voc2012", "coco-stuff164k", "ade20k"}
    for archives in ARCHIVES.values():
        for archive in archives:
            assert archive.url.startswith("http") and archive.file.endswith((".zip", ".tar"))
            if archive.known_hash:
                algorithm, digits = archive.known_hash.split(":")
                assert len(digits) == {"md5": 32, "sha1": 40, "sha256": 64}[algorithm]
    with pytest.raises(DataError, match="voc2012, coco-stuff164k, ade20k"):
        get_dataset("cityscapes", ".")


@pytest.fixture
def small_zip(tmp_path):
    """20 kB that do not compress, as a zip."""
    folder = tmp_path / "content"
    folder.mkdir()
    (folder / "noise.bin").write_bytes(np.random.default_rng(0).bytes(20_000))
    return packed(folder, "zip")


def test_what_is_there_is_not_fetched_again(server, tmp_path, small_zip):
    server.content["a.zip"] = small_zip
    archives = (server.archive("a.zip", "data", md5(small_zip)),)
    fetch(archives, tmp_path)
    before = (tmp_path / "data/noise.bin").stat().st_mtime_ns
    fetch(archives, tmp_path)
    assert len(server.requests) == 1
    assert (tmp_path / "data/noise.bin").stat().st_mtime_ns == before
    (tmp_path / "data/noise.bin").write_bytes(b"half")
    fetch(archives, tmp_path)
    assert (tmp_path / "data/noise.bin").stat().st_size == 20_000


def test_broken_transfer_goes_on(server, tmp_path, small_zip, monkeypatch):
    monkeypatch.setattr(download, "_BLOCK", 1000)
    server.content["a.zip"] = small_zip
    archives = (server.archive("a.zip", "", md5(small_zip)),)
    server.break_after = 7500
    with pytest.raises(DataError, match="run the same command again"):
        fetch(archives, tmp_path)
    kept = (tmp_path / "downloads/a.zip.part").stat().st_size
    assert 7000 <= kept <= 7500 and not (tmp_path / "downloads/a.zip").exists()
    server.break_after = None
    (done,) = fetch(archives, tmp_path)
    assert server.requests[1] == ("a.zip", f"bytes={kept}-")
    assert done.archive.read_bytes() == small_zip
    assert sorted(os.listdir(tmp_path / "downloads")) == ["a.zip"]


@pytest.mark.parametrize("change", ["ranges", "tag"])
def test_starts_anew_where_going_on_is_impossible(server, tmp_path, small_zip, monkeypatch, change):
    monkeypatch.setattr(download, "_BLOCK", 1000)
    server.content["a.zip"] = b"x" * len(small_zip) if change == "tag" else small_zip
    server.break_after = 7500
    archives = (server.archive("a.zip", "", md5(small_zip)),)
    with pytest.raises(DataError):
        fetch(archives, tmp_path)
    server.break_after, server.content["a.zip"] = None, small_zip
    server.ranges, server.tag = change != "ranges", '"two"' if change == "tag" else server.tag
    (done,) = fetch(archives, tmp_path)
    assert done.archive.read_bytes() == small_zip


def test_partial_file_longer_than_the_content(server, tmp_path, small_zip):
    server.content["a.zip"] = small_zip
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/a.zip.part").write_bytes(b"x" * (len(small_zip) + 5))
    (tmp_path / "downloads/a.zip.part.etag").write_text(server.tag)
    archives = (server.archive("a.zip"),)
    with pytest.raises(DataError, match="run the same command again"):
        fetch(archives, tmp_path)
    assert fetch(archives, tmp_path)[0].archive.read_bytes() == small_zip


def test_wrong_hash_is_refused(server, tmp_path, small_zip):
    server.content["a.zip"] = small_zip
    with pytest.raises(DataError, match="hash md5:0000"):
        fetch((server.archive("a.zip", "", "md5:" + "0" * 32),), tmp_path)
    assert not (tmp_path / "noise.bin").exists()
    assert not (tmp_path / "downloads/a.zip").exists()


def test_unknown_hash_is_recorded_and_then_checked(server, tmp_path, small_zip):
    server.content["a.zip"] = small_zip
    archives = (server.archive("a.zip"),)
    (first,) = fetch(archives, tmp_path)
    digest = f"sha256:{hashlib.sha256(small_zip).hexdigest()}"
    assert first.hash == digest and not first.checked and "recorded" in str(first)
    assert (tmp_path / "downloads/a.zip.sha256").read_text().strip() == digest
    assert fetch(archives, tmp_path)[0].checked
    first.archive.unlink()
    server.content["a.zip"] = small_zip + b"changed"
    with pytest.raises(DataError, match="has changed"):
        fetch(archives, tmp_path)


def test_server_errors(server, tmp_path):
    with pytest.raises(DataError, match="404"):
        fetch((server.archive("nothing.zip"),), tmp_path)
    closed = Archive("http://127.0.0.1:9/a.zip", "")
    with pytest.raises(DataError, match="127.0.0.1:9/a.zip cannot be fetched"):
        fetch((closed,), tmp_path)


def test_archives_can_be_removed_after_unpacking(server, tmp_path, small_zip):
    server.content["a.zip"] = small_zip
    get_dataset("x", tmp_path, (server.archive("a.zip"),), progress=False, keep_archives=False)
    assert (tmp_path / "noise.bin").is_file() and not (tmp_path / "downloads/a.zip").exists()


def tar_of(path, *members: tuple[str, bytes, str]):
    with tarfile.open(path, "w") as archive:
        for name, content, target in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if target:
                info.type, info.linkname = target[:1].encode(), target[1:]
            archive.addfile(info, io.BytesIO(content))


UNSAFE = {
    "parent": ("../out.txt", b"x", ""),
    "deep parent": ("a/../../out.txt", b"x", ""),
    "absolute": ("/tmp/ovsslib_out.txt", b"x", ""),
    "backslash": ("..\\out.txt", b"x", ""),
    "drive": ("C:/out.txt", b"x", ""),
    "symbolic link": ("link", b"", "2/etc"),
    "hard link": ("link", b"", "1good.txt"),
    "device": ("device", b"", "3"),
    "pipe": ("pipe", b"", "6"),
}


@pytest.mark.parametrize("case", list(UNSAFE))
def test_unsafe_tar_members_are_refused(tmp_path, case):
    tar_of(tmp_path / "bad.tar", ("good.txt", b"x", ""), UNSAFE[case])
    with pytest.raises(DataError, match="bad.tar is not safe"):
        unpack(tmp_path / "bad.tar", tmp_path / "deep/target", progress=False)
    assert sorted(os.listdir(tmp_path)) == ["bad.tar"], "nothing was unpacked"


@pytest.mark.parametrize("name", ["../out.txt", "/out.txt", "a/../../out.txt", "..\\out.txt"])
def test_unsafe_zip_members_are_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("good.txt", "x")
        archive.writestr(name, "x")
    with pytest.raises(DataError, match="would leave"):
        unpack(tmp_path / "bad.zip", tmp_path / "deep/target", progress=False)
    assert sorted(os.listdir(tmp_path)) == ["bad.zip"]


def test_links_in_zips_are_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="link or device"):
        unpack(tmp_path / "bad.zip", tmp_path / "target", progress=False)


def test_links_in_the_target_are_not_followed_outside(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "target/folder").symlink_to(tmp_path / "outside")
    tar_of(tmp_path / "a.tar", ("folder/file.txt", b"x", ""))
    with pytest.raises(DataError, match="leads out"):
        unpack(tmp_path / "a.tar", tmp_path / "target", progress=False)
    assert os.listdir(tmp_path / "outside") == []


def test_damaged_archives(tmp_path, small_zip):
    (tmp_path / "cut.zip").write_bytes(small_zip[:5000])
    with pytest.raises(DataError, match="cut.zip is neither"):
        unpack(tmp_path / "cut.zip", tmp_path / "target", progress=False)
    flipped = bytearray(small_zip)
    flipped[3000] ^= 255
    (tmp_path / "flipped.zip").write_bytes(flipped)
    with pytest.raises(DataError, match="flipped.zip is damaged"):
        unpack(tmp_path / "flipped.zip", tmp_path / "target", progress=False)
    assert os.listdir(tmp_path / "target") == []


def test_too_little_room(tmp_path, small_zip, monkeypatch):
    (tmp_path / "a.zip").write_bytes(small_zip)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="needs 0.0 GB"):
        unpack(tmp_path / "a.zip", tmp_path / "target", progress=False)
    assert os.listdir(tmp_path / "target") == []
