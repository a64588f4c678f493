"""Small corrections to what the theme and autodoc write into each page."""

import inspect
from typing import Any


def _correct(app: Any, pagename: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Drops the scripts of Thebe and says which colour scheme a page begins with.

    Thebe would run cells in the page through a server on the network, which this book does not use;
    its set-up is written twice by the version at hand, an error in the console of every page.
    """
    context["default_mode"] = "auto"
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
