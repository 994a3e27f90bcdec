from __future__ import annotations

import numpy as np
import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal, placeholder_context
from tests.passes.test_insert_qdq import reads_pair
from toolkit import Code, Model


def bottleneck(gate, **outputs):
    """y = x1 + act(conv(act(conv(x1)))) of half the channels, joined with the other half, as YOLO's blocks are."""
    sizes = {"w": normal(8, 4, 1, 1), "w1": normal(4, 4, 1, 1, seed=1), "w2": normal(4, 12, 1, 1, seed=2),
             "half": np.array([4, 4], np.int64)}  # fmt: skip
    parts = [node("Conv", ["x", "w"], ["c0"]), *gate("c0", "a0"), node("Split", ["a0", "half"], ["s0", "s1"], axis=1),
             node("Conv", ["s1", "w1"], ["c1"]), *gate("c1", "a1"), node("Conv", ["a1", "w1"], ["c2"]),
             *gate("c2", "a2"), node("Add", ["s1", "a2"], ["b"]), node("Concat", ["s0", "s1", "b"], ["j"], axis=1),
             node("Conv", ["j", "w2"], ["y"])]  # fmt: skip
    return Model.from_proto(build(parts, {"x": [1, 4, 6, 6]}, {"y": None, **outputs}, sizes))


def silu(before, behind):
    return [node("Sigmoid", [before], [f"{behind}_s"]), node("Mul", [before, f"{behind}_s"], [behind])]


def leaky(before, behind):
    return [node("LeakyRelu", [before], [behind], alpha=0.1)]


@pytest.mark.parametrize("gate", [silu, leaky])
def test_both_branches_of_a_sum_behind_an_activation_get_pairs(gate):
    """Nothing reads what the convolutions make in float then, so that each of them writes INT8."""
    model, context = bottleneck(gate), placeholder_context()
    InsertQDQ()(model, context)
    assert [reads_pair(model, "b", i) for i in (0, 1)] == [True, True]
    assert model.node("b").inputs[0] is model.node("c1").inputs[0]
    for name in ("s0", "s1", "a1", "a2"):
        assert {reader.op for reader in model.graph.tensors()[name].outputs} == {"QuantizeLinear"}
    reason = context.plan.get("b").reason
    assert reason.code is Code.SUM_OPERAND and reason.values["behind"] == "c2"


@pytest.mark.parametrize("exclude", [["c2"], ["c0"], ["b"], ["y"]])
def test_a_sum_behind_an_activation_stays_float_unless_all_around_it_is_quantized(exclude):
    model = bottleneck(silu)
    InsertQDQ(exclude=exclude)(model, placeholder_context())
    assert not reads_pair(model, "b", 0) and not reads_pair(model, "b", 1)


def test_a_sum_behind_an_activation_that_something_else_reads_stays_float():
    model = bottleneck(silu, a2=None)
    InsertQDQ()(model, placeholder_context())
    assert not reads_pair(model, "b", 0) and not reads_pair(model, "b", 1)


def test_a_tensor_added_to_itself_gets_no_pair_for_the_sum():
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Add", ["c", "c"], ["b"]), node("Conv", ["b", "w"], ["y"])]
    model, context = (
        Model.from_proto(build(nodes, {"x": [1, 4, 6, 6]}, {"y": None}, {"w": normal(4, 4, 1, 1)})),
        placeholder_context(),
    )
    InsertQDQ()(model, context)
    assert not reads_pair(model, "b", 0) and not reads_pair(model, "b", 1) and reads_pair(model, "y", 0)
