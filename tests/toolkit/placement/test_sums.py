from __future__ import annotations

import numpy as np
import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal, placeholder_context
from tests.passes.test_insert_qdq import reads_pair
from toolkit import CalibrationData, Calibrator, Code, Model


def bottleneck(gate, **outputs):
    """y = x1 + act(conv(act(conv(x1)))) of half the channels, joined with the other half, as YOLO's blocks are."""
    sizes = {"w": normal(8, 4, 1, 1), "w1": normal(4, 4, 1, 1, seed=1), "w2": normal(4, 12, 1, 1, seed=2),
             "half": np.array([4, 4], np.int64)}  # fmt: skip
    parts = [node("Conv", ["x", "w"], ["c0"]), *gate("c0", "a0"), node("Split", ["a0", "half"], ["s0", "s1"], axis=1),
             node("Conv", ["s1", "w1"], ["c1"]), *gate("c1", "a1"), node("Conv", ["a1", "w1"], ["c2"]),
             *gate("c2", "a2"), node("Add", ["s1", "a2"], ["b"]), node("Concat", ["s0", "s1", "b"], ["j"], axis=1),
             node("Conv", ["j", "w2"], ["y"])]  # fmt: skip
    return Model.from_proto(build(parts, {"x": [1, 4, 6, 6]}, {"y": None, **outputs}, sizes))


def silu(before, after):
    return [node("Sigmoid", [before], [f"{after}_s"]), node("Mul", [before, f"{after}_s"], [after])]


def leaky(before, after):
    return [node("LeakyRelu", [before], [after], alpha=0.1)]


@pytest.mark.parametrize("gate", [silu, leaky])
def test_both_branches_of_a_sum_after_an_activation_get_pairs(gate):
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
def test_a_sum_after_an_activation_stays_float_unless_all_around_it_is_quantized(exclude):
    model = bottleneck(silu)
    InsertQDQ(exclude=exclude)(model, placeholder_context())
    assert not reads_pair(model, "b", 0) and not reads_pair(model, "b", 1)


def test_a_sum_after_an_activation_that_something_else_reads_stays_float():
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


@pytest.mark.parametrize(("norm", "fused"), [("BatchNormalization", True), ("InstanceNormalization", False)])
def test_a_convolution_takes_no_sum_behind_a_normalization_of_the_sample_itself(norm, fused):
    """A style transfer's residual block: only what is known beforehand becomes a part of the weights."""
    statistics = ["mean", "spread"] if fused else []
    nodes = [node("Conv", ["x", "w"], ["c0"]), node("Relu", ["c0"], ["r"]), node("Conv", ["r", "w"], ["c1"]),
             node(norm, ["c1", "gain", "shift", *statistics], ["n1"]), node("Add", ["r", "n1"], ["b"]),
             node("Conv", ["b", "w"], ["y"])]  # fmt: skip
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    weights = {"w": normal(4, 4, 1, 1), "gain": ones, "shift": zeros, "mean": zeros, "spread": ones}
    used = {name: value for name, value in weights.items() if fused or name not in ("mean", "spread")}
    model = Model.from_proto(build(nodes, {"x": [1, 4, 6, 6]}, {"y": None}, used))
    InsertQDQ()(model, placeholder_context())
    assert [reads_pair(model, "b", i) for i in (0, 1)] == [fused, False]


@pytest.mark.parametrize(("norm", "seen"), [("BatchNormalization", False), ("InstanceNormalization", True)])
def test_what_a_convolution_writes_for_another_kernel_is_looked_at_for_float16_s_limits(norm, seen):
    statistics = [] if seen else ["zeros", "ones"]
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node(norm, ["c", "ones", "zeros", *statistics], ["n"]),
        node("Exp", ["n"], ["y"]),
    ]
    weights = {"w": normal(4, 4, 1, 1), "ones": np.ones(4, np.float32), "zeros": np.zeros(4, np.float32)}
    model = Model.from_proto(build(nodes, {"x": [1, 4, 6, 6]}, {"y": None}, weights))
    data = CalibrationData.open([{"x": normal(1, 4, 6, 6)}], model)
    assert ("c" in Calibrator(data).taps(model)[1]) is seen


