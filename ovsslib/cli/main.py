"""The command `ovss`. Every command calls the function that a notebook would call, and prints what it gives.

Topics with several commands (`data`, `words`, `scenes`) are apps of their own; `app.add_typer` adds another.
"""

import errno
import io
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.markup import escape

from ovsslib import paths
from ovsslib.cli.console import one_line, say, show, show_warning, speaks, stderr
from ovsslib.cli.data import Root, data_app, pretrain_app, scenes_app, words_app
from ovsslib.cli.edit import edit
from ovsslib.cli.export import export_app
from ovsslib.cli.files import check_writable, expanded
from ovsslib.cli.models import models_app
from ovsslib.cli.options import Model, Pretrained, Set
from ovsslib.cli.results import results_app
from ovsslib.cli.segment import segment
from ovsslib.errors import DataError, OvssError, RecipeError, did_you_mean
from ovsslib.recipe import Recipe, parse_changes, recipes

app = typer.Typer(
    help="Training-free open-vocabulary semantic segmentation with CLIP.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")
app.add_typer(words_app, name="words")
app.add_typer(scenes_app, name="scenes")
app.add_typer(models_app, name="models")
app.add_typer(export_app, name="export")
app.add_typer(results_app, name="results")
app.add_typer(pretrain_app)

Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N.")]
Precision = Annotated[str | None, typer.Option(help="fp32, bf16 or fp16: what a record names.")]
Limit = Annotated[int | None, typer.Option(help="The first images only.")]
Workers = Annotated[int, typer.Option(help="Threads that read images ahead.")]
ProfileName = Annotated[str | None, typer.Option("--profile", help="Model, data set and device.")]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; an error that the library raises on purpose is one red line and exit code 1."""
    warnings.showwarning = show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal in ASCII shows "caf?"
    try:
        app(args=[expanded(a) for a in (sys.argv[1:] if arguments is None else arguments)])
    except OvssError as error:
        stderr().print(f"[red]error: {escape(one_line(error))}[/red]", soft_wrap=True)
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        stderr().print(f"[red]error: the output cannot be written: {error.strerror}[/red]")
        sys.exit(1)
    except KeyboardInterrupt:
        stderr().print("[red]stopped; the same command goes on where it was[/red]")
        sys.exit(130)


# -- pictures ----------------------------------------------------------------------------------------


app.command()(segment)
app.command()(edit)


# -- measuring ---------------------------------------------------------------------------------------


@app.command()
def evaluate(
    recipe: Annotated[
        list[str] | None, typer.Option(help="A recipe; repeatable. Default: sclip.")
    ] = None,
    profile: ProfileName = None,
    dataset: Annotated[str | None, typer.Option(help="Instead of the profile's.")] = None,
    limit: Limit = None,
    set_: Set = None,
    model: Model = None,
    pretrained: Pretrained = None,
    root: Root = None,
    split: Annotated[str | None, typer.Option(help="val unless given; Scenes: dev, test.")] = None,
    device: Device = None,
    precision: Precision = None,
    workers: Workers = 2,
    on_error: Annotated[
        str, typer.Option(help="stop at an image that cannot be used, or skip it.")
    ] = "stop",
    metric: Annotated[list[str] | None, typer.Option(help="Repeatable; or class_iou:NAME.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Recipe that the others are compared with.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Write the numbers to a CSV file.")] = None,
) -> None:
    """Measure recipes on a data set. Finished results are looked up, a stopped run goes on."""
    from ovsslib.evaluation.results import measure, named_recipes

    settings = _profile(profile, model, pretrained, dataset, root, device, precision).but(
        split=split
    )
    # Comparisons take three columns each: one metric fits a terminal.
    usual = ["miou"] if baseline else ["miou", "pixel_accuracy", "mean_accuracy", "boundary_f1"]
    named = named_recipes(recipe or ["sclip"], settings)
    _check_report(metric, csv, baseline, named)
    if set_:
        changes = parse_changes(set_)
        named = {label: entry.but(changes) for label, entry in named.items()}
    policy: Any = on_error  # any other word is refused there
    results = measure(named, settings, limit, fresh, workers=workers, on_error=policy)
    _report(results, metric or usual, baseline, csv)
    _leave_processes()


def _profile(
    name, model=None, pretrained=None, dataset=None, root=None, device=None, precision=None
):
    """The profile with what the command line overrides; another model does not keep the profile's weights."""
    import dataclasses

    from ovsslib.evaluation.profiles import DEFAULT, Profile

    profile = Profile.named(DEFAULT if name is None else name)
    if model is not None and pretrained is None:
        profile = dataclasses.replace(profile, pretrained=None)
    return profile.but(
        model=model,
        pretrained=pretrained,
        dataset=dataset,
        root=root,
        device=device,
        precision=precision,
    )


def _check_report(metrics, csv: Path | None, baseline: str | None = None, labels=()) -> None:
    """Refuse what the table at the end could not show, before hours of measuring."""
    from ovsslib.evaluation.report import CLASS_PREFIX, METRICS

    known = (*METRICS, "per_class", f"{CLASS_PREFIX}NAME")
    for metric in metrics or ():
        if metric not in known and not metric.startswith(CLASS_PREFIX):
            raise DataError(f"unknown metric {metric!r}{did_you_mean(metric, known)}")
    if baseline is not None and baseline not in labels:
        raise DataError(
            f"no result is called {baseline!r}{did_you_mean(baseline, labels)}; a baseline is one of the recipes: "
            f"--recipe {baseline}"
        )
    if csv is not None and (paths.is_dir(csv) or not csv.exists()):
        check_writable(csv)


