"""Second models: self-supervised guides whose features say what belongs together, and mask proposers."""

from ovsslib.guides.guide import Guide
from ovsslib.guides.loading import NAMES, check, from_state, load
from ovsslib.guides.reading import KINDS, GuideReading


def load_sam(model=None, device="cpu"):
    """Open a SAM for its last attention and its prompts; see :func:`ovsslib.guides.sam.load_sam`."""
    from ovsslib.guides.sam import load_sam as load_it

    return load_it(model, device)


__all__ = ["KINDS", "NAMES", "Guide", "GuideReading", "check", "from_state", "load", "load_sam"]
