import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from editing_cases import dog_on_grass, picture
from tiny_diffusion import tiny_pipeline, tiny_safety_checker

from ovsslib.editing import edits as editing
from ovsslib.editing.diffusion import (
    COMMUNITY_COPY,
    DEFAULT_MODEL,
    Inpainter,
    _source,
    inpainter_for,
    load_inpainter,
)
from ovsslib.errors import ImageError, MissingPackageError, ModelError, RecipeError, WordsError
from ovsslib.images.segmentation import Segmentation


@pytest.fixture
def result() -> Segmentation:
    return dog_on_grass()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inpainting")
    tiny_pipeline(folder / "text").save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def inpainter(model_folder) -> Inpainter:
    return load_inpainter(model_folder, device="cpu")


QUICK = {"steps": 2, "progress": False}


@pytest.mark.parametrize("size", [(32, 32), (45, 61), (7, 90), (101, 33)], ids=str)
def test_any_size_is_painted_and_only_inside_the_mask(inpainter, size):
    image = picture(*size)
    mask = np.zeros(size, dtype=np.float32)
    mask[2:6, 5:25] = 1
    mask[6, 5:25] = 0.25
    edited = editing.replace(image, mask, "a red fox", model=inpainter, **QUICK)
    assert edited.shape == image.shape and edited.dtype == np.uint8
    np.testing.assert_array_equal(edited[mask == 0], image[mask == 0])
    assert (edited[mask == 1] != image[mask == 1]).any(axis=1).mean() > 0.9


class CopyingPipeline:
    """Stands in for a pipeline that paints what was there already, at 64 pixels."""

    vae_scale_factor = 8

    def __init__(self):
        self.unet = SimpleNamespace(config=SimpleNamespace(sample_size=8))

    def set_progress_bar_config(self, **settings):
        pass

    def __call__(self, image, height, width, **settings):
        assert image.size == (width, height) and height % 8 == width % 8 == 0
        assert min(height, width) <= 64 and max(height, width) <= 128
        return SimpleNamespace(images=[np.asarray(image, dtype=np.float32) / 255])


@pytest.mark.parametrize("size", [(64, 90), (61, 75), (64, 64), (130, 150), (50, 300)], ids=str)
def test_scaling_and_padding_shift_nothing(size):
    rows, columns = np.mgrid[: size[0], : size[1]]
    waves = 128 + 100 * np.sin(rows / 12) * np.cos(columns / 15)
    image = np.repeat(waves[..., None], 3, axis=2).astype(np.uint8)
    copied = Inpainter(CopyingPipeline()).paint(image, np.ones(size, bool), "x", progress=False)
    error = np.abs(copied.astype(int) - image)
    assert error.mean() < 2.5 and error.max() < 25


class OtherPipeline:
    """Stands in for a pipeline with a transformer in place of the `unet`: it paints white, and tells its arguments."""

    vae_scale_factor = 8

    def __init__(self, cells=None, default=None):
        self.transformer = SimpleNamespace(config=SimpleNamespace(sample_size=cells))
        if default:
            self.default_sample_size = default
        self.got = {}

    def _paint(self, **arguments):
        self.got = arguments
        width, height = arguments["image"].size
        return SimpleNamespace(images=[np.ones((height, width, 3), np.float32)])


class LikeFlux(OtherPipeline):
    def __call__(self, prompt, negative_prompt=None, true_cfg_scale=1.0, image=None, mask_image=None,
                 height=None, width=None, strength=0.6, num_inference_steps=28, guidance_scale=7.0,
                 generator=None, output_type="pil"):  # fmt: skip
        return self._paint(**{k: v for k, v in locals().items() if k != "self"})


class Unseeded(OtherPipeline):
    def __call__(self, prompt, image, mask_image, num_inference_steps=50, output_type="pil"):
        return self._paint(**{k: v for k, v in locals().items() if k != "self"})


class Bare(OtherPipeline):
    def __call__(self, prompt, image, mask_image, num_inference_steps=50, generator=None, output_type="pil"):  # fmt: skip
        return self._paint(**{k: v for k, v in locals().items() if k != "self"})


