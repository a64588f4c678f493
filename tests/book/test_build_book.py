"""The machinery of the book, tried on small notebooks of its own."""

import argparse

import build_book
import check_book
import nbformat
import pytest
import run_notebooks
import yaml

PIXEL = (  # a PNG of one pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJ"
    "RU5ErkJggg=="
)  # fmt: skip


def notebook(*sources: str, tags: dict[int, list[str]] | None = None) -> nbformat.NotebookNode:
    """A notebook of code cells; `tags` by cell number."""
    content = nbformat.v4.new_notebook()
    content.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    for number, source in enumerate(sources):
        cell = nbformat.v4.new_code_cell(source, id=f"cell{number}")
        cell.metadata["tags"] = (tags or {}).get(number, [])
        content.cells.append(cell)
    return content


def picture(alt: str | None = None, **data: str) -> nbformat.NotebookNode:
    """An output that shows a one-pixel picture."""
    metadata = {"image/png": {"alt": alt}} if alt else {}
    return nbformat.v4.new_output("display_data", {"image/png": PIXEL, **data}, metadata=metadata)


@pytest.fixture
def project(tmp_path):
    """A small project: two notebooks, one page, two profiles, a library and its data."""
    for folder in ("notebooks", "book", "ovsslib", "data/profiles"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ovsslib" / "__init__.py").write_text("")
    for name in ("embedded", "embedded-quick", "other"):
        (tmp_path / "data" / "profiles" / f"{name}.yaml").write_text("model: sceneclip\n")
    first = notebook('profile = "embedded-quick"', "print(profile)", tags={0: ["parameters"]})
    nbformat.write(first, tmp_path / "notebooks" / "00_first.ipynb")
    nbformat.write(notebook("print(1 + 1)"), tmp_path / "notebooks" / "01_second.ipynb")
    (tmp_path / "book" / "index.md").write_text("# Hello\n")
    toc = {
        "root": "book/index",
        "chapters": [{"file": "notebooks/00_first"}, {"file": "notebooks/01_second"}],
    }
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump({"format": "jb-book", **toc}))
    return tmp_path


@pytest.mark.parametrize(
    ("profile", "quick", "chosen"),
    [
        ("embedded", False, "embedded"),
        ("embedded", True, "embedded-quick"),
        ("embedded-quick", True, "embedded-quick"),
        ("other", False, "other"),
    ],
)
def test_profile_and_its_quick_variant(project, profile, quick, chosen):
    assert build_book.choose_profile(profile, quick, run_notebooks.profiles(project)) == chosen


def test_unknown_profile_stops_before_anything_runs(project, monkeypatch):
    monkeypatch.setattr(build_book, "run_all", lambda *more, **rest: pytest.fail("ran a notebook"))
    options = argparse.Namespace(profile="wrong", quick=False)
    with pytest.raises(
        build_book.BookError, match="'wrong'; there are: embedded, embedded-quick, other"
    ):
        build_book.build(options, project)
    with pytest.raises(build_book.BookError, match="'other' has no quick variant"):
        build_book.choose_profile("other", True, run_notebooks.profiles(project))


