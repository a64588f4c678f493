"""Device honesty without a device: a recipe on torch's `meta` device (used by tests/segmenter/test_meta_*.py).

Meta tensors have shape, dtype and device but no values, so a pass up to the first operation that needs values costs
next to nothing, and a checker looks at every operation on the way: all tensors on one device, and one dtype where
kernels of a GPU ask for it. What a pass stops at is listed in `STOPS` by name; the next part starts behind it.
"""

import copy
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import TINY_CONFIG
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import ovsslib
from ovsslib import guides
from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import build_model
from ovsslib.guides import masks
from ovsslib.networks.loftup import LoftUp
from ovsslib.recipe import Recipe
from ovsslib.recipe.recipe import recipe_names
from ovsslib.segmenter import Segmenter
from ovsslib.segmenter.encoding import PictureInput, encode_pictures
from ovsslib.stages.windows import Stitched, one_window
from ovsslib.text.template_table import TemplateTable

PACKAGE = Path(ovsslib.__file__).parent
MOVES = ("aten._to_copy", "aten.copy_", "aten.index", "aten.index_put", "aten._index_put_impl_")
ONE_DTYPE = (
    "aten.mm", "aten.bmm", "aten.addmm", "aten.baddbmm", "aten.convolution", "aten.native_layer_norm",
    "aten.linear", "aten.matmul", "aten.dot", "aten.mv", "aten.addmv",
)  # fmt: skip

SMALL = {"windows": {"short_side": 64, "crop": 64, "stride": 32}, "text.templates": ("a {}.",)}
ELSEWHERE = {
    "trident": "SAM's own network; its weights are not here",
    "reco": "its archive of pictures is encoded before the first word, which takes values and seconds",
}
"""Recipes that are not run here, and why."""
STOPS = {
    "stages.experts.pixels": "the number of classes is read off the words",
    "segmenter.finishing._finish_by_strips": "labels go to the CPU: the end",
    "segmenter.finishing._finish_by_query": "labels go to the CPU: the end",
    "segmenter.finishing.finish": "labels go to the CPU: the end",
    "text.features.encode_texts": "text features are kept on the CPU between calls",
    "stages.cam_scores._pass": "gradients of the words' scores are followed word by word",
    "stages.class_activation.word_maps": "gradients of the words' scores are followed word by word",
    "stages.clip_as_rnn.loops": "goes round until no word falls out",
    "stages.feedback.choose_anchors": "anchors are chosen per word that was found",
    "stages.fully_connected.densecrf": "DenseCRF runs on the CPU",
    "stages.global_attention.neighbour_mean": "patches that windows share are numbered by their places",
    "stages.patch_graph.patch_laplacian": "the graph of patches is a sparse matrix of the CPU",
    "stages.pixel_propagation.on_network_logits": "the graph of pixels is a sparse matrix of the CPU",
    "stages.proxy_attention.replace_block": "a window's mean similarity is a number of Python",
    "stages.purify.refine_maps": "a box is drawn around each map on the CPU",
    "stages.region_scope.merged_regions": "regions are merged one by one",
    "stages.saliency_gate.guide_foreground": "the guide's foreground is cut at a threshold of its own",
    "stages.sfr.patch_labels": "labels of patches are counted",
    "stages.sink_denoise.denoise": "no sink, no change",
    "stages.stitching.stitch": "every patch must be covered by a window",
    "stages.tags.tagged": "the classes of the words go to the CPU",
    "stages.text_calibration.on_picture_text": "words are counted",
}
"""Steps that need values, by module and function, and what for."""


class OneDevice(TorchDispatchMode):
    """Refuses an operation on tensors of two devices (scalars of the CPU go along), or of two dtypes in a product."""

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        tensors = [t for t in tree_leaves((arguments, keywords)) if isinstance(t, Tensor)]
        name = str(function).rsplit(".", 1)[0]
        devices = {t.device.type for t in tensors if t.dim() or t.device.type != "cpu"}
        if len(devices) > 1 and name not in MOVES:
            raise AssertionError(f"{name} on tensors of {sorted(devices)}")
        dtypes = {t.dtype for t in tensors if t.is_floating_point()}
        if name in ONE_DTYPE and len(dtypes) > 1:
            raise AssertionError(f"{name} on tensors of {sorted(map(str, dtypes))}")
        return self._known(function, arguments, keywords or {})

    def _known(self, function, arguments, keywords):
        """The result; what came out of an operation on such shapes before is not derived again, which is slow."""
        if any(one.alias_info is not None for one in function._schema.returns):
            return function(*arguments, **keywords)  # views and operations in place
        key = (function, str(tree_map(_form, (arguments, keywords))))
        if key not in RESULTS:
            made = function(*arguments, **keywords)
            if any(not isinstance(t, Tensor) or not t.is_meta for t in tree_leaves(made)):
                return made
            RESULTS[key] = made
        return tree_map(
            lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta"),
            RESULTS[key],
        )


RESULTS: dict[Any, Any] = {}


