from __future__ import annotations

import json
import webbrowser

import pytest

from toolkit.cli.main import invoke


@pytest.fixture
def page(place):
    """The page of a run."""
    assert invoke(["run", str(place / "recipe.toml"), "--out", str(place / "out")]) == 0
    return place / "out" / "report.html"


def test_the_page_is_opened_where_there_is_a_browser(page, monkeypatch, capsys):
    seen = []
    monkeypatch.setenv("BROWSER", "anything")
    monkeypatch.setattr(webbrowser, "open", lambda address: seen.append(address) or True)
    assert invoke(["view", str(page.parent)]) == 0
    assert seen == [page.resolve().as_uri()]
    capsys.readouterr()
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert invoke(["view", str(page), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"page": str(page), "opened": False, "warning": ""}
    assert len(seen) == 1


def test_without_a_page_the_remedy_is_named(place, capsys):
    assert invoke(["view", str(place)]) == 2 and "not a run folder" in capsys.readouterr().err
    words = ["run", str(place / "recipe.toml"), "--out", str(place / "out"), "--set", 'report.formats=["json"]']
    assert invoke(words) == 0
    assert invoke(["view", str(place / "out")]) == 2 and "report.formats" in capsys.readouterr().err
    assert invoke(["view", str(place / "recipe.toml")]) == 2
    assert invoke(["view", str(place / "nothing")]) == 2
