"""CLIP Surgery's feature surgery: what all words have in common is taken from every word's logits (Li et al., 2025)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.errors import RecipeError
from ovsslib.recipe import stage
from ovsslib.stages.contexts import WindowContext
from ovsslib.text.features import encode_texts
from ovsslib.text.prompts import TextSettings
from ovsslib.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from ovsslib.recipe import Recipe


@stage(
    "feature_surgery",
    point="similarity",
    order=70,
    summary="take what all words have in common from their logits (CLIP Surgery)",
)
@dataclass(frozen=True)
class FeatureSurgerySettings:
    """Logits L of patches and words -> w L - mean over words of w L, with w from the window's class token.

    w = softmax(temperature * cosines of the class token) over the words, divided by its mean. Only w can change
    which word wins a patch: the mean is the same for all words. Texts of groups behind the words stay as they are.
    Source: arXiv 2304.05653, its released code, which writes the temperature 2 in.

    Attributes:
        temperature: factor of the class token's cosines (released: 2).
        redundant: a text, put into the recipe's templates, whose logit is taken from every word's *instead*, without
            w; "" as released. It never changes which word wins; it is for maps. None: as above, and a word that is
            alone is compared with "", since alone it would have nothing in common with others but itself.
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"compares_in_place"})

    temperature: float = 2.0
    redundant: str | None = None

    def __post_init__(self):
        if self.temperature < 0:
            raise RecipeError(f"feature_surgery.temperature={self.temperature}: must be 0 or more")

    def inert(self, recipe: "Recipe") -> str | dict[str, str] | None:
        """The same number taken from all words of a patch moves no label and no probability."""
        reading = [
            s
            for hook in ("on_similarity", "on_logits", "class_scores")
            for s in recipe.stages_with(hook)
            if s is not self
        ]
        same = self.redundant is not None or self.temperature == 0
        if same and not reading:
            return "the same is taken from every word of a patch, and nothing asks for more than differences"
        if self.redundant is not None and self.temperature != 2:
            return {"temperature": "a redundant text is given, so words have no weights"}
        return None

    def sentences(self, vocabulary: Vocabulary, settings: TextSettings) -> dict[str, list[str]]:
        """Of the redundant text, which is empty for a vocabulary of one word."""
        redundant = self._redundant(len(vocabulary.queries))
        return {"redundant": [] if redundant is None else settings.prompts_of([redundant])}

    def _redundant(self, queries: int) -> str | None:
        """The text to be taken off, None where the words' mean is."""
        return "" if self.redundant is None and queries == 1 else self.redundant

    def on_similarity(self, logits: Tensor, context: WindowContext) -> Tensor:
        """Logits (B, Q + G, h, w) -> the same, the G texts of groups unchanged."""
        # a stage at "similarity" runs when words and features are known
        assert context.text is not None and context.features is not None
        words, groups = logits[:, : context.queries], logits[:, context.queries :]
        redundant = self._redundant(context.queries)
        if redundant is None:
            unit = F.normalize(context.class_token.float(), dim=-1)
            weights = word_weights(unit @ context.text[: context.queries].T, self.temperature)
            words = surgery(words, weights)
        else:
            assert context.recipe is not None
            row = encode_texts(context.backbone, [redundant], context.recipe["text"])
            features = F.normalize(context.features.float(), dim=1)
            words = words - torch.einsum("qd,bdhw->bqhw", row.to(features), features)
        return torch.cat([words, groups], dim=1)


def word_weights(cosines: Tensor, temperature: float = 2.0) -> Tensor:
    """Weights (B, Q) of mean 1 from the class token's cosines (B, Q) with the words."""
    share = (temperature * cosines).softmax(dim=-1)
    return share / share.mean(dim=-1, keepdim=True)


def surgery(logits: Tensor, weights: Tensor) -> Tensor:
    """w L - mean over words of w L, for logits (B, Q, ...) and weights (B, Q)."""
    weighted = logits * weights.reshape(*weights.shape, *[1] * (logits.ndim - 2))
    return weighted - weighted.mean(dim=1, keepdim=True)
