"""The text classifier: exact, mixed as published, and with a cache that can be trusted."""

import multiprocessing
import os
import signal
import warnings

import pytest
import torch
import torch.nn.functional as F

from ovsslib import paths
from ovsslib.clip.backbone import Backbone
from ovsslib.errors import WordsError
from ovsslib.text import features as classifier
from ovsslib.text.features import (
    clear_memory,
    encode_prompts,
    encode_queries,
    encode_texts,
    tokenize,
    unknown_words,
)
from ovsslib.text.prompts import TextSettings
from ovsslib.text.vocabulary import Vocabulary

SINGLE = TextSettings(prompts="single")


class Counting:
    """A tiny random CLIP text tower that counts what goes through it."""

    def __init__(self, backbone: Backbone, weights_hash: str = "counting"):
        self.backbone, self.weights_hash = backbone, weights_hash
        self.context_length, self.rows, self.lengths = backbone.context_length, 0, []

    def tokenize(self, texts):
        return self.backbone.tokenize(texts)

    def token_counts(self, texts):
        return self.backbone.token_counts(texts)

    def encode_text(self, tokens):
        self.rows += len(tokens)
        self.lengths.append(tokens.shape[1])
        return self.backbone.encode_text(tokens)


def text_model(context_length: int = 77) -> Backbone:
    from open_clip.model import CLIP

    torch.manual_seed(3)
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1}
    text = {
        "context_length": context_length,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 3,
    }
    net = CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text)
    return Backbone(net, name="tiny", weights_hash="seed 3")


@pytest.fixture(scope="module")
def model() -> Backbone:
    return text_model()


@pytest.fixture
def counting(model, monkeypatch, tmp_path) -> Counting:
    """A fresh counter on the tiny model, with an empty cache."""
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path))
    clear_memory()
    yield Counting(model)
    clear_memory()


def one_by_one(
    model: Backbone, word: str, settings: TextSettings, kind: str = "thing"
) -> torch.Tensor:
    """A word's feature the slow way: every prompt alone, at the full 77 tokens."""
    rows = [
        model.encode_text(model.tokenize([prompt]))[0]
        for prompt in settings.prompts_for(word, kind)
    ]
    if settings.normalise_each:
        rows = [row / row.norm() for row in rows]
    mean = torch.stack(rows).mean(dim=0)
    return mean / mean.norm()


@pytest.mark.parametrize("normalise_each", [True, False])
def test_equal_to_one_prompt_at_a_time(model, counting, normalise_each):
    settings = TextSettings(normalise_each=normalise_each)
    words = Vocabulary.from_words({"dog": ["small brown dog with a very long tail"], "sky": None})
    text = encode_queries(counting, words, settings)
    assert text.features.shape == (3, 24) and text.features.dtype == torch.float32
    expected = torch.stack([one_by_one(model, word, settings) for word in words.queries])
    assert (text.features - expected).abs().max() < 1e-5
    assert text.query_class.tolist() == [0, 0, 1] and len(text) == 3
    assert max(counting.lengths) < 30 and len(counting.lengths) > 3


def test_plain_mean_differs_from_normalised(counting):
    each = encode_texts(counting, ["dog"], TextSettings())
    plain = encode_texts(counting, ["dog"], TextSettings(normalise_each=False))
    assert (each - plain).abs().max() > 1e-5


def test_prompts_come_back_in_their_order(model, counting):
    prompts = [
        "a very long sentence about nothing at all",
        "dog",
        "a dog",
        "cat",
        "a photo of a dog.",
    ]
    together = encode_prompts(counting, prompts)
    assert counting.lengths == sorted(counting.lengths)
    alone = torch.cat([model.encode_text(model.tokenize([prompt])) for prompt in prompts])
    assert (together - alone).abs().max() < 1e-5


def test_deterministic_whatever_the_batch(counting, monkeypatch):
    words = [f"thing {n}" for n in range(50)]
    first = encode_texts(counting, words, SINGLE)
    clear_memory()
    assert torch.equal(encode_texts(Counting(counting.backbone, "again"), words, SINGLE), first)
    monkeypatch.setattr(classifier, "TOKENS_PER_BATCH", 16)
    small = encode_texts(Counting(counting.backbone, "small batches"), words, SINGLE)
    assert (small - first).abs().max() < 1e-5


def test_each_prompt_is_encoded_once(counting):
    words = Vocabulary.from_words(["dog", "cat"], background=["bed", "dog house"])
    encode_queries(counting, words, TextSettings(templates=("a {}", "a {}", "the {}")))
    assert counting.rows == 4 * 2


def test_kinds_reach_the_prompts(model, counting):
    settings = TextSettings(prompts="adaptive")
    words = Vocabulary.from_words(["dog", "grass", "brick wall"])
    features = encode_queries(counting, words, settings).features
    for row, word, kind in zip(features, words.queries, words.kinds, strict=True):
        assert (row - one_by_one(model, word, settings, kind)).abs().max() < 1e-5


