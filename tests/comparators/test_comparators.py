"""Trained models behind the segmenter's interface: tiny random ones of the real classes, through the real processors."""

import json
import shutil

import numpy as np
import pytest
import torch
from comparator_cases import LABELS, MAKERS, save_tiny, save_tiny_deeplab, save_tiny_scenes
from PIL import Image

import ovsslib
from ovsslib import comparators
from ovsslib.comparators.labels import label_words, map_labels, synonyms_of
from ovsslib.errors import ModelError, WordsError
from ovsslib.evaluation.engine import evaluate
from ovsslib.evaluation.keys import parts_of
from ovsslib.evaluation.predictions import predict
from ovsslib.images.pictures import normalise
from ovsslib.segmenter import Segmenter
from ovsslib.text.features import encode_prompts
from ovsslib.text.vocabulary import Vocabulary

OPEN, CLOSED = (
    ("clipseg", "groupvit", "sam3", "lseg-scenes"),
    ("maskformer", "mask2former", "oneformer"),
)
PIXELS = ("deeplabv3", "deeplabv3-scenes")  # closed vocabularies without queries


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each kind of model."""
    root = tmp_path_factory.mktemp("models")
    made = {name: save_tiny(name, root / name) for name in MAKERS}
    made["deeplabv3"] = save_tiny_deeplab(root / "deeplabv3")
    made["deeplabv3-scenes"] = save_tiny_scenes(root / "deeplabv3-scenes")
    made["lseg-scenes"] = save_tiny_scenes(root / "lseg-scenes", words=True)
    return made


@pytest.fixture(scope="module")
def loaded(folders):
    return {name: ovsslib.load(name, pretrained=str(folder)) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 256, (5, 7, 3)), np.ones((9, 8, 1))).astype(np.uint8)  # 45 x 56


# -- the call ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", comparators.names())
def test_each_answers_as_a_segmenter_does(name, loaded, image, tmp_path):
    words = ["cat", "brick wall", "sofa"]
    result = loaded[name](image, words, keep_scores=True)
    assert result.mask.shape == (45, 56) and result.mask.dtype == np.int32 and result.names == words
    assert result.scores.shape == (3, 45, 56) and result.scores.dtype == np.float32
    assert 0 <= result.scores.min() and result.scores.max() <= 1 + 1e-6
    assert np.array_equal(result.mask, result.scores.argmax(axis=0))
    assert result.recipe == name and name in str(result)
    file = tmp_path / "picture.png"
    Image.fromarray(image).save(file)
    assert np.array_equal(loaded[name](file, words).mask, result.mask)
    assert np.array_equal(loaded[name](Image.fromarray(image), words).mask, result.mask)


@pytest.mark.parametrize("name", comparators.names())
def test_groups_say_how_a_model_was_trained(name, loaded):
    about = loaded[name].about
    assert about.group in comparators.GROUPS and about.closed == (loaded[name].labels is not None)
    assert about.group in repr(loaded[name])


@pytest.mark.parametrize("name", OPEN)
def test_background_words_are_one_class_of_an_open_vocabulary(name, loaded, image):
    result = loaded[name](image, ["cat", "dog"], background=["wall", "sky"], keep_scores=True)
    assert result.names == ["background", "cat", "dog"]
    flat = loaded[name](image, ["wall", "sky", "cat", "dog"], keep_scores=True)
    assert np.allclose(result.scores[0], flat.scores[:2].max(axis=0), atol=1e-6)


@pytest.mark.parametrize("name", (*CLOSED, *PIXELS))
def test_other_labels_are_the_background_of_a_closed_vocabulary(name, loaded, image):
    comparator = loaded[name]
    result = comparator(image, ["cat", "sofa"], background="auto", keep_scores=True)
    everything = comparator.network.label_scores(image)
    shares = torch.nn.functional.interpolate(everything[None], size=(45, 56), mode="bilinear")[0]
    best = shares.argmax(dim=0).numpy()
    place = {"cat": comparator.labels.index("cat"), "sofa": comparator.labels.index("couch")}
    expected = np.where(best == place["cat"], 1, np.where(best == place["sofa"], 2, 0))
    assert np.array_equal(result.mask, expected)
    assert np.allclose(
        result.scores.max(axis=0), (shares / shares.sum(dim=0)).amax(dim=0), atol=1e-5
    )


# -- the networks as their libraries run them ------------------------------------------------------------------


def test_clipseg_is_as_transformers_runs_it(loaded, image):
    """One pass of CLIP for all words gives what one pass per word gives."""
    comparator, words = loaded["clipseg"], [f"word {letter}" for letter in "abcdefghij"]
    network = comparator.network
    inputs = network.processor(
        text=words, images=[image] * len(words), padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = network.model(**inputs).logits.sigmoid()
    ours = network.scores(image, words)
    assert ours.shape == expected.shape and (ours - expected).abs().max() < 1e-5
    assert (network.scores(image, words[:1])[0] - expected[0]).abs().max() < 1e-5


@pytest.mark.parametrize("name", CLOSED)
def test_masks_are_as_the_processor_reads_them(name, loaded, image):
    network = loaded[name].network
    tasks = {"task_inputs": ["semantic"]} if name == "oneformer" else {}
    inputs = network.processor(images=[image], return_tensors="pt", **tasks)
    wanted = {k: inputs[k] for k in ("pixel_values", "pixel_mask", "task_inputs") if k in inputs}
    with torch.no_grad():
        out = network.model(**wanted)
    reader = getattr(network.processor, "image_processor", network.processor)
    expected = reader.post_process_semantic_segmentation(out, target_sizes=[(45, 56)])[0]
    ours = network.label_scores(image)
    enlarged = torch.nn.functional.interpolate(ours[None], size=(45, 56), mode="bilinear")[0]
    assert torch.equal(enlarged.argmax(dim=0), expected)


def test_deeplab_is_as_torchvision_runs_it(loaded, image):
    network = loaded["deeplabv3"].network
    pixels = network.transforms(Image.fromarray(image))[None]
    assert pixels.shape == (1, 3, 64, 79)
    with torch.no_grad():
        expected = network.model(pixels)["out"][0].softmax(dim=0)
    assert torch.equal(network.label_scores(image), expected)


def test_the_embedded_one_is_read_window_by_window(loaded, image):
    """64 x 79 pixels in windows of 64, half a window apart: two of them, whose logits are averaged where both lie."""
    network = loaded["deeplabv3-scenes"].network
    small = network.windows.resized(image)
    assert small.shape[:2] == (64, 80) and len(network.windows.boxes(64, 80)) == 2
    pixels = normalise(small, *network.backbone.normalisation)[None]
    total, count = torch.zeros(len(LABELS), 64, 80), torch.zeros(80)
    for left in (0, 16):
        window = pixels[..., left : left + 64]
        with torch.no_grad():
            logits = network.model(network.model.read(network.backbone, window), window)
        assert logits.shape == (1, len(LABELS), 16, 16)
        total[..., left : left + 64] += torch.nn.functional.interpolate(
            logits, size=(64, 64), mode="bilinear"
        )[0]
        count[left : left + 64] += 1
    at_size = torch.nn.functional.interpolate((total / count)[None], size=(45, 56), mode="bilinear")
    torch.testing.assert_close(
        network.label_scores(image), at_size[0].softmax(0), atol=1e-5, rtol=1e-4
    )


def test_pixels_are_compared_with_the_words(loaded, image):
    """One window: cosines of the decoder's outputs, added to CLIP's own features, with text features over the temperature."""
    network = loaded["lseg-scenes"].network
    square = image[:45, :45]
    words = ("a photo of a cat.", "a photo of a house.")
    text = torch.nn.functional.normalize(encode_prompts(network.backbone, words), dim=-1)
    pixels = normalise(network.windows.resized(square), *network.backbone.normalisation)[None]
    with torch.no_grad():
        outputs = network.model(network.model.read(network.backbone, pixels), pixels)
    cosines = torch.einsum("bdhw,qd->bqhw", torch.nn.functional.normalize(outputs, dim=1), text)
    assert cosines.abs().max() <= 1 + 1e-5
    expected = torch.nn.functional.interpolate(cosines / 0.05, size=(64, 64), mode="bilinear")
    expected = torch.nn.functional.interpolate(expected, size=(45, 45), mode="bilinear")[0].softmax(
        0
    )
    torch.testing.assert_close(network.scores(square, words), expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(network.scores(square, words[::-1]).flip(0), network.scores(square, words))


def test_a_word_that_the_embedded_clip_never_read_is_named(loaded, image):
    with pytest.warns(UserWarning, match="never trained on 'a photo of a zeppelin"):
        loaded["lseg-scenes"](image, ["cat", "zeppelin"])


@pytest.mark.parametrize("name", ["deeplabv3-scenes", "lseg-scenes"])
def test_a_folder_of_the_embedded_world_that_does_not_fit_is_refused(name, folders, tmp_path):
    folder = shutil.copytree(folders[name], tmp_path / "short")
    file = folder / "config.json"
    config = json.loads(file.read_text())
    own = "labels" if name == "deeplabv3-scenes" else "temperature"
    for key in ("rates", "architecture", "trunk_hash", own):
        file.write_text(json.dumps({k: v for k, v in config.items() if k != key}))
        with pytest.raises(ModelError, match=f"it lacks {key}"):
            comparators.load(name, folder)
    for changed, match in (
        ({"pyramid": 6}, f"does not fit {name} with"),
        ({"blocks": [0, 12]}, None),
        ({"blocks": []}, "one or more blocks"),
        ({"trunk_hash": "0" * 16}, "trained on a sceneclip with the hash 0000.*ovss pretrain"),
    ):
        file.write_text(json.dumps({**config, **changed}))
        if match is None:
            wrong = comparators.load(name, folder)
            with pytest.raises(ModelError, match="has 12 blocks of width 128"):
                wrong(np.zeros((64, 64, 3), np.uint8), ["cat"])
        else:
            with pytest.raises(ModelError, match=match):
                comparators.load(name, folder)


def test_sam3_is_asked_word_by_word(loaded, image):
    """Through the processor's own call for picture and word together: the same scores, made of its instances and its map."""
    network = loaded["sam3"].network
    words = ["cat", "brick wall"]
    ours = network.scores(image, words)
    for index, word in enumerate(words):
        inputs = network.processor(images=image, text=word, return_tensors="pt")
        inputs.pop("original_sizes")
        with torch.no_grad():
            out = network.model(**inputs)
        instances = out.pred_logits[0].sigmoid()[:, None, None] * out.pred_masks[0].sigmoid()
        best = torch.maximum(instances.amax(0), out.semantic_seg[0, 0].sigmoid())
        torch.testing.assert_close(ours[index], best * out.presence_logits[0, 0].sigmoid())
    assert not torch.equal(ours[0], ours[1])


