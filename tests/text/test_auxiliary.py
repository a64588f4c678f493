"""Auxiliary texts: the shipped tables and the official file format; test_defining_words.py has the generator."""

import itertools
import re
from collections import Counter

import open_clip
import pytest
import yaml

from ovsslib import paths
from ovsslib.errors import DataError, WordsError
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
