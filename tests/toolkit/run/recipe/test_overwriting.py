"""A new recipe or migration replaces recipes and earlier migrations only, never another file of the user's."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.conftest import build, node, normal
from tests.toolkit.run.migrate.test_implicit import paired
from toolkit.cli.main import invoke
from toolkit.run.recipe.overwriting import is_recipe

RECIPES = {
    "a recipe": '[model]\npath = "m.onnx"\n[[pass]]\nuse = "insert_qdq"\n',
    "one with a setting that there is not": '[model]\npath = "m.onnx"\ncolour = 3\n',
    "one with a table of one pass": 'model = { path = "m.onnx" }\n[pass]\nuse = "insert_qdq"\n',
    "a lock file": '[model]\npath = "m.onnx"\n[lock]\nqtool = "1"\n',
}
OTHERS = {
    "a script": "model = load()\nprint(model)\n",
    "a project": '[project]\nname = "mine"\n[model]\npath = "m.onnx"\n',
    "a model without a path": '[model]\nlayers = 3\n',
    "a model that is no table": 'model = "m.onnx"\n',
    "JSON": '{"model": {"path": "m.onnx"}}',
    "notes": "buy milk\n",
    # qtool may have written it
    "a recipe with a mistake": '[model]\npath = "m.onnx"\n[[pass]\nuse = "insert_qdq"\n',
}  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nodes = [node("Conv", ["x", "w"], ["y"])]
    onnx.save(build(nodes, {"x": [1, 3, 8, 8]}, {"y": None}, {"w": normal(4, 3, 1, 1)}), "net.onnx")
    return tmp_path


@pytest.mark.parametrize("text", RECIPES.values(), ids=RECIPES)
def test_a_recipe_is_replaced_if_asked(here, capsys, text):
    Path("old.toml").write_text(text)
    assert is_recipe(Path("old.toml"))
    assert invoke(["new", "net.onnx", "--out", "old.toml"]) == 2
    assert "--force" in capsys.readouterr().err and Path("old.toml").read_text() == text
    assert invoke(["new", "net.onnx", "--out", "old.toml", "--force"]) == 0
    assert Path("old.toml").read_text() != text


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["plain", "forced"])
@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS)
def test_another_file_is_never_replaced_nor_is_force_advised(here, capsys, text, force):
    Path("mine.toml").write_text(text)
    assert invoke(["new", "net.onnx", "--out", "mine.toml", *force]) == 2
    said = capsys.readouterr().err
    assert "this is not a recipe that qtool can read" in said and "another --out" in said and "--force" not in said
    assert Path("mine.toml").read_text() == text


def test_bytes_that_are_no_text_are_never_replaced(here):
    Path("mine.toml").write_bytes(b"\xff\x00[model]")
    assert invoke(["new", "net.onnx", "--out", "mine.toml", "--force"]) == 2
    assert Path("mine.toml").read_bytes() == b"\xff\x00[model]"


def test_an_empty_file_is_replaced_if_asked(here):
    Path("empty.toml").touch()
    assert invoke(["new", "net.onnx", "--out", "empty.toml"]) == 2
    assert invoke(["new", "net.onnx", "--out", "empty.toml", "--force"]) == 0 and is_recipe(Path("empty.toml"))


@pytest.mark.parametrize(
    "name", ["net.toml", "ranges.txt", "calibration.cache", "trtexec.sh", "net.ranges.json", "migration.json"]
)
def test_a_migration_replaces_only_an_earlier_one(here, capsys, name):
    paired().save("net.onnx")
    words = ["migrate", "net.onnx", "--to", "implicit", "--out", "back", "--force"]
    assert invoke(words) == 0 and invoke(words) == 0
    assert invoke([*words[:-1]]) == 2
    assert {one.name for one in Path("back").iterdir()} >= {name}
    Path("other").mkdir()
    Path("other", name).write_text("mine\n")
    capsys.readouterr()
    assert invoke(["migrate", "net.onnx", "--to", "implicit", "--out", "other", "--force"]) == 2
    who = "this is not a recipe that qtool can read" if name == "net.toml" else "qtool did not write this file"
    assert who in capsys.readouterr().err
    assert [one.name for one in Path("other").iterdir()] == [name] and Path("other", name).read_text() == "mine\n"
