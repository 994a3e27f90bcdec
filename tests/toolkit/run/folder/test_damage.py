"""Every file of a run folder damaged in turn: it is made again, and no command meets an error."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal
from tests.toolkit.conftest import GOOD
from toolkit.cli.main import invoke

LOCK = ".qtool/lock"
"""Its content says nothing."""
DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "other": lambda content: b"\x00\xff{[" + content[4:] if len(content) % 2 else b"[" * 5000,
    "JSON": lambda content: b'{"schema": 3, "steps": [], "groups": null}',
}


def commands(place):
    recipe, out = str(place / "recipe.toml"), str(place / "out")
    return [
        ["run", recipe, "--out", out],
        ["sensitivity", recipe, "--out", out],
        ["bisect", recipe, "--out", out, "--min-sqnr-db", "10"],
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder in which every command has been."""
    place = tmp_path_factory.mktemp("whole")
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["r"]), node("Conv", ["r", "v"], ["y"])]
    weights = {"w": normal(4, 3, 1, 1), "v": normal(4, 4, 1, 1, seed=1)}
    onnx.save(build(nodes, {"x": ["n", 3, "h", "k"]}, {"y": ["n", 4, "h", "k"]}, weights), str(place / "model.onnx"))
    np.savez(place / "data.npz", x=normal(12, 3, 4, 4))
    text = GOOD.replace('"insert_qdq"', '"search_precision"\nmeasure = false\nmin_sqnr_db = 39.0')
    (place / "recipe.toml").write_text(text)
    for words in commands(place):
        assert invoke(words) in (0, 1)
    return place


def report(place):
    found = json.loads((place / "out" / "report.json").read_text())
    return {name: found[name] for name in ("summary", "accuracy", "layers", "search")}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_the_folder_is_made_again(whole, tmp_path, damage, capsys):
    files = sorted(path.relative_to(whole) for path in (whole / "out").rglob("*") if path.is_file())
    names = {path.as_posix().removeprefix("out/") for path in files}
    assert {"ranges.json", ".qtool/steps.json", ".qtool/state.json", "search.json", ".qtool/search.jsonl", "sensitivity.json",
            ".qtool/sensitivity.jsonl", ".qtool/bisect.jsonl", ".qtool/prepared.onnx"} <= names  # fmt: skip
    wanted = report(whole)
    # several at a time: what one has to do with another is tried too
    for start in range(4):
        place = tmp_path / str(start)
        shutil.copytree(whole, place)
        for path in files[start::4]:
            if not path.as_posix().endswith(LOCK):
                (place / path).write_bytes(DAMAGES[damage]((place / path).read_bytes()))
        for _ in range(2):
            for words in commands(place):
                status = invoke(words)
                said = capsys.readouterr()
                assert status in (0, 1), (damage, files[start::4], said.err)
        assert report(place) == wanted


def test_a_pipe_in_the_folder_holds_nobody_up(whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "w")
    out, wanted = tmp_path / "w" / "out", report(whole)
    for path in [*(out / ".qtool").glob("*.json*"), *(out / ".qtool").glob("collection*"), out / "ranges.json"]:
        path.unlink()
        os.mkfifo(path)
    assert [invoke(["inspect", str(out / name)]) for name in ("", ".qtool/state.json", "ranges.json")] == [0, 2, 2]
    assert invoke(commands(tmp_path / "w")[0]) in (0, 1), capsys.readouterr().err
    assert report(tmp_path / "w") == wanted
    capsys.readouterr()


@pytest.mark.parametrize("damage", [*DAMAGES, "gone"])
def test_a_folder_that_lost_its_recipe_says_so(whole, tmp_path, damage, capsys):
    """Paths of the lock file are relative to the recipe; without it the working folder's were taken."""
    shutil.copytree(whole, tmp_path / "w")
    out, state = tmp_path / "w" / "out", tmp_path / "w" / "out" / ".qtool" / "state.json"
    if damage == "gone":
        state.unlink()
    else:
        state.write_bytes(DAMAGES[damage](state.read_bytes()))
    capsys.readouterr()
    for words in (["accuracy"], ["export", "--to", "polygraphy"]):
        assert invoke([words[0], str(out), *words[1:]]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "the run folder no longer knows its recipe" in said and "Run its recipe again" in said
        assert "no such model" not in said
    assert invoke(["explain", str(out)]) == 0
    assert invoke(commands(tmp_path / "w")[0]) in (0, 1)
    assert invoke(["accuracy", str(out)]) in (0, 1)
