"""Small corrections to what the theme and autodoc write into each page."""

import html
import inspect
import re
from typing import Any

from house_tables import mend_tables

LONGEST = 200  # characters of a description
PICTURE = "_images/readme.png"  # the first page shows it, so it is in every book


def described(body: str) -> str:
    """The first sentences of a page, as one line without marks, at most `LONGEST` characters."""
    for paragraph in re.findall(r"<p[^>]*>(.*?)</p>", body, flags=re.DOTALL):
        text = " ".join(html.unescape(re.sub(r"<[^>]+>", "", paragraph)).split())
        if len(text) < 40:
            continue
        if len(text) > LONGEST:
            text = text[: LONGEST - 2].rsplit(" ", 1)[0] + " \N{HORIZONTAL ELLIPSIS}"
        return text
    return ""


def preview(title: str, body: str, page: str, picture: str, book: str) -> str:
    """Meta tags: what a page is, for searches and for previews of links. `page`: its address, "" if unknown."""
    title = re.sub(r"<[^>]+>", "", title)  # as Sphinx gives it: HTML
    told = html.escape(described(body) or html.unescape(title))
    tags = [
        ("name", "description", told),
        ("property", "og:title", title.replace('"', "&quot;")),
        ("property", "og:description", told),
        ("property", "og:type", "article"),
        ("property", "og:site_name", html.escape(book)),
        ("property", "og:image", picture),
        ("property", "og:url", page),
        ("name", "twitter:card", "summary_large_image"),
    ]
    return "\n".join(
        f'<meta {kind}="{name}" content="{value}" />' for kind, name, value in tags if value
    )


def _correct(app: Any, pagename: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Mends tables, adds a description, drops the scripts of Thebe and says which colour scheme a page begins with.

    Thebe would run cells in the page through a server on the network, which this book does not use;
    its set-up is written twice by the version at hand, an error in the console of every page.
    """
    context["default_mode"] = "auto"
    if "body" in context:
        base = app.config.html_baseurl
        picture = base + PICTURE if base else context["pathto"](PICTURE, 1)
        page = f"{base}{pagename}.html" if base else ""
        told = preview(
            context.get("title") or "", context["body"], page, picture, app.config.html_title
        )
        context["metatags"] = f"{context.get('metatags', '')}\n{told}"
        context["body"] = mend_tables(context["body"])
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in str(getattr(script, "filename", script) or "")
        and "THEBE" not in (getattr(script, "attributes", None) or {}).get("body", "")
    ]


def _skip(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out what another page shows: submodules, and names that a package passes on."""
    if what != "module":
        return None
    here = app.env.temp_data.get("autodoc:module")
    home = getattr(obj, "__module__", None)
    passed_on = (inspect.isclass(obj) or inspect.isroutine(obj)) and home != here
    return True if inspect.ismodule(obj) or passed_on else None


def setup(app: Any) -> dict[str, bool]:
    """Runs after all other extensions have added their scripts."""
    app.connect("html-page-context", _correct, priority=999)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
