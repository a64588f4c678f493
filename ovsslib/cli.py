"""The command `ovss`. Every command calls the function that a notebook would call, and prints what it gives.

Topics with several commands (`data`, `words`, `scenes`) are apps of their own; `app.add_typer` adds another.
"""

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ovsslib import paths
from ovsslib.cli_edit import edit
from ovsslib.errors import DataError, OvssError
from ovsslib.recipe import Recipe, parse_changes, recipes

app = typer.Typer(
    help="Training-free open-vocabulary semantic segmentation with CLIP.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(
    help="Data sets: what there is, checking, converting, fetching.", no_args_is_help=True
)
words_app = typer.Typer(help="Vocabularies, and texts that define words.", no_args_is_help=True)
scenes_app = typer.Typer(help="Draw the embedded world.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(words_app, name="words")
app.add_typer(scenes_app, name="scenes")

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="A change: stage=true, stage=false, or stage.field=value. Repeatable."
    ),
]
Model = Annotated[str | None, typer.Option(help="open_clip model name, or sceneclip.")]
Pretrained = Annotated[str | None, typer.Option(help="Pretrained tag, or a checkpoint file.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N.")]
Precision = Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")]
Root = Annotated[str | None, typer.Option(help="Folder of the data set, or of all data sets.")]
Limit = Annotated[int | None, typer.Option(help="The first images only.")]
Workers = Annotated[int, typer.Option(help="Threads that read images ahead.")]
ProfileName = Annotated[str | None, typer.Option("--profile", help="Model, data set and device.")]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; an error that the library raises on purpose is one red line and exit code 1."""
    warnings.showwarning = _show_warning
    try:
        app(args=arguments)
    except OvssError as error:
        _stderr().print(f"[red]error: {escape(_one_line(error))}[/red]", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        _stderr().print("[red]stopped; the same command goes on where it was[/red]")
        sys.exit(130)


def _stderr() -> Console:
    return Console(stderr=True, highlight=False)


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    if _speaks() and issubclass(category, UserWarning):
        _stderr().print(f"[yellow]note: {escape(_one_line(message))}[/yellow]", soft_wrap=True)


def _speaks() -> bool:
    """Whether this process prints: the first one that torchrun started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def say(text: object) -> None:
    """Print plain text."""
    if _speaks():
        Console(highlight=False).print(str(text), markup=False, soft_wrap=True)


def show(frame: pd.DataFrame, title: str = "", index: bool = True) -> None:
    """Print a data frame as a table, numbers with two digits."""
    if not _speaks():
        return
    if title:
        say(title)
    table = Table()
    if index:
        table.add_column(str(frame.index.name or ""))
    for column in frame.columns:
        numeric = pd.api.types.is_numeric_dtype(frame[column])
        table.add_column(escape(str(column)), justify="right" if numeric else "left")
    for label, row in zip(frame.index, frame.itertuples(index=False), strict=True):
        cells = [f"{value:.2f}" if isinstance(value, float) else str(value) for value in row]
        table.add_row(*(escape(cell) for cell in ([str(label), *cells] if index else cells)))
    # A pipe has no width; there a table is as wide as it is.
    console = Console(highlight=False)
    Console(highlight=False, width=console.width if console.is_terminal else 1000).print(table)


# -- pictures ----------------------------------------------------------------------------------------


