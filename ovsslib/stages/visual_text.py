"""RF-CLIP's text rows adapted to the window: of words of like meaning, the best one moves towards
its patches.

Source: RF-CLIP (AAAI 2026, arXiv 2511.16170), "hierarchical prompt" of its released code.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
import scipy  # its parts load when first used
import torch
from torch import Tensor
from torch.nn import functional as F

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe, stage
from ovsslib.stages.contexts import WindowContext


@stage(
    "visual_text",
    point="similarity",
    order=40,
    summary="the best word of a cluster moves to its patches (RF-CLIP)",
)
@dataclass(frozen=True)
class VisualTextSettings:
    """Of every cluster of words, the one closest to the class token becomes norm((1 - weight) T +
    weight m).

    m is the unit mean of the patches of the window that are closest to that word.

    Attributes:
        weight: share of the patches (published: 0.01 to 0.05).
        distance: words are of one cluster if all their cosine distances are at most this (complete
            linkage; published: 0.02 to 0.14).
        patches: how many patches are averaged (published: 2).
        class_token: whose class token chooses the word: that of the whole "picture", as released
            for most data sets, or of the "window".
    """

    version: ClassVar[int] = 1
    weight: float = 0.03
    distance: float = 0.1
    patches: int = 2
    class_token: Literal["picture", "window"] = "picture"

    def __post_init__(self):
        if not 0 <= self.weight <= 1:
            raise RecipeError(f"visual_text.weight={self.weight}: must lie between 0 and 1")
        if not 0 <= self.distance <= 2:
            raise RecipeError(
                f"visual_text.distance={self.distance}: a cosine distance lies between 0 and 2"
            )
        if self.patches < 1:
            raise RecipeError(f"visual_text.patches={self.patches}: must be 1 or more")

    @property
    def capabilities(self) -> frozenset[str]:
        """The class token of the whole picture takes a pass of its own."""
        further = {"asks_clip_again"} if self.class_token == "picture" else set()
        return frozenset({"compares_in_place", *further})

    def refuse(self, recipe: Recipe) -> str | None:
        """Why these settings cannot work with the rest of a recipe."""
        if self.class_token == "window" and recipe.has("one_map"):
            return (
                "there is one map of the whole picture and no window; set class_token to 'picture'"
            )
        return None

    def inert(self, recipe: Recipe) -> str | None:
        """A share of 0 changes nothing."""
        return "weight is 0" if self.weight == 0 else None

    def on_window_text(self, text: Tensor, context: WindowContext) -> Tensor:
        """Rows (Q, D) or (B, Q, D) -> (B, Q, D) adapted to each window; rows of groups behind the
        words stay.
        """
        assert context.features is not None  # there before the text is compared
        rows = text.expand(len(context.features), *text.shape[-2:])
        if self.class_token == "picture":
            token = context.picture_class_token()[None].expand(len(rows), -1)
        else:
            token = context.class_token
        words = context.queries
        adapted = adapt_text(
            rows[:, :words].float(),
            context.features.flatten(2),
            token,
            self.weight,
            self.distance,
            self.patches,
        )
        return torch.cat([adapted, rows[:, words:].float()], dim=1)


def adapt_text(
    text: Tensor,
    features: Tensor,
    class_token: Tensor,
    weight: float,
    distance: float,
    patches: int = 2,
) -> Tensor:
    """Text rows adapted to windows.

    Args:
        text: (B, Q, D) unit rows. features: (B, D, N) patch features. class_token: (B, D); both of
            any length.
        weight, distance, patches: see :class:`VisualTextSettings`.

    Returns:
        (B, Q, D) float32.
    """
    features = F.normalize(features.float(), dim=1)
    chosen_by = torch.einsum("bqd,bd->bq", text, F.normalize(class_token.float(), dim=-1))
    out = text.clone()
    for index, rows in enumerate(text):
        cluster = text_clusters(rows, distance)
        best = [
            members[int(chosen_by[index, members].argmax())]
            for members in (np.flatnonzero(cluster == c).tolist() for c in range(cluster.max() + 1))
        ]
        cosines = rows[best] @ features[index]
        nearest = cosines.topk(min(patches, cosines.shape[1]), dim=1).indices
        mean = F.normalize(features[index].T[nearest].mean(dim=1), dim=-1)
        out[index, best] = F.normalize((1 - weight) * rows[best] + weight * mean, dim=-1)
    return out


def text_clusters(rows: Tensor, distance: float) -> np.ndarray:
    """Cluster number (Q,) of text rows (Q, D), counted from 0: complete linkage, cut at a cosine
    distance.
    """
    values = np.ascontiguousarray(rows.detach().cpu().numpy(), dtype=np.float32)
    return _clusters(values.tobytes(), values.shape, distance)


@lru_cache(maxsize=8)
def _clusters(values: bytes, shape: tuple[int, int], distance: float) -> np.ndarray:
    if shape[0] < 2:
        return np.zeros(shape[0], dtype=int)
    rows = np.frombuffer(values, dtype=np.float32).reshape(shape).astype(np.float64)
    return (
        scipy.cluster.hierarchy.fcluster(
            scipy.cluster.hierarchy.linkage(rows, "complete", metric="cosine"),
            distance,
            criterion="distance",
        )
        - 1
    )
