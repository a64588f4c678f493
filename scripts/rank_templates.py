"""Fits the tables of templates that the recipe `naclip-floss` reads on Scenes, on drawn training pictures without labels.

    python scripts/rank_templates.py                  # data/templates/naclip-scenes*.json, 60 pictures
    python scripts/rank_templates.py --pictures 200

Run it again after SceneCLIP has been trained anew: a table belongs to one set of weights and is refused with others.
"""

import argparse

from ovsslib import paths
from ovsslib.clip.loading import load_backbone
from ovsslib.recipe import Recipe
from ovsslib.scenes import SPLIT_SEEDS, draw
from ovsslib.segmenter import Segmenter
from ovsslib.study.templates import rank_templates

VIEWS = ("scenes", "scenes-object", "scenes-things")


def main() -> None:
    """Fit and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=60, help="number of training pictures (60)")
    parser.add_argument(
        "--dataset", choices=VIEWS, action="append", help="this one only (all three)"
    )
    options = parser.parse_args()
    count = options.pictures
    backbone = load_backbone("sceneclip")
    for view in options.dataset or VIEWS:
        # the base as it is fitted in the paper: without PAMR
        recipe = Recipe.named("naclip", view).but(pamr=False)
        pictures = (draw(SPLIT_SEEDS["train"], index).image for index in range(count))
        table = rank_templates(
            Segmenter(backbone, recipe), pictures, recipe["text"].vocabulary(view),
            source=f"fitted by this project on {count} drawn training pictures",
        )  # fmt: skip
        print(table.save(paths.data(f"templates/naclip-{view}.json")), flush=True)


if __name__ == "__main__":
    main()
