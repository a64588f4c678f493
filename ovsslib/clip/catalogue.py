"""Models: which are on this machine, which can be had, and fetching one: resumable, checked, found by every command."""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import requests
from open_clip.pretrained import get_pretrained_cfg

from ovsslib import paths
from ovsslib.clip.loading import EMBEDDED, OPENAI_SHA256, cached_pretrained
from ovsslib.errors import ModelError, did_you_mean

_BLOCK, _TIMEOUT = 1 << 20, 30


@dataclass(frozen=True)
class Available:
    """A model that can be had: its open_clip name and tag, its size in megabytes, and a line about it."""

    model: str
    tag: str
    megabytes: int
    summary: str


CATALOGUE: dict[str, Available] = {
    "openai-vitb16": Available(
        "ViT-B-16-quickgelu", "openai", 351, "OpenAI's ViT-B/16: what nearly all papers report"
    ),
    "openai-vitb32": Available(
        "ViT-B-32-quickgelu", "openai", 354, "OpenAI's ViT-B/32: coarser, faster"
    ),
    "openai-vitl14": Available("ViT-L-14-quickgelu", "openai", 933, "OpenAI's ViT-L/14: larger"),
}
"""Models that `ovss models get` fetches by name."""


@dataclass(frozen=True)
class Model:
    """A line of `ovss models`: `file` is where its weights are, None if they must be fetched first."""

    name: str
    model: str
    tag: str
    summary: str
    file: Path | None
    megabytes: int


def list_models() -> list[Model]:
    """The embedded models, then those of the catalogue with the place of their weights if they are here."""
    models = []
    for name in EMBEDDED:
        file = paths.data(f"models/{name}/model.safetensors")
        size = round(file.stat().st_size / 1e6) if file.is_file() else 0
        about = "embedded; has seen drawn scenes only"
        models.append(Model(name, name, "embedded", about, file if file.is_file() else None, size))
    for name, entry in CATALOGUE.items():
        weights = cached_pretrained(entry.model, entry.tag)
        models.append(Model(name, entry.model, entry.tag, entry.summary, weights, entry.megabytes))
    return models


def get_model(
    name: str,
    url: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Path:
    """Fetch a model of the catalogue into the local cache that every command looks in; returns its file.

    Args:
        url: another address of the same file (a mirror).
        folder: where to put it; None: `~/.cache/clip`, where OpenAI's package and open_clip keep theirs.
        progress: called as (bytes so far, all bytes or None).

    What is here already is not fetched again; a broken transfer goes on from its partial file where the server
    allows it. The file takes its place only when its SHA-256 is the one that is known (OpenAI's addresses hold it).

    Raises ModelError for an unknown name, no connection, an answer other than the file, or a wrong hash.
    """
    if name not in CATALOGUE:
        raise ModelError(f"unknown model {name!r}{did_you_mean(name, CATALOGUE)}")
    entry = CATALOGUE[name]
    if folder is None and url is None:
        here = cached_pretrained(entry.model, entry.tag)
        if here is not None:
            return here
    official = str(get_pretrained_cfg(entry.model, entry.tag).get("url") or "")
    if not official:
        raise ModelError(
            f"open_clip knows no address for {name!r}; load it as {entry.model!r} with {entry.tag!r}"
        )
    target = Path(folder or Path.home() / ".cache" / "clip") / Path(official).name
    expected = OPENAI_SHA256.get(target.name) or _hash_in(official)
    if target.is_file() and _sha256(target) == expected:
        return target
    part = target.with_name(target.name + ".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _transfer(url or official, part, progress)
        digest = _sha256(part)
        if digest != expected:
            part.unlink()
            raise ModelError(
                f"the file from {url or official} has SHA-256 {digest}, not {expected}: it is damaged or another "
                "file, and was removed; run the command again"
            )
        os.replace(part, target)
    except requests.RequestException as error:
        raise ModelError(
            f"{name!r} cannot be fetched from {url or official} ({type(error).__name__}); run the command again to "
            f"go on, or bring the file from a connected machine and put it at {target}"
        ) from None
    except OSError as error:
        raise ModelError(
            f"cannot write {target}: {error.strerror or error}; make room, then run it again"
        ) from error
    return target


def _hash_in(url: str) -> str:
    """The SHA-256 that OpenAI's addresses have as the file's folder. Raises ModelError if there is none."""
    digest = url.rsplit("/", 2)[-2]
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise ModelError(
            f"no hash is known for {url}; fetch it by hand and pass its path as pretrained"
        )
    return digest


def _transfer(url: str, part: Path, progress: Callable[[int, int | None], None] | None) -> None:
    """Append what is missing of a file to `part`; from the start if the server cannot go on."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            return  # all of it is here, or it is another file: its hash tells
        answer.raise_for_status()
        if answer.status_code != requests.codes.partial_content:
            have = 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        with part.open("ab" if have else "wb") as file:
            for block in answer.iter_content(_BLOCK):
                file.write(block)
                have += len(block)
                if progress is not None:
                    progress(have, total)
    if total is not None and have != total:
        raise requests.ConnectionError(f"the transfer broke off after {have} of {total} bytes")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with suppress(FileNotFoundError), path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