@pytest.mark.parametrize(
    ("pipeline", "side"),
    [(LikeFlux(default=4), 32), (LikeFlux(cells=8), 64), (Bare(cells=4), 32), (Bare(), 512)],
)
def test_pipelines_without_a_unet_paint_where_they_should(pipeline, side, result):
    painter = Inpainter(pipeline, "other")
    assert painter.native_side == side
    mask = editing.mask_for(result, "dog")
    edited = editing.replace(result.image, mask, "a fox", painter, **QUICK)
    assert (edited[mask == 1] == 255).all()
    np.testing.assert_array_equal(edited[mask == 0], result.image[mask == 0])
    got = pipeline.got
    assert got["prompt"] == "a fox" and got["output_type"] == "np"
    assert all(
        length % 16 == 0 for length in got["image"].size
    )  # the transformer takes cells by two
    if isinstance(pipeline, LikeFlux):
        assert got["strength"] == 1.0  # nothing of the object shines through
        assert got["num_inference_steps"] == 2 and got["negative_prompt"] is None


def test_what_a_pipeline_has_not_is_refused_only_if_asked_for(result):
    mask = editing.mask_for(result, "dog")
    for pipeline in (LikeFlux(cells=4), Bare(cells=4)):
        with pytest.raises(
            RecipeError, match="follows no negative prompt .'people'.: leave it out"
        ):
            editing.replace(
                result.image, mask, "a fox", Inpainter(pipeline), negative_prompt="people", **QUICK
            )
    with pytest.raises(
        RecipeError, match="Bare has no guidance .3: leave it out|Bare has no guidance"
    ):
        editing.replace(result.image, mask, "a fox", Inpainter(Bare(cells=4)), guidance=3, **QUICK)
    with pytest.raises(RecipeError, match="takes no generator"):  # or the seed would be ignored
        editing.replace(result.image, mask, "a fox", Inpainter(Unseeded(cells=4)), **QUICK)


def test_a_mask_of_one_pixel_survives_scaling_down(inpainter):
    image, mask = picture(300, 400), np.zeros((300, 400), dtype=bool)
    mask[131, 217] = True
    edited = editing.replace(image, mask, "a fox", model=inpainter, **QUICK)
    assert (edited != image).any(axis=2).nonzero() == (131, 217)


def test_same_seed_same_picture(inpainter, result):
    mask = editing.mask_for(result, "dog", feather=2)

    def painted(prompt, seed):
        return editing.replace(result.image, mask, prompt, inpainter, seed=seed, **QUICK)

    first = painted("a red fox", 3)
    np.testing.assert_array_equal(first, painted("a red fox", 3))
    assert (first != painted("a red fox", 4)).any()
    assert (first != painted("sky", 3)).any()


def test_remove_paints_with_the_words_around(inpainter, result):
    mask = editing.mask_for(result, "dog")
    with_words = editing.remove(result.image, mask, ["grass", "sky"], inpainter, **QUICK)
    prompted = editing.replace(result.image, mask, "grass, sky", inpainter, **QUICK)
    np.testing.assert_array_equal(with_words, prompted)
    bare = editing.remove(result.image, mask, model=inpainter, **QUICK)
    assert (bare != with_words).any()
    np.testing.assert_array_equal(bare[mask == 0], result.image[mask == 0])


def test_a_painted_background_leaves_the_object_alone(inpainter, result):
    mask = editing.mask_for(result, "dog", feather=2)
    edited = editing.background(result.image, mask, prompt="sky", model=inpainter, **QUICK)
    np.testing.assert_array_equal(edited[mask == 1], result.image[mask == 1])
    assert (edited[mask == 0] != result.image[mask == 0]).any(axis=1).mean() > 0.9


def test_memory_is_saved_by_default(inpainter, model_folder):
    def sliced(pipeline):
        return {type(p).__name__ for p in pipeline.unet.attn_processors.values()}

    assert sliced(inpainter.pipeline) == {"SlicedAttnProcessor"}
    assert inpainter.pipeline.vae.use_tiling
    plain = load_inpainter(model_folder, device="cpu", save_memory=False)
    assert "SlicedAttnProcessor" not in sliced(plain.pipeline) and not plain.pipeline.vae.use_tiling
    assert plain.pipeline.unet.dtype == torch.float32


