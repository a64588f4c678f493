"""Vocabularies against the data sets' documentation, and free words of every unpleasant sort."""

import warnings

import pytest

from ovsslib.errors import WordsError
from ovsslib.text.vocabulary import (
    KINDS,
    VARIANTS,
    Vocabulary,
    available,
    background_sets,
    background_words,
    kind_of,
)

# From the data sets' own documentation: number of classes, then (label, readable name) of the
# first, the last and some in between, in the encoding that the data loaders produce.
DOCUMENTED = {
    "voc20": (20, {0: "aeroplane", 6: "car", 10: "dining table", 14: "person", 19: "tv monitor"}),
    "voc21": (21, {0: "background", 1: "aeroplane", 4: "boat", 15: "person", 20: "tv monitor"}),
    "context59": (59, {0: "aeroplane", 5: "bicycle", 36: "person", 46: "sky", 58: "wood"}),
    "context60": (60, {0: "background", 1: "aeroplane", 37: "person", 47: "sky", 59: "wood"}),
    "coco_object": (81, {0: "background", 1: "person", 10: "traffic light", 80: "toothbrush"}),
    "coco_stuff": (
        171,
        # A stuff label is COCO's category id less 12: banner 92, counter 107, floor-wood 118,
        # playingfield 145, sea 155, wall-brick 171, wood 182.
        {0: "person", 9: "traffic light", 79: "toothbrush", 80: "banner", 95: "counter"}
        | {106: "wooden floor", 133: "playing field", 143: "sea", 159: "brick wall", 170: "wood"},
    ),
    "cityscapes": (19, {0: "road", 6: "traffic light", 10: "sky", 11: "person", 18: "bicycle"}),
    "ade20k": (
        150,
        {0: "wall", 2: "sky", 12: "person", 20: "car", 136: "traffic light", 149: "flag"},
    ),
    "scenes": (34, {0: "sky", 7: "brick wall", 13: "bush", 14: "person", 27: "fork", 33: "bench"}),
    "scenes-object": (21, {0: "background", 1: "person", 15: "cup", 20: "bench"}),
    "scenes-things": (20, {0: "person", 14: "cup", 19: "bench"}),
}
# Queries of the published class files: (vocabulary, variant): number.
PUBLISHED_QUERIES = {
    ("voc20", "sclip"): 30,
    ("voc21", "sclip"): 56,
    ("voc21", "itaclip"): 80,
    ("voc21", "clearclip"): 21,
    ("voc20", "sfp"): 30,
    ("voc21", "sfp"): 56,
    ("coco_object", "sfp"): 113,
    ("voc21", "cdam"): 21,
    ("context60", "cdam"): 60,
    ("coco_object", "cdam"): 81,
    ("context59", "sclip"): 59,
    ("context60", "itaclip"): 75,
    ("coco_object", "sclip"): 113,
    ("coco_object", "itaclip"): 119,
    ("coco_stuff", "sclip"): 171,
    ("coco_stuff", "itaclip"): 183,
    ("cityscapes", "itaclip"): 26,
    ("ade20k", "sclip"): 150,
}


def test_sfp_says_people_where_sclip_says_person():
    for name, index in (("voc20", 14), ("voc21", 15), ("cityscapes", 11)):
        sclip, sfp = (Vocabulary.named(name, variant) for variant in ("sclip", "sfp"))
        theirs = tuple(word.replace("person", "people") for word in sclip.synonyms[index])
        assert sfp.synonyms[index] == theirs and theirs[0] == "people"
        assert sfp.synonyms[:index] == sclip.synonyms[:index]
        assert sfp.synonyms[index + 1 :] == sclip.synonyms[index + 1 :]


