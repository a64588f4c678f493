"""FLOSS against the recorded outputs of its official code: entropies, choices, experts, fusion; tables and limits."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import relative_error, vectors

from ovsslib.errors import DataError, MemoryBudgetError, RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter, window_logits_of
from ovsslib.segmenter.encoding import Words
from ovsslib.stages import experts
from ovsslib.stages.experts import (
    Bilinear,
    ExpertsSettings,
    can_be_claimed,
    choose_templates,
    expert_rows,
    fuse,
    template_entropy,
)
from ovsslib.study.templates import rank_templates
from ovsslib.text.features import encode_texts
from ovsslib.text.prompts import TextSettings, imagenet_templates
from ovsslib.text.template_table import TemplateTable, shipped_tables
from ovsslib.text.vocabulary import Vocabulary

RECORDED = vectors("floss")
OUTPUTS = vectors("tiny_outputs")
TOLERANCE = 1e-4
NACLIP = {"terms": "kk", "gaussian_std": 5.0, "residual": False, "feed_forward": False}
SIZES = {"64x64": ("64", (4, 4)), "80x112": ("80x112", (5, 7))}


def features_of(size: str) -> torch.Tensor:
    """(24, h, w) unit patch features of NACLIP."""
    name, grid = SIZES[size]
    tokens = OUTPUTS[f"naclip_reduced_naclip_std5__{name}"][0, 1:]
    return F.normalize(tokens, dim=-1).T.unflatten(1, grid)


def resized(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(maps[None], size=size, mode="bilinear")[0]


@pytest.mark.parametrize("kind", ["plain", "synonyms"])
def test_entropies_and_choices_agree_with_the_official_code(kind):
    table = F.normalize(RECORDED["text_table"], dim=-1)
    query_class = RECORDED[f"query_class__{kind}"]
    classes = int(query_class.max()) + 1
    sums = torch.zeros(10, classes, dtype=torch.double)
    counts = torch.zeros(10, classes, dtype=torch.long)
    for size, finals in (("64x64", [(64, 64)]), ("80x112", [(80, 112), (100, 140)])):
        for template, rows in enumerate(table):
            cosines = torch.einsum("qd,dhw->qhw", rows, features_of(size))
            for final in finals:
                cosines = resized(cosines, final)
            total, count = template_entropy(cosines.flatten(1), query_class, classes, 100.0)
            sums[template] += total
            counts[template] += count
    entropy = sums / counts.clamp_min(1)
    share = 100.0 * counts / counts.sum(1, keepdim=True)
    assert relative_error(entropy, RECORDED[f"entropy__{kind}"]) < TOLERANCE
    assert relative_error(share, RECORDED[f"pixel_percentage__{kind}"]) < TOLERANCE
    expected = [[t for t in row if t >= 0] for row in RECORDED[f"top4__{kind}"].tolist()]
    assert choose_templates(entropy, share, 4) == expected
    if kind == "plain":
        made = [expert_rows(table, one) for one in expected] + [expert_rows(table, range(10))]
        assert relative_error(torch.stack(made), RECORDED["experts"]) < TOLERANCE


def test_fusion_alone_agrees_with_the_official_code():
    every = torch.arange(12 * 16)
    given = ((q, every, p.flatten(1)) for q, p in enumerate(RECORDED["alone_experts"]))
    fused = fuse(RECORDED["alone_default"].flatten(1), given)
    assert torch.equal(fused, RECORDED["alone_fused"].flatten(1))


@pytest.fixture
def recorded_experts(monkeypatch):
    """The recorded rows in the place of those that a table would give."""
    rows = RECORDED["experts"]
    return Words(torch.cat([rows[6], rows[:6].flatten(0, 1)]), 6, torch.arange(6))


@pytest.mark.parametrize("size", sorted(SIZES))
def test_fused_windows_agree_with_the_official_code(
    size, tiny_backbone, tiny_inputs, recorded_experts
):
    recipe = Recipe("floss").but({"windows.crop": 0, "attention": NACLIP, "experts": True})
    pixels = tiny_inputs[f"image_{size}"][0]
    fused = window_logits_of([Segmenter(tiny_backbone, recipe)], pixels, [recorded_experts])[
        0
    ].full()
    assert relative_error(fused[:, ::2, ::2], RECORDED[f"fused__{size}"]) < TOLERANCE
    assert torch.equal(fused.argmax(0), RECORDED[f"labels__{size}"].long())


def test_queries_of_one_class_share_its_rows_and_claim_for_themselves(tiny_backbone, tiny_inputs):
    """With synonyms there is an expert for every query; those of one class differ in what they may claim."""
    pixels, text = tiny_inputs["image_80x112"][0], RECORDED["experts"]
    index = torch.tensor([0, 1, 1, 2, 3, 3])
    rows = torch.cat([text[6], text[[0, 1, 3, 4]].flatten(0, 1)])
    recipe = Recipe("floss").but({"windows.crop": 0, "attention": NACLIP, "experts": True})
    fused = window_logits_of([Segmenter(tiny_backbone, recipe)], pixels, [Words(rows, 6, index)])[0]
    features = features_of("80x112")

    def p(of):
        cosines = torch.einsum("qd,dhw->qhw", of, features)
        return resized((100 * cosines).softmax(0), (80, 112)).flatten(1)

    every = torch.arange(80 * 112)
    expected = fuse(p(text[6]), ((q, every, p(text[[0, 1, 1, 3, 4, 4][q]])) for q in range(6)))
    assert relative_error(fused.full().flatten(1), expected) < TOLERANCE


def test_only_pixels_that_cannot_be_claimed_are_left_out():
    generator = torch.Generator().manual_seed(0)
    left_out = 0
    for sharpness in (1.0, 4.0, 20.0):
        for _ in range(20):
            coarse = torch.randn(9, 2, 3, generator=generator)
            p = (sharpness * resized(coarse, (6, 7))).softmax(0)
            fine = resized(p, (48, 50)).flatten(1)
            grid = Bilinear.between((6, 7), (48, 50), p.device)
            for query in range(9):
                pixels = grid.pixels(can_be_claimed(p, query))
                torch.testing.assert_close(grid.at(p, pixels), fine[:, pixels])
                claimed = torch.nonzero(fine.argmax(0) == query)[:, 0]
                assert set(claimed.tolist()) <= set(pixels.tolist())
                left_out += fine.shape[1] - len(pixels)
    assert left_out > 0.5 * 60 * 9 * 48 * 50


@pytest.mark.parametrize("size", [(5, 7), (3, 20), (4, 4), (1, 1)])
def test_interpolation_at_pixels_is_pytorchs(size):
    maps = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    grid = Bilinear.between((5, 7), size, maps.device)
    every = grid.pixels(torch.ones(5, 7, dtype=torch.bool))
    assert len(every) == size[0] * size[1]
    torch.testing.assert_close(grid.at(maps, every), resized(maps, size).flatten(1))


def test_patches_and_pixels_agree_where_one_patch_is_asked(
    tiny_backbone, tiny_inputs, recorded_experts
):
    base = Recipe("floss").but(
        {"windows.crop": 0, "attention": NACLIP, "experts": {"at": "patches"}}
    )
    pixels = tiny_inputs["image_64x64"][0]
    fused = window_logits_of([Segmenter(tiny_backbone, base)], pixels, [recorded_experts])[0].full()
    assert fused.min() >= 0 and fused.max() <= 1
    assert (fused[:, ::2, ::2] - RECORDED["fused__64x64"]).abs().max() > 1e-3


# -- tables ------------------------------------------------------------------------------------------------------


WORDS = ["cat", "dog", "sky"]
TEMPLATES = ("a {}.", "one {}.", "the {} there.", "no {} at all.")


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [
        np.kron(rng.integers(0, 256, (3, 4, 3)), np.ones((24, 24, 1))).astype(np.uint8)
        for _ in range(2)
    ]


def base_recipe() -> Recipe:
    return Recipe("base").but(
        {"windows": {"short_side": 64, "crop": 64, "stride": 32}, "attention": NACLIP,
         "text.templates": ("a {}.",)}
    )  # fmt: skip


@pytest.fixture(scope="module")
def table(tiny_backbone, pictures):
    return rank_templates(
        Segmenter(tiny_backbone, base_recipe()), pictures, WORDS, templates=TEMPLATES
    )


def test_a_fitted_table_holds_what_the_definition_says(table, tiny_backbone, pictures):
    assert table.names == tuple(WORDS) and table.pictures == 2 and table.base == "base"
    assert table.weights == (tiny_backbone.weights_hash,)
    share = np.array(table.share)
    assert share.shape == (4, 3)
    np.testing.assert_allclose(share.sum(1), 100, atol=1e-3)
    segmenter = Segmenter(tiny_backbone, base_recipe())
    rows = encode_texts(
        tiny_backbone, [f"no {word} at all." for word in WORDS], TextSettings(templates=("{}",))
    )
    entropies, labels = [], []
    for picture in pictures:
        pixels = segmenter.prepare(picture)
        logits = window_logits_of([segmenter], pixels, [rows], picture.shape[:2])[0].full()
        p = (100 * logits).softmax(0)
        entropies.append(-(p * p.log()).sum(0).flatten())
        labels.append(p.argmax(0).flatten())
    entropy, label = torch.cat(entropies), torch.cat(labels)
    for index in label.unique().tolist():
        expected = float(entropy[label == index].double().mean())
        assert abs(table.entropy[3][index] - expected) < 1e-4
    order = [t for t in np.argsort(np.array(table.entropy)[:, 0], kind="stable") if share[t, 0] > 0]
    assert list(table.chosen[0]) == order


def test_a_table_survives_its_file_and_segments(table, tiny_backbone, pictures, tmp_path):
    path = table.save(tmp_path / "table.json")
    assert TemplateTable.load(path) == table
    recipe = base_recipe().but(
        {"experts": {"table": str(path), "count": 2}, "labels.logit_scale": 100}
    )
    segmenter = Segmenter(tiny_backbone, recipe)
    result = segmenter(pictures[0], WORDS, keep_scores=True)
    assert result.mask.shape == (72, 96) and np.isfinite(result.scores).all()
    text = segmenter.text(WORDS)
    rows = segmenter.words(text).rows[3:].unflatten(0, (3, 3))
    best = [TEMPLATES[t] for t in table.chosen[1][:2]]
    expected = encode_texts(tiny_backbone, WORDS, TextSettings(templates=tuple(best)))
    assert relative_error(rows[1], expected) < 1e-5
    assert list(recipe["experts"].networks(tiny_backbone)) == ["template table"]


def test_other_words_and_other_weights_are_refused(table, tiny_backbone, tmp_path):
    path = str(table.save(tmp_path / "table.json"))
    recipe = base_recipe().but({"experts.table": path, "experts.count": 2})
    with pytest.raises(RecipeError, match="other words.*lacks 'cow'"):
        Segmenter(tiny_backbone, recipe)(np.zeros((64, 64, 3), np.uint8), ["cat", "cow"])
    with pytest.raises(RecipeError, match="also competes with 'sky'"):
        Segmenter(tiny_backbone, recipe)(np.zeros((64, 64, 3), np.uint8), ["cat", "dog"])
    with pytest.raises(RecipeError, match="read as cat, not as"):
        table.check_words(Vocabulary.from_words({"cat": ["kitten"], "dog": [], "sky": []}))
    assert table.top(Vocabulary.from_words(["sky", "cat", "dog"]), 2)[1] == list(
        table.chosen[0][:2]
    )
    other = dataclasses.replace(table, weights=("0123456789abcdef",))
    other.save(path)
    with pytest.raises(RecipeError, match="0123456789abcdef.*rank_templates"):
        Segmenter(tiny_backbone, recipe)


def test_no_table_no_picture_and_no_place_for_the_word_are_refused(
    tiny_backbone, pictures, tmp_path
):
    segmenter = Segmenter(tiny_backbone, base_recipe())
    with pytest.raises(RecipeError, match="experts.table is empty"):
        Segmenter(tiny_backbone, base_recipe().but(experts=True))(pictures[0], WORDS)
    with pytest.raises(DataError, match="no pictures"):
        rank_templates(segmenter, [], WORDS)
    with pytest.raises(RecipeError, match="where the word goes"):
        rank_templates(segmenter, pictures, WORDS, templates=["a cat."])
    with pytest.raises(RecipeError, match="without it"):
        rank_templates(Segmenter(tiny_backbone, base_recipe().but(experts=True)), pictures, WORDS)
    with pytest.raises(DataError, match="no table of templates 'nowhere'"):
        Segmenter(tiny_backbone, base_recipe().but({"experts.table": "nowhere"}))
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    with pytest.raises(DataError, match="broken.json: not a table"):
        TemplateTable.load(broken)


def test_bare_text_features_and_too_many_words_are_refused(tiny_backbone, tiny_inputs, monkeypatch):
    segmenter = Segmenter(tiny_backbone, Recipe("x").but(experts=True))
    with pytest.raises(RecipeError, match="rows of their templates"):
        segmenter.logits(tiny_inputs["image_64x64"], tiny_inputs["text"])
    with pytest.raises(MemoryBudgetError, match="use fewer words"):
        experts.check_rows(10**12, 512)
    for values in ({"count": 0}, {"logit_scale": 0.0}):
        with pytest.raises(RecipeError, match="experts"):
            ExpertsSettings(**values)


def test_a_class_that_no_template_predicts_reads_with_all_of_them(table):
    chosen = (table.chosen[0], (), table.chosen[2])
    made = dataclasses.replace(table, chosen=chosen)
    assert made.top(Vocabulary.from_words(WORDS), 2)[1] == [0, 1, 2, 3]
    with pytest.raises(DataError, match="template 9"):
        dataclasses.replace(table, chosen=((9,), (0,), (0,)))


@pytest.mark.parametrize("name", ["cityscapes", "voc20", "context59", "ade20k", "coco_stuff"])
def test_published_choices_are_shipped_as_recorded(name):
    recorded = {"voc20": "pascalvoc20", "context59": "pascalco59", "coco_stuff": "cocostuff"}
    table = TemplateTable.load(f"naclip-{name}")
    expected = RECORDED[f"published_top4_naclip__{recorded.get(name, name)}"]
    assert [list(one) for one in table.chosen] == expected.tolist()
    assert table.templates == imagenet_templates()
    vocabulary = Vocabulary.named(name, names="sclip")
    assert [len(one) for one in table.top(vocabulary, 4)] == [4] * len(vocabulary)
    table.check_model("ViT-B-16-quickgelu", "openai", "some other file")
    table.check_model("ViT-B-16", "weights/ViT-B-16.pt", "5806e77cd80f8b59")
    with pytest.raises(RecipeError, match="fitted with the weights of ViT-B-16 openai"):
        table.check_model("ViT-L-14", "openai", "b8cca3fd41ae0c99")
    with pytest.raises(RecipeError, match="holds 4 templates"):
        table.top(vocabulary, 5)
    assert f"naclip-{name}" in shipped_tables()
