"""Reading what a folder of a comparator holds: settings, weights, and their hash."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from ovsslib.comparators.known import Known
from ovsslib.errors import ModelError


def read_json(file: Path) -> dict:
    """The settings in a JSON file, without what changes no number. Raises ModelError if it is missing or holds none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise ModelError(
            f"there is no {file.name} in {file.parent}; choose a folder that save_pretrained wrote"
        ) from None
    except ValueError as error:
        raise ModelError(f"{file} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds no settings; choose a folder that save_pretrained wrote")
    # where and by which version it was written does not change what it computes
    return {
        key: value
        for key, value in content.items()
        if key not in ("_name_or_path", "transformers_version")
    }


def hash_of(files: list[Path], origin: str) -> str:
    """Hash (16 hex digits) of the contents of files."""
    if not files:
        raise ModelError(
            f"{origin} holds no *.safetensors; weights in other formats may run code and are not read"
        )
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:16]


def state_of(file: Path) -> dict[str, torch.Tensor]:
    """Name -> tensor of a file of weights; no code of the file is run. Raises ModelError if it cannot be read."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - damaged files raise a dozen kinds of error
        raise ModelError(
            f"{file} cannot be read as weights ({type(error).__name__}); it is damaged or another file: fetch it again"
        ) from None


def filled(model: Any, state: dict[str, torch.Tensor], origin: str, what: str) -> Any:
    """The model with these weights. Raises ModelError if they are another model's."""
    try:
        model.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise ModelError(
            f"{origin} does not fit {what}: {str(error).splitlines()[-1].strip()[:160]}"
        ) from None
    return model


def folder_of_weights(about: Known, folder: Path, keys: tuple[str, ...]) -> tuple[dict, Path]:
    """What a folder's config.json says, and the file of its weights. Raises ModelError if something is missing."""
    config, file = read_json(folder / "config.json"), folder / "model.safetensors"
    missing = [key for key in keys if key not in config]
    if missing or not file.is_file():
        raise ModelError(
            f"{folder} is no {about.name!r} folder: it lacks {missing[0] if missing else file.name}; it holds config.json "
            f"with {', '.join(keys[:-1])} and {keys[-1]}, and model.safetensors"
        )
    if config["architecture"] not in about.classes:
        raise ModelError(
            f"{folder}: unknown architecture {config['architecture']!r}; known: {', '.join(about.classes)}"
        )
    return config, file
