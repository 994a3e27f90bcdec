from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.fold_constants import FoldConstants
from passes.insert_qdq import InsertQDQ
from passes.keep_precision import KeepPrecision
from passes.strip_qdq import StripQDQ
from tests.conftest import LIGHT, build, node, normal, ops, placeholder_context, residual_proto, run, said
from toolkit import Code, Context, Extent, Model, Precision, Profiles, Ranges, ShapeProfile, sentence
from toolkit.base.errors import RangesError, RecipeError
from toolkit.contract.ranges import Range
from toolkit.graph.sessions.session import session


def declined(context, rule):
    return {e.node for e in context.journal.of("declined") if e.rule == rule}


def reads_pair(model, name, index):
    tensor = model.node(name).inputs[index]
    return bool(tensor.inputs) and tensor.inputs[0].op == "DequantizeLinear"


def test_places_pairs_on_inputs_and_weights_not_on_outputs_or_bias(residual):
    context = placeholder_context()
    x = normal(2, 3, 8, 8)
    before = run(residual, {"x": x})
    InsertQDQ()(residual, context)
    for name in ("c0", "c1", "c2", "y"):
        assert reads_pair(residual, name, 0) and reads_pair(residual, name, 1)
    assert not reads_pair(residual, "c2", 2)
    assert not reads_pair(residual, "r1", 0)
    after = run(residual, {"x": x})
    assert np.abs(after[0] - before[0]).max() < 0.2 * np.abs(before[0]).max()
    assert {context.plan.get(n).precision for n in ("c0", "c1", "c2", "y", "a", "g")} == {Precision.INT8}


def test_residual_branch_that_is_not_the_fused_convolutions_gets_the_pair(residual):
    InsertQDQ()(residual, placeholder_context())
    assert reads_pair(residual, "a", 1)
    assert not reads_pair(residual, "a", 0)
    # the branch and the convolution share one pair
    assert residual.node("a").inputs[1].name == residual.node("c1").inputs[0].name


def test_of_two_convolution_branches_the_shallower_gets_the_pair():
    model = Model.from_proto(build(
        [
            node("Conv", ["x", "w"], ["down"]),
            node("Conv", ["x", "w1"], ["deep1"]), node("Relu", ["deep1"], ["r"]), node("Conv", ["r", "w2"], ["deep2"]),
            node("Add", ["deep2", "down"], ["y"]), node("Conv", ["y", "w"], ["z"]),
        ],
        {"x": [1, 4, 6, 6]}, {"z": [1, 4, 6, 6]},
        {"w": normal(4, 4, 1, 1), "w1": normal(4, 4, 1, 1, seed=1), "w2": normal(4, 4, 1, 1, seed=2)},
    ))  # fmt: skip
    InsertQDQ()(model, placeholder_context())
    assert [reads_pair(model, "y", i) for i in (0, 1)] == [False, True]


@pytest.mark.parametrize("into", ["short", "deep"])
def test_of_two_convolution_branches_the_one_with_less_to_do_takes_the_add(into):
    """It has a kernel of 1x1 and the other one of 3x3, whose result is quantized, at any size of the picture."""
    small, large = ({}, normal(4, 4, 1, 1)), ({"pads": [1, 1, 1, 1]}, normal(4, 4, 3, 3, seed=1))
    short, deep = (small, large) if into == "short" else (large, small)
    model = Model.from_proto(build(
        [
            node("Conv", ["x", "w_short"], ["short"], **short[0]),
            node("Conv", ["x", "w"], ["first"]), node("Conv", ["first", "w_deep"], ["deep"], **deep[0]),
            node("Add", ["deep", "short"], ["y"]), node("Conv", ["y", "w"], ["z"]),
        ],
        {"x": ["n", 4, "h", 6]}, {"z": None},
        {"w": normal(4, 4, 1, 1, seed=2), "w_short": short[1], "w_deep": deep[1]},
    ))  # fmt: skip
    context = placeholder_context()
    InsertQDQ()(model, context)
    assert [reads_pair(model, "y", i) for i in (0, 1)] == [into == "short", into == "deep"]
    reason = context.plan.get("y").reason
    assert reason.code is Code.RESIDUAL_BRANCH and reason.values["into"] == into


