"""What a recipe costs: seconds and peak memory of every stage (thesis, Table 4.9), and whether it
fits a budget.

Stages are timed where they run: their methods are wrapped for the time of a measurement, and a
stage's time is its own, without that of stages it calls. On CUDA every reading waits for the device
first; the first runs, which load kernels and fill caches, do not count. Times belong to a machine
and are never compared across machines.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from torch.nn import functional as F

from ovsslib.errors import DataError
from ovsslib.evaluation.report import provenance
from ovsslib.recipe import POINTS, Recipe
from ovsslib.segmenter import Segmenter, encoding, finishing
from ovsslib.segmenter.running_best import RunningBest
from ovsslib.stages.windows import Stitched
from ovsslib.study.memory_peak import MemoryPeak, working_bytes
from ovsslib.text.features import TextFeatures, encode_prompts
from ovsslib.text.vocabulary import Vocabulary

GIGABYTE = 1024**3
BUDGET_GB = 6.0
"""Memory of the GPU that the thesis uses (GTX 1060)."""
OTHER, TOTAL = "everything else", "total"
PREPARE, TRUNK, LAST = "resize and normalise", "trunk: all blocks but the last", "last block"
WORDS, STITCH = "similarity with the words", "stitching"
# Methods of a stage's settings that the flow calls; those of "attention" are the last block's own.
_HOOKS = (
    *(hook for hooks in POINTS.values() for hook in hooks),
    *("softmax_scores", "labels", "close", "group_features"),
)
_NOT_TIMED = ("text", "windows", "attention")


@dataclass
class _Reading:
    """What one stage took in one run: own seconds, calls, and the highest memory while it was at
    work."""

    seconds: float = 0.0
    calls: int = 0
    peak: int = 0


@dataclass
class StageTimer:
    """Times stages by their own share of a run: nested stages are taken out of the stage that calls
    them.

    Not for several threads at once. Use :meth:`stage` around any code, or :meth:`attached` to wrap
    a segmenter.
    """

    device: torch.device
    memory: Any = None
    readings: dict[str, _Reading] = field(default_factory=dict)
    _open: list[tuple[str, float]] = field(default_factory=list)

    def _tick(self) -> None:
        """Give the time since the last event to the stage that is open now."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        peak = self.memory.take() if self.memory is not None else 0
        if self._open:
            name, since = self._open[-1]
            reading = self.readings.setdefault(name, _Reading())
            reading.seconds += now - since
            reading.peak = max(reading.peak, peak)

    def _resume(self) -> None:
        if self._open:
            self._open[-1] = (self._open[-1][0], time.perf_counter())

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what runs inside as a call of stage `name`."""
        self._tick()
        self._open.append((name, time.perf_counter()))
        self.readings.setdefault(name, _Reading()).calls += 1
        try:
            yield
        finally:
            self._tick()
            self._open.pop()
            self._resume()

    def wrapped(self, function: Callable, name: str) -> Callable:
        """The function, timed as stage `name`."""

        def timed(*arguments: Any, **options: Any) -> Any:
            with self.stage(name):
                return function(*arguments, **options)

        return timed

    @contextmanager
    def attached(self, segmenter: Segmenter) -> Iterator["StageTimer"]:
        """Time the stages of a segmenter inside the block; everything is as before behind it."""
        undo: list[tuple[Any, str, Any]] = []
        try:
            for owner, attribute, name in _places(segmenter):
                original = vars(owner).get(attribute, _ABSENT)
                undo.append((owner, attribute, original))
                setattr(owner, attribute, self.wrapped(getattr(owner, attribute), name))
            yield self
        finally:
            for owner, attribute, original in reversed(undo):
                if original is _ABSENT:
                    delattr(owner, attribute)
                else:
                    setattr(owner, attribute, original)


_ABSENT = object()


def _places(segmenter: Segmenter) -> list[tuple[Any, str, str]]:
    """(owner, attribute, stage name) of everything that is wrapped, each once."""
    places = [
        (segmenter, "prepare", PREPARE),
        (segmenter.backbone, "trunk", TRUNK),
        (segmenter.last_block, "run", LAST),
        (encoding, "cosine_logits", WORDS),
        (Stitched, "__init__", STITCH),
        (Stitched, "rows", STITCH),
        (Stitched, "some", STITCH),
        (finishing, "_finish_by_strips", "labels"),
        (RunningBest, "add", "labels"),
    ]
    for name, settings in segmenter.recipe.stages.items():
        if name not in _NOT_TIMED:
            # a field may bear the name of a hook (labels.merge)
            hooks = [hook for hook in _HOOKS if callable(getattr(settings, hook, None))]
            places += [(type(settings), hook, name) for hook in hooks]
    return places


def stage_times(
    segmenter: Segmenter,
    image: np.ndarray,
    text: TextFeatures,
    repeats: int = 5,
    warm_up: int = 1,
) -> pd.DataFrame:
    """Seconds and peak memory of every stage of one segmentation.

    Args:
        image: (H, W, 3) uint8.
        text: encoded words (`segmenter.text`); encoding them is no part of an image's time.
        repeats: runs that are timed; the medians count. Memory is read in a further run, since
            reading it takes time too.
        warm_up: runs before, which do not count.

    Returns:
        One row per stage in the order of the flow, then "everything else" and "total": stage, calls
        (per image), seconds (median), share (percent of the total), peak_gb (highest memory while
        the stage worked, in GiB: on CUDA PyTorch's tensors, on a CPU the whole process).

    Raises:
        DataError: repeats or warm_up out of range.
    """
    if repeats < 1 or warm_up < 0:
        raise DataError(f"repeats={repeats}, warm_up={warm_up}: at least 1 run, and 0 before")
    for _ in range(warm_up):
        segmenter.segment(image, text)
    device = segmenter.backbone.device
    runs = [_run(segmenter, image, text, StageTimer(device)) for _ in range(repeats)]
    with MemoryPeak(device) as memory:
        peaks = _run(segmenter, image, text, StageTimer(device, memory))
    order = [name for name in peaks if name != OTHER] + [OTHER]
    seconds = {n: float(np.median([run[n].seconds for run in runs])) for n in order}
    total = sum(seconds.values())
    rows = [
        (n, peaks[n].calls, seconds[n], 100 * seconds[n] / total, peaks[n].peak / GIGABYTE)
        for n in order
    ]
    rows.append(
        (TOTAL, 1, total, 100.0, max(reading.peak for reading in peaks.values()) / GIGABYTE)
    )
    frame = pd.DataFrame(rows, columns=["stage", "calls", "seconds", "share", "peak_gb"])
    frame.attrs = {
        "recipe": segmenter.recipe.name, "model": segmenter.backbone.name, "repeats": repeats,
        "picture": f"{image.shape[0]}x{image.shape[1]}", "queries": len(text),
        "threads": torch.get_num_threads(), **provenance(device),
    }  # fmt: skip
    return frame


def _run(
    segmenter: Segmenter, image: np.ndarray, text: TextFeatures, timer: StageTimer
) -> Mapping[str, _Reading]:
    with timer.attached(segmenter), timer.stage(OTHER):
        segmenter.segment(image, text)
    return timer.readings


def text_seconds(segmenter: Segmenter, vocabulary: Vocabulary) -> float:
    """Seconds to encode all prompts of a vocabulary anew, without the caches: paid once per list of
    words."""
    settings, device = segmenter.recipe["text"], segmenter.backbone.device
    strategy = settings.strategy()
    kinds = [vocabulary.kinds[index] for index in vocabulary.query_class]
    prompts = [
        prompt
        for query, kind in zip(vocabulary.queries, kinds, strict=True)
        for prompt in strategy.prompts(query, kind, settings.material_rules)
    ]
    timer = StageTimer(device)
    with timer.stage("text"):
        encode_prompts(
            segmenter.backbone, list(dict.fromkeys(prompts)), settings.truncate, share=True
        )
    return timer.readings["text"].seconds


# -- budgets ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """Whether a recipe fits a memory budget. Sizes in GiB.

    Attributes:
        fits: the verdict.
        peak_gb: weights and what the work takes at its highest point.
        weights_gb, working_gb: the two parts.
        budget_gb: the budget.
        method: "measured on cuda" (PyTorch's tensors; the driver's own few hundred megabytes come
            on top), "measured on cpu" (growth of the process, of which tensors are the most), or
            "estimated".
        recipe, model, picture, queries: of what.
    """

    fits: bool
    peak_gb: float
    weights_gb: float
    working_gb: float
    budget_gb: float
    method: str
    recipe: str
    model: str
    picture: str
    queries: int

    def __str__(self) -> str:
        word = "fits" if self.fits else "does not fit"
        return (
            f"{self.recipe} with {self.model}, {self.picture} pixels, {self.queries} queries: "
            f"{self.peak_gb:.2f} GB ({self.method}), {word} into {self.budget_gb:g} GB"
        )


def fits(
    segmenter: Segmenter,
    image_size: tuple[int, int],
    queries: int,
    budget_gb: float = BUDGET_GB,
    measure: bool = True,
) -> Fit:
    """Whether segmenting a picture of a size, with a number of queries, stays within a memory
    budget.

    Args:
        image_size: (height, width) of the picture in pixels.
        queries: number of words that are compared (synonyms count).
        budget_gb: in GiB; the thesis's card has 6.
        measure: run it once on a random picture. If the estimate says that this machine has no room
            for it, or with False, the estimate counts (:func:`estimated_bytes`).

    Raises:
        DataError: a size, a number of queries or a budget that is not positive.
    """
    height, width = (int(side) for side in image_size)
    if min(height, width, queries) < 1 or not budget_gb > 0:
        raise DataError(
            f"image_size={image_size}, queries={queries}, budget_gb={budget_gb}: all must be "
            "positive"
        )
    device = segmenter.backbone.device
    weights = weight_bytes(segmenter)
    guess = estimated_bytes(segmenter, (height, width), queries)
    if measure and guess < 0.8 * _free(device):
        working = _measured_bytes(segmenter, (height, width), queries)
        method = f"measured on {device.type}"
    else:
        working, method = guess, "estimated"
    peak = (weights + working) / GIGABYTE
    return Fit(
        peak <= budget_gb, peak, weights / GIGABYTE, working / GIGABYTE, float(budget_gb), method,
        segmenter.recipe.name, segmenter.backbone.name, f"{height}x{width}", queries,
    )  # fmt: skip


def weight_bytes(segmenter: Segmenter) -> int:
    """Bytes of the model's weights and buffers, both towers."""
    model = segmenter.backbone.model
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def estimated_bytes(segmenter: Segmenter, image_size: tuple[int, int], queries: int) -> int:
    """Bytes that the work takes at its highest point, by counting the largest tensors.

    Per window: tokens and the feed-forward network's hidden layer, three attention matrices,
    features and logits on their grid. Per picture: the windows' logits; behind the stitching four
    tensors of all logits (what the flow itself asks for before such work), PAMR's affinities.
    """
    backbone, recipe = segmenter.backbone, segmenter.recipe
    height, width = image_size
    settings = recipe["windows"]
    scale = settings.short_side / min(height, width)
    scale = min(scale, settings.long_side / max(height, width))
    resized = (max(1, round(height * scale)), max(1, round(width * scale)))
    windows = settings.boxes(*resized)
    patches = math.prod(max(1, side // backbone.patch_size) for side in windows.size)
    fine = patches * _upsampling(recipe, windows.size, patches)
    tokens, item = patches + 1, torch.finfo(backbone.stream_dtype).bits // 8
    views = 1 if segmenter.views is None else len(segmenter.views.use)
    chunk = backbone.batch_of_windows * views
    per_window = tokens * backbone.width * 12 + 3 * backbone.heads * tokens**2
    per_window = per_window * item + 4 * fine * (2 * backbone.dim + 2 * queries)
    kept = 4 * len(windows) * queries * fine
    reads_scores = recipe.at("refine") or recipe.at("confidence") or recipe["labels"].area_threshold
    scores = queries * height * width
    if finishing.goes_by_query(recipe):
        picture = 4 * (
            4 * min(max(finishing.QUERIES, 4 * height * width), scores) + 2 * height * width
        )
    else:
        picture = 4 * 4 * scores if reads_scores else 4 * min(finishing.STRIP, scores)
    if "pamr" in recipe:
        picture += 4 * 3 * 8 * len(recipe["pamr"].dilations) * height * width
    return int(max(chunk * per_window + kept, kept + picture))


def _upsampling(recipe: Recipe, window: tuple[int, int], patches: int) -> float:
    """How many times finer the grid of features becomes, in cells."""
    settings = recipe.get("upsampling")
    if settings is None:
        return 1.0
    if settings.grid == "image":
        return math.prod(window) / patches
    return (
        float(settings.grid**2)
        if isinstance(settings.grid, int)
        else math.prod(settings.grid) / patches
    )


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def _measured_bytes(segmenter: Segmenter, image_size: tuple[int, int], queries: int) -> int:
    """Highest memory of one segmentation of a random picture above what was in use before it."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (*image_size, 3), dtype=np.uint8)
    text = random_text(segmenter, queries)
    small = image[:64, :64] if min(image_size) >= 64 else image
    segmenter.segment(np.ascontiguousarray(small), text)  # kernels and caches are not the picture's
    return working_bytes(segmenter, image, text)


def random_text(segmenter: Segmenter, queries: int, seed: int = 0) -> TextFeatures:
    """Unit text features of made-up words, with a background where the recipe's thresholds need
    one."""
    labels = segmenter.recipe["labels"]
    threshold = labels.probability_threshold or labels.area_threshold
    names = tuple(f"word {n}" for n in range(queries))
    vocabulary = Vocabulary(
        names,
        tuple((n,) for n in names),
        ("thing",) * queries,
        (None,) * queries,
        background=0 if threshold else None,
    )
    generator = torch.Generator().manual_seed(seed)
    features = F.normalize(
        torch.randn(queries, segmenter.backbone.dim, generator=generator), dim=-1
    )
    device = segmenter.backbone.device
    return TextFeatures(features.to(device), torch.arange(queries, device=device), vocabulary)
