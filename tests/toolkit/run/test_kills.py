"""A few moments of every command at which it is killed; ``python -m tests.fuzz.kills FOLDER`` tries all of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_ends_as_ctrl_c_does(place, number):
    (place / "slow.py").write_text(SLOW)
    text = (place / "recipe.toml").read_text().replace('"data.npz"', '"slow:samples"')
    (place / "recipe.toml").write_text(text)
    (place / "tmp").mkdir()
    words = [sys.executable, "-m", "toolkit.cli", "check", str(place / "recipe.toml"), "--allow-code"]
    environment = {**ENVIRONMENT, "TMPDIR": str(place / "tmp")}
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    while not (place / "begun").exists() and child.poll() is None:
        time.sleep(0.05)
    assert [path.name[:12] for path in (place / "tmp").glob("qtool-*")] == ["qtool-check-"]
    child.send_signal(number)
    _, said = child.communicate()
    assert child.returncode == 130 and said.startswith("qtool: stopped") and "Traceback" not in said
    assert list((place / "tmp").glob("qtool-*")) == []
