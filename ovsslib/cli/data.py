"""Commands by topic: data sets, words, the embedded world and its models. `cli.py` puts them together."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from ovsslib import paths
from ovsslib.cli.console import say, show
from ovsslib.cli.files import read_words
from ovsslib.errors import DataError

data_app = typer.Typer(
    help="Data sets: what there is, checking, converting, fetching.", no_args_is_help=True
)
words_app = typer.Typer(help="Vocabularies, and texts that define words.", no_args_is_help=True)
scenes_app = typer.Typer(help="Draw the embedded world.", no_args_is_help=True)
pretrain_app = typer.Typer()

Root = Annotated[str | None, typer.Option(help="Folder of the data set, or of all data sets.")]

# -- data sets ---------------------------------------------------------------------------------------


@data_app.command("list")
def list_data() -> None:
    """The data sets that can be evaluated, and where their files are expected."""
    from ovsslib.datasets.dataset import VIEWS

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
    split: Annotated[str, typer.Option(help="train or val; Scenes: dev, test.")] = "val",
) -> None:
    """Verify layout, counts, label ranges and sizes: one line per problem, exit code 1 if there is any."""
    from ovsslib.datasets.checking import check_dataset

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
    from ovsslib.datasets.prepare import prepare_dataset

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
    from ovsslib.datasets.download import get_dataset

    for fetched in get_dataset(name, root):
        say(fetched)


# -- words -------------------------------------------------------------------------------------------


@words_app.command("show")
def show_words(
    name: Annotated[str | None, typer.Argument(help="A vocabulary; none lists them.")] = None,
    names: Annotated[
        str | None,
        typer.Option(help="Naming variant, such as sclip, itaclip. Default: readable."),
    ] = None,
) -> None:
    """The classes of a vocabulary and the queries that stand for each."""
    from ovsslib.text.vocabulary import Vocabulary, available

    if name is None:
        if names is not None:
            raise DataError(
                f"--names {names} goes with a vocabulary: ovss words show NAME --names {names}"
            )
        say("\n".join(available()))
        return
    vocabulary = Vocabulary.named(name, names=names or "readable")
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
    from ovsslib.text.auxiliary import DEFAULT_MODEL, define_words, write_official

    texts = define_words(words, model or DEFAULT_MODEL, kind, device)
    for word, text in texts:
        say(f"{word}: {text}")
    if out is not None:
        write_official(out, texts)


@words_app.command("audit")
def audit(
    words: Annotated[
        str, typer.Argument(help='The words, as in "person, dog, grass", or a file of them.')
    ],
    background: Annotated[
        str | None,
        typer.Option(help='"auto", the name of a set, or words; they are looked at as well.'),
    ] = None,
    model: Annotated[str, typer.Option(help="open_clip model name, sceneclip, or auto.")] = "auto",
    pretrained: Annotated[str | None, typer.Option(help="Pretrained tag, or a file.")] = None,
) -> None:
    """Words that the model does not know, confuses, or takes for the same; and what to write instead."""
    from ovsslib.segmenter import load
    from ovsslib.text.background import audit_words

    offered = read_words(words, tables=False)  # before a model is loaded: the cheaper mistake first
    backbone = load("sclip", model, pretrained).backbone
    report = audit_words(backbone, offered, background)
    if report.unknown:
        say(
            f"never seen by {backbone.name}: {', '.join(report.unknown)}; write others, or load a real CLIP"
        )
    if not report.pairs.empty:
        show(
            report.pairs,
            "hard to tell apart (same: put them into one class, or drop one)",
            index=False,
        )
    if report.fine:
        say(f"{len(report.words)} words: nothing to report")


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


@scenes_app.command("test")
def make_scenes_test(
    out: Annotated[Path, typer.Option(help="Folder to write to: the root of `--split test`.")],
) -> None:
    """Draw the test split and check it, picture by picture, against the shipped manifest."""
    from tqdm import tqdm

    from ovsslib.scenes import make_test_split

    with tqdm(desc="scenes test", unit="picture") as bar:
        report = make_test_split(out, progress=lambda done, _: bar.update(done - bar.n))
    say(f"{report.count} pictures in {report.folder}, as the manifest says")
    if report.rounded_differently:
        say(f"{report.rounded_differently} of them have other bytes, by rounding; no mask differs")


_ON_A_PROCESSOR = {
    "scenedino": ("scenedino", "SceneDinoTrainer"),
    "deeplabv3-scenes": ("supervised", "SupervisedTrainer"),
    "lseg-scenes": ("word_pixels", "WordPixelTrainer"),
}
"""Models that train without a GPU -> module of `ovsslib.scenes` and class that trains them."""


@pretrain_app.command()
def pretrain(
    name: Annotated[
        str,
        typer.Argument(
            help="sceneclip, sceneclip-words, sceneclip-p32, loftup-sceneclip, scenedino, deeplabv3-scenes or "
            "lseg-scenes."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the result; it resumes there.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Instead of the settings' number.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Spend this much time instead.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda.")] = "cpu",
) -> None:
    """Train an embedded model from the settings in `data/models/`; a stopped run goes on."""
    chosen = "loftup-sceneclip" if name == "loftup" else name
    settings = paths.data(f"models/{chosen}.yaml")
    models = sorted(path.stem for path in settings.parent.glob("*.yaml"))
    if chosen not in models:
        raise DataError(f"no model {name!r} can be trained; there are {', '.join(models)}")
    target = out if out is not None else paths.cache("pretraining") / chosen
    if chosen.startswith("loftup"):
        from ovsslib.scenes.upsampler import pretrain_upsampler, read_upsampler_settings

        if steps is not None or minutes is not None:
            raise DataError(
                "loftup is trained for the epochs of its settings; leave --steps and --minutes out"
            )
        pretrain_upsampler(read_upsampler_settings(settings), target, device)
        say(f"written: {target / 'model.safetensors'}")
        return
    more = {"device": device}
    if chosen in _ON_A_PROCESSOR:
        if device != "cpu":
            raise DataError(f"--device {device}: {chosen} is trained on a processor; leave it out")
        more = {}
    module, trainer_name = _ON_A_PROCESSOR.get(chosen, ("pretraining", "Trainer"))
    trainer = getattr(import_module(f"ovsslib.scenes.{module}"), trainer_name)
    file = trainer.train(
        trainer.read_settings(settings), target, steps=steps, minutes=minutes, **more
    )
    say(f"written: {file}")
