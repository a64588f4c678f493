"""Time per picture of every recipe and stage, as a ratio to the bare vision forwards that it needs.

Run `python bench/flow.py [--quick] [--only sclip,resclip] [--threads 2] [--clock cpu]`. The model is a seeded random
ViT-B/16 in float32, the picture has 336 x 448 pixels (six windows of 224 at stride 112), the words are 56 and 171
random queries. A bare forward is open_clip's own `encode_image` of one window. Every timing stands beside one of the
bare forwards taken just before it, so that a busy machine slows both; printed are medians of the ratios.

`--clock cpu` counts the processor time of this process instead of the time on the wall: use it with one thread where
other work shares the machine.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ovsslib  # first of all: it repairs torchvision's missing operators, which open_clip needs

# isort: split
import numpy as np
import open_clip
import torch
from torch.nn import functional as F

from ovsslib import guides
from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import build_model
from ovsslib.guides import loading
from ovsslib.guides.guide import Guide
from ovsslib.guides.transformers_networks import TransformersNetwork
from ovsslib.guides.vit import DinoTransformer
from ovsslib.networks.loftup import LoftUp
from ovsslib.recipe import ALWAYS_ON, Recipe, recipe_names, stages
from ovsslib.segmenter import Segmenter
from ovsslib.text.features import TextFeatures
from ovsslib.text.vocabulary import Vocabulary

HEIGHT, WIDTH = 336, 448
QUERIES = (56, 171)
# Official code, end to end, in processor seconds at 56 and at 171 queries: the same weights, picture and windows, float32
# on one thread of an EPYC (Zen 4), PyTorch 2.13, medians of one to three rounds; mmsegmentation's parts stubbed.
# ResCLIP's rounding of its feedback to float16 was taken out. Ten plain forwards took 4.42 s beside them.
OFFICIAL_SECONDS_OF_TEN_FORWARDS = 4.42
END_TO_END = {
    "sclip": ("sclip", {}, (3.93, 4.33)),
    "sclip + pamr": ("sclip", {"pamr": True}, (21.6, 55.1)),
    "clearclip": ("clearclip", {}, (3.88, 4.13)),
    "gem": ("gem", {}, (3.60, 4.45)),
    "naclip + pamr": ("naclip", {"pamr": True}, (21.0, 55.0)),
    "resclip": ("resclip", {}, (39.2, 120.0)),
    "resclip + pamr": ("resclip", {"pamr": True}, (58.1, 171.0)),
    "itaclip, stride 112": ("itaclip", {"windows.stride": 112}, (33.8, 68.0)),
}


def picture() -> np.ndarray:
    """(336, 448, 3) uint8: a shaded ground with boxes and a little noise, the same every time."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([rows / 2, columns / 2, (rows + columns) / 4], axis=-1)
    for _ in range(12):
        top, left = rng.integers(0, HEIGHT - 40), rng.integers(0, WIDTH - 40)
        image[top : top + rng.integers(20, 120), left : left + rng.integers(20, 120)] = (
            rng.integers(0, 256, 3)
        )
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def random_text(queries: int) -> TextFeatures:
    """Unit rows for as many one-word classes."""
    rows = torch.randn(queries, 512, generator=torch.Generator().manual_seed(queries))
    names = [f"word {number}" for number in range(1, queries)]
    words = Vocabulary.from_words(names, background=["word 0"])  # some thresholds need a background
    return TextFeatures(F.normalize(rows, dim=-1), torch.arange(queries), words)


# The published channels are refused for random weights, whose patches are no sinks at the published sigma of 5.
SINKS = {"channels": (4, 162, 189, 326, 429, 474, 633, 713), "sigma": 2.8}


def without_weights(recipe: Recipe) -> Recipe:
    """A recipe with stand-ins for trained segmenters: `felzenszwalb` cuts the picture and answers prompts, SAM's
    attention mixes nothing."""
    stand_ins = {"proposer": "felzenszwalb", "prompter": "felzenszwalb", "mixer": "none"}
    changes = {
        f"{name}.{field}": value
        for name, settings in recipe.stages.items()
        for field, value in stand_ins.items()
        if hasattr(settings, field)
    }
    return recipe.but(changes) if changes else recipe


def random_guide(name: str = loading.EMBEDDED, **options: Any) -> Guide:
    """A guide of the real size with seeded random weights, for `guides.load`; SceneDINO as it is shipped."""
    if name not in loading.KNOWN:
        return loading.load(name, **options)
    torch.manual_seed(0)
    known = loading.KNOWN[name]
    width, heads, patch = known.width, known.width // 64, known.patch
    network: torch.nn.Module
    if name.startswith("dinov2"):
        from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

        config = Dinov2WithRegistersConfig(
            hidden_size=width, num_attention_heads=heads, patch_size=patch, image_size=518
        )
        network = TransformersNetwork(Dinov2WithRegistersModel(config))
    else:
        side = 224 // patch
        network = DinoTransformer(width, 12, heads, patch, (side, side))
        torch.nn.init.normal_(network.pos_embed, std=0.02)
        torch.nn.init.normal_(network.cls_token, std=0.02)
    return Guide(network, name=name, weights_hash="random", device=options.get("device", "cpu"))


