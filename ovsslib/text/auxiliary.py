"""Auxiliary texts of classes: definitions and synonyms (ITACLIP's LLM-based text generation).

ITACLIP (Aydin et al. 2024, section 3.4) asks a language model once per class for a definition or a
synonym and mixes its text features into those of the class name. Three sources of such texts live
here: those written for this project (`data/auxiliary/*.yaml`, every class of every shipped
vocabulary), files in the format of the official repository, and a local instruction model. The
mixing itself belongs to the prompts.
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

import yaml

from ovsslib import paths
from ovsslib.errors import (
    DataError,
    MemoryBudgetError,
    MissingPackageError,
    ModelError,
    WordsError,
)
from ovsslib.text.vocabulary import Vocabulary
from ovsslib.text.wording import ASKED

KINDS = {"definitions": "definition", "synonyms": "synonym"}

# Most words of a text. The longest published definition has 34. A synonym may be a short phrase.
WORD_LIMITS = {"definitions": 34, "synonyms": 3}

# The model of ITACLIP (gated, 16 GB), and a free one of 3 GB that messages name as an alternative.
DEFAULT_MODEL = "meta-llama/Meta-Llama-3-8B-Instruct"
SMALL_MODEL = "Qwen/Qwen2.5-1.5B-Instruct"

Message = dict[str, str]
Generate = Callable[[list[Message]], str]

_SEPARATOR = ">="
_COMMON = "common"
_INSTRUCTIONS = {
    "definitions": (
        "You describe words for somebody who has to find the thing in a photograph. Answer every "
        "word with one phrase of at most 30 words that says what it looks like: shape, parts, "
        "colour, material, and where it stands. Begin with a noun or adjective, without an "
        "article. Write the phrase and nothing else."
    ),
    "synonyms": (
        "You are a thesaurus. Answer every word with exactly one other word that means the same, "
        "or with the one closest in meaning if there is none. Write that word and nothing else."
    ),
}
_EXAMPLES = {
    "definitions": (
        ("lighthouse", "round white tower on a rocky coast, banded in red, with a lantern on top"),
        ("wheelbarrow", "shallow metal tub on one small wheel, pushed by two long handles"),
        ("accordion", "pleated bellows between two boxes, one with piano keys, one with buttons"),
    ),
    "synonyms": (("stream", "brook"), ("physician", "doctor"), ("lighthouse", "beacon")),
}
_TALK = re.compile(
    r"^(sure|certainly|of course|here is|here's|here are|i'm|i am|i can|as an ai|sorry)\b",
    re.IGNORECASE,
)


def auxiliary_texts(
    vocabulary: str | Vocabulary, kind: str = "definitions", skip_missing: bool = False
) -> list[str | None]:
    """The shipped text of each class, in label order; None for the background class.

    A class is looked up in the table of its vocabulary, then among the texts that vocabularies
    share, then in the tables of the other vocabularies (this serves free words). Case, blanks and
    hyphens do not count, and the data set's own label name is tried as well.

    Args:
        vocabulary: name of a shipped vocabulary, or a Vocabulary.
        kind: "definitions" (phrases that complete "a photo of a {}.", under 35 words) or
            "synonyms".
        skip_missing: give None for a class without a text instead of refusing.
    Raises WordsError: unknown vocabulary or kind, or classes without a text (all of them are
    named).
    """
    field = KINDS[_checked_kind(kind)]
    if isinstance(vocabulary, str):
        vocabulary = Vocabulary.named(vocabulary)
    table = _table(vocabulary.name)
    texts: list[str | None] = []
    missing = []
    labels: list[tuple[str, ...]] = list(zip(vocabulary.names, vocabulary.canonical, strict=True))
    if vocabulary.variant == ASKED:  # who asks for "puppy" has no text that was written for "dog"
        labels = [(words[0],) for words in vocabulary.synonyms]
    for index, names in enumerate(labels):
        entry = next((table[_key(name)] for name in names if _key(name) in table), None)
        if index == vocabulary.background or (entry is None and skip_missing):
            texts.append(None)
        elif entry is None:
            missing.append(names[0])
        else:
            texts.append(entry[field])
    if missing:
        raise WordsError(
            f"no {kind} are shipped for {len(missing)} of {len(vocabulary)} classes of vocabulary "
            f"{vocabulary.name!r}: {', '.join(map(repr, missing))}; make them with "
            "`ovss words define`, or read them from a file"
        )
    return texts


def provenance(vocabulary: str = _COMMON) -> str:
    """Who wrote the shipped texts of a vocabulary, and when."""
    files = _files()
    return " ".join(str(files[_owner(vocabulary)]["provenance"]).split())


def read_official(path: str | Path) -> list[tuple[str, str]]:
    """Class names and texts of a file in ITACLIP's format, one `name >=text` a line, in its order.

    The text is everything behind the first ">=", untrimmed (the official code does not trim
    either); blanks around the name are dropped. Raises WordsError naming the file and the line:
    unreadable, empty, or a line without ">=", without a name, or without a text.
    """
    path = Path(path)
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise WordsError(f"cannot read the auxiliary texts {path}: {error}") from None
    pairs = []
    # Not splitlines(): it also cuts at characters such as U+2028, which may stand inside a text.
    for number, line in enumerate(content.rstrip("\n").split("\n"), start=1):
        name, separator, text = line.partition(_SEPARATOR)
        if not separator:
            raise WordsError(
                f"{path}, line {number}: no '>=' in {line[:60]!r}; write `name >=text`"
            )
        if not name.strip():
            raise WordsError(f"{path}, line {number}: no class name before '>='")
        if not text.strip():
            raise WordsError(f"{path}, line {number}: no text for {name.strip()!r} behind '>='")
        pairs.append((name.strip(), text))
    return pairs


def write_official(path: str | Path, texts: Iterable[tuple[str, str]]) -> Path:
    """Write (name, text) pairs in ITACLIP's format; `read_official` gives the same pairs back.

    The file appears whole or not at all. Raises WordsError for a name or a text that a line cannot
    hold, and for no pairs at all; DataError if the file cannot be written.
    """
    path = Path(path)
    lines = []
    for name, text in texts:
        if (
            not name.strip()
            or name != name.strip()
            or _SEPARATOR in name
            or re.search(r"[\r\n]", name)
        ):
            raise WordsError(
                f"{name!r} cannot be the name of a line `name >=text`: no '>=', no outer blanks"
            )
        if not text.strip() or re.search(r"[\r\n]", text):
            raise WordsError(f"the text of {name!r} must be one line that is not empty: {text!r}")
        lines.append(f"{name} {_SEPARATOR}{text}\n")
    if not lines:
        raise WordsError(f"no texts to write to {path}: give at least one (name, text) pair")
    return paths.write_file(path, "".join(lines).encode())


def define_words(
    words: Sequence[str],
    model: str = DEFAULT_MODEL,
    kind: str = "definitions",
    device: str = "auto",
    retries: int = 4,
    seed: int = 0,
    generate: Generate | None = None,
) -> list[tuple[str, str]]:
    """Ask an instruction model for a text on each word: (word, text) pairs in the given order.

    Every answer is checked: one line, not empty, within the word limit, not the word itself,
    neither an echo of the prompt nor talk around the answer. A bad answer is asked for again,
    sampled anew. A word given twice is asked for once.

    Args:
        model: name of a model in the local Hugging Face cache, or a folder. Nothing is downloaded.
        kind: "definitions" or "synonyms".
        device: a torch device, or "auto" (CUDA if there is one).
        retries: how often a bad answer is asked for again.
        seed: of the sampling; the answer to a word does not depend on the other words.
        generate: another way to answer: chat messages (dicts with "role" and "content") -> reply.
            `model`, `device` and `seed` are then not used.
    Raises WordsError: no words, an empty word, unknown kind. MissingPackageError: no transformers.
    ModelError: the model is missing, has no chat template, or gave no usable answer.
    """
    _checked_kind(kind)
    if isinstance(words, str):
        words = [words]
    words = [" ".join(word.split()) for word in words]
    if not words or not all(words):
        raise WordsError(
            f"give at least one word, and none that is empty, to define: got {words!r}"
        )
    generate = generate or LocalModel(model, device=device, seed=seed)
    answers = {word: _answer(word, kind, generate, retries) for word in dict.fromkeys(words)}
    return [(word, answers[word]) for word in words]


class LocalModel:
    """A chat model of the local Hugging Face cache, called with messages; samples as ITACLIP does.

    Sampling: temperature 0.6, top-p 0.9, at most 256 new tokens (ITACLIP's code). The random state
    follows from the seed, the last message and how often it was asked, and torch's own generators
    are left as they were.
    """

    temperature = 0.6
    top_p = 0.9
    max_new_tokens = 256

    def __init__(self, model: str = DEFAULT_MODEL, device: str = "auto", seed: int = 0):
        """Load tokenizer and weights (bfloat16).

        Raises MissingPackageError, ModelError, MemoryBudgetError.
        """
        try:
            import transformers
        except ImportError as error:
            raise MissingPackageError(
                "defining words needs the package transformers, which is not installed: "
                f'pip install "ovsslib[llm]" ({error})'
            ) from error
        import torch

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.name = model
        self._seed = seed
        self._times_asked: Counter[str] = Counter()
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                model, local_files_only=True
            )
            network: Any = transformers.AutoModelForCausalLM.from_pretrained(
                model, local_files_only=True, dtype=torch.bfloat16
            )
            self._network = network.to(device).eval()
        except (OSError, ValueError) as error:
            raise ModelError(_missing_model(model, error)) from error
        except torch.OutOfMemoryError as error:
            raise MemoryBudgetError(
                f"the model {model!r} does not fit on {device}; take a smaller one, such as "
                f"{SMALL_MODEL}"
            ) from error
        if not getattr(self._tokenizer, "chat_template", None):
            raise ModelError(
                f"the model {model!r} has no chat template: it is no instruction model; "
                f"take one whose name says Instruct or Chat, such as {SMALL_MODEL}"
            )

    def __call__(self, messages: list[Message]) -> str:
        """The reply to a chat, sampled."""
        import torch

        question = messages[-1]["content"]
        self._times_asked[question] += 1
        inputs = self._encode(messages).to(self._network.device)
        devices = [self._network.device] if self._network.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.inference_mode():
            torch.manual_seed(
                zlib.crc32(f"{self._seed}|{self._times_asked[question]}|{question}".encode())
            )
            tokens = self._network.generate(
                **inputs,
                do_sample=True,
                temperature=self.temperature,
                top_p=self.top_p,
                max_new_tokens=self.max_new_tokens,
                pad_token_id=self._padding(),
            )
        reply = self._tokenizer.decode(
            tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return cast("str", reply)  # one row of tokens is one text; only a batch gives a list

    def _padding(self) -> int | None:
        padding = self._tokenizer.pad_token_id
        return self._tokenizer.eos_token_id if padding is None else padding

    def _encode(self, messages: list[Message]) -> Any:
        options: dict[str, Any] = {
            "add_generation_prompt": True,
            "return_dict": True,
            "return_tensors": "pt",
        }
        try:
            return self._tokenizer.apply_chat_template(messages, **options)
        except Exception as error:
            # Some templates (Gemma's) refuse the role "system": it then opens the first question.
            if messages[0]["role"] != "system" or len(messages) < 2:
                raise ModelError(
                    f"the chat template of {self.name!r} cannot be used: {error}"
                ) from error
            first = {
                "role": "user",
                "content": f"{messages[0]['content']}\n\n{messages[1]['content']}",
            }
            return self._encode([first, *messages[2:]])


def chat(word: str, kind: str) -> list[Message]:
    """The messages that ask for a word: instruction, examples as earlier turns, and `word >=`."""
    messages = [{"role": "system", "content": _INSTRUCTIONS[_checked_kind(kind)]}]
    for example, answer in _EXAMPLES[kind]:
        if example.lower() != word.lower():
            messages.append({"role": "user", "content": f"{example} {_SEPARATOR}"})
            messages.append({"role": "assistant", "content": answer})
    return [*messages, {"role": "user", "content": f"{word} {_SEPARATOR}"}]


def _answer(word: str, kind: str, generate: Generate, retries: int) -> str:
    text, fault = "", ""
    for _ in range(max(retries, 0) + 1):
        text = _tidy(word, generate(chat(word, kind)))
        fault = _fault(word, text, kind)
        if not fault:
            return text
    raise ModelError(
        f"no usable {KINDS[kind]} of {word!r} in {max(retries, 0) + 1} attempts; the last answer "
        f"{fault}: {text[:80]!r}; take a larger model, or write the text yourself"
    )


def _tidy(word: str, reply: str) -> str:
    """An answer without what models put around it: question, quotes, article, full stop."""
    text = reply.strip()
    if text.lower().startswith(word.lower()) and text[len(word) :].lstrip().startswith(_SEPARATOR):
        text = text[len(word) :].lstrip()
    text = text.removeprefix(_SEPARATOR).strip().strip("\"'`*“”").strip().rstrip(".").strip()
    # The templates bring the article: "a photo of a {}."
    return re.sub(r"^(an?|the)\s+", "", text, flags=re.IGNORECASE)


def _fault(word: str, text: str, kind: str) -> str:
    """What is wrong with an answer, as the end of a sentence; empty if nothing is."""
    if not text:
        return "is empty"
    if "\n" in text or "\r" in text:
        return "has several lines"
    if not text.isprintable() or not re.search(r"\w", text):
        return "holds no readable text"
    count = len(text.split())
    if count > WORD_LIMITS[kind]:
        return f"has {count} words, more than {WORD_LIMITS[kind]}"
    if _key(text) == _key(word):
        return "is the word itself"
    if kind == "definitions" and count < 3:
        return f"has {count} words, too few for a definition"
    if _TALK.match(text):
        return "is talk, not an answer"
    prompt = {part for message in chat(word, kind)[:-1] for part in _sequences(message["content"])}
    if _SEPARATOR in text or prompt & _sequences(text):
        return "repeats the prompt"
    return ""


def _sequences(text: str, length: int = 5) -> set[tuple[str, ...]]:
    """All runs of `length` words."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def _missing_model(model: str, error: Exception) -> str:
    if paths.exists(model):
        return f"the folder {model} holds no language model that transformers can load: {error}"
    return (
        f"the language model {model!r} is not on this machine, and nothing is downloaded unasked: "
        f"run `hf download {model}` where there is a network (Llama asks for its licence first; "
        f"{SMALL_MODEL} does not), or pass the folder that holds it ({str(error).splitlines()[0]})"
    )


def _checked_kind(kind: str) -> str:
    if kind not in KINDS:
        raise WordsError(f"unknown kind of auxiliary texts {kind!r}; known: {', '.join(KINDS)}")
    return kind


def _key(name: str) -> str:
    """What spellings share: "traffic light", "trafficlight" and "Traffic-Light" are one name."""
    return re.sub(r"[\W_]+", "", name.lower())


@lru_cache(maxsize=1)
def _files() -> dict[str, dict[str, Any]]:
    folder = paths.data("auxiliary")
    files = {
        path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.yaml"))
    }
    if _COMMON not in files:
        raise DataError(f"{folder / 'common.yaml'} is missing; reinstall ovsslib")
    return files


def _owner(vocabulary: str) -> str:
    """Name of the file with the texts of a vocabulary."""
    for stem, content in _files().items():
        if vocabulary in content.get("vocabularies", ()):
            return stem
    return _COMMON


@cache
def _table(vocabulary: str) -> Mapping[str, Mapping[str, str]]:
    """Texts by class key, as this vocabulary sees them."""
    files = _files()
    # Later tables win; Scenes' short texts are the last resort for the words of others.
    stems = [
        stem
        for stem in ("scenes", "cityscapes", "context", "coco_stuff", "ade20k")
        if stem in files
    ]
    table: dict[str, dict[str, str]] = {}
    for stem in (*stems, _COMMON, _owner(vocabulary)):
        table.update({_key(name): entry for name, entry in files[stem]["classes"].items()})
    resolved = {}
    for key, entry in table.items():
        source = table[_key(entry["like"])] if "like" in entry else entry
        resolved[key] = {"definition": source["definition"], "synonym": entry["synonym"]}
    return resolved
