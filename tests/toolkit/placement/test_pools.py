"""Pools that get pairs only where both sides are quantized: INT8 in needs INT8 out."""

from __future__ import annotations

import numpy as np
import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal, placeholder_context
from toolkit import Model


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("behind", [False, True])
def test_a_pool_whose_result_an_output_holds_stays_float(moved, behind):
    """Moved or not, and whether or not a quantized layer reads the result as well."""
    pooled = node("GlobalAveragePool", ["c"], ["p"], name="pool")
    nodes = [node("Conv", ["x", "w"], ["c"], name="conv"), pooled]
    nodes += [node("Reshape", ["p", "flat"], ["f"], name="flatten")] if moved else []
    result = "f" if moved else "p"
    outputs = {result: ["n", 4] if moved else ["n", 4, 1, 1]}
    if behind:
        nodes.append(node("MatMul" if moved else "Conv", [result, "v"], ["y"], name="layer"))
        outputs["y"] = ["n", 5] if moved else ["n", 5, 1, 1]
    weights = {"w": normal(4, 3, 1, 1), "v": normal(4, 5) if moved else normal(5, 4, 1, 1),
               "flat": np.asarray([-1, 4], np.int64)}  # fmt: skip
    model = Model.from_proto(build(nodes, {"x": ["n", 3, 8, 8]}, outputs, weights))
    context = placeholder_context()
    InsertQDQ()(model, context)
    assert context.plan.get("conv") is not None and context.plan.get("pool") is None
    assert not any(maker.op == "DequantizeLinear" for maker in model.node("pool").inputs[0].inputs)


@pytest.mark.parametrize("moved", [False, True])
def test_a_pool_that_a_quantized_layer_alone_reads_is_quantized(moved):
    nodes = [node("Conv", ["x", "w"], ["c"], name="conv"), node("GlobalAveragePool", ["c"], ["p"], name="pool")]
    nodes += [node("Reshape", ["p", "flat"], ["f"], name="flatten")] if moved else []
    nodes.append(node("MatMul" if moved else "Conv", ["f" if moved else "p", "v"], ["y"], name="layer"))
    weights = {"w": normal(4, 3, 1, 1), "v": normal(4, 5) if moved else normal(5, 4, 1, 1),
               "flat": np.asarray([-1, 4], np.int64)}  # fmt: skip
    outputs = {"y": ["n", 5] if moved else ["n", 5, 1, 1]}
    model = Model.from_proto(build(nodes, {"x": ["n", 3, 8, 8]}, outputs, weights))
    context = placeholder_context()
    InsertQDQ()(model, context)
    assert context.plan.get("pool") is not None
    assert model.node("pool").inputs[0].inputs[0].op == "DequantizeLinear"
