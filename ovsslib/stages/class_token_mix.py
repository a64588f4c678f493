"""RF-CLIP's global scores: every patch's logits are mixed with those of the class token.

Source: RF-CLIP (AAAI 2026, arXiv 2511.16170), its released code.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe, stage
from ovsslib.stages.contexts import WindowContext


@stage(
    "class_token_mix",
    point="similarity",
    order=70,
    summary="mix in the logits of the class token (RF-CLIP)",
)
@dataclass(frozen=True)
class ClassTokenMixSettings:
    """logit <- (1 - weight) logit + weight (cosine of the class token with the same, unadapted,
    text row).

    Attributes:
        weight: share of the class token (published: 0.1 to 0.4).
        class_token: that of the whole "picture", as released for most data sets, or of the
            "window".
    """

    version: ClassVar[int] = 1
    weight: float = 0.25
    class_token: Literal["picture", "window"] = "picture"

    def __post_init__(self):
        if not 0 <= self.weight <= 1:
            raise RecipeError(f"class_token_mix.weight={self.weight}: must lie between 0 and 1")

    @property
    def capabilities(self) -> frozenset[str]:
        """The class token of the whole picture takes a pass of its own."""
        return frozenset({"asks_clip_again"} if self.class_token == "picture" else ())

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

    def on_similarity(self, logits: Tensor, context: WindowContext) -> Tensor:
        """(B, Q, h, w) cosines -> the same, mixed."""
        assert context.text is not None  # a stage at "similarity" runs when words are known
        if self.class_token == "picture":
            token = context.picture_class_token()[None].expand(len(logits), -1)
        else:
            token = context.class_token
        # rows of other stages may stand behind the words' and be gone already
        return mix_class_token(logits, context.text[: logits.shape[1]], token, self.weight)


def mix_class_token(logits: Tensor, text: Tensor, class_token: Tensor, weight: float) -> Tensor:
    """Logits (B, Q, h, w), unit text rows (Q, D), class tokens (B, D) of any length -> mixed
    logits.
    """
    scores = torch.einsum("qd,bd->bq", text.float(), F.normalize(class_token.float(), dim=-1))
    return (1 - weight) * logits + weight * scores[:, :, None, None]
