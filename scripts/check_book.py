"""Opens every page of the built book in a headless Chromium and reports what a reader would trip
over.

    python scripts/check_book.py                  # public/, searches for LoftUp
    python scripts/check_book.py --word SCLIP --screenshots build/screenshots

On each page, at 1280 and at 390 pixels: it loads, asks nothing of the network, writes no error to
the console, shows all its images, each with an alternative text, is not wider than the window, and
its links within the book lead somewhere. The live page is used as a reader would (`check_live.py`).
"""

import argparse
import functools
import http.server
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

from check_live import PAGE, check_live
from playwright.sync_api import Browser, Page, Request, sync_playwright
from playwright.sync_api import Error as BrowserError

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTHS = (1280, 390)
HEIGHT = 900
SECONDS = 30

# What is read from a page in one go: its width, its pictures, its links, the targets that links may
# have.
_LOOK = """
() => {
  const article = document.querySelector('.bd-article') || document.body;
  const wide = document.documentElement.scrollWidth > window.innerWidth + 1;
  const out = [];
  if (wide) {
    for (const e of document.body.querySelectorAll('*')) {
      const box = e.getBoundingClientRect();
      const beyond = box.right > window.innerWidth + 1 && box.width > 0;
      if (beyond) out.push(e.tagName + '.' + String(e.className).slice(0, 60));
    }
  }
  const images = [...document.images].map(i => ({
    src: i.getAttribute('src').slice(0, 120), alt: i.getAttribute('alt'),
    loaded: i.complete && i.naturalWidth > 0, inside: article.contains(i),
  }));
  const links = [...document.querySelectorAll('a[href]')].map(a => a.href);
  const targets = [...document.querySelectorAll('[id], a[name]')].map(e => e.id || e.name);
  return {title: document.title, wide, out: out.slice(-3), images, links, targets,
          heading: !!article.querySelector('h1')};
}
"""


@dataclass
class Findings:
    """What is wrong, page by page, and what links need to be followed up."""

    problems: list[str] = field(default_factory=list)
    links: dict[str, set[str]] = field(default_factory=dict)
    targets: dict[str, set[str]] = field(default_factory=dict)

    def add(self, page: str, problem: str) -> None:
        """Notes a problem once."""
        line = f"{page}: {problem}"
        if line not in self.problems:
            self.problems.append(line)


def find_browser() -> str | None:
    """Path of a Chromium or Chrome: $CHROMIUM, else the first of the usual names on the PATH."""
    named = os.environ.get("CHROMIUM")
    return named or next((path for name in BROWSERS if (path := shutil.which(name))), None)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serves a folder on a free local port; gives its address, which ends in a slash."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()


def pages_of(folder: Path) -> list[str]:
    """The pages a reader can reach, as addresses relative to the folder."""
    every = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.html")))
    return [name for name in every if not name.startswith("_") and name != "webpack-macros.html"]


def watch(page: Page, name: str, base: str, findings: Findings) -> None:
    """Notes console errors, script errors, failed and outside requests of a page while it loads."""

    def request(sent: Request) -> None:
        if not sent.url.startswith((base, "data:", "blob:")):
            findings.add(name, f"asks the network for {sent.url}")

    page.on("request", request)
    page.on("pageerror", lambda error: findings.add(name, f"script error: {error}"))
    page.on("requestfailed", lambda sent: findings.add(name, f"did not load {sent.url}"))
    page.on(
        "console",
        lambda message: (
            findings.add(name, f"console: {message.text}") if message.type == "error" else None
        ),
    )
    page.on(
        "response",
        lambda response: (
            findings.add(name, f"{response.status} for {response.url}")
            if response.status >= 400
            else None
        ),
    )


def redirection(folder: Path, name: str) -> str | None:
    """Where a page only sends its reader on to, or None for a page of its own (the root page may be
    such).
    """
    text = (folder / name).read_text(encoding="utf-8")[:500]
    match = re.search(r'http-equiv="refresh"[^>]*url=([^"]+)"', text, re.IGNORECASE)
    return match[1] if match else None


