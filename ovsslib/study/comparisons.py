"""Published comparisons that can be measured with an embedded profile as well: see `proxy`.

Each is one source's table, or tables of one data set, whose numbers may be ranked against each
other. The numbers themselves are claims, by their id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ovsslib.errors import DataError

_RESCLIP, _CLEARCLIP = "resclip-paper-vit-b-16-{}-miou", "clearclip-paper-vit-b-16-{}-miou"


@dataclass(frozen=True)
class Entry:
    """One thing that was published and can be measured: a name, the claim's id, and what to
    measure.

    `recipe` None: the recipe and the changes that the claim itself names.
    """

    name: str
    claim: str
    recipe: str | None = None
    changes: str = ""


@dataclass(frozen=True)
class Comparison:
    """Published numbers that may be ranked against each other: one source's table, or tables on one
    data set.

    `note` says what a reader should know about them, such as differing protocols.
    """

    name: str
    entries: tuple[Entry, ...]
    note: str = ""


def _methods(column: str, more: tuple[Entry, ...] = ()) -> tuple[Entry, ...]:
    """Entries of the table in ResCLIP's paper, which has all methods without post-processing."""
    rows = (
        ("CLIP", "clip", ""),
        ("MaskCLIP", "maskclip", ""),
        ("SCLIP", "sclip", ""),
        ("ClearCLIP", "clearclip", ""),
        ("NACLIP", "naclip", "pamr=false"),
    )
    entries = [
        Entry(name, _RESCLIP.format(f"{recipe}-{column}"), recipe, changes)
        for name, recipe, changes in rows
    ]
    resclip = Entry("ResCLIP", _RESCLIP.format(f"naclip+resclip-{column}"), "resclip")
    return (*entries, resclip, *more)


def _table(ids: Mapping[str, str]) -> tuple[Entry, ...]:
    return tuple(Entry(name, id) for name, id in ids.items())


COMPARISONS: tuple[Comparison, ...] = (
    Comparison(
        "methods, COCO-Stuff",
        _methods(
            "coco-stuff",
            (
                Entry("GEM", _CLEARCLIP.format("gem-coco-stuff"), "gem"),
                Entry("CLIPtrase", "cliptrase-repo-readme-224-coco-stuff-miou", "cliptrase"),
                Entry("ITACLIP", "itaclip-t5-off-coco-stuff-miou"),
            ),
        ),
        "without PAMR; GEM, CLIPtrase and ITACLIP are from their own sources and protocols",
    ),
    Comparison(
        "methods, mean of 5 data sets",
        _methods("average5", (Entry("GEM", _CLEARCLIP.format("gem-average5"), "gem"),)),
        "VOC20, Context59, COCO-Stuff, Cityscapes, ADE20K; no PAMR; GEM from ClearCLIP's paper",
    ),
    Comparison(
        "methods, mean of 3 data sets",
        _methods("average3"),
        "VOC21, Context60, COCO-Object, which have a background; without PAMR",
    ),
    Comparison(
        "attention sums, VOC21",
        _table(
            {
                "q-k": "itaclip-t2-qk-miou",
                "q-q": "itaclip-t2-qq-miou",
                "k-k": "itaclip-t2-kk-miou",
                "v-v": "itaclip-t2-vv-miou",
                "q-q + k-k": "itaclip-t2-qq+kk-miou",
                "q-q + v-v": "itaclip-t2-qq+vv-miou",
                "q-q + k-k + v-v": "itaclip-t2-qq+kk+vv-miou",
            }
        ),
        "ITACLIP's Table 2, with PAMR",
    ),
    Comparison(
        "feed-forward network, COCO-Stuff",
        _table(
            {
                "kept": "itaclip-t3-kept-coco-stuff-miou",
                "removed": "itaclip-t3-removed-coco-stuff-miou",
            }
        ),
        "ITACLIP's Table 3, with PAMR",
    ),
    Comparison(
        "middle layers, VOC21",
        _table(
            {
                "none": "itaclip-t4-none-miou",
                "7": "itaclip-t4-7-miou",
                "8": "itaclip-t4-8-miou",
                "7, 8": "itaclip-t4-7+8-miou",
                "7, 8, 10": "itaclip-t4-7+8+10-miou",
                "7, 8, 9, 10": "itaclip-t4-7+8+9+10-miou",
            }
        ),
        "ITACLIP's Table 4, without PAMR; the published numbers lie within 0.6 points",
    ),
    Comparison(
        "stride, COCO-Stuff",
        _table({s: f"itaclip-t7-{s}-coco-stuff-miou" for s in ("224", "112", "56", "28")}),
        "ITACLIP's Table 7, with PAMR; on Scenes strides 224 and 112 give the same two windows",
    ),
    Comparison(
        "PAMR on ITACLIP, COCO-Stuff",
        _table({"off": "itaclip-t5-off-coco-stuff-miou", "on": "itaclip-t5-on-coco-stuff-miou"}),
        "ITACLIP's Table 5",
    ),
    Comparison(
        "PAMR on SCLIP, COCO-Stuff",
        _table(
            {
                "off": "sclip-paper-main-sclip-coco-stuff-miou",
                "on": "sclip-paper-main-sclip-pamr-coco-stuff-miou",
            }
        ),
        "SCLIP's paper",
    ),
    Comparison(
        "PAMR on NACLIP, COCO-Stuff",
        _table(
            {
                "off": "naclip-paper-main-naclip-coco-stuff-miou",
                "on": "naclip-repo-readme-naclip-coco-stuff-miou",
            }
        ),
        "NACLIP's paper (off) and repository (on)",
    ),
)
"""All published comparisons that the embedded profile can measure."""


def select(which: int | str | Sequence[str] | None = None) -> tuple[Comparison, ...]:
    """Some of `COMPARISONS`: all (None), the first few (a number), or those of the given name or
    names.

    Raises DataError, with what there is, for a number outside 1..all or a name that is none.
    """
    if which is None:
        return COMPARISONS
    if isinstance(which, int):
        if not 1 <= which <= len(COMPARISONS):
            raise DataError(f"there are 1 to {len(COMPARISONS)} comparisons, not {which}")
        return COMPARISONS[:which]
    by_name = {comparison.name: comparison for comparison in COMPARISONS}
    names = [which] if isinstance(which, str) else list(which)
    unknown = [name for name in names if name not in by_name]
    if unknown or not names:
        raise DataError(
            f"no comparison {unknown}; there are {list(by_name)}; several go to papermill with "
            "-y 'comparisons: [\"stride, COCO-Stuff\", ...]'"
        )
    return tuple(by_name[name] for name in names)
