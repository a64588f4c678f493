"""Archives: folders of pictures without labels that a method may look things up in."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ovsslib import paths
from ovsslib.errors import DataError
from ovsslib.images.pictures import read_picture

EMBEDDED = "scenes"
"""The archive that comes with the package, of drawn training pictures."""
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Archive:
    """Pictures of a folder, in the order of their paths.

    Attributes:
        name: what messages call it. files: the pictures.
    """

    name: str
    files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.files)

    def picture(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB. Raises ImageError for a file that cannot be read."""
        return read_picture(self.files[index])

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the files' contents in their order (16 hexadecimal digits); their names do not count."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()[:16]


def open_archive(name: str | Path) -> Archive:
    """An archive: "scenes" (comes with the package), or a folder of pictures, looked through with its subfolders.

    Raises DataError for a folder that is missing or holds no picture.
    """
    folder = paths.data(f"archives/{EMBEDDED}") if name == EMBEDDED else Path(name).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"there is no archive {str(name)!r}: give a folder of pictures, or {EMBEDDED!r} for the drawn ones that "
            "come with the package"
        )
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _ENDINGS and p.is_file())
    if not files:
        raise DataError(
            f"the archive {folder} holds no pictures ({', '.join(_ENDINGS)}); choose another folder"
        )
    return Archive(str(name), tuple(files))
