"""The README's pictures and its example of a report are as old as what they show."""

from __future__ import annotations

import re

import pytest

from tests.pictures import KEY, PAGE, PICTURES, ROOT, digest


def test_the_pictures_are_as_old_as_what_they_show() -> None:
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    shown = re.findall(r"!\[.*?\]\((.*?)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert shown[0] == "recipes/graph.png" and len(shown) == len(PICTURES)
    for path in PICTURES.values():
        assert path.relative_to(ROOT).as_posix() in shown
        assert image.open(path).info[KEY] == digest(), "run python -m tests.pictures"


def test_the_example_of_a_report_is_linked_and_as_old_as_what_draws_it() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"({PAGE.relative_to(ROOT).as_posix()})" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.rstrip().endswith(f"<!-- {KEY} {digest()} -->"), "run python -m tests.pictures"
    assert len(text) < 500_000 and 'id="data"' in text
