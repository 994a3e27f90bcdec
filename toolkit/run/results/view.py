"""Opening a run's report page in a browser."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from toolkit.base.errors import QtoolError
from toolkit.run.folder.guard import refuse_missing


def page_of(path: Path) -> Path:
    """The report page of a run.

    Args:
        path: the run folder, or an HTML page itself.

    Raises:
        QtoolError: there is no page.
    """
    refuse_missing(path, "no such run folder")
    page = path / "report.html" if path.is_dir() else path
    if path.is_dir() and not page.is_file():
        ran = (path / "report.json").is_file()
        raise QtoolError(
            "the run wrote no page" if ran else "the folder is not a run folder: it has no report.html",
            where=str(path),
            remedy='run its recipe again with --set \'report.formats=["html", "json"]\'' if ran else "run its recipe",
        )
    if page.suffix.lower() not in (".html", ".htm"):
        raise QtoolError("this is not an HTML page", where=str(page), remedy="name a run folder or an .html file")
    return page


def open_page(page: Path) -> bool:
    """Open a page in this machine's browser; False if there is none."""
    import webbrowser

    shown = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
    # without a display, webbrowser would start a text browser, which takes over the terminal
    try:
        return shown and webbrowser.open(page.resolve().as_uri())
    except webbrowser.Error:
        return False
