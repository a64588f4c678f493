"""FLOSS: each class reads with the templates that suit it (Benigmim et al., ICCV 2025).

A table (:class:`TemplateTable`, fitted on unlabelled pictures by `ovsslib.study.templates.rank_templates`) says for
every class which templates make the model surest of itself. From it every query gets a text classifier of its own,
an "expert"; where an expert is claimed by its own class, its answer replaces that of the average over all templates.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.clip.backbone import Backbone
from ovsslib.errors import MemoryBudgetError, RecipeError
from ovsslib.recipe import stage
from ovsslib.stages.contexts import WindowContext
from ovsslib.text.features import TextFeatures, encode_texts, merge_queries
from ovsslib.text.prompts import TextSettings
from ovsslib.text.template_table import TemplateTable, table_hash
from ovsslib.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from ovsslib.recipe import Recipe


@stage(
    "experts",
    point="similarity",
    order=90,
    summary="each word reads with the templates that suit it, by a table fitted on unlabelled pictures (FLOSS)",
)
@dataclass(frozen=True)
class ExpertsSettings:
    """Cosines of a window become probabilities over the queries, fused from the experts' answers.

    Every query has an expert: a classifier of all queries whose rows are means over the best templates of that
    query's class. See :func:`fuse`. The default answer is that of the recipe's own prompts.

    Attributes:
        table: name of a shipped table (`ovsslib.text.template_table.shipped_tables`) or path of a JSON file. It
            belongs to one model and one list of words; others are refused.
        count: templates an expert averages (released: 4).
        logit_scale: factor of the cosines before the softmax over queries (CLIP's own 100).
        at: "pixels": probabilities are interpolated to the window and fused there (released); "patches": fused on the
            grid of the features, with less memory.
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"compares_in_place"})

    table: str = ""
    count: int = 4
    logit_scale: float = 100.0
    at: Literal["pixels", "patches"] = "pixels"

    def __post_init__(self):
        if self.count < 1:
            raise RecipeError(f"experts.count={self.count}: must be 1 template or more")
        if self.logit_scale <= 0:
            raise RecipeError(f"experts.logit_scale={self.logit_scale}: must be above 0")

    def refuse(self, recipe: "Recipe") -> str | None:
        """Why these settings cannot work with the rest of a recipe."""
        if recipe.stages_with("picture_logits"):
            return "another stage makes the picture's logits by itself, so no patches are compared with words"
        if [s for s in recipe.stages_with("group_features") if s is not self]:
            return "it brings text rows of its own, and so does another stage; turn one of them off"
        return None

    def check(self, backbone: Backbone) -> None:
        """Raise RecipeError if the table was fitted with another model, DataError if there is no such table."""
        if self.table:
            table = TemplateTable.load(self.table)
            table.check_model(backbone.name, backbone.pretrained, backbone.weights_hash)

    def networks(self, backbone: Backbone) -> dict[str, str]:
        """The table by its hash: part of a record's key."""
        return {"template table": table_hash(self.table)} if self.table else {}

    def group_features(
        self, backbone: Backbone, text: TextFeatures, settings: TextSettings
    ) -> Tensor:
        """Unit rows (C Q, D) of the experts, class by class: all Q queries in the best templates of class c."""
        if not self.table:
            raise RecipeError(
                "experts.table is empty: fit a table on unlabelled pictures with "
                "ovsslib.study.templates.rank_templates, save it, and give its path"
            )
        top, templates = self._best(text.vocabulary)
        indices = list(templates)
        words = text.vocabulary.queries
        check_rows(len(top) * len(words), text.features.shape[1])
        prompts = [
            template.replace("{}", word) for template in templates.values() for word in words
        ]
        plain = dataclasses.replace(settings, templates=("{}",), material_rules=False)
        rows = encode_texts(backbone, prompts, plain).unflatten(0, (len(indices), len(words)))
        return torch.cat(
            [expert_rows(rows, [indices.index(index) for index in best]) for best in top]
        )

    def _best(self, vocabulary: Vocabulary) -> tuple[list[list[int]], dict[int, str]]:
        """Every class's best templates as numbers of the table, and the text of all that occur, in the table's order."""
        table = TemplateTable.load(self.table)
        top = table.top(vocabulary, self.count)
        numbers = sorted({index for best in top for index in best})
        return top, {index: table.templates[index] for index in numbers}

    def sentences(self, vocabulary: Vocabulary, settings: TextSettings) -> dict[str, list[str]]:
        """Of all words in every class's best templates."""
        if not self.table:
            return {}
        templates = tuple(self._best(vocabulary)[1].values())
        plain = dataclasses.replace(settings, templates=templates, material_rules=False)
        return {"table": plain.prompts_of(vocabulary.queries)}

    def on_window_text(self, text: Tensor, context: WindowContext) -> Tensor:
        """Rows (..., Q + C Q, D) -> (..., Q, D): the experts' own rows are compared one expert at a time."""
        return text[..., : context.queries, :]

    def on_similarity(self, logits: Tensor, context: WindowContext) -> Tensor:
        """Cosines (B, Q, h, w) -> probabilities (B, Q, H, W), H x W the window's pixels or h x w patches."""
        assert context.text is not None and context.features is not None
        queries, index = context.queries, context.query_class
        index = torch.arange(queries) if index is None else index
        rows = context.text[queries:].float()
        if len(rows) != queries * (int(index.max()) + 1):
            raise RecipeError(
                "experts need the rows of their templates behind those of the words: segment with words "
                "(Segmenter.__call__ or .segment), not with bare text features"
            )
        features = F.normalize(context.features.float(), dim=1)
        target = context.window if self.at == "pixels" else features
        size = (target.shape[-2], target.shape[-1])
        fused = []
        for default, feature_map in zip(logits[:, :queries], features, strict=True):
            p = (default * self.logit_scale).softmax(dim=0)
            if tuple(p.shape[-2:]) != tuple(size):
                p = F.interpolate(p[None], size=size, mode="bilinear")[0]
            answers = self._answers(
                feature_map, rows.unflatten(0, (-1, queries)), index.tolist(), size
            )
            fused.append(fuse(p.flatten(1), answers).unflatten(1, size))
        return torch.stack(fused)

    def _answers(
        self, features: Tensor, rows: Tensor, query_class: list[int], size: tuple[int, int]
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Query by query (query, pixels (n,), probabilities (Q, n)) of the experts, where they may be claimed."""
        members: dict[int, list[int]] = {}
        for query, owner in enumerate(query_class):
            members.setdefault(owner, []).append(query)
        grid = Bilinear.between((features.shape[-2], features.shape[-1]), size, features.device)
        for owner, queries in members.items():
            cosines = torch.einsum("qd,dhw->qhw", rows[owner], features)
            p = (cosines * self.logit_scale).softmax(dim=0)
            for query in queries:
                pixels = grid.pixels(can_be_claimed(p, query))
                if len(pixels):
                    yield query, pixels, grid.at(p, pixels)


@dataclass(frozen=True)
class Bilinear:
    """Bilinear interpolation (align_corners False) of an (h, w) grid to (H, W) pixels, for some pixels only.

    Attributes:
        grid, size: (h, w) and (H, W).
        row, column: first of the two rows (H,) and columns (W,) that a pixel mixes.
        down, across: share of the second one, (H,) and (W,) float32.
    """

    grid: tuple[int, int]
    size: tuple[int, int]
    row: Tensor
    column: Tensor
    down: Tensor
    across: Tensor

    @staticmethod
    def between(grid: tuple[int, int], size: tuple[int, int], device: torch.device) -> "Bilinear":
        """For a grid and a size."""
        parts = []
        for cells, target in zip(grid, size, strict=True):
            place = (torch.arange(target, device=device) + 0.5) * (cells / target) - 0.5
            place = place.clamp_min(0)
            first = place.floor().clamp_max(cells - 1)
            parts.append((first.long(), place - first))
        (row, down), (column, across) = parts
        return Bilinear(grid, (*size,), row, column, down, across)

    def pixels(self, cells: Tensor) -> Tensor:
        """Pixels, counted row by row, whose upper left patch is among some cells (h, w) bool: (n,) long."""
        return torch.nonzero(cells[self.row][:, self.column].flatten())[:, 0]

    def at(self, maps: Tensor, pixels: Tensor) -> Tensor:
        """Maps (Q, h, w) at some pixels: (Q, n)."""
        y, x = pixels // self.size[1], pixels % self.size[1]
        row, column = self.row[y], self.column[x]
        below = (row + 1).clamp_max(self.grid[0] - 1)
        beside = (column + 1).clamp_max(self.grid[1] - 1)
        flat, width = maps.flatten(1), self.grid[1]
        across, down = self.across[x], self.down[y]

        def along(line: Tensor) -> Tensor:
            left, right = flat[:, line * width + column], flat[:, line * width + beside]
            return left * (1 - across) + right * across

        return along(row) * (1 - down) + along(below) * down


def check_rows(rows: int, width: int) -> None:
    """Raise MemoryBudgetError if the experts' rows of text would not fit."""
    need, free = 8 * rows * width, psutil.virtual_memory().available
    if need > free:
        raise MemoryBudgetError(
            f"the experts' {rows} text rows need about {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; use fewer "
            "words, or turn experts off"
        )


def can_be_claimed(p: Tensor, query: int) -> Tensor:
    """Where a query can be the argmax between the patches of probabilities (Q, h, w): cells (h, w) bool.

    A cell lies between a patch and its neighbours below and to the right, which bilinear interpolation mixes; where
    another query is the larger in all four, it stays so in between. Few experts can be claimed in few places, and
    nothing else is interpolated.
    """
    # a share above rounding; where the query's own probability is 0 it counts as beaten, by itself
    lead = F.pad((p - p[query] * (1 + 1e-5))[None], (0, 1, 0, 1), mode="replicate")
    least = -F.max_pool2d(-lead, 2, stride=1)[0]
    return ~(least >= 0).any(dim=0)


def template_entropy(
    cosines: Tensor, query_class: Tensor, classes: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Sums of the entropy of one template's answer over the pixels of each class that it predicts.

    Args:
        cosines: (Q, n) cosines of n pixels with the rows of one template.
        query_class: (Q,) class of each query, rising.
        classes: C.
        scale: factor of the cosines before the softmax over queries.

    Returns:
        sums (C,) float64 of H = - sum_c p_c log(p_c + 1e-10), where p is the maximum over each class's queries and
        not normalised again; counts (C,) int64 of pixels.
    """
    p = merge_queries((cosines.float() * scale).softmax(dim=0), query_class, classes)
    entropy = -(p + 1e-10).log_().mul_(p).sum(dim=0).double()
    label = p.argmax(dim=0)
    sums = entropy.new_zeros(classes).index_add_(0, label, entropy)
    return sums, torch.bincount(label, minlength=classes)


def choose_templates(entropy: Tensor, share: Tensor, count: int) -> list[list[int]]:
    """The `count` templates of least entropy for each class, those that never predict it left out.

    Args:
        entropy, share: (T, C).

    Returns:
        per class its templates, best first; none for a class that no template predicts.
    """
    chosen = []
    for mean, shares in zip(entropy.T, share.T, strict=True):
        order = [t for t in mean.argsort(stable=True).tolist() if shares[t] > 0]
        chosen.append(order[:count])
    return chosen


def expert_rows(table: Tensor, templates: Iterable[int]) -> Tensor:
    """Unit mean over some templates of unit text rows (T, Q, D): (Q, D)."""
    return F.normalize(table[list(templates)].mean(dim=0), dim=-1)


def fuse(default: Tensor, experts: Iterable[tuple[int, Tensor, Tensor]]) -> Tensor:
    """The default's probabilities where no expert is claimed, else those of the surest claimed expert.

    Expert q is claimed at a pixel if q is the argmax of its own probabilities there; of several the one whose own
    probability p_q,q is largest answers, the first on ties.

    Args:
        default: (Q, P) probabilities over queries at P pixels.
        experts: (query, pixels (n,), probabilities (Q, n)) in rising order of the query; an expert is not claimed at
            pixels that are left out. They are given one at a time, and no more are held.
    """
    out, best = default.clone(), torch.zeros_like(default[0])
    for query, pixels, p in experts:
        top, label = p.max(dim=0)
        wins = (label == query) & (top > best[pixels])
        chosen = pixels[wins]
        out[:, chosen] = p[:, wins]
        best[chosen] = top[wins]
    return out
