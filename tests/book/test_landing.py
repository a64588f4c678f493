"""The first page: its result is composed, its citation is that of CITATION.cff, pages describe themselves."""

import re

import build_book
import numpy as np
import pytest
import yaml
from book_texts import ROOT
from house_pages import LONGEST, described, preview
from test_findings import report

from ovsslib.book import findings
from ovsslib.evaluation.profiles import Profile
from ovsslib.evaluation.results import Results

INDEX = (ROOT / "book" / "index.md").read_text(encoding="utf-8")


class Book:
    """As much of a chapter as the sentence asks for."""

    embedded = True
    profile = Profile.named("embedded-quick")
    backbone = type("Backbone", (), {"name": "tiny"})
    dataset = range(60)

    def __init__(self, levels):
        reports = {name: report(np.full(60, right)) for name, right in levels.items()}
        self.results = Results(reports, self.profile)

    def stored(self, recipes):
        return self.results.part([name for name in recipes if name in self.results.reports])


def test_the_result_names_the_best_and_how_far_ahead_it_is():
    said = findings.headline(Book({"clip": 20, "sclip": 60, "naclip": 50}))
    assert "use one (sclip, naclip), is sclip: **42.9 % [" in said
    assert "**11.1 % [" in said and "ahead of it by +31.7 points [" in said
    assert "tiny on scenes, 60 images" in said and "nothing here is settled for real CLIP" in said
    worse = findings.headline(Book({"clip": 60, "sclip": 20}))
    assert "behind it by -31.7 points [" in worse


@pytest.mark.parametrize("levels", [{"clip": 20}, {"sclip": 20}, {}])
def test_without_records_the_first_page_says_so(levels):
    assert findings.headline(Book(levels)) == "No method has a record yet of tiny on scenes."


def test_what_the_first_page_asks_for_is_filled_in():
    config = build_book.configuration(ROOT, "", "main", headline="One.")
    filled = config["parse"]["myst_substitutions"]
    assert set(re.findall(r"\{\{ (\w+) \}\}", INDEX)) == set(filled)
    assert filled["headline"] == "One." and "make lab" in filled["code"]
    config = build_book.configuration(ROOT, "https://a.b/c/", "main", "https://pages.d")
    assert "git clone https://a.b/c`" in config["parse"]["myst_substitutions"]["code"]
    assert config["html"]["baseurl"] == "https://pages.d/"


def test_the_repositorys_address_stands_in_one_place(tmp_path, monkeypatch):
    monkeypatch.delenv("REPOSITORY", raising=False)
    assert build_book.repository_of(tmp_path) == ""
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "a"\n\n[project.urls]\nDocs = "https://x"\nRepository = "https://a.b/c"\n\n[tool.x]\n'
    )
    assert build_book.repository_of(tmp_path) == "https://a.b/c"
    monkeypatch.setenv("REPOSITORY", "https://other")
    assert build_book.repository_of(tmp_path) == "https://other"


def test_the_citation_is_that_of_the_citation_file():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    fields = dict(re.findall(r"^  (\w+)\s*= \{+(.+?)\}+,?$", INDEX, flags=re.MULTILINE))
    assert fields["title"] == cff["title"] and fields["version"] == cff["version"]
    assert fields["license"] == cff["license"] and fields["author"] == cff["authors"][0]["name"]


def test_a_page_is_described_by_its_first_sentences():
    body = (
        f"<h1>T</h1><p>Short.</p><p>CLIP&#8217;s <em>patch</em> tokens\n say {'little ' * 40}.</p>"
    )
    told = described(body)
    assert told.startswith("CLIP’s patch tokens say little") and len(told) <= LONGEST
    assert told.endswith(" …") and described("<p>Short.</p>") == ""


def test_previews_have_title_picture_and_quotes_that_do_not_end_them():
    tags = preview('A "title"', "<p>" + 'a "b" ' * 10 + "</p>", "", "_images/x.png", "The book")
    assert '<meta property="og:title" content="A &quot;title&quot;" />' in tags
    assert '<meta property="og:image" content="_images/x.png" />' in tags
    assert "og:url" not in tags and tags.count('content="a &quot;b&quot;') == 2
