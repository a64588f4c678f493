"""Mask proposers: one interface, the same masks for the same picture and settings, cached."""

import numpy as np
import pytest
import torch

from ovsslib.errors import ImageError, MemoryBudgetError, ModelError, RecipeError
from ovsslib.guides import everything, load_sam, masks
from ovsslib.guides.everything import frames_of, suppressed


def picture(height: int = 60, width: int = 90) -> np.ndarray:
    """Four flat fields, one of them small."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, width // 2 :] = (200, 30, 30)
    image[height // 2 :, : width // 2] = (30, 30, 200)
    image[5:20, 10:30] = (240, 240, 40)
    return image


@pytest.mark.parametrize("name", ["felzenszwalb", "slic"])
def test_partitions_cover_every_pixel_once_by_rising_area(name):
    proposer = masks.load(name)
    found = proposer.propose(picture())
    assert found.dtype == bool and found.shape[1:] == (60, 90) and len(found) > 2
    assert (found.sum(0) == 1).all()
    areas = found.sum((1, 2))
    assert (np.diff(areas) >= 0).all() and areas.min() > 0
    regions = proposer.regions(picture())
    assert regions.dtype == np.int32 and regions.min() == 1
    np.testing.assert_array_equal(regions, masks.region_map(found))
    assert proposer.partition and proposer.weights_hash == ""


def test_felzenszwalb_finds_the_flat_fields():
    found = masks.load("felzenszwalb", sigma=0.0, scale=50.0, min_size=10).propose(picture())
    assert len(found) == 4
    np.testing.assert_array_equal(found[0], (picture() == (240, 240, 40)).all(-1))


def test_large_masks_hide_small_ones_in_the_map_and_0_is_in_no_mask():
    stack = np.zeros((3, 4, 5), bool)
    stack[0, 1:4, 1:4] = True  # 9 pixels
    stack[1, 2, 2] = True  # inside the first
    stack[2, 0, 0:3] = True  # 3 pixels
    expected = np.zeros((4, 5), np.int32)
    expected[0, 0:3] = 2
    expected[1:4, 1:4] = 3
    np.testing.assert_array_equal(masks.region_map(stack), expected)
    assert not masks.region_map(np.zeros((0, 4, 5), bool)).any()


def test_a_large_picture_is_cut_small_and_grows_back():
    image = picture(120, 180)
    proposer = masks.load("felzenszwalb", longest=90, sigma=0.0)
    found = proposer.propose(image)
    assert found.shape[1:] == (120, 180) and (found.sum(0) == 1).all()
    half = masks.load("felzenszwalb", sigma=0.0).regions(picture())
    assert len(np.unique(half)) == len(found)


def test_masks_that_do_not_fit_in_memory_are_refused_and_the_map_is_not(monkeypatch):
    proposer = masks.load("slic")
    monkeypatch.setattr(masks, "_MOST_BYTES", 1000)
    with pytest.raises(MemoryBudgetError, match="regions"):
        proposer.propose(picture())
    assert proposer.regions(picture()).shape == (60, 90)


class Counting:
    """A method that counts its calls and finds two masks that overlap."""

    weights_hash = "0123456789abcdef"

    def __init__(self):
        self.calls = 0

    def __call__(self, image):
        self.calls += 1
        found = np.zeros((3, *image.shape[:2]), bool)
        found[0, :10], found[1, 5:7, 5:7] = True, True  # the third is empty
        return found


def proposer_of(method: Counting, **settings) -> masks.MaskProposer:
    values = {"longest": 1024, **settings}
    return masks.MaskProposer("sam", method, values, method.weights_hash, False, on_disk=True)


def test_found_masks_are_remembered_per_picture_and_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path))
    method, image = Counting(), picture()
    first = proposer_of(method)
    found = first.propose(image)
    assert found.shape == (2, 60, 90) and found[0].sum() == 4 and found[1].sum() == 900
    np.testing.assert_array_equal(first.propose(image.copy()), found)
    np.testing.assert_array_equal(first.regions(image), masks.region_map(found))
    assert method.calls == 1
    np.testing.assert_array_equal(proposer_of(method).propose(image), found)  # from the disk
    assert method.calls == 1
    proposer_of(method, iou_threshold=0.5).propose(image)
    assert method.calls == 2
    image[0, 0] += 1
    first.propose(image)
    assert method.calls == 3


def test_a_file_of_the_cache_that_was_cut_off_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path))
    method = Counting()
    found = proposer_of(method).propose(picture())
    (file,) = (tmp_path / "masks").iterdir()
    file.write_bytes(file.read_bytes()[:50])
    np.testing.assert_array_equal(proposer_of(method).propose(picture()), found)
    assert method.calls == 2


def test_little_is_kept_in_memory(monkeypatch):
    monkeypatch.setattr(masks, "_KEPT_IN_MEMORY", 1)
    proposer = masks.load("slic")
    for shift in range(3):
        proposer.regions(picture(60 + shift))
    assert len(proposer._memory) == 1


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("sam4", {}, "sam4.*felzenszwalb"),
        ("slic", {"scale": 3}, "no setting 'scale'.*compactness"),
        ("slic", {"segments": 0}, "segments=0 must be at least 1"),
        ("felzenszwalb", {"sigma": -1.0}, "sigma=-1.0"),
        ("felzenszwalb", {"scale": "large"}, "scale='large'"),
        ("felzenszwalb", {"model": "x"}, "no setting 'model'"),
        ("sam", {"multimask": 1}, "multimask=1"),
    ],
)
def test_wrong_names_and_settings_are_named(name, settings, message):
    with pytest.raises(RecipeError, match=message):
        masks.load(name, **settings)


def test_other_arrays_are_refused():
    with pytest.raises(ImageError, match="float"):
        masks.load("slic").propose(np.zeros((4, 4, 3)))


def test_missing_segmenters_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(everything, "cached_folder", lambda hub: None)
    with pytest.raises(ModelError, match="nothing is fetched unasked.*facebook/sam2.1-hiera-tiny"):
        masks.load("sam2")
    with pytest.raises(ModelError, match="check the path"):
        masks.load("sam", model=tmp_path / "none")
    with pytest.raises(ModelError, match="no config.json"):
        masks.load("sam", model=tmp_path)


# -- trained segmenters: tiny random ones of the real classes ------------------------------------------


@pytest.fixture
def nms(monkeypatch):
    """torchvision's suppression, which the pipeline of transformers calls, in plain Python: an installation for processors
    may lack its compiled operators."""

    def slow(boxes, scores, idxs, iou_threshold):
        keep, order = [], scores.argsort(descending=True, stable=True).tolist()
        boxes = boxes.tolist()
        for index in order:
            if all(overlap(boxes[index], boxes[other]) <= iou_threshold for other in keep):
                keep.append(index)
        return torch.tensor(keep, dtype=torch.int64)

    for name in ("sam", "sam2", "sam3"):
        module = f"transformers.models.{name}.image_processing_{name}.batched_nms"
        monkeypatch.setattr(module, slow)


def overlap(a, b) -> float:
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return wide * high / max(sum(areas) - wide * high, 1e-9)


def textured() -> np.ndarray:
    rng = np.random.default_rng(5)
    return (picture(100, 150) // 2 + rng.integers(0, 100, (100, 150, 3))).astype(np.uint8)


@pytest.mark.parametrize("name", ["sam", "sam2", "sam3"])
def test_everything_finds_what_the_pipeline_of_transformers_finds(
    name, segmenter_folder, nms, tmp_path, monkeypatch
):
    import transformers
    from PIL import Image

    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path))
    settings = {
        "points_per_side": 6,
        "iou_threshold": 0.0,
        "stability_threshold": 0.3,
        "stability_offset": 0.1,
        "box_overlap": 0.9,
    }
    proposer = masks.load(name, model=segmenter_folder(name), **settings)
    found = proposer.propose(textured())
    assert found.dtype == bool and found.shape[1:] == (100, 150) and len(found) >= 1
    model_class, processor_class, _ = everything.CLASSES[name]
    pipeline = transformers.MaskGenerationPipeline(
        model=getattr(transformers, model_class).from_pretrained(segmenter_folder(name)).eval(),
        image_processor=getattr(transformers, processor_class).from_pretrained(
            segmenter_folder(name)
        ),
    )
    theirs = pipeline(
        Image.fromarray(textured()), points_per_batch=16, points_per_crop=6, pred_iou_thresh=0.0,
        stability_score_thresh=0.3, stability_score_offset=0.1, crops_nms_thresh=0.9,
    )["masks"]  # fmt: skip
    theirs = sorted((np.asarray(mask, bool) for mask in theirs), key=lambda mask: mask.sum())
    np.testing.assert_array_equal(found.sum((1, 2)), [mask.sum() for mask in theirs if mask.any()])
    assert {mask.tobytes() for mask in found} == {mask.tobytes() for mask in theirs if mask.any()}
    assert len(proposer.weights_hash) == 16 and not proposer.partition


def test_thresholds_drop_masks(segmenter_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path))
    loose = {
        "points_per_side": 4,
        "iou_threshold": 0.0,
        "stability_threshold": 0.0,
        "box_overlap": 1.0,
    }
    every = masks.load("sam2", model=segmenter_folder("sam2"), **loose).propose(textured())
    one = masks.load("sam2", model=segmenter_folder("sam2"), **{**loose, "multimask": False})
    none = masks.load("sam2", model=segmenter_folder("sam2"), **{**loose, "iou_threshold": 1e9})
    assert 1 < len(one.propose(textured())) < len(every)
    assert none.propose(textured()).shape == (0, 100, 150)
    assert not none.regions(textured()).any()


def test_a_segmenter_of_another_kind_is_named(segmenter_folder):
    with pytest.raises(ModelError, match="'sam2', but sam needs sam"):
        masks.load("sam", model=segmenter_folder("sam2"))


def test_suppression_keeps_the_surest():
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [0, 0, 10, 4]]).float()
    scores = torch.tensor([0.5, 0.9, 0.1, 0.2])
    assert suppressed(boxes, scores, 0.7).tolist() == [1, 3, 2]
    assert suppressed(boxes, scores, 0.95).tolist() == [1, 0, 3, 2]
    assert suppressed(boxes[:0], scores[:0], 0.7).tolist() == []


def test_frames_are_inclusive():
    stack = torch.zeros(2, 6, 7, dtype=torch.bool)
    stack[0, 2:4, 1:5] = True
    assert frames_of(stack).tolist() == [[1, 2, 4, 3], [0, 0, 0, 0]]


# -- SAM as a second model -------------------------------------------------------------------------------


def test_sam_s_last_attention_mixes_its_values_as_the_block_does(segmenter_folder):
    sam = load_sam(segmenter_folder("sam"))
    image = textured()
    look = sam.read(image)
    assert look.grid == (2, 4)  # 100x150 becomes 43x64, with patches of 16
    assert look.values.shape == (2, 2, 4, 8) and look.attention.shape == (2, 8, 8)
    assert (look.attention.sum(-1) <= 1 + 1e-5).all()
    square = np.ascontiguousarray(image[:, :100])
    whole, kept = [], sam.network.vision_encoder.layers[-1].attn.proj
    hook = kept.register_forward_pre_hook(lambda module, arguments: whole.append(arguments[0]))
    look = sam.read(square)
    hook.remove()
    assert look.grid == (4, 4)
    torch.testing.assert_close(look.attention.sum(-1), torch.ones(2, 16))
    mixed = torch.einsum("hij,hjd->ihd", look.attention, look.values.flatten(1, 2))
    torch.testing.assert_close(mixed.flatten(1), whole[0].reshape(16, 16))


def test_sam_answers_prompts_as_its_processor_would_ask(segmenter_folder):
    import transformers

    sam = load_sam(segmenter_folder("sam"))
    image = textured()
    look = sam.read(image)
    points, boxes = torch.tensor([[20.0, 30.0], [100.0, 60.0]]), torch.tensor(
        [[10.0, 20.0, 40.0, 50.0], [80.0, 40.0, 140.0, 90.0]]
    )  # fmt: skip
    logits, sure = sam.predict(look, points, boxes)
    assert logits.shape == (2, 16, 16) and sure.shape == (2,)
    processor = transformers.SamProcessor(sam.processor)
    inputs = processor(
        images=[image], input_points=[[[point] for point in points.tolist()]],
        input_labels=[[[1], [1]]], input_boxes=[boxes.tolist()], return_tensors="pt",
    )  # fmt: skip
    for name in ("input_points", "input_boxes"):
        inputs[name] = inputs[name].float()
    with torch.no_grad():
        out = sam.network(
            **{key: inputs[key] for key in ("pixel_values", "input_points", "input_labels", "input_boxes")},
            multimask_output=False,
        )  # fmt: skip
    torch.testing.assert_close(logits, out.pred_masks[0, :, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sure, out.iou_scores[0, :, 0], atol=1e-4, rtol=1e-4)
    hinted, _ = sam.predict(look, points, boxes, torch.linspace(-3, 3, 256).reshape(16, 16))
    assert float((hinted - logits).abs().max()) > 1e-3


def test_sam_refuses_other_pictures_and_prompts(segmenter_folder):
    sam = load_sam(segmenter_folder("sam"))
    with pytest.raises(ImageError, match="uint8"):
        sam.read(np.zeros((4, 4, 3)))
    with pytest.raises(ImageError, match="wider"):
        sam.read(np.zeros((2, 90, 3), np.uint8))
    look = sam.read(textured())
    with pytest.raises(ImageError, match="prompts"):
        sam.predict(look, torch.zeros(2, 2), torch.zeros(1, 4))
