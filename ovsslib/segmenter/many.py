"""Many pictures, the same segmenter: read ahead by threads, segmented one after another, bad files set aside."""

import csv
import io
import os
import re
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ovsslib import paths
from ovsslib.clip.memory import FreeMemory
from ovsslib.errors import DataError, ImageError, OvssError, WordsError
from ovsslib.images.pictures import PICTURE_SUFFIXES, read_picture
from ovsslib.images.segmentation import Segmentation

if TYPE_CHECKING:
    from ovsslib.segmenter.segmenter import Segmenter

HEADINGS = ("picture", "name", "file", "image", "filename", "file_name", "file name", "path")
"""First cells, in lower case, by which the first row of a file of words per picture is a heading."""


def find_pictures(source: str | os.PathLike | Iterable[str | os.PathLike]) -> dict[str, Path]:
    """Pictures of a folder (recursive, linked folders too, sorted, hidden files left out) or a list of paths: {name: path}; such a mapping as it is.

    A name is the path below the folder with "/"; for a list, the path as it was given. Raises DataError for a folder
    that is missing or holds no picture, for a path that is given twice, and for a list of what is no path.
    """
    if isinstance(source, Mapping):
        return {str(name): _path(place) for name, place in source.items()}
    if not isinstance(source, (str, os.PathLike)):
        places = [_path(place) for place in source]
        pictures = {path.as_posix(): path for path in places}
        if len(pictures) < len(places):
            raise DataError("a picture is listed twice; list each once")
        return pictures
    folder = Path(source).expanduser()
    if paths.is_file(folder):
        return {folder.name: folder}
    if not paths.is_dir(folder):
        raise DataError(f"{folder} does not exist; give a folder of pictures, or a list of paths")
    pictures_below = {}
    for path in sorted(paths.files_below(folder)):
        relative_path = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative_path.parts)
        if path.suffix.lower() in PICTURE_SUFFIXES and not hidden:
            pictures_below[relative_path.as_posix()] = path
    if not pictures_below:
        raise DataError(
            f"{folder} holds no picture ({', '.join(sorted(PICTURE_SUFFIXES))}); give another folder"
        )
    return pictures_below


def _path(place: Any) -> Path:
    if not isinstance(place, (str, os.PathLike)):
        raise DataError(
            f"a list of pictures holds paths, not {type(place).__name__}; for pictures in memory call the segmenter once "
            "for each, or use its frames()"
        )
    return Path(place)