def test_auxiliary_texts_are_mixed_as_published(counting):
    words = Vocabulary.from_words({"dog": ["puppy"], "cat": None}, background=["sky", "wall"])
    settings = TextSettings(prompts="single", auxiliary="definitions", auxiliary_weight=0.2)
    plain = encode_queries(counting, words, SINGLE).features
    extra = encode_texts(counting, ["a barking pet", "a purring pet"], SINGLE)
    mixed = encode_queries(counting, words, settings, ["a barking pet", "a purring pet"]).features
    assert torch.equal(mixed[:2], plain[:2])  # background
    expected = 0.8 * plain[2:] + 0.2 * extra[[0, 0, 1]]
    assert (mixed[2:] - expected).abs().max() < 1e-6
    assert (mixed[2:].norm(dim=-1) < 1).all()  # not normalised again
    aligned = encode_queries(counting, words, settings, [None, "a barking pet", "a purring pet"])
    assert torch.equal(aligned.features, mixed)
    ignored = encode_queries(
        counting, words, settings, ["scenery", "a barking pet", "a purring pet"]
    )
    assert torch.equal(ignored.features, mixed)
    partly = encode_queries(counting, words, settings, [None, None, "a purring pet"]).features
    assert torch.equal(partly[:4], plain[:4]) and torch.equal(partly[4], mixed[4])
    nothing = encode_queries(counting, words, settings, [None, None, None]).features
    assert torch.equal(nothing, plain)


def test_weight_nought_needs_no_texts(counting):
    words = Vocabulary.from_words(["dog"])
    settings = TextSettings(prompts="single", auxiliary="synonyms", auxiliary_weight=0.0)
    assert len(encode_queries(counting, words, settings)) == 1


@pytest.mark.parametrize(
    ("texts", "message"), [(None, "none are given"), (["a", "b", "c"], "3 auxiliary texts")]
)
def test_auxiliary_texts_that_do_not_fit(counting, texts, message):
    words = Vocabulary.from_words(["dog", "cat"])
    settings = TextSettings(auxiliary="definitions", auxiliary_weight=0.2)
    with pytest.raises(WordsError, match=message):
        encode_queries(counting, words, settings, texts)


def test_too_long_a_text_says_how_long(counting):
    phrase = "extraordinarily " * 90
    tokens = counting.token_counts([f"a photo of a {phrase.strip()}."])[0]
    assert tokens > 77
    with pytest.raises(WordsError, match=f"has {tokens} tokens.*at most 77.*truncate"):
        encode_texts(counting, [phrase.strip()], SINGLE)
    cut = encode_texts(counting, [phrase.strip()], TextSettings(prompts="single", truncate=True))
    assert cut.shape == (1, 24) and torch.isfinite(cut).all()


def test_300_characters_and_the_exact_limit(model, counting):
    phrase = ("a striped cat on a red sofa beside a window " * 7)[:300].strip()
    assert encode_texts(counting, [phrase], SINGLE).shape == (1, 24)
    for words, fits in ((75, True), (76, False)):
        text = "dog " * words
        assert counting.token_counts([text]) == [words + 2]
        if fits:
            assert tokenize(counting, [text]).shape == (1, 77)
        else:
            with pytest.raises(WordsError, match="has 78 tokens"):
                tokenize(counting, [text])


def test_a_shorter_context_is_respected(monkeypatch, tmp_path):
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path))
    short = text_model(16)
    assert tokenize(short, ["dog " * 14]).shape == (1, 16)
    with pytest.raises(WordsError, match="has 17 tokens.*at most 16"):
        tokenize(short, ["dog", "dog " * 15])
    cut = tokenize(short, ["dog", "dog " * 15], truncate=True)
    assert cut.shape == (2, 16) and cut[1, 15] == 49407 and (cut[1, :15] != 49407).all()
    assert encode_texts(short, ["dog"], TextSettings()).shape == (1, 24)


@pytest.mark.parametrize("word", ["🐕", "كلب أسود", "{dog}", "{}", "dog\u200f"])
def test_unusual_words_are_encoded(counting, word):
    features = encode_texts(counting, [word, "dog"], SINGLE)
    assert torch.isfinite(features).all()
    assert torch.allclose(features.norm(dim=-1), torch.ones(2), atol=1e-5)
    assert (features[0] - features[1]).abs().max() > 1e-4


def test_two_thousand_words(counting):
    words = Vocabulary.from_words([f"thing number {n}" for n in range(2000)])
    text = encode_queries(counting, words, SINGLE)
    assert text.features.shape == (2000, 24) and counting.rows == 2000
    assert len(counting.lengths) < 60


def test_no_texts(counting):
    with pytest.raises(WordsError, match="no texts"):
        encode_texts(counting, [])


def test_words_the_model_never_saw_are_named(model, counting):
    assert unknown_words(counting, ["dog"]) == []
    counting.known_token_ids = model.tokenize(["a photo of a dog."]).unique()
    assert unknown_words(counting, ["dog", "a dog", "otter"]) == ["otter"]
    with pytest.warns(UserWarning, match="never trained on 'otter'"):
        encode_queries(counting, Vocabulary.from_words(["dog", "otter"]), SINGLE)


# ---- the cache


