"""A film, frame by frame, with words that stay and logits that may be smoothed along time."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ovsslib import paths
from ovsslib.clip.memory import FreeMemory, memory_errors
from ovsslib.errors import DataError, ImageError
from ovsslib.images.pictures import PICTURE_SUFFIXES, Picture, open_untouched, read_picture
from ovsslib.images.segmentation import Segmentation
from ovsslib.segmenter.encoding import PictureInput, encode_pictures
from ovsslib.segmenter.many import find_pictures
from ovsslib.stages.windows import Stitched

if TYPE_CHECKING:
    from ovsslib.segmenter.segmenter import Segmenter


def read_frames(source: str | os.PathLike | Iterable[Picture]) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8 of a folder of numbered pictures, a film file, or a list of pictures, one at a time.

    Pictures of a folder come by the numbers in their names: frame2 before frame10. A film is read by imageio, which
    needs a plugin for its format (pip install "imageio[pyav]"); an animated GIF, PNG, WebP or TIFF is read as pictures
    are (transparency over white, 16-bit samples by their high byte). Raises DataError if it cannot be read, ImageError
    for a frame that is no picture.
    """
    if not isinstance(source, (str, os.PathLike)):
        yield from (read_picture(frame) for frame in source)
        return
    path = Path(source).expanduser()
    if paths.is_dir(path):
        found = find_pictures(path)
        yield from (read_picture(found[name]) for name in sorted(found, key=_by_number))
        return
    if not paths.is_file(path):
        raise DataError(
            f"{path} does not exist; give a film, a folder of frames, or a list of pictures"
        )
    if path.suffix.lower() in PICTURE_SUFFIXES:
        yield from _frames_of_picture(path)
        return
    import imageio.v3 as imageio  # late: only films need it

    try:
        for frame in imageio.imiter(path):
            yield _as_rgb(np.asarray(frame), path)
    except (OSError, ValueError, ImportError) as error:
        first = str(error).splitlines()[0]
        raise DataError(
            f'{path} cannot be read as a film ({first}); pip install "imageio[pyav]", or give its frames as a folder'
        ) from error


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts names by the numbers in them, where they are equal before: "frame2" before "frame10"."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in parts]


def _frames_of_picture(path: Path) -> Iterator[np.ndarray]:
    """Frames of a picture file that may hold several; of one that holds one, the picture."""
    with open_untouched(path) as image:
        count = getattr(image, "n_frames", 1)
        if count == 1:
            yield read_picture(path)
            return
        for number in range(count):
            image.seek(number)
            yield read_picture(image.copy())


def _as_rgb(frame: np.ndarray, path: Path) -> np.ndarray:
    """A frame as a film reader gives it -> (H, W, 3) uint8. Raises ImageError for samples whose scale is not known."""
    if frame.dtype != np.uint8:
        raise ImageError(
            f"the frames of {path} have {frame.dtype} samples; save it with 8 bits per sample"
        )
    return read_picture(Image.fromarray(frame))


def segment_frames(
    segmenter: "Segmenter",
    source: str | os.PathLike | Iterable[Picture],
    words: Any,
    background: Any = None,
    smoothing: float = 0.0,
) -> Iterator[Segmentation]:
    """Segment the frames of a film, in order.

    Args:
        source: as for :func:`read_frames`; all frames have one size if `smoothing` is on.
        words, background: as for :meth:`Segmenter.__call__`.
        smoothing: weight in [0, 1) of the past: each frame's window logits become (1 - s) times its own plus s times
            the smoothed ones of the frame before (an exponential mean), before refinement and labels. 0 is off.

    Raises DataError for a weight outside [0, 1), ImageError if the size of the frames changes under smoothing.
    """
    if not 0 <= smoothing < 1:
        raise DataError(f"smoothing={smoothing}: must lie in [0, 1)")
    text = segmenter.text(words, background)
    return _segmented(segmenter, source, text, smoothing)


def _segmented(
    segmenter: "Segmenter", source: Any, text: Any, smoothing: float
) -> Iterator[Segmentation]:
    past: Stitched | None = None
    rows, memory = segmenter.words(text), FreeMemory()
    for image in read_frames(source):
        picture = PictureInput(segmenter.prepare(image), image)
        encoded = encode_pictures([segmenter], picture, [rows])[0]
        with torch.no_grad(), memory_errors():
            logits = encoded.logits(rows, tuple(image.shape[:2]))
            if smoothing and past is not None:
                if past.size != logits.size:
                    raise ImageError(
                        f"a frame of {logits.size[0]} x {logits.size[1]} pixels follows one of {past.size[0]} x "
                        f"{past.size[1]}: smoothing needs frames of one size"
                    )
                logits.mix(past, smoothing)
            past = logits
            finished = segmenter.finish(logits, image, picture, text, confidence=True)
        memory.between_pictures()
        yield Segmentation(
            mask=finished.labels, names=list(text.vocabulary.names), image=image, recipe=segmenter.recipe.name,
            model=segmenter.backbone.name, confidence=finished.confidence, margin=finished.margin,
        )  # fmt: skip
