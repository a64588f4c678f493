"""Auxiliary texts: the shipped tables, the official file format, and the generator."""

import importlib.util
import itertools
import re
import sys
import types
from collections import Counter

import open_clip
import pytest
import torch
import yaml

from ovsslib import paths
from ovsslib.errors import DataError, MissingPackageError, ModelError, WordsError
from ovsslib.text import auxiliary
from ovsslib.text.vocabulary import Vocabulary, available

# Data sets and their numbers of classes without the background, from their documentation.
CLASSES = {
    "voc20": 20,
    "voc21": 20,
    "context59": 59,
    "context60": 59,
    "coco_object": 80,
    "coco_stuff": 171,
    "cityscapes": 19,
    "ade20k": 150,
    "scenes": 34,
    "scenes-object": 20,
    "scenes-things": 20,
}
LISTS = sorted(set(CLASSES) | set(available()))
STOP_WORDS = re.compile(
    r"\b(an?|and|are|as|at|by|for|from|in|into|is|its?|no|not|off?|on|or|out|over|so|that|the|"
    r"their|to|under|up|which|with)\b"
)


def named_texts(vocabulary: str, kind: str) -> dict[str, str]:
    names = Vocabulary.named(vocabulary).names
    texts = auxiliary.auxiliary_texts(vocabulary, kind)
    return {name: text for name, text in zip(names, texts, strict=True) if text is not None}


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())


# ---- the shipped texts


@pytest.mark.parametrize("vocabulary", LISTS)
def test_every_class_of_every_vocabulary_has_both_texts(vocabulary):
    for kind in auxiliary.KINDS:
        assert len(named_texts(vocabulary, kind)) == CLASSES[vocabulary]


@pytest.mark.parametrize("vocabulary", LISTS)
def test_definitions_are_phrases_that_fit_a_prompt(vocabulary):
    longest = max(
        (t("@") for t in open_clip.OPENAI_IMAGENET_TEMPLATES), key=lambda t: len(t.split())
    )
    encoder = open_clip.tokenizer.SimpleTokenizer()
    # SceneCLIP may have a context of 32 tokens, CLIP has one of 77; two are the start and the end.
    limit = (32 if vocabulary.startswith("scenes") else 77) - 2
    for name, text in named_texts(vocabulary, "definitions").items():
        assert 5 <= len(text.split()) < 35, (name, text)
        assert text == text.strip() and text.isprintable() and not text.endswith("."), (name, text)
        assert text.split()[0] not in {"a", "an", "the", "A", "An", "The"}, (name, text)
        assert not re.search(r"\b(not|unlike|other than|rather than|instead)\b", text), (name, text)
        assert len(encoder.encode(longest.replace("@", text))) <= limit, (name, text)


@pytest.mark.parametrize("vocabulary", LISTS)
def test_definitions_follow_no_template(vocabulary):
    definitions = named_texts(vocabulary, "definitions")
    content = {n: set(words_of(STOP_WORDS.sub(" ", t))) for n, t in definitions.items()}
    for (one, left), (other, right) in itertools.combinations(content.items(), 2):
        overlap = len(left & right) / len(left | right)
        assert overlap <= 0.4, f"{one!r} and {other!r} share {overlap:.0%} of their words"
    runs = Counter()
    for text in definitions.values():
        words = words_of(text)
        runs.update({tuple(words[start : start + 4]) for start in range(len(words) - 3)})
    run, count = runs.most_common(1)[0]
    assert count <= 3, f"{' '.join(run)!r} stands in {count} definitions"
    first = Counter(words_of(text)[0] for text in definitions.values())
    assert first.most_common(1)[0][1] <= max(2, 0.1 * len(definitions)), first.most_common(3)


@pytest.mark.parametrize("vocabulary", LISTS)
def test_synonyms_are_short_and_tell_the_classes_apart(vocabulary):
    synonyms = named_texts(vocabulary, "synonyms")
    keys = [auxiliary._key(text) for text in synonyms.values()]
    assert len(set(keys)) == len(keys), [text for text, n in Counter(keys).items() if n > 1]
    assert not set(keys) & {auxiliary._key(name) for name in synonyms}, "a synonym names a class"
    assert all(
        1 <= len(text.split()) <= auxiliary.WORD_LIMITS["synonyms"] for text in synonyms.values()
    )