class Bench:
    """The model, the bare forwards, and the ratios to them."""

    def __init__(self, clock: Callable[[], float], repeats: int):
        torch.manual_seed(0)
        self.net = (
            build_model(open_clip.get_model_config("ViT-B-16-quickgelu"))
            .eval()
            .requires_grad_(False)
        )
        self.backbone = Backbone(self.net, name="ViT-B-16-quickgelu", weights_hash="random")
        self.image, self.texts = picture(), {q: random_text(q) for q in QUERIES}
        self.clock, self.repeats = clock, repeats
        base = self.base("sclip")
        segmenter = Segmenter(self.backbone, base)
        self.crops = base["windows"].boxes(HEIGHT, WIDTH).crops(segmenter.prepare(self.image))

    @staticmethod
    def base(name: str) -> Recipe:
        """A recipe on the windows of the published protocol, without texts or thresholds of a data set."""
        recipe = Recipe.named(name)
        if "sink_denoise" in recipe:
            recipe = recipe.but({"sink_denoise": SINKS})
        recipe = without_weights(recipe)
        return recipe.but(windows={"short_side": 336, "crop": 224, "stride": 112})

    def seconds(self, work: Callable[[], object]) -> float:
        """Time of one call."""
        start = self.clock()
        work()
        return self.clock() - start

    @torch.no_grad()
    def forwards(self) -> None:
        """open_clip's own tower on the six windows, one at a time."""
        for crop in self.crops:
            self.net.encode_image(crop[None])

    def costs(self, recipe: Recipe, queries: int) -> list[float]:
        """Time of one picture in plain forwards, once per repeat."""
        segmenter, text = Segmenter(self.backbone, recipe), self.texts[queries]
        out = []
        for _ in range(self.repeats):
            plain = self.seconds(self.forwards) / len(self.crops)
            out.append(self.seconds(lambda: segmenter.segment(self.image, text)) / plain)
        return out

    def needed(self, recipe: Recipe) -> int:
        """Bare forwards that a recipe cannot do without."""
        views = recipe.get("image_engineering")
        windows = len(recipe["windows"].boxes(HEIGHT, WIDTH))
        return windows * (len(views.use) if views else 1)

    def row(self, title: str, recipe: Recipe, published: tuple[float, ...] = ()) -> None:
        """Print one row: ratios to the forwards needed; units of ten forwards where there are published ones."""
        cells = []
        for number, queries in enumerate(QUERIES):
            costs = statistics.median(self.costs(recipe, queries))
            # The share of the time that the forwards do not explain; below 0 where a cut last block is cheaper.
            other = 1 - self.needed(recipe) / costs
            cells.append(
                f"{queries} queries: {costs / self.needed(recipe):5.2f}, {other:4.0%} not forwards"
            )
            if published:
                unit = costs / 10
                official = published[number] / OFFICIAL_SECONDS_OF_TEN_FORWARDS
                cells[-1] += f" = {unit:.2f} units, official {official:.1f}, {official / unit:.1f}x"
        print(f"{title:28s} | {self.needed(recipe):3d} forwards | {' | '.join(cells)}", flush=True)


def stage_rows(loftup: Path) -> dict[str, Recipe]:
    """SCLIP with each other stage turned on, one at a time."""
    rows = {}
    for name, info in stages().items():
        if name in ALWAYS_ON:
            continue
        changes = {"upsampling": {"weights": str(loftup)}, "sink_denoise": SINKS}.get(name, True)
        rows[f"sclip + {name} ({info.point})"] = Bench.base("sclip").but({name: changes})
    return rows


def main() -> None:
    """Print all rows, or those asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="the rows with times of official code only, once"
    )
    parser.add_argument(
        "--only", default="", help="rows whose title contains one of these texts (commas between)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--repeats", type=int, default=0, help="0: 3, or 1 with --quick")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    guides.load = random_guide  # nothing is fetched, and speed does not depend on the weights
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    wanted = [text.strip() for text in options.only.split(",") if text.strip()]
    bench = Bench(clock, options.repeats or (1 if options.quick else 3))
    bench.forwards()
    print(
        f"flow | ovsslib {ovsslib.__version__}, {options.threads} threads, {options.clock} clock, 336x448"
    )
    with tempfile.TemporaryDirectory() as folder:
        loftup = Path(folder) / "loftup.pt"
        torch.save(LoftUp(512).state_dict(), loftup)
        rows = {}
        for title, (name, changes, published) in END_TO_END.items():
            rows[title] = (bench.base(name).but(changes), published)
        if not options.quick:
            for name in recipe_names():
                recipe = bench.base(name)
                if "upsampling" in recipe:
                    recipe = recipe.but({"upsampling.weights": str(loftup)})
                rows.setdefault(name, (recipe, ()))
            rows |= {title: (recipe, ()) for title, recipe in stage_rows(loftup).items()}
        for title, (recipe, published) in rows.items():
            if not wanted or any(text in title for text in wanted):
                bench.row(title, recipe, published)


if __name__ == "__main__":
    main()
