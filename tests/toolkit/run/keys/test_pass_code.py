"""A pass's identity: what is in it, and that asking for it again parses nothing."""

from __future__ import annotations

import importlib.metadata
import sys
from email.feedparser import FeedParser

import pytest

from passes.insert_qdq import InsertQDQ
from toolkit.contract.installed import GROUP
from toolkit.run.keys.pass_code import pass_code


def test_the_metadata_of_a_distribution_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed, close = [], FeedParser.close
    monkeypatch.setattr(FeedParser, "close", lambda self: (parsed.append(self), close(self))[1])
    first = pass_code(InsertQDQ())
    parsed.clear()
    assert pass_code(InsertQDQ()) == first and parsed == []
    assert first[-1] == f"qtool {importlib.metadata.version('qtool')}"


def test_another_version_is_another_identity_also_in_the_same_folder(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    info, found = tmp_path / "theirs-1.0.dist-info", []
    info.mkdir()
    (info / "entry_points.txt").write_text(f"[{GROUP}]\ntheirs = passes.insert_qdq:InsertQDQ\n")
    for version in ("1.0", "2.0"):
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: theirs\nVersion: {version}\n\nWhat it does.\n")
        found.append([one for one in pass_code(InsertQDQ()) if one.startswith("theirs ")])
    info.rename(tmp_path / "theirs-3.0.dist-info")
    (tmp_path / "theirs-3.0.dist-info" / "METADATA").write_text("Name: theirs\nVersion: 3.0\n")
    found.append([one for one in pass_code(InsertQDQ()) if one.startswith("theirs ")])
    assert found == [["theirs 1.0"], ["theirs 2.0"], ["theirs 3.0"]]
