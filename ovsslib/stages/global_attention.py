"""GLA-CLIP: every patch of every window attends to the patches of all windows (Lee et al., CVPR 2026).

Three parts: keys and values of all windows; a query replaced by the mean of what is similar to it ("proxy anchor");
scores normalised by how many patches that are. Everything is worked out by rows, one window's patches at a time, so
that memory grows with the number of patches, not with its square.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.errors import RecipeError
from ovsslib.recipe import stage
from ovsslib.stages.contexts import DenseTokens, PictureContext
from ovsslib.stages.replacing import rivals

if TYPE_CHECKING:
    from ovsslib.recipe import Recipe

BETA_GROWTH, GAMMA_GROWTH = 0.3, 30.0  # alpha of the dynamic values, as released
FIXED_BETA, FIXED_GAMMA = 1.2, 3.0  # ProxyCLIP's


@stage(
    "global_attention",
    point="picture",
    order=20,
    summary="patches of every window attend to those of all windows (GLA-CLIP)",
)
@dataclass(frozen=True)
class GlobalAttentionSettings:
    """Replaces the last block of all windows at once; no residual, no feed-forward network.

    Attributes:
        base: what similarities are taken from: CLIP's own queries of the last block ("query", the ClearCLIP base) or
            a second encoder's features ("guide", the ProxyCLIP base), whose grid the result then has.
        guide, kind: the second encoder and which of its features (`ovsslib.guides.KINDS`), for base "guide".
        proxy: replace queries by the mean of what is similar to them; false compares the keys with each other.
        rounds: how often that mean is taken.
        criterion: similarity above which a key counts as similar.
        smoothing: start from the mean of the neighbours in all windows (always so in the released ClearCLIP base, an
            option in the ProxyCLIP base).
        token_norm: shift every row by its own mean; false: by the mean of all, as ProxyCLIP does.
        beta: factor of that mean; null: 1 + 0.3 ln(1 + windows) with `token_norm`, else 1.2.
        gamma: factor of the scores; null: 1 + 30 / (number of similar keys) with `token_norm`, else 3.0.
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"ignores_attention"})

    base: Literal["query", "guide"] = "query"
    guide: str = "scenedino"
    kind: str = "last"
    proxy: bool = True
    rounds: int = 2
    criterion: float = 0.55
    smoothing: bool = True
    token_norm: bool = True
    beta: float | None = None
    gamma: float | None = None

    def __post_init__(self):
        if self.rounds < 0:
            raise RecipeError(f"global_attention.rounds={self.rounds}: must be 0 or more")
        if not -1 <= self.criterion < 1:
            raise RecipeError(
                f"global_attention.criterion={self.criterion}: a cosine, must lie in [-1, 1)"
            )
        for name in ("beta", "gamma"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise RecipeError(f"global_attention.{name}={value}: must be above 0, or null")

    def refuse(self, recipe: "Recipe") -> str | None:
        """Why these settings cannot work with the rest of a recipe."""
        reason = rivals(recipe, self)
        if reason:
            return reason
        if recipe.at("views"):
            return "it takes one view of each window; turn the views off"
        return None

    def inert(self, recipe: "Recipe") -> dict[str, str]:
        """Fields that were changed and cannot move a label, each with the reason."""
        reasons: dict[str, str] = {}
        if self.base == "query":
            reasons |= dict.fromkeys(("guide", "kind"), "base is 'query', so no guide is asked")
        if not self._counts():
            reason = "no proxy is made and gamma is fixed, so nothing counts similar keys"
            reasons |= dict.fromkeys(("rounds", "criterion", "smoothing"), reason)
        default = GlobalAttentionSettings()
        return {
            n: reason for n, reason in reasons.items() if getattr(self, n) != getattr(default, n)
        }

    def _counts(self) -> bool:
        """Whether keys similar to a query are looked for: for the proxies, or for their number."""
        return self.proxy or (self.token_norm and self.gamma is None)

    def guide_name(self) -> str | None:
        """The second encoder that is needed, or None."""
        return self.guide if self.base == "guide" else None

    def replace_windows(self, context: PictureContext) -> DenseTokens:
        """Attention outputs (B, S, width) of the B windows, on the base's grid, before ln_post."""
        backbone = context.backbone
        last = backbone.layers - 1
        tap, grid = context.trunk.taps[last], context.trunk.grid
        values = _joined(tap.v)
        if self.base == "query":
            start = _joined(tap.q)
            keys = F.normalize(start, dim=-1)
        else:
            features = F.normalize(context.guide_features(self.kind).float(), dim=1)
            values = _resized(values, grid, (features.shape[-2], features.shape[-1]))
            grid = (features.shape[-2], features.shape[-1])
            start = keys = features.flatten(2).transpose(1, 2)
        if self.smoothing and self._counts():
            corners = [(top, left) for top in context.grid.tops for left in context.grid.lefts]
            sides = context.windows.shape[-2:]
            patch = (sides[0] // grid[0], sides[1] // grid[1])
            start = neighbour_mean(start, grid, corners, patch, itself=self.base == "query")
        mixed, _ = attend_to_all(
            start, keys, values,
            Anchors(self.proxy, self.criterion, self.rounds),
            Normalisation(self.token_norm, self.beta, self.gamma),
        )  # fmt: skip
        block = backbone.blocks[last]
        return DenseTokens(block.ls_1(backbone.output_layer(last, mixed)), grid)


def _joined(heads: Tensor) -> Tensor:
    """(B, heads, 1 + S, d) -> (B, S, heads d) float32, class token dropped."""
    return heads[:, :, 1:].transpose(1, 2).flatten(2).float()


def _resized(values: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """(B, S, D) on a grid -> bilinear to another."""
    if grid == size:
        return values
    maps = values.transpose(1, 2).unflatten(2, grid)
    return F.interpolate(maps, size=size, mode="bilinear").flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class Anchors:
    """How queries are replaced before they look for keys (step 2).

    Attributes:
        replace: use the proxies as queries; False keeps the keys themselves.
        criterion: similarity above which a key counts as a match of a query.
        rounds: how often matches are averaged; 0 takes the matches of the starting queries.
    """

    replace: bool = True
    criterion: float = 0.55
    rounds: int = 2


@dataclass(frozen=True)
class Normalisation:
    """How scores are shifted and sharpened before the softmax (step 3).

    Attributes:
        by_row: shift each row by its own mean; False takes the mean of all entries, and no dynamic value.
        beta: factor of the mean; None: 1 + 0.3 ln(1 + windows).
        gamma: factor of the scores; None: 1 + 30 / (number of matches).
    """

    by_row: bool = True
    beta: float | None = None
    gamma: float | None = None


def neighbour_mean(
    values: Tensor,
    grid: tuple[int, int],
    corners: list[tuple[int, int]],
    patch: tuple[int, int],
    itself: bool,
) -> Tensor:
    """Step 1s: mean of each token's neighbours.

    Neighbours are the eight around it in its own window, and the tokens of other windows whose patch begins at the
    same pixel of the picture.

    Args:
        values: (B, S, C), S = h w.
        grid: (h, w).
        corners: (top, left) pixel of each window.
        patch: (height, width) of a patch in pixels.
        itself: whether a token counts among its neighbours; without, one that has none gets 0.

    Returns:
        (B, S, C) float32.
    """
    h, w = grid
    maps = values.float().transpose(1, 2).unflatten(2, grid)
    box = 9 * F.avg_pool2d(maps, 3, stride=1, padding=1)
    count = 9 * F.avg_pool2d(maps.new_ones(1, 1, h, w), 3, stride=1, padding=1)
    total = box.flatten(2).transpose(1, 2)
    count = count.flatten()[None].expand(len(values), -1).clone()
    rows, columns = torch.arange(h) * patch[0], torch.arange(w) * patch[1]
    places = [
        torch.cartesian_prod(top + rows, left + columns).reshape(h * w, 2) for top, left in corners
    ]
    _, place = torch.unique(torch.cat(places), dim=0, return_inverse=True)
    place = place.to(values.device)
    flat = values.float().flatten(0, 1)
    sums = flat.new_zeros(int(place.max()) + 1, flat.shape[1]).index_add_(0, place, flat)
    times = torch.bincount(place).to(flat.dtype)
    total = total + (sums[place] - flat).unflatten(0, values.shape[:2])
    count = count + (times[place] - 1).unflatten(0, values.shape[:2])
    if not itself:
        total, count = total - values.float(), count - 1
    return total / count.clamp_min(1)[..., None]


def proxies(start: Tensor, keys: Tensor, places: slice, anchors: Anchors) -> tuple[Tensor, Tensor]:
    """Step 2 for some rows: queries after the rounds of averaging, and their numbers of matches.

    Args:
        start: (S, C) unit queries.
        keys: (N, C) unit keys of all windows.
        places: where these rows stand among the keys.

    Returns:
        queries (S, C), matches (S, 1); as float32.
    """
    queries = start
    diagonal = torch.arange(places.start, places.stop, device=keys.device)[:, None]
    for turn in range(max(anchors.rounds, 1)):
        match = queries @ keys.T > anchors.criterion
        alone = ~match.any(dim=1, keepdim=True)
        match = match.scatter(1, diagonal, match.gather(1, diagonal) | alone)
        count = match.sum(dim=1, keepdim=True).float()
        if turn < anchors.rounds:
            queries = F.normalize(match.to(keys.dtype) @ keys / (count + 1e-6), dim=-1)
    return (queries if anchors.replace else keys[places]), count


def global_weights(
    queries: Tensor,
    keys: Tensor,
    matches: Tensor,
    windows: int,
    normalisation: Normalisation,
    mean: Tensor | None,
) -> Tensor:
    """Steps 2 and 3 for some rows: attention weights (S, N) over the patches of all windows.

    Args:
        mean: of all scores, where `normalisation.by_row` is False.
    """
    scores = queries @ keys.T
    if normalisation.by_row:
        beta = (
            1 + BETA_GROWTH * math.log(1 + windows)
            if normalisation.beta is None
            else normalisation.beta
        )
        gamma = 1 + GAMMA_GROWTH / matches if normalisation.gamma is None else normalisation.gamma
        scores = (scores - scores.mean(dim=1, keepdim=True).clamp_min(0) * beta) * gamma
    else:
        beta = FIXED_BETA if normalisation.beta is None else normalisation.beta
        gamma = FIXED_GAMMA if normalisation.gamma is None else normalisation.gamma
        assert mean is not None
        scores = (scores - mean * beta) * gamma
    cut = scores.amax(dim=1, keepdim=True).clamp_max(0)
    return scores.masked_fill(scores < cut, -math.inf).softmax(dim=-1)


def attend_to_all(
    start: Tensor, keys: Tensor, values: Tensor, anchors: Anchors, normalisation: Normalisation
) -> tuple[Tensor, Tensor]:
    """Attention of all windows' patches over all windows' patches, window by window.

    Args:
        start: (B, S, C) queries to begin with, any length.
        keys: (B, S, C) unit keys.
        values: (B, S, D).

    Returns:
        mixed values (B, S, D) float32, numbers of matches (B, S, 1).
    """
    windows, size = keys.shape[:2]
    start = F.normalize(start.float(), dim=-1)
    flat, value = keys.float().flatten(0, 1), values.float().flatten(0, 1)
    rows = [slice(i * size, (i + 1) * size) for i in range(windows)]
    pairs = [proxies(start[i], flat, places, anchors) for i, places in enumerate(rows)]
    mean = None
    if not normalisation.by_row:
        # the mean of all products is the product of the means
        centre = torch.stack([queries.double().mean(dim=0) for queries, _ in pairs]).mean(dim=0)
        mean = (centre @ flat.double().mean(dim=0)).float()
    mixed = [
        global_weights(queries, flat, matches, windows, normalisation, mean) @ value
        for queries, matches in pairs
    ]
    return torch.stack(mixed), torch.stack([matches for _, matches in pairs])
