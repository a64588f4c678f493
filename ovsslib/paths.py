"""Where the library finds its own data and where it may write.

Shipped data (vocabularies, recipes, scenes, models, results) is read-only. Whatever the library makes
at run time goes to one cache folder per user, `$OVSSLIB_CACHE` if that is set.
"""

import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from ovsslib.errors import DataError, ModelError

_PACKAGE = Path(__file__).resolve().parent


# The functions of pathlib raise for names that no file can have (too long, with a zero byte); these say False.
exists, is_dir, is_file = os.path.exists, os.path.isdir, os.path.isfile


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
    with replacing(path, make_folder) as temporary:
        temporary.write_bytes(content)
    return Path(path)


@contextmanager
def replacing(
    path: str | os.PathLike[str],
    make_folder: bool = False,
    sync: bool = True,
    remedy: str = "make room, or choose a folder that exists and can be written (OVSSLIB_CACHE moves the cache)",
) -> Iterator[Path]:
    """A temporary file beside `path` for a writer that needs a name; it takes that place when the block ends.

    A link stays a link (what it points to is replaced), a file keeps its mode, and what is no file (a pipe, a
    device) is written into.

    Args:
        make_folder: make its folder if that is missing.
        sync: wait until the content is on the disk; not worth the time for thousands of files that can be made again.
        remedy: end of the error message.

    Raises DataError if it cannot be written, and leaves nothing behind then.
    """
    path = Path(path)
    if "\0" in str(path):
        raise DataError(f"cannot write {str(path)!r}: no file can have that name; choose another")
    target = Path(os.path.realpath(path)) if os.path.islink(path) else path
    if os.path.exists(path) and not os.path.exists(target):
        target = path  # /dev/stdout: a link whose text names a pipe, and no path
    special = os.path.exists(target) and not os.path.isfile(target) and not os.path.isdir(target)
    folder = Path(tempfile.gettempdir()) if special else target.parent
    temporary = folder / f".{path.name[:40]}.{secrets.token_hex(8)}.part"
    try:
        if make_folder:
            target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = stat.S_IMODE((target if os.path.isfile(target) else temporary).stat().st_mode)
        yield temporary
        if special:
            target.write_bytes(temporary.read_bytes())
            return
        os.chmod(temporary, mode)  # some writers let nobody but the owner read
        if sync:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        put_in_place(temporary, target)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}; {remedy}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder, linked folders followed (each once), hidden files left out."""
    visited = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders.sort()  # which of two links to a folder is followed must not depend on the disk
        yield from (Path(parent) / name for name in names if not name.startswith("."))


def put_in_place(source: Path, target: str | os.PathLike[str]) -> None:
    """Give a finished file its name, in one step; an existing one is replaced. Raises OSError."""
    os.replace(source, target)


def hub_file(entry: str, name: str) -> Path | None:
    """A file of an entry of the Hugging Face hub ("owner/name") in the local cache, or None; looks at no network.

    Raises ModelError for a text that is no entry's name.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(entry, name)
    except HFValidationError:
        raise ModelError(
            f"{entry!r} is neither a path that exists here nor a name of the Hugging Face hub (owner/name); check it"
        ) from None
    return Path(cached) if isinstance(cached, str) else None
