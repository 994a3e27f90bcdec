from __future__ import annotations

import numpy as np
import pytest

from passes.fold_batchnorm import FoldBatchNorm
from passes.fold_constants import FoldConstants
from passes.keep_precision import KeepPrecision
from tests.conftest import build, node, normal, ops, placeholder_context, run, said
from toolkit import Code, Context, Model, Precision
from toolkit.base.errors import RecipeError


def batchnorm_weights(channels, prefix="", seed=0):
    rng = np.random.default_rng(seed)
    names = ("gamma", "beta", "mean", "var")
    values = [
        rng.uniform(0.5, 2, channels),
        rng.standard_normal(channels),
        rng.standard_normal(channels),
        rng.uniform(0.1, 3, channels),
    ]
    return {prefix + n: v.astype(np.float32) for n, v in zip(names, values)}


@pytest.mark.parametrize(
    ("op", "weight", "attrs", "channels"),
    [
        ("Conv", (6, 3, 3, 3), {}, 6),
        ("Conv", (6, 1, 3, 3), {"group": 3}, 6),
        ("ConvTranspose", (3, 6, 2, 2), {}, 6),
        ("ConvTranspose", (3, 2, 2, 2), {"group": 3}, 6),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_batchnorm_folds_into_the_layer_before_it(op, weight, attrs, channels, bias):
    weights = {"w": normal(*weight), **batchnorm_weights(channels)}
    inputs = ["x", "w"]
    if bias:
        weights["b"] = normal(channels, seed=3)
        inputs.append("b")
    model = Model.from_proto(build(
        [node(op, inputs, ["c"], **attrs), node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["y"])],
        {"x": [2, 3, 5, 5]}, {"y": None}, weights,
    ))  # fmt: skip
    x = normal(2, 3, 5, 5, seed=9)
    before = run(model, {"x": x})[0]
    FoldBatchNorm()(model)
    assert ops(model) == {op: 1}
    assert np.allclose(before, run(model, {"x": x})[0], atol=1e-4)


@pytest.mark.parametrize("trans", [0, 1])
def test_batchnorm_folds_into_gemm(trans):
    weights = {"w": normal(*((6, 4) if trans else (4, 6))), "b": normal(6), **batchnorm_weights(6)}
    model = Model.from_proto(build(
        [node("Gemm", ["x", "w", "b"], ["c"], transB=trans, beta=0.5), node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["y"])],
        {"x": [2, 4]}, {"y": None}, weights,
    ))  # fmt: skip
    x = normal(2, 4)
    before = run(model, {"x": x})[0]
    FoldBatchNorm()(model)
    assert ops(model) == {"Gemm": 1}
    assert np.allclose(before, run(model, {"x": x})[0], atol=1e-4)


@pytest.mark.parametrize("bias", [None, (6,), (1, 6)])
@pytest.mark.parametrize("first", [False, True])
def test_batchnorm_folds_into_a_matmul_as_into_a_gemm(bias, first):
    weights = {"w": normal(4, 6), **batchnorm_weights(6)}
    nodes, tensor = [node("MatMul", ["x", "w"], ["m"])], "m"
    if bias is not None:
        weights["b"] = normal(*bias, seed=3)
        nodes.append(node("Add", ["b", "m"] if first else ["m", "b"], ["c"]))
        tensor = "c"
    nodes += [node("BatchNormalization", [tensor, "gamma", "beta", "mean", "var"], ["n"]), node("Relu", ["n"], ["y"])]
    model = Model.from_proto(build(nodes, {"x": [2, 4]}, {"y": None}, weights))
    x = normal(2, 4)
    before = run(model, {"x": x})[0]
    context = Context()
    FoldBatchNorm()(model, context)
    assert ops(model) == {"MatMul": 1, "Add": 1, "Relu": 1}
    assert np.allclose(before, run(model, {"x": x})[0], atol=1e-4)
    assert [dict(e.what.values) for e in context.journal.of("changed")] == [{"op": "BatchNormalization", "node": "n"}]
    model.check()


def test_batchnorm_after_a_matmul_of_three_dimensions_stays():
    """Its channels are the second axis, which is not that of the weights."""
    weights = {"w": normal(4, 6), **batchnorm_weights(3)}
    nodes = [
        node("MatMul", ["x", "w"], ["m"]),
        node("BatchNormalization", ["m", "gamma", "beta", "mean", "var"], ["y"]),
    ]
    model = Model.from_proto(build(nodes, {"x": [2, 3, 4]}, {"y": None}, weights))
    context = Context()
    FoldBatchNorm()(model, context)
    assert ops(model) == {"MatMul": 1, "BatchNormalization": 1}
    assert len(said(context.journal, Code.NO_LAYER)) == 1


