"""Options that several commands have, told in the same words."""

from typing import Annotated

import typer

RecipeName = Annotated[str, typer.Option(help="A recipe; see `ovss recipes`.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="A change: stage=true, stage=false, or stage.field=value. Repeatable."
    ),
]
Model = Annotated[str | None, typer.Option(help="open_clip model name, or sceneclip.")]
Pretrained = Annotated[str | None, typer.Option(help="Pretrained tag, or a checkpoint file.")]
