"""Segmenters that answer prompts: tiny random ones of the real classes, asked as their own processors would ask."""

import numpy as np
import pytest
import torch
from test_masks import textured

from ovsslib.errors import ImageError, ModelError, RecipeError
from ovsslib.guides.prompts import ProposedMasks, load_prompter

PIXELS = torch.tensor([[20.0, 30.0], [100.0, 60.0]])  # x, y in the picture of 100 x 150
BOXES = torch.tensor([[10.0, 20.0, 40.0, 50.0], [80.0, 40.0, 140.0, 90.0]])


def in_frame(places: torch.Tensor, rows: float, columns: float) -> torch.Tensor:
    scale = torch.tensor([columns / 150, rows / 100])
    return places * scale.repeat(places.shape[1] // 2)


@pytest.mark.parametrize("name", ["sam2", "sam3"])
def test_answers_are_those_of_the_processor_of_transformers(name, segmenter_folder):
    import transformers

    prompter = load_prompter(f"{name}:{segmenter_folder(name)}")
    assert prompter.square and len(prompter.identity) == 16
    look = prompter.look(textured())
    points, boxes = in_frame(PIXELS, 1024, 1024), in_frame(BOXES, 1024, 1024)
    logits, iou = prompter.answer(look, points, boxes)
    assert logits.shape == (2, 16, 16) and iou.shape == (2,)
    which = {"sam2": "Sam2Processor", "sam3": "Sam3TrackerProcessor"}[name]
    processor = getattr(transformers, which)(prompter.processor)
    inputs = processor(
        images=[textured()], input_points=[[[point] for point in PIXELS.tolist()]],
        input_labels=[[[1], [1]]], input_boxes=[BOXES.tolist()], return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        out = prompter.network(
            pixel_values=inputs["pixel_values"],
            input_points=inputs["input_points"].float(),
            input_labels=inputs["input_labels"],
            input_boxes=inputs["input_boxes"].float(),
            multimask_output=False,
        )
    torch.testing.assert_close(logits, out.pred_masks[0, :, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(iou, out.iou_scores[0, :, 0], atol=1e-4, rtol=1e-4)
    hint = torch.linspace(-3, 3, 256)[:, None].expand(256, 256)
    hinted, _ = prompter.answer(look, points, boxes, hint)
    assert float((hinted - logits).abs().max()) > 1e-3


def test_sam_gets_the_same_places_as_from_its_own_interface(segmenter_folder):
    prompter = load_prompter(f"sam:{segmenter_folder('sam')}")
    assert not prompter.square and prompter.identity == prompter.sam.weights_hash
    look = prompter.look(textured())
    # 100 x 150 fill 683 x 1024 of the frame, and 43 x 64 of this model's
    points, boxes = in_frame(PIXELS, 43 * 16, 1024), in_frame(BOXES, 43 * 16, 1024)
    logits, iou = prompter.answer(look, points, boxes)
    theirs, sure = prompter.sam.predict(look, PIXELS, BOXES)
    torch.testing.assert_close(logits, theirs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(iou, sure, atol=1e-4, rtol=1e-4)
    hint = torch.linspace(-3, 3, 256)[:, None].expand(256, 256)
    assert float((prompter.answer(look, points, boxes, hint)[0] - logits).abs().max()) > 1e-3


def test_a_proposer_in_their_place_fills_the_box_or_the_hint(monkeypatch):
    prompter = ProposedMasks("slic")
    assert prompter.square and "compactness" in prompter.identity
    regions = np.kron(np.arange(4).reshape(2, 2), np.ones((512, 512), int)).astype(np.int32)
    monkeypatch.setattr(prompter.proposer, "regions", lambda image: regions)
    look = prompter.look(textured())
    points = torch.zeros(2, 2)
    boxes = torch.tensor([[0.0, 0.0, 511.0, 1023.0], [600.0, 600.0, 700.0, 700.0]])
    logits, iou = prompter.answer(look, points, boxes)
    left = (logits[0] > 0).numpy()
    assert left[:, :512].all() and not left[:, 512:].any()
    assert not (logits[1] > 0).any()  # the box holds less than half of its region
    assert iou.tolist() == [1.0, 0.0]
    hint = torch.ones(256, 256)
    hint[128:] = -1
    logits, iou = prompter.answer(look, points, boxes, hint)
    assert (logits[0] > 0).sum() == 512 * 512 and float(iou[0]) > 0.99


def test_unknown_names_and_missing_weights_name_the_remedy(tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match="unknown prompter 'sam4'.*sam2.*felzenszwalb"):
        load_prompter("sam4")
    with pytest.raises(ModelError, match="slic has no weights"):
        load_prompter("slic:/some/folder")
    with pytest.raises(ModelError, match="/nowhere/sam2"):
        load_prompter("sam2:/nowhere/sam2")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert load_prompter("felzenszwalb") is load_prompter("felzenszwalb")


def test_other_pictures_are_refused(segmenter_folder):
    prompter = load_prompter(f"sam2:{segmenter_folder('sam2')}")
    with pytest.raises(ImageError, match="uint8"):
        prompter.look(np.zeros((4, 4, 3)))
