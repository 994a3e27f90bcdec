"""Every node of a graph gets one line, with a reason wherever asked and actual differ: from real typed networks."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.toolkit.backends.backend_models import (
    FLOAT,
    FP8,
    HALF,
    INT8,
    make,
    node,
    pair,
    profile,
    profiles,
    quantized_conv,
    save,
    tensor,
    weights,
)
from toolkit.backends.attribution.nodes import attribute
from toolkit.backends.backend import EngineSettings
from toolkit.backends.codes import EngineCode
from toolkit.backends.layers.layer import Build
from toolkit.backends.layers.network import metadata_nodes
from toolkit.backends.rtx import RtxBackend
from toolkit.base.precision import Precision
from toolkit.base.profiles import Profiles
from toolkit.contract.plan import PrecisionPlan

SETTINGS = EngineSettings(compute_capabilities=("8.9",))
IMAGE = (HALF, [1, 4, 8, 8])


def runs_in(precision, why):
    return EngineCode.RUNS_IN(precision=precision, why=why)


@pytest.fixture
def attributed(tmp_path):
    """Builds a model for real and attributes it, asking what is given: ``conv="int8"``."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install qtool[rtx]")

    def run(model, some=None, asked=None):
        plan = PrecisionPlan()
        for name, precision in (asked or {}).items():
            plan.ask(name, precision, "the test asks")
        made = RtxBackend().build(save(model, tmp_path), some if some is not None else Profiles(), SETTINGS)
        found = attribute(model, made, plan)
        assert set(found) == set(model.node_names())
        for name, actual in found.items():
            ask = plan.get(name)
            if actual.status != "honoured" or (ask is not None and ask.precision is not actual.precision):
                assert actual.reason, name
            assert actual.status in ("honoured", "fused", "removed", "overridden"), (name, actual)
            assert actual.source in ("network", "tactic")
        return found

    return run


@pytest.mark.rtx
@pytest.mark.parametrize(("kind", "word"), [(INT8, "int8"), (FP8, "fp8")])
def test_a_quantized_convolution_and_its_pairs(attributed, kind, word):
    found = attributed(
        quantized_conv(kind),
        profiles(profile(x=((1, 4, 8, 8), (2, 4, 8, 8), (4, 4, 8, 8)))),
        {"conv": word, "relu": "fp16", "x/Q": word, "x/DQ": word},
    )
    assert (found["conv"].precision, found["conv"].status) == (Precision(word), "honoured")
    assert found["conv"].engine_layers == ("conv",) and found["conv"].input_types == ("fp16", "fp16")
    assert (found["relu"].precision, found["relu"].status) == (Precision.FP16, "honoured")
    assert (found["x/DQ"].status, found["x/DQ"].engine_layers) == ("fused", ("conv",))
    assert (found["w/DQ"].status, found["w/DQ"].precision) == ("fused", Precision(word))
    assert found["x/Q"].status == "honoured" and found["x/Q"].reason == EngineCode.QUANTIZES_INPUT(tensor="x")


@pytest.mark.rtx
def test_what_is_asked_and_not_had_says_why(attributed):
    q, qi = pair("x")
    w, wi = weights("w", (4, 4, 1, 1))
    plain = tensor("v", np.ones((4, 4, 1, 1)), HALF)
    nodes = [*q, *w, node("Conv", ["x", "w_dq"], ["a"], "unquantized_input"),
             node("Conv", ["x_dq", "v"], ["b"], "float_weights"), node("Conv", ["a", "v"], ["c"], "float"),
             node("Conv", ["x_dq", "w_dq"], ["d"], "kept"), node("Relu", ["d"], ["e"], "relu"),
             node("Add", ["x_dq", "c"], ["f"], "one_side"), node("Add", ["b", "e"], ["g"], "sum"),
             node("Add", ["f", "g"], ["y"], "last")]  # fmt: skip
    model = make(nodes, {"x": IMAGE}, {"y": IMAGE}, [*qi, *wi, plain])
    asked = dict.fromkeys(["unquantized_input", "float_weights", "float", "relu", "one_side"], "int8")
    found = attributed(model, asked={**asked, "kept": "fp16", "sum": "fp32"})
    reasons = {name: actual.reason for name, actual in found.items() if actual.status == "overridden"}
    assert reasons == {
        "unquantized_input": runs_in("fp16", EngineCode.ONLY_WEIGHTS_QUANTIZED(input="x")),
        "float_weights": runs_in("fp16", EngineCode.WEIGHTS_NOT_QUANTIZED(weights="v")),
        "float": runs_in("fp16", EngineCode.NO_INPUT_QUANTIZED()),
        "relu": runs_in("fp16", EngineCode.NO_QUANTIZED_KERNEL(op="Relu")),
        "one_side": runs_in("fp16", EngineCode.INPUTS_NOT_QUANTIZED(indices=[1], inputs=["c"])),
        "kept": runs_in("int8", EngineCode.INPUTS_QUANTIZED(by=["x/DQ", "w/DQ"])),
        "sum": runs_in("fp16", EngineCode.INPUT_IS(input="b", precision="fp16")),
    }
    assert found["x/DQ"].reason.code is EngineCode.DEQUANTIZED_IN and found["x/DQ"].reason.values["other"]


