"""Nodes that no output needs: whoever reads a model, or asks a pass for one of them, sees the same model as a run."""

from __future__ import annotations

import numpy as np
import onnx

from tests.conftest import build, node, normal
from toolkit.cli.main import invoke
from toolkit.placement.spellings import load_source


def left_over():
    """A layer, and beside it a Softmax and a convolution of the model's training that nothing reads."""
    return build(
        [node("MatMul", ["x", "w"], ["a"], "fc"), node("Softmax", ["a"], ["p"], "unread"),
         node("MatMul", ["p", "v"], ["q"], "aux"), node("Relu", ["a"], ["y"], "relu")],
        {"x": ["n", 8]}, {"y": ["n", 6]}, {"w": normal(8, 6), "v": normal(6, 6, seed=1)},
    )  # fmt: skip


def test_a_recipe_of_new_names_no_operator_that_is_gone(tmp_path, capsys):
    onnx.save(left_over(), str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "c.npz", x=normal(40, 8))
    recipe = tmp_path / "r.toml"
    assert invoke(["new", str(tmp_path / "m.onnx"), "--data", str(tmp_path / "c.npz"), "--out", str(recipe)]) == 0
    assert "Softmax" not in recipe.read_text()
    assert invoke(["check", str(recipe)]) == 0
    assert "2 nodes that no output needs left out" in capsys.readouterr().out


def test_the_others_keep_their_order(tmp_path):
    onnx.save(left_over(), str(tmp_path / "m.onnx"))
    found = load_source(tmp_path / "m.onnx")
    assert [one.name for one in found.nodes] == ["fc", "relu"] and found.changed == {"unused": 2}
    found.check()