def test_available_lists_every_data_set():
    assert set(available()) == set(DOCUMENTED)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_label_order_is_the_data_sets(name):
    count, expected = DOCUMENTED[name]
    vocabulary = Vocabulary.named(name)
    assert len(vocabulary) == len(vocabulary.names) == count
    assert {index: vocabulary.names[index] for index in expected} == expected
    assert set(vocabulary.kinds) <= set(KINDS)
    assert None not in vocabulary.groups and len(vocabulary.group_names()) >= 4
    assert vocabulary.background == (0 if expected[0] == "background" else None)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", DOCUMENTED)
def test_no_query_occurs_twice_in_a_class(name, variant):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a repeated query would be dropped with a warning
        vocabulary = Vocabulary.named(name, names=variant)
    for words in vocabulary.synonyms:
        assert words and len({word.lower() for word in words}) == len(words)
    assert vocabulary.names == Vocabulary.named(name).names
    assert list(vocabulary.query_class) == sorted(vocabulary.query_class)
    assert len(vocabulary.queries) == len(vocabulary.query_class)


@pytest.mark.parametrize("key", PUBLISHED_QUERIES, ids="-".join)
def test_published_query_counts(key):
    name, variant = key
    assert len(Vocabulary.named(name, names=variant).queries) == PUBLISHED_QUERIES[key]


def test_published_spellings():
    stuff = Vocabulary.named("coco_stuff", names="sclip")
    assert stuff.queries[9] == "trafficlight" and stuff.queries[77] == "teddybear"
    assert "wall-brick" in stuff.queries and "sky-other" in stuff.queries
    assert stuff.names[9] == "traffic light"
    voc = Vocabulary.named("voc21", names="sclip")
    assert voc.synonyms[4] == ("ship",) and voc.synonyms[11] == ("table",)
    assert voc.synonyms[16] == ("pottedplant",)
    assert voc.synonyms[15][1] == "person in shirt" and len(voc.synonyms[15]) == 7
    assert Vocabulary.named("voc21", names="itaclip").synonyms[8] == ("cat", "feline")
    ade = Vocabulary.named("ade20k", names="sclip")
    assert ade.queries[44] == "chestofdrawers" and ade.names[44] == "chest of drawers"


def test_things_and_stuff_of_coco():
    stuff = Vocabulary.named("coco_stuff")
    assert set(stuff.kinds[:80]) == {"thing"}
    assert set(stuff.kinds[80:]) == {"stuff", "material"}
    assert stuff.kinds[stuff.names.index("brick wall")] == "material"
    assert len(stuff.group_names()) == 27  # COCO's 12 thing and 15 stuff supercategories
    assert stuff.groups[stuff.names.index("zebra")] == "animal"
    assert Vocabulary.named("ade20k").kinds.count("thing") == 100


def test_pascal_context_is_alphabetical():
    names = Vocabulary.named("context59").canonical
    assert list(names) == sorted(names)
    assert Vocabulary.named("context60").canonical[1:] == names


def test_views_of_coco_agree():
    things = Vocabulary.named("coco_stuff").names[:80]
    assert Vocabulary.named("coco_object").names[1:] == things


def test_background_sets():
    counts = {"sclip": 26, "itaclip": 44, "cliptrase-coco": 107, "proxyclip-coco": 17, "plain": 1}
    assert {name: len(background_words(name)) for name in counts} == counts
    assert set(counts) <= set(background_sets())
    assert Vocabulary.named("voc21").synonyms[0] == background_words("sclip")
    assert Vocabulary.named("voc21", names="itaclip").synonyms[0] == background_words("itaclip")
    assert Vocabulary.named("coco_object", names="itaclip").synonyms[0] == background_words("sclip")
    assert Vocabulary.named("context60", names="sclip").synonyms[0] == ("background",)
    plain = Vocabulary.named("voc21", background="plain")
    assert plain.synonyms[0] == ("background",) and plain.background == 0
    scenes = Vocabulary.named("scenes-object")
    assert len(scenes.synonyms[0]) == 14 and "brick wall" in scenes.synonyms[0]


