"""CaR against the recorded outputs of its official code: prompts, rounds, label maps; two loops, a second tower."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY_CONFIG, relative_error, vectors

from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import build_model
from ovsslib.errors import ImageError, ModelError, RecipeError
from ovsslib.images.pictures import normalise
from ovsslib.images.preprocessing import centre_square, clip_pixels, whole_patches
from ovsslib.recipe import Recipe, make_settings
from ovsslib.segmenter import Segmenter, Words
from ovsslib.segmenter.encoding import PictureInput, encode_pictures
from ovsslib.stages.cam_scores import crf_image, with_background
from ovsslib.stages.class_activation import averaged_blocks, read_whole_picture
from ovsslib.stages.clip_as_rnn import ClipAsRnn
from ovsslib.stages.contexts import WholePictureContext
from ovsslib.stages.fully_connected import densecrf
from ovsslib.stages.recurrence import (
    Round,
    RoundSettings,
    class_tokens,
    enlarged,
    last_maps,
    one_round,
    recur,
    word_shares,
)
from ovsslib.stages.visual_prompts import grey_levels, visual_prompt
from ovsslib.text.features import TextFeatures
from ovsslib.text.vocabulary import Vocabulary

RECORDED = vectors("car")
IMAGE = RECORDED["image_u8"].numpy()
TOLERANCE = 1e-4
RUNS = {
    "circle_blur": {
        "confidence": 0.2, "mask_threshold": 0.4, "box_threshold": 0.4, "prompts": ("circle", "blur")
    },
    "blur_gray": {
        "confidence": 0.15, "mask_threshold": 0.5, "box_threshold": 0.5, "prompts": ("blur", "gray")
    },
}  # fmt: skip
SCALES = {"logit_scale": 20.0, "score_scale": 5.0}


def recorded(run: str, name: str, number: int) -> torch.Tensor | None:
    return RECORDED.get(f"{run}__{name}_round{number}")


@pytest.fixture(scope="module")
def rounds(tiny_backbone) -> dict[str, list[Round]]:
    """All rounds of both runs."""
    pixels = clip_pixels(whole_patches(IMAGE, 16))[None]
    reading = read_whole_picture(tiny_backbone, pixels, averaged_blocks(12, 8))
    bare, templates = RECORDED["text_raw"], RECORDED["text_templates"]
    made = {}
    for run, values in RUNS.items():
        settings = RoundSettings(**values, **SCALES)

        def step(number: int, words: torch.Tensor, settings=settings) -> Round:
            rows = templates[0] if number else bare
            return one_round(
                tiny_backbone, tiny_backbone, reading, IMAGE, words, rows[words],
                RECORDED["text_background"], templates[:, words], settings,
            )  # fmt: skip

        made[run] = recur(step, 5)
    return made


# -- parts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", RUNS)
def test_prompts_agree_in_every_pixel(run):
    """Of the recorded masks."""
    values = RUNS[run]
    for mask, prompted in zip(
        recorded(run, "masks", 1).numpy(), recorded(run, "prompted", 1).numpy(), strict=True
    ):
        ours = visual_prompt(IMAGE, mask, values["prompts"], values["mask_threshold"])
        assert np.array_equal(ours, prompted)
        again = visual_prompt(IMAGE, mask, reversed(values["prompts"]), values["mask_threshold"])
        assert np.array_equal(again, prompted)


@pytest.mark.parametrize("run", RUNS)
def test_scores_of_prompted_pictures_agree(run, tiny_backbone):
    tokens = class_tokens(tiny_backbone, list(recorded(run, "prompted", 1).numpy()))
    shares = word_shares(tokens, RECORDED["text_templates"], 5.0)
    assert relative_error(shares, recorded(run, "text_scores", 1)) < TOLERANCE


@pytest.mark.parametrize("run", RUNS)
def test_rounds_agree_with_the_official_code(run, rounds):
    kept, scores = RECORDED[f"{run}__kept"], RECORDED[f"{run}__mask_scores"]
    assert len(rounds[run]) == len(kept)
    for number, done in enumerate(rounds[run], start=1):
        named = {
            "cam": done.maps.activations, "refined": done.maps.refined, "masks": done.masks,
        }  # fmt: skip
        for name, ours in named.items():
            theirs = recorded(run, name, number)
            if theirs is not None:
                assert relative_error(ours, theirs) < TOLERANCE, (name, number)
        # a single pixel of a mask at its threshold moves a score by 6e-4 (prompts and scores: tests above)
        assert relative_error(done.shares, recorded(run, "text_scores", number)) < 1e-3
        mine = torch.zeros(5, dtype=torch.uint8)
        mine[done.words[done.kept]] = 1
        assert torch.equal(mine, kept[number - 1])
        for word, score in zip(done.words[done.kept], done.scores[done.kept], strict=True):
            assert score == pytest.approx(float(scores[number - 1, word]), rel=2e-3)
    if run == "circle_blur":
        assert torch.equal(rounds[run][0].maps.fell_back, RECORDED[f"{run}__fell_back_round1"])


@pytest.mark.parametrize("run", RUNS)
def test_label_maps_agree_with_the_official_code(run, rounds):
    words, maps = last_maps(rounds[run])
    names = torch.cat([torch.zeros(1, dtype=torch.long), words + 1])
    shares = with_background(enlarged(maps, IMAGE.shape[:2]))
    plain = names[shares.argmax(dim=0)].to(torch.uint8)
    assert torch.equal(plain, RECORDED[f"{run}__label_no_crf"])
    refined = torch.from_numpy(densecrf(crf_image(IMAGE), shares, "deeplab", tolerance=0))
    if run == "circle_blur":
        assert (refined - RECORDED["circle_blur__crf_q"]).abs().max() < 5e-3
    smooth = names[refined.argmax(dim=0)].to(torch.uint8)
    assert torch.equal(smooth, RECORDED[f"{run}__label_crf"])
    scores = torch.zeros(5)
    scores[words] = rounds[run][-1].scores
    assert relative_error(scores, RECORDED[f"{run}__scores"]) < TOLERANCE


@pytest.mark.parametrize("run", RUNS)
def test_the_flow_agrees_with_the_official_code(run, tiny_backbone):
    recipe = Recipe("vector").but(
        car={**RUNS[run], **SCALES}, cam_scores={"half": False, "crf": "deeplab"}
    )
    segmenter, settings = Segmenter(tiny_backbone, recipe), recipe["car"]
    vocabulary = Vocabulary.from_words(list("abcde"), background=["x"])
    queries = torch.arange(6)
    front = RECORDED["text_raw"][:1]  # the background's own row, which has no part
    text = TextFeatures(torch.cat([front, RECORDED["text_raw"]]), queries, vocabulary)
    templates = torch.cat([RECORDED["text_templates"][:, :1], RECORDED["text_templates"]], dim=1)
    texts = {
        "maps": templates[0], "templates": templates.flatten(0, 1),
        "background": RECORDED["text_background"], "stuff": torch.zeros(6, dtype=torch.bool),
    }  # fmt: skip
    words = Words(text.features, 6, queries, 0, {settings: texts})
    picture = PictureInput(normalise(IMAGE), IMAGE)
    encoded = encode_pictures([segmenter], picture, [words])[0]
    stitched = encoded.logits(words, IMAGE.shape[:2])
    for crf, name in (("", "label_no_crf"), ("deeplab", "label_crf")):
        one = Segmenter(tiny_backbone, recipe.but({"cam_scores.crf": crf}))
        labels = one.finish(stitched, IMAGE, picture, text).labels
        assert np.array_equal(labels, RECORDED[f"{run}__{name}"].numpy())


def test_words_without_a_role_give_one_template(tiny_backbone):
    """Rows alone: they are both text and template, what stands behind them competes."""
    settings = make_settings("car", {**RUNS["blur_gray"], **SCALES})
    rows = torch.cat([RECORDED["text_raw"], RECORDED["text_background"]])
    context = WholePictureContext(
        tiny_backbone, normalise(IMAGE), IMAGE, IMAGE.shape[:2], Words(rows, 5)
    )
    ((words, made),) = settings.loops(context)
    assert words.tolist() == [0, 1, 2, 3, 4]
    first = made[0].masks
    assert relative_error(first, recorded("blur_gray", "masks", 1)) < TOLERANCE


# -- prompts -----------------------------------------------------------------------------------------------


def test_grey_levels_have_red_and_blue_exchanged():
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], dtype=np.uint8)
    assert grey_levels(colours).tolist() == [[29, 150, 76, 255]]


def test_a_mask_of_next_to_nothing_leaves_the_picture():
    mask = np.zeros(IMAGE.shape[:2])
    mask[3, 4] = 1.0
    assert visual_prompt(IMAGE, mask, ("black",), 0.5) is IMAGE
    mask[3, 5] = 1.0
    black = visual_prompt(IMAGE, mask, ("black",), 0.5)
    assert black.any(axis=2).sum() == 2
    mask[:] = 0.4  # nothing is above the threshold: all is outside, and there is nothing to circle
    assert not visual_prompt(IMAGE, mask, ("black", "circle"), 0.5).any()


def test_prompts_name_what_is_wrong():
    with pytest.raises(RecipeError, match="unknown visual prompt 'box'; known: blur"):
        visual_prompt(IMAGE, np.ones(IMAGE.shape[:2]), ("box",), 0.5)
    with pytest.raises(ImageError, match=r"\(3, 3\) does not fit"):
        visual_prompt(IMAGE, np.ones((3, 3)), ("blur",), 0.5)


def test_the_middle_square_is_what_the_scorer_sees():
    picture = np.zeros((75, 105, 3), dtype=np.uint8)
    picture[:, 15:90] = 200
    square = centre_square(picture, 64)
    assert square.shape == (64, 64, 3) and square[:, 2:-2].min() > 190
    assert centre_square(picture.transpose(1, 0, 2), 64).shape == (64, 64, 3)
    assert np.array_equal(centre_square(picture[:64, :64], 64), picture[:64, :64])


# -- the loop ----------------------------------------------------------------------------------------------


def fake_round(words: torch.Tensor, kept: list[bool], value: float = 1.0) -> Round:
    maps = type("Maps", (), {"maps": torch.full((len(words), 2, 2), value)})
    none = torch.zeros(0)
    return Round(words, maps, none, [], none, none, torch.tensor(kept))


def test_the_loop_ends_when_nobody_leaves():
    plan = [[True, False, True, True], [True, True, False], [True, True]]
    done = recur(lambda number, words: fake_round(words, plan[number]), 4)
    assert [one.words.tolist() for one in done] == [[0, 1, 2, 3], [0, 2, 3], [0, 2]]
    done = recur(lambda number, words: fake_round(words, [True] * len(words)), 3)
    assert len(done) == 2  # the first round has none to compare with


def test_empty_maps_fall_back_to_the_round_before():
    first = fake_round(torch.arange(3), [True, False, True])
    first.maps.maps[:] = torch.arange(3.0)[:, None, None]
    last = fake_round(torch.tensor([0, 2]), [True, True], 0.0)
    words, maps = last_maps([first, last])
    assert words.tolist() == [0, 2] and maps[:, 0, 0].tolist() == [0.0, 2.0]
    _, nothing = last_maps([fake_round(torch.arange(2), [True, True], 0.0)] * 2)
    assert not nothing.any()


def test_one_word_scores_one():
    assert word_shares(torch.rand(1, 4), torch.rand(3, 1, 4), 100.0).tolist() == [[1.0]]


# -- the stage ---------------------------------------------------------------------------------------------

SMALL = {"windows": {"short_side": 64, "crop": 64, "stride": 32}, "text.prompts": "none"}


@pytest.fixture(scope="module")
def photo():
    rng = np.random.default_rng(1)
    return np.kron(rng.integers(0, 256, (4, 5, 3)), np.ones((16, 16, 1))).astype(np.uint8)


def test_stuff_has_a_loop_of_its_own_with_things_for_background(tiny_backbone, photo, monkeypatch):
    words = ["dog", "cat", "grass", "sky"]
    recipe = (
        Recipe("two")
        .but(SMALL)
        .but(
            car={"passes": "things over stuff", "confidence": 0.05, **SCALES},
            cam_scores={"passes": "things over stuff", "half": False},
        )
    )
    settings = recipe["car"]
    segmenter = Segmenter(tiny_backbone, recipe)
    text = segmenter.text(words)
    encoded = segmenter.words(text)
    assert encoded.texts[settings]["stuff"].tolist() == [False, False, True, True]
    # of the 23 background words those stay that are no things in play: all
    assert len(encoded.texts[settings]["background"]) == 23
    context = WholePictureContext(
        tiny_backbone, segmenter.prepare(photo), photo, photo.shape[:2], encoded
    )
    seen = []
    own = ClipAsRnn._rounds

    def watched(self, context, reading, part, prompts, stuff):
        seen.append((part.tolist(), prompts, stuff is not None))
        return own(self, context, reading, part, prompts, stuff)

    monkeypatch.setattr(ClipAsRnn, "_rounds", watched)
    maps = settings.picture_logits(context)
    assert seen == [([0, 1], ("blur", "circle"), False), ([2, 3], ("blur", "gray"), True)]
    assert (maps[:2].amax() > 0) and (maps[2:].amax() > 0)
    result = segmenter(photo, words, keep_scores=True)
    assert np.isfinite(result.scores).all() and result.scores.max() <= 1


def test_background_words_give_way_to_words_in_play(tiny_backbone):
    recipe = Recipe("one").but(SMALL).but(car=True)
    segmenter = Segmenter(tiny_backbone, recipe)
    for background, count in ((None, 21), (["grass", "wall"], 21)):
        words = segmenter.words(segmenter.text(["dog", "sky", "road"], background))
        assert len(words.texts[recipe["car"]]["background"]) == count


def test_a_second_tower_scores(tiny_backbone, photo, tmp_path, monkeypatch):
    torch.manual_seed(5)
    wider = {**TINY_CONFIG, "embed_dim": 20}
    model = build_model(wider)
    other = Backbone(model, name="other", weights_hash="0123456789abcdef")
    opened = []
    monkeypatch.setattr(
        "ovsslib.stages.clip_as_rnn.load_backbone",
        lambda name, weights, **k: opened.append((name, weights, k)) or other,
    )
    file = tmp_path / "weights.pt"
    recipe = Recipe("two").but(SMALL).but(car={"scorer": f"ViT-L-14/{file}", **SCALES})
    result = Segmenter(tiny_backbone, recipe)(photo, ["dog", "cat"], background=["wall"])
    assert result.mask.shape == photo.shape[:2]
    assert opened == [("ViT-L-14", str(file), {"device": "cpu", "precision": "fp32"})]
    assert recipe["car"].networks(tiny_backbone) == {"scorer": "0123456789abcdef"}
    assert make_settings("car").networks(tiny_backbone) == {}


def test_a_second_tower_is_never_fetched_unasked(tiny_backbone, photo, monkeypatch):
    monkeypatch.setattr("ovsslib.stages.clip_as_rnn.cached_pretrained", lambda name, tag: None)
    recipe = Recipe("far").but(SMALL).but(car={"scorer": "ViT-L-14-quickgelu/openai"})
    with pytest.raises(ModelError, match="nothing is fetched unasked.*load_backbone"):
        Segmenter(tiny_backbone, recipe)(photo, ["dog"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"confidence": 1.0}, "car.confidence=1.0"),
        ({"prompts": ("box",)}, "car.prompts: unknown visual prompt 'box'"),
        ({"score_prompts": "all"}, "car.score_prompts='all'"),
        ({"scorer": "openai"}, "car.scorer='openai': write it as MODEL/TAG"),
        ({"blocks": 0}, "car.blocks=0"),
        ({"score_scale": 0.0}, "car.score_scale=0.0"),
    ],
)
def test_bad_settings_are_named(values, message):
    with pytest.raises(RecipeError, match=message):
        make_settings("car", values)


def test_fields_without_a_part_are_named():
    inert = Recipe("one").but(car={"stuff_prompts": ("black",)}).inert()
    assert inert["car.stuff_prompts"] == "there is one pass"


def test_results_do_not_depend_on_who_asks(tiny_backbone, photo):
    recipe = Recipe("again").but(SMALL).but(car=SCALES, cam_scores={"crf": "deeplab"})
    runs = [Segmenter(tiny_backbone, recipe)(photo, ["dog", "cat", "car"]).mask for _ in range(2)]
    assert np.array_equal(*runs)
    assert json.dumps(recipe.resolved())
