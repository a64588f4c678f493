"""The commands `ovss export`: a recipe and its model as files for other programs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ovsslib.cli.console import say
from ovsslib.cli.ending import clearing_up
from ovsslib.cli.options import Model, Pretrained, RecipeName, Set
from ovsslib.errors import RecipeError
from ovsslib.recipe import parse_changes

export_app = typer.Typer(
    help="Write a recipe and its model as files that other programs run.", no_args_is_help=True
)


@export_app.callback()
def about() -> None:
    """Write a recipe and its model as files that other programs run."""


@export_app.command("onnx")
def onnx(
    out: Annotated[Path, typer.Option("-o", "--out", help="A new folder.")],
    recipe: RecipeName = "sclip",
    set_: Set = None,
    model: Model = None,
    pretrained: Pretrained = None,
    weights: Annotated[
        str, typer.Option(help="fp32; fp16: stored in half the size; int8: dynamic, a quarter.")
    ] = "fp32",
    switches: Annotated[
        bool,
        typer.Option(
            "--switches",
            help="Settings of the last block become inputs of the graph, as the book's live page needs them.",
        ),
    ] = False,
) -> None:
    """Two ONNX graphs (pictures, words), the tokenizer and recipe.json; compared with PyTorch before they are kept."""
    from ovsslib.export import export_onnx
    from ovsslib.segmenter import Segmenter, load

    segmenter: Any = load(recipe, model or "auto", pretrained)
    if not isinstance(segmenter, Segmenter):
        raise RecipeError(
            f"{recipe!r} is a trained model and no recipe; choose one of `ovss recipes`"
        )
    if set_:
        segmenter = Segmenter(segmenter.backbone, segmenter.recipe.but(parse_changes(set_)))
    with clearing_up():
        report = export_onnx(segmenter, out, weights=weights, switches=switches)
    say(str(report))
    say(f"open it with: ovss segment PICTURE --words ... --recipe {out}")
