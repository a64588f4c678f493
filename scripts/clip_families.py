"""Tries every model of open_clip with small random weights and writes which ones run here: book/clip_models.csv.

    python scripts/clip_families.py

A model runs if its image and text embeddings are open_clip's own and it segments a picture; else the reason of the
refusal is written. Layers are cut to two and widths to two heads; every other setting is the published one.
"""

import copy
import csv
import io
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import ovsslib
from ovsslib.clip.architectures import check_configuration, open_clip  # cures torchvision first
from ovsslib.errors import ModelError

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "book" / "clip_models.csv"
RUNS = "runs"
TOLERANCE = 1e-4
"""Largest relative difference of an embedding from open_clip's own."""
TEXTS = ("a photo of a dog.", "grass and a very long wall of brick")


def small(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with two layers and two heads per tower; all that decides how it computes stays."""
    cut = copy.deepcopy(dict(config))
    vision, text = cut["vision_cfg"], cut["text_cfg"]
    if isinstance(vision.get("layers", 12), int):
        vision["layers"] = 2
        vision["width"] = 2 * vision.get("head_width", 64)
    if "heads" in text:
        text |= {"layers": 2, "heads": 2, "width": 64}
    cut["embed_dim"] = 48
    return cut


def reference(config: Mapping[str, Any]) -> torch.nn.Module:
    """open_clip's own model of a configuration, with seeded random weights."""
    settings = copy.deepcopy(dict(config))
    custom = settings.pop("custom_text", False)
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    torch.manual_seed(0)
    return kind(**settings).eval()


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """max|a - b| / max|b|."""
    return float((actual - expected).abs().max() / expected.abs().max())


def attempt(name: str, folder: Path) -> str:
    """What becomes of a model: `RUNS`, or the message of the refusal.

    Raises AssertionError if the model is taken and gives other embeddings than open_clip's.
    """
    config = small(open_clip.get_model_config(name))
    file = folder / "weights.safetensors"
    try:
        check_configuration(config, name)
    except ModelError as error:
        return str(error)
    official = reference(config)
    save_file({key: value.contiguous() for key, value in official.state_dict().items()}, file)
    backbone = ovsslib.load_backbone(config, file)
    side = backbone.image_size
    pixels = torch.randn(1, 3, *side, generator=torch.Generator().manual_seed(1))
    tokens = open_clip.tokenize(list(TEXTS), context_length=backbone.context_length)
    with torch.no_grad():
        errors = {
            "image": relative_error(backbone.encode_image(pixels), official.encode_image(pixels)),
            "text": relative_error(backbone.encode_text(tokens), official.encode_text(tokens)),
        }
    wrong = {part: error for part, error in errors.items() if not error < TOLERANCE}
    assert not wrong, f"{name}: embeddings are not open_clip's: {wrong}"
    picture = np.zeros((*side, 3), np.uint8)
    recipe = ovsslib.Recipe("whole").but({"windows.crop": 0, "text.templates": ("a {}.",)})
    answer = ovsslib.Segmenter(backbone, recipe).segment(
        picture, ovsslib.Segmenter(backbone, recipe).text(["dog", "grass"])
    )
    assert answer.mask.shape == tuple(side)
    return RUNS


def reason(message: str) -> str:
    """The sentence of a refusal that says why, without the model's name and the advice."""
    message = message.partition("cannot be run rightly: ")[2] or message
    return message.partition("; choose")[0].partition(" (")[0]


def as_csv(outcomes: Mapping[str, str]) -> str:
    """The table: models that fare alike in one row, those that run first."""
    rows: dict[tuple[str, str], list[str]] = {}
    for name, outcome in outcomes.items():
        key = (RUNS, "") if outcome == RUNS else ("refused", reason(outcome))
        rows.setdefault(key, []).append(name)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["models of open_clip", "here", "why"])
    for (state, why), names in sorted(rows.items(), key=lambda row: (row[0][0] != RUNS, row[0][1])):
        writer.writerow([", ".join(names), state, why])
    return out.getvalue()


def main() -> int:
    """Write the table; returns the exit status."""
    outcomes = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in open_clip.list_models():
            outcomes[name] = attempt(name, Path(folder))
    TABLE.write_text(as_csv(outcomes), encoding="utf-8")
    running = sum(outcome == RUNS for outcome in outcomes.values())
    print(f"{running} of {len(outcomes)} models run; {TABLE.relative_to(ROOT)} is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
