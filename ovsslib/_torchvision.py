"""Makes `import torchvision` work beside a CPU build of torch.

The torchvision wheel on PyPI is built for CUDA. Beside a CPU torch its compiled operators cannot be
loaded; the import then stops with "operator torchvision::nms does not exist", because torchvision
registers a shape rule for each of its two non-maximum-suppression operators. Declaring both
operators (no implementation, so calling them still fails with a clear message) is all the import
needs. open_clip uses torchvision for its transforms only, never these operators.

Import this module before torchvision or open_clip. It does nothing where torchvision's own
operators load.
"""

import importlib.machinery
import importlib.util
from pathlib import Path

import torch

_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
# Held for the life of the process: torch forgets an operator as soon as its library object is
# collected.
_declared: list[torch.library.Library] = []


def _own_operators_load() -> bool:
    """Whether torchvision's compiled operators load here (torchvision itself is not imported)."""
    package = importlib.util.find_spec("torchvision")
    if package is None or not package.submodule_search_locations:
        return True  # nothing to mend; the import of torchvision will say that it is not installed
    folder = Path(next(iter(package.submodule_search_locations)))
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        library = folder / f"_C{suffix}"
        if library.exists():
            try:
                torch.ops.load_library(library)
            except OSError:
                return False
            return True
    return False


def declare_missing_operators() -> tuple[str, ...]:
    """Declares those of torchvision's two suppression operators that are missing.

    Returns their names; an empty tuple where torchvision is complete.
    """
    missing = tuple(name for name in _OPERATORS if not hasattr(torch.ops.torchvision, name))
    if not missing or _own_operators_load():
        return ()
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in missing:
        library.define(name + _SCHEMA)
    _declared.append(library)
    return missing


declare_missing_operators()
