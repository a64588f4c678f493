"""Fetching data sets from their official addresses: resumable, checked, unpacked safely.

`get_dataset("voc2012", root)` fetches with pooch and leaves the layout that `open_dataset` reads. A
broken transfer goes on from its partial file when the server allows it. Archives whose hash is
known are checked against it; of the others the hash is recorded beside the archive on the first
download, said so, and checked from then on. Unpacking refuses members that would leave the target
folder, links, and devices.

Cityscapes needs an account and PASCAL Context has no lasting address: both are fetched by hand.
"""

import hashlib
import logging
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from gzip import BadGzipFile
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tqdm import tqdm

from ovsslib.errors import DataError, require
from ovsslib.paths import put_in_place, replacing, write_file

_BLOCK = 1 << 20
_TIMEOUT = 60
# RuntimeError: zip members that are encrypted or packed in an unknown way.
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, BadGzipFile, EOFError, RuntimeError)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """One file to fetch and unpack.

    `into` is the folder below the root that its members go to, `only` the leading folders of
    members that are wanted (all if empty), `known_hash` is "algorithm:hexdigits" or None.
    """

    url: str
    into: str
    known_hash: str | None = None
    only: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """Name of the archive's file."""
        return self.url.rsplit("/", 1)[-1]


ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "voc2012": (
        Archive(
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
            "",
            "md5:6cd6e144f989b92b3379bac3b3de84fd",
        ),
    ),
    "coco-stuff164k": (
        Archive(
            "http://images.cocodataset.org/zips/val2017.zip",
            "coco_stuff164k/images",
            "sha1:4950dc9d00dbe1c933ee0170f5797584351d2a41",
        ),
        Archive(
            "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/"
            "stuffthingmaps_trainval2017.zip",
            "coco_stuff164k/annotations",
            None,
            ("val2017",),
        ),
    ),
    "ade20k": (
        Archive(
            "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
            "",
            "sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
        ),
    ),
}
"""The archives of each data set, of COCO validation images only, of the others everything."""


@dataclass(frozen=True)
class Fetched:
    """What `get_dataset` did with one archive."""

    archive: Path
    hash: str
    checked: bool
    files: int

    def __str__(self) -> str:
        checked = "as expected" if self.checked else "recorded, it was not known before"
        return f"{self.archive.name}: {self.files} files, hash {self.hash} ({checked})"


def get_dataset(
    name: str,
    root: str | os.PathLike,
    archives: tuple[Archive, ...] | None = None,
    progress: bool = True,
    keep_archives: bool = True,
) -> list[Fetched]:
    """Fetch and unpack a data set ("voc2012", "coco-stuff164k", "ade20k") below `root`.

    Archives lie in `root/downloads`; what is there and whole is not fetched again, what is unpacked
    is not unpacked again. `archives` replaces the official addresses (a mirror).

    Raises DataError for an unknown name, no connection, a server error, a hash that does not fit,
    an unsafe or damaged archive, or a full disk; the message says how to go on.
    """
    if archives is None:
        if name not in ARCHIVES:
            raise DataError(f"cannot fetch {name!r}; there are {', '.join(ARCHIVES)}")
        archives = ARCHIVES[name]
    root = Path(root).expanduser()
    results = []
    try:
        downloads = root / "downloads"
        downloads.mkdir(parents=True, exist_ok=True)
        for archive in archives:
            path, digest, checked = _fetch(archive, downloads, progress)
            files = unpack(path, root / archive.into, archive.only, progress)
            results.append(Fetched(path, digest, checked, files))
            if not keep_archives:
                path.unlink()
    except OSError as error:
        raise DataError(
            f"cannot write below {root} ({error.strerror or error}); make room or choose another "
            "folder, then run the same command again: it goes on from here"
        ) from error
    return results


def _fetch(archive: Archive, folder: Path, progress: bool) -> tuple[Path, str, bool]:
    """Path of the archive's file, its hash, and whether that was known before."""
    record = folder / f"{archive.file}.sha256"
    expected = archive.known_hash
    if expected is None and record.is_file():
        expected = record.read_text(encoding="ascii").strip()
    try:
        path = _pooch().retrieve(
            archive.url,
            known_hash=expected,
            fname=archive.file,
            path=folder,
            downloader=_Resuming(folder / f"{archive.file}.part", progress),
        )
    except _requests().RequestException as error:
        raise DataError(
            f"{archive.url} cannot be fetched ({error}); run the same command again to go on, or "
            f"put the file into {folder} by other means"
        ) from error
    except ValueError as error:
        # pooch reports a hash that does not fit as a ValueError and deletes the file.
        raise DataError(
            f"{archive.url} does not have the hash {expected}: it is damaged or has changed; "
            f"run the command again, or delete {record} if a new release is meant"
        ) from error
    path = Path(path)
    if expected is not None:
        return path, expected, True
    digest = f"sha256:{_sha256(path)}"
    write_file(record, f"{digest}\n".encode())
    log.warning("%s has no published hash; %s is recorded in %s", archive.file, digest, record)
    return path, digest, False


def _pooch() -> Any:
    return require("pooch", "data", "fetching data sets")


def _requests() -> Any:
    return require("requests", "data", "fetching data sets")


