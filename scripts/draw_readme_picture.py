"""Draw the picture of the README and the landing page: a picture of Scenes, and the same under its words.

Usage: python scripts/draw_readme_picture.py. The picture, the words and the recipe are named in the caption there.
"""

from pathlib import Path

from PIL import Image

import ovsslib
from ovsslib.paths import data

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "book" / "images" / "readme.png"
PICTURE = "images/val/000059.jpg"
WORDS = ["road", "dirt", "person", "car", "bicycle"]
GAP = 16


def draw() -> Image.Image:
    """The picture on the left, the overlay with its legend on the right, on white."""
    file = data("scenes") / PICTURE
    result = ovsslib.load("naclip", model="sceneclip")(file, WORDS)
    overlay = result.overlay()
    height, width = result.mask.shape
    plain = Image.open(file).convert("RGB")
    plain = plain.resize(
        (overlay.width, round(overlay.width * height / width)), Image.Resampling.LANCZOS
    )
    sheet = Image.new("RGB", (2 * overlay.width + GAP, overlay.height), "white")
    sheet.paste(plain, (0, 0))
    sheet.paste(overlay, (overlay.width + GAP, 0))
    return sheet


if __name__ == "__main__":
    OUT.parent.mkdir(exist_ok=True)
    draw().save(OUT, optimize=True)
    print(OUT.relative_to(ROOT), OUT.stat().st_size, "bytes")
