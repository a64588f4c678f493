"""Device honesty without a device: every recipe on torch's `meta` device, in every precision.

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
import pytest
import torch
from conftest import TINY_CONFIG
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import ovsslib
from ovsslib import guides
from ovsslib.clip.backbone import PRECISIONS, Backbone
from ovsslib.clip.loading import build_model
from ovsslib.guides import masks
from ovsslib.networks.loftup import LoftUp
from ovsslib.recipe import Recipe
from ovsslib.recipe.recipe import recipe_names
from ovsslib.segmenter import Segmenter
from ovsslib.segmenter.encoding import PictureInput, Words, encode_pictures
from ovsslib.stages.windows import Stitched, one_window

PACKAGE = Path(ovsslib.__file__).parent
MOVES = ("aten._to_copy", "aten.copy_", "aten.index", "aten.index_put", "aten._index_put_impl_")
ONE_DTYPE = (
    "aten.mm", "aten.bmm", "aten.addmm", "aten.baddbmm", "aten.convolution", "aten.native_layer_norm",
    "aten.linear", "aten.matmul", "aten.dot", "aten.mv", "aten.addmv",
)  # fmt: skip

SMALL = {"windows": {"short_side": 64, "crop": 64, "stride": 32}, "text.templates": ("a {}.",)}
ELSEWHERE = {}
STOPS = {}


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
        return function(*arguments, **(keywords or {}))


def stop_of(error: BaseException) -> str:
    """module.function of the library in which it was raised."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if PACKAGE in Path(f.filename).parents
    ]
    last = frames[-1]
    module = Path(last.filename).relative_to(PACKAGE).with_suffix("")
    return f"{'.'.join(module.parts)}.{last.name}"


def needs_values(error: BaseException) -> bool:
    """Whether an operation stopped because a meta tensor has no values."""
    told = ("meta tensor", "Meta tensors", "register_meta", "meta tensors")
    return isinstance(error, (NotImplementedError, RuntimeError)) and any(
        t in str(error) for t in told
    )


def test_the_checker_sees_what_a_gpu_would_refuse():
    here, there = torch.zeros(2, 2), torch.zeros(2, 2, device="meta")
    with OneDevice():
        for wrong in (
            lambda: here @ there,
            lambda: here + there,
            lambda: there.half() @ there,
            lambda: torch.nn.functional.layer_norm(there, (2,), there[0].half()),
        ):
            with pytest.raises(AssertionError, match="on tensors of"):
                wrong()
        assert (there * torch.tensor(2.0) + here.to("meta")).device.type == "meta"


@pytest.fixture(scope="module")
def towers():
    """precision -> the tiny tower on the CPU, and the same without values."""
    torch.manual_seed(0)
    net = build_model(TINY_CONFIG)
    made = {}
    for precision in PRECISIONS:
        here, there = (
            Backbone(copy.deepcopy(net), name="tiny", weights_hash="tiny", precision=precision)
            for _ in range(2)
        )
        there.model.to("meta")
        there.device = torch.device("meta")
        made[precision] = here, there
    return made


@pytest.fixture
def second_models(monkeypatch, tiny_guide):
    """A tiny guide without values where one is asked for on `meta`; masks of the offline proposer."""
    without = copy.deepcopy(tiny_guide)
    for part in vars(without).values():
        if isinstance(part, torch.nn.Module):
            part.to("meta")
    without.device = torch.device("meta")
    proposer = masks.load("felzenszwalb")
    both = {"cpu": tiny_guide, "meta": without}
    monkeypatch.setattr(guides, "load", lambda name, device="cpu", **more: both[device])
    monkeypatch.setattr(masks, "load", lambda name, **more: proposer)


@pytest.fixture(scope="module")
def loftup_file(tmp_path_factory):
    """Random LoftUp weights of the tiny tower's width."""
    file = tmp_path_factory.mktemp("loftup") / "weights.pt"
    torch.save(LoftUp(TINY_CONFIG["embed_dim"]).state_dict(), file)
    return str(file)


def small(name: str, loftup_file: str) -> Recipe:
    """A shipped recipe at the tiny tower's size, with what its files would hold."""
    recipe = Recipe.named(name).but(SMALL)
    if "upsampling" in recipe:
        recipe = recipe.but({"upsampling.weights": loftup_file})
    if "pamr" in recipe:
        recipe = recipe.but({"pamr.iterations": 1})
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
    words = until(lambda: segmenter.words(text))
    words = words or Words(torch.zeros(5, TINY_CONFIG["embed_dim"], device="meta"), 5)
    picture = PictureInput(until(lambda: segmenter.prepare(image)), image)
    encoded = until(lambda: encode_pictures([segmenter], picture, [words])[0])
    stitched = encoded and until(lambda: encoded.logits(words, (64, 64)))
    if stitched is None:  # the second half starts from logits of its own
        stitched = Stitched(torch.zeros(1, 5, 4, 4, device="meta"), one_window((64, 64)), (64, 64))
    until(lambda: segmenter.finish(stitched, image, picture, text))
    return found


@pytest.mark.parametrize("name", sorted(set(recipe_names()) - set(ELSEWHERE)))
@pytest.mark.filterwarnings("ignore")
def test_recipes_keep_to_one_device_up_to_the_named_steps(name, towers, second_models, loftup_file):
    recipe = small(name, loftup_file)
    for precision, (here, there) in towers.items():
        found = stops(recipe, here, there)
        assert found and set(found) <= set(STOPS), (precision, found)
