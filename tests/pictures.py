"""The README's pictures and its example of a report, from a run of recipes/strip_int8.toml with its sensitivity, taken in headless Chromium.

Run: python -m tests.pictures [RUN FOLDER]

Without a folder the run is made. Each picture, and the report, holds a digest of the files that draw what it shows, by which
tests/test_pictures.py tells that it is as old as they are.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PICTURES = {"graph": ROOT / "recipes" / "graph.png", "report": ROOT / "recipes" / "report.png"}
PAGE = ROOT / "recipes" / "report.html"
DRAWN_BY = ("*.html.jinja", "*.css", "*.js")
KEY = "drawn-by"
RECIPE = ROOT / "recipes" / "strip_int8.toml"
LAYER = "/encoder/0/attention/scores/MatMul"
_SIZE = {"width": 1280, "height": 800}


def digest() -> str:
    """SHA-256 over the templates, styles and scripts of the pages: all of them, so that none can be forgotten."""
    found = hashlib.sha256()
    for path in sorted(
        path for kind in DRAWN_BY for path in (ROOT / "toolkit" / "report" / "page" / "assets").glob(kind)
    ):
        found.update(path.read_bytes())
    return found.hexdigest()


def take(run: Path) -> None:
    """Take the pictures of the page of a run."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport=_SIZE, color_scheme="light")
        page.goto((run / "report.html").resolve().as_uri())
        page.wait_for_selector("html[data-ready]")
        _save(page, "report")
        page.evaluate(f"location.hash = '#layer={LAYER}'")
        page.wait_for_selector("#panel:not([hidden])")
        page.locator("#graph-title").scroll_into_view_if_needed()
        page.evaluate("document.querySelector('#graph-title').scrollIntoView()")
        page.evaluate("document.activeElement.blur()")
        _save(page, "graph")
        browser.close()
    text = (run / "report.html").read_text(encoding="utf-8")
    PAGE.write_text(f"{text}<!-- {KEY} {digest()} -->\n", encoding="utf-8")


def _save(page: Any, name: str) -> None:
    from PIL import Image, PngImagePlugin

    path = PICTURES[name]
    page.wait_for_timeout(300)
    page.screenshot(path=path)
    about = PngImagePlugin.PngInfo()
    about.add_text(KEY, digest())
    Image.open(path).convert("RGB").save(path, pnginfo=about, optimize=True)


def main() -> None:
    """Make the run, unless one is given, and take the pictures."""
    from toolkit.cli.main import invoke

    with tempfile.TemporaryDirectory() as folder:
        run = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder)
        if len(sys.argv) == 1:
            invoke(["run", str(RECIPE), "--out", folder])
            invoke(["sensitivity", str(RECIPE), "--fast", "--out", folder])
        take(run)


if __name__ == "__main__":
    main()