def _form(value: Any) -> Any:
    """A tensor's form, all that decides the form of a result on `meta`; other values as they are."""
    if isinstance(value, Tensor):
        content = value.item() if value.device.type == "cpu" and not value.dim() else None
        return tuple(value.shape), value.stride(), value.dtype, value.device, content
    return value


def stop_of(error: BaseException) -> str:
    """module.function of the library in which it was raised."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if PACKAGE in Path(f.filename).parents
    ]
    named = [
        f for f in frames if not f.name.startswith("<")
    ]  # comprehensions have frames of their own or not
    last = named[-1]
    module = Path(last.filename).relative_to(PACKAGE).with_suffix("")
    return f"{'.'.join(module.parts)}.{last.name}"


def needs_values(error: BaseException) -> bool:
    """Whether an operation stopped because a meta tensor has no values."""
    told = ("meta tensor", "Meta tensors", "register_meta", "meta tensors")
    return isinstance(error, (NotImplementedError, RuntimeError)) and any(
        t in str(error) for t in told
    )


def towers(precision: str) -> tuple[Backbone, Backbone]:
    """The tiny tower on the CPU, and the same without values."""
    torch.manual_seed(0)
    net = build_model(TINY_CONFIG)
    here, there = (
        Backbone(copy.deepcopy(net), name="tiny", weights_hash="tiny", precision=precision)
        for _ in range(2)
    )
    there.model.to("meta")
    there.device = torch.device("meta")
    there.model.logit_scale = torch.nn.Parameter(here.model.logit_scale, requires_grad=False)
    return here, there


def second_models(tiny_guide: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """What stands in for `guides.load` and `masks.load`: a guide without values on `meta`, the offline proposer."""
    without = copy.deepcopy(tiny_guide)
    for part in vars(without).values():
        if isinstance(part, torch.nn.Module):
            part.to("meta")
    without.device = torch.device("meta")
    proposer = masks.load("felzenszwalb")
    both = {"cpu": tiny_guide, "meta": without}
    return (lambda name, device="cpu", **more: both[device]), (lambda name, **more: proposer)


def loftup_weights(folder: Path) -> str:
    """Random LoftUp weights of the tiny tower's width."""
    torch.save(LoftUp(TINY_CONFIG["embed_dim"]).state_dict(), folder / "weights.pt")
    return str(folder / "weights.pt")


def small(name: str, loftup_file: str) -> Recipe:
    """A shipped recipe at the tiny tower's size, with what its files would hold."""
    recipe = Recipe.named(name).but(SMALL)
    if "upsampling" in recipe:
        recipe = recipe.but({"upsampling.weights": loftup_file})
    if "pamr" in recipe:
        recipe = recipe.but({"pamr.iterations": 1})
    if "experts" in recipe:
        names, chosen = ("background", "cat", "dog", "grass"), ((0, 1, 2, 3),) * 4
        table = TemplateTable(
            names,
            (),
            ("a {}.", "the {}!", "{} there", "my {}"),
            chosen,
            "tiny",
            "",
            ("tiny",),
            recipe.name,
        )
        recipe = recipe.but(
            {"experts.table": str(table.save(Path(loftup_file).with_name("t.json")))}
        )
    if "crop_pyramid" in recipe:
        recipe = recipe.but({"crop_pyramid": {"side": 64, "sizes": (64,), "weights": (1,)}})
    if "sink_denoise" in recipe:
        recipe = recipe.but({"sink_denoise": {"channels": (4, 16, 18, 32), "sigma": 1.6}})
    return recipe


def stops(recipe: Recipe, here: Backbone, there: Backbone) -> list[str]:
    """Where the passes over text, picture and logits of a recipe need values."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    text = Segmenter(here, recipe).text(["cat", "dog", "grass"], background=["wall", "sky"])
    found = []

    def until(work: Callable[[], Any]) -> Any:
        try:
            with torch.no_grad(), OneDevice():
                return work()
        except Exception as error:
            if not needs_values(error):
                raise
            found.append(stop_of(error))
            return None

    segmenter = Segmenter(there, recipe)
    until(lambda: segmenter.words(text))
    words = Segmenter(here, recipe).words(text).to(there.device)
    picture = PictureInput(until(lambda: segmenter.prepare(image)), image)
    encoded = until(lambda: encode_pictures([segmenter], picture, [words])[0])
    stitched = encoded and until(lambda: encoded.logits(words, (64, 64)))
    if stitched is None:  # the second half starts from logits of its own
        cosines = torch.zeros(1, len(words.rows), 4, 4, device="meta")
        stitched = Stitched(cosines, one_window((64, 64)), (64, 64))
    until(lambda: segmenter.finish(stitched, image, picture, text))
    return found


RECIPES = sorted(set(recipe_names()) - set(ELSEWHERE))


def check(name: str, precision: str, tiny_guide: Any, folder: Path, monkeypatch: Any) -> None:
    """AssertionError if a recipe mixes devices or dtypes, or needs values at a step that is not listed."""
    for module, load in zip((guides, masks), second_models(tiny_guide), strict=True):
        monkeypatch.setattr(module, "load", load)
    recipe = small(name, loftup_weights(folder))
    found = stops(recipe, *towers(precision))
    assert found and set(found) <= set(STOPS), (name, precision, found)
