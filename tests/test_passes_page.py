"""The page on writing passes: its Python runs as it stands, in one namespace from the top down."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import ROOT

PAGE = ROOT / "passes" / "README.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_every_block_runs(tmp_path, monkeypatch):
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    assert len(blocks()) >= 5
    # a block's first line is where the page says it is, so that a failure names it
    text = PAGE.read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks():
        line = text[: text.index(block)].count("\n")
        exec(compile("\n" * line + block, str(PAGE), "exec"), namespace)
    assert [path.name for path in Path(tmp_path).iterdir()] == ["models"]


def test_its_table_names_what_the_contract_has():
    from toolkit import Context, Pass, Role

    text = PAGE.read_text(encoding="utf-8")
    contract = text[text.index("## What a run must know") : text.index("## The context")]
    members = re.findall(r"^\| `(\w+)", contract, flags=re.MULTILINE)
    assert len(members) > 8 and not [name for name in members if not hasattr(Pass, name)]
    for name in re.findall(r"`context\.(\w+)", text):
        assert hasattr(Context, name) or name in Context.__dataclass_fields__, name
    for name in re.findall(r"`Role\.(\w+)`", text):
        assert name in Role.__members__, name


def test_it_names_every_pass_and_its_file_once():
    listed = PAGE.read_text(encoding="utf-8").partition("| pass, in the file of its name")[2].partition("\n\n")[0]
    first = "\n".join(row.split("|")[1] for row in listed.splitlines() if row.startswith("| `"))
    files = [path.stem for path in PAGE.parent.glob("*.py") if path.stem != "__init__"]
    assert sorted(re.findall(r"`(\w+)`", first)) == sorted(files)