def look_at(page: Page, name: str, base: str, findings: Findings, width: int) -> None:
    """Notes what is wrong with a loaded page at one width."""
    page.set_viewport_size({"width": width, "height": HEIGHT})
    # Pictures below the fold may load late: go to the end and back.
    page.evaluate(
        "() => { window.scrollTo(0, document.body.scrollHeight); window.scrollTo(0, 0); }"
    )
    page.wait_for_function(
        "() => [...document.images].every(i => i.complete)", timeout=SECONDS * 1000
    )
    state = page.evaluate(_LOOK)
    if not state["heading"] and name not in ("search.html", "genindex.html", "py-modindex.html"):
        findings.add(name, "has no heading")
    if state["wide"]:
        findings.add(name, f"is wider than {width} pixels: {', '.join(state['out'])}")
    for image in state["images"]:
        if not image["loaded"]:
            findings.add(name, f"image does not show: {image['src']}")
        if image["inside"] and not (image["alt"] or "").strip():
            findings.add(name, f"image without alternative text: {image['src']}")
        elif image["inside"] and image["alt"].startswith(("../_images/", "_images/")):
            findings.add(name, f"image whose alternative text is its file name: {image['src']}")
    findings.links[name] = {link for link in state["links"] if link.startswith(base)}
    findings.targets[name] = set(state["targets"])


def check_links(folder: Path, base: str, findings: Findings) -> None:
    """Follows the links within the book, down to the place on the page."""
    for name, links in findings.links.items():
        for link in sorted(links):
            address, place = urldefrag(link)
            target = unquote(urlparse(address).path).lstrip("/") or "index.html"
            if not (folder / target).is_file():
                findings.add(name, f"broken link to {target}")
            elif (
                place
                and "=" not in place  # a state of the live page
                and target in findings.targets
                and unquote(place) not in findings.targets[target]
            ):
                findings.add(name, f"link to a place that is not there: {target}#{place}")


def check_search(page: Page, base: str, word: str, findings: Findings) -> None:
    """Looks for a word with the book's own search."""
    page.set_viewport_size({"width": WIDTHS[0], "height": HEIGHT})
    page.goto(urljoin(base, f"search.html?q={word}"), timeout=SECONDS * 1000)
    try:
        page.wait_for_selector("#search-results ul.search li a", timeout=SECONDS * 1000)
    except BrowserError:
        findings.add("search.html", f"finds nothing for {word!r}")


def check(
    folder: Path, browser: Browser, word: str, screenshots: Path | None
) -> tuple[int, list[str]]:
    """Checks all pages of a folder; returns how many there are and what is wrong."""
    findings = Findings()
    names = pages_of(folder)
    with served(folder) as base:
        for name in names:
            target = redirection(folder, name)
            if target:
                if not (folder / target).is_file():
                    findings.add(name, f"sends its reader to {target}, which is not there")
                continue
            page = browser.new_page(reduced_motion="reduce")
            watch(page, name, base, findings)
            try:
                page.goto(urljoin(base, name), wait_until="load", timeout=SECONDS * 1000)
                for width in WIDTHS:
                    look_at(page, name, base, findings, width)
                    if screenshots and "/api/" not in name:
                        file = f"{name.removesuffix('.html').replace('/', '-')}-{width}.png"
                        page.screenshot(
                            path=screenshots / file, full_page=True, animations="disabled"
                        )
            except BrowserError as error:
                findings.add(name, f"does not load: {str(error).splitlines()[0]}")
            page.close()
        for problem in check_live(folder, browser, base, screenshots):
            findings.add(PAGE, problem)
        check_links(folder, base, findings)
        page = browser.new_page()
        watch(page, "search.html", base, findings)
        check_search(page, base, word, findings)
        page.close()
    return len(names), findings.problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "public")
    parser.add_argument("--word", default="LoftUp", help="a word that the search must find")
    parser.add_argument("--screenshots", type=Path, default=ROOT / "build" / "screenshots")
    options = parser.parse_args(arguments)
    if not (options.folder / "index.html").is_file():
        print(f"error: no book in {options.folder}; make it first: make book", file=sys.stderr)
        return 2
    program = find_browser()
    if program is None:
        print(
            "error: no Chromium or Chrome found; install one "
            "(Debian, Ubuntu: apt install chromium) or set CHROMIUM to its path",
            file=sys.stderr,
        )
        return 2
    started = time.monotonic()
    shutil.rmtree(options.screenshots, ignore_errors=True)
    options.screenshots.mkdir(parents=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        count, problems = check(options.folder, browser, options.word, options.screenshots)
        browser.close()
    for problem in problems:
        print(problem)
    seconds = time.monotonic() - started
    print(
        f"{count} pages, {len(problems)} problems, {seconds:.0f} s; "
        f"pictures in {options.screenshots}"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
