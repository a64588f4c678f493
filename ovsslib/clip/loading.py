"""Where backbones come from: the embedded SceneCLIP, local checkpoint files, open_clip's hub entries.

Weights are read without executing code: safetensors, or `torch.load(weights_only=True)`, or the TorchScript archive
that OpenAI published. Nothing is downloaded unless a pretrained tag is asked for by name.
"""

import hashlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from safetensors import SafetensorError
from safetensors.torch import load_file

from ovsslib import paths
from ovsslib.clip.backbone import Backbone, check_device
from ovsslib.errors import ModelError

# SHA-256 of the checkpoint files that OpenAI published (the hash is part of each file's address).
OPENAI_SHA256 = {
    "ViT-B-16.pt": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
}
_EXTRA_KEYS = ("input_resolution", "context_length", "vocab_size")
EMBEDDED = ("sceneclip", "sceneclip-p32")


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
        model: "sceneclip" or "sceneclip-p32" (embedded), an open_clip model name ("ViT-B-16-quickgelu"), or an
            open_clip configuration (mapping, or path of its JSON file).
        pretrained: for an open_clip model: a pretrained tag ("openai", fetched from the hub if it is not in the
            local cache) or a checkpoint file (.pt of OpenAI, state dict, or .safetensors; OpenAI's or
            open_clip's key names). For an embedded model: the folder that `ovss pretrain --out` wrote; None is the
            shipped one.
        device: "cpu", "cuda", "cuda:N".
        precision: "fp32", "bf16" or "fp16".
        sha256: refuse the checkpoint file if its hash is another.

    Raises:
        ModelError: unknown model or tag, missing or damaged file, keys or shapes that do not fit, wrong hash,
            hub not reachable (the message says what to download and where to put it).
    """
    if isinstance(model, str) and model in EMBEDDED:
        return _load_embedded(model, pretrained, device, precision)
    name, config = _resolve_config(model)
    check_device(device)  # before a download is begun
    if pretrained is None:
        raise ModelError(
            f"model {name!r} needs weights: pass pretrained= a checkpoint file or a tag"
            f"{_tags_hint(name)}; the embedded model needs none: load_backbone('sceneclip')"
        )
    path = Path(pretrained).expanduser()
    if path.suffix or path.exists():
        file = path
    else:
        file = fetch_pretrained(name, str(pretrained))
    if sha256 is None and _is_torchscript(file):  # OpenAI's own archive; a state dict may have its name too
        sha256 = OPENAI_SHA256.get(file.name)
    digest = check_file(file, sha256)
    state, from_openai = read_state_dict(file)
    quick = from_openai or (str(pretrained) == "openai")
    net = build_model(config, quick_gelu=quick)
    load_state(net, state, f"{file}")
    return Backbone(
        net, name=name, pretrained=str(pretrained), weights_hash=digest[:16], device=device, precision=precision
    )


def build_model(config: Mapping[str, Any], quick_gelu: bool = False) -> open_clip.CLIP:
    """An open_clip model of a configuration mapping, with open_clip's random weights."""
    config = {key: value for key, value in config.items() if key != "custom_text"}
    if quick_gelu:
        config["quick_gelu"] = True
    try:
        return open_clip.CLIP(**config)
    except (TypeError, KeyError, ValueError) as error:
        raise ModelError(f"not an open_clip CLIP configuration: {error}") from None


def load_state(net: torch.nn.Module, state: Mapping[str, torch.Tensor], origin: str) -> None:
    """Copy a state dict into a model. Raises ModelError that names missing, unexpected and misshapen keys."""
    own = net.state_dict()
    optional = {key for key in own if key.endswith(("attn_mask", "logit_bias"))}
    missing = [key for key in own if key not in state and key not in optional]
    unexpected = [key for key in state if key not in own]
    misshapen = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    problems = []
    for title, keys in (("missing", missing), ("unexpected", unexpected), ("other shape", misshapen)):
        if keys:
            more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
            problems.append(f"{title}: {', '.join(keys[:4])}{more}")
    if problems:
        raise ModelError(
            f"the weights of {origin} do not fit this architecture ({'; '.join(problems)}); choose the model name "
            "they belong to, with OpenAI's or open_clip's key names"
        )
    net.load_state_dict(dict(state), strict=False)


def read_state_dict(file: Path) -> tuple[dict[str, torch.Tensor], bool]:
    """Tensors of a checkpoint file, and whether it is one of OpenAI's own. Executes no code of the file."""
    try:
        if file.suffix == ".safetensors":
            state, openai = load_file(file), False
        elif _is_torchscript(file):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                state, openai = torch.jit.load(file, map_location="cpu").state_dict(), True
        else:
            state, openai = torch.load(file, map_location="cpu", weights_only=True), False
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ModelError(_unreadable(file, error)) from None
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):  # no pickle at all: a web page, another format
            raise ModelError(_unreadable(file, "its content is not PyTorch's")) from None
        raise ModelError(
            f"{file} is refused, since reading it would execute code ({type(error).__name__}); "
            "convert it to safetensors where you trust it"
        ) from None
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ModelError(f"{file} holds no state dict (a mapping of names to tensors)")
    openai = openai or all(key in state for key in _EXTRA_KEYS)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    return {key: value for key, value in state.items() if key not in _EXTRA_KEYS}, openai


