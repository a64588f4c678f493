"""Draw the embedded archive of pictures that ReCo looks words up in: training pictures of Scenes, without labels.

Usage: python scripts/draw_archive.py [FOLDER]. The pictures come from the seed of the training split, whose textures
no validation or test picture shares. Each class is shown by at least MINIMUM of them.
"""

import sys
from pathlib import Path

from PIL import Image

from ovsslib.paths import data
from ovsslib.scenes import SPLIT_SEEDS, draw
from ovsslib.scenes.dataset_files import balanced_indices

COUNT, MINIMUM, QUALITY = 160, 12, 90


def main(folder: Path) -> None:
    """Write the pictures as JPEG files numbered by their index in the world."""
    folder.mkdir(parents=True, exist_ok=True)
    seed = SPLIT_SEEDS["train"]
    for index in balanced_indices(seed, COUNT, MINIMUM):
        picture = Image.fromarray(draw(seed, index).image)
        picture.save(folder / f"{index:06d}.jpg", quality=QUALITY, optimize=True)
    print(f"{COUNT} pictures in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else data("archives/scenes"))
