"""ReCo against the recorded outputs of its official code; archives, memory, a second encoder, errors."""

import numpy as np
import pytest
import torch
from conftest import TINY_CONFIG, relative_error, vectors
from PIL import Image

from ovsslib import paths
from ovsslib.clip.backbone import PIXEL_MEAN, PIXEL_STD, Backbone
from ovsslib.clip.loading import build_model
from ovsslib.errors import DataError, RecipeError
from ovsslib.images.archive import open_archive
from ovsslib.images.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    clip_pixels,
    with_other_statistics,
)
from ovsslib.recipe import Recipe, make_settings
from ovsslib.segmenter import Segmenter, Words
from ovsslib.stages import archive_features
from ovsslib.stages.archive_features import ArchiveFeatures
from ovsslib.stages.cosegmentation import cosegment, retrieved, text_attention

RECORDED = vectors("reco")
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> str:
    """The recorded archive as files."""
    folder = tmp_path_factory.mktemp("archive")
    for index, picture in enumerate(RECORDED["archive_u8"].numpy()):
        Image.fromarray(picture).save(folder / f"{index}.png")
    return str(folder)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def features(archive, tiny_backbone) -> ArchiveFeatures:
    return ArchiveFeatures(tiny_backbone, open_archive(archive))


def test_retrieval_agrees(features, tiny_inputs):
    embeddings, text = features.embeddings(), tiny_inputs["text"]
    assert relative_error(embeddings, RECORDED["archive_embeddings"]) < TOLERANCE
    assert torch.equal(retrieved(embeddings, text[:4], 3), RECORDED["retrieved"])
    assert torch.equal(retrieved(embeddings, text[4:], 3), RECORDED["retrieved_context"])


@pytest.mark.parametrize("released", [True, False])
def test_references_agree(released, archive, features, tiny_inputs):
    settings = make_settings(
        "reco", {"archive": archive, "pictures": 3, "released_slices": released}
    )
    text, before, context = tiny_inputs["text"], [], []
    for found in settings.cosegments(features, text[4:], before, grow=True):
        before.append(found.reference)
        context.append(found)
    own = list(settings.cosegments(features, text[:4], before))
    ending = "" if released else "_if_slices_fixed"
    references = torch.stack([found.reference for found in own])
    assert relative_error(torch.stack(before), RECORDED[f"reference_context{ending}"]) < TOLERANCE
    assert relative_error(references, RECORDED[f"reference{ending}"]) < TOLERANCE
    if released:
        for made, ending in ((own, ""), (context, "_context")):
            weights = torch.stack([found.weights for found in made])
            assert relative_error(weights, RECORDED[f"weights{ending}"]) < TOLERANCE
        seeds = torch.stack([found.seeds for found in own])
        assert relative_error(seeds, RECORDED["seed_features"]) < TOLERANCE


def as_it_is(pixels: torch.Tensor) -> torch.Tensor:
    """CLIP-normalised pixels that become the given ones under ImageNet's statistics."""
    parts = [
        torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD, PIXEL_MEAN, PIXEL_STD)
    ]
    return (pixels * parts[1] + parts[0] - parts[2]) / parts[3]


@pytest.mark.parametrize("size", ["64", "80x112"])
def test_scores_agree_with_the_official_code(size, archive, tiny_backbone, tiny_inputs):
    pixels = as_it_is(tiny_inputs["image_80x112"])
    if size == "64":
        pixels = clip_pixels(RECORDED["query_64_u8"].numpy())[None]
    recipe = Recipe("vector").but(reco={"archive": archive, "pictures": 3})
    words = Words(tiny_inputs["text"], 4)  # the rows behind are the context's
    logits = Segmenter(tiny_backbone, recipe).logits(pixels, words)[0]
    assert relative_error(logits, RECORDED[f"dt__{size}"]) < TOLERANCE
    assert torch.equal(logits.argmax(dim=0).to(torch.uint8), RECORDED[f"label__{size}"])
    if size == "64":
        bare = Segmenter(tiny_backbone, recipe.but({"reco.dense_result": False}))
        assert relative_error(bare.logits(pixels, words)[0], RECORDED["dt_no_text__64"]) < TOLERANCE


# -- references once per list of words -------------------------------------------------------------------------


def recipe_of(archive: str, **more) -> Recipe:
    return Recipe("reco").but(
        {"reco": {"archive": archive, "pictures": 3, **more}, "windows": {"short_side": 64, "crop": 0},
         "text.prompts": "none", "labels.logit_scale": 1}
    )  # fmt: skip


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def test_a_context_word_takes_its_own_reference(archive, tiny_backbone):
    recipe = recipe_of(archive)
    segmenter = Segmenter(tiny_backbone, recipe)
    text = segmenter.text(["Sky", "vegetation", "dog", "tree"])
    rows = segmenter.words(text).texts[recipe["reco"]]["references"]
    assert rows.shape == (4, 64) and torch.equal(rows[1], rows[3])
    sky = segmenter.text(["sky"])
    alone = segmenter.words(sky).texts[recipe["reco"]]["references"]
    assert torch.equal(rows[0], alone[0])
    without = recipe_of(archive, context=())
    free = Segmenter(tiny_backbone, without)
    own = free.words(free.text(["sky", "tree"])).texts[without["reco"]]["references"]
    assert own.shape == (2, 64)


