"""A file that the disk does not take: the place, the bytes that it takes and those that are free, and nothing left."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections import namedtuple
from contextlib import contextmanager

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal
from toolkit.base.errors import WriteError
from toolkit.base.files import atomic_path, copy_file, write_bytes, write_json, writing
from toolkit.base.processes import _store
from toolkit.base.text import bytes_words
from toolkit.graph.model import Model

resource = pytest.importorskip("resource")
Usage = namedtuple("Usage", "total used free")


@contextmanager
def most(size):
    """No file may grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (6_812_345, "6.8 MB"),
        (25 * 10**8, "2.5 GB"),
    ],
)
def test_bytes_are_told_as_disks_count_them(size, words):
    assert bytes_words(size) == words


def refusal(work, folder):
    with pytest.raises(WriteError) as caught:
        work()
    assert list(folder.iterdir()) == []
    return str(caught.value)


def test_what_is_known_of_a_file_says_how_much_it_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 0, 1_500_000))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/elsewhere")
    with most(4096):
        said = refusal(lambda: write_bytes(tmp_path / "a", bytes(123_456)), tmp_path)
    assert f"it takes 123.5 kB, and 1.5 MB are free in {tmp_path}" in said and "TMPDIR" not in said


def test_the_part_that_was_written_is_free_again_and_counts_once(tmp_path, monkeypatch):
    """It was added to what is free without it, so that more seemed free than the file takes."""
    taken = lambda folder: sum(one.stat().st_size for one in folder.iterdir())  # noqa: E731
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(6000, 0, 6000 - taken(folder)))
    with most(4096):
        said = refusal(lambda: write_bytes(tmp_path / "a", bytes(8000)), tmp_path)
    assert f"it takes 8.0 kB, and 6.0 kB are free in {tmp_path}" in said


def test_of_what_is_made_as_it_is_written_the_part_that_was_is_told(tmp_path):
    with most(4096):
        said = refusal(lambda: write_json(tmp_path / "a", {str(n): list(range(100)) for n in range(1000)}), tmp_path)
    assert "it takes more than 4.1 kB" in said


def test_a_copy_is_whole_or_not_there(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(bytes(100_000))
    (out := tmp_path / "out").mkdir()
    with most(4096):
        assert "it takes 100.0 kB" in refusal(lambda: copy_file(source, out / "copy"), out)
    copy_file(source, out / "copy")
    assert (out / "copy").read_bytes() == source.read_bytes()


def test_a_model_says_how_much_it_takes(tmp_path):
    proto = build([node("MatMul", ["x", "w"], ["y"])], {"x": [1, 100]}, {"y": [1, 100]}, {"w": normal(100, 100)})
    model = Model.from_proto(proto)
    with most(4096):
        said = refusal(lambda: model.save(tmp_path / "m.onnx"), tmp_path)
    assert f"it takes {bytes_words(len(proto.SerializeToString()))[:2]}" in said
    model.save(tmp_path / "m.onnx")
    assert onnx.load(tmp_path / "m.onnx").graph.node[0].op_type == "MatMul"


def test_temporary_files_are_said_to_go_where_tmpdir_says(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    work = {"values": np.zeros(100_000, np.float32)}
    with most(4096), pytest.raises(WriteError, match=r"of this size \(set TMPDIR\): it takes \d+\.\d kB"):
        _store(work, tmp_path / "work.pickle")
    with pytest.raises(WriteError, match=r"choose a place on another \(set TMPDIR\): it takes more than 0 bytes"):  # noqa: SIM117
        with writing(tmp_path / "a"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_quota_is_told_like_a_full_disk_and_another_refusal_as_it_was(tmp_path):
    for number, told in ((errno.EDQUOT, True), (errno.EROFS, False)):

        def refuse(number=number):
            with atomic_path(tmp_path / "a", 5_000):
                raise OSError(number, os.strerror(number))

        assert ("it takes 5.0 kB" in refusal(refuse, tmp_path)) is told
