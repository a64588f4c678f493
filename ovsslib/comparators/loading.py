"""Where comparators come from: a local folder or file, the local cache, the hub when it is named."""

from pathlib import Path
from typing import Any

import torch

from ovsslib import (
    _torchvision,  # noqa: F401 - must come before anything that imports torchvision
    paths,
)
from ovsslib.clip.placement import PRECISIONS, check_device, check_precision
from ovsslib.comparators.closed_words import DeepLab, MaskQueries
from ovsslib.comparators.comparator import Comparator, ComparatorModel
from ovsslib.comparators.embedded import embedded_network
from ovsslib.comparators.files import (
    filled,
    folder_of_weights,
    hash_of,
    read_json,
    state_of,
)
from ovsslib.comparators.known import Known, known
from ovsslib.comparators.open_words import ClipSeg, GroupViT, Sam3
from ovsslib.errors import ModelError, require

NETWORKS = {
    "clipseg": ClipSeg, "groupvit": GroupViT, "sam3": Sam3,
    "maskformer": MaskQueries, "mask2former": MaskQueries, "oneformer": MaskQueries,
}  # fmt: skip
# OneFormer's processor would fetch a list of class names that it needs for training alone.
_PROCESSOR: dict[str, dict[str, Any]] = {"oneformer": {"class_info_file": None}}
# The released SAM 3 is saved as the video model, of which the picture model and its processor are a part.
_OPENED_AS = {"Sam3VideoModel": "Sam3Model"}
_PROCESSOR_CLASS = {"sam3": "Sam3Processor"}
_FILES = ["*.json", "*.txt", "*.safetensors"]
# What a processor and a configuration are made of: part of a record's key, as other numbers come of them.
_SETTINGS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
)


def load(
    name: str,
    pretrained: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
) -> Comparator:
    """A trained model behind the segmenter's interface.

    Args:
        name: out of :func:`ovsslib.comparators.names`.
        pretrained: None looks for the usual weights in the local cache and fetches nothing. A folder as
            `save_pretrained` writes it (for "deeplabv3": `config.json` with `architecture`, `labels` and `resize`, and
            `model.safetensors`; or torchvision's own .pth file; for "deeplabv3-scenes" and "lseg-scenes" a folder that `ovss
            pretrain` wrote: None is the shipped one). A hub entry with a slash
            ("CIDAS/clipseg-rd64-refined"; "deeplabv3_resnet50/COCO_WITH_VOC_LABELS_V1") is fetched if need be.
        device, precision: see :func:`ovsslib.load_backbone`.

    Raises:
        ModelError: an unknown or merely quoted model; weights that are missing, damaged, or another model's.
        MissingPackageError: the package transformers is not installed.
    """
    about = known(name)
    place = check_device(device)
    precision = check_precision(precision, place)
    if about.library == "torchvision":
        network, origin, digest, configuration = _torchvision_network(about, pretrained)
    elif about.library == "ovsslib":
        network, origin, digest, configuration = embedded_network(
            about, pretrained, place, precision
        )
    else:
        network, origin, digest, configuration = _transformers_network(about, pretrained)
    network.model = network.model.to(place, PRECISIONS[precision]).eval().requires_grad_(False)
    model = ComparatorModel(about.name, origin, digest, configuration, precision, place)
    return Comparator(network, about, model)


# -- transformers ----------------------------------------------------------------------------------------------


def _transformers_network(
    about: Known, pretrained: str | Path | None
) -> tuple[Any, str, str, dict]:
    transformers = require("transformers", "comparators", about.title)
    folder, origin = _folder(about, pretrained)
    config = read_json(folder / "config.json")
    architectures = config.get("architectures") or []
    fitting = next(
        (architecture for architecture in architectures if architecture in about.classes), None
    )
    if fitting is None:
        raise ModelError(
            f"{origin} holds {' or '.join(architectures) or 'no named architecture'}, and {about.name!r} needs "
            f"{' or '.join(about.classes)}; choose another folder, or the comparator that fits"
        )
    digest = hash_of(sorted(folder.glob("*.safetensors")), origin)
    try:
        model = getattr(transformers, _OPENED_AS.get(fitting, fitting)).from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
        reader = _PROCESSOR_CLASS.get(about.name, "AutoProcessor")
        processor = getattr(transformers, reader).from_pretrained(
            folder, local_files_only=True, **_PROCESSOR.get(about.name, {})
        )
    except Exception as error:  # noqa: BLE001 - the library raises a dozen kinds for damaged files
        raise ModelError(
            f"{origin} cannot be opened ({type(error).__name__}: {str(error).splitlines()[0][:160]}); a folder needs "
            "config.json, the processor's files and *.safetensors, as save_pretrained writes them"
        ) from None
    settings = {part: read_json(folder / part) for part in _SETTINGS if (folder / part).is_file()}
    return NETWORKS[about.name](model, processor), origin, digest, settings


