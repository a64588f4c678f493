"""Which recipes are one graph: pixels of a window in, features out, with nothing else looked at on the way."""

from typing import Any

from ovsslib.recipe import Recipe

_HOOKS = {
    "replace_windows": "its last block sees all windows of a picture at once",
    "picture_logits": "it works on the picture by itself, without windows",
    "feed_back": "its last block runs again with the words, which a graph of pixels does not have",
    "second_weights": "its last block runs again with the words, which a graph of pixels does not have",
    "guide_name": "it reads a second network beside CLIP",
    "proposer_name": "it reads masks of the picture, which are no function of one window",
    "keep_of_trunk": "it reads inner blocks of CLIP behind the last one",
    "keep_words": "it asks CLIP anew which words are in the picture",
    "on_picture_text": "it moves the words by features of further passes over the picture",
    "on_all_windows": "it compares the windows of a picture by a second network",
}
"""What a stage's hook says about the flow, where it cannot be one graph."""

_CAPABILITIES = {
    "patches_only": "its last block gives patches and no class token, which is the graph's second output",
    "asks_clip_again": "it asks CLIP again behind the last block, of which the graph gives the features alone",
    "untraceable": "it takes steps that ONNX has no operators for, or that depend on the values of a window",
}
"""The same for what a stage declares of itself."""


def why_not_one_graph(recipe: Recipe) -> str | None:
    """Why a recipe cannot be exported as one graph, naming the stages; None if it can.

    What the words, the stitched logits and the labels go through stays in Python and is no part of the graph.
    """
    reasons = []
    for hook, reason in _HOOKS.items():
        reasons += _naming_stages(
            reason, [name for name, s in recipe.stages.items() if _uses(s, hook)]
        )
    for capability, reason in _CAPABILITIES.items():
        declared = {name: getattr(s, "capabilities", ()) for name, s in recipe.stages.items()}
        reasons += _naming_stages(
            reason, [name for name, has in declared.items() if capability in has]
        )
    if not reasons and recipe.has("needs_text"):
        reasons.append("its last block needs the words, which a graph of pixels does not have")
    return "; ".join(reasons) or None


def _naming_stages(reason: str, names: list[str]) -> list[str]:
    return [f"{reason} (stage {', '.join(names)})"] if names else []


def _uses(settings: Any, hook: str) -> bool:
    """Whether a stage has a hook; of those that name a second model, whether it names one."""
    if not callable(getattr(type(settings), hook, None)):
        return False
    return hook not in ("guide_name", "proposer_name") or getattr(settings, hook)() is not None