def test_files_say_who_wrote_them_and_hold_nothing_unused():
    used = set()
    for vocabulary in available():
        entries = auxiliary._files()[auxiliary._owner(vocabulary)]["classes"]
        own = {auxiliary._key(name) for name in entries}
        for name in Vocabulary.named(vocabulary).names:
            key = auxiliary._key(name)
            stem = auxiliary._owner(vocabulary) if key in own else "common"
            used.add((stem, key))
    for path in paths.data("auxiliary").glob("*.yaml"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert "language model on 2026-11-22" in content["provenance"]
        assert set(content.get("vocabularies", ())) <= set(available())
        lent = {e["like"] for e in content["classes"].values() if "like" in e}
        for name, entry in content["classes"].items():
            assert set(entry) in ({"definition", "synonym"}, {"like", "synonym"}), (path.name, name)
            assert (path.stem, auxiliary._key(name)) in used or name in lent, (path.name, name)
    assert "unreviewed" in auxiliary.provenance("voc21")


def test_texts_are_aligned_to_the_classes_and_the_background_has_none():
    voc = auxiliary.auxiliary_texts("voc21")
    assert voc[0] is None and "fuselage" in voc[1]
    assert voc[1:] == auxiliary.auxiliary_texts(Vocabulary.named("voc20"))
    # Position, not name, decides what the background is.
    words = Vocabulary.from_words(["cow", "sky"], background=["wall"])
    assert auxiliary.auxiliary_texts(words, "synonyms") == [None, "cattle", "heavens"]


def test_neighbours_decide_the_text_and_spelling_does_not_matter():
    in_city = named_texts("cityscapes", "definitions")
    in_voc = named_texts("voc20", "definitions")
    assert in_city["person"] != in_voc["person"] and in_city["car"] == in_voc["car"]
    published = Vocabulary.named("coco_stuff", names="sclip")
    assert auxiliary.auxiliary_texts(published) == auxiliary.auxiliary_texts("coco_stuff")
    spellings = Vocabulary.from_words(["trafficlight", "Fire-Hydrant", "aeroplane"])
    assert auxiliary.auxiliary_texts(spellings, "synonyms") == ["stoplight", "fireplug", "airplane"]


def test_what_has_no_text_is_refused_by_name():
    with pytest.raises(WordsError, match=r"2 of 3 .*'otter', 'quokka'.*ovss words define"):
        auxiliary.auxiliary_texts(Vocabulary.from_words(["otter", "dog", "quokka"]))
    with pytest.raises(WordsError, match="'poems'.*definitions, synonyms"):
        auxiliary.auxiliary_texts("voc21", "poems")
    with pytest.raises(WordsError, match="voc22"):
        auxiliary.auxiliary_texts("voc22")


# ---- the official file format


def test_official_format_keeps_everything_behind_the_first_mark(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes(
        "\ufeffotter >=furry, >= cat-sized.  \r\nsea\u2028lion>= loud\u2028swimmer\r\n".encode()
    )
    assert auxiliary.read_official(path) == [
        ("otter", "furry, >= cat-sized.  "),
        ("sea\u2028lion", " loud\u2028swimmer"),
    ]


def test_official_format_round_trip_leaves_no_temporary_file(tmp_path):
    pairs = list(named_texts("coco_stuff", "definitions").items())
    path = auxiliary.write_official(tmp_path / "out.txt", pairs)
    assert auxiliary.read_official(path) == pairs
    assert path.read_text().startswith("person >=clothed human")
    assert [file.name for file in tmp_path.iterdir()] == ["out.txt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a >=b\nno mark\n", "line 2: no '>='"),
        ("a >=b\n\nc >=d\n", "line 2: no '>='"),
        (" >=b\n", "line 1: no class name"),
        ("a >=b\nc >= \n", "line 2: no text for 'c'"),
        ("", "line 1"),
    ],
)
def test_official_format_errors_name_the_line(tmp_path, content, message):
    path = tmp_path / "texts.txt"
    path.write_text(content)
    with pytest.raises(WordsError, match=re.escape(f"{path}, {message}")):
        auxiliary.read_official(path)


def test_official_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(WordsError, match="nowhere.txt"):
        auxiliary.read_official(tmp_path / "nowhere.txt")
    (tmp_path / "latin.txt").write_bytes("caf\u00e9 >=x".encode("latin-1"))
    with pytest.raises(WordsError, match="latin.txt"):
        auxiliary.read_official(tmp_path / "latin.txt")
    for pairs in ([], [("a >= b", "x")], [("a", "x\ny")], [("a", " ")], [(" a", "x")]):
        with pytest.raises(WordsError):
            auxiliary.write_official(tmp_path / "never.txt", pairs)
    with pytest.raises(DataError, match="missing"):
        auxiliary.write_official(tmp_path / "missing" / "out.txt", [("a", "b")])
    assert [file.name for file in tmp_path.iterdir()] == ["latin.txt"]


# ---- the generator


class Replies:
    """Answers with the given replies in turn and keeps the questions."""

    def __init__(self, *replies: str):
        self.replies = list(replies)
        self.chats = []

    def __call__(self, messages):
        self.chats.append(messages)
        return self.replies.pop(0)


