"""Comparators of the embedded world: decoders that saw masks of Scenes, on the frozen SceneCLIP that comes with the library.

A folder that `ovss pretrain` wrote holds the decoder alone, and says by hash which SceneCLIP it belongs to.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib import paths
from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import load_backbone
from ovsslib.comparators.files import filled, folder_of_weights, hash_of, state_of
from ovsslib.comparators.known import Known
from ovsslib.errors import ModelError
from ovsslib.images.pictures import normalise
from ovsslib.networks.deeplab import MaskDecoder
from ovsslib.stages.windows import Stitched, WindowSettings
from ovsslib.text.features import encode_prompts, warn_of_unknown

_SHAPE = ("token_width", "blocks", "width", "pyramid", "rates", "detail", "residual")
_KEYS = ("architecture", "trunk", "trunk_hash", "short_side", "window", *_SHAPE)


class _OnTokens:
    """A decoder on a frozen CLIP, read in windows of the size that it was trained with, half a window apart."""

    def __init__(self, model: MaskDecoder, backbone: Backbone, config: dict[str, Any]):
        self.model, self.backbone = model, backbone
        side = int(config["window"])
        self.windows = WindowSettings(
            short_side=int(config["short_side"]), crop=side, stride=side // 2, pad_to=backbone.patch_size
        )  # fmt: skip

    def _stitched(self, image: np.ndarray, answer: Any) -> Tensor:
        """(H, W, 3) uint8 -> the mean over windows of what `answer` makes of their outputs (1, D, h, w): (Q, H, W)."""
        small = self.windows.resized(image)
        grid = self.windows.boxes(*small.shape[:2])
        pixels = normalise(small, *self.backbone.normalisation)
        weight = next(self.model.parameters())
        maps = []
        for window in grid.crops(pixels, self.windows.fill(self.backbone)).split(1):
            window = window.to(weight.device)
            tokens = self.model.read(self.backbone, window)
            maps.append(
                answer(self.model(tokens.to(weight.dtype), window.to(weight.dtype)).float())
            )
        size = (image.shape[0], image.shape[1])
        return Stitched(torch.cat(maps), grid, size).full()


class LabelPixels(_OnTokens):
    """The supervised reference: a label for each pixel.

    Attributes:
        labels: of its classes, in order.
    """

    def __init__(self, model: MaskDecoder, backbone: Backbone, config: dict[str, Any]):
        super().__init__(model, backbone, config)
        self.labels = tuple(str(label) for label in config["labels"])

    @torch.no_grad()
    def label_scores(self, image: np.ndarray) -> Tensor:
        """(L, H, W): softmax over labels of the logits, which are averaged where windows overlap."""
        return self._stitched(image, lambda outputs: outputs).softmax(dim=0)


class WordPixels(_OnTokens):
    """LSeg's stand-in: an embedding for each pixel, compared with the words (Li et al., ICLR 2022, section 3)."""

    def __init__(self, model: MaskDecoder, backbone: Backbone, config: dict[str, Any]):
        super().__init__(model, backbone, config)
        self.temperature = float(config["temperature"])
        self._known: tuple[tuple[str, ...], Tensor] | None = None

    @torch.no_grad()
    def scores(self, image: np.ndarray, sentences: Sequence[str]) -> Tensor:
        """(Q, H, W): softmax over words of cosines over the temperature, averaged before it where windows overlap.

        Warns of sentences with a word that SceneCLIP was never trained on.
        """
        words = self._words(tuple(sentences))

        def answer(outputs: Tensor) -> Tensor:
            pixels = F.normalize(outputs, dim=1)
            return torch.einsum("bdhw,qd->bqhw", pixels, words) / self.temperature

        return self._stitched(image, answer).softmax(dim=0)

    def _words(self, sentences: tuple[str, ...]) -> Tensor:
        """Text features (Q, D) of unit length; those of the last call are kept."""
        if self._known is None or self._known[0] != sentences:
            warn_of_unknown(self.backbone, sentences)
            self._known = (
                sentences,
                F.normalize(encode_prompts(self.backbone, sentences), dim=-1),
            )
        return self._known[1]


def embedded_network(
    about: Known, pretrained: str | Path | None, device: torch.device, precision: str
) -> tuple[Any, str, str, dict]:
    """A network of the embedded world, from a folder that `ovss pretrain` wrote: one that is given, the library's, or the
    one in the user's cache where the command writes by itself.

    Returns the network, what results call it, the hash of its weights, and its configuration, in which the hash of its
    SceneCLIP stands. Raises ModelError for missing and damaged files, and for a SceneCLIP that is another one by now.
    """
    folder = _folder(about, pretrained)
    own = ("labels",) if about.closed else ("dim", "temperature", "shown")
    config, file = folder_of_weights(about, folder, (*_KEYS, *own))
    backbone = load_backbone(config["trunk"], device=device, precision=precision)
    if backbone.weights_hash != config["trunk_hash"]:
        raise ModelError(
            f"{folder} was trained on a {config['trunk']} with the hash {config['trunk_hash']}, and the one here has "
            f"{backbone.weights_hash}; run `ovss pretrain {about.name} --out FOLDER` and give that folder"
        )
    outputs = len(config["labels"]) if about.closed else int(config["dim"])
    decoder = MaskDecoder(outputs, **{key: config[key] for key in _SHAPE})
    decoder = filled(decoder, state_of(file), str(folder), f"{about.name} with {outputs} outputs")
    network = (LabelPixels if about.closed else WordPixels)(decoder, backbone, config)
    return network, folder.name, hash_of([file], str(folder)), config


def _folder(about: Known, pretrained: str | Path | None) -> Path:
    if pretrained is not None:
        folder = Path(pretrained).expanduser()
    else:
        places = (paths.data(about.hub), paths.cache_path("pretraining") / about.name)
        trained = [place for place in places if (place / "model.safetensors").is_file()]
        if not trained:
            raise ModelError(
                f"the weights of {about.title} are not in {places[0]}; `ovss pretrain {about.name}` trains them, and "
                f"load({about.name!r}) finds them then"
            )
        folder = trained[0]
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"there is no config.json in {folder}; choose a folder that `ovss pretrain {about.name} --out FOLDER` wrote"
        )
    return folder