def test_a_sum_that_only_float_layers_read_gets_no_pair(residual):
    """Through its ReLU and the pool, the Gemm reads it, which stays float."""
    context = placeholder_context()
    InsertQDQ(exclude=["y"])(residual, context)
    assert not reads_pair(residual, "a", 0) and not reads_pair(residual, "a", 1)
    assert declined(context, "sum-stays-float") == {"a"}
    assert reads_pair(residual, "c2", 0)


def test_a_sum_that_another_sum_takes_on_to_a_quantized_layer_gets_its_pair():
    parts = [node("Conv", ["x", "w"], ["c"]), node("Add", ["c", "x"], ["a"]), node("Conv", ["a", "w"], ["d"]),
             node("Add", ["d", "a"], ["b"]), node("Relu", ["b"], ["r"]), node("Conv", ["r", "w"], ["y"])]  # fmt: skip
    shape = [1, 4, 6, 6]
    model = Model.from_proto(build(parts, {"x": shape}, {"y": shape}, {"w": normal(4, 4, 1, 1)}))
    InsertQDQ()(model, placeholder_context())
    assert reads_pair(model, "a", 1) and reads_pair(model, "b", 1)


def test_a_broadcast_add_is_declined_by_shapes_over_all_profiles():
    model = Model.from_proto(build(
        [node("Conv", ["x", "w"], ["c"]), node("Relu", ["z"], ["r"]), node("Add", ["c", "r"], ["y"]),
         node("Conv", ["y", "w"], ["e"])],
        {"x": ["n", 4, "h", 6], "z": ["n", 4, "k", 6]}, {"e": None}, {"w": normal(4, 4, 1, 1)},
    ))  # fmt: skip
    same = ShapeProfile("same", {n: Extent((1, 4, 6, 6), (1, 4, 6, 6), (1, 4, 6, 6)) for n in ("x", "z")})
    wide = ShapeProfile("wide", {"x": Extent((1, 4, 9, 6), (1, 4, 9, 6), (1, 4, 9, 6)),
                                 "z": Extent((1, 4, 1, 6), (1, 4, 1, 6), (1, 4, 1, 6))})  # fmt: skip
    context = placeholder_context(profiles=Profiles((same, wide)))
    InsertQDQ()(model, context)
    assert declined(context, "broadcast") == {"y"}
    twin = Model.from_proto(model.to_proto())
    StripQDQ()(twin)
    alone = placeholder_context(profiles=Profiles((same,)))
    InsertQDQ()(twin, alone)
    assert reads_pair(twin, "y", 1)


def test_pool_is_quantized_on_both_sides_or_not_at_all(residual):
    context = placeholder_context()
    InsertQDQ(exclude=["y"])(residual, context)
    assert declined(context, "one-sided") == {"g"}
    assert not reads_pair(residual, "g", 0)


def test_concat_inputs_share_one_scale():
    model = Model.from_proto(build(
        [
            node("Conv", ["x", "w"], ["a"]), node("Conv", ["x", "w1"], ["b"]), node("Concat", ["a", "b"], ["c"], axis=1),
            node("Conv", ["c", "w2"], ["y"]),
        ],
        {"x": [1, 4, 6, 6]}, {"y": [1, 4, 6, 6]},
        {"w": normal(4, 4, 1, 1), "w1": normal(4, 4, 1, 1, seed=1), "w2": normal(4, 8, 1, 1, seed=2)},
    ))  # fmt: skip

    amax = {"x": 1.0, "a": 2.0, "b": 5.0, "c": 5.0}
    context = Context(known_ranges=Ranges({n: Range(v, "minmax") for n, v in amax.items()}))
    InsertQDQ()(model, context)
    scales = {float(model.constant(model.node("c").inputs[i].inputs[0].inputs[1])) for i in (0, 1)}
    scales.add(float(model.constant(model.node("y").inputs[0].inputs[0].inputs[1])))
    assert len(scales) == 1
    assert scales.pop() == pytest.approx(5 / 127, rel=1e-3)