OTTER = "sleek brown swimmer with webbed paws and a thick tapering tail"


@pytest.mark.parametrize(
    "reply",
    [
        OTTER,
        f"  {OTTER}.\n",
        f'"{OTTER}."',
        f"Otter >= a {OTTER}",
        f">= {OTTER}",
        f"**{OTTER}**",
        f"The {OTTER}",
    ],
)
def test_wrapping_around_an_answer_is_taken_off(reply):
    assert auxiliary.define_words(["otter"], generate=Replies(reply), retries=0) == [
        ("otter", OTTER)
    ]


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ("", "is empty"),
        (' "" ', "is empty"),
        ("one line\nand a second line of text", "several lines"),
        ("word " * 35, "35 words, more than 34"),
        ("Otter.", "the word itself"),
        ("furry swimmer", "too few"),
        ("Sure! Here is a phrase about otters in rivers", "talk"),
        ("I'm sorry, but I cannot describe that", "talk"),
        ("otter >= swimmer >= furry beast of rivers", "repeats the prompt"),
        ("shallow metal tub on one small wheel of a river", "repeats the prompt"),
        ("phrase of at most 30 words that swims", "repeats the prompt"),
        ("... --- ... ,,,", "no readable text"),
        ("furry\x00swimmer with webbed paws", "no readable text"),
    ],
)
def test_bad_definitions_are_asked_for_again_and_then_refused(reply, fault):
    good_at_last = Replies(reply, reply, OTTER)
    assert auxiliary.define_words(["otter"], generate=good_at_last, retries=2) == [("otter", OTTER)]
    assert len(good_at_last.chats) == 3
    with pytest.raises(ModelError, match=rf"definition of 'otter' in 2 attempts.*{fault}"):
        auxiliary.define_words(["otter"], generate=Replies(reply, reply), retries=1)


def test_synonyms_are_one_word_or_a_short_phrase():
    replies = Replies("a very long winding phrase", "otter", "Sea weasel.")
    assert auxiliary.define_words("otter", kind="synonyms", generate=replies) == [
        ("otter", "Sea weasel")
    ]
    assert not replies.replies


def test_each_word_is_asked_once_in_order_with_examples_as_earlier_turns():
    replies = Replies(OTTER, "tall tower by the coast with a lamp")
    pairs = auxiliary.define_words(["otter", " lighthouse ", "otter"], generate=replies)
    assert [word for word, _ in pairs] == ["otter", "lighthouse", "otter"] and pairs[0] == pairs[2]
    first, second = replies.chats
    roles = [message["role"] for message in first]
    assert roles == ["system"] + ["user", "assistant"] * 3 + ["user"]
    assert first[-1]["content"] == "otter >=" and first[1]["content"] == "lighthouse >="
    # A word that is itself an example must not be told its answer.
    assert sum(message["content"] == "lighthouse >=" for message in second) == 1


@pytest.mark.parametrize("words", [[], [""], ["dog", "  "]])
def test_nothing_to_define(words):
    with pytest.raises(WordsError, match="at least one word"):
        auxiliary.define_words(words, generate=Replies())


def test_braces_and_other_scripts_are_ordinary_words():
    for word in ("{}", "{0.name}", "לוטרה", "🦦"):
        replies = Replies(OTTER)
        assert auxiliary.define_words([word], generate=replies) == [(word, OTTER)]
        assert replies.chats[0][-1]["content"] == f"{word} >="


def test_missing_transformers_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)  # makes the import fail
    with pytest.raises(MissingPackageError, match=re.escape('pip install "ovsslib[llm]"')):
        auxiliary.define_words(["otter"])


class FakeTokenizer:
    """One token per word; refuses the system role, as Gemma's template does."""

    chat_template = "fake"
    pad_token_id = None
    eos_token_id = 7

    def __init__(self):
        self.words = [*OTTER.split(), "<end>"]
        self.seen = None

    def apply_chat_template(self, messages, add_generation_prompt, return_dict, return_tensors):
        assert add_generation_prompt and return_dict and return_tensors == "pt"
        if messages[0]["role"] == "system":
            raise ValueError("System role not supported")
        self.seen = messages
        ids = torch.zeros(1, 5, dtype=torch.long)
        return Batch(input_ids=ids, attention_mask=torch.ones_like(ids))

    def decode(self, tokens, skip_special_tokens):
        assert skip_special_tokens
        return " ".join(self.words[token] for token in tokens.tolist())


class Batch(dict):
    """Stands for transformers.BatchEncoding."""

    def to(self, device):
        return self