@pytest.mark.parametrize("form", ["Mul Add", "Sub Div Mul Add", "Div Sub", "Rsub"])
def test_batchnorm_that_is_written_out_folds_too(form):
    wide = {name: value.reshape(1, 6, 1, 1) for name, value in batchnorm_weights(6).items()}
    steps = {
        "Mul Add": [("Mul", "c gamma"), ("Add", "s0 beta")],
        "Sub Div Mul Add": [("Sub", "c mean"), ("Div", "s0 var"), ("Mul", "gamma s1"), ("Add", "beta s2")],
        "Div Sub": [("Div", "c var"), ("Sub", "s0 mean")],
        "Rsub": [("Sub", "mean c"), ("Mul", "s0 gamma")],
    }[form]
    nodes = [node("Conv", ["x", "w"], ["c"])]
    nodes += [node(op, names.split(), [f"s{number}"]) for number, (op, names) in enumerate(steps)]
    used = {name for one in nodes for name in one.input}
    weights = {"w": normal(6, 3, 3, 3), **{name: value for name, value in wide.items() if name in used}}
    model = Model.from_proto(build(nodes, {"x": [2, 3, 5, 5]}, {f"s{len(steps) - 1}": None}, weights))
    x = normal(2, 3, 5, 5, seed=9)
    before = run(model, {"x": x})[0]
    FoldBatchNorm()(model)
    assert ops(model) == {"Conv": 1}
    assert np.allclose(before, run(model, {"x": x})[0], atol=1e-4)


def test_a_number_over_a_result_is_no_scale():
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Div", ["one", "c"], ["y"])]
    weights = {"w": normal(6, 3, 3, 3), "one": np.float32(1).reshape(())}
    model = Model.from_proto(build(nodes, {"x": [2, 3, 5, 5]}, {"y": None}, weights))
    FoldBatchNorm()(model)
    assert ops(model) == {"Conv": 1, "Div": 1}


def test_shared_weights_and_shared_outputs_are_respected():
    model = Model.from_proto(build(
        [
            node("Conv", ["x", "w"], ["a"]), node("BatchNormalization", ["a", "gamma", "beta", "mean", "var"], ["n"]),
            node("Conv", ["n", "w"], ["b"]), node("BatchNormalization", ["b", "gamma", "beta", "mean", "var"], ["m"]), node("Add", ["b", "m"], ["y"]),
        ],
        {"x": [1, 4, 3, 3]}, {"y": None}, {"w": normal(4, 4, 1, 1), **batchnorm_weights(4)},
    ))  # fmt: skip
    x = normal(1, 4, 3, 3)
    before = run(model, {"x": x})[0]
    context = Context()
    FoldBatchNorm()(model, context)
    assert ops(model)["BatchNormalization"] == 1
    assert {e.node: e.rule for e in context.journal.of("declined")} == {"m": "shared-output"}
    assert np.allclose(before, run(model, {"x": x})[0], atol=1e-4)


def test_a_shared_result_of_a_matmul_is_named_as_the_reason():
    nodes = [
        node("MatMul", ["x", "w"], ["m"]), node("BatchNormalization", ["m", "gamma", "beta", "mean", "var"], ["n"]),
        node("Add", ["m", "n"], ["y"]),
    ]  # fmt: skip
    weights = {"w": normal(4, 6), **batchnorm_weights(6)}
    context = Context()
    FoldBatchNorm()(Model.from_proto(build(nodes, {"x": [2, 4]}, {"y": None}, weights)), context)
    assert {e.node: e.rule for e in context.journal.of("declined")} == {"n": "shared-output"}


