"""The commands `ovss results`: what has been measured on this machine, and handing it on."""

from pathlib import Path
from typing import Annotated

import typer

from ovsslib.cli.console import say, show
from ovsslib.cli.files import refuse_ignored

results_app = typer.Typer(help="Results: those on this machine, sending and taking them.")

Dataset = Annotated[str | None, typer.Option(help="Those of this data set only.")]
Model = Annotated[str | None, typer.Option(help="Those whose model's name holds this text only.")]


@results_app.callback(invoke_without_command=True)
def list_them(context: typer.Context, dataset: Dataset = None, model: Model = None) -> None:
    """List the results; `ovss results export FILE` writes one's own for others, `import FILE` takes theirs."""
    if context.invoked_subcommand is not None:
        command = context.invoked_subcommand
        refuse_ignored(
            context,
            ("dataset", "model"),
            f"stands before `{command}`, where it is not read; write it behind",
        )
        return
    from ovsslib.evaluation.store import ResultsStore

    frame = ResultsStore.ordinary().frame()
    rows = frame[frame["metric"] == "miou"]
    if dataset is not None:
        rows = rows[rows["dataset"] == dataset]
    if model is not None:
        rows = rows[rows["model"].str.contains(model, regex=False)]
    if rows.empty:
        asked = [f"data set {dataset!r}"] * (dataset is not None) + [f"model {model!r}"] * (
            model is not None
        )
        known = frame.loc[frame["metric"] == "miou", ["dataset", "model"]].drop_duplicates()
        there = "; ".join(f"{row.dataset} with {row.model}" for row in known.itertuples())
        say(f"no results of {' and '.join(asked) or 'any kind'}; there are {there or 'none'}")
        say("`ovss evaluate` makes one")
        return
    shown = rows[["dataset", "model", "recipe", "changes", "images", "value", "low", "high"]]
    show(shown.round(2), "mIoU, percent, with the ends of its 95 % interval", index=False)


@results_app.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="File to write.")],
    dataset: Dataset = None,
    model: Model = None,
) -> None:
    """Write the results that were measured here into one file for others: counts per image, no picture, no weights."""
    from ovsslib.evaluation.contributed import export_records

    count = export_records(file, dataset, model)
    say(f"{count} records in {file}; `ovss results import {file.name}` takes them elsewhere")


@results_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="File that `ovss results export` wrote.")],
) -> None:
    """Check other people's results, and keep the sound ones; tables and the ledger of claims then show them."""
    from ovsslib.errors import DataError
    from ovsslib.evaluation.contributed import import_records

    report = import_records(file)
    for key, reason in report.refused.items():
        say(f"refused {key}: {reason}")
    say(
        f"{len(report.new)} new records, {len(report.known)} were there, {len(report.refused)} refused"
    )
    if report.refused and not report.new and not report.known:
        raise DataError(f"no record of {file} can be used; the reasons stand above")
