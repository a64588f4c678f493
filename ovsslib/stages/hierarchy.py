"""Groups first, classes second: p(class) = p(group) p(class | group) (thesis, section 3.5.1).

p(group) comes from the group's own text, not from the sum of its members, which would give p(class) back. The thesis
author's released step cannot fire: its threshold 0.6 over six groups lies above the largest possible probability.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.errors import RecipeError
from ovsslib.recipe import stage
from ovsslib.text.features import TextFeatures, encode_texts, merge_queries
from ovsslib.text.prompts import TextSettings
from ovsslib.text.vocabulary import Vocabulary


@stage(
    "hierarchy",
    point="confidence",
    order=40,
    summary="decide the group first, then the class inside it",
)
@dataclass(frozen=True)
class HierarchySettings:
    """Settings of the hierarchy.

    Attributes:
        mode: "soft": p(group) p(class | group); "hard": classes outside the best group get 0.
        text: a group's text features: its own "name", or the normalised mean of its "members".
        groups: "vocabulary" (its groups), "clusters" (agglomerative clustering of the text features), or "auto": the
            vocabulary's if it has some, else clusters.
        count: number of clusters; 0 takes the square root of the number of classes.
    """

    version: ClassVar[int] = 1
    mode: Literal["soft", "hard"] = "soft"
    text: Literal["name", "members"] = "members"
    groups: Literal["auto", "vocabulary", "clusters"] = "auto"
    count: int = 0

    def __post_init__(self):
        if self.count < 0:
            raise RecipeError(f"hierarchy.count={self.count}: must be 0 (automatic) or more")

    @property
    def capabilities(self) -> frozenset[str]:
        """It merges synonyms; a hard one takes the best class of the best group, whatever the temperature."""
        soft = {"reads_scaled_logits"} if self.mode == "soft" else set()
        return frozenset({"merges_synonyms", *soft})

    def refuse(self, recipe) -> str | None:
        """Why these settings cannot work with the rest of a recipe."""
        if self.groups == "clusters" and self.text == "name":
            return "clusters of words have no name of their own; use text='members'"
        return None

    def inert(self, recipe) -> dict[str, str]:
        """Fields that were changed and cannot move a label, each with the reason."""
        if self.groups == "vocabulary" and self.count:
            return {"count": "the vocabulary's groups are used, not clusters"}
        return {}

    def _given(self, vocabulary: Vocabulary) -> list[str]:
        """The vocabulary's group of every class; none if clusters are made. Raises RecipeError as `membership`."""
        groups = vocabulary.groups
        complete = all(
            group is not None for i, group in enumerate(groups) if i != vocabulary.background
        )
        if self.groups == "vocabulary" and not complete:
            raise RecipeError(
                f"hierarchy.groups='vocabulary': {vocabulary.name!r} does not give every class a group; use "
                "groups='clusters'"
            )
        if self.groups == "clusters" or not complete:
            return []
        return [group or "background" for group in groups]

    def membership(self, text: TextFeatures) -> tuple[list[str], np.ndarray]:
        """Names of the groups and the group index of every class (C,). Raises RecipeError if there are none."""
        given = self._given(text.vocabulary)
        if given:
            names = list(dict.fromkeys(given))
            return names, np.array([names.index(group) for group in given])
        if self.text == "name":
            raise RecipeError(
                f"hierarchy.text='name': the groups of {text.vocabulary.name!r} are clusters without a name; use "
                "text='members'"
            )
        classes = len(text.vocabulary)
        count = min(self.count or max(2, round(classes**0.5)), classes)
        if classes < 2:
            return ["cluster 1"], np.zeros(classes, dtype=int)
        from sklearn.cluster import AgglomerativeClustering  # late: slow to import, seldom needed

        means = class_means(text).cpu().numpy()
        clusters = AgglomerativeClustering(count, metric="cosine", linkage="average").fit_predict(
            means
        )
        _, index = np.unique(clusters, return_inverse=True)
        return [f"cluster {i + 1}" for i in range(index.max() + 1)], index

    def group_features(self, backbone, text: TextFeatures, text_settings) -> Tensor:
        """Unit text features of the groups (G, D)."""
        names, index = self.membership(text)
        if self.text == "name":
            return encode_texts(backbone, names, text_settings)
        means = class_means(text)
        member = torch.from_numpy(index).to(means.device)
        return F.normalize(
            torch.stack([means[member == g].mean(dim=0) for g in range(len(names))]), dim=-1
        )

    def sentences(self, vocabulary: Vocabulary, settings: TextSettings) -> dict[str, list[str]]:
        """Of the groups' names, where these are asked for."""
        names = dict.fromkeys(self._given(vocabulary)) if self.text == "name" else ()
        return {"text": settings.prompts_of(list(names))}

    def on_scores(self, scores: Tensor, logits: Tensor, context) -> Tensor:
        """Class scores (C, H, W) from scaled logits of queries (Q, H, W) and of groups (G, H, W)."""
        text = context.text
        names, index = self.membership(text)
        group = context.group_logits.softmax(dim=0)
        best = merge_queries(logits, text.query_class, len(text.vocabulary))
        out = torch.empty_like(best)
        for g in range(len(names)):
            members = np.flatnonzero(index == g).tolist()
            within = best[members].softmax(dim=0)
            if self.mode == "soft":
                out[members] = within * group[g]
            else:
                out[members] = within * (group.argmax(dim=0) == g)
        return out


def class_means(text: TextFeatures) -> Tensor:
    """Unit mean of the queries of every class: (C, D)."""
    index = text.query_class.to(text.features.device)
    sums = torch.zeros(len(text.vocabulary), text.features.shape[1], device=text.features.device)
    return F.normalize(sums.index_add_(0, index, text.features.float()), dim=-1)
