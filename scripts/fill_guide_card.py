"""Writes the measured table of SceneDINO's card, between its two marks.

    python scripts/fill_guide_card.py --pictures 100

Do the nearest patches of a patch carry its label? SceneDINO's patches against SceneCLIP's, on validation pictures of
Scenes. Run it after every training, so that no number of the card is typed.
"""

import argparse
import sys

import numpy as np
from marked_parts import refill

import ovsslib
from ovsslib import guides, paths
from ovsslib.evaluation.intervals import written
from ovsslib.study.neighbours import (
    agreement,
    clip_maps,
    guide_maps,
    mean_colour,
    on_grid,
    paired_difference,
    patch_labels,
)

BEGIN, END = "<!-- measured: scripts/fill_guide_card.py -->", "<!-- end of measured -->"
OURS = "SceneDINO"
# Patches of a picture that ask in other pictures: enough for the mean, and the work stays small.
QUERIES = 12


def collect(guide: guides.Guide, backbone: ovsslib.Backbone, pictures: int):
    """Feature maps of every contender, name -> list, and the labels of their patches, name -> list."""
    dataset = ovsslib.open_dataset("scenes")
    maps, labels = {}, {}
    for index in np.linspace(0, len(dataset) - 1, min(pictures, len(dataset))).astype(int):
        image, label, _ = dataset[int(index)]
        image, label = np.asarray(image), np.asarray(label)
        guide_features, clip = guide_maps(guide, image), clip_maps(backbone, image)
        coarse = next(iter(clip.values())).shape[1:]
        # At the places that both see: SceneCLIP's 16-pixel patches, each four of SceneDINO's.
        fine = (2 * coarse[0], 2 * coarse[1])
        small = {kind: map_[:, : fine[0], : fine[1]] for kind, map_ in guide_features.items()}
        height, width = fine[0] * 8, fine[1] * 8
        colours = {"mean colour": mean_colour(guide, image[:height, :width])}
        every = (
            (OURS, small, 8),
            ("SceneCLIP, brought to the same places", on_grid(clip, fine), 8),
            ("SceneCLIP, its own 16-pixel patches", clip, 16),
            ("mean colour of 8 x 8 pixels", colours, 8),
        )
        for name, features, patch in every:
            maps.setdefault(name, []).append(features)
            labels.setdefault(name, []).append(patch_labels(label[:height, :width], patch))
    return maps, labels


def best_kind(maps: list, labels: list, within: bool) -> tuple[str, np.ndarray]:
    """The kind of features with the highest agreement, and the agreement of every picture."""
    shares = {
        kind: agreement(
            [features[kind] for features in maps],
            labels,
            within=within,
            queries=None if within else QUERIES,
        )
        for kind in maps[0]
    }
    best = max(shares, key=lambda kind: shares[kind].mean())
    return best, shares[best]


def table(maps: dict, labels: dict, within: bool) -> str:
    """One row per contender: its best kind of features, its agreement, SceneDINO minus it."""
    best = {name: best_kind(maps[name], labels[name], within) for name in maps}
    ours = best[OURS][1]
    rows = [["patches of", "best features", "agreement, %", f"{OURS} minus it"], ["---"] * 4]
    for name, (kind, shares) in best.items():
        gap = paired_difference(ours, shares)
        points = written(100 * gap.value, 100 * gap.low, 100 * gap.high, "+.1f")
        rows.append([name, kind, f"{100 * shares.mean():.1f}", "" if name == OURS else points])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=100)
    pictures = parser.parse_args().pictures
    maps, labels = collect(guides.load(), ovsslib.load_backbone("sceneclip"), pictures)
    text = f"""Share of the 20 nearest patches (cosine) that carry the patch's own label, mean over {len(maps[OURS])} validation pictures of
Scenes; of every contender the best kind of its features; 95 % intervals over pictures, paired.

Nearest patches of the same picture (what guided methods use):

{table(maps, labels, within=True)}

Nearest patches of all other pictures ({QUERIES} patches of a picture ask):

{table(maps, labels, within=False)}"""
    card = paths.data("models/scenedino/card.md")
    refill(card, BEGIN, END, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
