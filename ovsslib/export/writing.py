"""Writing an exported folder: trace, write, compare with PyTorch, put in place. All or nothing."""

import json
import re
import secrets
import shutil
import warnings
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import torch

from ovsslib import paths
from ovsslib.errors import DataError, ModelError, OvssError, RecipeError, require
from ovsslib.export.files import DESCRIPTION, FILES, TEXT, VISION, description, read_description
from ovsslib.export.graphs import SwitchedVisionGraph, TextGraph, VisionGraph
from ovsslib.export.opening import open_exported, switches_of, why_not_switched
from ovsslib.export.refusing import why_not_one_graph
from ovsslib.export.tokenizer import write_tokenizer
from ovsslib.export.weights import WEIGHTS, apply_weights
from ovsslib.images.pictures import read_picture
from ovsslib.text.vocabulary import Vocabulary

PICTURES = 10
OPSET = 18
LEAST_AGREEMENT = {"fp32": 0.9999, "fp16": 0.99, "int8": 0.0}
"""Share of pixels that must agree with PyTorch, by weights. Below it nothing is written; int8 is only reported."""
LARGEST_ERROR = 1e-3  # of the features, for fp32


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how well it agrees with PyTorch.

    Attributes:
        folder: where. recipe, model, weights: what. megabytes: size of both graphs.
        pictures: number of pictures compared. agreement: share of their pixels with the same label, 0 to 1.
        equal_pictures: pictures whose label maps are equal in every pixel.
        image_error, text_error: largest relative error of the features, max|a - b| / max|b|.
    """

    folder: str
    recipe: str
    model: str
    weights: str
    megabytes: float
    pictures: int
    agreement: float
    equal_pictures: int
    image_error: float
    text_error: float

    def __str__(self) -> str:
        return (
            f"{self.recipe} on {self.model}, {self.weights}, {self.megabytes:.1f} MB in {self.folder}: "
            f"{self.equal_pictures} of {self.pictures} label maps equal PyTorch's, {100 * self.agreement:.3f} % of all "
            f"pixels; largest relative error {self.image_error:.1e} (pictures), {self.text_error:.1e} (words)"
        )


def export_onnx(
    segmenter: Any,
    folder: str | Path,
    *,
    weights: str = "fp32",
    switches: bool = False,
    pictures: int = PICTURES,
) -> ExportReport:
    """Write a segmenter's recipe and model as ONNX graphs, and check them against PyTorch.

    The folder gets `vision.onnx` (pixels -> features of the recipe's last block; any number, height and width),
    `text.onnx` (tokens -> text features), the tokenizer's files and `recipe.json` (windows, scale, prompts, mean and
    deviation of pixels). `ovsslib.load(folder)` opens it.

    Args:
        segmenter: a `Segmenter` in fp32.
        folder: a new folder, an empty one, or one that was exported before and is replaced.
        weights: one of `WEIGHTS`.
        switches: make the settings of the last block inputs of the graph, so that one graph serves all recipes that
            differ in them only.
        pictures: number of drawn scenes that are compared.

    Raises:
        RecipeError: the recipe is not one graph.
        ModelError: a precision other than fp32, or a graph that does not agree with PyTorch.
        DataError: a folder that holds something else. Nothing is left behind then.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, "onnx", "exporting a recipe")
    try:
        folder = Path(folder).expanduser().resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{str(folder)!r} is no folder ({error}); choose another") from None
    if pictures < 1:
        raise DataError(f"pictures={pictures}: compare at least 1")
    _check_request(segmenter, folder, weights, switches)
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.part")
    try:
        part.mkdir(parents=True)
        _write(segmenter, part, weights, switches)
        report = _compare(segmenter, part, folder, weights, pictures)
        content = json.loads((part / DESCRIPTION).read_text(encoding="utf-8"))
        content["check"] = {k: v for k, v in asdict(report).items() if k != "folder"}
        _write_description(part, content)
        _put_in_place(part, folder)
    except OSError as error:
        raise DataError(
            f"cannot write {folder}: {error.strerror or error}; make room, or choose another folder"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return report


def _check_request(segmenter: Any, folder: Path, weights: str, switches: bool) -> None:
    recipe, backbone = segmenter.recipe, segmenter.backbone
    if weights not in WEIGHTS:
        raise ModelError(f"weights={weights!r}: choose one of {', '.join(WEIGHTS)}")
    if not hasattr(backbone, "model"):
        raise ModelError(f"{backbone!r} is an exported folder already; export its PyTorch model")
    if backbone.precision != "fp32" or backbone.device.type != "cpu":
        raise ModelError(
            f"precision={backbone.precision!r} on {backbone.device}: graphs are traced in fp32 on the CPU; load the "
            "model so, and choose weights='fp16' for a smaller file"
        )
    if why := why_not_one_graph(recipe):
        raise RecipeError(f"recipe {recipe.name!r} cannot be one graph: {why}")
    if switches and (why := why_not_switched(recipe)):
        raise RecipeError(f"recipe {recipe.name!r} cannot be a graph with switches: {why}")
    _check_folder(folder)


def _check_folder(folder: Path) -> None:
    """Raises DataError for a path that is no folder, or one that holds more than an export."""
    if not folder.exists():
        return
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else {"no folder"}
    if not names:
        return
    foreign = sorted(names - FILES) if DESCRIPTION in names else sorted(names)
    if foreign:
        raise DataError(
            f"{folder} holds what was not exported ({', '.join(foreign[:3])}); choose a new or an empty folder"
        )
    read_description(folder)


def _put_in_place(part: Path, folder: Path) -> None:
    """Give the finished folder its name; what had it is deleted last, so that one of the two is always there."""
    if not folder.exists():
        part.rename(folder)
        return
    old = part.with_suffix(".old")
    folder.rename(old)
    try:
        part.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old)


