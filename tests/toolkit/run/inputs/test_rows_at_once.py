"""A batch without a name is so many samples wherever samples are counted."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal
from toolkit.cli.main import invoke
from toolkit.report.schema.report import Report

RECIPE = """
[model]
path = "model.onnx"
[calibration]
data = "data.npz"
method = "minmax"
[[pass]]
use = "insert_qdq"
[engine]
backend = "none"
"""


@pytest.fixture
def fixed(tmp_path):
    """A network that always takes eight images, and the folder for samples of it."""
    nodes = [
        node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "w"], ["y"]),
    ]
    weights = {"k": normal(4, 3, 3, 3), "w": normal(4, 5, seed=1)}
    net = build(nodes, {"x": [8, 3, 8, 8]}, {"y": [8, 5]}, weights)
    onnx.save(net, tmp_path / "model.onnx")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


@pytest.mark.parametrize("batches", [1, 5])
def test_each_image_of_a_fixed_batch_is_a_sample(fixed, capsys, batches):
    np.savez(fixed / "data.npz", x=normal(8 * batches, 3, 8, 8))
    assert invoke(["check", str(fixed / "recipe.toml")]) == 0
    assert "calibration sample; provide more" not in capsys.readouterr().out
    assert invoke(["run", str(fixed / "recipe.toml"), "--out", str(fixed / "out")]) in (0, 1)
    said = " ".join(capsys.readouterr().out.split())
    assert "calibration sample; provide more" not in said and "1 sample " not in said
    accuracy = Report.load(fixed / "out" / "report.json").accuracy
    assert accuracy is not None and accuracy.samples == 8
    assert f"Accuracy on 8 samples ({'seen by calibration' if batches == 1 else 'held out'})" in said


def test_few_of_one_image_are_still_few(fixed, capsys):
    conv = node("Conv", ["x", "k"], ["y"], pads=[1, 1, 1, 1])
    net = build([conv], {"x": [2, 3, 8, 8]}, {"y": [2, 4, 8, 8]}, {"k": normal(4, 3, 3, 3)})
    onnx.save(net, fixed / "model.onnx")
    np.savez(fixed / "data.npz", x=normal(4, 3, 8, 8))
    assert invoke(["check", str(fixed / "recipe.toml")]) == 0
    assert "has only 2 calibration samples; provide more" in " ".join(capsys.readouterr().out.split())
    assert invoke(["run", str(fixed / "recipe.toml"), "--out", str(fixed / "out")]) in (0, 1)
    assert "Accuracy was measured on only 2 samples" in " ".join(capsys.readouterr().out.split())
