"""Small corrections to what the theme writes into each page."""

from typing import Any

from house_tables import mend_tables


def _correct(app: Any, pagename: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Drops the scripts of Thebe and says which colour scheme a page begins with.

    Thebe would run cells in the page through a server on the network, which this book does not use;
    its set-up is written twice by the version at hand, an error in the console of every page.
    """
    context["default_mode"] = "auto"
    if "body" in context:
        context["body"] = mend_tables(context["body"])
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in str(getattr(script, "filename", script) or "")
        and "THEBE" not in (getattr(script, "attributes", None) or {}).get("body", "")
    ]


def setup(app: Any) -> dict[str, bool]:
    """Runs after all other extensions have added their scripts."""
    app.connect("html-page-context", _correct, priority=999)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
