"""What a person should be told about an answer that looks better than it is. Notices are warnings, once per text."""

import warnings

import numpy as np

from ovsslib.clip.backbone import Backbone
from ovsslib.errors import Notice
from ovsslib.images.drawings import distance_from_scenes
from ovsslib.images.segmentation import NEAR_TIE, Segmentation

MOSTLY = 0.5
"""Share of a picture above which "most of it" is said."""


def about_answer(answer: Segmentation) -> Segmentation:
    """The answer as it is; warns (Notice) if most of it is a near tie."""
    if answer.margin is None or len(answer.names) < 2 or not answer.margin.size:
        return answer
    share = float((answer.margin < NEAR_TIE).mean())
    if share > MOSTLY:
        warnings.warn(
            f"on {100 * share:.0f} % of the picture the best word beats the second by less than {NEAR_TIE} of 1: "
            "those labels are guesses (result.margin, result.uncertain). Ask for fewer or more different words, "
            "put words that mean the same into one class, or give background words; `ovss words audit` helps",
            Notice,
            stacklevel=3,
        )
    return answer


def about_picture(backbone: Backbone, image: np.ndarray) -> None:
    """Warn (Notice) if an embedded model is asked about what is plainly no drawn scene."""
    distance = distance_from_scenes(backbone, image)
    if distance is not None and distance > 1:
        warnings.warn(
            f"this picture looks like none that the embedded model {backbone.name!r} was trained on (drawn scenes): "
            f"distance {distance:.1f}, scenes have at most 1. Expect little, or load a real CLIP: "
            "`ovss models get openai-vitb16`, then load(...) again",
            Notice,
            stacklevel=3,
        )
