"""What stages that compute the last block by themselves have in common: what they cannot stand beside."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovsslib.recipe import Recipe


def rivals(recipe: "Recipe", settings: Any) -> str | None:
    """Why a recipe cannot hold a stage that replaces the last block, or None.

    Its rivals are stages that change the attention weights of that block, of which there is no one matrix, and any
    other stage that computes the block.
    """
    changing = [
        s
        for hook in ("on_weights", "feed_back", "second_weights")
        for s in recipe.stages_with(hook)
    ]
    for name, stage in recipe.stages.items():
        if stage in changing:
            return f"it computes the last block by itself, so there is no one matrix that {name} could change"
    if recipe.has("replaces_block", but=settings):
        return "another stage computes the last block by itself too; turn one of them off"
    return None