def read_words_by_picture(path: str | os.PathLike) -> dict[str, list[str]]:
    """Words per picture from a CSV file: its first column is the picture's name, the further ones its words.

    A single further column may hold several words, separated by ";" or ",". Columns are separated by ",", or by ";" or a
    tab where that comes first in every row (as spreadsheets write it in many countries). A first row that begins with
    one of HEADINGS is a heading. Raises WordsError for a file that cannot be read or holds no words, a row without words
    or a picture that has two rows.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        firsts = {mark[0] for line in text.splitlines() if (mark := re.search("[,;\t]", line))}
        reader = csv.reader(io.StringIO(text), delimiter=firsts.pop() if len(firsts) == 1 else ",")
        rows = [[cell.strip() for cell in row] for row in reader]
    except UnicodeDecodeError:
        raise WordsError(
            f"the words of {path} are not in UTF-8; save the table as CSV in UTF-8"
        ) from None
    except (OSError, csv.Error) as error:
        raise WordsError(f"cannot read the words of {path}: {error}; give a CSV file") from None
    words_of: dict[str, list[str]] = {}
    for number, row in enumerate(rows, start=1):
        if not any(row) or (number == 1 and row[0].lower() in HEADINGS):
            continue
        cells = [cell for cell in row[1:] if cell]
        words = [
            w.strip() for cell in cells for w in cell.replace(";", ",").split(",") if w.strip()
        ]
        if not words:
            raise WordsError(
                f"{path}, line {number}: {row[0]!r} has no words; add some or remove the line"
            )
        if row[0] in words_of:
            raise WordsError(f"{path}, line {number}: {row[0]!r} has words already; keep one line")
        words_of[row[0]] = words
    if not words_of:
        raise WordsError(f"{path} holds no words; write lines such as: photo.jpg,dog,grass")
    return words_of


class Many:
    """A run over many pictures: iterate over it for (name, result).

    Made by :meth:`Segmenter.many`. A picture that cannot be read or used is set aside, not raised.

    Attributes:
        names: of all pictures, in the order of the run.
        failed: {name: what is wrong}, filled as the run goes on.
    """

    def __init__(
        self,
        segmenter: "Segmenter",
        source: str | os.PathLike | Iterable[str | os.PathLike],
        words: Any,
        background: str | Sequence[str] | None = None,
        keep_scores: bool = False,
        workers: int = 2,
        skip: Iterable[str] = (),
    ):
        if not isinstance(workers, int) or workers < 1:
            raise DataError(f"workers={workers}: at least one thread must read pictures")
        self.segmenter, self.keep_scores, self.workers = segmenter, keep_scores, workers
        skipped = {skip} if isinstance(skip, str) else set(skip)
        every = find_pictures(source)
        self.pictures = {n: p for n, p in every.items() if n not in skipped}
        self.names = list(self.pictures)
        self.failed: dict[str, str] = {}
        self._by_picture = isinstance(words, WordsByPicture)
        if self._by_picture:
            warn_of_unused(words, every, stacklevel=4)
        else:
            _refuse_pictures_as_words(words, every)
        self._words, self._background = words, background
        self._text = None if self._by_picture else segmenter.text(words, background)
        self._run = self._results()

    def __len__(self) -> int:
        """Number of pictures, those that will fail included."""
        return len(self.names)

    def __iter__(self) -> Iterator[tuple[str, Segmentation]]:
        return self._run

    def __next__(self) -> tuple[str, Segmentation]:
        return next(self._run)

    def _results(self) -> Iterator[tuple[str, Segmentation]]:
        memory = FreeMemory()
        for name, image in self._read_ahead():
            try:
                if isinstance(image, OvssError):
                    raise image
                text = self._text or self.segmenter.text(self._words.of(name), self._background)
                result = self.segmenter.segment(image, text, self.keep_scores, confidence=True)
            except OvssError as error:
                self.failed[name] = str(error)
                continue
            memory.between_pictures()
            yield name, result
        if self.failed:
            first = next(iter(self.failed.items()))
            warnings.warn(
                f"{len(self.failed)} of {len(self.names)} pictures could not be used; the first is {first[0]}: "
                f"{first[1]} (all of them: `failed`)",
                stacklevel=2,
            )

    def _read_ahead(self) -> Iterator[tuple[str, np.ndarray | OvssError]]:
        """Pictures in order; a bounded number of them is read ahead, so memory does not grow with the run."""
        with ThreadPoolExecutor(self.workers, "read") as pool:
            waiting: deque[tuple[str, Future]] = deque()
            try:
                for name, path in self.pictures.items():
                    waiting.append((name, pool.submit(_read, path)))
                    if len(waiting) > self.workers + 1:
                        first, future = waiting.popleft()
                        yield first, future.result()
                while waiting:
                    first, future = waiting.popleft()
                    yield first, future.result()
            finally:
                for _, future in waiting:
                    future.cancel()


def warn_of_unused(words: "WordsByPicture", names: Iterable[str], stacklevel: int = 3) -> None:
    """Warn of listed pictures that are none of these, or whose picture another line names more exactly."""
    unused = words.unused(names)
    if unused:
        listed = ", ".join(repr(name) for name in unused[:3])
        warnings.warn(
            f"words are listed for {len(unused)} picture(s) that are not here: {listed}; check the names",
            stacklevel=stacklevel,
        )


def _refuse_pictures_as_words(words: Any, names: Iterable[str]) -> None:
    """Raise WordsError for a mapping of pictures to their words, which would be read as words with synonyms."""
    if isinstance(words, Mapping) and (keys := words.keys() & {*names}):
        raise WordsError(
            f"{min(keys)!r} is one of the pictures and no word; for words per picture give WordsByPicture({{...}})"
        )


class WordsByPicture:
    """Words that differ from picture to picture.

    Args:
        words: {name of a picture: its words}. A picture is looked up by its name below the folder, then by its file
            name, then by that without its suffix.
        usual: words of pictures that are not listed; None refuses them.
    """

    def __init__(self, words: Mapping[str, Sequence[str]], usual: Any = None):
        self.words, self.usual = dict(words), usual

    def unused(self, names: Iterable[str]) -> list[str]:
        """Listed pictures that are none of these."""
        keys = {self._key(name) for name in names}
        return [key for key in self.words if key not in keys]

    def _key(self, name: str) -> str | None:
        keys = (name, Path(name).name, Path(name).stem)
        return next((key for key in keys if key in self.words), None)

    def of(self, name: str) -> Any:
        """Words of a picture. Raises WordsError for one that has none."""
        key = self._key(name)
        if key is not None:
            return self.words[key]
        if self.usual is None:
            raise WordsError(f"no words are listed for {name!r}; add a line for it")
        return self.usual


def _read(path: Path) -> np.ndarray | OvssError:
    try:
        return read_picture(path)
    except ImageError as error:
        return error
