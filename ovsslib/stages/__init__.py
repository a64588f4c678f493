"""The stages of the flow, one file per idea: tensors in, tensors out.

Every module in this folder declares a frozen settings dataclass, registers it (`ovsslib.recipe.stage`), and holds
the pure functions that do the work. Modules are imported from the folder itself, so a new stage needs no list.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

# The public names of the interface; `pamr` and `densecrf` are the functions, not the modules of the same names.
from ovsslib.networks.loftup import LoftUp
from ovsslib.stages.densecrf import densecrf
from ovsslib.stages.pamr import pamr

__all__ = ["LoftUp", "densecrf", "pamr"]