def entries() -> list:
    return sorted(paths.cache("text").glob("*.safetensors"))


def test_memory_and_disk(counting):
    first = encode_texts(counting, ["dog", "cat"], SINGLE)
    assert counting.rows == 2 and len(entries()) == 1
    # What callers do to their copy stays theirs.
    encode_texts(counting, ["dog", "cat"], SINGLE).zero_()
    assert torch.equal(encode_texts(counting, ["dog", "cat"], SINGLE), first)
    clear_memory()
    assert torch.equal(encode_texts(counting, ["dog", "cat"], SINGLE), first)
    assert counting.rows == 2 and not list(paths.cache("text").glob(".*"))


def test_the_key_holds_everything_that_matters(model, counting):
    encode_texts(counting, ["dog"], SINGLE)
    encode_texts(counting, ["cat"], SINGLE)
    encode_texts(counting, ["dog"], TextSettings(prompts="none"))
    encode_texts(counting, ["dog"], TextSettings(prompts="single", normalise_each=False))
    encode_texts(counting, ["dog"], TextSettings(prompts="single", truncate=True))
    encode_texts(Counting(model, "other weights"), ["dog"], SINGLE)
    assert len(entries()) == 6
    encode_texts(counting, ["dog"], TextSettings(prompts="single", names="sclip"))  # same prompts
    assert len(entries()) == 6


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text", "swap"])
def test_a_damaged_or_foreign_entry_is_rebuilt(counting, damage):
    first = encode_texts(counting, ["dog"], SINGLE)
    entry = entries()[0]
    content = entry.read_bytes()
    if damage == "swap":  # a sound entry that belongs to another word
        encode_texts(counting, ["cat"], SINGLE)
        other = next(path for path in entries() if path != entry)
        broken = other.read_bytes()
    else:
        flipped = content[:-3] + bytes([content[-3] ^ 255]) + content[-2:]
        broken = {"flip": flipped, "cut": content[:-9], "empty": b"", "text": b"nonsense" * 9}[
            damage
        ]
    entry.write_bytes(broken)
    clear_memory()
    rows = counting.rows
    assert torch.equal(encode_texts(counting, ["dog"], SINGLE), first)
    assert counting.rows == rows + 1
    clear_memory()
    assert torch.equal(encode_texts(counting, ["dog"], SINGLE), first)
    assert counting.rows == rows + 1 and entry.read_bytes() == content


def test_a_disk_that_cannot_be_written_costs_only_time(counting, monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("OVSSLIB_CACHE", str(blocked))
    with pytest.warns(UserWarning, match="not kept on disk"):
        features = encode_texts(counting, ["dog"], SINGLE)
    assert features.shape == (1, 24)


def test_leftovers_of_killed_writers_are_swept(counting):
    folder = paths.cache("text")
    old, young = folder / ".a.1.part", folder / ".b.2.part"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    encode_texts(counting, ["dog"], SINGLE)
    assert not old.exists() and young.exists()


def _write_many(cache: str, key: str, value: float, barrier, rounds: int) -> None:
    os.environ["OVSSLIB_CACHE"] = cache
    barrier.wait(60)
    for _ in range(rounds):
        classifier._store(key, torch.full((400, 64), value))


def _write_and_die(cache: str, key: str) -> None:
    os.environ["OVSSLIB_CACHE"] = cache

    def die(source, target):
        os.kill(os.getpid(), signal.SIGKILL)

    os.replace = die
    classifier._store(key, torch.ones(4, 8))


def test_two_processes_write_the_same_entry(counting, tmp_path):
    """While two processes write one entry over and over, a reader sees a whole entry or none."""
    context = multiprocessing.get_context("fork")
    barrier, key = context.Barrier(3), "k" * 64
    writers = [
        context.Process(target=_write_many, args=(str(tmp_path), key, value, barrier, 60))
        for value in (1.0, 2.0)
    ]
    for writer in writers:
        writer.start()
    barrier.wait(60)
    while any(writer.is_alive() for writer in writers):
        clear_memory()
        written = bool(entries())
        features = classifier._recall(key)
        assert features is not None or not written
        if features is not None:
            assert features.shape == (400, 64) and features.unique().numel() == 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    clear_memory()
    assert float(classifier._recall(key)[0, 0]) in (1.0, 2.0)
    assert not list(paths.cache("text").glob(".*.part"))


def test_a_writer_killed_half_way_leaves_nothing_that_is_read(counting, tmp_path):
    key = "d" * 64
    process = multiprocessing.get_context("fork").Process(
        target=_write_and_die, args=(str(tmp_path), key)
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(list(paths.cache("text").glob(".*.part"))) == 1
    assert classifier._recall(key) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier._store(key, torch.ones(4, 8))
    clear_memory()
    assert torch.equal(classifier._recall(key), torch.ones(4, 8))


def test_features_are_ordinary_tensors(counting):
    features = encode_queries(counting, Vocabulary.from_words(["dog"]), SINGLE).features
    assert not features.is_inference() and not features.requires_grad
    features += 1  # would fail on an inference tensor
    assert F.normalize(features, dim=-1).shape == (1, 24)
