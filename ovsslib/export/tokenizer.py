"""CLIP's tokenizer as files that other programs read: the merges in order, and the number of every token."""

import json
from pathlib import Path
from typing import Any

from ovsslib.export.files import KNOWN_TOKENS, MERGES, VOCABULARY

_MARKERS = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
"""open_clip's names of start and end, and those of CLIP's authors, which other programs expect."""


def write_tokenizer(folder: Path, backbone: Any) -> None:
    """Write `merges.txt` and `vocab.json`, and the trained tokens where a model does not know all.

    Both have the form that the Hugging Face `tokenizers` library reads: a first line "#version: 0.2", then one
    merge a line; a mapping of token to number.
    """
    tokenizer = backbone._tokenizer
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / MERGES).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    numbers = {_MARKERS.get(token, token): number for token, number in tokenizer.encoder.items()}
    (folder / VOCABULARY).write_text(json.dumps(numbers, ensure_ascii=False), encoding="utf-8")
    if backbone.known_token_ids is not None:
        ids = backbone.known_token_ids.flatten().tolist()
        (folder / KNOWN_TOKENS).write_text(json.dumps(ids), encoding="utf-8")
