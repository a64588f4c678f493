"""A trained model behind the segmenter's interface."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.clip.memory import check_memory, memory_errors
from ovsslib.comparators.known import Known
from ovsslib.comparators.labels import LabelMap, map_labels
from ovsslib.errors import WordsError
from ovsslib.images.pictures import Picture, read_picture
from ovsslib.images.segmentation import Segmentation
from ovsslib.recipe import Recipe, make_settings
from ovsslib.stages.contexts import Words
from ovsslib.text.features import TextFeatures, merge_queries
from ovsslib.text.vocabulary import Vocabulary


class OpenNetwork(Protocol):
    """A network that takes any words."""

    def scores(self, image: np.ndarray, sentences: Sequence[str]) -> Tensor:
        """(H, W, 3) uint8, Q sentences -> scores (Q, h, w) float32 in [0, 1]."""
        ...


class ClosedNetwork(Protocol):
    """A network with labels of its own."""

    labels: tuple[str, ...]

    def label_scores(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> scores (L, h, w) float32, 0 or more, the best label the largest."""
        ...


@dataclass(frozen=True)
class ComparatorModel:
    """What results and keys say of a comparator's weights; it stands where a segmenter has its backbone.

    Attributes:
        name, pretrained: what tables call it. weights_hash: 16 hex digits.
        configuration: what it computes besides its weights. precision, device: how and where it runs.
        batch_of_windows: pictures at a time, always 1.
    """

    name: str
    pretrained: str
    weights_hash: str
    configuration: dict[str, Any] = field(default_factory=dict, hash=False)
    precision: str = "fp32"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_of_windows: int = 1