@pytest.mark.parametrize("normalized", [False, True])
def test_a_scaling_after_a_folded_batchnorm_folds_too(normalized):
    nodes = [node("Conv", ["x", "w"], ["c"])]
    if normalized:
        nodes.append(node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"]))
    nodes.append(node("Mul", [nodes[-1].output[0], "s"], ["y"]))
    weights = {"w": normal(6, 3, 3, 3), "s": normal(1, 6, 1, 1), **(batchnorm_weights(6) if normalized else {})}
    model = Model.from_proto(build(nodes, {"x": [2, 3, 5, 5]}, {"y": None}, weights))
    x = normal(2, 3, 5, 5, seed=9)
    before = run(model, {"x": x})[0]
    FoldBatchNorm()(model)
    assert ops(model) == {"Conv": 1}
    assert np.allclose(before, run(model, {"x": x})[0], atol=1e-4)


def test_the_scale_and_shift_of_caffe_exports_fold_too():
    model = Model.from_proto(build(
        [node("Conv", ["x", "w"], ["c"]), node("Mul", ["c", "s"], ["m"]), node("Add", ["t", "m"], ["y"])],
        {"x": [1, 3, 4, 4]}, {"y": None}, {"w": normal(5, 3, 1, 1), "s": normal(5, 1, 1), "t": normal(1, 5, 1, 1)},
    ))  # fmt: skip
    x = normal(1, 3, 4, 4)
    before = run(model, {"x": x})[0]
    FoldBatchNorm()(model)
    assert ops(model) == {"Conv": 1}
    assert np.allclose(before, run(model, {"x": x})[0], atol=1e-5)


def test_a_scale_along_another_axis_does_not_fold():
    model = Model.from_proto(build(
        [node("Conv", ["x", "w"], ["c"]), node("Mul", ["c", "s"], ["y"])],
        {"x": [1, 3, 4, 4]}, {"y": None}, {"w": normal(4, 3, 1, 1), "s": normal(4)},
    ))  # fmt: skip
    FoldBatchNorm()(model)
    assert ops(model) == {"Conv": 1, "Mul": 1}


def test_constants_fold_and_pairs_stay():
    model = Model.from_proto(build(
        [
            node("Transpose", ["w"], ["wt"], perm=[1, 0]), node("QuantizeLinear", ["wt", "s", "z"], ["q"]),
            node("DequantizeLinear", ["q", "s", "z"], ["d"]), node("MatMul", ["x", "d"], ["y"]),
        ],
        {"x": [2, 4]}, {"y": None}, {"w": normal(3, 4), "s": np.float32(0.1).reshape(()), "z": np.array(0, np.int8)},
    ))  # fmt: skip
    x = normal(2, 4)
    before = run(model, {"x": x})[0]
    context = Context()
    FoldConstants()(model, context)
    assert ops(model) == {"QuantizeLinear": 1, "DequantizeLinear": 1, "MatMul": 1}
    assert [e.node for e in context.journal.of("changed")] == ["wt"]
    assert np.array_equal(before, run(model, {"x": x})[0])


def test_keep_precision_marks_nodes_and_says_why(attention):
    context = placeholder_context()
    KeepPrecision(ops=["Softmax"], precision="fp32", reason="sums of exponentials")(attention, context)
    KeepPrecision(between=[("q", "c")], precision="bf16")(attention, context)
    assert context.plan.get("p").precision is Precision.BF16
    assert set(context.plan) == {"p", "s", "ss", "c"}
    assert context.journal.of("changed", node="p")[0].why == Code.OWN_WORDS(text="sums of exponentials")


def test_keep_precision_finds_an_operator_in_pieces():
    """GELU written out, after a pool that is written as a reduction."""
    numbers = {name: np.float32(value).reshape(()) for name, value in (("root", 2**0.5), ("one", 1), ("half", 0.5))}
    model = Model.from_proto(build(
        [
            node("ReduceMean", ["x"], ["p"], axes=[2, 3], keepdims=0), node("Div", ["p", "root"], ["a"]), node("Erf", ["a"], ["e"]),
            node("Add", ["e", "one"], ["b"]), node("Mul", ["p", "b"], ["c"]), node("Mul", ["c", "half"], ["d"]), node("Mul", ["d", "w"], ["y"]),
        ],
        {"x": [2, 3, 4, 4]}, {"y": [2, 3]}, {**numbers, "w": normal(3)},
    ))  # fmt: skip
    context = Context()
    KeepPrecision(ops=["Gelu", "GlobalAveragePool"], precision="fp32")(model, context)
    assert {name for name, _ in context.plan.items()} == {"p", "a", "e", "b", "c", "d"}
    with pytest.raises(RecipeError, match="'LayerNormalization': the model has no such operator"):
        KeepPrecision(ops=["LayerNormalization"])(model, Context())


def test_keep_precision_asks_nothing_for_shape_arithmetic():
    parts = [node("Shape", ["x"], ["s"]), node("Reshape", ["x", "s"], ["r"]), node("Relu", ["r"], ["y"])]
    model, context = Model.from_proto(build(parts, {"x": ["n", 4]}, {"y": ["n", 4]})), Context()
    KeepPrecision(nodes=["*"])(model, context)
    assert {name for name, _ in context.plan.items()} == {"r", "y"}
    assert said(context.journal, Code.NO_FLOATS) == [{"nodes": ("s",)}]


def test_keep_precision_needs_something_to_choose():
    with pytest.raises(RecipeError, match="selects no nodes"):
        KeepPrecision()
    with pytest.raises(RecipeError, match="matches no node"):
        KeepPrecision(nodes=["nothing*"])(Model.from_proto(build([node("Relu", ["x"], ["y"])], {"x": [1]}, {"y": [1]})))


@pytest.mark.parametrize("shape", [(5, 1), (3, 5), (1, 5)])
def test_a_gemm_bias_that_is_not_by_channel_is_declined(shape):
    model = Model.from_proto(build(
        [node("Gemm", ["x", "w", "c"], ["g"]), node("BatchNormalization", ["g", "gamma", "beta", "mean", "var"], ["y"])],
        {"x": [shape[0] if shape[0] > 1 else 3, 4]}, {"y": None}, {"w": normal(4, 5), "c": normal(*shape), **batchnorm_weights(5)},
    ))  # fmt: skip
    x = normal(shape[0] if shape[0] > 1 else 3, 4)
    before = run(model, {"x": x})[0]
    context = Context()
    FoldBatchNorm()(model, context)
    assert np.allclose(before, run(model, {"x": x})[0], atol=1e-4)
    assert bool(context.journal.of("declined")) == (shape != (1, 5))


def test_random_operators_are_no_constants():
    model = Model.from_proto(
        build([node("RandomNormal", [], ["r"], shape=[4]), node("Add", ["x", "r"], ["y"])], {"x": [4]}, {"y": [4]})
    )
    FoldConstants()(model)
    assert ops(model) == {"RandomNormal": 1, "Add": 1}