class FakeNetwork:
    """Draws its answer from torch's random state."""

    device = torch.device("cpu")

    def __init__(self):
        self.options = None

    def to(self, device):
        return self

    def eval(self):
        return self

    def generate(self, input_ids, attention_mask, **options):
        self.options = options
        drawn = torch.randint(len(OTTER.split()), (1, 8))
        return torch.cat([input_ids, drawn], dim=1)


def fake_transformers(monkeypatch, load) -> None:
    module = types.ModuleType("transformers")
    module.AutoTokenizer = types.SimpleNamespace(from_pretrained=load(FakeTokenizer()))
    module.AutoModelForCausalLM = types.SimpleNamespace(from_pretrained=load(FakeNetwork()))
    monkeypatch.setitem(sys.modules, "transformers", module)


def test_local_model_samples_as_published_and_reproducibly(monkeypatch):
    asked = []

    def load(what):
        return lambda model, **options: asked.append((model, options)) or what

    fake_transformers(monkeypatch, load)
    model = auxiliary.LocalModel("some/model", device="cpu", seed=3)
    assert [name for name, _ in asked] == ["some/model"] * 2
    assert all(options["local_files_only"] for _, options in asked)
    before = torch.random.get_rng_state()
    first, again = (model(auxiliary.chat("otter", "definitions")) for _ in range(2))
    assert first != again, "a second attempt must be sampled anew"
    assert torch.equal(torch.random.get_rng_state(), before)
    options = model._network.options
    assert options["do_sample"] and (options["temperature"], options["top_p"]) == (0.6, 0.9)
    assert (options["max_new_tokens"], options["pad_token_id"]) == (256, 7)
    # The refused system message opens the first question.
    assert model._tokenizer.seen[0]["role"] == "user"
    assert model._tokenizer.seen[0]["content"].endswith("lighthouse >=")
    other = auxiliary.LocalModel("some/model", device="cpu", seed=3)
    other(auxiliary.chat("seal", "definitions"))
    assert other(auxiliary.chat("otter", "definitions")) == first
    assert (
        auxiliary.LocalModel("some/model", device="cpu", seed=4)(
            auxiliary.chat("otter", "definitions")
        )
        != first
    )


def test_missing_model_says_what_to_download(monkeypatch, tmp_path):
    def load(what):
        def fail(model, **options):
            raise OSError(f"{model} is not in the cache\nand more lines")

        return fail

    fake_transformers(monkeypatch, load)
    with pytest.raises(ModelError, match="hf download some/model"):
        auxiliary.define_words(["otter"], model="some/model")
    with pytest.raises(ModelError, match=f"hf download {auxiliary.DEFAULT_MODEL}"):
        auxiliary.define_words(["otter"])
    with pytest.raises(ModelError, match="holds no language model"):
        auxiliary.define_words(["otter"], model=str(tmp_path))


def test_model_without_chat_template_is_refused(monkeypatch):
    fake_transformers(monkeypatch, lambda what: lambda model, **options: what)
    monkeypatch.setattr(FakeTokenizer, "chat_template", None)
    with pytest.raises(ModelError, match="no chat template"):
        auxiliary.LocalModel("some/model", device="cpu")


# The extra [llm] is optional: where it is installed, the real library is tried as well.
if importlib.util.find_spec("transformers"):

    def test_a_tiny_random_model_of_the_real_library(tmp_path):
        import tokenizers
        import transformers

        words = ["<unk>", "<end>", *dict.fromkeys(OTTER.split()), "otter", "lighthouse", ">="]
        inner = tokenizers.Tokenizer(
            tokenizers.models.WordLevel(
                {word: i for i, word in enumerate(words)}, unk_token="<unk>"
            )
        )
        inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=inner, unk_token="<unk>", eos_token="<end>"
        )
        tokenizer.chat_template = "{% for m in messages %}{{ m.content }} <end> {% endfor %}"
        tokenizer.save_pretrained(tmp_path)
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, eos_token_id=1, bos_token_id=None,
        )  # fmt: skip
        transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
        model = auxiliary.LocalModel(str(tmp_path), device="cpu", seed=1)
        model.max_new_tokens = 12
        replies = [model(auxiliary.chat("otter", "definitions")) for _ in range(2)]
        assert replies[0] != replies[1] and all(0 < len(reply.split()) <= 12 for reply in replies)
        assert "<end>" not in replies[0]
        twin = auxiliary.LocalModel(str(tmp_path), device="cpu", seed=1)
        twin.max_new_tokens = 12
        assert twin(auxiliary.chat("otter", "definitions")) == replies[0]
        with pytest.raises(ModelError, match="hf download nobody/nothing"):
            auxiliary.LocalModel("nobody/nothing", device="cpu")