def test_nodes_that_no_output_needs_are_removed_and_said():
    model = Model.from_proto(build(
        [node("Conv", ["x", "w"], ["y"]), node("Conv", ["x", "w1"], ["dead"]), node("Relu", ["dead"], ["deader"])],
        {"x": [1, 4, 6, 6]}, {"y": [1, 4, 6, 6]}, {"w": normal(4, 4, 1, 1), "w1": normal(4, 4, 1, 1, seed=1)},
    ))  # fmt: skip
    context = placeholder_context()
    InsertQDQ()(model, context)
    assert ops(model) == {"Conv": 1, "QuantizeLinear": 2, "DequantizeLinear": 2}
    assert said(context.journal, Code.DEAD_NODES) == [{"nodes": ("dead", "deader")}]
    assert context.plan.get("dead") is None and context.plan.get("y").precision is Precision.INT8


@pytest.mark.parametrize("skip", [True, False])
def test_a_max_pool_beside_a_quantized_skip_reads_the_skips_pair_at_one_scale(skip):
    """A U-Net's level: the ReLU is read by the pool and, where there is a skip, by the Concat."""
    second = "r" if skip else "p1"
    model = Model.from_proto(build(
        [
            node("Conv", ["x", "w"], ["a"]), node("Relu", ["a"], ["r"]),
            node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]), node("Conv", ["p", "w1"], ["b"]),
            node("MaxPool", ["x"], ["p0"], kernel_shape=[1, 1]), node("Conv", ["p0", "w2"], ["p1"]),
            node("Resize", ["b", "", "scales"], ["u"], mode="nearest"), node("Concat", [second, "u"], ["c"], axis=1),
            node("Conv", ["c", "w3"], ["y"]),
        ],
        {"x": [1, 4, 6, 6]}, {"y": [1, 4, 6, 6]},
        {"w": normal(4, 4, 1, 1, scale=0.3), "w1": normal(4, 4, 1, 1, seed=1, scale=0.3), "w2": normal(4, 4, 1, 1, seed=3, scale=0.3),
         "w3": normal(4, 8, 1, 1, seed=2, scale=0.3), "scales": np.array([1, 1, 2, 2], np.float32)},
    ))  # fmt: skip

    amax = {"x": 1.0, "r": 2.0, "p": 1.9, "u": 5.0, "c": 5.0, "p0": 1.0, "p1": 2.0}
    context = Context(known_ranges=Ranges({n: Range(v, "minmax") for n, v in amax.items()}))
    x = normal(1, 4, 6, 6, seed=5, scale=0.3)
    before = run(model, {"x": x})[0]
    InsertQDQ()(model, context)
    scale = float(model.constant(model.node("b").inputs[0].inputs[0].inputs[1]))
    if skip:
        assert (
            reads_pair(model, "p", 0)
            and reads_pair(model, "b", 0)
            and context.plan.get("p").precision is Precision.INT8
        )
        assert scale == pytest.approx(5 / 127, rel=1e-3)
    else:  # nothing but the pool reads the ReLU: Q moves through it by itself
        assert not reads_pair(model, "p", 0) and scale == pytest.approx(1.9 / 127, rel=1e-3)
        # x is read by a convolution as well, so the pool on it reads the pair that is there
        assert reads_pair(model, "p0", 0)
    assert np.abs(run(model, {"x": x})[0] - before).max() < 0.2 * np.abs(before).max()


def test_attention_without_weights_is_declined_unless_asked(attention):
    context = placeholder_context()
    InsertQDQ()(attention, context)
    assert declined(context, "activation-matmul") == {"s", "c"}
    assert ops(attention)["QuantizeLinear"] == 2 + 4
    twin_context = placeholder_context()
    InsertQDQ(activation_matmul=True)(attention, twin_context)
    assert reads_pair(attention, "s", 0) and reads_pair(attention, "c", 1)


def test_weights_have_one_scale_an_output_channel():
    model = Model.from_proto(build(
        [
            node("Conv", ["x", "wc"], ["c"]), node("ConvTranspose", ["c", "wt"], ["t"]), node("Flatten", ["t"], ["f"]),
            node("Gemm", ["f", "wg"], ["g"]), node("MatMul", ["g", "wm"], ["y"]),
        ],
        {"x": [1, 3, 4, 4]}, {"y": [1, 7]},
        {"wc": normal(5, 3, 1, 1), "wt": normal(5, 6, 1, 1), "wg": normal(96, 9), "wm": normal(9, 7)},
    ))  # fmt: skip
    InsertQDQ()(model, placeholder_context())
    sizes = {n: (model.node(n).inputs[1].inputs[0].inputs[1].shape, model.node(n).inputs[1].inputs[0].attrs.get("axis"))
             for n in ("c", "t", "g", "y")}  # fmt: skip
    assert sizes == {"c": ((5,), 0), "t": ((6,), 1), "g": ((9,), 1), "y": ((7,), 1)}