def encoder(pre=False, turned=False, **outputs):
    """Two products with LayerNorm after their sums with the stream, or before them; ``turned``: moved in between."""
    weights = {f"w{i}": normal(8, 8, seed=i) for i in range(3)} | {f"b{i}": normal(8, seed=9 + i) for i in range(3)}
    weights |= {"gain": np.ones(8, np.float32), "shift": np.zeros(8, np.float32)}

    def norm(x, name):
        return node("LayerNormalization", [x, "gain", "shift"], [name], axis=-1)

    def product(x, i):
        made = [node("MatMul", [x, f"w{i}"], [f"m{i}"]), node("Add", [f"b{i}", f"m{i}"], [f"o{i}"])]
        turns = [
            node("Transpose", [f"o{i}"], [f"t{i}"], perm=[0, 2, 1]),
            node("Transpose", [f"t{i}"], [f"v{i}"], perm=[0, 2, 1]),
        ]
        return [*made, *(turns if turned else [])], f"v{i}" if turned else f"o{i}"

    (first, one), (second, two) = product("n0", 0), product("n1", 1)
    if pre:
        parts = [norm("x", "n0"), *first, node("Add", ["x", one], ["s0"]), norm("s0", "n1"), *second,
                 node("Add", ["s0", two], ["s1"]), norm("s1", "n2")]  # fmt: skip
    else:
        parts = [norm("x", "n0"), *first, node("Add", ["n0", one], ["s0"]), norm("s0", "n1"), *second,
                 node("Add", [two, "n1"], ["s1"]), norm("s1", "n2")]  # fmt: skip
    parts.append(node("MatMul", ["n2", "w2"], ["y"]))
    return Model.from_proto(build(parts, {"x": [1, 4, 8]}, {"y": None, **outputs}, weights))


@pytest.mark.parametrize("turned", [False, True])
def test_what_a_product_adds_to_a_stream_gets_a_pair_and_the_stream_shares_the_one_it_has(turned):
    model, context = encoder(turned=turned), placeholder_context()
    InsertQDQ(activation_matmul=True)(model, context)
    assert [reads_pair(model, name, i) for name in ("s0", "s1") for i in (0, 1)] == [True] * 4
    # a normalization writes the type of its pair alone
    for name in ("n0", "n1"):
        assert {reader.op for reader in model.graph.tensors()[name].outputs} == {"QuantizeLinear"}
    reason = context.plan.get("s1").reason
    assert reason.code is Code.STREAM_BRANCH and reason.values["behind"] == "m1"


def test_a_stream_that_is_normalized_before_its_products_stays_float():
    model = encoder(pre=True)
    InsertQDQ(activation_matmul=True)(model, placeholder_context())
    assert [reads_pair(model, name, i) for name in ("s0", "s1") for i in (0, 1)] == [False, True] * 2


@pytest.mark.parametrize(
    ("exclude", "outputs", "taken"),
    [
        (["m1"], {}, [False, False]),
        (["s1"], {}, [True, False]),
        (["y"], {}, [True, False]),
        ([], {"o1": None}, [True, False]),
    ],
)
def test_a_sum_of_a_product_stays_float_where_product_or_reader_do_or_somebody_else_reads(exclude, outputs, taken):
    model = encoder(**outputs)
    InsertQDQ(exclude=exclude, activation_matmul=True)(model, placeholder_context())
    assert [reads_pair(model, "s0", 1), reads_pair(model, "s1", 0)] == taken


@pytest.mark.parametrize("settings", [{}, {"dtype": "fp8", "activation_matmul": True}])
def test_sums_in_a_stream_stay_float_where_attention_does_and_in_fp8(settings):
    model = encoder()
    InsertQDQ(**settings)(model, placeholder_context())
    assert not any(reads_pair(model, name, i) for name in ("s0", "s1") for i in (0, 1))
