"""The best word of every pixel, kept while words come a few at a time, so that all logits are never held."""

import torch
from torch import Tensor


class RunningBest:
    """Label, confidence and margin of every pixel, from scaled logits that come query by query.

    Labels are those of the largest logit, the first of equal ones. Confidence and margin are those of a softmax over
    all queries (maximum over each class's queries), to rounding.

    Args:
        size: (H, W) pixels.
        device: where the logits are.
        confidence: whether the parts of the softmax are kept; they cost two maps more, and time.
    """

    def __init__(self, size: tuple[int, int], device: torch.device, confidence: bool = False):
        self.best = torch.full(size, -torch.inf, device=device)
        self.labels = torch.zeros(size, dtype=torch.int32, device=device)
        self.keeps_confidence = confidence
        self._second = self.best.clone() if confidence else None
        self._total = torch.zeros(size, device=device) if confidence else None

    def add(self, scaled: Tensor, classes: list[int]) -> None:
        """Take scaled logits (q, H, W) of queries that count for these classes."""
        before = self.best.clone() if self.keeps_confidence else self.best
        for logits, label in zip(scaled, classes, strict=True):
            if self._second is not None:
                # what is pushed out by another class, or does not reach the best, may be the second
                runner_up = torch.minimum(logits, self.best).clamp_(min=self._second)
                self._second = torch.where(self.labels == label, self._second, runner_up)
            self.labels.masked_fill_(logits > self.best, label)
            torch.maximum(self.best, logits, out=self.best)
        if self._total is not None:
            self._total *= (before - self.best).exp_()
            for logits in scaled:
                self._total += (logits - self.best).exp_()

    def confidence(self) -> tuple[Tensor, Tensor]:
        """Score (H, W) of each pixel's label in [0, 1], and its margin over the second class (0 score if none)."""
        assert self._total is not None and self._second is not None
        margin = (1 - (self._second - self.best).exp_()) / self._total
        return (1 / self._total).clamp_(0, 1), margin