def test_unquantizable_candidates_say_their_rule():
    bad = normal(4, 4, 1, 1)
    bad[0, 0, 0, 0] = np.nan
    model = Model.from_proto(build(
        [
            node("Conv", ["x", "bad"], ["nan"]), node("Conv", ["nan", "w"], ["dynamic"]), node("MatMul", ["v", "m"], ["vec"]),
        ],
        {"x": [1, 4, 6, 6], "w": [4, 4, 1, 1], "v": [6]}, {"dynamic": None, "vec": None}, {"bad": bad, "m": normal(6, 3)},
    ))  # fmt: skip
    context = placeholder_context()
    InsertQDQ()(model, context)
    rules = {e.node: e.rule for e in context.journal.of("declined")}
    assert rules == {"nan": "not-finite", "dynamic": "run-time-weights", "vec": "vector"}
    assert "QuantizeLinear" not in ops(model)


def test_a_constant_node_and_a_shared_initializer_serve_as_weights():
    from onnx import numpy_helper

    model = Model.from_proto(build(
        [
            node("Constant", [], ["k"], value=numpy_helper.from_array(normal(4, 4, 1, 1))),
            node("Conv", ["x", "k"], ["a"]), node("Conv", ["a", "shared"], ["b"]), node("Conv", ["b", "shared"], ["y"]),
        ],
        {"x": [1, 4, 6, 6]}, {"y": [1, 4, 6, 6]}, {"shared": normal(4, 4, 1, 1)},
    ))  # fmt: skip
    InsertQDQ()(model, placeholder_context())
    assert all(reads_pair(model, n, 1) for n in ("a", "b", "y"))
    assert model.node("b").inputs[1].name == model.node("y").inputs[1].name
    run(model, {"x": normal(1, 4, 6, 6)})


def test_patterns_exact_glob_op_and_between(residual):
    context = placeholder_context()
    InsertQDQ(exclude=["c1"], exclude_between=[("r1", "a")])(residual, context)
    assert declined(context, "excluded") == {"c1", "c2"} | {n for n in declined(context, "excluded") if n in ("a",)}
    assert not reads_pair(residual, "c1", 0) and reads_pair(residual, "c0", 0)


def test_excluding_one_name_does_not_exclude_names_that_begin_so():
    nodes = [node("MatMul", ["x" if i == 0 else f"m{i - 1}", "w"], [f"m{i}"], name=f"MatMul_{i}") for i in range(12)]
    model = Model.from_proto(build(nodes, {"x": [2, 4]}, {"m11": [2, 4]}, {"w": normal(4, 4)}))
    context = placeholder_context()
    InsertQDQ(exclude=["MatMul_1"])(model, context)
    assert declined(context, "excluded") == {"MatMul_1"}


@pytest.mark.parametrize(
    ("setting", "near"),
    [({"exclude": ["c9"]}, "c"), ({"include_ops": ["Cnov"]}, "Conv"), ({"exclude_between": [("r0", "nowhere")]}, "")],
)
def test_a_pattern_that_matches_nothing_is_an_error_with_near_misses(residual, setting, near):
    with pytest.raises(RecipeError) as error:
        InsertQDQ(**setting)(residual, placeholder_context())
    assert near in str(error.value)


def test_without_data_it_says_what_is_missing(residual):
    with pytest.raises(RangesError, match=r"in Python: Context\(provider=Calibrator\(data\)\)"):
        InsertQDQ()(residual)


def test_keep_before_or_after_gives_the_same_graph(residual):
    twin = residual.copy()
    context = placeholder_context()
    KeepPrecision(nodes=["y"], precision="fp32")(residual, context)
    InsertQDQ()(residual, context)
    assert not reads_pair(residual, "y", 0)
    other = placeholder_context()
    InsertQDQ()(twin, other)
    KeepPrecision(nodes=["y"], precision="fp32")(twin, other)
    assert not reads_pair(twin, "y", 0) and not reads_pair(twin, "y", 1)
    assert other.plan.get("y").precision is Precision.FP32


