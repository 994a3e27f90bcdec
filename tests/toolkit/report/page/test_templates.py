"""Compiled templates are kept beside Python's compiled modules, and compiled again where what they are made of changed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest

from toolkit.report.page import templates
from toolkit.report.page.html import environment


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """The names of the templates that are compiled, with an empty folder for compiled code."""
    made: list[str] = []
    whole = jinja2.Environment._compile

    def counting(self: jinja2.Environment, source: str, filename: str) -> object:
        made.append(Path(filename).name)
        return whole(self, source, filename)

    monkeypatch.setattr(jinja2.Environment, "_compile", counting)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "code"))
    yield made
    # other tests render with templates that were compiled as usual
    environment.cache_clear()


def _rendered() -> str:
    """A template as a new process renders it."""
    environment.cache_clear()
    return _again()


def _again() -> str:
    return environment().get_template("layout.html.jinja").render(script="", script_hash="h", style="", data="")


def test_a_template_is_compiled_once(compiled: list[str]) -> None:
    first = _rendered()
    assert compiled == ["layout.html.jinja"]
    assert _rendered() == first
    assert compiled == ["layout.html.jinja"]


def test_a_process_loads_a_template_once(compiled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A template took a tenth of a second for every page where no compiled code is kept."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    first = _rendered()
    assert _again() == first
    assert compiled == ["layout.html.jinja"]


def test_another_version_of_qtool_compiles_anew(compiled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = _rendered()
    monkeypatch.setattr(templates, "code_fingerprint", lambda: "another")
    assert _rendered() == first
    assert len(compiled) == 2
    _rendered()
    assert len(compiled) == 2


@pytest.mark.parametrize("cut", [0, 20, -20])
def test_a_file_that_was_cut_short_is_made_anew(compiled: list[str], tmp_path: Path, cut: int) -> None:
    first = _rendered()
    (kept,) = (tmp_path / "code").rglob("*.template")
    whole = kept.read_bytes()
    kept.write_bytes(whole[:cut])
    assert _rendered() == first
    assert len(compiled) == 2
    assert kept.read_bytes() == whole


def test_nothing_is_kept_where_nothing_can_be_written(compiled: list[str], tmp_path: Path) -> None:
    (tmp_path / "code").write_text("a file in place of the folder")
    assert _rendered() == _rendered()
    assert len(compiled) == 2


def test_nothing_is_kept_where_python_is_told_to_keep_no_code(
    compiled: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert _rendered() == _rendered()
    assert len(compiled) == 2
    assert not (tmp_path / "code").exists()
