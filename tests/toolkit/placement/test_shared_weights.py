"""Layers that share a weight and are asked to run in unlike precisions are named, in the journal and the report."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal
from toolkit import Model, Recipe, run
from toolkit.base.precision import Precision
from toolkit.contract.plan import PrecisionPlan
from toolkit.placement.codes import PlacementCode
from toolkit.placement.shared_weights import shared_unlike
from toolkit.report.findings import sentence


def siamese(turned=False):
    """Two branches of one weight, and a layer with one of its own; the second may read it turned twice."""
    weights = {"w": normal(8, 8, seed=1), "v": normal(8, 8, seed=2)}
    turns = (
        [node("Transpose", ["w"], ["t"], perm=[1, 0]), node("Transpose", ["t"], ["tt"], perm=[1, 0])] if turned else []
    )
    return build(
        [*turns, node("MatMul", ["a", "w"], ["u"]), node("MatMul", ["b", "tt" if turned else "w"], ["z"]),
         node("Mul", ["u", "z"], ["m"]), node("MatMul", ["m", "v"], ["y"])],
        {"a": ["n", 8], "b": ["n", 8]}, {"y": ["n", 8]}, weights,
    )  # fmt: skip


def asked(**precisions):
    plan = PrecisionPlan()
    for name, precision in precisions.items():
        plan.ask(name, precision, "because")
    return plan


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("precisions", "unlike"),
    [
        ({"u": "int8"}, True), ({"u": "int8", "z": "int8"}, False), ({"u": "int8", "z": "fp8"}, True),
        ({"y": "int8"}, False), ({}, False), ({"u": "fp32"}, False),
    ],
)  # fmt: skip
def test_layers_of_one_weight_are_named_where_their_precisions_differ(turned, precisions, unlike):
    model = Model.from_proto(siamese(turned))
    found = shared_unlike(model, model, asked(**precisions), Precision.FP16)
    assert (found is not None) is unlike
    if found is not None:
        assert found.values["weights"] == ("w",) and found.values["nodes"] == ("u", "z")
        assert found.values["precisions"] == ("int8", precisions.get("z", "fp16"))
        assert "'w' is shared" in sentence(found) and "exclude both layers" in sentence(found)


def test_a_layer_of_each_precision_is_named_where_many_share_a_weight():
    """Of an unrolled recurrent cell of 12 steps the last alone is quantized."""
    steps = [node("Gemm", [f"h{i}", "w"], [f"h{i + 1}"], name=f"step{i}") for i in range(12)]
    model = Model.from_proto(build(steps, {"h0": ["n", 8]}, {"h12": ["n", 8]}, {"w": normal(8, 8)}))
    said = sentence(shared_unlike(model, model, asked(step11="int8"), Precision.FP16))
    assert "precisions: 'step0', 'step1' and 9 more in FP16; 'step11' in INT8. The engine" in said


def test_a_run_says_it_in_journal_report_and_terminal_and_only_where_it_is_so(tmp_path):
    onnx.save(siamese(), str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", a=normal(32, 8, seed=3), b=normal(32, 8, seed=4))
    said = []
    for exclude in ([], ["z"]):
        recipe = Recipe.build(
            "siamese", model={"path": tmp_path / "model.onnx"}, calibration={"data": str(tmp_path / "data.npz")},
            passes=[{"use": "insert_qdq", "exclude": exclude}], engine={"backend": "none"},
        )  # fmt: skip
        out = tmp_path / f"out{len(exclude)}"
        report = run(recipe, out).report
        lines = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
        noted = [line for line in lines if line.get("rule") == PlacementCode.SHARED_UNLIKE.value]
        warned = [one for one in report.summary.warnings if "shared by layers" in one]
        assert len(noted) == len(warned)
        said.append(len(warned))
    assert said == [0, 1]


def test_branches_that_are_both_quantized_share_one_stored_weight_and_its_scale(tmp_path):
    onnx.save(siamese(), str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", a=normal(64, 8, seed=3), b=3 * normal(64, 8, seed=4) + 1)
    for weights in ("minmax", "mse", "output"):
        recipe = Recipe.build(
            "siamese", model={"path": tmp_path / "model.onnx"}, calibration={"data": str(tmp_path / "data.npz")},
            passes=[{"use": "insert_qdq", "weights": weights}], engine={"backend": "none"},
        )  # fmt: skip
        run(recipe, tmp_path / weights)
        graph = onnx.load(str(tmp_path / weights / "model.onnx")).graph
        makers = {name: one for one in graph.node for name in one.output}
        dequantized = {one.name: makers[one.input[1]] for one in graph.node if one.name in ("u", "z")}
        assert {one.op_type for one in dequantized.values()} == {"DequantizeLinear"}
        assert list(dequantized["u"].input) == list(dequantized["z"].input)
