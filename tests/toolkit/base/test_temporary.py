"""Temporary folders of processes that are gone, and of those that are not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from toolkit.base.temporary import clear_left_folders, temporary_folder

fcntl = pytest.importorskip("fcntl")

HOLDER = """
import sys, time
from toolkit.base.temporary import temporary_folder
with temporary_folder("test") as folder:
    (folder / "large.engine").write_bytes(b"x" * 100)
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_a_folder_is_gone_after_its_block(place):
    with temporary_folder("build") as folder:
        assert folder.parent == place and folder.name.startswith("qtool-build-")
        assert clear_left_folders() == [] and folder.exists()
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_nothing_else(place):
    child = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    left = place / child.stdout.readline().strip()
    # the owner lives
    assert left.exists() and clear_left_folders() == []
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    others = [place / "qtool-mine", place / "qtool-link", place / "other-abc"]
    others[0].mkdir()
    (others[0] / ".qtool-owner").write_text("somebody's own")
    others[2].mkdir()
    others[1].symlink_to(left)
    (place / "qtool-file").write_text("")
    assert clear_left_folders() == [left]
    assert not left.exists() and all(os.path.lexists(path) for path in others) and (place / "qtool-file").exists()
