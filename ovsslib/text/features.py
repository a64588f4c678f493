"""The text classifier: words -> text features, computed once per model and prompts, and kept.

Two things make it cheap. CLIP's text tower is causal and reads its answer at the end token, so
whatever follows that token cannot change the answer: a prompt costs its own 9 tokens or so instead
of 77. And the features of a list of words are stored in the user's cache.

Prompts that begin alike can share the work of their common beginning (`share`, `ovsslib.clip.shared_prefixes`),
as they do when a user asks. The last digit of a sentence's features then depends on which sentences it was encoded
with, so that nothing that is measured shares, and what was shared has a place of its own in the cache.
"""

import hashlib
import json
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from ovsslib import paths
from ovsslib.clip.shared_prefixes import can_share, encode_sharing
from ovsslib.errors import DataError, WordsError
from ovsslib.identity import CORE_VERSION, key_of, text_model_parts, version_of
from ovsslib.text.prompts import TextSettings
from ovsslib.text.vocabulary import Vocabulary

# Tokens in one batch: enough to keep the matrix products busy, few enough for any memory.
TOKENS_PER_BATCH = 4096
_MEMORY_ENTRIES = 64
_STALE_SECONDS = 3600

_memory: "OrderedDict[str, Tensor]" = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """The words of one segmentation as CLIP sees them.

    Attributes:
        features: (Q, D) float32, one row per query, of unit length (a little shorter where
            auxiliary texts are mixed in, as published).
        query_class: (Q,) int64, class of each query, rising.
        vocabulary: the words.
    """

    features: Tensor
    query_class: Tensor
    vocabulary: Vocabulary

    def __len__(self) -> int:
        """Number of queries Q."""
        return self.features.shape[0]

    def to(self, device: str | torch.device) -> "TextFeatures":
        """The same on another device."""
        return TextFeatures(self.features.to(device), self.query_class.to(device), self.vocabulary)


def encode_queries(
    backbone: Any,
    vocabulary: Vocabulary,
    settings: TextSettings | None = None,
    auxiliary: Sequence[str | None] | None = None,
    share: bool = False,
) -> TextFeatures:
    """Text features of all queries of a vocabulary, on the backbone's device.

    Args:
        backbone: offers `tokenize`, `encode_text`, `weights_hash`, `context_length`.
        auxiliary: one text per class (None: leave that class as it is), or one per foreground
            class. Needed if `settings.auxiliary_weight` is above 0. Each query's feature becomes
            (1 - b) T + b T_auxiliary with the text of its class, put into the same templates; the
            result is not normalised again and background queries are not mixed (ITACLIP, equation
            9 and its released code).
        share: see :func:`encode_prompts`.

    Raises WordsError: a text too long for the model (unless `settings.truncate`), texts that do not
    fit the classes.
    """
    settings = settings or TextSettings()
    warn_of_unknown(backbone, vocabulary.queries)
    query_class = torch.tensor(vocabulary.query_class, dtype=torch.long)
    kinds = [vocabulary.kinds[index] for index in vocabulary.query_class]
    features = encode_texts(backbone, vocabulary.queries, settings, kinds, share)
    if settings.auxiliary_weight > 0:
        texts = _align_auxiliary(vocabulary, auxiliary)
        features = _mix(backbone, vocabulary, settings, features, query_class, texts, share)
    return TextFeatures(features, query_class.to(features.device), vocabulary)


def merge_queries(values: Tensor, query_class: Tensor, classes: int) -> Tensor:
    """Maximum over the queries of each class: (Q, ...) -> (C, ...); 0 for one without a query."""
    if len(query_class) == classes and torch.equal(query_class.cpu(), torch.arange(classes)):
        return values
    out = values.new_zeros((classes, *values.shape[1:]))
    counts = torch.bincount(query_class.cpu(), minlength=classes).tolist()
    order = torch.argsort(query_class.cpu(), stable=True).tolist()
    start = 0
    for index, count in enumerate(counts):
        members = order[start : start + count]
        start += count
        if count == 1:
            out[index] = values[members[0]]
        elif count:
            torch.amax(values[members], dim=0, out=out[index])
    return out


def strange_tokens(
    backbone: Any, texts: Sequence[str], least: int = 0, truncate: bool = False
) -> list[list[int]]:
    """For every text its tokens, in order and once each, that the model was never trained on, or read too seldom.

    Only the small embedded models know which these are (`backbone.known_token_ids`, and how often: `times_read`).

    Args:
        least: tokens read less often than this count as well, where the weights say how often.

    Raises WordsError for a text that is too long for the model, unless it is to be cut.
    """
    known = getattr(backbone, "known_token_ids", None)
    if known is None or not texts:
        return [[] for _ in texts]
    tokens = tokenize(backbone, list(texts), truncate)
    times = getattr(backbone, "times_read", {})
    read = {i for i in known.flatten().tolist() if not times or times.get(i, 0) >= least}
    start, end = int(tokens[:, 0].max()), int(tokens.max())
    rows = (row[: row.index(end)] for row in tokens.tolist())
    return [list(dict.fromkeys(i for i in row if i != start and i not in read)) for row in rows]


