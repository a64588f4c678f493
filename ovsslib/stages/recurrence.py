"""CaR's loop: maps of the words in play, a second look at each, words out, until nothing changes. Pure functions.

Source: Sun et al., "CLIP as RNN: Segment Countless Visual Concepts without Training Endeavor", CVPR 2024, and its
released code.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.clip.backbone import Backbone
from ovsslib.images.preprocessing import centre_square, clip_pixels
from ovsslib.stages.class_activation import PictureReading, WordMaps, word_maps
from ovsslib.stages.visual_prompts import visual_prompt

CAR_EPS = 1e-15
"""What CaR adds to the range of a map before it divides by it; a peak then has exactly 1."""
_BATCH = 8  # prompted pictures that are scored at a time


@dataclass(frozen=True)
class RoundSettings:
    """What a round needs besides pictures and words: see the fields of the stage `car`."""

    confidence: float
    mask_threshold: float
    box_threshold: float
    prompts: tuple[str, ...]
    logit_scale: float | None = None
    score_scale: float | None = None
    skip_last_block: bool = True


@dataclass(frozen=True)
class Round:
    """One round with n words in play.

    Attributes:
        words: (n,) their places among all words. maps: of them.
        masks: (n, H, W) float32 maps enlarged to the photograph.
        prompted: n pictures (H, W, 3) uint8 with the masks drawn onto them.
        shares: (n, n) float32, row j: how much prompted picture j shows each word.
        scores: (n,) float32, shares[k, k]. kept: (n,) bool, words that stay.
    """

    words: Tensor
    maps: WordMaps
    masks: Tensor
    prompted: list[np.ndarray]
    shares: Tensor
    scores: Tensor
    kept: Tensor


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (n, h, w) -> (n, H, W) bilinear, as OpenCV does it."""
    return F.interpolate(maps[None], size=size, mode="bilinear")[0]


@torch.no_grad()
def class_tokens(
    backbone: Backbone, pictures: Sequence[np.ndarray], skip_last_block: bool = True
) -> Tensor:
    """Unit class tokens (n, D) float32 of pictures (H, W, 3) uint8: their middle square, as CLIP is shown it.

    `skip_last_block`: the tower stops before its last block (released; the evident intention is the whole tower).
    """
    side, parts = backbone.image_size[0], []
    for start in range(0, len(pictures), _BATCH):
        batch = [
            clip_pixels(centre_square(p, side), backbone.pixel_mean, backbone.pixel_std)
            for p in pictures[start : start + _BATCH]
        ]
        tokens = backbone.encode_image(
            torch.stack(batch), positions="bilinear-half-always", skip_last_block=skip_last_block
        )
        parts.append(F.normalize(tokens, dim=-1))
    return torch.cat(parts)


def word_shares(tokens: Tensor, texts: Tensor, logit_scale: float) -> Tensor:
    """How much each picture shows each word: softmax over words of the sum over templates of softmaxed cosines.

    Args:
        tokens: (n, D) unit. texts: (templates, n, D) unit rows of the words in play.

    Returns:
        (n, n), a softmax of sums between 0 and the number of templates.
    """
    cosines = torch.einsum("jd,tkd->tjk", tokens, texts.to(tokens))
    return (logit_scale * cosines).softmax(dim=-1).sum(dim=0).softmax(dim=-1)


def one_round(
    backbone: Backbone,
    scorer: Backbone,
    reading: PictureReading,
    image: np.ndarray,
    words: Tensor,
    rows: Tensor,
    competing: Tensor,
    templates: Tensor,
    settings: RoundSettings,
) -> Round:
    """One round for the words in play.

    Args:
        backbone: gives the maps. scorer: looks at the prompted pictures.
        reading: of the picture by `backbone`. image: (H, W, 3) uint8 photograph.
        words: (n,) places of the words in play; all rows below are of these words.
        rows: (n, D) of the maps. competing: (B, D) background words. templates: (T, n, D') of the scorer.
    """
    maps = word_maps(
        backbone, reading, rows, competing, box_threshold=settings.box_threshold,
        logit_scale=settings.logit_scale, eps=CAR_EPS, fall_back=True,
    )  # fmt: skip
    masks = enlarged(maps.maps, image.shape[:2])
    prompted = [
        visual_prompt(image, mask, settings.prompts, settings.mask_threshold)
        for mask in masks.cpu().numpy()
    ]
    tokens = class_tokens(scorer, prompted, settings.skip_last_block)
    scale = settings.score_scale or scorer.logit_scale
    shares = word_shares(tokens, templates, scale).to(maps.maps)
    scores = shares.diagonal().clone()
    kept = scores > settings.confidence
    if not kept.any():
        kept[scores.argmax()] = True
    return Round(words, maps, masks, prompted, shares, scores, kept)


def recur(step: Callable[[int, Tensor], Round], count: int) -> list[Round]:
    """Rounds until the number of words stays the same: at least two.

    Args:
        step: function (number of the round, from 0; places of the words in play (n,)) -> Round.
        count: number of words at the beginning.

    Returns:
        The rounds; in the last one nobody was dropped. Where its maps are all zero, those of the round before are
        what is left (`last_maps`).
    """
    words, kept_before = torch.arange(count), 0
    rounds: list[Round] = []
    while True:
        turn = step(len(rounds), words)
        rounds.append(turn)
        kept = int(turn.kept.sum())
        if kept == kept_before:
            return rounds
        kept_before, words = kept, words[turn.kept.cpu()]


def last_maps(rounds: Sequence[Round]) -> tuple[Tensor, Tensor]:
    """Words (n,) that are left, and their maps (n, h, w): of the last round, or of the last before it that shows any.

    The released code takes all maps of an earlier round then, whatever the words; here each word keeps its own.
    """
    words = rounds[-1].words[rounds[-1].kept.cpu()]
    for turn in reversed(rounds):
        place = {int(word): index for index, word in enumerate(turn.words)}
        maps = turn.maps.maps[[place[int(word)] for word in words]]
        if bool((maps > 0).any()):
            break
    return words, maps