def test_shared_names_are_reported():
    assert Vocabulary.named("coco_object").shared_names() == {"bed": ("background", "bed")}
    table = Vocabulary.named("coco_object").describe()
    assert table.loc[60, "shared"] == "bed" and table.loc[1, "shared"] == ""
    with pytest.warns(UserWarning, match="'puppy' stands for 2 classes"):
        words = Vocabulary.from_words({"dog": ["puppy"], "seal": "puppy, sea dog"})
    assert words.shared_names() == {"puppy": ("dog", "seal")}


def test_describe():
    table = Vocabulary.named("voc21", names="sclip").describe()
    assert list(table.columns) == ["name", "kind", "group", "queries", "shared"]
    assert table.loc[4].tolist() == ["boat", "thing", "vehicle", "ship", ""]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "voc22"}, "did you mean 'voc2.*context59"),
        ({"name": "voc21", "names": "sclpi"}, "did you mean 'sclip'"),
        ({"name": "voc21", "background": "everything"}, "'everything'.*itaclip"),
    ],
)
def test_unknown_names_list_the_known(arguments, message):
    with pytest.raises(WordsError, match=message):
        Vocabulary.named(**arguments)


@pytest.mark.parametrize("words", [[], (), {}, "", " , "])
def test_no_words(words):
    with pytest.raises(WordsError, match="no words"):
        Vocabulary.from_words(words)


@pytest.mark.parametrize(
    "words", [[1, "dog"], ["dog", None], [b"dog"], None, 7, [["dog"]], b"dog", {"a": 3}]
)
def test_words_that_are_not_texts(words):
    with pytest.raises(WordsError, match="text"):
        Vocabulary.from_words(words)


@pytest.mark.parametrize("word", ["", "  ", "\n\t"])
def test_empty_word(word):
    with pytest.raises(WordsError, match="empty word"):
        Vocabulary.from_words(["dog", word])


def test_one_word():
    words = Vocabulary.from_words(["dog"])
    assert words.names == words.queries == ("dog",)
    assert words.background is None and words.query_class == (0,)
    assert Vocabulary.from_words("dog").names == ("dog",)
    assert Vocabulary.from_words("person, dog ,grass").names == ("person", "dog", "grass")


def test_two_thousand_words():
    words = Vocabulary.from_words([f"thing number {n}" for n in range(2000)])
    assert len(words) == len(words.queries) == 2000
    assert words.query_class[-1] == 1999


@pytest.mark.parametrize("words", [["dog", "cat", "dog"], ["Dog", "dog"], ["a  dog", "a dog"]])
def test_a_name_for_two_classes_is_refused(words):
    with pytest.raises(WordsError, match="more than one class.*dog"):
        Vocabulary.from_words(words)


def test_a_repeated_synonym_is_dropped_with_notice():
    with pytest.warns(UserWarning, match="dropped 'Puppy'"):
        words = Vocabulary.from_words({"dog": ["puppy", "Puppy", "hound"]})
    assert words.synonyms == (("dog", "puppy", "hound"),)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Vocabulary.from_words({"dog": ["dog", "hound"]}).synonyms == (("dog", "hound"),)


@pytest.mark.parametrize(
    "word", ["🐕", "كلب أسود", "{dog}", "{}", "{0!r}", "x" * 300, "1,000 dogs"]
)
def test_unusual_words_are_kept_as_they_are(word):
    assert Vocabulary.from_words([word, "cat"]).queries == (word, "cat")


def test_kinds_of_free_words():
    words = Vocabulary.from_words(["dog", "grass", "wall-brick", "brick wall", "zeppelin"])
    assert words.kinds == ("thing", "stuff", "material", "material", "thing")
    assert words.groups == (None,) * 5 and words.group_names() == ()
    assert kind_of("GRASS ") == "stuff"


