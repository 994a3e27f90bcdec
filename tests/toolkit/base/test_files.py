"""Files written whole: how JSON is laid out, and what a file that is replaced is and was."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.base.errors import WriteError
from toolkit.base.files import atomic_path, json_parts, write_text
from toolkit.base.versions import path_fingerprint

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


def written_json(content):
    return "".join(json_parts(content))


@given(JSON)
def test_json_is_read_as_it_was_written(content):
    assert json.loads(written_json(content)) == content


def test_json_has_a_line_for_each_entry():
    written = written_json({"layers": [{"node": "a", "times": [1, 2]}, {"node": "b"}], "none": [], 3: (1, 2)})
    assert [line.strip(" ,") for line in written.splitlines()] == [
        "{", '"layers": [', '{"node": "a", "times": [1, 2]}', '{"node": "b"}', "]", '"none": []', '"3": [', "1", "2", "]", "}",
    ]  # fmt: skip
    with pytest.raises(ValueError):
        written_json({"a": [{"b": float("nan")}]})


def test_names_that_are_no_text_have_a_fingerprint(tmp_path):
    """A folder of samples from another system: check ended with a UnicodeEncodeError."""
    (tmp_path / "a\udcff.npy").write_bytes(b"1")
    one = path_fingerprint(tmp_path)
    (tmp_path / "a\udcff.npy").rename(tmp_path / "a\udcfe.npy")
    assert path_fingerprint(tmp_path) != one


def test_a_link_that_leads_nowhere_is_named_where_a_folder_is_to_be_made(tmp_path):
    (tmp_path / "out").symlink_to("nowhere")
    with pytest.raises(WriteError, match=r"the link .*out leads to nowhere, which is not there"):
        write_text(tmp_path / "out" / "deep" / "a.txt", "a")
    (tmp_path / "file").write_text("a")
    with pytest.raises(WriteError, match="a folder of its path is a file"):
        write_text(tmp_path / "file" / "a.txt", "a")


@pytest.mark.skipif(os.name != "posix", reason="this system has no such folders")
def test_a_folder_that_is_there_and_takes_no_file_is_an_error(tmp_path, monkeypatch):
    """Its folder was made again and again, without an end, since making one that exists is no error."""
    made = []

    def once(folder, *given, **named):
        assert not made, "the folder was made again"
        made.append(folder)

    monkeypatch.setattr(Path, "mkdir", once)
    with pytest.raises(WriteError, match="No such file or directory"):
        write_text(Path("/proc/new.json"), "a")
    removed = Path(tempfile.mkdtemp(dir=tmp_path))
    monkeypatch.chdir(removed)
    removed.rmdir()
    made.clear()
    with pytest.raises(WriteError, match="No such file or directory"):
        write_text(Path("new.json"), "a")


@pytest.mark.skipif(os.name != "posix", reason="this system has no umask")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0])
def test_files_have_the_rights_that_the_umask_leaves_whatever_was_there(tmp_path, mask, monkeypatch):
    """The umask is the whole process's: while it was set to be read, other threads made files that anybody may write."""
    before, umask = os.umask(mask), os.umask
    monkeypatch.setattr(os, "umask", lambda number: pytest.fail("the umask was changed"))
    try:
        write_text(tmp_path / "new" / "a", "1")
        (tmp_path / "b").write_text("old")
        (tmp_path / "b").chmod(0o600)
        write_text(tmp_path / "b", "2")
    finally:
        umask(before)
    assert [(path.stat().st_mode & 0o777, path.read_text()) for path in (tmp_path / "new" / "a", tmp_path / "b")] == [
        (0o666 & ~mask, "1"), (0o666 & ~mask, "2"),
    ]  # fmt: skip


def test_a_temporary_file_takes_no_name_that_another_has(tmp_path, monkeypatch):
    numbers = iter([b"taken", b"taken", b"other"])
    monkeypatch.setattr(os, "urandom", lambda count: next(numbers))
    with atomic_path(tmp_path / "a") as first, atomic_path(tmp_path / "a") as second:
        assert first != second and {first, second} == set(tmp_path.iterdir())
        first.write_text("1")
        second.write_text("2")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "1"}
    monkeypatch.undo()
    with pytest.raises(KeyError), atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("3")
        raise KeyError
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "1"}


@pytest.mark.parametrize("letter", ["n", "ы", "模"])
def test_a_file_may_have_as_long_a_name_as_the_system_allows(tmp_path, letter):
    """Its temporary file's name was longer by 21 bytes: a recipe beside a model with a name of 245 could not be written."""
    path = tmp_path / (letter * (250 // len(letter.encode())) + ".toml")
    write_text(path, "a = 1")
    assert path.read_text() == "a = 1" and list(tmp_path.iterdir()) == [path]