class _Resuming:
    """A downloader for pooch that keeps what a broken transfer has brought and asks for the
    rest."""

    def __init__(self, part: Path, progress: bool):
        self.part = part
        self.progress = progress

    def __call__(self, url: str, output_file: str, _pooch: object) -> None:
        tag = self.part.with_name(self.part.name + ".etag")
        have = self.part.stat().st_size if self.part.is_file() else 0
        headers = {"Accept-Encoding": "identity"}
        if have and tag.is_file():
            headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text(encoding="utf-8")}
        requests = _requests()
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
            if answer.status_code == requests.codes.requested_range_not_satisfiable:
                self._forget(tag)
                raise requests.ConnectionError("the partial file does not fit and was removed")
            answer.raise_for_status()
            going_on = answer.status_code == requests.codes.partial_content
            version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
            # Without a version the rest might be of another file: then the next try starts anew.
            if version and not version.startswith("W/"):
                write_file(tag, version.encode())
            elif not going_on:
                tag.unlink(missing_ok=True)
            self._receive(answer, have if going_on else 0)
        put_in_place(self.part, output_file)
        tag.unlink(missing_ok=True)

    def _receive(self, answer: Any, have: int) -> None:
        length = answer.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        bar = tqdm(
            desc=self.part.stem,
            initial=have,
            total=total,
            unit="B",
            unit_scale=True,
            disable=not self.progress,
        )
        with bar, self.part.open("ab" if have else "wb") as file:
            for block in answer.iter_content(_BLOCK):
                file.write(block)
                have += len(block)
                bar.update(len(block))
        if total is not None and have != total:
            raise _requests().ConnectionError(
                f"the transfer broke off after {have} of {total} bytes"
            )

    def _forget(self, tag: Path) -> None:
        self.part.unlink(missing_ok=True)
        tag.unlink(missing_ok=True)


def unpack(archive: Path, target: Path, only: tuple[str, ...] = (), progress: bool = True) -> int:
    """Unpack a .zip or .tar archive into `target`; returns how many files it holds (of those
    wanted).

    Only ordinary files and folders are unpacked, all of them inside `target`. Files that are there
    with the right size are kept; each file is renamed into place when whole. Raises DataError for a
    member that is a link or device or would leave `target` (before anything is written), a damaged
    archive, or too little room.
    """
    try:
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as content:
                return _unpack_members(_TarMembers(content), archive, target, only, progress)
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as content:
                return _unpack_members(_ZipMembers(content), archive, target, only, progress)
    except _DAMAGE as error:
        raise DataError(f"{archive} is damaged ({error}); delete it and fetch it again") from error
    raise DataError(f"{archive} is neither a zip nor a tar archive; delete it and fetch it again")


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    kind: str
    handle: Any


class _ZipMembers:
    def __init__(self, content: zipfile.ZipFile):
        self.content = content

    def __iter__(self) -> Iterator[_Member]:
        for info in self.content.infolist():
            mode = info.external_attr >> 16
            kind = "folder" if info.is_dir() else "file"
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "link or device"
            yield _Member(info.filename, info.file_size, kind, info)

    def open(self, member: _Member) -> IO[bytes]:
        return self.content.open(member.handle)


class _TarMembers:
    def __init__(self, content: tarfile.TarFile):
        self.content = content

    def __iter__(self) -> Iterator[_Member]:
        for info in self.content:
            kind = "file" if info.isreg() else "folder" if info.isdir() else "link or device"
            yield _Member(info.name, info.size, kind, info)

    def open(self, member: _Member) -> IO[bytes]:
        content = self.content.extractfile(member.handle)
        assert content is not None  # it is a regular file
        return content


def _unpack_members(
    members: _ZipMembers | _TarMembers,
    archive: Path,
    target: Path,
    only: tuple[str, ...],
    progress: bool,
) -> int:
    selection = []
    for member in members:
        parts = _safe_parts(member, archive)
        if member.kind == "file" and (not only or parts[0] in only):
            selection.append((member, target.joinpath(*parts)))
    target.mkdir(parents=True, exist_ok=True)
    missing = [(m, path) for m, path in selection if not _has_size(path, m.size)]
    needed, free = sum(member.size for member, _ in missing), shutil.disk_usage(target).free
    if needed > free:
        raise DataError(
            f"unpacking {archive} needs {needed / 1e9:.1f} GB, but {target} has {free / 1e9:.1f} GB"
        )
    base = target.resolve()
    for member, path in tqdm(missing, desc=f"unpack {archive.name}", disable=not progress):
        # A link that was in the target folder before could still lead outside.
        if not path.parent.resolve().is_relative_to(base):
            raise DataError(f"{path.parent} leads out of {target}; remove that link")
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            replacing(path, sync=False) as part,
            members.open(member) as source,
            part.open("wb") as file,
        ):
            shutil.copyfileobj(source, file, _BLOCK)
    return len(selection)


def _safe_parts(member: _Member, archive: Path) -> tuple[str, ...]:
    name = member.name.replace("\\", "/")
    path = PurePosixPath(name)
    outside = path.is_absolute() or ".." in path.parts or ":" in name or "\0" in name
    if outside or member.kind == "link or device":
        reason = "would leave the target folder" if outside else "is a link or device"
        raise DataError(
            f"{archive} is not safe: its member {member.name!r} {reason}; nothing was unpacked"
        )
    if not path.parts and member.kind == "file":
        raise DataError(f"{archive} has a member without a name; fetch it again")
    return path.parts


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
