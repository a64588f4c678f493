"""The hooks of every point of the flow, as typed protocols: what a stage may offer, and what it gets and gives.

A stage stands at one point and has at least one hook of it; `ovsslib.recipe.stage` checks that when it registers.
W: called once per window (a batch of them), I: once per image, T: once per list of words.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from ovsslib.stages.contexts import (
    Adjust,
    AllWindowsContext,
    AttentionContext,
    DenseTokens,
    ImageContext,
    PictureContext,
    PictureTextContext,
    TextContext,
    TrunkContext,
    WholePictureContext,
    WindowContext,
    WindowsContext,
)
from ovsslib.text.features import TextFeatures


@runtime_checkable
class OnText(Protocol):
    """text, T: text features of all words, changed before any image is seen."""

    def on_text(self, text: TextFeatures, context: TextContext) -> TextFeatures: ...


@runtime_checkable
class KeepWords(Protocol):
    """words, I: (Q,) bool, the queries that are in the picture; the background's are always kept."""

    def keep_words(self, context: WholePictureContext) -> Tensor: ...


@runtime_checkable
class OnCrops(Protocol):
    """windows, I: windows (N, 3, h, w) of an image -> the same shape."""

    def on_crops(self, crops: Tensor, context: WindowsContext) -> Tensor: ...


@runtime_checkable
class Views(Protocol):
    """views, W: several views of each window, and one set of logits from their features."""

    def views(self, pixels: Tensor) -> list[Tensor]: ...

    def merge(self, features: Sequence[Tensor], text: Tensor) -> Tensor: ...


@runtime_checkable
class OnBlock(Protocol):
    """trunk, W: tokens (B, T, width) behind 0-based block `index` -> the same shape."""

    def on_block(self, tokens: Tensor, index: int, context: TrunkContext) -> Tensor: ...


@runtime_checkable
class OnBlockWeights(Protocol):
    """trunk, W: softmaxed weights (B, heads, T, T) inside block `index` -> the same shape."""

    def on_block_weights(self, weights: Tensor, index: int, context: TrunkContext) -> Tensor: ...


@runtime_checkable
class OnWeights(Protocol):
    """attention, W: weights (B, heads, T, T) of the last block -> the same shape."""

    def on_weights(self, weights: Tensor, context: AttentionContext) -> Tensor: ...


@runtime_checkable
class FeedBack(Protocol):
    """attention, W: cosines (B, Q, h, w) of a first pass -> a change of the score matrices of a second."""

    def feed_back(self, logits: Tensor, context: AttentionContext) -> Adjust: ...


@runtime_checkable
class SecondWeights(Protocol):
    """attention, W: cosines (B, Q + E, h, w) of a first pass -> weights (B, heads, T, T) of a second."""

    def second_weights(self, logits: Tensor, context: AttentionContext) -> Tensor: ...


@runtime_checkable
class ReplaceBlock(Protocol):
    """attention, W: the last block computed by the stage itself."""

    def replace_block(self, context: AttentionContext) -> DenseTokens: ...


@runtime_checkable
class ReplaceWindows(Protocol):
    """picture, I: the last block of all windows at once."""

    def replace_windows(self, context: PictureContext) -> DenseTokens: ...


@runtime_checkable
class PictureLogits(Protocol):
    """picture, I: logits (Q, h, w) of the picture, computed by the stage itself, without windows."""

    def picture_logits(self, context: WholePictureContext) -> Tensor: ...


@runtime_checkable
class OnFeatures(Protocol):
    """features, W: (B, D, h, w) -> (B, D, h', w')."""

    def on_features(self, features: Tensor, context: WindowContext) -> Tensor: ...


@runtime_checkable
class OnPictureText(Protocol):
    """picture_text, I: unit rows (Q, D) of the words -> the rows for this image."""

    def on_picture_text(self, rows: Tensor, context: PictureTextContext) -> Tensor: ...


