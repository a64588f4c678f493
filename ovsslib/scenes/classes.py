"""The classes of Scenes, the words spoken for them, and the colours things come in.

Names follow COCO-Stuff ("wall-brick", "floor-wood"); captions use the spoken words.
"""

import numpy as np

STUFF = (
    "sky", "grass", "sea", "sand", "road", "snow", "dirt", "wall-brick", "wall-stone", "wall-plain",
    "floor-wood", "floor-tile", "mountain", "bush",
)  # fmt: skip
THINGS = (
    "person",
    "dog",
    "cat",
    "horse",
    "bird",
    "cow",
    "car",
    "bus",
    "bicycle",
    "boat",
    "tree",
    "house",
    "bottle",
    "fork",
    "cup",
    "ball",
    "umbrella",
    "chair",
    "rug",
    "bench",
)
CLASSES = STUFF + THINGS
CLASS_INDEX = {name: index for index, name in enumerate(CLASSES)}

SPOKEN = {name: name for name in CLASSES} | {
    "wall-brick": "brick wall",
    "wall-stone": "stone wall",
    "wall-plain": "plain wall",
    "floor-wood": "wood floor",
    "floor-tile": "tile floor",
}

#: Words that captions use for a class; the first is the spoken word, repeats make a word likelier.
SYNONYMS = {
    "person": ("person", "person", "person", "man", "woman"),
    "sea": ("sea", "sea", "sea", "water", "ocean"),
    "road": ("road", "road", "street"),
    "dirt": ("dirt", "dirt", "earth"),
    "bicycle": ("bicycle", "bicycle", "bike"),
    "boat": ("boat", "boat", "boat", "ship"),
    "rug": ("rug", "rug", "carpet"),
    "mountain": ("mountain", "mountain", "mountains"),
    "bush": ("bush", "bush", "bushes"),
    "wall-plain": ("plain wall", "plain wall", "painted wall"),
    "floor-wood": ("wood floor", "wood floor", "wooden floor"),
    "floor-tile": ("tile floor", "tile floor", "tiled floor"),
}

#: Parts of a person in `Scene.parts`; 0 is everything that is no part of a person.
PARTS = ("none", "head", "torso", "arms", "legs")

COLOURS = {
    "red": (200, 38, 38),
    "orange": (236, 130, 32),
    "yellow": (236, 208, 52),
    "green": (42, 146, 64),
    "blue": (42, 84, 200),
    "purple": (128, 52, 158),
    "pink": (240, 132, 178),
    "brown": (122, 78, 44),
    "black": (34, 34, 37),
    "white": (236, 236, 232),
    "gray": (136, 136, 140),
}


def _mapping(stuff_value: int | None, thing_start: int) -> np.ndarray:
    table = np.full(256, 255, np.uint8)
    for index in range(len(CLASSES)):
        if index >= len(STUFF):
            table[index] = index - len(STUFF) + thing_start
        else:
            table[index] = index if stuff_value is None else stuff_value
    return table


#: Lookup tables (256,) uint8 from stored label to the label of a view; 255 is ignored.
#: `scenes`: all 34 classes; `scenes-object`: 0 = background (all stuff), things 1..20;
#: `scenes-things`: things 0..19, stuff ignored. Use as `VIEWS["scenes-object"][labels]`.
VIEWS = {
    "scenes": _mapping(None, len(STUFF)),
    "scenes-object": _mapping(0, 1),
    "scenes-things": _mapping(255, 0),
}

#: Class names of each view, in label order.
VIEW_CLASSES = {
    "scenes": CLASSES,
    "scenes-object": ("background", *THINGS),
    "scenes-things": THINGS,
}
