"""What the values stored in label files mean: one lookup table per data set and file form.

A table has 256 int16 entries: stored value -> label 0..C-1, IGNORE for "no class", or INVALID for a
value that the data set does not have (a sign of a wrong or unconverted file). Facts from
mmsegmentation's data set classes and converters and from the data sets' own documentation.
"""

import numpy as np

from ovsslib.errors import DataError

IGNORE = 255
"""Label of pixels that no metric looks at."""
INVALID = -1

COCO_MISSING = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""Raw COCO pixel values (category id - 1) up to 90 that no category has."""

CITYSCAPES_CLASSES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Cityscapes label ids of the train ids 0..18; all other ids are ignored."""

CONTEXT_IDS = (
    *(0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105),
    *(113, 115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308),
    *(324, 326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454),
    458,
)
"""The original ids in PASCAL Context (of 459) of background (0) and the 59 frequent classes; label =
rank."""

SCENES_STUFF = 14
"""Labels 0..13 of Scenes are stuff, 14..33 things."""
SCENES_THINGS = 20


def identity(classes: int) -> np.ndarray:
    """Table of files that store the label itself: 0..classes-1, 255 ignored."""
    table = np.full(256, INVALID, dtype=np.int16)
    table[:classes] = np.arange(classes)
    table[IGNORE] = IGNORE
    return table


def reduce_zero_label(classes: int) -> np.ndarray:
    """Table of files in which 0 is "no class": 0 -> ignored, k -> k - 1, 255 stays ignored."""
    table = np.full(256, INVALID, dtype=np.int16)
    table[1 : classes + 1] = np.arange(classes)
    table[0] = IGNORE
    table[IGNORE] = IGNORE
    return table


def coco_stuff_raw() -> np.ndarray:
    """Raw stuffthingmaps -> 171 COCO-Stuff classes: 80 things 0..79, 91 stuff 80..170, 255
    ignored."""
    table = np.full(256, INVALID, dtype=np.int16)
    things = [value for value in range(91) if value not in COCO_MISSING]
    table[things] = np.arange(80)
    table[91:182] = np.arange(80, 171)
    table[IGNORE] = IGNORE
    return table


def coco_object_raw() -> np.ndarray:
    """Raw stuffthingmaps -> COCO-Object: things 1..80; stuff and unlabelled (255) are background,
    0.

    Nothing is ignored: that is how the published numbers count (ClearCLIP, SCLIP and their
    successors).
    """
    table = coco_stuff_raw()
    things = (table >= 0) & (table < 80)
    result = np.where(things, table + 1, table).astype(np.int16)
    result[91:182] = 0
    result[IGNORE] = 0
    return result


def cityscapes_raw() -> np.ndarray:
    """Cityscapes label ids 0..33 (and 255 for -1) -> 19 train ids, everything else ignored."""
    table = np.full(256, INVALID, dtype=np.int16)
    table[:34] = IGNORE
    table[list(CITYSCAPES_CLASSES)] = np.arange(19)
    table[IGNORE] = IGNORE
    return table


def scenes_object() -> np.ndarray:
    """Scenes seen as VOC21 is: stuff -> 0 (background), things -> 1..20."""
    table = identity(SCENES_STUFF + SCENES_THINGS)
    table[:SCENES_STUFF] = 0
    table[SCENES_STUFF : SCENES_STUFF + SCENES_THINGS] -= SCENES_STUFF - 1
    return table


def scenes_things() -> np.ndarray:
    """Scenes seen as VOC20 is: stuff ignored, things -> 0..19."""
    table = identity(SCENES_STUFF + SCENES_THINGS)
    table[:SCENES_STUFF] = IGNORE
    table[SCENES_STUFF : SCENES_STUFF + SCENES_THINGS] -= SCENES_STUFF
    return table


def context_ranks(stored: np.ndarray, where: str) -> np.ndarray:
    """PASCAL Context ids (of 459), (H, W) integers -> labels 0..59, uint8. Rare classes become 0.

    Raises DataError for a value outside 0..459.
    """
    if stored.size and (stored.min() < 0 or stored.max() > 459):
        raise DataError(
            f"{where} holds values from {stored.min()} to {stored.max()}; PASCAL Context has 0..459"
        )
    table = np.zeros(460, dtype=np.uint8)
    table[list(CONTEXT_IDS)] = np.arange(len(CONTEXT_IDS))
    return table[stored]


def relabel(stored: np.ndarray, table: np.ndarray, where: str) -> np.ndarray:
    """Stored values (H, W) integers -> labels (H, W) uint8 by a table of this module.

    Raises DataError that names `where` and the values that the table does not have.
    """
    if stored.size and (stored.min() < 0 or stored.max() > 255):
        raise DataError(
            f"{where} holds values from {stored.min()} to {stored.max()}; labels here are 0..255"
        )
    labels = table[stored]
    if (labels == INVALID).any():
        wrong = np.unique(stored[labels == INVALID])
        shown = ", ".join(str(value) for value in wrong[:8]) + (" ..." if wrong.size > 8 else "")
        raise DataError(
            f"{where} holds the label {shown}, which this data set does not have; "
            "is it the right data set, and the right form (raw or converted)?"
        )
    return labels.astype(np.uint8)