def unknown_words(backbone: Any, words: Sequence[str]) -> list[str]:
    """Words with a token that the model was never trained on; see :func:`strange_tokens`."""
    flags = strange_tokens(backbone, words, truncate=True)
    return [word for word, strange in zip(words, flags, strict=True) if strange]


def warn_of_unknown(backbone: Any, words: Sequence[str]) -> None:
    """Warn of the words (or sentences) with a token that the model was never trained on."""
    unknown = unknown_words(backbone, words)
    if unknown:
        listed = ", ".join(repr(word) for word in unknown[:8])
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        warnings.warn(
            f"the model {getattr(backbone, 'name', '')!r} was never trained on {listed}{more}; "
            "expect nothing of these words, or load a real CLIP",
            stacklevel=3,
        )


def _align_auxiliary(
    vocabulary: Vocabulary, auxiliary: Sequence[str | None] | None
) -> list[str | None]:
    """One text or None per class; the background never has one."""
    if auxiliary is None:
        raise WordsError(
            "the settings mix auxiliary texts in, but none are given for vocabulary "
            f"{vocabulary.name!r}; pass them, or set auxiliary_weight to 0"
        )
    texts = [text or None for text in auxiliary]
    classes = len(vocabulary)
    if vocabulary.background is not None and len(texts) == classes - 1:
        texts.insert(vocabulary.background, None)
    if len(texts) != classes:
        raise WordsError(
            f"{len(auxiliary)} auxiliary texts for the {classes} classes of {vocabulary.name!r}; "
            "give one per class (or per foreground class), None for a class without"
        )
    if vocabulary.background is not None:
        texts[vocabulary.background] = None
    return texts


def _mix(backbone, vocabulary, settings, features, query_class, texts, share) -> Tensor:
    """(1 - b) T + b T_auxiliary for the queries whose class has a text; (Q, D)."""
    classes = [index for index, text in enumerate(texts) if text is not None]
    if not classes:
        return features
    kinds = [vocabulary.kinds[index] for index in classes]
    encoded = encode_texts(backbone, [texts[index] for index in classes], settings, kinds, share)
    row_of = torch.full((len(vocabulary),), -1, dtype=torch.long)
    row_of[classes] = torch.arange(len(classes))
    rows = row_of[query_class]
    mixed = (rows >= 0).to(features.device)
    rows = rows[rows >= 0].to(features.device)
    weight = settings.auxiliary_weight
    result = features.clone()
    result[mixed] = (1 - weight) * features[mixed] + weight * encoded[rows]
    return result


def encode_texts(
    backbone: Any,
    texts: Sequence[str],
    settings: TextSettings | None = None,
    kinds: Sequence[str] | None = None,
    share: bool = False,
) -> Tensor:
    """Text features (N, D) float32, unit length, of any texts put into the settings' templates.

    `kinds`: "thing", "stuff" or "material" per text, for strategies that depend on it (default:
    "thing"). `share`: see :func:`encode_prompts`. Kept in memory and on disk. Raises WordsError for a text that is too long, unless
    `settings.truncate`.
    """
    settings = settings or TextSettings()
    texts = list(texts)
    if not texts:
        raise WordsError("no texts to encode; give at least one")
    kinds = list(kinds) if kinds is not None else ["thing"] * len(texts)
    strategy = settings.strategy()
    prompts = [
        strategy.prompts(text, kind, settings.material_rules)
        for text, kind in zip(texts, kinds, strict=True)
    ]
    # Weights that cannot be told from others must not find the others' features.
    share = share and can_share(backbone)
    key = _cache_key(backbone, prompts, settings, share) if backbone.weights_hash else None
    device = getattr(backbone, "device", "cpu")
    features = _recall(key) if key else None
    if features is None:
        features = _encode(backbone, prompts, settings, share).cpu()
        if key:
            _store(key, features)
    return features.to(device, copy=True)


def _encode(backbone: Any, prompts: list[list[str]], settings: TextSettings, share: bool) -> Tensor:
    """Features of each text's prompts, averaged: N lists of prompts -> (N, D), unit rows."""
    unique = list(dict.fromkeys(prompt for group in prompts for prompt in group))
    place = {prompt: index for index, prompt in enumerate(unique)}
    encoded = encode_prompts(backbone, unique, settings.truncate, share)  # (P, D)
    if settings.normalise_each:
        encoded = F.normalize(encoded, dim=-1)
    rows = [encoded[[place[prompt] for prompt in group]].mean(dim=0) for group in prompts]
    return F.normalize(torch.stack(rows), dim=-1)