@runtime_checkable
class OnWindowText(Protocol):
    """similarity, W: rows (Q, D) -> (B, Q, D) rows for each window."""

    def on_window_text(self, text: Tensor, context: WindowContext) -> Tensor: ...


@runtime_checkable
class OnSimilarity(Protocol):
    """similarity, W: cosines (B, Q, h, w) -> the same shape."""

    def on_similarity(self, logits: Tensor, context: WindowContext) -> Tensor: ...


@runtime_checkable
class OnAllWindows(Protocol):
    """similarity, I: cosines (N, Q, h, w) of all windows of a picture -> the same shape."""

    def on_all_windows(self, logits: Tensor, context: AllWindowsContext) -> Tensor: ...


@runtime_checkable
class OnNetworkLogits(Protocol):
    """refine, I: stitched cosines (Q, h, w) at the network picture's size -> the same shape."""

    def on_network_logits(self, logits: Tensor, context: ImageContext) -> Tensor: ...


@runtime_checkable
class OnLogits(Protocol):
    """refine, I: stitched cosines (1, Q, H, W) -> the same shape."""

    def on_logits(self, logits: Tensor, context: ImageContext) -> Tensor: ...


@runtime_checkable
class OnQueries(Protocol):
    """refine, I: stitched cosines (q, H, W) of some queries -> the same shape, what `on_logits` gives these queries.

    For a stage that refines each query by itself, so that a picture's logits need not be held at once. `kept` is
    empty at the first call for a picture; what the stage puts there is there at the next.
    """

    def on_queries(self, logits: Tensor, context: ImageContext, kept: dict[Any, Any]) -> Tensor: ...


@runtime_checkable
class OnProbabilities(Protocol):
    """refine, I: class scores (C, H, W) in [0, 1] -> the same shape."""

    def on_probabilities(self, scores: Tensor, context: ImageContext) -> Tensor: ...


@runtime_checkable
class ClassScores(Protocol):
    """scores, I: stitched logits (Q, H, W), not scaled -> class scores (C, H, W), in place of the softmax."""

    def class_scores(self, logits: Tensor, context: ImageContext) -> Tensor: ...


@runtime_checkable
class OnScaledLogits(Protocol):
    """confidence, I: scaled logits (Q, H, W) -> the same shape."""

    def on_scaled_logits(self, logits: Tensor, context: ImageContext) -> Tensor: ...


@runtime_checkable
class OnScores(Protocol):
    """confidence, I: class scores (C, H, W), and the scaled logits they come from -> class scores."""

    def on_scores(self, scores: Tensor, logits: Tensor, context: ImageContext) -> Tensor: ...


@runtime_checkable
class OnLabels(Protocol):
    """labels, I: label map (H, W) int32 -> the same."""

    def on_labels(self, labels: np.ndarray, context: ImageContext) -> np.ndarray: ...


@runtime_checkable
class Threshold(Protocol):
    """labels, I: class scores (C, H, W) -> the probability below which a pixel of this image is background."""

    def threshold(self, scores: Tensor, context: ImageContext) -> float: ...


PROTOCOLS: dict[str, tuple[type, ...]] = {
    "text": (OnText,),
    "words": (KeepWords,),
    "windows": (OnCrops,),
    "views": (Views,),
    "trunk": (OnBlock, OnBlockWeights),
    "attention": (OnWeights, FeedBack, SecondWeights, ReplaceBlock),
    "picture": (ReplaceWindows, PictureLogits),
    "features": (OnFeatures,),
    "picture_text": (OnPictureText,),
    "similarity": (OnWindowText, OnSimilarity, OnAllWindows),
    "refine": (OnNetworkLogits, OnLogits, OnQueries, OnProbabilities),
    "scores": (ClassScores,),
    "confidence": (OnScaledLogits, OnScores),
    "labels": (OnLabels, Threshold),
}
"""The protocols of each point; a test holds them to `ovsslib.recipe.POINTS`."""