def test_the_released_sam3_is_saved_as_the_video_model(folders, tmp_path, image, loaded):
    folder = shutil.copytree(folders["sam3"], tmp_path / "video")
    file = folder / "config.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "architectures": ["Sam3VideoModel"]})
    )
    model = ovsslib.load("sam3", pretrained=str(folder))
    assert np.array_equal(
        model(image, ["cat", "sky"]).mask, loaded["sam3"](image, ["cat", "sky"]).mask
    )


# -- words and labels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("door, double door", ("door", "double door")),
        ("wall-brick", ("brick wall",)),
        ("sky-other-merged", ("sky",)),
        ("window-blind", ("window blind",)),
        ("Dining_Table", ("dining table",)),
        ("__background__", ("background",)),
        ("bed ", ("bed",)),
    ],
)
def test_the_words_of_a_label(label, words):
    assert label_words(label) == words


def test_words_find_labels_by_name_then_by_synonym():
    assert "sofa" in synonyms_of("Couch") and synonyms_of("otter") == {"otter"}
    words = Vocabulary.from_words(["sofa", "cat", "brick wall", "double door", "otter"])
    found = map_labels(LABELS, words)
    assert found.owner == (1, 2, None, 0, 3) and found.lacking == (4,)


def test_a_label_goes_to_the_word_of_its_own_name_first():
    both = map_labels(("couch", "cat"), Vocabulary.from_words(["sofa", "couch", "cat"]))
    assert both.owner == (1, 2) and both.lacking == (0,)
    # a class has the labels of all its queries
    animals = map_labels(("cat", "dog", "sky"), Vocabulary.from_words({"animal": ["cat", "dog"]}))
    assert animals.owner == (0, 0, None)
    # two labels of one name both belong to it
    assert map_labels(("door", "door, double door"), Vocabulary.from_words(["door"])).owner == (
        0,
        0,
    )