def test_twice_is_once(residual):
    context = placeholder_context()
    InsertQDQ()(residual, context)
    once = residual.fingerprint()
    InsertQDQ()(residual, context)
    assert residual.fingerprint() == once


def test_a_partly_quantized_model_keeps_its_scales_and_is_completed(residual):
    context = placeholder_context(amax=1.0)
    InsertQDQ(include=["c0"])(residual, context)
    scale = residual.node("c0").inputs[0].inputs[0].inputs[1]
    count = ops(residual)["QuantizeLinear"]
    InsertQDQ()(residual, placeholder_context(amax=9.0))
    assert residual.node("c0").inputs[0].inputs[0].inputs[1] is scale
    assert ops(residual)["QuantizeLinear"] > count
    assert reads_pair(residual, "c1", 0)


@pytest.mark.parametrize("following", [(), ("guard_fp16",)])
def test_pairs_that_nobody_reads_are_left_out_and_all_else_is_said(residual, following):
    twin = residual.copy()
    run_, tried = placeholder_context(), placeholder_context(dry_run=True, unread=True, following=following)
    InsertQDQ()(residual, run_)
    InsertQDQ()(twin, tried)
    assert ("QuantizeLinear" in ops(twin)) is bool(following)
    assert list(tried.plan.items()) == list(run_.plan.items())
    kinds = ("declined", "noted")
    assert [e for e in tried.journal if e.kind in kinds] == [e for e in run_.journal if e.kind in kinds]


@pytest.mark.parametrize("weights", ["mse", "output"])
def test_a_dry_run_takes_the_largest_magnitude_of_weights_without_a_search(weights):
    # of the first column the least error clips the largest value
    held = normal(4096, 2)
    proto = build([node("Gemm", ["x", "w"], ["y"])], {"x": ["n", 4096]}, {"y": ["n", 2]}, {"w": held})

    def amax(**settings: object) -> np.ndarray:
        model = Model.from_proto(proto)
        InsertQDQ(weights=weights)(model, placeholder_context(**settings))
        return 127 * model.nodes[-1].inputs[1].inputs[0].inputs[1].values

    largest = np.abs(held).max(axis=0)
    assert amax()[0] < 0.99 * largest[0]
    assert amax(dry_run=True, following=("guard_fp16",)) == pytest.approx(largest, rel=2e-3)


@pytest.mark.parametrize("unread", [False, True])
def test_a_range_that_is_not_finite_is_refused_when_it_is_tried(residual, unread):
    context = placeholder_context(np.inf, dry_run=True, unread=unread)
    with pytest.raises(RangesError, match="is inf"):
        InsertQDQ()(residual, context)


def test_fp8_by_the_same_path(residual):
    context = placeholder_context()
    InsertQDQ(dtype="fp8")(residual, context)
    assert residual.opset >= 19
    assert context.plan.get("c0").precision is Precision.FP8
    out = run(residual, {"x": normal(1, 3, 8, 8)})[0]
    assert np.isfinite(out).all()


def test_a_dead_tensor_gets_a_safe_scale(residual):
    context = placeholder_context(amax=0.0)
    InsertQDQ()(residual, context)
    assert any(e.rule == "dead" for e in context.journal.of("noted"))
    assert np.isfinite(run(residual, {"x": normal(1, 3, 8, 8)})[0]).all()


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_strip_after_insert_gives_the_same_model_back(data):
    opset = data.draw(st.integers(13, 21))
    model = Model.from_proto(random_chain(data, opset))
    names, x = sorted(model.node_names()), normal(2, 4, 6, 6)
    # what onnxruntime fuses of equal graphs, and with it the last bit, goes by the order of their nodes
    before = session(model, optimise=False).run({"x": x})
    InsertQDQ(activation_matmul=data.draw(st.booleans()))(model, placeholder_context())
    StripQDQ()(model)
    assert sorted(model.node_names()) == names
    after = session(model, optimise=False).run({"x": x})
    assert before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)


