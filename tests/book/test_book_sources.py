"""No result is typed into the book.

Measured numbers change with the weights, the profile and the machine, so a sentence must not hold one: code composes it
from the store or from the claims. This test reads what authors type (markdown, captions, alternative texts, strings and
comments of code cells, pages), not what cells print.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator

import pytest
from book_texts import NOTEBOOKS, cells, markdown

NUMBER = r"(?<![\w.,/^])[+\-\N{MINUS SIGN}]?\d+(?:[.,]\d+)?(?![\w/^])"
IN_WORDS = (
    "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty|forty|fifty|"
    "sixty|seventy|eighty|ninety|hundred"
)
COUNT = rf"(?:{NUMBER}|\b(?:{IN_WORDS})\b)"
METRIC = r"(?:mIoU|IoU|F1|accuracy|precision|recall|calibration error|tau)"
OUTCOME = (
    r"(?:adds?|gains?|gained|los(?:es?|t)|improves?|improved|drops?|dropped|rises?|rose|falls?|fell|"
    r"reach(?:es|ed)?|saves?|saved|lowers?|raises?|increases?|decreases?|beats?|outperforms?|"
    r"scor(?:es?|ed)|achieves?|better|worse|higher|lower|faster|slower|above|below)"
)
# What a number may count without being a result.
COUNTED = (
    r"(?:pixels?|patch(?:es)?|templates?|blocks?|layers?|heads?|tokens?|words?|class(?:es)?|windows?|"
    r"views?|prompts?|sentences?|channels?|dimensions?|iterations?|recipes?|steps?)\b"
)
RESULTS = {
    "percentage": rf"{COUNT} ?(?:%|per ?cent\b|percentage)",
    "points": rf"{COUNT} (?:\w+ )?points?\b",
    "metric, then number": rf"\b{METRIC}\b\W+(?:[a-z]+\W+){{0,4}}?{NUMBER}(?! ?{COUNTED})",
    "number, then metric": rf"{NUMBER} (?:\w+ )?{METRIC}\b",
    "time": rf"{COUNT} ?(?:s|ms|seconds?|milliseconds?|minutes?)\b",
    "memory": rf"{COUNT} ?(?:[kMG]i?B|megabytes?|gigabytes?)\b",
    "times": rf"(?:{COUNT} ?(?:times|x|\N{{MULTIPLICATION SIGN}})|\btwice) (?:as \w+|\w+er\b|more\b|less\b)",
    "outcome": rf"\b{OUTCOME} (?:\w+ ){{0,3}}?{NUMBER}(?! ?{COUNTED})",
    "measured decimals": r"(?<![\w.,/^])[+\-\N{MINUS SIGN}]?[1-9]\d*\.\d+(?![\w.])",
    "size of the run": r"(?<![\w.,/^])\d[\d,]* (?:\w+ )?(?:pictures|images|photographs)\b",
}
RESULTS = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in RESULTS.items()}

PLACE = (
    r"(?:tables?|figures?|sections?|chapters?|phases?|exercises?|equations?|blocks?|pages?|rows?|step|"
    r"Python)"
)
# Numbers that name a place, a thing or a definition rather than a result, wherever they stand.
HARMLESS = [
    re.compile(pattern, flags=re.IGNORECASE)
    for pattern in (
        rf"\b{PLACE}(?: == '| )\d[\d.]*[AB]?(?:(?:,| and| to|-|\N{{EN DASH}}) ?\d[\d.]*)*",
        r"\b95 ?% (?:bootstrap )?interval",  # the level of every interval
        r"\bintervals?,? \(95 ?%\)",
        r"^\d\.\d full system:",  # rows of a table, named after sections of the thesis
        r"\bTime: about \d+ minutes to read",  # the head of a chapter: its reader's time
    )
]

# Source, words, and why they are no result. Every entry has to be in use.
ALLOWED = [
    ("04_phase1_2a.ipynb", "at 40 %", "the premise of an exercise"),
    ("06_phase2c_confidence.ipynb", "score of 0.8", "what calibration means"),
    (
        "09_compute.ipynb",
        "six gigabytes",
        "the card that the thesis names: the budget, not a result",
    ),
    ("11_metrics.ipynb", "tau is 1", "the definition"),
    ("15_claims.ipynb", "all 5,000 images", "the data set that the thesis speaks of"),
]


FENCE = re.compile(r"^( *)(```+)([^\n]*)\n(.*?)^\1\2 *$", flags=re.MULTILINE | re.DOTALL)


def without_code(markdown: str) -> str:
    """The text without its code blocks; what stands in figures, glossaries and notes is kept."""
    prose = re.compile(r"\{(?!code)")
    return FENCE.sub(lambda block: block[4] if prose.match(block[3]) else "", markdown)


def plain(markdown: str) -> str:
    """The sentences of a markdown text: code, formulas, roles and addresses taken out, white space made even."""
    text = re.sub(r"^:(?!alt:)[\w-]+:.*$", "", without_code(markdown), flags=re.MULTILINE)
    text = re.sub(r"\$\$.*?\$\$(?: \([\w-]+\))?", " ", text, flags=re.DOTALL)
    text = re.sub(r"\{[\w:-]+\}`[^`]*`|`[^`]*`|\]\([^)]*\)|https?://\S+", " ", text)
    text = re.sub(r"\$[^$\n]*(?:\n[^$\n]*)?\$", " ", text)
    return re.sub(r"\s+", " ", re.sub(r"[*_]{1,2}(?=\S)|(?<=\S)[*_]{1,2}", "", text))


def typed_results(text: str) -> list[str]:
    """Places of a plain text that state a result, each as "kind: words"."""
    for pattern in HARMLESS:
        text = pattern.sub("(...)", text)
    return [
        f"{kind}: {hit[0]}" for kind, pattern in RESULTS.items() for hit in pattern.finditer(text)
    ]


def typed_in_code(source: str) -> Iterator[str]:
    """Strings (of f-strings the typed parts, joined by a letter) and comments of a code cell."""
    tree = ast.parse(source)
    inside = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            yield "".join(
                part.value if isinstance(part, ast.Constant) else "N" for part in node.values
            )
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in inside
        ):
            yield node.value if re.search(r"[A-Za-z%]", node.value) else ""  # "4.1" names a table
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def strings_of(tree: object) -> Iterator[str]:
    """All strings of nested metadata."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from strings_of(value)


