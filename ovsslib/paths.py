"""Where the library finds its own data and where it may write.

Shipped data (vocabularies, recipes, scenes, models, results) is read-only. Whatever the library makes
at run time goes to one cache folder per user, `$OVSSLIB_CACHE` if that is set.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path

import platformdirs

from ovsslib.errors import DataError

_PACKAGE = Path(__file__).resolve().parent


def data_root() -> Path:
    """Folder of the shipped data: `data/` of a checkout, `ovsslib/_data/` of an installed wheel."""
    installed = _PACKAGE / "_data"
    if installed.is_dir():
        return installed
    checkout = _PACKAGE.parent / "data"
    if checkout.is_dir():
        return checkout
    raise DataError(
        f"the shipped data is neither at {installed} nor at {checkout}; reinstall ovsslib "
        "(pip install --force-reinstall) or work from a complete checkout"
    )


def data(relative: str = "") -> Path:
    """Path of a shipped file or folder, e.g. `data("recipes/sclip.yaml")`. It need not exist."""
    return data_root() / relative


def cache_path(relative: str = "") -> Path:
    """Where a folder of the user's cache is; it need not be there."""
    try:
        root = Path(os.environ.get("OVSSLIB_CACHE") or platformdirs.user_cache_dir("ovsslib"))
        return root.expanduser() / relative
    except (RuntimeError, KeyError, OSError) as error:  # no HOME, a user without an entry
        raise DataError(
            f"there is no home folder to keep a cache in ({error}); set OVSSLIB_CACHE to a folder that can be written"
        ) from None


def cache(relative: str = "") -> Path:
    """A folder of the user's cache, made if it is missing. Raises DataError if it cannot be made."""
    folder = cache_path(relative)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot make the cache folder {folder} ({error.strerror}); "
            "set OVSSLIB_CACHE to a folder that can be written"
        ) from error
    return folder


def write_file(path: str | os.PathLike[str], content: bytes, make_folder: bool = False) -> Path:
    """Write a file in one step, so that it is whole at any time; an existing one is replaced.

    Args:
        make_folder: make its folder if that is missing.

    Raises DataError if it cannot be written, and leaves nothing behind then.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror or error}; make room, or choose a folder that exists and "
            "can be written (OVSSLIB_CACHE moves the cache)"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    return path
