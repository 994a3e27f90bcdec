"""A few moments of every command at which it is killed; ``python -m tests.fuzz.kills FOLDER`` tries all of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_a_command_that_was_killed_ends_as_if_nothing_had_been(tmp_path):
    words = [sys.executable, "-m", "tests.fuzz.kills", "--some", str(tmp_path / "killed"), "3"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


SLOW = """
import pathlib, time
def samples():
    pathlib.Path(__file__).with_name("begun").write_text("")
    time.sleep(60)
    yield {}
"""


def heed():
    """A shell starts what it runs in the background with SIGINT ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_ends_as_ctrl_c_does(place, number):
    (place / "slow.py").write_text(SLOW)
    text = (place / "recipe.toml").read_text().replace('"data.npz"', '"slow:samples"')
    (place / "recipe.toml").write_text(text)
    (place / "tmp").mkdir()
    words = [sys.executable, "-m", "toolkit.cli", "check", str(place / "recipe.toml"), "--allow-code"]
    environment = {**ENVIRONMENT, "TMPDIR": str(place / "tmp")}
    child = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=heed
    )
    while not (place / "begun").exists() and child.poll() is None:
        time.sleep(0.05)
    assert [path.name[:12] for path in (place / "tmp").glob("qtool-*")] == ["qtool-check-"]
    child.send_signal(number)
    _, said = child.communicate()
    assert child.returncode == 130 and said.startswith("qtool: stopped") and "Traceback" not in said
    assert list((place / "tmp").glob("qtool-*")) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked for in /proc")
def test_processes_that_share_a_measurement_end_with_the_one_that_began_it(tmp_path):
    from tests.fuzz.kills import make

    make(tmp_path)
    words = [sys.executable, "-m", "toolkit.cli", "sensitivity", str(tmp_path / "recipe.toml"), "--processes", "2"]
    environment = {**ENVIRONMENT, "TMPDIR": str(tmp_path)}
    child = subprocess.Popen([*words, "--out", str(tmp_path / "out")], env=environment, stderr=subprocess.DEVNULL)
    found: list[int] = []
    while child.poll() is None and len(found) < 2:
        found = [pid for pid, parent, command in processes() if parent == child.pid and "spawn_main" in command]
        time.sleep(0.02)
    child.kill()
    child.wait()
    assert len(found) == 2, "it ended before two processes were there"
    while {pid for pid, _, command in processes() if "spawn_main" in command} & set(found):
        time.sleep(0.05)


def processes():
    """Number, parent and command line of every process here that is no zombie."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if state[0] != "Z":
            yield int(entry.name), int(state[1]), command