def texts() -> Iterator[tuple[str, str]]:
    """Everything that authors type, as (file name, plain text)."""
    for name, text in markdown():
        for paragraph in plain_paragraphs(text):
            yield name, paragraph
    for path in NOTEBOOKS:
        for cell in cells(path):
            if cell.cell_type == "code":
                captions = strings_of(cell.metadata.get("mystnb", {}))
                for text in [*typed_in_code(cell.source), *captions]:
                    yield path.name, plain(text)


def plain_paragraphs(markdown: str) -> list[str]:
    """Paragraphs, list items and table rows of a page, each plain, so that no pattern runs from one into the next."""
    parts = re.split(r"\n\s*\n|\n(?=[|#]|- |\d+\. )", without_code(markdown))
    return [plain(part) for part in parts if part.strip()]


@pytest.mark.parametrize(
    "planted",
    [
        "LoftUp adds 10.9 points.",
        "a mIoU of 43.6",
        "The full system reaches 41 % on Scenes.",
        "SCLIP has **43.6** there and NACLIP 41.2.",
        "It is twenty points below the baseline.",
        "an IoU that drops from 30 to 28",
        "The boundary F1 is 58.",
        "It takes 0.3 seconds per picture.",
        "top-7 is 2.5 times faster",
        "twice as fast as before",
        "needs 1.8 GB",
        "Regions improve person by 6.",
        "Kendall's tau is 0.71",
        "85% of the pixels are right",
        "PAMR (+1.5) is better",
        "costs three times as\nmuch",
        "measured on 60 pictures of Scenes",
    ],
)
def test_planted_results_are_found(planted):
    assert typed_results(plain(planted)), planted


@pytest.mark.parametrize(
    "harmless",
    [
        "patch size 16",
        "224 x 298 pixels",
        "chapter 4",
        "Its Table 4.9, and section 5.4.4 of the thesis.",
        "mIoU with 95% intervals",
        "a 95 % interval from the bootstrap",
        "twelve blocks, 12 heads, 768 channels and 80 templates",
        "the mean of blocks 7, 8 and 10",
        "PASCAL VOC 2012, COCO-Stuff 164k, ViT-B/16 and a GTX 1060",
        "mIoU is defined in `metrics.py`, boundary F1 within two pixels",
        "`labels.logit_scale=50` and $\\alpha = 0.3$ and $$x = 3.25$$",
        "{numref}`fig-1.2-points` gives 3",
        "adds 2 tokens and improves with 3 iterations",
        "Exercise 2. Which classes gain most IoU?",
        "accuracy of 3 recipes",
    ],
)
def test_harmless_numbers_are_not(harmless):
    assert typed_results(plain(harmless)) == []


def test_planted_results_are_found_in_code_and_captions():
    code = '# 43.6 mIoU\nprint(f"gain {x:.1f} points, was 22.77")\nshow(title="41 % right")'
    found = [hit for text in typed_in_code(code) for hit in typed_results(plain(text))]
    assert {hit.partition(": ")[2] for hit in found} >= {"22.77", "41 %", "43.6 mIoU"}
    assert not [hit for hit in typed_results(plain(next(typed_in_code('f"{a:.2f} points"'))))]
    caption = {"figure": {"caption": "LoftUp adds 10.9 points"}, "image": {"alt": "-"}}
    assert [hit for text in strings_of(caption) for hit in typed_results(text)]


def test_text_in_directives_is_read_and_code_is_not():
    code = "```python\nx = 22.77\n```\n"
    figure = "```{figure} a.png\n:alt: A\n\nIt gains 3.2 points.\n```\n"
    assert typed_results(plain(code + figure + code)) == typed_results("It gains 3.2 points.") != []


def test_no_result_is_typed():
    found, used = [], set()
    for name, text in texts():
        rest = text
        for number, (source, words, _) in enumerate(ALLOWED):
            if source == name and words in rest:
                used.add(number)
                rest = rest.replace(words, "(...)")
        found += [f"{name}: {hit}  <- {text[:300]}" for hit in typed_results(rest)]
    assert not found, "numbers come from the store or the claims:\n" + "\n".join(found)
    stale = [entry for number, entry in enumerate(ALLOWED) if number not in used]
    assert not stale, f"allowed, but no longer there: {stale}"
