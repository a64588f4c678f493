"""The command `ovss segment`: a picture, or a folder of them, and words in; masks out."""

from pathlib import Path
from typing import Annotated

import typer

from ovsslib import paths
from ovsslib.cli.console import say, show, stderr
from ovsslib.cli.files import check_writable, read_words, refuse_ignored
from ovsslib.cli.options import Model, Pretrained, Set
from ovsslib.errors import DataError, RecipeError
from ovsslib.recipe import parse_changes


def segment(
    context: typer.Context,
    image: Annotated[Path, typer.Argument(help="A picture, or a folder of pictures.")],
    words: Annotated[
        str,
        typer.Option(
            help='The words, as in "person, dog, grass"; a file of words, one a line (.txt, .yaml), or -: from a pipe; for '
            "a folder also a .csv: picture, then its words."
        ),
    ],
    recipe: Annotated[
        str, typer.Option(help="A recipe; see `ovss recipes`; or a folder of `ovss export`.")
    ] = "sclip",
    set_: Set = None,
    model: Model = None,
    pretrained: Pretrained = None,
    background: Annotated[
        str | None,
        typer.Option(
            help='"auto", the name of a set such as sclip, or the words of the background.'
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Index mask, PNG; for a folder: a folder.")
    ] = None,
    overlay: Annotated[Path | None, typer.Option(help="Picture under its colours.")] = None,
    format_: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="Folder only, repeatable: masks, plain, overlays, cutouts, polygons, coco, label-studio.",
        ),
    ] = None,
    instances: Annotated[
        bool, typer.Option("--instances", help="COCO, Label Studio: one region per piece.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Folder only: threads that read pictures.")] = 2,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N.")] = "cpu",
    precision: Annotated[
        str, typer.Option(help="fp32, bf16, fp16, or auto: the fastest of them here.")
    ] = "fp32",
) -> None:
    """Label every pixel of a picture, or of all pictures of a folder, with one of the words."""
    from ovsslib.comparators import Comparator
    from ovsslib.segmenter import Segmenter, load

    word_list = read_words(words)  # before a model is loaded: the cheaper mistake first
    image = image.expanduser()
    whole_folder = paths.is_dir(image)
    if whole_folder and out is None:
        raise DataError(f"{image} is a folder; say where its masks shall go: --out FOLDER")
    _refuse_ignored(context, image, whole_folder, out, overlay, format_, instances)
    segmenter = load(recipe, model or "auto", pretrained, device=device, precision=precision)
    if set_:
        if isinstance(segmenter, Comparator):
            raise RecipeError(
                f"--set {set_[0]}: {recipe!r} is a trained model, which has no stages to set; leave --set out"
            )
        segmenter = Segmenter(segmenter.backbone, segmenter.recipe.but(parse_changes(set_)))
    if out is not None and whole_folder:
        _folder(
            segmenter, image, word_list, out, background, format_ or ["masks"], instances, workers
        )
    else:
        _picture(segmenter, image, word_list, out, background, overlay)
    for name, reason in segmenter.recipe.inert().items():
        say(f"{segmenter.recipe.name}: {name} cannot change the mask here: {reason}")


def _refuse_ignored(
    context: typer.Context, image: Path, folder: bool, out, overlay, formats, instances: bool
) -> None:
    """Raise DataError for an option that a folder, or a single picture, would ignore; and for a place without a folder."""
    if folder:
        if overlay is not None:
            raise DataError(f"--overlay {overlay}: {image} is a folder; ask for --format overlays")
        return
    if formats or instances:
        option = f"--format {formats[0]}" if formats else "--instances"
        raise DataError(
            f"{option} is for folders and {image} is one picture; leave it out (--out mask.png, --overlay overlay.png), or "
            "name the folder"
        )
    reason = f"is for folders, and {image} is one picture; leave it out"
    refuse_ignored(context, ("workers",), reason)
    check_writable(out, overlay)


def _picture(segmenter, image: Path, words, out, background, overlay) -> None:
    from ovsslib.segmenter import WordsByPicture

    if isinstance(words, WordsByPicture):
        words = words.of(image.name)
    result = segmenter(image, words, background)
    if out is not None:
        result.save(out)
    if overlay is not None:
        try:
            result.overlay().save(overlay)
        except (OSError, ValueError) as error:
            raise DataError(
                f"cannot write {overlay}: {error}; name a PNG or JPEG in a folder that exists"
            ) from error
    rows = result.table().drop(columns="colour").rename(columns={"share": "share (%)"})
    show(rows, f"{image.name}: {segmenter.recipe.name}", index=False)


def _folder(
    segmenter, image: Path, words, out: Path, background, formats, instances: bool, workers: int
) -> None:
    """A whole folder, with a bar that says how long it will take."""
    from tqdm import tqdm

    from ovsslib.segmenter.folder import segment_folder

    with tqdm(desc="segment", unit="picture") as bar:

        def progress(done: int, total: int) -> None:
            if bar.total is None:
                bar.total, bar.initial, bar.n = total, done, done
                bar.refresh()
            else:
                bar.update(done - bar.n)

        report = segment_folder(
            segmenter, image, words, out, background, formats, instances, workers, progress
        )
    say(f"{report}: {out}")
    for name, why in report.failed.items():
        stderr().print(f"{name}: {why}", markup=False, soft_wrap=True)
    if report.failed and not (report.done or report.kept):
        raise typer.Exit(1)
