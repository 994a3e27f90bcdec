"""Every command and every piece of Python in the README runs."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import MODELS, ROOT
from toolkit.base.errors import QtoolError
from toolkit.base.types import Array
from toolkit.cli.main import invoke

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [(m.group(1), m.group(2)) for m in re.finditer(r"^```(\w+)\n(.*?)^```", TEXT, re.S | re.M)]
COMMANDS = [line for kind, body in BLOCKS if kind == "bash" for line in body.splitlines() if line.startswith("qtool ")]
SNIPPETS = [body for kind, body in BLOCKS if kind == "python" and "class " not in body]
FLAGS = ROOT / "toolkit" / "run" / "migrate" / "README.md"
MOST = 60
"""Samples of each set, of which every command has all kinds: strips of 15 widths, digits of 10 classes."""
PAGES = ("README.md", "passes/README.md", "tests/benchmarks/README.md", "toolkit/run/migrate/README.md")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that the README speaks of, with the first samples of every set."""
    place = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "recipes", place / "recipes")
    for name in ("models", "runs"):
        (place / name).mkdir()
    for path in MODELS.glob("*.onnx"):
        (place / "models" / path.name).symlink_to(path)
    for path in MODELS.glob("*.npz"):
        with np.load(path) as stored:
            np.savez(place / "models" / path.name, **first_samples(stored))
    return place


def first_samples(stored: Mapping[str, Array]) -> dict[str, Array]:
    """The first samples of a set: ``MOST`` rows of every array, or of the arrays that hold one sample each as many."""
    found: dict[str, Array] = {}
    for name in stored:
        _, _, number = name.partition("/")
        if number:
            if int(number) < MOST:
                found[name] = stored[name]
        else:
            found[name] = stored[name][:MOST]
    return found


def test_the_list_of_exit_statuses_is_complete() -> None:
    listed = TEXT.split("Exit status: ")[1].split("```")[0]
    kinds = {QtoolError, *QtoolError.__subclasses__()}
    made = {kind.exit_status for kind in kinds} | {0, 1, 128 + signal.SIGPIPE}
    assert {int(number) for number in re.findall(r"(?:^|; )(\d+) ", listed)} == made


@pytest.fixture
def inside(clone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, as the working folder."""
    monkeypatch.chdir(clone)
    return clone


def test_the_quick_start_has_exactly_two_bash_blocks() -> None:
    part = TEXT[TEXT.index("## Quick start") :]
    part = part[: part.index("\n## ", 5)]
    assert len(re.findall(r"^```bash", part, re.M)) == 2


@pytest.mark.parametrize("command", dict.fromkeys(COMMANDS))
def test_every_command_runs(inside: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    status = invoke(command.split()[1:])
    printed = capsys.readouterr()
    assert status == 0, printed.err[-2000:] + printed.out[-2000:]
    assert printed.out.strip()


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda s: s.splitlines()[0][:40])
def test_every_piece_of_python_runs(inside: Path, snippet: str) -> None:
    exec(compile(snippet, "README.md", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(page: str) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        file, _, heading = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.is_file(), link
        assert not heading or heading in anchors(target.read_text(encoding="utf-8")), link


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a page in links."""
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_what_people_want_is_a_command_with_such_options() -> None:
    import typer

    from toolkit.cli.main import app

    part = TEXT[TEXT.index("| I want to") : TEXT.index("## Your own model")]
    said = re.findall(r"`qtool ([^`]+)`", part)
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert len(said) == len(part.strip().splitlines()) - 1
    for name, *words in map(str.split, said):
        options = {option for one in known[name].params for option in one.opts}
        assert name == "migrate" or {word for word in words if word.startswith("--")} <= options, name


def test_the_mapping_of_flags_is_that_of_the_code() -> None:
    from tests.toolkit.run.migrate.mapping import mapping_table

    table = mapping_table()
    assert table in FLAGS.read_text(encoding="utf-8"), f"write into {FLAGS}:\n{table}"