def test_background_of_free_words():
    auto = Vocabulary.from_words(["dog", "Grass"], background="auto")
    assert auto.names == ("background", "dog", "Grass") and auto.background == 0
    assert "sky" in auto.synonyms[0] and "grass" not in auto.synonyms[0]
    assert auto.kinds == ("stuff", "thing", "stuff")
    own = Vocabulary.from_words(["dog"], background=["floor", "wall"])
    assert own.synonyms == (("floor", "wall"), ("dog",))
    assert own.query_class == (0, 0, 1)
    named = Vocabulary.from_words(["dog"], background="plain")
    assert named.synonyms[0] == ("background",)


def test_background_cannot_be_added_twice_or_be_empty():
    with pytest.raises(WordsError, match="'background' is among the words"):
        Vocabulary.from_words(["background", "dog"], background="auto")
    with pytest.raises(WordsError, match="already"):
        Vocabulary.from_words(Vocabulary.named("voc21"), background="auto")
    with pytest.raises(WordsError, match="no background words"):
        Vocabulary.from_words(["dog"], background=[])
    assert Vocabulary.from_words(["background", "dog"]).background is None


def test_a_vocabulary_passes_through():
    voc = Vocabulary.named("voc20")
    assert Vocabulary.from_words(voc) is voc
    wider = Vocabulary.from_words(voc, background=["sky"])
    assert len(wider) == 21 and wider.groups[0] == "background" and wider.names[1] == "aeroplane"


def test_official_line_format(tmp_path):
    path = tmp_path / "cls.txt"
    path.write_text("sky, wall\nship\nperson, person in hat \n\n", encoding="utf-8")
    words = Vocabulary.from_file(path)
    assert words.synonyms == (("sky", "wall"), ("ship",), ("person", "person in hat"))
    assert words.names == ("sky", "ship", "person") and words.background is None
    words = Vocabulary.from_file(path, background_line=True)
    assert words.names[0] == "background" and words.background == 0
    assert words.synonyms[0] == ("sky", "wall")


def test_own_yaml_formats(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("classes: [grass, {name: otter, group: animal, synonyms: [sea otter]}]")
    assert Vocabulary.from_file(path).queries == ("grass", "otter")
    words = Vocabulary.from_file(path, names="synonyms")
    assert words.queries == ("grass", "otter", "sea otter")
    assert words.kinds == ("stuff", "thing") and words.groups == (None, "animal")
    path.write_text("- otter\n- river")
    assert Vocabulary.from_file(path).names == ("otter", "river")
    path.write_text("otter: sea otter, river otter\nriver:")
    assert Vocabulary.from_file(path).synonyms == (
        ("otter", "sea otter", "river otter"),
        ("river",),
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", "classes: []", "at least one class"),
        ("a.yaml", "classes: [{kind: thing}]", "class 0 has no `name`"),
        ("a.yaml", "classes: [{name: otter, index: 1}]", "says index 1"),
        ("a.yaml", "classes: [{name: otter, kind: beast}]", "unknown kind 'beast'"),
        ("a.yaml", "background: {index: 3}\nclasses: [otter]", "background must be class 0"),
        ("a.yaml", "[yes, otter]", "True is not a text"),
        ("a.yaml", "{unclosed", "a.yaml"),
        ("a.txt", "dog\n\ncat", "line 2 is empty"),
        ("a.txt", "", "no words"),
        ("a.txt", "dog\ndog", "more than one class 'dog'"),
    ],
)
def test_damaged_files_say_what_is_wrong(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(WordsError, match=message):
        Vocabulary.from_file(path)
    with pytest.raises(WordsError, match=name):
        Vocabulary.from_file(path)


def test_missing_file():
    with pytest.raises(WordsError, match="cannot read the vocabulary file nowhere.yaml"):
        Vocabulary.from_file("nowhere.yaml")


def test_fingerprint_follows_the_queries():
    plain = Vocabulary.named("voc21", names="sclip")
    assert plain.fingerprint == Vocabulary.named("voc21", names="sclip").fingerprint
    others = {Vocabulary.named("voc21", names=v).fingerprint for v in VARIANTS}
    assert len(others) == len(VARIANTS)
