"""A label that only one sample has: what the metric would be without that sample is no number, and is kept as such."""

from __future__ import annotations

import math

import numpy as np
import onnx

from tests.conftest import build, node, normal
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.pipeline import run
from toolkit.run.recipe.recipe import Recipe
from toolkit.run.steps.evaluation import EvaluationRecord


def test_an_area_under_the_curve_that_hangs_on_one_sample_is_measured_kept_and_found_again(tmp_path):
    proto = build([node("MatMul", ["x", "w"], ["y"])], {"x": ["N", 12]}, {"y": ["N", 1]}, {"w": normal(12, 1, seed=1)})
    onnx.save(proto, str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", x=normal(64, 12, seed=3), label=np.arange(64) == 40)
    recipe = Recipe.build(
        "rare", model={"path": tmp_path / "model.onnx"}, calibration={"data": str(tmp_path / "data.npz")},
        passes=[{"use": "insert_qdq"}], engine={"backend": "none"},
        evaluation={"data": str(tmp_path / "data.npz"), "metric": "auc"},
    )  # fmt: skip
    first = run(recipe, tmp_path / "out").report.accuracy
    kept = RunFolder(tmp_path / "out").hidden / "evaluation.json"
    left_out = EvaluationRecord.model_validate_json(kept.read_text()).found.left_out
    assert len(left_out) > 8
    assert sum(math.isnan(before) and math.isnan(after) for before, after in left_out) == 1
    again = run(recipe, tmp_path / "out")
    assert {step.status for step in again.steps if step.name == "evaluation"} == {"reused"}
    assert again.report.accuracy == first and first.quantized is not None