@pytest.mark.parametrize("name", (*CLOSED, *PIXELS))
def test_words_that_a_closed_vocabulary_lacks_are_named(name, loaded, image):
    comparator = loaded[name]
    assert comparator.lacks(["cat", "otter", "rug"]) == ["otter", "rug"]
    with pytest.warns(
        UserWarning, match="has no label for 'otter', 'rug': no pixel is given to them"
    ):
        result = comparator(image, ["otter", "cat", "rug"], keep_scores=True)
    assert (result.mask == 1).all() and not result.scores[[0, 2]].any()
    with pytest.raises(
        WordsError, match="knows . labels and none of the words otter, rug; its labels are"
    ):
        comparator(image, ["otter", "rug"])


@pytest.mark.parametrize("name", OPEN)
def test_an_open_vocabulary_lacks_nothing(name, loaded):
    assert loaded[name].lacks(["otter"]) == [] and loaded[name].labels is None


def test_the_words_of_a_data_set_map_to_real_labels():
    """PASCAL VOC's classes among COCO's labels in their own spelling: by synonyms, all of them."""
    coco = [name for name in Vocabulary.named("coco_object").names if name != "background"]
    found = map_labels(coco, Vocabulary.named("voc21"))
    assert found.lacking == ()
    pairs = {
        coco[place]: Vocabulary.named("voc21").names[c]
        for place, c in enumerate(found.owner)
        if c is not None
    }
    assert (
        pairs["couch"] == "sofa"
        and pairs["tv"] == "tv monitor"
        and pairs["airplane"] == "aeroplane"
    )