class Comparator:
    """A trained model, ready to segment. Make one with :func:`ovsslib.comparators.load`.

    Attributes:
        about: what is known of it, its group among others.
        recipe: named after it; its `text` settings say which names of a data set's classes it is given.
        backbone: a `ComparatorModel`.
        labels: the labels of a closed vocabulary, or None.
    """

    def __init__(self, network: Any, about: Known, backbone: ComparatorModel):
        self.network, self.about, self.backbone = network, about, backbone
        self.labels: tuple[str, ...] | None = getattr(network, "labels", None)
        text = {"names": "readable"}
        if about.prompts:
            text["prompts"] = about.prompts
        self.recipe = Recipe(
            about.name,
            {"text": make_settings("text", text)},
            f"{about.title}, {about.group}",
            about.source,
        )
        self._maps: dict[str, LabelMap] = {}

    def __repr__(self) -> str:
        kind = "any words" if self.labels is None else f"{len(self.labels)} labels"
        return f"Comparator({self.about.name!r}, {self.backbone.pretrained!r}, {kind}, {self.about.group})"

    # -- words ----------------------------------------------------------------------------------------------

    def text(
        self, words: Any, background: str | Sequence[str] | None = None, *, share: bool = True
    ) -> TextFeatures:
        """The words as the evaluation hands them on; the model reads the words themselves, so there are no features
        and nothing that `share` (see :meth:`ovsslib.Segmenter.text`) could change.

        Raises WordsError if a closed vocabulary has none of the words. Warns of those that it lacks.
        """
        vocabulary = words
        if not isinstance(words, Vocabulary):
            vocabulary = Vocabulary.from_words(words, background)
        elif background is not None:
            vocabulary = words.with_background(background)
        lacking = self.lacks(vocabulary)
        wanted = len(vocabulary) - (vocabulary.background is not None)
        if lacking and len(lacking) == wanted:
            assert self.labels is not None
            raise WordsError(
                f"{self.about.title} knows {len(self.labels)} labels and none of the words {', '.join(lacking[:5])}; "
                f"its labels are {', '.join(self.labels[:8])}, ...: ask for some of them, or take a model with an open "
                "vocabulary"
            )
        if lacking:
            warnings.warn(
                f"{self.about.title} has no label for {', '.join(map(repr, lacking))}: no pixel is given to "
                f"{'it' if len(lacking) == 1 else 'them'}",
                stacklevel=2,
            )
        queries = torch.tensor(vocabulary.query_class, dtype=torch.long)
        return TextFeatures(torch.zeros(len(queries), 0), queries, vocabulary)

    def lacks(self, words: Any) -> list[str]:
        """Words that a closed vocabulary has no label for; none for an open one."""
        vocabulary = words if isinstance(words, Vocabulary) else Vocabulary.from_words(words)
        if self.labels is None:
            return []
        return [vocabulary.names[index] for index in self.map(vocabulary).lacking]

    def map(self, vocabulary: Vocabulary) -> LabelMap:
        """Which label stands for which class; for a closed vocabulary."""
        assert self.labels is not None
        if vocabulary.fingerprint not in self._maps:
            self._maps[vocabulary.fingerprint] = map_labels(self.labels, vocabulary)
        return self._maps[vocabulary.fingerprint]

    # -- pictures -------------------------------------------------------------------------------------------

    def __call__(
        self,
        picture: Picture,
        words: Any,
        background: str | Sequence[str] | None = None,
        keep_scores: bool = False,
    ) -> Segmentation:
        """Segment a picture; arguments and errors as for :class:`ovsslib.Segmenter`.

        With a closed vocabulary a pixel goes to the best of the words' labels; with a background class, to the
        background where another label is better.
        """
        image = read_picture(picture)
        return self.segment(image, self.text(words, background), keep_scores)

    def segment(
        self,
        image: np.ndarray,
        text: TextFeatures,
        keep_scores: bool = False,
        confidence: bool = False,
    ) -> Segmentation:
        """Segment an (H, W, 3) uint8 picture with words from :meth:`text`; `confidence`: keep score and margin of each pixel."""
        scores = self.class_scores(image, text)
        sure = margin = None
        if confidence:
            best = scores.topk(min(2, len(scores)), dim=0).values
            sure = best[0].clamp(0, 1).cpu().numpy()
            margin = (best[0] - best[1] if len(best) > 1 else best[0]).cpu().numpy()
        return Segmentation(
            mask=scores.argmax(dim=0).to(torch.int32).cpu().numpy(), names=list(text.vocabulary.names),
            scores=scores.cpu().numpy() if keep_scores else None, image=image, recipe=self.recipe.name,
            model=self.backbone.pretrained, confidence=sure, margin=margin,
        )  # fmt: skip

    def class_scores(self, image: np.ndarray, text: TextFeatures) -> Tensor:
        """(C, H, W) float32 class scores in [0, 1] of a picture (H, W, 3) uint8, at its own size.

        Raises MemoryBudgetError for scores that do not fit.
        """
        size = (image.shape[0], image.shape[1])
        vocabulary = text.vocabulary
        rows = len(self.labels) if self.labels is not None else len(vocabulary.queries)
        check_memory(rows, size, self.backbone.device)
        with torch.no_grad(), memory_errors():
            if self.labels is None:
                sentences = [
                    self.recipe["text"].prompts_for(query, vocabulary.kinds[owner])[0]
                    for query, owner in zip(vocabulary.queries, vocabulary.query_class, strict=True)
                ]
                enlarged = _enlarged(self.network.scores(image, sentences), size)
                return merge_queries(enlarged, text.query_class, len(vocabulary))
            return self._of_labels(_enlarged(self.network.label_scores(image), size), vocabulary)

    def _of_labels(self, scores: Tensor, vocabulary: Vocabulary) -> Tensor:
        """Label scores (L, H, W) -> class scores (C, H, W): each class the best of its labels, as a share of all."""
        owner = self.map(vocabulary).owner
        total = scores.sum(dim=0).clamp_min(1e-12)
        class_scores = scores.new_zeros(len(vocabulary), *scores.shape[1:])
        for index in range(len(vocabulary)):
            wanted = None if index == vocabulary.background else index
            places = [place for place, label_class in enumerate(owner) if label_class == wanted]
            if places:
                class_scores[index] = scores[places].amax(dim=0) / total
        return class_scores

    # -- for the evaluation ---------------------------------------------------------------------------------

    def labelled(self, image: np.ndarray, text: TextFeatures) -> tuple[np.ndarray, np.ndarray]:
        """Labels (H, W) int32 of a picture (H, W, 3) uint8, and the score of each pixel's label (H, W) float32."""
        sure, labels = self.class_scores(image, text).max(dim=0)
        return labels.to(torch.int32).cpu().numpy(), sure.clamp(0, 1).cpu().numpy()

    def words(self, text: TextFeatures) -> Words:
        """Rows without a value: the model reads the words themselves."""
        return Words(
            text.features, len(text.query_class), text.query_class, text.vocabulary.background
        )

    def trunk_key(self) -> tuple:
        """It shares no pass with another."""
        return ("comparator", id(self))


def _enlarged(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores (N, h, w) -> (N, H, W) float32, bilinear."""
    scores = scores.float()
    if tuple(scores.shape[-2:]) == size:
        return scores
    return F.interpolate(scores[None], size=size, mode="bilinear")[0]