@pytest.mark.rtx
def test_pairs_reach_through_operators_that_move_values(attributed):
    q, qi = pair("x")
    w, wi = weights("w", (4, 4, 1, 1))
    nodes = [*q, *w, node("MaxPool", ["x_dq"], ["m"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
             node("Transpose", ["m"], ["t"], "move", perm=[0, 1, 3, 2]),
             node("Conv", ["t", "w_dq"], ["y"], "conv")]  # fmt: skip
    model = make(nodes, {"x": IMAGE}, {"y": (HALF, [1, 4, 4, 4])}, [*qi, *wi])
    found = attributed(model, asked={"conv": "int8"})
    assert found["conv"].precision is Precision.INT8
    assert found["pool"].precision is Precision.INT8 and found["pool"].reason.code is EngineCode.MOVES_QUANTIZED
    assert found["x/DQ"].engine_layers == ("conv",)


@pytest.mark.rtx
def test_a_pool_wants_a_pair_on_both_sides(attributed):
    q, qi = pair("x")
    p, pi = pair("p")
    w, wi = weights("w", (4, 4, 1, 1))
    nodes = [*q, node("GlobalAveragePool", ["x_dq"], ["p"], "both"), *p, *w,
             node("Conv", ["p_dq", "w_dq"], ["c"], "conv"), node("GlobalAveragePool", ["x_dq"], ["o"], "one"), node("Add", ["c", "o"], ["y"], "add")]  # fmt: skip
    found = attributed(
        make(nodes, {"x": IMAGE}, {"y": (HALF, [1, 4, 1, 1])}, [*qi, *pi, *wi]), asked={"both": "int8", "one": "int8"}
    )
    assert found["both"].precision is Precision.INT8
    assert found["p/Q"].status == "fused" and found["p/Q"].engine_layers == ("both",)
    assert found["one"].precision is Precision.FP16
    why = EngineCode.OUTPUT_NOT_QUANTIZED(op="GlobalAveragePool", reader="add")
    assert found["one"].reason == runs_in("fp16", why)


@pytest.mark.rtx
def test_a_residual_addition_runs_in_the_convolution_before_it(attributed):
    q, qi = pair("x")
    w, wi = weights("w", (4, 4, 1, 1))
    nodes = [*q, *w, node("Conv", ["x_dq", "w_dq"], ["c"], "conv"), node("Add", ["c", "x_dq"], ["y"], "add")]
    found = attributed(make(nodes, {"x": IMAGE}, {"y": IMAGE}, [*qi, *wi]), asked={"add": "int8"})
    assert (found["add"].status, found["add"].precision) == ("fused", Precision.INT8)
    assert found["add"].engine_layers == ("conv",)
    assert found["add"].reason == EngineCode.ADDED_IN_CONVOLUTION(node="conv")


@pytest.mark.rtx
def test_different_types_of_pairs_are_named(attributed):
    q, qi = pair("x")
    p, pi = pair("v", kind=FP8)
    nodes = [*q, *p, node("Concat", ["x_dq", "v_dq"], ["y"], "concat", axis=1)]
    model = make(nodes, {"x": IMAGE, "v": IMAGE}, {"y": (HALF, [1, 8, 8, 8])}, [*qi, *pi])
    found = attributed(model, asked={"concat": "int8"})
    assert found["concat"].reason == runs_in("fp16", EngineCode.INPUT_TYPES_DIFFER(types=["int8", "fp8"]))


@pytest.mark.rtx
def test_the_engines_kernels_refute_what_the_pairs_promise(attributed):
    q, qi = pair("x")
    w, wi = weights("w", (4, 8, 3, 3), axis=1)
    nodes = [*q, *w, node("ConvTranspose", ["x_dq", "w_dq"], ["y"], "up")]
    model = make(nodes, {"x": IMAGE}, {"y": (HALF, [1, 8, 10, 10])}, [*qi, *wi])
    found = attributed(model, asked={"up": "int8"})
    assert (found["up"].precision, found["up"].source, found["up"].status) == (Precision.FP16, "tactic", "overridden")
    promised = EngineCode.INPUTS_QUANTIZED(by=["x/DQ", "w/DQ"])
    assert found["up"].reason == runs_in("fp16", EngineCode.KERNEL_READS_FLOAT(promised=promised, types=["fp16"]))
    assert found["x/DQ"].status == "honoured" and found["x/DQ"].reason == EngineCode.DEQUANTIZES_FOR_FLOAT(nodes=["up"])


@pytest.mark.rtx
def test_the_engines_kernels_confirm_int8(attributed):
    found = attributed(quantized_conv(batch=1), asked={"conv": "int8"})
    assert (found["conv"].source, found["conv"].precision) == ("tactic", Precision.INT8)


@pytest.mark.rtx
def test_float_weights_are_quantized_while_building(attributed):
    q, qi = pair("x")
    p, pi = pair("w")
    nodes = [*q, *p, node("Conv", ["x_dq", "w_dq"], ["y"], "conv")]
    model = make(nodes, {"x": IMAGE}, {"y": IMAGE}, [*qi, *pi, tensor("w", np.ones((4, 4, 1, 1)), HALF)])
    found = attributed(model, asked={"w/Q": "int8"})
    assert found["conv"].precision is Precision.INT8
    assert found["w/Q"].status == "fused" and found["w/Q"].reason == EngineCode.CONSTANT_QUANTIZED(nodes=["conv"])


@pytest.mark.rtx
def test_shapes_constants_casts_and_what_the_parser_drops(attributed):
    nodes = [node("Constant", [], ["two"], "constant", value=tensor("v", [2.0, 2.0], HALF)),
             node("Relu", ["two"], ["relu_of_two"], "folded"), node("Shape", ["x"], ["s"], "shape"),
             node("Gather", ["s", "i"], ["n"], "gather"), node("Concat", ["n", "last"], ["ns"], "concat", axis=0),
             node("Reshape", ["x", "ns"], ["r"], "reshape"), node("Dropout", ["r"], ["d"], "dropout"),
             node("Pow", ["d", "half"], ["p"], "pow"), node("Add", ["p", "relu_of_two"], ["a"], "add"),
             node("Cast", ["a"], ["f"], "cast", to=FLOAT), node("Softmax", ["f"], ["sm"], "softmax"),
             node("ArgMax", ["sm"], ["y"], "argmax", axis=-1, keepdims=0)]  # fmt: skip
    inits = [tensor("i", [0], 7), tensor("last", [2], 7), tensor("half", 0.5, FLOAT)]
    model = make(nodes, {"x": (HALF, ["n", 2])}, {"y": (7, ["n"])}, inits)
    asked = {"shape": "fp16", "reshape": "fp16", "pow": "fp16", "cast": "fp32", "softmax": "fp16", "argmax": "fp32"}
    found = attributed(model, profiles(profile(x=((1, 2), (2, 2), (4, 2)))), asked)
    assert found["shape"].precision is None and found["shape"].reason.code is EngineCode.PRECISION_NOT_APPLICABLE
    assert found["concat"].precision is None and found["concat"].status == "honoured"
    assert found["reshape"].precision is Precision.FP16
    assert found["pow"].precision is Precision.FP32 and found["pow"].status == "overridden"
    assert found["pow"].reason == EngineCode.PARSER_CASTS(op="Pow", precision="fp32", result="fp16")
    assert found["cast"].precision is Precision.FP32 and found["cast"].status == "honoured"
    assert found["softmax"].reason == runs_in("fp32", EngineCode.INPUT_IS(input="f", precision="fp32"))
    assert found["argmax"].precision is Precision.FP32 and found["argmax"].status == "honoured"


@pytest.mark.rtx
def test_nodes_inside_subgraphs_have_their_own_lines(attributed):
    def branch(op, name):
        out = onnx.helper.make_tensor_value_info(f"{name}_out", HALF, [1, 4])
        return onnx.helper.make_graph([node(op, ["x"], [f"{name}_out"], name)], name, [], [out])

    nodes = [node("If", ["c"], ["y"], "if", then_branch=branch("Relu", "then"), else_branch=branch("Tanh", "else"))]
    model = make(nodes, {"x": (HALF, [1, 4]), "c": (9, [])}, {"y": (HALF, [1, 4])})
    found = attributed(model, asked={"then": "fp16", "else": "fp32"})
    assert found["then"].precision is Precision.FP16 and found["then"].status == "honoured"
    assert found["else"].status == "overridden"
    assert found["if"].precision is None and found["if"].reason == EngineCode.SEE_BRANCHES()


def test_nothing_is_known_where_nothing_was_built():
    model = quantized_conv()
    found = attribute(model, Build("none"), PrecisionPlan())
    assert {a.status for a in found.values()} == {"unknown"} and {a.source for a in found.values()} == {"none"}
    assert all(a.reason == EngineCode.NOT_BUILT() for a in found.values())
    assert set(found) == set(model.node_names())


@pytest.mark.parametrize(
    ("metadata", "nodes"),
    [
        ("[ONNX Layer: a]\x1e[ONNX Layer: b/c]", ("a", "b/c")),
        ("[ONNX Layer: a]\x1f[ONNX Layer: a]", ("a",)),
        ("[ONNX Layer: x[0]]\x1f[ONNX Layer: y]", ("x[0]", "y")),
        ("[ONNX Layer: if/add | t (then_branch) | iff (If)]", ("if/add",)),
        ("[ONNX Layer: a | b]", ("a | b",)),
        ("", ()),
        ("nothing of ours", ()),
    ],
)
def test_nodes_are_read_from_a_layers_metadata(metadata, nodes):
    assert metadata_nodes(metadata) == nodes
