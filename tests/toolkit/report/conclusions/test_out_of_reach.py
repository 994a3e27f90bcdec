"""The work that no plan quantizes is said with its share and reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal
from toolkit import Recipe, run
from toolkit.report.bound_codes import BoundCode
from toolkit.report.findings import sentence
from toolkit.report.terminal.report import to_text

HIDDEN, STEPS = 16, 4


def recurrent(folder, own):
    """An LSTM between two layers with weights of ``own`` features; multiply-accumulates are known by construction."""
    weights = {
        "w": normal(own, HIDDEN, seed=1), "gates": normal(1, 4 * HIDDEN, HIDDEN, seed=2), "state": normal(1, 4 * HIDDEN, HIDDEN, seed=3),
        "v": normal(HIDDEN, 8, seed=4), "axis": np.array([1], np.int64),
    }  # fmt: skip
    proto = build(
        [node("MatMul", ["x", "w"], ["h"]), node("LSTM", ["h", "gates", "state"], ["s"], hidden_size=HIDDEN),
         node("Squeeze", ["s", "axis"], ["q"]), node("MatMul", ["q", "v"], ["y"])],
        {"x": [STEPS, 1, own]}, {"y": [STEPS, 1, 8]}, weights,
    )  # fmt: skip
    onnx.save(proto, str(folder / "model.onnx"))
    np.savez(folder / "data.npz", x=normal(32, STEPS, 1, own, seed=5))


def ran(folder, passes):
    recipe = Recipe.build(
        "recurrent", model={"path": folder / "model.onnx"}, calibration={"data": str(folder / "data.npz")}, passes=passes,
        engine={"backend": "none"}, evaluation={"task": "regression", "budget": {"min_sqnr_db": 10.0}},
    )  # fmt: skip
    return run(recipe, folder / "out").report


@pytest.mark.parametrize(("own", "little"), [(8, True), (200, False)])
@pytest.mark.parametrize("passes", [["insert_qdq"], ["search_precision"]])
def test_the_share_of_operators_without_a_quantized_kernel_is_said(own, little, passes, tmp_path):
    recurrent(tmp_path, own)
    report = ran(tmp_path, passes)
    work = {layer.op: 0 for layer in report.layers}
    for layer in report.layers:
        work[layer.op] += layer.macs or 0
    share = work["LSTM"] / sum(work.values())
    (said,) = [line for line in (*report.summary.warnings, *report.summary.bound) if "no plan of this recipe" in line]
    assert said.startswith(f"{100 * share:.1f} % of the multiply-accumulates are in layers that no plan")
    assert "1 LSTM" in said and "LSTM has no quantized kernel" in said
    assert ("quantizing gains little here" in said) is little
    assert said in " ".join(to_text(report, width=2000).split())


def test_where_all_work_is_out_of_reach_no_share_of_nothing_is_left():
    """As in a network whose weights are inputs: both operands of its products are activations."""
    given = {
        "of": "macs",
        "ops": ("Gemm",),
        "counts": (2,),
        "shares": (1.0,),
        "reasons": ("both are activations",),
        "more": 0,
    }
    said = sentence(BoundCode.OUT_OF_REACH(share=1.0, **given))
    assert said.endswith("2 Gemm, 100.0 % (both are activations). Nothing is left to quantize.")
    assert sentence(BoundCode.OUT_OF_REACH(share=0.9999, **given)).count("At most 0.01 % can be quantized") == 1


def test_nothing_is_said_where_hardly_any_work_is_out_of_reach_or_nothing_is_to_be_quantized(tmp_path):
    recurrent(tmp_path, 4000)
    assert not any("no plan of this recipe" in line for line in ran(tmp_path, ["insert_qdq"]).summary.warnings)
    recurrent(tmp_path, 8)
    assert not any("no plan of this recipe" in line for line in ran(tmp_path, ["fold_constants"]).summary.warnings)
    # what the recipe leaves out is not out of reach
    excluded = ran(tmp_path, [{"use": "insert_qdq", "exclude_ops": ["MatMul"]}])
    (said,) = [line for line in excluded.summary.warnings if "no plan of this recipe" in line]
    assert "MatMul" not in said