def _folder(about: Known, pretrained: str | Path | None) -> tuple[Path, str]:
    """Folder of the weights, and how results name them."""
    from huggingface_hub import snapshot_download

    if pretrained is not None:
        folder = Path(pretrained).expanduser()
        if paths.is_dir(folder):
            return folder, folder.name
        if str(pretrained).count("/") != 1 or str(pretrained)[0] in "./~":
            raise ModelError(
                f"pretrained={str(pretrained)!r}: there is no such folder; give one that save_pretrained wrote, or a hub "
                f"entry such as {about.hub!r}"
            )
    entry = str(pretrained or about.hub)
    cached = paths.hub_file(entry, "config.json")
    if cached is not None and any(cached.parent.glob("*.safetensors")):
        return cached.parent, entry
    if pretrained is None:
        raise ModelError(
            f"the weights of {about.title} are not in the local cache, and nothing is fetched unasked; name them, "
            f"load({about.name!r}, pretrained={about.hub!r}), or a folder that holds them"
        )
    try:
        return Path(snapshot_download(entry, allow_patterns=_FILES)), entry
    except Exception as error:  # noqa: BLE001 - hub clients raise their transport's own errors
        raise ModelError(
            f"{entry!r} is not in the local cache and could not be fetched ({type(error).__name__}); on a connected "
            f"machine run `hf download {entry}`, bring the folder here and name it: pretrained='/path/to/folder'"
        ) from None


# -- torchvision -----------------------------------------------------------------------------------------------


def _torchvision_network(about: Known, pretrained: str | Path | None) -> tuple[Any, str, str, dict]:
    path = Path(str(pretrained)).expanduser() if pretrained is not None else None
    if path is not None and paths.is_dir(path):
        return _segmentation_folder(about, path)
    architecture, _, tag = about.hub.partition("/")
    file = path if path is not None and paths.is_file(path) else None
    if path is not None and file is None:
        if str(pretrained).count("/") != 1 or str(pretrained)[0] in "./~":
            raise ModelError(
                f"pretrained={str(pretrained)!r}: there is no such file or folder; give torchvision's .pth file, a "
                f"folder, or {about.hub!r}"
            )
        architecture, _, tag = str(pretrained).partition("/")
    if architecture not in about.classes:
        raise ModelError(
            f"unknown architecture {architecture!r}; known: {', '.join(about.classes)}"
        )
    weights = _weights(architecture, tag)
    if file is None:
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        if not file.is_file() and pretrained is None:
            raise ModelError(
                f"the weights of {about.title} are not in the local cache ({file}), and nothing is fetched unasked; name "
                f"them, load({about.name!r}, pretrained={about.hub!r}), or a file that holds them"
            )
        if not file.is_file():
            _fetch(weights, file)
    labels = tuple(weights.meta["categories"])
    model = _open_model(architecture, len(labels), state_of(file), str(file))
    configuration = {
        "architecture": architecture,
        "labels": list(labels),
        "transforms": repr(weights.transforms()),
    }
    origin = f"{architecture}/{tag}"
    return (
        DeepLab(model, weights.transforms(), labels),
        origin,
        hash_of([file], origin),
        configuration,
    )


def _weights(architecture: str, tag: str) -> Any:
    from torchvision.models import get_model_weights

    known_tags = get_model_weights(architecture)
    if tag not in known_tags.__members__:
        raise ModelError(
            f"unknown weights {tag!r} of {architecture}; known: {', '.join(known_tags.__members__)}"
        )
    return known_tags[tag]


def _fetch(weights: Any, file: Path) -> None:
    try:
        weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # noqa: BLE001 - the transport's own errors
        raise ModelError(
            f"{weights.url} could not be fetched ({type(error).__name__}); fetch it on a connected machine and name the "
            f"file, pretrained='/path/to/{file.name}'"
        ) from None


def _open_model(architecture: str, labels: int, state: dict[str, torch.Tensor], origin: str) -> Any:
    from torchvision.models import get_model

    auxiliary = any(key.startswith("aux_classifier.") for key in state)
    model = get_model(
        architecture, weights=None, weights_backbone=None, num_classes=labels, aux_loss=auxiliary
    )
    return filled(model, state, origin, f"{architecture} with {labels} labels")


def _segmentation_folder(about: Known, folder: Path) -> tuple[Any, str, str, dict]:
    """A network trained elsewhere: config.json with `architecture`, `labels`, `resize`, and model.safetensors."""
    from torchvision.transforms._presets import SemanticSegmentation

    config, file = folder_of_weights(about, folder, ("architecture", "labels", "resize"))
    labels = tuple(str(label) for label in config["labels"])
    model = _open_model(config["architecture"], len(labels), state_of(file), str(folder))
    transforms = SemanticSegmentation(resize_size=config["resize"])
    return DeepLab(model, transforms, labels), folder.name, hash_of([file], str(folder)), config