def _report(results, metrics: list[str], baseline: str | None, csv: Path | None = None) -> None:
    show(results.table(metrics, baseline), results.provenance)
    for label in results:
        report = results[label]
        if report.skipped:
            say(f"{label}: {len(report.skipped)} images were skipped, first {report.skipped[0][1]}")
        _say_inert(label, report.recipe)
    if csv is not None and speaks():
        paths.write_file(csv, results.numbers(metrics, baseline).to_csv(index=False).encode())


def _say_inert(label: str, recipe: Recipe) -> None:
    for name, reason in recipe.inert().items():
        say(f"{label}: {name} cannot change the mask here: {reason}")


def _leave_processes() -> None:
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@app.command()
def ablate(
    grid: Annotated[Path, typer.Argument(help="YAML file: base, axes, trials.")],
    profile: ProfileName = None,
    limit: Limit = None,
    workers: Workers = 2,
    engine: Annotated[str, typer.Option(help="auto, ray or local.")] = "auto",
    metric: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the numbers to a CSV file.")] = None,
) -> None:
    """Measure a recipe and its variations, each compared with it on the same images."""
    from ovsslib.study.ablation import ablate as run
    from ovsslib.study.ablation import read_grid

    _check_report(metric, csv)
    chosen = read_grid(grid, _profile(profile) if profile else None, limit)
    _report(run(chosen, workers, engine=engine), metric or ["miou"], chosen.base, csv)


@app.command()
def reproduce(
    target: Annotated[
        str | None,
        typer.Argument(help="A published table, such as itaclip-table1; all: every one."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="One data set of it.")] = None,
    profile: ProfileName = None,
    limit: Limit = None,
    workers: Workers = 2,
    csv: Annotated[Path | None, typer.Option(help="Write the comparison to a CSV file.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the tables there are.")] = False,
) -> None:
    """Run what a published table claims, and print claimed beside measured; `--profile embedded` needs no download."""
    from ovsslib.study.reproduce import reproduce as run
    from ovsslib.study.reproduce import targets

    if list_:
        show(targets(), "ovss reproduce TARGET [--profile embedded]", index=False)
        return
    if target is None:
        raise DataError("name a published table: ovss reproduce thesis-table4.1; --list shows them")
    _check_report((), csv)
    outcome = run(target, dataset, profile, limit, workers=workers)
    show(
        outcome.table(),
        f"{target}: claimed and measured, percent where no other unit stands, 95 % intervals",
        index=False,
    )
    measured = getattr(outcome, "results", None)
    if measured is not None and not outcome.ledger["measured"].notna().any():
        say(f"no claim of {target} is about {measured['model'].iloc[0]}; measured with it:")
        levels = measured[measured["metric"] == "miou"]
        show(
            levels[["dataset", "recipe", "changes", "value", "low", "high"]].round(2),
            "mIoU, %",
            index=False,
        )
    for row, why in getattr(outcome, "quoted", ()):
        say(f"{row} is quoted only: {one_line(why)}")
    for model, data, recipe, why in outcome.failed:
        say(f"not run: {recipe} with {model} on {data}: {one_line(why)}")
    if csv is not None:
        paths.write_file(csv, outcome.ledger.to_csv(index=False).encode())


@app.command("recipes")
def show_recipes(
    name: Annotated[str | None, typer.Argument(help="Print this one.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="With the settings for this data set, all written out.")
    ] = None,
    long: Annotated[
        bool,
        typer.Option("--long", help="With year, kind, published and measured mIoU, and licence."),
    ] = False,
    profile: Annotated[
        str | None, typer.Option(help="What `--long` looks measurements up for. Default: embedded.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the table of `--long` here.")] = None,
) -> None:
    """List the recipes, or print one with its settings by data set."""
    if long or csv is not None:
        from ovsslib.evaluation.results import stored
        from ovsslib.study.methods import methods_table, published_methods

        if dataset is not None:
            raise RecipeError(
                f"--dataset {dataset} goes with one recipe's settings; with --long, name a profile: --profile"
            )
        _check_report((), csv)
        profile = "embedded" if profile is None else profile
        names = [name] if name is not None else published_methods()
        table = methods_table(stored(names, profile), names)
        table = table.rename(columns={"value": "measured", "published": "published_coco_stuff"})
        show(
            table.fillna(""),
            f"mIoU in percent; published: COCO-Stuff, ViT-B/16; measured: profile {profile}",
        )
        if csv is not None:
            paths.write_file(csv, table.to_csv().encode())
        return
    if profile is not None:
        raise RecipeError(f"--profile {profile} goes with --long, which looks measurements up")
    if name is None and dataset is not None:
        raise RecipeError(
            f"--dataset {dataset} goes with one recipe: ovss recipes NAME --dataset {dataset}"
        )
    if name is None:
        show(
            pd.DataFrame({"recipe": recipes().keys(), "what it is": recipes().values()}),
            index=False,
        )
        return
    chosen = Recipe.named(name, dataset)
    if dataset is not None and chosen.dataset != dataset:
        _check_dataset(dataset)
    own = name.endswith((".yaml", ".yml"))
    path = Path(name).expanduser() if own else paths.data(f"recipes/{name}.yaml")
    say(chosen.to_yaml() if dataset else path.read_text(encoding="utf-8"))


def _check_dataset(name: str) -> None:
    from ovsslib.datasets.dataset import dataset_names

    if name not in dataset_names():
        raise DataError(f"unknown data set {name!r}{did_you_mean(name, dataset_names())}")


@app.command("profiles")
def show_profiles() -> None:
    """List the profiles: a model, a data set and where to run, under one name."""
    from ovsslib.evaluation.profiles import profiles

    show(
        pd.DataFrame({"profile": profiles().keys(), "what it is": profiles().values()}), index=False
    )
