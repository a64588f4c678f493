"""Hashes of files' contents, remembered as long as the files stay what they are.

Reading a data set of gigabytes whenever a result is looked up would take longer than many an evaluation. So the
hash of a file is kept in the user's cache, beside the file's size, times and number on its disk, and computed
again when one of these has changed.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ovsslib import paths
from ovsslib.errors import DataError

# A file that was changed a moment ago may change again without its time telling so.
_YOUNG_NANOSECONDS = 2_000_000_000


def file_hashes(files: Iterable[Path]) -> dict[Path, str | None]:
    """SHA-256 (hexadecimal) of each file's content; None for one that is no file or cannot be read."""
    by_folder: dict[Path, list[Path]] = {}
    unique = list(dict.fromkeys(files))
    for file in unique:
        by_folder.setdefault(file.parent, []).append(file)
    hashes: dict[Path, str | None] = {}
    for folder, members in by_folder.items():
        hashes |= _of_folder(folder, members)
    return {file: hashes[file] for file in unique}


def _of_folder(folder: Path, files: list[Path]) -> dict[Path, str | None]:
    memory = _memory(folder)
    remembered = _recall(memory)
    hashes: dict[Path, str | None] = {}
    learned: dict[str, list] = {}
    for file in files:
        try:
            status = file.stat()
            stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
            entry = remembered.get(file.name)
            if isinstance(entry, list) and len(entry) == 2 and entry[0] == stamp:
                hashes[file] = str(entry[1])
                continue
            started = time.time_ns()
            hashes[file] = _hash(file)
            if started - max(status.st_mtime_ns, status.st_ctime_ns) > _YOUNG_NANOSECONDS:
                learned[file.name] = [stamp, hashes[file]]
        except OSError:
            hashes[file] = None
    if learned and memory is not None:
        content = json.dumps({**remembered, **learned}).encode()
        with suppress(DataError):  # what is not kept costs only time
            paths.write_file(memory, content, make_folder=True)
    return hashes


def _hash(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _memory(folder: Path) -> Path | None:
    """Where the hashes of a folder's files are kept; None where nothing can be."""
    name = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:24]
    try:
        return paths.cache("hashes") / f"{name}.json"
    except DataError:
        return None


def _recall(memory: Path | None) -> dict[str, list]:
    """What is kept; a damaged file counts as empty."""
    try:
        content = json.loads(memory.read_text(encoding="utf-8")) if memory is not None else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