def test_pools_one_after_another_are_quantized_at_once():
    parts = [
        node("Conv", ["x", "w"], ["c"]), node("AveragePool", ["c"], ["p"], kernel_shape=[2, 2]),
        node("AveragePool", ["p"], ["r"], kernel_shape=[2, 2]), node("Conv", ["r", "w"], ["y"]),
    ]  # fmt: skip
    model = Model.from_proto(build(parts, {"x": [2, 4, 6, 6]}, {"y": [2, 4, 4, 4]}, {"w": normal(4, 4, 1, 1)}))
    context = placeholder_context()
    InsertQDQ()(model, context)
    assert {name for name, _ in context.plan.items()} == {"c", "p", "r", "y"}
    once = model.fingerprint()
    InsertQDQ()(model, placeholder_context())
    assert model.fingerprint() == once


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_inserting_twice_is_inserting_once_on_random_graphs(data):
    model = Model.from_proto(random_chain(data, 17))
    InsertQDQ()(model, placeholder_context())
    once = model.fingerprint()
    InsertQDQ()(model, placeholder_context())
    assert model.fingerprint() == once


def random_chain(data, opset):
    """A random graph over [2, 4, 6, 6] tensors: convolutions, activations, adds, concats, pools."""
    nodes, weights, tensors = [], {"w": normal(4, 4, 1, 1), "dw": normal(4, 1, 3, 3)}, ["x"]
    weights["wide"] = normal(4, 8, 1, 1, seed=3)
    for index in range(data.draw(st.integers(2, 9))):
        out = f"t{index}"
        source = data.draw(st.sampled_from(tensors))
        other = data.draw(st.sampled_from(tensors))
        kind = data.draw(st.sampled_from(["conv", "depthwise", "relu", "add", "concat", "maxpool", "averagepool"]))
        if kind == "conv":
            nodes.append(node("Conv", [source, "w"], [out]))
        elif kind == "depthwise":
            nodes.append(node("Conv", [source, "dw"], [out], group=4, pads=[1, 1, 1, 1]))
        elif kind == "relu":
            nodes.append(node("Relu", [source], [out]))
        elif kind == "add":
            nodes.append(node("Add", [source, other], [out]))
        elif kind == "concat":
            nodes += [node("Concat", [source, other], [f"{out}c"], axis=1), node("Conv", [f"{out}c", "wide"], [out])]
        elif kind == "maxpool":
            nodes.append(node("MaxPool", [source], [out], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        else:
            nodes.append(node("AveragePool", [source], [out], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        tensors.append(out)
    used = {name for one in nodes for name in one.input}
    weights = {name: value for name, value in weights.items() if name in used}
    ends = [t for t in tensors[1:] if t not in used] or tensors[-1:]
    return build(nodes, {"x": [2, 4, 6, 6]}, {end: [2, 4, 6, 6] for end in ends}, weights, opset=opset)


@pytest.mark.parametrize("name", ["resnet50", "densenet121", "squeezenet"])
def test_light_models_of_the_onnx_package(name):
    model = Model.load(LIGHT / f"light_{name}.onnx")
    context = placeholder_context()
    FoldConstants()(model, context)
    InsertQDQ()(model, context)
    convs = [n for n in model.nodes if n.op == "Conv"]
    assert all(reads_pair(model, n.name, 0) and reads_pair(model, n.name, 1) for n in convs)
    if name == "densenet121":
        concats = [n for n in model.nodes if n.op == "Concat"]
        assert len(concats) == 58
        assert all(reads_pair(model, n.name, i) for n in concats for i in range(len(n.inputs)))
    if name == "resnet50":
        adds = [n for n in model.nodes if n.op == "Sum"]
        assert len(adds) == 16
        assert all(sum(reads_pair(model, n.name, i) for i in (0, 1)) == 1 for n in adds)


def test_the_input_file_is_not_changed(tmp_path):
    import onnx

    path = tmp_path / "m.onnx"
    onnx.save(residual_proto(), str(path))
    before = path.read_bytes()
    InsertQDQ()(Model.load(path), placeholder_context())
    assert path.read_bytes() == before


def test_a_model_in_double_is_declined_with_the_remedy():
    proto = build(
        [node("MatMul", ["x", "w"], ["y"])], {"x": [2, 4]}, {"y": None}, {"w": normal(4, 4).astype(np.float64)}
    )
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = 11
    model, context = Model.from_proto(proto), placeholder_context()
    InsertQDQ()(model, context)
    (found,) = [event.why for event in context.journal.of("declined")]
    assert found == Code.NOT_FLOAT(tensor="x", has="double")
    assert sentence(found).endswith("is double, not float32, float16 or bfloat16: export the model in float32")