@torch.no_grad()
def encode_prompts(
    backbone: Any, prompts: Sequence[str], truncate: bool = False, share: bool = False
) -> Tensor:
    """CLIP's text features (P, D) float32 of finished sentences, in order, not normalised.

    Sentences go through the tower in batches of one length. With `share`, what they begin with together is computed
    once where the tower allows it (`can_share`): half the time for many templates, equal up to rounding (1e-6).
    Raises WordsError for a sentence with more tokens than the model takes, unless `truncate`.
    """
    prompts = list(prompts)
    tokens = tokenize(backbone, prompts, truncate)  # (P, context)
    if share and can_share(backbone):
        return encode_sharing(backbone, tokens)
    lengths = tokens.argmax(dim=-1) + 1  # the end token has the highest number
    order = torch.argsort(lengths, stable=True)
    results: list[Tensor] = []
    start = 0
    while start < len(prompts):
        stop = _batch_end(lengths[order], start)
        rows = order[start:stop]
        longest = int(lengths[rows].max())
        results.append(backbone.encode_text(tokens[rows, :longest]).float())
        start = stop
    encoded = torch.cat(results)
    unsorted = torch.empty_like(encoded)
    unsorted[order.to(encoded.device)] = encoded
    return unsorted


def _batch_end(sorted_lengths: Tensor, start: int) -> int:
    """Where a batch that begins at `start` ends: one length, at most TOKENS_PER_BATCH tokens."""
    length = int(sorted_lengths[start])
    same = int((sorted_lengths == length).sum()) + int((sorted_lengths < length).sum())
    return min(same, start + max(1, TOKENS_PER_BATCH // length))


def tokenize(backbone: Any, prompts: Sequence[str], truncate: bool = False) -> Tensor:
    """Token numbers (P, L) long, L the model's context length.

    Raises WordsError that says how many tokens a sentence has that is too long. With `truncate`
    it is cut and its last place given to the end token, as CLIP's own tokenizer does.
    """
    prompts = list(prompts)
    tokens = backbone.tokenize(prompts)
    limit = min(int(getattr(backbone, "context_length", 77)), tokens.shape[1])
    lengths = tokens.argmax(dim=-1) + 1
    # A sentence that fills the tokenizer's whole row may have been cut there; only counting tells.
    suspects = torch.nonzero(lengths >= min(limit + 1, tokens.shape[1]))[:, 0].tolist()
    counts = dict(zip(suspects, backbone.token_counts([prompts[i] for i in suspects]), strict=True))
    too_long = {index: count for index, count in counts.items() if count > limit}
    if too_long and not truncate:
        index = max(too_long, key=lambda place: too_long[place])
        text = prompts[index] if len(prompts[index]) <= 120 else prompts[index][:117] + "..."
        raise WordsError(
            f"{text!r} has {too_long[index]} tokens, but the model takes at most {limit}; "
            "shorten it, or set text.truncate to cut it"
        )
    end = tokens.gather(1, (lengths - 1)[:, None])[:, 0]
    cut = tokens[:, :limit].clone()
    for index in too_long:
        cut[index, limit - 1] = end[index]
    return cut


def clear_memory() -> None:
    """Forget the features kept in memory; the entries on disk stay."""
    with _lock:
        _memory.clear()


def _cache_key(backbone: Any, prompts: list[list[str]], settings: TextSettings, share: bool) -> str:
    """Hash of everything the features depend on."""
    return key_of(
        {
            **({"shared": True} if share else {}),
            "core": CORE_VERSION,
            "text": version_of(settings),
            "model": text_model_parts(backbone),
            "context": int(getattr(backbone, "context_length", 77)),
            "normalise_each": settings.normalise_each,
            "truncate": settings.truncate,
            "prompts": prompts,
        }
    )


def _entry(key: str) -> Path:
    return paths.cache("text") / f"{key[:32]}.safetensors"


def _stamp(key: str, features: Tensor) -> str:
    """Says which entry a file is and that its numbers are those that were written."""
    digest = hashlib.sha256(features.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
    return f"{key} {list(features.shape)} {digest}"


def _recall(key: str) -> Tensor | None:
    """Features kept in memory or on disk, or None.

    An entry that is damaged, or belongs to another key, counts as absent.
    """
    with _lock:
        if key in _memory:
            _memory.move_to_end(key)
            return _memory[key]
    try:
        # One read: opening by name twice could see two writers' files (as `safe_open`
        # does).
        content = _entry(key).read_bytes()
        features = safetensors.torch.load(content)["features"]
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        stamp = header["__metadata__"]["stamp"]
    except (OSError, SafetensorError, KeyError, ValueError, DataError):
        return None
    if stamp != _stamp(key, features):
        return None
    _remember(key, features)
    return features


def _remember(key: str, features: Tensor) -> None:
    with _lock:
        _memory[key] = features
        while len(_memory) > _MEMORY_ENTRIES:
            _memory.popitem(last=False)


def _store(key: str, features: Tensor) -> None:
    """Keep features in memory and on disk; a disk that cannot be written costs only time."""
    _remember(key, features)
    features = features.contiguous()
    content = safetensors.torch.save({"features": features}, {"stamp": _stamp(key, features)})
    try:
        entry = _entry(key)
        paths.write_file(
            entry, content
        )  # of two writers the last one wins; both bring the same content
        _sweep(entry.parent)
    except (OSError, DataError) as error:
        warnings.warn(f"text features are not kept on disk: {error}", stacklevel=2)


def _sweep(folder: Path) -> None:
    """Remove what writers that were killed left behind."""
    for leftover in folder.glob(".*.part"):
        try:
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                leftover.unlink()
        except OSError:
            continue
