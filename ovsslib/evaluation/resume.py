"""Counts of single images, appended to a file so that a run that dies can go on.

One folder belongs to one evaluation. Every process that works on it appends to a file of its own, one binary
record per image with a checksum; whoever comes later reads all files of the folder. A record that was cut off
by a kill or a full disk does not have its checksum and is dropped, and what follows it in that file with it.
"""

import os
import shutil
import struct
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ovsslib.errors import DataError

_MAGIC = b"OVS1"
_HEAD = struct.Struct("<4sII")  # magic, length and CRC-32 of what follows
_BODY = struct.Struct("<iIHHd")  # image, classes stored, classes, bins, seconds
_SYNC_RECORDS = 16
_SYNC_SECONDS = 5.0


@dataclass(frozen=True, eq=False)
class ImageCounts:
    """What is counted of one image.

    Attributes:
        index: place of the image in the data set.
        classes: (3, C) int64 intersection, prediction, label.
        boundary: (4,) int64.
        calibration: (bins, 3) int64.
        seconds: computing time.
    """

    index: int
    classes: np.ndarray
    boundary: np.ndarray
    calibration: np.ndarray
    seconds: float

    def to_bytes(self) -> bytes:
        """The record with its checksum; classes without a pixel are left out."""
        present = np.flatnonzero(self.classes.any(axis=0))
        bins, classes = len(self.calibration), self.classes.shape[1]
        body = _BODY.pack(self.index, len(present), classes, bins, self.seconds)
        body += present.astype("<u2").tobytes() + self.classes[:, present].astype("<i8").tobytes()
        body += self.boundary.astype("<i8").tobytes() + self.calibration.astype("<i8").tobytes()
        return _HEAD.pack(_MAGIC, len(body), zlib.crc32(body)) + body

    @staticmethod
    def from_body(body: bytes) -> "ImageCounts":
        """The counts of a record without its head. Raises ValueError if lengths do not fit."""
        index, stored, classes, bins, seconds = _BODY.unpack_from(body)
        sizes = [2 * stored, 24 * stored, 32, 24 * bins]
        if len(body) != _BODY.size + sum(sizes):
            raise ValueError("a record of another length")
        parts, start = [], _BODY.size
        for size, kind in zip(sizes, ("<u2", "<i8", "<i8", "<i8"), strict=True):
            parts.append(np.frombuffer(body[start : start + size], dtype=kind).astype(np.int64))
            start += size
        full = np.zeros((3, classes), dtype=np.int64)
        full[:, parts[0]] = parts[1].reshape(3, stored)
        return ImageCounts(index, full, parts[2], parts[3].reshape(bins, 3), seconds)


def read_records(path: Path) -> list[ImageCounts]:
    """The whole records at the beginning of a file; a torn tail is left out."""
    content = path.read_bytes()
    records, start = [], 0
    while start + _HEAD.size <= len(content):
        magic, length, checksum = _HEAD.unpack_from(content, start)
        body = content[start + _HEAD.size : start + _HEAD.size + length]
        if magic != _MAGIC or len(body) != length or zlib.crc32(body) != checksum:
            break
        try:
            records.append(ImageCounts.from_body(body))
        except (ValueError, IndexError, struct.error):
            break
        start += _HEAD.size + length
    return records


class ResumeLog:
    """The counts of one evaluation on disk, from whatever runs worked on it.

    Args:
        folder: made on demand; None keeps nothing.
    Raises DataError if the folder cannot be read or written.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self._file: IO[bytes] | None = None
        self._pending, self._synced = 0, time.monotonic()

    def done(self) -> dict[int, ImageCounts]:
        """Counts by image index of everything finished before."""
        if self.folder is None or not self.folder.is_dir():
            return {}
        records: dict[int, ImageCounts] = {}
        try:
            for path in sorted(self.folder.glob("*.part")):
                for record in read_records(path):
                    records.setdefault(record.index, record)
        except OSError as error:
            raise DataError(f"cannot read the unfinished run in {self.folder}: {error}") from error
        return records

    def append(self, record: ImageCounts) -> None:
        """Write one record behind the others. Raises DataError if the disk is full."""
        if self.folder is None:
            return
        try:
            if self._file is None:
                self._open()
            write(self._file, record.to_bytes())
            self._pending += 1
            if self._pending >= _SYNC_RECORDS or time.monotonic() - self._synced > _SYNC_SECONDS:
                self.sync()
        except OSError as error:
            raise DataError(
                f"cannot write the counts of image {record.index} to {self.folder} ({error.strerror or error}); "
                "what is there stays valid: make room and run the same again"
            ) from error

    def _open(self) -> None:
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{time.time_ns():020d}-{os.getpid()}.part"
        # No buffer: a record reaches the system whole or, at the end of the disk, torn.
        self._file = open(self.folder / name, "xb", buffering=0)  # noqa: SIM115 - closed by close()

    def sync(self) -> None:
        """Force what was written onto the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        self._pending, self._synced = 0, time.monotonic()

    def close(self) -> None:
        """Sync and close this run's file."""
        if self._file is not None:
            try:
                self.sync()
            except OSError:
                pass
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Delete the folder: the evaluation is finished and stored."""
        self.close()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def write(file, content: bytes) -> None:
    """Write all bytes, however many calls it takes. Raises OSError."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]