def test_references_are_computed_once(archive, tiny_backbone, photo, monkeypatch):
    counted = []
    own = ArchiveFeatures.maps
    monkeypatch.setattr(
        ArchiveFeatures, "maps", lambda self, places: counted.append(places) or own(self, places)
    )
    segmenter = Segmenter(tiny_backbone, recipe_of(archive, context=("sky",), attention_scale=9.0))
    first = segmenter(photo, ["cat", "dog"]).mask
    assert len(counted) == 3
    assert np.array_equal(segmenter(photo, ["cat", "dog"]).mask, first) and len(counted) == 3
    segmenter(photo, ["cat", "horse"])
    assert len(counted) == 6


def test_patch_features_kept_in_memory_are_bounded(archive, tiny_backbone, monkeypatch):
    made = ArchiveFeatures(tiny_backbone, open_archive(archive))
    whole, _ = made.maps([0, 1, 2, 3])
    assert len(made._kept) == 4
    monkeypatch.setattr(archive_features, "_MOST_BYTES", 1)
    again, _ = made.maps([3, 0])
    assert len(made._kept) == 2 and torch.equal(again, whole[[3, 0]])


def test_a_second_encoder_gives_the_references(archive, tiny_backbone, photo, second_models):
    recipe = recipe_of(archive, encoder="dino-vits16")
    segmenter = Segmenter(tiny_backbone, recipe)
    assert (
        recipe["reco"].guide_name() == "dino-vits16" and make_settings("reco").guide_name() is None
    )
    words = segmenter.words(segmenter.text(["cat", "dog"]))
    assert words.texts[recipe["reco"]]["references"].shape == (2, 32)
    assert segmenter(photo, ["cat", "dog"]).mask.shape == (60, 90)


def test_reco_runs_in_half_precision(archive, photo):
    torch.manual_seed(0)
    half = Backbone(build_model(TINY_CONFIG), name="half", weights_hash="", precision="bf16")
    result = Segmenter(half, recipe_of(archive))(photo, ["cat", "dog"], keep_scores=True)
    assert np.isfinite(result.scores).all()


def test_own_words_and_a_crf(archive, tiny_backbone, photo):
    recipe = recipe_of(archive).but(densecrf={"parameters": "deeplab"})
    result = Segmenter(tiny_backbone, recipe)(
        photo, ["cat", "dog"], background=["sky"], keep_scores=True
    )
    assert np.isfinite(result.scores).all() and result.names[0] == "background"


# -- archives ------------------------------------------------------------------------------------------------


def test_the_embedded_archive_holds_training_pictures():
    archive = open_archive("scenes")
    assert len(archive) == 160 and archive.picture(0).shape == (224, 298, 3)
    val = {path.stem for path in paths.data("scenes/images/val").glob("*.jpg")}
    from ovsslib.scenes import SPLIT_SEEDS, draw

    assert val and SPLIT_SEEDS["train"] != SPLIT_SEEDS["val"]
    index = int(archive.files[3].stem)
    drawn = draw(SPLIT_SEEDS["train"], index).image.astype(int)
    assert np.abs(archive.picture(3).astype(int) - drawn).mean() < 4  # JPEG


def test_embeddings_are_kept_on_disk_and_damage_is_noticed(archive, tiny_backbone, monkeypatch):
    made = ArchiveFeatures(tiny_backbone, open_archive(archive))
    first = made.embeddings()
    (file,) = paths.cache("archives").glob("*.safetensors")
    monkeypatch.setattr(ArchiveFeatures, "_embed", lambda self: pytest.fail("computed again"))
    assert torch.equal(made.embeddings(), first)
    monkeypatch.undo()
    monkeypatch.setenv("OVSSLIB_CACHE", str(file.parents[1]))
    file.write_bytes(b"damaged")
    assert torch.equal(made.embeddings(), first)


def test_an_archive_is_its_pictures_not_their_names(archive, tmp_path):
    first = open_archive(archive)
    for index in range(8):
        (tmp_path / f"p{index}.png").write_bytes(first.files[index].read_bytes())
    assert open_archive(tmp_path).fingerprint == first.fingerprint
    (tmp_path / "p7.png").unlink()
    assert open_archive(tmp_path).fingerprint != first.fingerprint


def test_what_is_wrong_is_named(archive, tmp_path, tiny_backbone, photo):
    with pytest.raises(
        DataError, match="there is no archive 'imagenet'.*'scenes' for the drawn ones"
    ):
        open_archive("imagenet")
    with pytest.raises(DataError, match="holds no pictures"):
        open_archive(tmp_path)
    with pytest.raises(RecipeError, match="has 8 pictures; ask for fewer"):
        Segmenter(tiny_backbone, recipe_of(archive).but({"reco.pictures": 9}))(photo, ["cat"])
    with pytest.raises(RecipeError, match="reco.pictures=0"):
        make_settings("reco", {"pictures": 0})
    with pytest.warns(UserWarning, match="shows drawn pictures; for photographs name a folder"):
        Segmenter(tiny_backbone, recipe_of("scenes"))(photo, ["cat"])
    inert = recipe_of(
        archive, text_attention=False, dense_result=False, attention_scale=5.0
    ).inert()
    assert "reco.attention_scale" in inert


def test_a_single_picture_gives_its_best_patch():
    features = torch.zeros(1, 3, 2, 2)
    features[0, 0] = 1.0
    weights = torch.tensor([[[0.1, 0.9], [0.2, 0.3]]])
    made = cosegment(features, weights)
    assert made.reference.tolist() == [1.0, 0.0, 0.0] and made.places.shape == (1,)
    assert text_attention(features, torch.tensor([1.0, 0, 0]), (4, 4)).min() > 0.99


def test_statistics_change_places():
    pixels = torch.rand(3, 4, 5)
    assert torch.allclose(with_other_statistics(as_it_is(pixels)), pixels, atol=1e-6)
