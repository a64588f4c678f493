"""The command `ovss edit`: a photograph and a word in, an edited picture out."""

from pathlib import Path
from typing import Annotated

import typer

from ovsslib.errors import DataError, RecipeError


def edit(
    image: Annotated[Path, typer.Argument(help="A picture.")],
    word: Annotated[str, typer.Option(help="What to edit; with --background: what to keep.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The edited picture, PNG.")],
    words: Annotated[
        str | None,
        typer.Option(help="All words of the picture. Default: the word, and the usual background."),
    ] = None,
    recolour: Annotated[
        str | None, typer.Option(help='Edit: another colour, "teal" or "#008080".')
    ] = None,
    blur: Annotated[bool, typer.Option("--blur", help="Edit: blur it.")] = False,
    grey_out: Annotated[bool, typer.Option("--grey-out", help="Edit: take its colour.")] = False,
    background: Annotated[
        str | None, typer.Option(help="Edit: all else to blur, grey, a colour or a picture file.")
    ] = None,
    replace: Annotated[
        str | None, typer.Option(help='Edit: paint "a red fox" in its place (diffusion model).')
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Edit: paint over it (diffusion model).")
    ] = False,
    new_background: Annotated[
        str | None, typer.Option(help="Edit: paint all else anew (diffusion model).")
    ] = None,
    component: Annotated[str, typer.Option(help="all, or largest piece only.")] = "all",
    grow: Annotated[float, typer.Option(help="Widen the mask by pixels; negative: shrink.")] = 0,
    feather: Annotated[float, typer.Option(help="Soft rim outside the mask, pixels.")] = 2,
    confidence: Annotated[
        float | None, typer.Option(help="Only pixels whose score is at least this, 0 to 1.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="A recipe; see `ovss recipes`.")] = "sclip",
    model: Annotated[str, typer.Option(help="CLIP: open_clip name, sceneclip, or auto.")] = "auto",
    pretrained: Annotated[
        str | None, typer.Option(help="CLIP: pretrained tag, or a checkpoint file.")
    ] = None,
    inpainter: Annotated[
        str | None, typer.Option(help="Diffusion model: model id, or folder.")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the diffusion model if it is missing.")
    ] = False,
    negative: Annotated[str, typer.Option(help="What the painting should avoid.")] = "",
    seed: Annotated[int, typer.Option(help="Of the painting.")] = 0,
    steps: Annotated[int, typer.Option(help="Denoising steps of the painting.")] = 30,
    guidance: Annotated[float, typer.Option(help="How closely the prompt is followed.")] = 7.5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")] = "auto",
) -> None:
    """Edit what a word means in a picture; everything outside its mask stays as it is."""
    edits = {
        "recolour": recolour, "blur": blur, "grey-out": grey_out, "background": background,
        "replace": replace, "remove": remove, "new-background": new_background,
    }
    asked = {name: value for name, value in edits.items() if value not in (None, False)}
    if len(asked) != 1:
        found = ", ".join(f"--{name}" for name in asked) or "none"
        raise RecipeError(
            f"give one edit, not {found}: {', '.join(f'--{name}' for name in edits)}"
        )
    if out.suffix.lower() != ".png":
        raise DataError(
            f"an edited picture is saved without loss, as PNG: {out.name!r} must end in .png"
        )
    painting = {"negative_prompt": negative, "seed": seed, "steps": steps, "guidance": guidance}
    if asked.keys() & {"replace", "remove", "new-background"}:
        from ovsslib.diffusion import DEFAULT_MODEL, load_inpainter

        # loaded first: without it there is no need to segment
        painting["model"] = load_inpainter(inpainter or DEFAULT_MODEL, device, download=download)
    result = _segmented(image, word, words, recipe, model, pretrained, device, confidence)
    from ovsslib import editing

    mask = editing.mask_for(result, word, component, grow, feather, confidence)
    edited = _edited(result, mask, asked, painting)
    from PIL import Image

    from ovsslib.export import write_png

    write_png(Image.fromarray(edited), out)
    changed = int((mask > 0).sum())
    print(f"{word}: {changed} pixels, {100 * changed / mask.size:.1f} % of the picture; {out}")


def _segmented(image, word, words, recipe, model, pretrained, device, confidence):
    import torch

    from ovsslib.segmenter import load

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    segmenter = load(recipe, model, pretrained, device=device)
    offered, background = (words, None) if words else ([word], "auto")
    return segmenter(image, offered, background, keep_scores=confidence is not None)


def _edited(result, mask, asked: dict, painting: dict):
    """The edit that was asked for, by its option."""
    from ovsslib import editing

    (name, value), image = next(iter(asked.items())), result.image
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
    print(f"painting with: {', '.join(around) or 'the picture alone'}")
    return editing.remove(image, mask, around, **painting)