@app.command()
def segment(
    image: Annotated[Path, typer.Argument(help="A picture.")],
    words: Annotated[str, typer.Option(help='The words, as in "person, dog, grass".')],
    recipe: Annotated[str, typer.Option(help="A recipe; see `ovss recipes`.")] = "sclip",
    set_: Set = None,
    model: Model = None,
    pretrained: Pretrained = None,
    background: Annotated[
        str | None, typer.Option(help='"auto", or the words that stand for the background.')
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Index mask, PNG.")] = None,
    overlay: Annotated[Path | None, typer.Option(help="Picture under its colours.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N.")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
) -> None:
    """Label every pixel of a picture with one of the words."""
    from ovsslib.segmenter import Segmenter, load

    segmenter = load(recipe, model or "auto", pretrained, device=device, precision=precision)
    if set_:
        segmenter = Segmenter(segmenter.backbone, segmenter.recipe.but(parse_changes(set_)))
    chosen = background
    if background is not None and background != "auto":
        chosen = [word.strip() for word in background.split(",")]
    result = segmenter(image, words, chosen)
    if out is not None:
        result.save(out)
    if overlay is not None:
        try:
            result.overlay().save(overlay)
        except (OSError, ValueError) as error:
            raise DataError(
                f"cannot write {overlay}: {error}; name a PNG or JPEG in a folder that exists"
            ) from error
    show(
        result.table()[["name", "pixels", "share"]],
        f"{image.name}: {segmenter.recipe.name}",
        index=False,
    )


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

    where = _profile(profile, model, pretrained, dataset, root, device, precision)
    named = named_recipes(recipe or ["sclip"], where)
    if set_:
        changes = parse_changes(set_)
        named = {label: one.but(changes) for label, one in named.items()}
    found = measure(named, where, limit, fresh, workers=workers, on_error=on_error)
    # Comparisons take three columns each: one metric fits a terminal.
    usual = ["miou"] if baseline else ["miou", "pixel_accuracy", "mean_accuracy", "boundary_f1"]
    _report(found, metric or usual, baseline, csv)
    _leave_processes()


def _profile(
    name, model=None, pretrained=None, dataset=None, root=None, device=None, precision=None
):
    """The profile with what the command line overrides; another model does not keep the profile's weights."""
    import dataclasses

    from ovsslib.evaluation.profiles import DEFAULT, Profile

    profile = Profile.named(name or DEFAULT)
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


def _report(found, metrics: list[str], baseline: str | None, csv: Path | None = None) -> None:
    show(found.table(metrics, baseline), found.provenance)
    for label in found:
        report = found[label]
        if report.skipped:
            say(f"{label}: {len(report.skipped)} images were skipped, first {report.skipped[0][1]}")
    if csv is not None and _speaks():
        from ovsslib.evaluation.store import write_file

        write_file(csv, found.numbers(metrics, baseline).to_csv(index=False).encode())


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
    from ovsslib.evaluation.ablation import ablate as run
    from ovsslib.evaluation.ablation import read_grid

    chosen = read_grid(grid, _profile(profile) if profile else None, limit)
    _report(run(chosen, workers, engine=engine), metric or ["miou"], chosen.base, csv)


@app.command()
def reproduce(
    target: Annotated[str, typer.Argument(help="A published table, such as itaclip-table1.")],
    dataset: Annotated[str | None, typer.Option(help="One data set of it.")] = None,
    profile: ProfileName = None,
    limit: Limit = None,
    workers: Workers = 2,
    csv: Annotated[Path | None, typer.Option(help="Write the comparison to a CSV file.")] = None,
) -> None:
    """Run what a published table claims, and print claimed beside measured."""
    from ovsslib.evaluation.reproduce import reproduce as run

    found = run(target, dataset, profile, limit, workers=workers)
    show(found.table(), f"{target}: claimed and measured, percent, 95 % intervals", index=False)
    for model, recipe, changes, why in found.failed:
        say(f"not run: {model} on {recipe}, {changes}: {_one_line(why)}")
    if csv is not None:
        from ovsslib.evaluation.store import write_file

        write_file(csv, found.ledger.to_csv(index=False).encode())


@app.command("recipes")
def show_recipes(
    name: Annotated[str | None, typer.Argument(help="Print this one.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="With the settings for this data set, all written out.")
    ] = None,
) -> None:
    """List the recipes, or print one with its settings by data set."""
    if name is None:
        show(
            pd.DataFrame({"recipe": recipes().keys(), "what it is": recipes().values()}),
            index=False,
        )
        return
    chosen = Recipe.named(name, dataset)
    path = Path(name) if name.endswith((".yaml", ".yml")) else paths.data(f"recipes/{name}.yaml")
    say(chosen.to_yaml() if dataset else path.read_text(encoding="utf-8"))


@app.command("profiles")
def show_profiles() -> None:
    """List the profiles: a model, a data set and where to run, under one name."""
    from ovsslib.evaluation.profiles import profiles

    show(
        pd.DataFrame({"profile": profiles().keys(), "what it is": profiles().values()}), index=False
    )


# -- data sets ---------------------------------------------------------------------------------------


@data_app.command("list")
def list_data() -> None:
    """The data sets that can be evaluated, and where their files are expected."""
    from ovsslib.evaluation.datasets import VIEWS

    rows = [
        {
            "data set": name,
            "folder": folder,
            "classes": classes,
            "validation images": images or "as made",
        }
        for name, (folder, _, classes, images) in VIEWS.items()
    ]
    rows.append(
        {"data set": "folder", "folder": "any", "classes": "words.txt", "validation images": "any"}
    )
    show(pd.DataFrame(rows), index=False)


@data_app.command("check")
def check_data(
    name: Annotated[str, typer.Argument(help="See `ovss data list`.")],
    root: Root = None,
    split: Annotated[str, typer.Option(help="train or val.")] = "val",
) -> None:
    """Verify layout, counts, label ranges and sizes: one line per problem, exit code 1 if there is any."""
    from ovsslib.evaluation.datasets import check_dataset

    problems = check_dataset(name, root, split)
    for problem in problems:
        say(problem)
    say(f"{name} {split}: {len(problems)} problems" if problems else f"{name} {split}: all is well")
    if problems:
        raise typer.Exit(1)


@data_app.command("prepare")
def prepare_data(
    name: Annotated[
        str, typer.Argument(help="coco_stuff, coco_object, cityscapes, context59, context60.")
    ],
    root: Annotated[str, typer.Option(help="Folder of the data set, or of all data sets.")],
    split: Annotated[str, typer.Option(help="train or val.")] = "val",
    source: Annotated[
        str | None, typer.Option(help="Context: trainval_merged.json or the .mat files.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make existing files again.")
    ] = False,
) -> None:
    """Convert label files as they are released into the form that is evaluated."""
    from ovsslib.evaluation.prepare import prepare_dataset

    prepared = prepare_dataset(name, root, split, source, overwrite)
    for problem in prepared.problems:
        say(problem)
    say(prepared)
    if prepared.problems:
        raise typer.Exit(1)


@data_app.command("get")
def get_data(
    name: Annotated[str, typer.Argument(help="voc2012, coco-stuff164k or ade20k.")],
    root: Annotated[str, typer.Option(help="Folder that holds all data sets.")],
) -> None:
    """Fetch a data set from its official addresses; a stopped download goes on."""
    from ovsslib.evaluation.download import get_dataset

    for fetched in get_dataset(name, root):
        say(fetched)


# -- words -------------------------------------------------------------------------------------------


@words_app.command("show")
def show_words(
    name: Annotated[str | None, typer.Argument(help="A vocabulary; none lists them.")] = None,
    names: Annotated[
        str, typer.Option(help="Naming variant, such as readable, sclip, itaclip.")
    ] = "readable",
) -> None:
    """The classes of a vocabulary and the queries that stand for each."""
    from ovsslib.vocabulary import Vocabulary, available

    if name is None:
        say("\n".join(available()))
        return
    vocabulary = Vocabulary.named(name, names=names)
    show(vocabulary.describe(), f"{vocabulary.title or name}: {len(vocabulary)} classes")


@words_app.command("define")
def define(
    words: Annotated[list[str], typer.Argument(help="The words.")],
    kind: Annotated[str, typer.Option(help="definitions or synonyms.")] = "definitions",
    model: Annotated[
        str | None, typer.Option(help="A language model of the local cache, or a folder.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, auto.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Write a file in the official format.")] = None,
) -> None:
    """Ask a local language model for a text on each word, as ITACLIP does."""
    from ovsslib.auxiliary import DEFAULT_MODEL, define_words, write_official

    texts = define_words(words, model or DEFAULT_MODEL, kind, device)
    for word, text in texts:
        say(f"{word}: {text}")
    if out is not None:
        write_official(out, texts)


# -- the embedded world ------------------------------------------------------------------------------


@scenes_app.command("make")
def make_scenes(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    count: Annotated[int, typer.Option(help="Number of pictures.")] = 100,
    seed: Annotated[int, typer.Option(help="The world they are drawn from.")] = 0,
    split: Annotated[str, typer.Option(help="Name of the split's folders.")] = "val",
) -> None:
    """Draw captioned pictures with exact masks."""
    from tqdm import tqdm

    from ovsslib.scenes import write_split

    with tqdm(total=count, desc="scenes", unit="picture") as bar:
        report = write_split(
            out, count, seed, split, progress=lambda done, _: bar.update(done - bar.n)
        )
    say(f"{report.count} pictures in {report.folder}")


@app.command()
def pretrain(
    name: Annotated[str, typer.Argument(help="sceneclip, sceneclip-p32 or loftup-sceneclip.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the result; it resumes there.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Instead of the settings' number.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Spend this much time instead.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda.")] = "cpu",
) -> None:
    """Train an embedded model from the settings in `data/models/`; a stopped run goes on."""
    settings = paths.data(f"models/{name}.yaml")
    known = sorted(path.stem for path in settings.parent.glob("*.yaml"))
    if name not in known:
        raise DataError(f"no model {name!r} can be trained; there are {', '.join(known)}")
    target = out if out is not None else paths.cache("pretraining") / name
    if name.startswith("loftup"):
        if steps is not None or minutes is not None:
            raise DataError(
                "--steps and --minutes are for SceneCLIP; a LoftUp's length is `epochs` in its settings"
            )
        from ovsslib.scenes.upsampler import pretrain_upsampler, read_upsampler_settings

        card = pretrain_upsampler(read_upsampler_settings(settings), target, device)
        say(
            f"written: {target / 'model.safetensors'}; held-out loss {card['held_out_loss']:.4f}, "
            f"of interpolation {card['held_out_loss_of_interpolation']:.4f}"
        )
        return
    from ovsslib.scenes.pretraining import pretrain as run
    from ovsslib.scenes.pretraining import read_settings

    say(f"written: {run(read_settings(settings), target, device, steps=steps, minutes=minutes)}")