def _write(segmenter: Any, folder: Path, weights: str, switches: bool) -> None:
    backbone, recipe = segmenter.backbone, segmenter.recipe
    side, patch = backbone.image_size[0], backbone.patch_size
    pixels = torch.zeros(2, 3, side, side + patch)  # no square: sides of their own
    any_size = torch.export.Dim.DYNAMIC
    inputs: dict[str, Any] = {"pixels": pixels}
    shapes: list[Any] = [{0: any_size, 2: any_size, 3: any_size}]
    outputs = ["features", "class_token"]
    graph = VisionGraph(segmenter)
    if switches:
        inputs |= switches_of(recipe["attention"])
        shapes, outputs = [*shapes, None, None, None, None], [*outputs, "attention"]
        graph = SwitchedVisionGraph(segmenter)
    _trace(graph, inputs, shapes, outputs, folder / VISION, recipe.name)
    tokens = backbone.tokenize(["a dog", "grass and sky"])[:, :8]
    shapes = [{0: any_size, 1: any_size} if backbone.text_is_cut else {0: any_size}]
    if not backbone.text_is_cut:
        tokens = backbone.tokenize(["a dog", "grass and sky"])[:, : backbone.context_length]
    _trace(
        TextGraph(backbone), {"tokens": tokens}, shapes, ["features"], folder / TEXT, recipe.name
    )
    for name in (VISION, TEXT):
        apply_weights(folder / name, weights)
    write_tokenizer(folder, backbone)
    _write_description(folder, description(backbone, recipe, weights, switches, _version()))


def _trace(
    graph: torch.nn.Module,
    inputs: dict[str, Any],
    shapes: list[Any],
    outputs: list[str],
    file: Path,
    recipe: str,
) -> None:
    """Trace a module and write it. Raises RecipeError where it cannot be traced for all sizes."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                graph.eval(), tuple(inputs.values()), dynamo=True, dynamic_shapes=tuple(shapes),
                input_names=list(inputs), output_names=outputs, opset_version=OPSET, verbose=False,
            )  # fmt: skip
    except OvssError:
        raise
    except Exception as error:
        cause = _cause(error)
        if cause is not None:
            raise RecipeError(f"recipe {recipe!r} cannot be one graph: {cause}") from error
        plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # without colours of a terminal
        lines = [line for line in plain.splitlines() if line.strip()] or [type(error).__name__]
        raise RecipeError(
            f"recipe {recipe!r} cannot be one graph: a stage's code cannot be traced for windows of any size "
            f"({lines[0].strip()[:200]})"
        ) from error
    program.save(str(file))


def _cause(error: BaseException | None) -> OvssError | None:
    """The library's own error behind one that the tracer raised."""
    while error is not None and not isinstance(error, OvssError):
        error = error.__cause__ or error.__context__
    return error


def _write_description(folder: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def _version() -> str:
    try:
        return package_version("ovsslib")
    except PackageNotFoundError:  # a checkout that is not installed
        return "unknown"


def _compare(segmenter: Any, part: Path, folder: Path, weights: str, pictures: int) -> ExportReport:
    """Segment drawn scenes with both. Raises ModelError if they agree too little."""
    backbone, recipe = open_exported(part)
    exported = type(segmenter)(backbone, recipe)
    words = Vocabulary.named("scenes-object" if recipe.has("needs_background") else "scenes")
    same = total = equal = 0
    errors = [0.0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notices about words and near ties are no part of this
        text, exported_text = segmenter.text(words), exported.text(words)
        text_error = _relative(exported_text.features, text.features)
        files = sorted(paths.data("scenes/images/val").glob("*.jpg"))[:pictures]
        for file in files:
            image = read_picture(file)
            mask = exported.segment(image, exported_text).mask
            equal_here = mask == segmenter.segment(image, text).mask
            same, total = same + int(equal_here.sum()), total + equal_here.size
            equal += bool(equal_here.all())
            pixels = segmenter.prepare(image)[None]
            errors.append(_relative(exported.features(pixels), segmenter.features(pixels)))
    size = sum((part / name).stat().st_size for name in (VISION, TEXT)) / 1e6
    report = ExportReport(
        str(folder), recipe.name, backbone.name, weights, round(size, 3), len(files),
        same / max(total, 1), equal, max(errors), text_error,
    )  # fmt: skip
    worst = max(report.image_error, report.text_error)
    if report.agreement < LEAST_AGREEMENT[weights] or (weights == "fp32" and worst > LARGEST_ERROR):
        raise ModelError(
            f"the graph does not compute what PyTorch does, nothing was written: {report}; tell the authors, with the "
            "versions of torch, onnx and onnxruntime"
        )
    return report


def _relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """max|a - b| / max|b|."""
    return float((actual - expected).abs().max() / expected.abs().max())
