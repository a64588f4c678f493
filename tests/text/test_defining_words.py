"""The generator of auxiliary texts: what is asked, what is refused, and the local model that answers."""

import importlib.util
import re
import sys
import types

import pytest
import torch

from ovsslib.errors import MissingPackageError, ModelError, WordsError
from ovsslib.text import auxiliary


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
