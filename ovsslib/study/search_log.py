"""How the recipe `ovss-best` was found: the trials of its search, and the one measurement where nothing was chosen."""

import pandas as pd

from ovsslib import paths
from ovsslib.evaluation.intervals import written
from ovsslib.recipe import Recipe
from ovsslib.study.settling import encoder_work

BEST, BASE = "ovss-best", "itaclip"
_STARTS = {0: BASE, 1: BASE, 2: "2: start", 3: "3: start", 4: "2: logit scale 25"}
"""Trial that the trials of a round change, as the comments of the grid say."""


def trials() -> pd.DataFrame:
    """Every trial on the development split, in the order of the search.

    Index trial (the base first); columns round (0 for the base), images, miou, low, high (percent), difference,
    difference_low, difference_high (points over the base, paired), verdict, boundary_f1.
    """
    frame = _read("ovss-best.csv", "trial")
    rounds = [int(name.partition(":")[0]) if ":" in name else 0 for name in frame.index]
    frame.insert(0, "round", rounds)
    return frame


def rounds() -> pd.DataFrame:
    """What each round tried: index round (0: the base itself); columns trials, start (mIoU of the trial that the round
    changes), best (name), its mIoU, range of all ("70.7 to 82.5"), percent.
    """
    rows = {}
    frame = trials()
    for number, part in frame.groupby("round"):
        best = part["miou"].idxmax()
        rows[number] = {
            "trials": len(part),
            "start, mIoU, %": frame.loc[_STARTS[number], "miou"],
            "best": best.partition(": ")[2] or best,
            "mIoU, %": part.loc[best, "miou"],
            "all of them, %": f"{part['miou'].min():.1f} to {part['miou'].max():.1f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("round")


def tested() -> pd.DataFrame:
    """The recipe and its base on the test split, which took part in no choice; columns as :func:`trials`, less round."""
    return _read("ovss-best-test.csv", "recipe")


def gain_on_test() -> str:
    """The paired difference on the test split, as tables print one."""
    row = tested().loc[BEST]
    ends = row["difference_low"], row["difference_high"]
    return written(row["difference"], *ends, "+.2f", " points")


def forwards(dataset: str, image_size: tuple[int, int]) -> pd.Series:
    """Forwards of the image encoder that one image of (height, width) pixels takes: the base's and the recipe's."""
    work = {n: encoder_work(Recipe.named(n, dataset), image_size)[1] for n in (BASE, BEST)}
    return pd.Series(work, name="forwards")


def _read(name: str, index: str) -> pd.DataFrame:
    return pd.read_csv(
        paths.data(f"searches/{name}"), index_col=index, keep_default_na=True
    ).fillna({"verdict": ""})