# -- the evaluation --------------------------------------------------------------------------------------------


class Pictures(list):
    """A small data set in memory."""

    name, classes, ignore_index = "small", 4, 255
    vocabulary = Vocabulary.from_words(["cat", "sofa", "door"], background=["sky"])

    def __getitem__(self, key):
        made = super().__getitem__(key)
        if isinstance(key, slice):
            made = Pictures(made)
        return made


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(3)
    made = Pictures()
    for index in range(2):
        picture = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        made.append((picture, rng.integers(0, 4, (40, 48)).astype(np.uint8), f"{index}"))
    return made


def test_the_engine_measures_them_beside_recipes(loaded, pictures, tiny_backbone):
    small = {"windows": {"short_side": 64, "crop": 64, "stride": 32}}
    recipe = Segmenter(tiny_backbone, ovsslib.Recipe.named("clip").but(small))
    chosen = [loaded["clipseg"], recipe, loaded["mask2former"]]
    reports = evaluate(chosen, pictures, store=False, progress=False)
    assert [report.recipe.name for report in reports] == ["clipseg", "clip", "mask2former"]
    assert reports[0].model.startswith("clipseg/") and reports[0].images == 2
    for comparator, report in ((chosen[0], reports[0]), (chosen[2], reports[2])):
        for row, (picture, label, _) in enumerate(pictures):
            mask = comparator(picture, pictures.vocabulary).mask
            right = [int(((mask == c) & (label == c)).sum()) for c in range(4)]
            assert report.counts[row, 0].tolist() == right
            sure = comparator.labelled(picture, comparator.text(pictures.vocabulary))[1]
            assert sure.dtype == np.float32 and 0 <= sure.min() and sure.max() <= 1
    alone = evaluate(loaded["clipseg"], pictures, store=False, progress=False)
    assert np.array_equal(alone.counts, reports[0].counts)


def test_label_maps_of_present_words(loaded, pictures):
    first, second = predict(
        [loaded["clipseg"], loaded["maskformer"]],
        pictures,
        keep=False,
        present_only=True,
        progress=False,
    )
    assert first.mask(0).shape == (40, 48) and second.mask(1).shape == (40, 48)


def test_the_key_tells_weights_and_settings_apart(folders, loaded, tmp_path):
    data = Pictures([(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8), "0")])
    key = parts_of(loaded["clipseg"], data, "data")
    other = ovsslib.load(
        "clipseg", pretrained=str(save_tiny("clipseg", tmp_path / "other", seed=1))
    )
    assert parts_of(other, data, "data")["model"]["weights"] != key["model"]["weights"]
    moved = shutil.copytree(folders["clipseg"], tmp_path / "moved")
    assert parts_of(ovsslib.load("clipseg", pretrained=str(moved)), data, "data") == key
    file = moved / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"]["size"] = {"height": 64, "width": 64}
    file.write_text(json.dumps(settings))
    resized = ovsslib.load("clipseg", pretrained=str(moved))
    assert parts_of(resized, data, "data")["model"] != key["model"]


@pytest.mark.parametrize("name", comparators.names())
def test_each_runs_in_half_precision(name, folders, image):
    comparator = ovsslib.load(name, pretrained=str(folders[name]), precision="bf16")
    result = comparator(image, ["cat", "sofa"], keep_scores=True)
    assert np.isfinite(result.scores).all() and result.scores.dtype == np.float32


def test_unread_labels_of_the_background_in_deeplab(tmp_path, image):
    folder = save_tiny_deeplab(tmp_path / "d", labels=("__background__", "cat"))
    comparator = ovsslib.load("deeplabv3", pretrained=str(folder))
    result = comparator(image, ["cat"], background=["wall"], keep_scores=True)
    assert np.allclose(result.scores.sum(axis=0), 1, atol=1e-5)