def test_a_profile_file_of_ones_own(project, tmp_path, monkeypatch, capsys):
    """A path goes through to the notebooks as an absolute one; the page shows it as it was given."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "own.yaml").write_text("dataset: scenes\nlimit: 3\n")
    monkeypatch.chdir(tmp_path)
    given, known = "mine/own.yaml", run_notebooks.profiles(project)
    assert build_book.choose_profile(given, False, known) == given
    assert run_notebooks.profile_parameter(given) == str(folder / "own.yaml")
    assert run_notebooks.profile_parameter("embedded") == "embedded"
    with pytest.raises(build_book.BookError, match="no quick variant.*limit: 60"):
        build_book.choose_profile(given, True, known)
    with pytest.raises(build_book.BookError, match="no profile file 'mine/none.yml'"):
        build_book.choose_profile("mine/none.yml", False, known)
    names = {run_notebooks.profile_folder(name) for name in (given, "own.yaml", "own")}
    assert len(names) == 3 and all("/" not in name for name in names)
    first = project / "notebooks" / "00_first.ipynb"
    parameters = {"profile": run_notebooks.profile_parameter(given)}
    before = run_notebooks.run_key(first, parameters, "x")
    (folder / "own.yaml").write_text("dataset: scenes\nlimit: 4\n")
    assert run_notebooks.run_key(first, parameters, "x") != before  # another content, another run
    shown = build_book.readable(
        notebook('profile = "a"', tags={0: ["parameters"]}), {"profile": given}
    )
    assert shown.cells[0].source == 'profile = "mine/own.yaml"'
    with pytest.raises(SystemExit):
        run_notebooks.main(["--profile", "mine/none.yaml"])
    assert "no profile file 'mine/none.yaml'" in capsys.readouterr().err


def test_toc_names_every_notebook_and_nothing_else(project):
    assert [path.stem for path in build_book.check_toc(project)] == ["00_first", "01_second"]
    (project / "notebooks" / "01_second.ipynb").unlink()
    with pytest.raises(build_book.BookError, match="do not exist: notebooks/01_second"):
        build_book.check_toc(project)
    nbformat.write(notebook("1"), project / "notebooks" / "01_second.ipynb")
    nbformat.write(notebook("1"), project / "notebooks" / "02_third.ipynb")
    with pytest.raises(build_book.BookError, match="leaves notebooks out: notebooks/02_third"):
        build_book.check_toc(project)


def test_real_toc_is_complete():
    assert sorted(build_book.check_toc(build_book.ROOT)) == run_notebooks.find_notebooks()


def test_find_notebooks_by_beginning(project):
    assert [p.stem for p in run_notebooks.find_notebooks(["01"], project)] == ["01_second"]
    with pytest.raises(ValueError, match="begins with 07; there are: 00_first, 01_second"):
        run_notebooks.find_notebooks(["07"], project)


def test_parameter_names_are_those_of_the_tagged_cell():
    content = notebook(
        'profile = "a"  # which\nlimit: int | None = None\nif limit == 3:\n    inner = 1',
        "other = 2",
        tags={0: ["parameters"]},
    )
    assert run_notebooks.parameter_names(content) == {"profile", "limit"}


def test_key_changes_with_source_parameters_code_and_data_alone(project):
    path = project / "notebooks" / "01_second.ipynb"

    def key(**parameters: str) -> str:
        return run_notebooks.run_key(path, parameters, run_notebooks.source_hash(project))

    first = key()
    content = nbformat.read(path, as_version=4)
    content.cells[0].outputs = [nbformat.v4.new_output("stream", text="2\n")]
    nbformat.write(content, path)
    assert key() == first
    assert key(profile="embedded") != first
    (project / "data" / "new.yaml").write_text("a: 1\n")
    second = key()
    (project / "ovsslib" / "new.py").write_text("a = 1\n")
    third = key()
    content.cells[0].source += "\n1"
    nbformat.write(content, path)
    assert len({first, second, third, key()}) == 4


def test_workers_are_bounded_by_jobs_memory_and_work(monkeypatch):
    class Memory:
        available = 2.5 * run_notebooks.MEMORY_PER_NOTEBOOK

    monkeypatch.setattr(run_notebooks.psutil, "virtual_memory", lambda: Memory)
    assert run_notebooks.worker_count(8, 8) == 2
    assert run_notebooks.worker_count(1, 8) == 1
    assert run_notebooks.worker_count(8, 0) == 1


def test_notebooks_run_once_and_stray_output_is_a_failure(project):
    """Real kernels: the profile arrives, what is there is taken, warnings and errors are told."""
    nbformat.write(
        notebook("import sys", "print('careless', file=sys.stderr)"),
        project / "notebooks" / "01_second.ipynb",
    )
    nbformat.write(notebook("1 / 0"), project / "notebooks" / "02_third.ipynb")
    notebooks = run_notebooks.find_notebooks(root=project)
    lines: list[str] = []
    runs = run_notebooks.run_all(
        notebooks, project / "build", {"profile": "other"}, 2, report=lines.append, root=project
    )
    first, second, third = runs
    shown = nbformat.read(first.output, as_version=4)
    assert [out.text for cell in shown.cells for out in cell.outputs] == ["other\n"]
    assert first.error is None and not first.cached
    assert "careless" in second.error and "ZeroDivisionError" in third.error
    assert len(lines) == 3 and sum("FAILED" in line for line in lines) == 2
    assert run_notebooks.report_failures(runs, report=lines.append) == 2

    again = run_notebooks.run_all(
        notebooks[:1], project / "build", {"profile": "other"}, 2, report=lines.append, root=project
    )
    assert again[0].cached and again[0].output == first.output and lines[-1].endswith("unchanged")

    path = notebooks[1]
    nbformat.write(notebook("import os", "print(os.environ['OVSSLIB_FRESH'])"), path)
    [new] = run_notebooks.run_all([path], project / "build", {}, 1, fresh=True, root=project)
    [shown] = nbformat.read(new.output, as_version=4).cells[-1].outputs
    assert shown.text.strip() == str(project / "build" / "fresh-results")

    run_notebooks.store_outputs(again)
    stored = nbformat.read(notebooks[0], as_version=4)
    assert "papermill" not in stored.metadata
    assert stored.cells[-1].outputs[0].text == "other\n"


def test_a_fresh_build_knows_no_earlier_results(tmp_path, monkeypatch):
    from ovsslib.evaluation.store import ResultsStore

    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path / "cache"))
    assert ResultsStore().folder == tmp_path / "cache" / "results"
    monkeypatch.setenv("OVSSLIB_FRESH", str(tmp_path))
    assert ResultsStore().folder == tmp_path and ResultsStore().keys() == []
    assert ResultsStore("other").folder.name == "other"


def test_parameters_cell_shows_what_ran_and_the_injected_one_is_hidden():
    content = notebook(
        'profile = "embedded-quick"  # see data/profiles/\nlimit = None',
        'profile = "other"',
        "print(profile)",
        tags={0: ["parameters"], 1: ["injected-parameters"]},
    )
    content.metadata["papermill"] = {"output_path": "somewhere"}
    shown = build_book.readable(content, {"profile": "other"})
    assert shown.cells[0].source == 'profile = "other"  # see data/profiles/\nlimit = None'
    assert "remove-cell" in shown.cells[1].metadata["tags"]
    assert "papermill" not in shown.metadata


def test_alternative_text_comes_from_the_output_or_the_caption():
    content = notebook("a", "b", "c", "d")
    content.cells[0].outputs = [picture(alt="A dog\non grass")]
    content.cells[1].outputs = [picture()]
    content.cells[1].metadata["mystnb"] = {"figure": {"caption": "A *dog*, {cite}`somebody`"}}
    content.cells[2].outputs = [picture()]
    content.cells[3].outputs = [picture()]
    content.cells[3].metadata["tags"] = ["remove-output"]
    shown = build_book.readable(content, {})
    assert shown.cells[0].metadata["mystnb"]["image"]["alt"] == "A dog on grass"
    assert shown.cells[1].metadata["mystnb"]["image"]["alt"] == "A dog, somebody"
    assert build_book.figures_without_text(shown) == [2]


def test_widgets_keep_their_picture_only():
    view = {run_notebooks.WIDGET_VIEW: {"model_id": "1"}}
    content = notebook("w")
    content.metadata["widgets"] = {"state": 1}
    content.cells[0].outputs = [
        nbformat.v4.new_output("display_data", {"text/plain": "IntSlider()", **view}),
        picture(alt="A picture", **view),
    ]
    shown = build_book.readable(content, {})
    assert [list(out.data) for out in shown.cells[0].outputs] == [["image/png"]]
    assert "widgets" not in shown.metadata


def test_buttons_appear_only_with_a_repository():
    plain = build_book.configuration(build_book.ROOT, "", "main")
    assert "launch_buttons" not in plain and not plain["html"]["use_repository_button"]
    assert plain["execute"]["execute_notebooks"] == "off"
    linked = build_book.configuration(build_book.ROOT, "https://example.org/a/b/", "main")
    assert linked["repository"]["url"] == "https://example.org/a/b"
    assert {"binderhub_url", "colab_url"} <= set(linked["launch_buttons"])


def test_every_public_module_is_on_an_api_page(tmp_path):
    pages = build_book.api_modules(build_book.ROOT / "ovsslib")
    files = {
        ".".join(path.relative_to(build_book.ROOT).with_suffix("").parts)
        for path in (build_book.ROOT / "ovsslib").rglob("*.py")
        if not any(part.startswith("_") for part in path.relative_to(build_book.ROOT).parts)
    }
    assert files <= {name for names in pages.values() for name in names}
    build_book.write_api_pages(pages, tmp_path)
    assert ".. automodule:: ovsslib.images.palette" in (tmp_path / "images.md").read_text()
    assert "automodule:: ovsslib.stages.pamr" in (tmp_path / "stages.md").read_text()


def test_stage_refuses_a_figure_without_text(project):
    content = notebook("x")
    content.cells[0].outputs = [picture()]
    out = project / "done.ipynb"
    nbformat.write(content, out)
    run = run_notebooks.Run(project / "notebooks" / "01_second.ipynb", out, 1.0, cached=False)
    with pytest.raises(build_book.BookError, match="alternative text: 01_second.ipynb cell 0"):
        build_book.stage(project, project / "source", [run], "other", {"title": "T"})


def test_publish_replaces_the_old_pages(tmp_path):
    for name, text in (("pages", "new"), ("public", "old")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.html").write_text(text)
    (tmp_path / "public" / "stale.html").write_text("old")
    build_book.publish(tmp_path / "pages", tmp_path / "public")
    assert sorted(path.name for path in (tmp_path / "public").iterdir()) == [
        ".nojekyll",
        "index.html",
    ]
    assert (tmp_path / "public" / "index.html").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pages", "public"]


GOOD = "<html><body><article class='bd-article'><h1 id='a'>A</h1>{}</article></body></html>"


def test_pages_and_redirections(tmp_path):
    (tmp_path / "_static").mkdir()
    (tmp_path / "_static" / "x.html").write_text("")
    (tmp_path / "index.html").write_text('<meta http-equiv="Refresh" content="0; url=b/i.html" />')
    assert check_book.pages_of(tmp_path) == ["index.html"]
    assert check_book.redirection(tmp_path, "index.html") == "b/i.html"
    (tmp_path / "page.html").write_text(GOOD.format(""))
    assert check_book.redirection(tmp_path, "page.html") is None


def test_links_are_followed_to_their_place(tmp_path):
    (tmp_path / "a.html").write_text("")
    findings = check_book.Findings()
    base = "http://127.0.0.1:1/"
    findings.links = {"a.html": {base + "a.html#here", base + "a.html#gone", base + "missing.html"}}
    findings.targets = {"a.html": {"here"}}
    check_book.check_links(tmp_path, base, findings)
    assert findings.problems == [
        "a.html: link to a place that is not there: a.html#gone",
        "a.html: broken link to missing.html",
    ]


def test_missing_book_and_missing_browser_are_told(tmp_path, monkeypatch, capsys):
    assert check_book.main([str(tmp_path)]) == 2
    assert "make book" in capsys.readouterr().err
    (tmp_path / "index.html").write_text("")
    monkeypatch.setattr(check_book, "find_browser", lambda: None)
    assert check_book.main([str(tmp_path)]) == 2
    assert "apt install chromium" in capsys.readouterr().err


def test_search_finds_the_browser_named_in_the_environment(monkeypatch):
    monkeypatch.setenv("CHROMIUM", "/somewhere/chromium")
    assert check_book.find_browser() == "/somewhere/chromium"


def test_served_folder_can_be_read(tmp_path):
    import urllib.request

    (tmp_path / "a.html").write_text("hello")
    with check_book.served(tmp_path) as base:
        assert urllib.request.urlopen(base + "a.html", timeout=5).read() == b"hello"


@pytest.mark.parametrize("module", [build_book, check_book, run_notebooks])
def test_commands_explain_themselves(module, capsys):
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0 and "usage:" in capsys.readouterr().out


def test_notebooks_are_not_stored_on_another_profile(capsys):
    profile = run_notebooks.profiles()[0]
    with pytest.raises(SystemExit):
        run_notebooks.main(["--store", "--profile", profile])
    assert "leave --profile and -p out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_notebooks.main(["--profile", "wrong"])
    assert f"there are: {profile}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_notebooks.main(["-p", "profile", "mine/none.yaml"])  # as papermill says it
    assert "there is no profile file" in capsys.readouterr().err


def test_solutions_and_hidden_code_say_what_they_are():
    content = notebook("1", "2", "3", tags={0: ["hide-cell"], 1: ["hide-input"]})
    shown = [cell.metadata.get("mystnb") for cell in build_book.readable(content, {}).cells]
    assert [one and one["code_prompt_show"] for one in shown] == [
        "Show solution",
        "Show code",
        None,
    ]
    assert [one and one["code_prompt_hide"] for one in shown] == [
        "Hide solution",
        "Hide code",
        None,
    ]


def test_numbers_printed_above_their_figure_are_folded_and_sentences_are_not():
    table = "        value    low\nclip     8.30   7.37\nsclip   62.63  61.56\na<b      1.00  61.56\ngem     1.00   2.00\n"
    content = notebook("1", "2", "3")
    for cell, text in zip(content.cells, (table, "one of 3 pictures\n", table), strict=True):
        cell.outputs = [nbformat.v4.new_output("stream", text=text), picture("a")]
    for cell in content.cells[:2]:
        cell.metadata["mystnb"] = {"figure": {"caption": "a figure"}}
    first, numbers, second, third = build_book.readable(content, {}).cells
    assert [out.output_type for out in first.outputs] == ["display_data"]
    assert numbers.cell_type == "markdown" and ":class: dropdown numbers" in numbers.source
    assert "```text\n" + table.rstrip("\n") + "\n```" in numbers.source
    assert [cell.outputs[0].output_type for cell in (second, third)] == ["stream", "stream"]
