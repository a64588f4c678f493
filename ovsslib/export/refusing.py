"""Which recipes are one graph: pixels of a window in, features out, with nothing else looked at on the way."""

from ovsslib.recipe import Recipe

_REASONS = {
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


def why_not_one_graph(recipe: Recipe) -> str | None:
    """Why a recipe cannot be exported as one graph, naming the stages; None if it can.

    What the words, the stitched logits and the labels go through stays in Python and is no part of the graph.
    """
    found = []
    for hook, reason in _REASONS.items():
        stages = recipe.stages_with(hook)
        if hook in ("guide_name", "proposer_name"):
            stages = [one for one in stages if getattr(one, hook)() is not None]
        names = [name for name, settings in recipe.stages.items() if settings in stages]
        if names:
            found.append(f"{reason} (stage {', '.join(names)})")
    if not found and recipe.has("needs_text"):
        found.append("its last block needs the words, which a graph of pixels does not have")
    return "; ".join(found) or None
