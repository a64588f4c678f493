"""Where guides come from: the embedded SceneDINO, local files and folders, the local cache, the hub when asked.

Nothing is fetched unless a hub name (one with a slash) is given. Weights are read without executing code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, snapshot_download
from torch import Tensor

from ovsslib import paths
from ovsslib.clip.loading import check_file, read_state_dict
from ovsslib.clip.placement import check_device, check_precision
from ovsslib.errors import MissingPackageError, ModelError
from ovsslib.guides.dino_weights import load_dino
from ovsslib.guides.guide import Guide

EMBEDDED = "scenedino"
_WEIGHTS = "model.safetensors"
_WEIGHT_FILES = (_WEIGHTS, "pytorch_model.bin")  # the hub's older models have the second alone


@dataclass(frozen=True)
class Known:
    """A guide with a short name: where the hub keeps it, and what its network must be."""

    hub: str
    width: int
    patch: int


KNOWN = {
    "dino-vits8": Known("facebook/dino-vits8", 384, 8),
    "dino-vits16": Known("facebook/dino-vits16", 384, 16),
    "dino-vitb8": Known("facebook/dino-vitb8", 768, 8),
    "dino-vitb16": Known("facebook/dino-vitb16", 768, 16),
    "dinov2-vits14": Known("facebook/dinov2-small", 384, 14),
    "dinov2-vitb14": Known("facebook/dinov2-base", 768, 14),
    "dinov2-vits14-reg": Known("facebook/dinov2-with-registers-small", 384, 14),
    "dinov2-vitb14-reg": Known("facebook/dinov2-with-registers-base", 768, 14),
    "dinov3-vitb16": Known("facebook/dinov3-vitb16-pretrain-lvd1689m", 768, 16),
    "mae-vitb16": Known("facebook/vit-mae-base", 768, 16),
    "sam-vitb": Known("facebook/sam-vit-base", 256, 1),
}
#: Names that :func:`load` takes beside hub names, files and folders.
NAMES = (EMBEDDED, *KNOWN)


def load(
    name: str | Path = EMBEDDED,
    *,
    weights: str | Path | None = None,
    heads: int | None = None,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
) -> Guide:
    """Open a guide.

    Args:
        name: one of `NAMES` (looked for in the local cache only); a hub name with a slash ("facebook/dino-vitb8", fetched
            if it is not in the local cache); a checkpoint file with DINO's released names (.pth, .safetensors); or a
            folder (of `transformers`' save_pretrained, or of `ovss pretrain scenedino`).
        weights: a file or folder that holds the weights of a short name; they must have its width and patch size.
        heads: of a file whose blocks have not one head for every 64 of the width.
        device: "cpu", "cuda", "cuda:N".
        precision: "fp32", "bf16", "fp16", or "auto" (:mod:`ovsslib.clip.placement`).

    Raises:
        ModelError: unknown name, weights missing, damaged, of another network, width or patch size, hub not reachable.
        MissingPackageError: DINOv2, DINOv3 and SAM need the package transformers.
    """
    check_precision(precision, check_device(device))  # before a download is begun
    source, known = _find(str(name), weights, fetch=True)
    assert source is not None  # with fetch=True it is there, or an error was raised
    network, digest = _open(source, known, heads)
    if known is not None:
        _check_network(network.width, network.patch, known, str(source))
    return Guide(
        network, name=_name(name), weights_hash=digest[:16], device=device, precision=precision
    )


def check(name: str | Path = EMBEDDED, weights: str | Path | None = None) -> None:
    """Whether :func:`load` would find the guide here: looks at names, files and configurations, reads no weights.

    A hub name that is not in the cache is not asked for at the hub. Raises what :func:`load` raises.
    """
    source, known = _find(str(name), weights, fetch=False)
    if source is None:
        return
    if source.is_dir():
        config = _config(source)
        if config.get("architecture") == "dino":
            width, patch = config["width"], config["patch"]
        elif config.get("model_type") == "sam":
            _need_transformers(str(name), config)
            width, patch = config.get("vision_config", {}).get("output_channels", 256), 1
        else:
            _need_transformers(str(name), config)
            width, patch = config.get("hidden_size"), config.get("patch_size")
        if known is not None:
            _check_network(width, patch, known, str(source))


def from_state(
    state: Mapping[str, Tensor],
    *,
    heads: int | None = None,
    name: str = "own",
    device: str | torch.device = "cpu",
    precision: str = "fp32",
) -> Guide:
    """A guide from DINO's weights in memory (released names, or those of a `transformers` ViT).

    Its hash is that of the values. Raises ModelError for weights that are no DINO's.
    """
    summed = hashlib.sha256()
    for key in sorted(state):
        summed.update(key.encode())
        summed.update(state[key].detach().cpu().float().contiguous().numpy().tobytes())
    network = load_dino(state, name, heads)
    digest = summed.hexdigest()[:16]
    return Guide(network, name=name, weights_hash=digest, device=device, precision=precision)


def _name(name: str | Path) -> str:
    """How the record names a guide: files and folders by their last part, not by where they lie here."""
    text = str(name)
    hub_name = "/" in text and not paths.exists(Path(text).expanduser())
    return text if text in NAMES or hub_name else Path(text).name


def _find(name: str, weights: str | Path | None, fetch: bool) -> tuple[Path | None, Known | None]:
    """File or folder of the weights, and what is known of the network. (None, known): only the hub can tell."""
    known = KNOWN.get(name)
    if weights is not None:
        if name not in NAMES:
            raise ModelError(
                f"weights= goes with a short name ({', '.join(NAMES)}), not with {name!r}"
            )
        return _existing(Path(weights).expanduser()), known
    if name == EMBEDDED:
        folder = paths.data(f"models/{EMBEDDED}")
        if not (folder / _WEIGHTS).is_file():
            raise ModelError(
                f"the embedded guide is missing at {folder}; train it with `ovss pretrain {EMBEDDED} --out {folder}`"
            )
        return folder, None
    path = Path(name).expanduser()
    if known is None and paths.exists(path):
        return path, None
    looks_local = path.suffix in (".pth", ".pt", ".bin", ".safetensors") or name[:1] in "./~"
    if known is None and (looks_local or name.count("/") != 1):
        remedy = "check the path" if looks_local or "/" in name else f"known: {', '.join(NAMES)}"
        raise ModelError(
            f"there is no guide {name!r}; {remedy}, or give a hub name such as 'facebook/dino-vitb8'"
        )
    hub = known.hub if known else name
    if known is None:
        known = next((entry for entry in KNOWN.values() if entry.hub == hub), None)
    cached = cached_folder(hub)
    if cached is not None:
        return cached, known
    if name in KNOWN:
        raise ModelError(
            f"the weights of {name!r} are not in the local cache, and nothing is fetched unasked; ask for them by their "
            f"hub name, load({hub!r}), or pass a file or folder, load({name!r}, weights='/path'); "
            f"the embedded guide needs none: load({EMBEDDED!r})"
        )
    return (fetch_folder(hub) if fetch else None), known


def _existing(path: Path) -> Path:
    if not paths.exists(path):
        raise ModelError(f"there are no weights at {path}; check the path")
    return path


def cached_folder(hub: str) -> Path | None:
    """Folder of a hub model whose configuration and weights are in the local cache; looks at no network."""
    config = paths.hub_file(hub, "config.json")
    if config is not None and any(paths.hub_file(hub, part) for part in _WEIGHT_FILES):
        return config.parent
    return None


def fetch_folder(hub: str) -> Path:
    """Fetch a hub model (configurations and weights, safetensors if it has them) into the local cache.

    Raises ModelError when the hub cannot be reached or does not have it: it says what to download where.
    """
    try:  # asked once, so that a machine without a connection need not wait for retries
        files = {entry.rfilename for entry in HfApi().model_info(hub, timeout=10).siblings or ()}
        weights = _WEIGHTS if _WEIGHTS in files else _WEIGHT_FILES[1]
        return Path(snapshot_download(hub, allow_patterns=["*.json", weights]))
    except Exception as error:  # noqa: BLE001 - hub clients raise their transport's own errors
        raise ModelError(
            f"the guide {hub!r} is not in the local cache and could not be fetched ({type(error).__name__}); on a "
            f"connected machine run `hf download {hub}`, bring the folder here and pass its path "
            "(some models ask for their licence first)"
        ) from None


def weights_of(folder: Path) -> Path:
    """The file of weights in a folder: safetensors if there are any. It need not exist."""
    for part in _WEIGHT_FILES:
        if (folder / part).is_file():
            return folder / part
    return folder / _WEIGHTS


def _open(source: Path, known: Known | None, heads: int | None) -> tuple[Any, str]:
    """The network and the SHA-256 of its weights."""
    expected = {"width": known.width, "patch": known.patch} if known else {}
    if source.is_file():
        digest = check_file(source)
        return load_dino(read_dino_file(source), str(source), heads, **expected), digest
    config, file = _config(source), weights_of(source)
    digest = check_file(file)
    if config.get("architecture") == "dino":
        return load_dino(read_state_dict(file)[0], str(file), heads or config["heads"]), digest
    if config.get("model_type") in ("vit", "vit_mae"):
        heads = heads or config["num_attention_heads"]
        network = load_dino(read_state_dict(file)[0], str(file), heads, **expected)
        network.rule = "size" if config["model_type"] == "vit_mae" else "offset"
        return network, digest
    _need_transformers(str(source), config)
    if config.get("model_type") == "sam":
        from ovsslib.guides.sam_encoder import open_sam_encoder

        return open_sam_encoder(source)
    from ovsslib.guides.transformers_networks import open_folder

    return open_folder(str(source)), digest


def read_dino_file(file: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint; of DINO's full training checkpoints the teacher's. Executes no code of the file."""
    if file.suffix == ".safetensors":
        return read_state_dict(file)[0]
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - read_state_dict names what is wrong with the file
        return read_state_dict(file)[0]
    nested = isinstance(stored, Mapping) and isinstance(stored.get("teacher"), Mapping)
    return dict(stored["teacher"]) if nested else read_state_dict(file)[0]


def _config(folder: Path) -> dict:
    for part in (folder / "config.json", weights_of(folder)):
        if not part.is_file():
            raise ModelError(
                f"there is no {part.name} in {folder}; a guide's folder holds config.json and {_WEIGHTS} (transformers' "
                "save_pretrained writes both)"
            )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{folder / 'config.json'} is not JSON: {error}") from None
    families = ("vit", "vit_mae", "dinov2", "dinov2_with_registers", "dinov3_vit", "sam")
    if config.get("architecture") != "dino" and config.get("model_type") not in families:
        raise ModelError(
            f"{folder} holds a model of type {config.get('model_type')!r}; a guide is one of {', '.join(families)}"
        )
    return config


def _need_transformers(name: str, config: dict) -> None:
    if config.get("model_type") in ("vit", "vit_mae") or find_spec("transformers") is not None:
        return
    raise MissingPackageError(
        f"the guide {name!r} needs the package transformers: pip install 'ovsslib[guides]'; DINO (v1) and MAE "
        f"guides and {EMBEDDED!r} need it not"
    )


def _check_network(width: int | None, patch: int | None, known: Known, origin: str) -> None:
    for trait, actual, expected in (
        ("width", width, known.width),
        ("patches of", patch, known.patch),
    ):
        if actual != expected:
            raise ModelError(
                f"{origin} has {trait} {actual}, expected {expected} of {known.hub}; it is another network, choose its folder"
            )
