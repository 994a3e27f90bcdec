"""Every command and every piece of Python in the README runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [(m.group(1), m.group(2)) for m in re.finditer(r"^```(\w+)\n(.*?)^```", TEXT, re.S | re.M)]
COMMANDS = [line for kind, body in BLOCKS if kind == "bash" for line in body.splitlines() if line.startswith("qtool ")]
SNIPPETS = [body for kind, body in BLOCKS if kind == "python" and "class " not in body]
FILES = re.findall(r"<!-- (recipes/\S+) -->\n```python\n(.*?)```", TEXT, re.S)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's own folders, linked, so that runs/ lies elsewhere."""
    place = tmp_path_factory.mktemp("readme")
    for name in ("models", "recipes"):
        (place / name).symlink_to(ROOT / name)
    return place


def call(arguments: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(arguments, cwd=place, env=environment, capture_output=True, text=True, timeout=300)


def test_the_quick_start_has_exactly_two_bash_blocks() -> None:
    part = TEXT[TEXT.index("## Quick start") :]
    part = part[: part.index("\n## ", 5)]
    assert len(re.findall(r"^```bash", part, re.M)) == 2


@pytest.mark.parametrize("command", dict.fromkeys(COMMANDS))
def test_commands(clone: Path, command: str) -> None:
    words = command.split()[1:]
    if words[0] == "new":
        (clone / "runs").mkdir(exist_ok=True)
        (clone / "runs" / "mine.toml").unlink(missing_ok=True)
    done = call([sys.executable, "-m", "toolkit.cli.main", *words], clone)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    assert done.stdout.strip()


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda s: s.splitlines()[0][:40])
def test_python(clone: Path, snippet: str) -> None:
    done = call([sys.executable, "-c", snippet], clone)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_files_in_the_readme_are_the_files() -> None:
    assert [name for name, _ in FILES] == ["recipes/own_data.py", "recipes/keep_first_and_last.py"]
    for name, code in FILES:
        assert code == (ROOT / name).read_text(encoding="utf-8")
