"""Logs of outcomes: what is found again, and what was damaged."""

from __future__ import annotations

import json

import pytest

from toolkit.base.log import Log
from toolkit.base.needs import Needs, digest_of


@pytest.fixture
def log(tmp_path):
    made = Log(tmp_path / "log.jsonl", "print")
    for number in range(4):
        made.add(f"key{number}", {"outcome": number / 7})
    return made.path


def test_lines_are_found_again_by_whoever_depends_on_the_same(log):
    assert [Log(log, "print").get(f"key{n}")["outcome"] for n in range(4)] == [n / 7 for n in range(4)]
    assert Log(log, "other").found == {} and Log(log, "print").found == {}


@pytest.mark.parametrize("damage", [b"", b"{", b"null", b'{"key": "key2"}', b"\xff\xfe", b"[" * 5000])
def test_a_damaged_line_is_left_out_and_the_others_stay(log, damage):
    lines = log.read_bytes().split(b"\n")
    lines[3] = damage
    log.write_bytes(b"\n".join(lines))
    assert sorted(Log(log, "print").found) == ["key0", "key1", "key3"]


def test_a_number_that_was_damaged_is_noticed(log):
    text = log.read_text()
    log.write_text(
        text.replace("0.28571428571428570", "0.38571428571428570").replace("0.2857142857142857", "0.3857142857142857")
    )
    assert log.read_text() != text and sorted(Log(log, "print").found) == ["key0", "key1", "key3"]


def test_a_damaged_head_begins_the_log_anew(log):
    log.write_text(log.read_text().replace("print", "prunt", 1))
    assert Log(log, "prunt").found == {}


def test_what_was_read_for_a_result_is_written_before_it(tmp_path):
    file = tmp_path / "limit.json"
    file.write_text("1")
    needs = Needs(files={str(file): digest_of(str(file))})
    log = Log(tmp_path / "log.jsonl", "print", lambda: needs)
    log.add("key", {"outcome": 1})
    log.add("more", {"outcome": 2})
    keys = [json.loads(line).get("key") for line in log.path.read_text().splitlines()]
    assert keys == [None, "needs", "key", "more"]
    again = Log(log.path, "print", lambda: needs)
    assert sorted(again.found) == ["key", "more"] and again.refused == ""
    file.write_text("2")
    changed = Log(log.path, "print", lambda: needs)
    assert changed.found == {} and "limit.json" in changed.refused
    assert Log(log.path, "print", lambda: needs).refused == ""


def test_the_disk_is_waited_for_once_in_five_seconds_and_every_line_is_written_at_once(tmp_path, monkeypatch):
    now, waited = [100.0], list[float]()
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    log = Log(tmp_path / "log.jsonl", "print")
    monkeypatch.setattr("os.fsync", lambda file: waited.append(now[0]))
    for number in range(5):
        log.add(f"key{number}", {"outcome": number})
        assert f"key{number}" in log.path.read_text()
        now[0] += 2.0
    assert waited == [100.0, pytest.approx(106.0)]
