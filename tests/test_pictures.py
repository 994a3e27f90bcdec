"""The README's pictures are as old as what they show."""

from __future__ import annotations

import re

import pytest

from tests.pictures import KEY, PICTURES, ROOT, digest


def test_the_pictures_are_as_old_as_what_they_show() -> None:
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    shown = re.findall(r"!\[.*?\]\((.*?)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert shown[0] == "recipes/graph.png" and len(shown) == len(PICTURES)
    for path in PICTURES.values():
        assert path.relative_to(ROOT).as_posix() in shown
        assert image.open(path).info[KEY] == digest(), "run python -m tests.pictures"
