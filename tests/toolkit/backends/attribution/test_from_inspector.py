"""Recorded engines joined to their graphs: every node one line, none unknown, every difference explained."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests.toolkit.backends.backend_models import FLOAT, make, node, pair, tensor, weights
from tests.toolkit.backends.recorded_models import mnist, recorded, resnet50
from toolkit.backends.attribution.engine_map import fused_names
from toolkit.backends.attribution.nodes import attribute
from toolkit.backends.codes import EngineCode
from toolkit.backends.layers.layer import Build, Layer, Port
from toolkit.base.precision import Precision
from toolkit.contract.plan import PrecisionPlan

INT8, FP16, FP32 = Precision.INT8, Precision.FP16, Precision.FP32


def plan(**asked):
    made = PrecisionPlan()
    for name, precision in asked.items():
        made.ask(name.replace("__", "/"), precision, "the test asks")
    return made


def attributed(model, build, asked=None):
    asked = asked or PrecisionPlan()
    found = attribute(model, build, asked)
    assert set(found) == set(model.node_names())
    for name, actual in found.items():
        ask = asked.get(name)
        if actual.status != "honoured" or (ask is not None and ask.precision is not actual.precision):
            assert actual.reason, (name, actual)
    return found


def statuses(found):
    return Counter(actual.status for actual in found.values())


@pytest.mark.parametrize(("file", "precision"), [("rn50_fp16", FP16), ("rn50_implicit_best", INT8)])
def test_resnet50_without_pairs(file, precision):
    model = resnet50(False)
    found = attributed(model, recorded(file))
    assert statuses(found).keys() == {"honoured", "fused"}
    assert {actual.precision for actual in found.values()} == {precision}
    assert all(found[n.name].status == "honoured" for n in model.nodes if n.op in ("Conv", "Gemm"))
    relu = found["/l/l.4/r_1/Relu"]
    assert relu.status == "fused" and relu.reason == EngineCode.IN_KERNEL_OF(node="/l/l.4/c2/Conv")


def test_resnet50_with_pairs():
    model = resnet50(True)
    found = attributed(model, recorded("rn50_good"))
    assert statuses(found).keys() == {"honoured", "fused"}
    assert {actual.precision for actual in found.values()} == {INT8}
    layer = "onnx::Conv_506 + onnx::Conv_506_Q + /l/l.0/c3/Conv + /l/l.0/Add + /l/l.0/r_2/Relu"
    for name in ("onnx::Conv_506_Q", "onnx::Conv_506_DQ", "/l/l.0/Add", "/l/l.0/r_2/Relu"):
        assert (found[name].status, found[name].engine_layers) == ("fused", (layer,)), name
    assert (found["x_Q"].status, found["x_Q"].engine_layers) == ("honoured", ("x_Q",))
    assert found["/Flatten"].engine_layers == ("/g/GlobalAveragePool",)
    assert found["f.weight_DQ"].status == "fused" and "/f/Gemm" in found["f.weight_DQ"].engine_layers[0]


def test_profiles_that_differ_are_told_apart():
    build = recorded("", "mnist_mixed_profile0", "mnist_mixed_profile1", quantization="implicit")
    build.settings["profiles"] = ["small", "large"]
    found = attributed(mnist(), build, plan(conv1="fp32", fc1="fp16", conv2="int8", relu1="fp32", relu3="fp32"))
    assert found["conv1"].status == "honoured" and found["fc1"].status == "honoured"
    assert (found["conv2"].status, found["conv2"].precision) == ("overridden", FP16)
    differ = found["conv2"].reason
    assert differ.code is EngineCode.PROFILES_DIFFER
    assert (differ.values["runs"], differ.values["profiles"]) == (("int8", "fp16"), ("small", "large"))
    assert differ.values["why"].values["why"].code is EngineCode.FASTEST_KERNEL_TAKEN
    part = EngineCode.PART_OF_KERNEL(layer="fc1 + relu3", node="fc1")
    assert found["relu3"].reason == EngineCode.RUNS_IN(precision="fp16", why=part)
    assert statuses(found)["unknown"] == 0


def test_a_block_hides_its_nodes_and_says_what_is_known():
    q, qi = pair("e", scale=FLOAT)
    w, wi = weights("w", (4, 4), axis=1, scale=FLOAT)
    nodes = [node("Cast", ["mask"], ["m"], "/b/Cast", to=FLOAT), node("Shape", ["ids"], ["s"], "/b/Shape"),
             node("Gather", ["s", "zero"], ["/b/Gather_3_output_0"], "/b/Gather_3"),
             node("Gather", ["table", "ids"], ["e"], "/b/Embed"), *q, *w,
             node("MatMul", ["e_dq", "w_dq"], ["p"], "/b/MatMul"),
             node("Expand", ["m", "/b/Gather_3_output_0"], ["x"], "/b/Expand"),
             node("Add", ["p", "x"], ["a"], "/b/Add"),
             node("LayerNormalization", ["a", "gain"], ["h"], "/b/LayerNorm")]  # fmt: skip
    inits = [*qi, *wi, tensor("zero", [0], 7), tensor("table", [[1.0] * 4] * 4), tensor("gain", [1.0] * 4)]
    model = make(nodes, {"ids": (7, ["n"]), "mask": (7, ["n", 4])}, {"h": (FLOAT, ["n", 4])}, inits, opset=17, ir=8)
    found = attributed(model, recorded("bert_good"), plan(__b__MatMul="int8", __b__Add="fp16"))
    assert statuses(found)["unknown"] == 0
    block = "{ForeignNode[/b/Cast...(Unnamed Layer* 1074) [Normalization]]}"
    for name in ("/b/Cast", "/b/Embed", "/b/MatMul", "/b/Add", "/b/LayerNorm", "e/Q", "e/DQ"):
        assert (found[name].status, found[name].engine_layers) == ("opaque", (block,)), name
        said = found[name].reason
        assert found[name].precision is None and said.code is EngineCode.IN_BLOCK
        assert (said.values["reads"], said.values["writes"]) == (("int32",), ("fp32",))
    asked = found["/b/MatMul"].reason.values
    assert asked["asked"] == "int8" and asked["why"].code is EngineCode.INPUTS_QUANTIZED
    assert found["/b/Gather_3"].engine_layers == ("[ShapeHostToDeviceCopy 0]",)


def test_a_block_of_one_node_is_known_by_its_formats():
    model = make([node("Softmax", ["x"], ["y"], "soft")], {"x": (FLOAT, [2, 4])}, {"y": (FLOAT, [2, 4])})
    block = Layer("{ForeignNode[soft]}", "Myelin", (Port("x", "fp16"),), (Port("y", "fp16"),))
    found = attributed(model, Build("tensorrt", engine=b"", layers=[block], source="inspector"), plan(soft="fp32"))
    assert (found["soft"].precision, found["soft"].status) == (FP16, "overridden")


def test_10_names_kernels_by_metadata_and_dissolves_pairs():
    from tests.toolkit.backends.recorded_models import content
    from toolkit.backends.layers.inspector import read_layers

    q, qi = pair("x", scale=FLOAT)
    w, wi = weights("w", (8, 4, 3, 3), scale=FLOAT)
    nodes = [*q, *w, node("Conv", ["x_dq", "w_dq"], ["c"], "conv"), node("Relu", ["c"], ["r"], "relu"),
             node("Softmax", ["r"], ["y"], "softmax")]  # fmt: skip
    model = make(nodes, {"x": (FLOAT, [1, 4, 8, 8])}, {"y": (FLOAT, [1, 8, 6, 6])}, [*qi, *wi])
    layers = read_layers(content("dialect_10"))
    found = attributed(
        model, Build("tensorrt", engine=b"", layers=layers, source="inspector"), plan(conv="int8", softmax="fp16")
    )
    assert found["conv"].status == "honoured" and found["conv"].precision is INT8
    assert found["x/Q"].status == "honoured" and found["x/DQ"].status == "fused"
    assert found["x/DQ"].engine_layers == ("w + conv + relu",)
    assert found["softmax"].reason.values["precision"] == "bf16"
    reads = found["softmax"].reason.values["why"]
    assert reads.code is EngineCode.LAYER_READS and reads.values["types"] == ("bf16", "int64")
    assert reads.values["layer"] == "__myl_SofmFp8_myl0_1"


def test_without_formats_the_kernel_tells_then_the_weights():
    model = mnist()
    build = recorded("mnist_mixed_profile0")

    def blind(layer, **more):
        silent = tuple(replace(port, precision="", format="N/A due to dynamic shapes") for port in layer.inputs)
        return replace(layer, inputs=silent, outputs=(), **more)

    build.layers = [blind(layer) for layer in build.layers]
    found = attributed(model, build, plan(conv1="fp32"))
    assert (found["conv1"].precision, found["conv1"].source, found["conv1"].status) == (FP32, "tactic", "honoured")
    build.layers = [replace(layer, tactic="") for layer in build.layers]
    found = attributed(model, build)
    assert (found["conv2"].precision, found["conv2"].source) == (INT8, "weights")
    assert found["softmax"].status == "unknown" and found["softmax"].reason.code is EngineCode.TYPE_NOT_SHOWN


def test_pairs_that_did_not_fuse_are_kernels_of_their_own():
    q, qi = pair("x", scale=FLOAT)
    model = make([*q, node("Erf", ["x_dq"], ["y"], "erf")], {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])}, qi)
    layers = [
        Layer("x/Q", "Reformat", (Port("x", "fp32"),), (Port("x_q", "int8"),), origin="QDQ"),
        Layer("x/DQ", "Reformat", (Port("x_q", "int8"),), (Port("x_dq", "fp32"),), origin="QDQ"),
        Layer("erf", "Unary", (Port("x_dq", "fp32"),), (Port("y", "fp32"),)),
    ]
    found = attributed(model, Build("tensorrt", engine=b"", layers=layers, source="inspector"), plan(erf="int8"))
    assert found["x/DQ"].status == "honoured" and found["x/DQ"].reason == EngineCode.OWN_KERNEL()
    why = EngineCode.NO_QUANTIZED_KERNEL(op="Erf")
    assert found["erf"].reason == EngineCode.RUNS_IN(precision="fp32", why=why)


def test_the_engine_says_less_than_the_pairs_promise():
    q, qi = pair("x", scale=FLOAT)
    w, wi = weights("w", (4, 4, 1, 1), scale=FLOAT)
    nodes = [*q, *w, node("Conv", ["x_dq", "w_dq"], ["y"], "conv")]
    image = (FLOAT, [1, 4, 8, 8])
    model = make(nodes, {"x": image}, {"y": image}, [*qi, *wi])
    layers = [Layer("conv", "CaskConvolution", (Port("x", "fp32"),), (Port("y", "fp32"),), tactic="sm80_f32f32")]
    found = attributed(model, Build("tensorrt", engine=b"", layers=layers, source="inspector"), plan(conv="int8"))
    assert found["conv"].status == "overridden"
    taken = found["conv"].reason.values["why"]
    assert taken.code is EngineCode.FLOAT_KERNEL_TAKEN and taken.values["promised"].code is EngineCode.INPUTS_QUANTIZED
    assert (taken.values["precision"], taken.values["kernel"]) == ("fp32", "sm80_f32f32")


def test_constants_shapes_and_dead_ends():
    nodes = [node("Constant", [], ["k"], "constant", value=tensor("v", [1.0])), node("Neg", ["k"], ["n"], "folded"),
             node("Shape", ["x"], ["s"], "shape"), node("Identity", ["x"], ["i"], "identity"),
             node("Reshape", ["i", "s"], ["r"], "reshape"), node("Add", ["r", "n"], ["y"], "add")]  # fmt: skip
    model = make(nodes, {"x": (FLOAT, ["n"])}, {"y": (FLOAT, ["n"])})
    layers = [Layer("PWN(add)", "PointWiseV2", (Port("x", "fp32"),), (Port("y", "fp32"),))]
    found = attributed(model, Build("tensorrt", engine=b"", layers=layers, source="inspector"), plan(shape="fp16"))
    assert {n: found[n].status for n in ("folded", "add")} == {
        "folded": "removed", "add": "honoured",
    }  # fmt: skip
    assert found["reshape"].status == "fused" and found["shape"].precision is None
    assert statuses(found)["unknown"] == 0


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a", ["a"]), ("a + b", ["a", "b"]), ("a + x + c + d", ["a", "c + d"]), ("PWN(a, b)", ["a", "b"]),
        ("PWN(PWN(a), PWN(b))", ["a", "b"]), ("PWN(PWN(a), b) + c + d", ["a", "b", "c + d"]),
        ("PWN(f(1, 2), a)", ["f(1, 2)", "a"]), ("PWN(a) + PWN(b)", ["a", "b"]), ("PWN(", []), ("PWN()", []), ("", []), ("x + y", []),
        ("a[0] + b", ["a[0]", "b"]),
    ],
)  # fmt: skip
def test_a_fused_layers_name_is_taken_apart_into_its_nodes(name, parts):
    assert fused_names(name, {"a", "b", "c + d", "f(1, 2)", "a[0]"}) == parts
