"""An exported folder as a backbone: the same segmenter runs on it, through ONNX Runtime."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import open_clip
import torch
import yaml
from torch import Tensor

from ovsslib.clip.backbone import Tap, TrunkOutput
from ovsslib.errors import DataError, ImageError, ModelError, RecipeError, require
from ovsslib.export.files import (
    DATA,
    KNOWN_TOKENS,
    TEXT,
    VISION,
    graph_settings,
    is_exported,
    read_description,
)
from ovsslib.export.graphs import SWITCHES
from ovsslib.recipe import Recipe
from ovsslib.stages.attention import AttentionSettings
from ovsslib.stages.contexts import DenseTokens

__all__ = ["OnnxBackbone", "is_exported", "open_exported"]


def open_exported(folder: str | Path) -> tuple["OnnxBackbone", Recipe]:
    """The backbone and the recipe of a folder that `export_onnx` wrote.

    Raises DataError for a folder that is none or damaged, ModelError for a graph that cannot be run,
    MissingPackageError without ONNX Runtime.
    """
    backbone = OnnxBackbone(Path(folder))
    return backbone, Recipe.from_yaml(yaml.safe_dump(backbone.about["recipe"]))


class _NoTaps(dict[int, Tap]):
    """Projections of blocks, of which an exported graph gives none."""

    def __missing__(self, index: int) -> Tap:
        raise RecipeError(
            "an exported graph gives features only, no projections or attention of its blocks; load the recipe with "
            "its PyTorch model"
        )


class OnnxBackbone:
    """Both towers of an exported folder, with what a segmenter asks of a `Backbone`.

    Attributes: as those of `Backbone`; `about`: the content of `recipe.json`; `folder`.
    """

    def __init__(self, folder: Path):
        runtime = require("onnxruntime", "onnx", "running an exported recipe")
        self.folder, self.about = folder, read_description(folder)
        model = self.about["model"]
        self.name, self.pretrained = model["name"], f"exported from {model['pretrained']}"
        self.width, self.heads, self.layers = model["width"], model["heads"], model["layers"]
        self.patch_size, self.dim = model["patch_size"], model["dim"]
        self.base_grid, self.image_size = tuple(model["base_grid"]), tuple(model["image_size"])
        self.context_length, self.logit_scale = model["context_length"], model["logit_scale"]
        self.configuration = {**model["configuration"], "exported": {"as": self.about["weights"]}}
        self.normalisation = tuple(tuple(self.about["pixels"][key]) for key in ("mean", "std"))
        self.pixel_mean, self.pixel_std = (
            tuple(value / 255 for value in values) for values in self.normalisation
        )
        self.device, self.precision = torch.device("cpu"), "fp32"
        self.dtype = self.stream_dtype = torch.float32
        self.batch_of_windows = 1
        self.known_token_ids = _known_tokens(folder / KNOWN_TOKENS)
        self.times_read: dict[int, int] = {}  # an exported folder does not say
        self._tokenizer = open_clip.SimpleTokenizer()
        self._vision, vision_hash = _session(runtime, folder / VISION, "pixels")
        self._text, text_hash = _session(runtime, folder / TEXT, "tokens")
        self.weights_hash = hashlib.sha256((vision_hash + text_hash).encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"OnnxBackbone({str(self.folder)!r}, {self.name!r}, {self.about['weights']})"

    @property
    def scale(self) -> float:
        """Scale of the attention scores, (width / heads) ** -0.5."""
        return (self.width // self.heads) ** -0.5

    def last_block(self, backbone: Any, recipe: Recipe, guide: Any = None) -> "ExportedBlock":
        """The last block of a recipe on this folder. Raises RecipeError for a recipe that is not in its graph."""
        return ExportedBlock(self, recipe)

    def trunk(
        self,
        pixels: Tensor,
        taps: Iterable[int] = (),
        inputs: Iterable[int] = (),
        **ignored: Any,
    ) -> TrunkOutput:
        """The pixels themselves: the graph runs from them to the end of the last block at once."""
        height, width = pixels.shape[-2:]
        if min(height, width) < self.patch_size:
            raise ImageError(
                f"a picture of {height}x{width} pixels is smaller than one patch "
                f"({self.patch_size}x{self.patch_size}); enlarge it"
            )
        grid = (height // self.patch_size, width // self.patch_size)
        return TrunkOutput(pixels, grid, _NoTaps())

    def encode(self, pixels: Tensor, switches: dict[str, Tensor]) -> list[Tensor]:
        """Outputs of the vision graph for pixels (B, 3, H, W): features (B, D, h, w), class token (B, D), ...

        Raises ModelError for a graph of another patch size or width than the folder's description says.
        """
        feed = {"pixels": pixels.float().contiguous().numpy()}
        feed |= {name: value.numpy() for name, value in switches.items()}
        outputs = [torch.from_numpy(output) for output in self._vision.run(None, feed)]
        height, width = pixels.shape[-2:]
        expected = (self.dim, height // self.patch_size, width // self.patch_size)
        if outputs[0].shape[1:] != expected:
            raise ModelError(
                f"{self.folder / VISION} gives features of {tuple(outputs[0].shape[1:])} for {height}x{width} pixels, and "
                f"its recipe.json speaks of {expected}: they are of two exports; export the folder again: ovss export onnx"
            )
        return outputs

    def encode_text(self, token_ids: Tensor) -> Tensor:
        """Tokens (N, L) -> text features (N, dim), float32, not normalised."""
        return torch.from_numpy(self._text.run(None, {"tokens": token_ids.long().numpy()})[0])

    def encode_image(self, pixels: Tensor, **ignored: Any) -> Tensor:
        """Raises RecipeError: the graph holds the recipe's last block, not CLIP's own."""
        raise RecipeError(
            "an exported graph has no embedding of a whole picture, which a stage of this recipe asks for; load the "
            "recipe with its PyTorch model"
        )

    def tokenize(self, texts: list[str]) -> Tensor:
        """As `Backbone.tokenize`."""
        return self._tokenizer(list(texts), context_length=77)

    def token_counts(self, texts: list[str]) -> list[int]:
        """As `Backbone.token_counts`."""
        return [len(self._tokenizer.encode(text)) + 2 for text in texts]


class ExportedBlock:
    """What a segmenter asks of a recipe's last block, answered by a vision graph."""

    replacing = None

    def __init__(self, backbone: OnnxBackbone, recipe: Recipe):
        self.backbone, self.recipe = backbone, recipe
        settings, has = graph_settings(recipe), backbone.about["graph"]
        self.switches: dict[str, Tensor] = {}
        if backbone.about["switches"]:
            attention = recipe["attention"]
            if why := why_not_switched(recipe):
                raise RecipeError(f"recipe {recipe.name!r} cannot run on {backbone.folder}: {why}")
            self.switches = switches_of(attention)
            settings, has = {**settings, "attention": None}, {**has, "attention": None}
        if settings != has:
            differ = [key for key in {**settings, **has} if settings.get(key) != has.get(key)]
            raise RecipeError(
                f"recipe {recipe.name!r} cannot run on {backbone.folder}, which was exported with other settings of "
                f"{', '.join(sorted(differ))}; export it: ovss export onnx --recipe {recipe.name}"
            )

    def after_block(self, tokens: Tensor, index: int, grid: tuple[int, int]) -> Tensor:
        """Tokens as they are: the stages in the trunk are in the graph."""
        return tokens

    def block_weights(self) -> None:
        """Nothing: the stages in the trunk are in the graph."""
        return

    def context(self, trunk: TrunkOutput, *_: Any, **__: Any) -> TrunkOutput:
        """What the graph reads: the pixels, whatever else a stage could look at."""
        return trunk

    def run(self, context: TrunkOutput) -> DenseTokens:
        """Dense tokens in the joint space, not of unit length."""
        outputs = self.backbone.encode(context.tokens, self.switches)
        patches = outputs[0].flatten(2).transpose(1, 2)
        return DenseTokens(patches, context.grid, outputs[1], True)

    def weights(self, context: TrunkOutput, adjust: Any = None) -> Tensor:
        """Attention (B, 1, T, T), averaged over heads, of a graph with switches; RecipeError without, or for scores
        that shall be adjusted.
        """
        if adjust is not None:
            raise RecipeError(
                "an exported graph does not give its scores away, so that a temperature cannot divide them; load the "
                "recipe with its PyTorch model"
            )
        if not self.switches:
            return _NoTaps()[0].q
        return self.backbone.encode(context.tokens, self.switches)[2][:, None]

    def project(self, tokens: DenseTokens) -> DenseTokens:
        """Tokens as they are: the graph projects."""
        return tokens

    def plain_class_token(self, trunk: TrunkOutput) -> Tensor:
        """Raises RecipeError: the graph holds the recipe's last block, not CLIP's own."""
        return self.backbone.encode_image(trunk.tokens)


