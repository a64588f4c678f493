"""CLIPtrase's reweighting on VOC20: patch logits times the class token's logits (Shao et al., ECCV 2024)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.recipe import stage


@stage(
    "class_token_weight",
    point="similarity",
    order=80,
    summary="multiply patch logits by the class token's (CLIPtrase, VOC20 only)",
)
@dataclass(frozen=True)
class ClassTokenWeightSettings:
    """Logits of every patch are multiplied by the cosine of the class token with the same query.

    The released code multiplies logits that carry CLIP's factor 100 each; the factor is constant, so it goes into
    `labels.logit_scale` (10,000 in effect), where it cannot change an argmax.
    """

    version: ClassVar[int] = 1

    def on_similarity(self, logits: Tensor, context) -> Tensor:
        """(B, Q, h, w) cosines -> the same, weighted."""
        weight = torch.einsum("qd,bd->bq", context.text, F.normalize(context.class_token, dim=-1))
        # rows of other stages may stand behind the words' and be gone already
        return logits * weight[:, : logits.shape[1], None, None]
