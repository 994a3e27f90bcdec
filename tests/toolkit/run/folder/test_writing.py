"""Outputs that cannot be written: every command says the place and the remedy, and nobody calls it a bug."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.toolkit.conftest import complain
from toolkit.base.errors import WriteError
from toolkit.base.files import write_text
from toolkit.base.log import Log
from toolkit.base.reading import own_json
from toolkit.cli.main import invoke
from toolkit.run.folder import run_folder
from toolkit.run.folder.run_folder import RunFolder


@pytest.fixture
def full(monkeypatch):
    """A disk on which nothing more fits."""

    def refuse(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", refuse)


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, full):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(WriteError, match=r"a\.txt: it cannot be written: No space left on device. Free some space"):
        write_text(tmp_path / "a.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_log_of_outcomes_says_its_place_too(tmp_path, monkeypatch):
    log = Log(tmp_path / "log.jsonl", "print")
    shutil.rmtree(tmp_path)
    with pytest.raises(WriteError, match=r"log\.jsonl: it cannot be written: No such file"):
        log.add("key", {"value": 1})


COMMANDS = {
    "run": lambda p: ["run", p / "recipe.toml", "--out", p / "file" / "out"],
    "new": lambda p: ["new", p / "model.onnx", "--out", p / "file" / "new.toml"],
    "calibrate": lambda p: ["calibrate", p / "recipe.toml", "--out", p / "file" / "c.npz"],
    "merge": lambda p: ["merge", p / "part.npz", "--out", p / "file" / "c.npz"],
    "sensitivity": lambda p: ["sensitivity", p / "recipe.toml", "--fast", "--out", p / "file" / "out"],
}


@pytest.mark.parametrize("case", COMMANDS)
def test_a_folder_that_is_a_file(place, capsys, case):
    (place / "file").write_text("")
    if case == "merge":
        assert invoke(["calibrate", str(place / "recipe.toml"), "--out", str(place / "part.npz")]) == 0
    said = complain(place, capsys, *map(str, COMMANDS[case](place)))
    assert f"{place / 'file'}{os.sep}" in said and "cannot be written: a folder of its path is a file" in said
    assert "bug" not in said


def test_compare_onto_a_folder(place, capsys):
    out = str(place / "out")
    assert invoke(["run", str(place / "recipe.toml"), "--out", out]) == 0
    (place / "page").mkdir()
    said = complain(place, capsys, "compare", out, out, "--html", str(place / "page"))
    assert f"{place / 'page'}: this is a folder" in said


def test_a_disk_that_is_full_in_the_middle_of_a_run(place, capsys, full):
    said = complain(place, capsys)
    assert str(place / "out") in said and "No space left on device" in said and "bug" not in said


def test_a_recipe_that_may_not_be_read(place, capsys, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("toolkit.base.reading.open_regular", refuse)
    said = complain(place, capsys, "check", str(place / "recipe.toml"))
    why = "it cannot be read: Permission denied. Choose a place that you may read and write"
    assert said == f"qtool: {place / 'recipe.toml'}: {why}"


def test_a_reader_that_goes_away_is_no_error():
    words = [sys.executable, "-m", "toolkit.cli.main", "schema", "recipe"]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    child.stdout.close()
    said = child.stderr.read().decode()
    child.stderr.close()
    child.wait()
    assert "bug" not in said and "Traceback" not in said


def test_the_list_of_steps_is_parsed_again_only_when_it_changed(tmp_path, monkeypatch):
    parsed = []
    monkeypatch.setattr(run_folder, "own_json", lambda path: (parsed.append(path), own_json(path))[1])
    folder = RunFolder(tmp_path)
    assert not folder.knows("a") and not parsed
    (tmp_path / "a.json").write_text("1")
    folder.store("a", {"x": 1}, [tmp_path / "a.json"])
    assert [folder.find("a", {"x": number})[0] for number in (1, 2, 1)] == [True, False, True]
    assert folder.knows("a") and not folder.damage("a") and len(parsed) == 1
    # another one's entry, and damage, are seen at once
    RunFolder(tmp_path).store("b", {}, [])
    parsed.clear()
    assert folder.knows("b") and folder.knows("a") and len(parsed) == 1
    folder.forget("b")
    assert not folder.knows("b") and folder.knows("a")
    (tmp_path / ".qtool" / "steps.json").write_text("[")
    assert not folder.knows("a") and folder.find("a", {"x": 1}) == (False, "not done before")
    (tmp_path / ".qtool" / "steps.json").unlink()
    assert not folder.knows("a")