def _unreadable(file: Path, error: Exception | str) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f"cannot read the checkpoint {file}: {reason}; it is damaged, cut off, or no checkpoint"


def check_file(file: Path, sha256: str | None = None) -> str:
    """SHA-256 of a checkpoint. Raises ModelError if the file is missing or its hash is not the expected one."""
    if not file.is_file():
        raise ModelError(f"there is no checkpoint at {file}; check the path, or give a pretrained tag")
    summed = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 22):
            summed.update(block)
    digest = summed.hexdigest()
    if sha256 and digest != sha256:
        raise ModelError(
            f"{file} is damaged or another file: its SHA-256 is {digest}, expected {sha256}; download it again"
        )
    return digest


def cached_pretrained(name: str, tag: str) -> Path | None:
    """The checkpoint of a pretrained tag if it is in a local cache already; looks at no network."""
    settings = get_pretrained_cfg(name, tag)
    if not settings:
        return None
    if settings.get("hf_hub"):
        repository, file = _hub_entry(settings["hf_hub"])
        for candidate in (file, "open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
            found = try_to_load_from_cache(repository, candidate) if candidate else None
            if isinstance(found, str):
                return Path(found)
    if settings.get("url"):
        file = Path.home() / ".cache" / "clip" / Path(settings["url"]).name
        if file.is_file():
            return file
    return None


def fetch_pretrained(name: str, tag: str) -> Path:
    """The checkpoint of a pretrained tag, from the local cache or else the hub.

    Raises ModelError for an unknown tag, or when the hub cannot be reached: it then names what to download.
    """
    settings = get_pretrained_cfg(name, tag)
    if not settings:
        raise ModelError(f"{tag!r} is neither a file nor a pretrained tag of {name!r}{_tags_hint(name)}")
    found = cached_pretrained(name, tag)
    if found:
        return found
    try:
        if settings.get("hf_hub"):  # asked once, so that a machine without a connection need not wait for retries
            HfApi().model_info(_hub_entry(settings["hf_hub"])[0], timeout=10)
        return Path(open_clip.download_pretrained(settings))
    except Exception as error:  # noqa: BLE001 - hub clients raise their transport's own errors
        where = settings.get("url") or f"the model page {settings.get('hf_hub')!r} of the Hugging Face hub"
        raise ModelError(
            f"the weights {name!r}/{tag!r} are not in the local cache and could not be downloaded "
            f"({type(error).__name__}). On a connected machine download {where}, bring the file here and pass its "
            f"path: load_backbone({name!r}, pretrained='/path/to/file')"
        ) from None


def _load_embedded(
    name: str, own: str | Path | None, device: str | torch.device, precision: str
) -> Backbone:
    from ovsslib.clip.sceneclip import load_sceneclip_state  # the embedded world stands aside

    folder = paths.data(f"models/{name}") if own is None else Path(own).expanduser()
    if folder.name == "model.safetensors":
        folder = folder.parent
    file, settings = folder / "model.safetensors", folder / "config.json"
    for part in (file, settings):
        if not part.is_file():
            raise ModelError(
                f"the embedded model is missing at {part}; train it with `ovss pretrain {name} --out {folder}`"
            )
    config = json.loads(settings.read_text(encoding="utf-8"))
    state, kept = load_sceneclip_state(file)
    net = build_model(config)
    load_state(net, state, str(file))
    return Backbone(
        net, name=name, pretrained="embedded" if own is None else folder.name, weights_hash=check_file(file)[:16],
        device=device, precision=precision, known_token_ids=kept,
    )


def _resolve_config(model: str | Path | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(model, Mapping):
        return "custom", dict(model)
    text = str(model)
    if text.endswith(".json"):
        file = Path(text).expanduser()
        if not file.is_file():
            raise ModelError(f"there is no model configuration at {file}")
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ModelError(f"{file} is not JSON: {error}") from None
        return file.stem, config.get("model_cfg", config)
    config = open_clip.get_model_config(text)
    if config is None:
        vits = [name for name in open_clip.list_models() if name.startswith("ViT-")]
        raise ModelError(
            f"unknown model {text!r}; embedded: {', '.join(EMBEDDED)}; open_clip: {', '.join(vits[:12])}, ... "
            "(open_clip.list_models() lists all)"
        )
    return text, config


def _is_torchscript(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())


def _hub_entry(entry: str) -> tuple[str, str]:
    repository, _, file = entry.rpartition("/") if entry.count("/") > 1 else (entry.rstrip("/"), "", "")
    return repository, file


def _tags_hint(name: str) -> str:
    tags = list_pretrained_tags_by_model(name)
    return f" ({', '.join(tags[:6])})" if tags else ""