def test_a_folder_is_loaded_once(model_folder):
    assert inpainter_for(model_folder) is inpainter_for(str(model_folder))


def test_the_safety_checker_stays_and_is_obeyed(tmp_path, result):
    mask = editing.mask_for(result, "dog")
    for strict in (False, True):
        pipeline = tiny_pipeline(tmp_path / "text")
        pipeline.register_modules(**tiny_safety_checker(flags_everything=strict))
        pipeline.register_to_config(requires_safety_checker=True)
        pipeline.save_pretrained(tmp_path / f"model{strict}")
        inpainter = load_inpainter(tmp_path / f"model{strict}", device="cpu")
        assert type(inpainter.pipeline.safety_checker).__name__ == "StableDiffusionSafetyChecker"
        if strict:
            with pytest.raises(ModelError, match="safety checker of .* withheld .* seed 5"):
                editing.replace(result.image, mask, "a fox", inpainter, seed=5, **QUICK)
        else:
            assert editing.replace(result.image, mask, "a fox", inpainter, **QUICK).any()
    without = load_inpainter(tmp_path / "modelTrue", device="cpu", safety_checker=None)
    assert without.pipeline.safety_checker is None  # the user's own choice


def test_bad_requests_to_the_painter(inpainter, result):
    mask = editing.mask_for(result, "dog")
    with pytest.raises(WordsError, match="the prompt is empty"):
        editing.replace(result.image, mask, "  ", inpainter)
    with pytest.raises(ImageError, match="the mask is empty"):
        editing.replace(result.image, 0 * mask, "a fox", inpainter)
    with pytest.raises(ImageError, match="the mask is empty"):
        inpainter.paint(result.image, mask > 2, "a fox")
    with pytest.raises(RecipeError, match="steps=0"):
        inpainter.paint(result.image, mask > 0, "a fox", steps=0)
    with pytest.raises(RecipeError, match="short_side=4"):
        inpainter.paint(result.image, mask > 0, "a fox", short_side=4)


def test_models_that_cannot_be_found(tmp_path):
    with pytest.raises(ModelError, match="no model_index.json"):
        load_inpainter(tmp_path, device="cpu")
    with pytest.raises(ModelError, match="was not found as a folder.*hf download"):
        load_inpainter(tmp_path / "missing", device="cpu")
    with pytest.raises(ModelError, match="'nobody/nothing' was not found.*download nobody/nothing"):
        load_inpainter("nobody/nothing", device="cpu")
    with pytest.raises(ModelError, match="'what is this' was not found"):
        load_inpainter("what is this", device="cpu")


def test_the_default_model_has_moved(monkeypatch):
    monkeypatch.setattr("ovsslib.editing.diffusion._is_cached", lambda model: False)
    with pytest.raises(ModelError, match="took .* off the hub") as caught:
        load_inpainter(device="cpu")
    assert DEFAULT_MODEL in str(caught.value)
    assert f"hf download {COMMUNITY_COPY}" in str(caught.value)


def test_a_copy_of_the_default_model_is_found_in_the_cache(monkeypatch):
    have = set()
    monkeypatch.setattr("ovsslib.editing.diffusion._is_cached", have.__contains__)
    assert _source(DEFAULT_MODEL, download=True) == DEFAULT_MODEL
    have.add(COMMUNITY_COPY)
    assert _source(DEFAULT_MODEL, download=False) == COMMUNITY_COPY
    have.add(DEFAULT_MODEL)
    assert _source(DEFAULT_MODEL, download=False) == DEFAULT_MODEL


def test_a_damaged_model_is_reported(model_folder, tmp_path):
    index = (model_folder / "model_index.json").read_text()
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_inpainter(tmp_path, device="cpu")


def test_unknown_precision_and_device(model_folder):
    with pytest.raises(RecipeError, match="unknown precision 'fp8'"):
        load_inpainter(model_folder, device="cpu", precision="fp8")
    with pytest.raises(RecipeError, match="no device 'abacus'"):
        load_inpainter(model_folder, device="abacus")


def test_without_diffusers_the_message_names_the_extra(monkeypatch, model_folder):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'ovsslib\[edit\]'"):
        load_inpainter(model_folder, device="cpu")
