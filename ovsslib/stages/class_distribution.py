"""Class-distribution attention of CDAM: patches attend to patches whose words are distributed
alike.

Source: Kang, Kim, Chun, "Class Distribution-induced Attention Map for Open-vocabulary Semantic
Segmentations", ICLR 2025, as its released code computes it (float32 where that casts to float16).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from ovsslib.errors import RecipeError
from ovsslib.recipe import stage
from ovsslib.stages.contexts import AttentionContext
from ovsslib.text.features import encode_texts
from ovsslib.text.prompts import TextSettings
from ovsslib.text.vocabulary import Vocabulary

# The released words beside the classes: colours, patterns and materials, groups of things.
_COLOURS = ("blue", "brown", "green", "grey", "orange", "pink", "purple", "red")
_QUALITIES = """
    plain striped dotted checkered woven studded perforated floral logo text stone wood rattan
    fabric crochet wool leather velvet metal paper plastic glass ceramic opaque translucent
    transparent vehicle outdoor animal accessory sports kitchen furniture electronic appliance
    indoor water ground solid sky structural building food textile window floor ceiling wall
    rawmaterial plant person
"""
RELEASED_WORDS = (
    "black",
    *(f"{shade}{colour}" for colour in _COLOURS for shade in ("light ", "", "dark ")),
    *("white", "light yellow", "yellow", "dark yellow"),
    *_QUALITIES.split(),
)
_LOG_FLOOR = 1e-8
# Rows of the further words, per model: windows come one by one and would look them up again and
# again.
_rows: WeakKeyDictionary = WeakKeyDictionary()
_BLOCK = (
    1 << 20
)  # values of patch pairs times words handled at a time: what a processor's cache holds


@stage(
    "class_distribution_attention",
    point="attention",
    order=85,
    summary="a second pass attends to patches with like distributions over the words (CDAM)",
)
@dataclass(frozen=True)
class ClassDistributionSettings:
    """A first pass is compared with all words; like distributions make the weights of a second
    pass.

    The second pass runs the last block again from the same input with these weights, the same in
    every head; the class token neither attends nor is attended to. Works on any base attention.

    Attributes:
        temperature: of the softmax over words that makes a patch's distribution.
        sharpness: of the softmax over patches that turns likeness into weights.
        scales: factors of the grid at which the distributions are compared once more; the full grid
            always counts. A scale that leaves fewer than two cells is left out (there the release
            crashes).
        words: texts that take part in the distributions beside the recipe's own: "released" (80
            colours, patterns, materials and groups of things), or a list of your own; an empty list
            adds none.
    """

    version: ClassVar[int] = 1
    temperature: float = 0.1
    sharpness: float = 0.1
    scales: tuple[float, ...] = (0.25, 0.37, 0.5, 0.63, 0.75, 0.87)
    words: Literal["released"] | tuple[str, ...] = "released"

    def __post_init__(self):
        for name in ("temperature", "sharpness"):
            if getattr(self, name) <= 0:
                raise RecipeError(
                    f"class_distribution_attention.{name}={getattr(self, name)}: must be above 0"
                )
        if any(not 0 < scale < 1 for scale in self.scales):
            raise RecipeError(
                f"class_distribution_attention.scales={self.scales}: each must lie between 0 and "
                "1; the full grid takes part anyway"
            )

    def extra_texts(self, backbone, text_settings) -> Tensor:
        """Unit rows (E, D) of the further words, in the recipe's templates; encoded once per
        model.
        """
        words = self._words()
        if not words:
            return torch.zeros(0, backbone.dim, device=backbone.device)
        cache = _rows.setdefault(backbone, {})
        if (words, text_settings) not in cache:
            cache[words, text_settings] = encode_texts(backbone, words, text_settings)
        return cache[words, text_settings]

    def _words(self) -> tuple[str, ...]:
        return RELEASED_WORDS if self.words == "released" else self.words

    def sentences(self, vocabulary: Vocabulary, settings: TextSettings) -> dict[str, list[str]]:
        """Of the further words."""
        return {"words": settings.prompts_of(self._words())}

    def second_weights(self, logits: Tensor, context: AttentionContext) -> Tensor:
        """Cosines (B, C', h, w) of the first pass, further words included -> weights (B, heads, T,
        T).

        Raises RecipeError for windows of a single patch.
        """
        if logits.shape[-2] * logits.shape[-1] < 2:
            raise RecipeError(
                "class_distribution_attention: a window of one patch has no other patch to compare "
                "with; use a larger windows.crop or windows.short_side"
            )
        weights = torch.stack(
            [
                class_distribution_weights(cosines, self.temperature, self.sharpness, self.scales)
                for cosines in logits
            ]
        )
        weights = F.pad(weights, (1, 0, 1, 0)).to(context.trunk.tokens.dtype)
        return weights[:, None].expand(-1, context.backbone.heads, -1, -1)


def class_distribution_weights(
    cosines: Tensor, temperature: float, sharpness: float, scales: tuple[float, ...] = ()
) -> Tensor:
    """Weights (N, N) float32 between the N = h w patches of cosines (C, h, w): mean over all
    scales.

    Every row has minimum 0 and maximum 1; rows do not sum to 1.
    """
    grid = (cosines.shape[-2], cosines.shape[-1])
    sizes = [(int(grid[0] * scale), int(grid[1] * scale)) for scale in scales]
    total: Tensor | None = None
    count = 0
    for size in [size for size in sizes if size[0] * size[1] > 1] + [grid]:
        at = cosines.float()
        if size != grid:
            at = F.interpolate(at[None], size, mode="bilinear")[0]
        divergence = jensen_shannon((at.flatten(1) / temperature).softmax(dim=0))
        if size != grid:
            divergence = resize_pairs(divergence, size, grid)
        weights = likeness(divergence, sharpness)
        total, count = weights if total is None else total.add_(weights), count + 1
    return cast(Tensor, total) / count


def jensen_shannon(distributions: Tensor) -> Tensor:
    """Jensen-Shannon divergence (N, N), natural logarithm, of N distributions (C, N).

    Some rows at a time, so that the memory does not grow with N x N x C, and each pair once.
    Logarithms are taken of probabilities times C: as distributions sum to 1 this changes nothing,
    and keeps the digits of nearly even ones.
    """
    rows = distributions.T.contiguous()
    count, words = rows.shape
    floor = words * _LOG_FLOOR
    negative_entropy = (rows * (rows * words + floor).log()).sum(dim=1)
    divergences = rows.new_empty(count, count)
    step = (
        max(1, _BLOCK // (count * words))
        if rows.device.type == "cpu"
        else max(1, (_BLOCK << 5) // (count * words))
    )
    for start in range(0, count, step):
        stop = min(start + step, count)
        sums = rows[start:stop, None] + rows[None, start:]
        joint = (sums * (sums * (words / 2) + floor).log_()).sum(dim=-1)
        block = (negative_entropy[start:stop, None] + negative_entropy[None, start:] - joint) / 2
        divergences[start:stop, start:] = block
        divergences[start:, start:stop] = block.T
    return divergences


def resize_pairs(matrix: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """A matrix (n, n) between the cells of a grid of `size` -> (N, N) between those of `grid`,
    bilinear both ways.
    """
    for _ in range(2):
        maps = matrix.reshape(1, -1, *size)
        matrix = F.interpolate(maps, grid, mode="bilinear")[0].flatten(1).T
    return matrix


def likeness(divergence: Tensor, sharpness: float) -> Tensor:
    """Divergences (N, N) -> weights: 1 - divergence, stretched to [0, 1] by rows, softmax,
    stretched again.
    """
    return _stretched((_stretched(1 - divergence) / sharpness).softmax(dim=-1))


def _stretched(rows: Tensor) -> Tensor:
    low, high = rows.amin(dim=-1, keepdim=True), rows.amax(dim=-1, keepdim=True)
    return (rows - low) / (high - low + _LOG_FLOOR)