def why_not_switched(recipe: Recipe) -> str | None:
    """Why a recipe's last block is none that a graph with switches computes; None if it is."""
    attention = recipe["attention"]
    names = [name for name, _ in recipe.at("attention") if name != "attention"]
    if names or recipe.at("trunk"):
        names += [name for name, _ in recipe.at("trunk")]
        return f"its stages {', '.join(names)} are no setting of the last block"
    if attention.terms == "neighbour":
        return "attention.terms='neighbour' is no sum of similarities"
    if attention.combine == "joint" and "+" in attention.terms:
        return "attention.combine='joint' takes one softmax of several similarities"
    return None


def switches_of(attention: AttentionSettings) -> dict[str, Tensor]:
    """Inputs of a graph with switches for the settings of a last block."""
    terms = attention.terms.split("+")
    std = attention.gaussian_std
    return {
        "terms": torch.tensor([float(name in terms) for name in SWITCHES]),
        "gaussian": torch.tensor([float(std is not None), std or 1.0]),
        "residual": torch.tensor([float(attention.residual)]),
        "feed_forward": torch.tensor([float(attention.feed_forward)]),
    }


def _known_tokens(file: Path) -> Tensor | None:
    """Tokens that the model was trained on, if the folder says. Raises DataError for a damaged file."""
    if not file.is_file():
        return None
    try:
        return torch.tensor(json.loads(file.read_text(encoding="utf-8")), dtype=torch.long)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"cannot read {file} ({error}); export the folder again: ovss export onnx"
        ) from None


def _session(runtime: Any, file: Path, given: str) -> tuple[Any, str]:
    """A session of a graph on the CPU, with as many threads as PyTorch has, and the hash of its file.

    Raises ModelError for a graph that cannot be run, or has no input called `given`.
    """
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        digest = hashlib.sha256(file.read_bytes())
        beside = file.with_name(file.name + DATA)  # where a graph of over 2 GB has its weights
        if beside.exists():
            digest.update(beside.read_bytes())
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except OSError as error:
        raise ModelError(
            f"cannot read {file} ({error.strerror}); export the folder again: ovss export onnx"
        ) from None
    except Exception as error:  # noqa: BLE001 - it has a class per status and no common base
        raise ModelError(
            f"{file} cannot be run: {str(error).splitlines()[0]}; export the folder again: ovss export onnx"
        ) from None
    inputs = [entry.name for entry in session.get_inputs()]
    if given not in inputs:
        raise ModelError(
            f"{file} takes {', '.join(inputs)}, not {given}: it is another graph; export the folder again: ovss export onnx"
        )
    return session, digest.hexdigest()
