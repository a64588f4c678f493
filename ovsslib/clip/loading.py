"""Where backbones come from: the embedded SceneCLIP, local checkpoint files and folders, hub entries.

Weights are read without executing code. Nothing is downloaded unless a pretrained tag or a hub name is given.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub import HfApi, hf_hub_download
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

from ovsslib import paths
from ovsslib.clip.architectures import (
    Architecture,
    build_model,
    check_configuration,
    from_transformers,
)
from ovsslib.clip.backbone import Backbone
from ovsslib.clip.checkpoints import check_file, is_torchscript, load_state, read_state_dict
from ovsslib.clip.placement import check_device, check_precision
from ovsslib.errors import ModelError, did_you_mean

__all__ = [
    "EMBEDDED", "OPENAI_SHA256", "build_model", "cached_pretrained", "check_file", "fetch_pretrained", "load_backbone",
    "load_state", "read_state_dict",
]  # fmt: skip

# SHA-256 of the checkpoint files that OpenAI published (the hash is part of each file's address).
OPENAI_SHA256 = {
    "ViT-B-16.pt": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
}
EMBEDDED = ("sceneclip", "sceneclip-p32")
_HUB_PREFIX = "hf-hub:"
_WEIGHTS = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
_CONFIGURATIONS = ("open_clip_config.json", "config.json")


def load_backbone(
    model: str | Path | Mapping[str, Any] = "sceneclip",
    pretrained: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    sha256: str | None = None,
) -> Backbone:
    """Open a CLIP for dense prediction.

    Args:
        model: "sceneclip" or "sceneclip-p32" (embedded); an open_clip model name ("ViT-B-16-quickgelu"); an open_clip
            configuration (mapping, or path of its JSON file); a folder with `config.json` and weights, of
            `transformers`' CLIP or of open_clip; or a hub name ("openai/clip-vit-base-patch16",
            "hf-hub:laion/..."), fetched if it is not in the local cache.
        pretrained: for an open_clip model: a pretrained tag ("openai", fetched from the hub if it is not in the
            local cache) or a checkpoint file (.pt of OpenAI, state dict, or .safetensors; OpenAI's, open_clip's or
            `transformers`' key names, with the prefixes and wrappers of training code). For an embedded model: the
            folder that `ovss pretrain --out` wrote; None is the shipped one. Not for a folder or a hub name.
        device: "cpu", "cuda", "cuda:N", "mps".
        precision: "fp32"; "bf16" (products in bfloat16, sums in float32; fast on a CPU that can); "fp16" (for GPUs); or
            "auto": the fastest of them that the device computes in hardware (:mod:`ovsslib.clip.placement`).
        sha256: refuse the checkpoint file if its hash is another.

    Activation, normalisation, image size and tokenizer are those of the tag's or folder's published
    configuration. A file under a name that has a `-quickgelu` twin is taken as the name says, with a warning where
    nothing in the file decides.

    Raises:
        ModelError: unknown model or tag, a model that this library cannot run rightly (SigLIP, EVA, CoCa, other
            tokenizers, ...), missing or damaged file, keys or shapes that do not fit, values that are not
            finite, wrong hash, hub not reachable (the message says what to download and where to put it).
    """
    precision = check_precision(precision, check_device(device))  # before a download is begun
    if isinstance(model, str) and model in EMBEDDED:
        return _load_embedded(model, pretrained, device, precision, sha256)
    architecture_of_folder, files = _found_together(model, pretrained)
    if architecture_of_folder is not None:
        return _opened(
            architecture_of_folder, files, str(model), device, precision, sha256, quick_gelu=False
        )
    architecture = _resolve(model)
    name = architecture.name
    if pretrained is None:
        raise ModelError(
            f"model {name!r} needs weights: pass pretrained= a checkpoint file or a tag"
            f"{_tags_hint(name)}; the embedded model needs none: load_backbone('sceneclip')"
        )
    path = Path(pretrained).expanduser()
    tag = get_pretrained_cfg(name, str(pretrained)) if isinstance(model, str) else {}
    if not tag and paths.is_dir(path):
        raise ModelError(
            f"pretrained={str(pretrained)!r} is a folder; pass the file in it, or the folder itself as the model: "
            f"load_backbone({str(pretrained)!r})"
        )
    if not tag and (path.suffix or paths.is_file(path)):
        return _opened(architecture, path, str(pretrained), device, precision, sha256)
    file = fetch_pretrained(name, str(pretrained))
    if tag.get("mean"):
        mean, std = tuple(tag["mean"]), tuple(tag["std"])
        architecture = Architecture(name, architecture.config, mean, std)
    quick = bool(tag.get("quick_gelu", False))
    if architecture.config.get("quick_gelu") and not quick:
        warnings.warn(
            f"the weights {str(pretrained)!r} were trained with GELU, but {name!r} computes QuickGELU; "
            f"load_backbone({name.removesuffix('-quickgelu')!r}, {str(pretrained)!r}) is what they belong to",
            stacklevel=2,
        )
    return _opened(architecture, file, str(pretrained), device, precision, sha256, quick_gelu=quick)


def _opened(
    architecture: Architecture,
    file: Path,
    pretrained: str,
    device: str | torch.device,
    precision: str,
    sha256: str | None,
    quick_gelu: bool | None = None,
) -> Backbone:
    """A backbone from its architecture and a checkpoint; `quick_gelu` None: nobody told, the file may."""
    if sha256 is None and is_torchscript_file(
        file
    ):  # OpenAI's own archive; a state dict may have its name too
        sha256 = OPENAI_SHA256.get(file.name)
    digest = check_file(file, sha256)
    state, from_openai = read_state_dict(file)
    name = architecture.name
    untold = quick_gelu is None and not from_openai and not architecture.config.get("quick_gelu")
    if untold and f"{name}-quickgelu" in open_clip.list_models():
        warnings.warn(
            f"nothing in {file.name} says whether it was trained with GELU or QuickGELU; it runs with GELU, as "
            f"{name!r} says. Weights of OpenAI (and MetaCLIP, DFN) need load_backbone('{name}-quickgelu', ...)",
            stacklevel=3,
        )
    net = build_model(architecture.config, quick_gelu=bool(quick_gelu) or from_openai, name=name)
    load_state(net, state, f"{file}")
    return Backbone(
        net, name=name, pretrained=pretrained, weights_hash=digest[:16], device=device, precision=precision,
        pixel_mean=architecture.mean, pixel_std=architecture.std,
    )  # fmt: skip


def is_torchscript_file(file: Path) -> bool:
    """Whether a file that may be missing is a TorchScript archive."""
    return paths.is_file(file) and is_torchscript(file)


# -- folders and hub names ----------------------------------------------------------------------------------------


def _found_together(
    model: str | Path | Mapping[str, Any], pretrained: str | Path | None
) -> tuple[Architecture | None, Path]:
    """Architecture and weights of a folder or a hub entry, which bring both; (None, ...) for another model."""
    nothing = (None, Path())
    if isinstance(model, Mapping):
        return nothing
    text = str(model)
    folder = Path(text).expanduser()
    known = (
        open_clip.get_model_config(text) is not None if not text.startswith(_HUB_PREFIX) else False
    )
    if paths.is_dir(folder) and not known:
        if pretrained is not None:
            raise ModelError(
                f"model {text!r} is a folder with its own weights; leave pretrained out"
            )
        return _of_folder(folder)
    hub = text.startswith(_HUB_PREFIX) or (
        text.count("/") == 1
        and not folder.suffix
        and not paths.exists(folder)
        and not _looks_like_vit(text)
    )
    if not hub:
        return nothing
    if pretrained is not None:
        raise ModelError(
            f"model {text!r} is a hub entry with its own weights; leave pretrained out"
        )
    return _of_folder(_fetch_entry(text.removeprefix(_HUB_PREFIX)), name=text)


def _looks_like_vit(text: str) -> bool:
    """Whether a name is OpenAI's spelling of a model ("ViT-B/16"), not a hub entry."""
    return text.replace("/", "-") in open_clip.list_models()


def _of_folder(folder: Path, name: str | None = None) -> tuple[Architecture, Path]:
    """What a folder of `transformers` or open_clip holds. Raises ModelError for what is missing."""
    weights = next((folder / n for n in _WEIGHTS if (folder / n).is_file()), None)
    settings = next((folder / n for n in _CONFIGURATIONS if (folder / n).is_file()), None)
    if settings is None or weights is None:
        missing = " or ".join(_CONFIGURATIONS if settings is None else _WEIGHTS)
        raise ModelError(
            f"the folder {folder} holds no CLIP: it has no {missing}; name a folder with both, as transformers or open_clip "
            "write it, or pass a checkpoint file: load_backbone('ViT-B-16-quickgelu', pretrained='/path/to/file')"
        )
    name, content = name or folder.name, _read_json(settings)
    if "vision_cfg" in content or "model_cfg" in content:
        return _architecture(name, content), weights
    config = from_transformers(content, name)
    check_configuration(config, name)
    preprocessing = folder / "preprocessor_config.json"
    about = _read_json(preprocessing) if preprocessing.is_file() else {}
    extra = (
        {"preprocess_cfg": {"mean": about["image_mean"], "std": about["image_std"]}}
        if "image_mean" in about
        else {}
    )
    return _architecture(name, {"model_cfg": config, **extra}), weights


def _fetch_entry(entry: str) -> Path:
    """Local folder of a hub entry's files, from the cache or else the hub."""
    cached = {}
    names = (*_CONFIGURATIONS, "preprocessor_config.json", *_WEIGHTS)
    for name in names:
        path = paths.hub_file(entry, name)
        if path is not None:
            cached[name] = path
    if set(cached) & set(_CONFIGURATIONS) and set(cached) & set(_WEIGHTS):
        return next(iter(cached.values())).parent
    try:
        there = {
            sibling.rfilename for sibling in HfApi().model_info(entry, timeout=10).siblings or ()
        }
        weights = next((n for n in _WEIGHTS if n in there), None)
        wanted = [n for n in names[:3] if n in there] + ([weights] if weights else [])
        fetched = [Path(hf_hub_download(entry, name)) for name in wanted]
    except Exception as error:  # noqa: BLE001 - hub clients raise their transport's own errors
        raise ModelError(
            f"{entry!r} is not in the local cache and could not be fetched from the hub ({type(error).__name__}). On a "
            "connected machine download its config.json, preprocessor_config.json and model.safetensors into a folder, "
            f"bring it here and pass it: load_backbone('/path/to/{entry.rpartition('/')[2]}')"
        ) from None
    if not fetched:
        raise ModelError(
            f"the hub entry {entry!r} holds no CLIP: it has no {' or '.join(_CONFIGURATIONS)}"
        )
    return fetched[0].parent


def cached_pretrained(name: str, tag: str) -> Path | None:
    """The checkpoint of a pretrained tag if it is in a local cache already; looks at no network."""
    settings = get_pretrained_cfg(name, tag)
    if not settings:
        return None
    if settings.get("hf_hub"):
        repository, file = _hub_entry(settings["hf_hub"])
        for candidate in (file, "open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
            cached = paths.hub_file(repository, candidate) if candidate else None
            if cached is not None:
                return cached
    if settings.get("url"):
        try:
            place = Path.home() / ".cache" / "clip" / Path(settings["url"]).name
            return place if place.is_file() else None
        except (RuntimeError, OSError):  # no home folder, or one that cannot be read
            return None
    return None


def fetch_pretrained(name: str, tag: str) -> Path:
    """The checkpoint of a pretrained tag, from the local cache or else the hub.

    Raises ModelError for an unknown tag, or when the hub cannot be reached: it then names what to download.
    """
    settings = get_pretrained_cfg(name, tag)
    if not settings:
        raise ModelError(
            f"{tag!r} is neither a file nor a pretrained tag of {name!r}{_tags_hint(name)}"
        )
    checkpoint = cached_pretrained(name, tag)
    if checkpoint:
        return checkpoint
    try:
        if settings.get(
            "hf_hub"
        ):  # asked once, so that a machine without a connection need not wait for retries
            HfApi().model_info(_hub_entry(settings["hf_hub"])[0], timeout=10)
        return Path(open_clip.download_pretrained(settings))
    except Exception as error:  # noqa: BLE001 - hub clients raise their transport's own errors
        where = (
            settings.get("url")
            or f"the model page {settings.get('hf_hub')!r} of the Hugging Face hub"
        )
        raise ModelError(
            f"the weights {name!r}/{tag!r} are not in the local cache and could not be downloaded "
            f"({type(error).__name__}). On a connected machine download {where}, bring the file here and pass its "
            f"path: load_backbone({name!r}, pretrained='/path/to/file')"
        ) from None


def _load_embedded(
    name: str,
    weights: str | Path | None,
    device: str | torch.device,
    precision: str,
    sha256: str | None,
) -> Backbone:
    # late: seldom needed with real CLIP
    from ovsslib.clip.sceneclip import load_sceneclip_state, token_counts

    folder = paths.data(f"models/{name}") if weights is None else Path(weights).expanduser()
    if folder.name == "model.safetensors":
        folder = folder.parent
    file, settings = folder / "model.safetensors", folder / "config.json"
    for part in (file, settings):
        if not part.is_file():
            raise ModelError(
                f"the embedded model is missing at {part}; train it with `ovss pretrain {name} --out {folder}`"
            )
    digest = check_file(file, sha256)
    architecture = _architecture(name, _read_json(settings))
    expected = _read_json(paths.data(f"models/{name}/config.json"))["vision_cfg"]["patch_size"]
    if architecture.config["vision_cfg"]["patch_size"] != expected:
        raise ModelError(
            f"{folder} has patches of {architecture.config['vision_cfg']['patch_size']} pixels, but {name!r} has "
            f"{expected}: give the name of the model that it was trained as"
        )
    state, token_ids = load_sceneclip_state(file)
    net = build_model(architecture.config, name=name)
    load_state(net, state, str(file))
    return Backbone(
        net, name=name, pretrained="embedded" if weights is None else folder.name, weights_hash=digest[:16],
        device=device, precision=precision, known_token_ids=token_ids, times_read=token_counts(file),
        pixel_mean=architecture.mean, pixel_std=architecture.std,
    )  # fmt: skip


def _resolve(model: str | Path | Mapping[str, Any]) -> Architecture:
    """The architecture of a name, a configuration, or the path of one."""
    if isinstance(model, Mapping):
        return _architecture("custom", model)
    text = str(model)
    if text.endswith(".json"):
        file = Path(text).expanduser()
        if not file.is_file():
            raise ModelError(f"there is no model configuration at {file}")
        return _architecture(file.stem, _read_json(file))
    config = open_clip.get_model_config(text)
    if config is None and paths.is_file(Path(text).expanduser()):
        raise ModelError(
            f"{text!r} is a file of weights, which does not say what model it is of; name that too: "
            f"load_backbone('ViT-B-16-quickgelu', pretrained={text!r})"
        )
    if config is None:
        names = [name for name in open_clip.list_models() if name.startswith("ViT-")]
        twin = text.replace("/", "-")
        hint = (
            f" (did you mean {twin!r}?)"
            if twin in names
            else did_you_mean(text, names).partition(";")[0]
        )
        raise ModelError(
            f"unknown model {text!r}{hint}; embedded: {', '.join(EMBEDDED)}; open_clip: {', '.join(names[:12])}, ... "
            "(open_clip.list_models() lists all)"
        )
    return _architecture(text, config)


def _architecture(name: str, content: Mapping[str, Any]) -> Architecture:
    """From open_clip's `model_cfg`, alone or with its `preprocess_cfg`."""
    config = dict(content.get("model_cfg", content))
    preprocessing = content.get("preprocess_cfg") or config.pop("preprocess_cfg", None) or {}
    config.pop("preprocess_cfg", None)
    normalisation: dict[str, Any] = {}
    for key, field in (("mean", "mean"), ("std", "std")):
        if preprocessing.get(key) is None:
            continue
        values = preprocessing[key]
        if (
            not isinstance(values, (list, tuple))
            or len(values) != 3
            or (key == "std" and min(values) <= 0)
        ):
            raise ModelError(
                f"model {name!r}: preprocess_cfg.{key}={values!r} must be three numbers, RGB, for [0, 1]"
            )
        normalisation[field] = tuple(float(v) for v in values)
    return Architecture(name, config, **normalisation)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{file} is not JSON: {error}") from None
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds no configuration (a JSON mapping)")
    return content


def _hub_entry(entry: str) -> tuple[str, str]:
    repository, _, file = (
        entry.rpartition("/") if entry.count("/") > 1 else (entry.rstrip("/"), "", "")
    )
    return repository, file


def _tags_hint(name: str) -> str:
    tags = list_pretrained_tags_by_model(name)
    return f" ({', '.join(tags[:6])})" if tags else ""
