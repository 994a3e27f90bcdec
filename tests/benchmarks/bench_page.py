"""Size of report.html, time to make it, and how fast it answers in a browser, by the number of nodes.

Run: python -m tests.benchmarks.bench_page [NODES ...]

The reports are made up; the page is made and opened as one of a run is. Answers are the time that a script on the page
takes until what was asked for is drawn; Chromium's own painting comes on top.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.toolkit.report.samples import sample
from toolkit.report.page.html import write_html

SIZES = (300, 3_000, 50_000)
_TIMED = "(() => { const start = performance.now(); %s; return performance.now() - start; })()"
_ANSWERS = {
    "open a group": "document.querySelector('#canvas .group').dispatchEvent(new MouseEvent('click', { bubbles: true }))",
    "follow a link": "location.hash = '#layer=/encoder/stage1/block9/conv/Conv'; dispatchEvent(new Event('hashchange'))",
    "search": "const box = document.querySelector('#find'); box.value = 'block9 conv/'; box.dispatchEvent(new Event('input'))",
    "colour": "const box = document.querySelector('#colour'); box.value = 'level'; box.dispatchEvent(new Event('change'))",
    "filter": "const box = document.querySelector('#text'); box.value = 'matmul'; box.dispatchEvent(new Event('input'))",
    "sort": "document.querySelector('#layers th[data-key=sqnr] button').click()",
}


def answers(file: Path) -> Iterator[tuple[str, float]]:
    """Seconds until the page is ready and milliseconds of every answer."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page: Any = browser.new_page()
        start = time.perf_counter()
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready]", timeout=120_000)
        yield "ready, ms", 1e3 * (time.perf_counter() - start)
        for name, script in _ANSWERS.items():
            yield f"{name}, ms", page.evaluate(_TIMED % script)
        browser.close()


def main(sizes: Sequence[int]) -> None:
    """Print a line a figure, a column a size."""
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            report, file = sample(size), Path(folder) / f"{size}.html"
            start = time.process_time()
            write_html(report, file)
            figures.setdefault("made, s of CPU", []).append(time.process_time() - start)
            figures.setdefault("size, MB", []).append(file.stat().st_size / 1e6)
            for name, value in answers(file):
                figures.setdefault(name, []).append(value)
    print(f"{'nodes':24}" + "".join(f"{size:>10,}" for size in sizes))
    for name, values in figures.items():
        print(f"{name:24}" + "".join(f"{value:>10.2f}" for value in values))


if __name__ == "__main__":
    main([int(one) for one in sys.argv[1:]] or SIZES)
