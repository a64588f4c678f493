"""What towers see in an archive of pictures: class tokens of all, patch features of those that are asked for."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from ovsslib import paths
from ovsslib.clip.backbone import Backbone
from ovsslib.clip.memory import memory_errors
from ovsslib.identity import CORE_VERSION, key_of, model_parts
from ovsslib.images.archive import Archive
from ovsslib.images.preprocessing import centre_square, clip_pixels, with_other_statistics

if TYPE_CHECKING:
    from ovsslib.guides.guide import Guide

_BATCH = 8
_MOST_BYTES = 256 << 20  # of patch features kept in memory


def own_features(backbone: Backbone, pixels: Tensor) -> Tensor:
    """(B, W, h, w) float32: the tower's own patches behind all blocks and ln_post, without the projection."""
    with torch.no_grad(), memory_errors():
        trunk = backbone.trunk(pixels)
        out = backbone.normalise(backbone.visual.ln_post, backbone.plain_last_block(trunk.tokens))
    return out[:, 1:].float().transpose(1, 2).unflatten(2, trunk.grid)


def value_features(backbone: Backbone, pixels: Tensor) -> Tensor:
    """(B, D, h, w) float32: the last block's values, projected into the joint space (MaskCLIP)."""
    last = backbone.layers - 1
    with torch.no_grad(), memory_errors():
        trunk = backbone.trunk(pixels, taps=(last,))
        out = backbone.head(backbone.join(last, trunk.taps[last].v))
    return out[:, 1:].transpose(1, 2).unflatten(2, trunk.grid)


def guide_features(guide: "Guide", pixels: Tensor) -> Tensor:
    """(B, W, h, w) float32 of a second encoder; pixels have ImageNet's statistics, sides as whole patches."""
    patch = guide.patch_size
    size = [max(patch, round(side / patch) * patch) for side in pixels.shape[-2:]]
    return guide.features(F.interpolate(pixels, size=size, mode="bilinear"))


class ArchiveFeatures:
    """Features of an archive's pictures, computed when they are asked for.

    Args:
        backbone: CLIP, for embeddings and dense features.
        archive: the pictures; each is shown as its middle square.
        encoder: second encoder whose patches are compared, or None for the backbone's own.
        imagenet: patches are computed with ImageNet's statistics, CLIP's dense features too (as ReCo does).
    """

    def __init__(
        self,
        backbone: Backbone,
        archive: Archive,
        encoder: "Guide | None" = None,
        imagenet: bool = True,
    ):
        self.backbone, self.archive, self.encoder, self.imagenet = (
            backbone,
            archive,
            encoder,
            imagenet,
        )
        self.references: OrderedDict[tuple, tuple[Tensor, Tensor]] = (
            OrderedDict()
        )  # by whom and for which words
        self._kept: OrderedDict[int, tuple[Tensor, Tensor]] = OrderedDict()

    def embeddings(self) -> Tensor:
        """(N, D) float32 unit class tokens of all pictures; kept in the user's cache."""
        key = None
        if self.backbone.weights_hash:
            parts = {"core": CORE_VERSION, "model": model_parts(self.backbone)}
            key = key_of(
                parts | {"archive": self.archive.fingerprint, "side": self.backbone.image_size[0]}
            )
        tokens = _recall(key, len(self.archive)) if key else None
        if tokens is None:
            tokens = self._embed()
            if key:
                _store(key, tokens)
        return tokens.to(self.backbone.device)

    def _embed(self) -> Tensor:
        batches = []
        for start in range(0, len(self.archive), _BATCH):
            places = range(start, min(start + _BATCH, len(self.archive)))
            tokens = self.backbone.encode_image(self._pixels(places).to(self.backbone.device))
            batches.append(F.normalize(tokens, dim=-1).cpu())
        return torch.cat(batches)

    def _pixels(self, places: Sequence[int]) -> Tensor:
        side = self.backbone.image_size[0]
        return torch.stack(
            [
                clip_pixels(
                    centre_square(self.archive.picture(i), side),
                    self.backbone.pixel_mean,
                    self.backbone.pixel_std,
                )
                for i in places
            ]
        )

    def maps(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(k, W, h, w) of the encoder and (k, D, h', w') of CLIP for some pictures, on the backbone's device."""
        for place in places:
            if place in self._kept:
                self._kept.move_to_end(place)
                continue
            pixels = self._pixels([place])
            features, dense = self.of_pixels(pixels)
            self._kept[place] = (features.cpu(), dense.cpu())
        pairs = [self._kept[place] for place in places]
        size = sum(part.nbytes for part in pairs[0])
        while len(self._kept) * size > max(_MOST_BYTES, len(places) * size):
            self._kept.popitem(last=False)
        features, dense = (
            torch.cat(parts).to(self.backbone.device) for parts in zip(*pairs, strict=True)
        )
        return features, dense

    def of_pixels(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The same for CLIP-normalised pixels (B, 3, H, W)."""
        pixels = pixels.to(self.backbone.device).float()
        if self.imagenet:
            pixels = with_other_statistics(
                pixels, self.backbone.pixel_mean, self.backbone.pixel_std
            )
        dense = value_features(self.backbone, pixels)
        if self.encoder is None:
            return own_features(self.backbone, pixels), dense
        return guide_features(self.encoder, pixels), dense


def _recall(key: str, count: int) -> Tensor | None:
    """Embeddings from the user's cache; None where there are none, or damaged ones."""
    try:
        content = (paths.cache("archives") / f"{key}.safetensors").read_bytes()
        embeddings = safetensors.torch.load(content)["embeddings"]
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return embeddings if len(embeddings) == count else None


def _store(key: str, embeddings: Tensor) -> None:
    content = safetensors.torch.save({"embeddings": embeddings.contiguous()})
    paths.write_file(paths.cache("archives") / f"{key}.safetensors", content)


def rows_digest(*rows: Tensor) -> str:
    """Hash of text rows, to know a list of words again."""
    digest = hashlib.sha256()
    for part in rows:
        digest.update(part.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:24]
