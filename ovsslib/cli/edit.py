"""The command `ovss edit`: a photograph and a word in, an edited picture out."""

from pathlib import Path
from typing import Annotated

import typer

from ovsslib.cli.console import say
from ovsslib.cli.files import check_writable, read_words, refuse_ignored
from ovsslib.cli.options import RecipeName
from ovsslib.errors import DataError, RecipeError

Photo = Annotated[Path, typer.Argument(help="A picture.")]
Word = Annotated[str, typer.Option(help="What to edit; with --background: what to keep.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="The edited picture, PNG.")]
Words = Annotated[
    str | None,
    typer.Option(help="All words of the picture. Default: the word, and the usual background."),
]
Recolour = Annotated[str | None, typer.Option(help='Edit: another colour, "teal" or "#008080".')]
Blur = Annotated[bool, typer.Option("--blur", help="Edit: blur it.")]
GreyOut = Annotated[bool, typer.Option("--grey-out", help="Edit: take its colour.")]
Background = Annotated[
    str | None, typer.Option(help="Edit: all else to blur, grey, a colour or a picture file.")
]
Replace = Annotated[
    str | None, typer.Option(help='Edit: paint "a red fox" in its place (diffusion model).')
]
Remove = Annotated[bool, typer.Option("--remove", help="Edit: paint over it (diffusion model).")]
NewBackground = Annotated[
    str | None, typer.Option(help="Edit: paint all else anew (diffusion model).")
]
Component = Annotated[str, typer.Option(help="all, or largest: the largest piece only.")]
Grow = Annotated[float, typer.Option(help="Widen the mask by pixels; negative: shrink.")]
Feather = Annotated[float, typer.Option(help="Soft rim outside the mask, pixels.")]
Confidence = Annotated[
    float | None, typer.Option(help="Only pixels whose score is at least this, 0 to 1.")
]
Model = Annotated[str, typer.Option(help="CLIP: open_clip name, sceneclip, or auto.")]
Pretrained = Annotated[str | None, typer.Option(help="CLIP: pretrained tag, or a checkpoint file.")]
InpainterName = Annotated[str | None, typer.Option(help="Diffusion model: model id, or folder.")]
Download = Annotated[
    bool, typer.Option("--download", help="Fetch the diffusion model if it is missing.")
]
Negative = Annotated[str, typer.Option(help="What the painting should avoid.")]
Seed = Annotated[int, typer.Option(help="Of the painting.")]
Steps = Annotated[int, typer.Option(help="Denoising steps of the painting.")]
Guidance = Annotated[float, typer.Option(help="How closely the prompt is followed.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")]
PAINTED = {"replace", "remove", "new-background"}
"""Edits that a diffusion model makes."""


def edit(
    context: typer.Context,
    image: Photo,
    word: Word,
    out: Out,
    words: Words = None,
    recolour: Recolour = None,
    blur: Blur = False,
    grey_out: GreyOut = False,
    background: Background = None,
    replace: Replace = None,
    remove: Remove = False,
    new_background: NewBackground = None,
    component: Component = "all",
    grow: Grow = 0,
    feather: Feather = 2,
    confidence: Confidence = None,
    recipe: RecipeName = "sclip",
    model: Model = "auto",
    pretrained: Pretrained = None,
    inpainter: InpainterName = None,
    download: Download = False,
    negative: Negative = "",
    seed: Seed = 0,
    steps: Steps = 30,
    guidance: Guidance = 7.5,
    device: Device = "auto",
) -> None:
    """Edit what a word means in a picture; everything outside its mask stays as it is."""
    edits = {
        "recolour": recolour,
        "blur": blur,
        "grey-out": grey_out,
        "background": background,
        "replace": replace,
        "remove": remove,
        "new-background": new_background,
    }
    chosen = {name: value for name, value in edits.items() if value not in (None, False)}
    _refuse(context, out, chosen, list(edits))
    offered = None if words is None else read_words(words, tables=False)
    painting = {"negative_prompt": negative, "seed": seed, "steps": steps, "guidance": guidance}
    if chosen.keys() & PAINTED:
        from ovsslib.editing.diffusion import DEFAULT_MODEL, load_inpainter

        # loaded first: without it there is no need to segment
        painting["model"] = load_inpainter(inpainter or DEFAULT_MODEL, device, download=download)
    result = _segmented(image, word, offered, recipe, model, pretrained, device, confidence)
    from ovsslib.editing import edits as editing

    mask = editing.mask_for(result, word, component, grow, feather, confidence)
    edited = _edited(result, mask, chosen, painting)
    from PIL import Image

    from ovsslib.images.export import write_png

    write_png(Image.fromarray(edited), out)
    changed = int((mask > 0).sum())
    say(f"{word}: {changed} pixels, {100 * changed / mask.size:.1f} % of the picture; {out}")


def _refuse(context: typer.Context, out: Path, chosen: dict, edits: list[str]) -> None:
    """Raise for what cannot work, or would be ignored, before a model is loaded."""
    if len(chosen) != 1:
        listed = ", ".join(f"--{name}" for name in chosen) or "none"
        raise RecipeError(
            f"give one edit, not {listed}: {', '.join(f'--{name}' for name in edits)}"
        )
    if out.suffix.lower() != ".png":
        raise DataError(
            f"an edited picture is saved without loss, as PNG: {out.name!r} must end in .png"
        )
    check_writable(out)
    if not chosen.keys() & PAINTED:
        names = ("inpainter", "download", "negative", "seed", "steps", "guidance")
        refuse_ignored(
            context,
            names,
            f"is of --replace, --remove and --new-background; --{next(iter(chosen))} paints nothing, leave it out",
        )


def _segmented(image, word, offered, recipe, model, pretrained, device, confidence):
    import torch

    from ovsslib.segmenter import load

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    segmenter = load(recipe, model, pretrained, device=device)
    background = "auto" if offered is None else None
    offered = [word] if offered is None else offered
    return segmenter(image, offered, background, keep_scores=confidence is not None)


def _edited(result, mask, chosen: dict, painting: dict):
    """The edit that was asked for, by its option."""
    from ovsslib.editing import edits as editing

    (name, value), image = next(iter(chosen.items())), result.image
    if name == "recolour":
        return editing.recolour(image, mask, value)
    if name == "blur":
        return editing.blur(image, mask)
    if name == "grey-out":
        return editing.grey_out(image, mask)
    if name == "background":
        return editing.background(image, mask, value)
    if name == "replace":
        return editing.replace(image, mask, value, **painting)
    if name == "new-background":
        return editing.background(image, mask, prompt=value, **painting)
    around = editing.surrounding_words(result, mask)
    say(f"painting with: {', '.join(around) or 'the picture alone'}")
    return editing.remove(image, mask, around, **painting)
