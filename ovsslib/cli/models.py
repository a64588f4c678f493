"""The commands `ovss models`: which CLIP models are here, and fetching one."""

from typing import Annotated

import pandas as pd
import typer

from ovsslib.cli.console import say, show

models_app = typer.Typer(help="Models: those on this machine, and those that can be had.")


@models_app.callback(invoke_without_command=True)
def list_them(context: typer.Context) -> None:
    """List the models; `ovss models get NAME` fetches one."""
    if context.invoked_subcommand is not None:
        return
    from ovsslib.clip.catalogue import list_models

    rows = [
        {
            "name": model.name,
            "--model": model.model,
            "--pretrained": "" if model.tag == "embedded" else model.tag,
            "MB": model.megabytes,
            "here": "no: `ovss models get`" if model.file is None else str(model.file),
            "what it is": model.summary,
        }
        for model in list_models()
    ]
    show(pd.DataFrame(rows), index=False)
    say(
        "Weights of one's own: --model NAME --pretrained FILE; any open_clip name and tag works too."
    )


@models_app.command("get")
def get(
    name: Annotated[str, typer.Argument(help="A name of `ovss models`, such as openai-vitb16.")],
    url: Annotated[str | None, typer.Option(help="Another address of the same file.")] = None,
) -> None:
    """Fetch a model; a stopped transfer goes on, and its hash is checked. Every command then finds it."""
    from tqdm import tqdm

    from ovsslib.clip.catalogue import get_model

    with tqdm(desc=name, unit="B", unit_scale=True) as bar:

        def progress(have: int, total: int | None) -> None:
            bar.total = total
            bar.update(have - bar.n)

        file = get_model(name, url, progress=progress)
    say(f"{name}: {file}")
