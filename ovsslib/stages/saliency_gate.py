"""Saliency decides between background and words: logits times a foreground map, the background's times the rest.

Source: CLIP-DIY (WACV 2024), whose maps come from FOUND (Siméoni et al., CVPR 2023), a DINO with a trained layer. Here a
map is either read from a folder (FOUND's, or any other), or made by a guide without training.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.clip.backbone import Backbone
from ovsslib.errors import DataError, RecipeError
from ovsslib.recipe import stage
from ovsslib.stages.contexts import ImageContext, guide_reading

if TYPE_CHECKING:
    from ovsslib.guides.guide import Guide
    from ovsslib.guides.reading import GuideReading


def gated(logits: Tensor, saliency: Tensor, in_background: Tensor) -> Tensor:
    """Logits (..., Q, H, W) times 1 - s for background queries and s for the others.

    Args:
        saliency: (H, W) in [0, 1]. in_background: (Q,) bool.

    The product is the released one. It supposes positive cosines, as CLIP's are; a negative one would rise.
    """
    share = torch.where(in_background.to(saliency.device)[:, None, None], 1 - saliency, saliency)
    return logits * share.to(logits)


def guide_foreground(reading: "GuideReading") -> Tensor:
    """(h, w) float32 in [0, 1]: how little each patch of a guide's one picture resembles the background.

    The background is represented by the patch that the class token looks at least; a patch's saliency is one minus
    its cosine to that patch in the last block's keys, stretched to [0, 1] (after the first step of FOUND, sections 3.1
    and 3.2, without its threshold and its trained layer). A picture of one patch, or of equal ones, is all foreground.
    """
    looked_at = reading.class_attention()[0].mean(dim=0).flatten()
    keys = F.normalize(reading.features("k")[0].flatten(1), dim=0)
    far = 1 - keys.T @ keys[:, looked_at.argmin()]
    span = far.max() - far.min()
    stretched = (far - far.min()) / span if span > 1e-6 else torch.ones_like(far)
    return stretched.reshape(reading.grid)


def foreground_of(guide: "Guide | None", backbone: Backbone, pixels: Tensor) -> Tensor:
    """(h, w) in [0, 1] foreground of the backbone's pixels (1, 3, H, W), sides rounded up to the guide's patches.

    Raises RecipeError where there is no guide.
    """
    patch = 1 if guide is None else guide.patch_size
    size = [-(-side // patch) * patch for side in pixels.shape[-2:]]
    fitted = F.interpolate(pixels.float(), size=size, mode="bilinear")
    return guide_foreground(guide_reading(guide, backbone, fitted, {}))


def saliency_file(folder: str | Path, image: np.ndarray) -> Path:
    """Where the map of a photograph (H, W, 3) uint8 lies in a folder: named after the picture's own pixels."""
    digest = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes())
    return Path(folder).expanduser() / f"{digest.hexdigest()[:24]}.npy"


def save_saliency(folder: str | Path, image: np.ndarray, saliency: np.ndarray) -> Path:
    """Keep a map (any h x w) of values in [0, 1] for a photograph (H, W, 3) uint8, where `saliency_gate` finds it.

    Raises DataError for a map of another form.
    """
    _checked(saliency, "the map")
    file = saliency_file(folder, image)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, np.asarray(saliency, dtype=np.float32), allow_pickle=False)
    return file


def _checked(saliency: np.ndarray, source: str) -> np.ndarray:
    saliency = np.asarray(saliency)
    fits = saliency.ndim == 2 and saliency.size and saliency.dtype.kind in "fiub"
    if not fits or not 0 <= float(saliency.min()) <= float(saliency.max()) <= 1:
        raise DataError(
            f"{source} is no saliency map: (H, W) values in [0, 1] are needed, not {saliency.shape} {saliency.dtype}"
        )
    return saliency


def read_saliency(folder: str | Path, image: np.ndarray) -> Tensor:
    """(h, w) float32 map of a photograph. Raises DataError if the folder has none, or a damaged one."""
    file = saliency_file(folder, image)
    if not file.is_file():
        raise DataError(
            f"{folder} holds no saliency map of this picture ({file.name}); write one with "
            "ovsslib.stages.saliency_gate.save_saliency(folder, picture, map)"
        )
    try:
        saliency = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as an array ({error}); write it anew") from None
    return torch.from_numpy(_checked(saliency, str(file)).astype(np.float32))


@stage(
    "saliency_gate",
    point="refine",
    order=10,
    summary="a foreground map decides on the background (CLIP-DIY)",
)
@dataclass(frozen=True)
class SaliencyGate:
    """Settings of the gate. It needs words with a background class.

    Attributes:
        source: "guide": the foreground that a second encoder sees (`guide_foreground`); "maps": files of a folder.
        guide: name or file for :func:`ovsslib.guides.load`.
        maps: folder that :func:`save_saliency` filled.
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"needs_background"})

    source: Literal["guide", "maps"] = "guide"
    guide: str = "scenedino"
    maps: str = ""

    def __post_init__(self) -> None:
        if self.source == "maps" and not self.maps:
            raise RecipeError(
                "saliency_gate.source='maps' needs saliency_gate.maps, a folder of maps"
            )
        if self.source == "guide" and self.maps:
            raise RecipeError(
                f"saliency_gate.maps={self.maps!r} is not read with source='guide'; set source to 'maps' or leave maps out"
            )

    def guide_name(self) -> str | None:
        """The second encoder, where it is the source."""
        return self.guide if self.source == "guide" else None

    def networks(self, backbone: Backbone) -> Mapping[str, str]:
        """Hash of all maps in the folder, where that is the source."""
        if self.source == "guide":
            return {}
        digest = hashlib.sha256()
        for file in sorted(Path(self.maps).expanduser().glob("*.npy")):
            digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
        return {"maps": digest.hexdigest()[:16]}

    def on_logits(self, logits: Tensor, context: ImageContext) -> Tensor:
        """(1, Q, H, W) logits -> the same, gated; group texts behind the queries stay as they are.

        Raises RecipeError for words without a background class, DataError for a picture without a map.
        """
        background = context.text.vocabulary.background
        if background is None:
            raise RecipeError(
                'saliency_gate tells words from background, and these words have none; pass background="auto" or a '
                "list of words, or turn saliency_gate off"
            )
        if self.source == "maps":
            saliency = read_saliency(self.maps, context.image)
        else:
            saliency = foreground_of(context.guide, context.backbone, context.network_picture)
        saliency = F.interpolate(
            saliency[None, None].to(logits.device), size=logits.shape[-2:], mode="bilinear"
        )[0, 0]
        in_background = context.text.query_class.to(logits.device) == background
        gated_logits = logits.clone()
        gated_logits[:, : len(in_background)] = gated(
            logits[:, : len(in_background)], saliency, in_background
        )
        return gated_logits
