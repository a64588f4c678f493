"""Each distinct prefix goes through the text tower once, and the features are those of one sentence at a time."""

import copy

import pytest
import torch
from engine_cases import small_dataset

from ovsslib.clip import shared_prefixes
from ovsslib.clip.backbone import Backbone
from ovsslib.clip.shared_prefixes import can_share, encode_sharing, prefix_trees
from ovsslib.evaluation.engine import evaluate
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.text import features
from ovsslib.text.features import encode_prompts, encode_texts
from ovsslib.text.prompts import TextSettings

WORDS = ("dog", "door", "traffic light", "a small brown dog with a very long tail", "sky")
PROMPTS = [
    prompt for word in WORDS for prompt in TextSettings(prompts="imagenet80").prompts_for(word)
]


def text_model(**changes) -> Backbone:
    from open_clip.model import CLIP

    torch.manual_seed(3)
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3}
    precision = changes.pop("precision", "fp32")
    net = CLIP(embed_dim=24, vision_cfg=vision, text_cfg={**text, **changes})
    # the seeded biases and scales are zeros and ones, which would hide a part that is left out
    for parameter in net.transformer.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return Backbone(net, name="tiny", weights_hash="seed 3", precision=precision)


@pytest.fixture(scope="module")
def model() -> Backbone:
    return text_model()


def alone(model: Backbone, prompts: list[str]) -> torch.Tensor:
    return torch.cat([model.encode_text(model.tokenize([prompt])) for prompt in prompts])


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("prefixes", [4096, 300, 1])
def test_equal_to_one_sentence_at_a_time(model, monkeypatch, prefixes):
    monkeypatch.setattr(shared_prefixes, "PREFIXES_PER_BATCH", prefixes)
    monkeypatch.setattr(shared_prefixes, "_TOKENS_PER_ATTENTION", min(prefixes, 200))
    assert can_share(model)
    features = encode_prompts(model, PROMPTS, share=True)
    assert features.dtype == torch.float32 and features.shape == (len(PROMPTS), 24)
    assert relative(features, alone(model, PROMPTS)) < 1e-6


def test_bf16_reads_words_in_float32(model):
    half = text_model(precision="bf16")
    shared = encode_prompts(model, PROMPTS, share=True)
    assert torch.equal(shared, encode_prompts(half, PROMPTS, share=True))
    assert not can_share(text_model(precision="fp16"))


def test_other_sentences_do_not_matter(model):
    few = encode_prompts(model, PROMPTS[::7], share=True)
    assert relative(few, encode_prompts(model, PROMPTS, share=True)[::7]) < 1e-6


def test_repeated_cut_and_nested_sentences(model):
    prompts = ["dog", "dog " * 90, "dog dog", "dog", "a dog", "dog dog dog"]
    tokens = model.tokenize(prompts)
    assert torch.equal(encode_sharing(model, tokens)[0], encode_sharing(model, tokens)[3])
    each = torch.cat([model.encode_text(row[None]) for row in tokens])
    assert relative(encode_sharing(model, tokens), each) < 1e-6


def test_a_prefix_is_in_one_place_of_the_batch(model):
    tokens = model.tokenize(PROMPTS)
    ends = tokens.argmax(dim=1).tolist()
    rows = [row[: end + 1] for row, end in zip(tokens.tolist(), ends, strict=True)]
    distinct = {tuple(row[:stop]) for row in rows for stop in range(1, len(row) + 1)}
    ((places, tree),) = prefix_trees(tokens.numpy())
    assert len(tree) == len(distinct) < sum(map(len, rows)) / 1.5
    assert sorted(places.tolist()) == list(range(len(PROMPTS)))
    for group in tree.sentences:
        for row, prefixes in zip(group.rows.tolist(), group.prefixes, strict=True):
            assert tree.tokens[prefixes].tolist() == rows[places[row]]
            assert tree.places[prefixes].tolist() == list(range(len(prefixes)))
    starts = torch.cat([group.prefixes.flatten()[group.first] for group in tree.sentences])
    assert torch.equal(starts.sort().values, torch.arange(len(tree)))


def test_batches_are_bounded(model, monkeypatch):
    monkeypatch.setattr(shared_prefixes, "PREFIXES_PER_BATCH", 300)
    monkeypatch.setattr(shared_prefixes, "_TOKENS_PER_ATTENTION", 200)
    batches = list(prefix_trees(model.tokenize(PROMPTS).numpy()))
    sizes = [len(tree) for _, tree in batches]
    assert len(sizes) > 3 and max(sizes) <= 300 and min(sizes[:-1]) > 200
    assert max(g.prefixes.numel() for _, tree in batches for g in tree.sentences) <= 200
    rows = [row for places, _ in batches for row in places.tolist()]
    assert sorted(rows) == list(range(len(PROMPTS)))


def test_other_towers_go_the_other_way(model):
    assert not can_share(text_model(precision="fp16"))
    assert not can_share(text_model(no_causal_mask=True))
    changed = text_model()
    changed.model.attn_mask[0, 1] = 0  # prefix tokens that see each other
    assert not can_share(changed)
    assert not can_share(object())


def test_what_was_shared_is_kept_apart(model, tmp_path, monkeypatch):
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path))
    words, calls = list(WORDS), []
    encode = shared_prefixes.encode_sharing
    monkeypatch.setattr(
        features, "encode_sharing", lambda *each: calls.append(len(each[1])) or encode(*each)
    )
    features.clear_memory()
    shared = encode_texts(model, words, share=True)
    assert calls == [80 * len(words)] and torch.equal(
        encode_texts(model, words, share=True), shared
    )
    plain = encode_texts(model, words)
    features.clear_memory()
    assert torch.equal(encode_texts(model, words), plain)  # as if nobody had asked before
    assert len(list((tmp_path / "text").iterdir())) == 2 and len(calls) == 1
    assert 0 < relative(shared, plain) < 1e-6


def test_users_share_and_measurements_do_not(tiny_backbone, tmp_path, monkeypatch):
    calls = []
    encode = shared_prefixes.encode_sharing
    monkeypatch.setattr(
        features, "encode_sharing", lambda *each: calls.append(len(each[1])) or encode(*each)
    )
    backbone = copy.copy(tiny_backbone)
    backbone.weights_hash = ""  # nothing comes from a cache
    segmenter = Segmenter(backbone, Recipe.named("sclip"))
    alone = segmenter.text(["dog", "cat"], share=False).features
    assert not calls
    together = segmenter.text(["dog", "cat"]).features
    assert calls == [160] and relative(together, alone) < 1e-6
    evaluate(segmenter, small_dataset(tmp_path, images=1), progress=False, store=False)
    assert calls == [160]
