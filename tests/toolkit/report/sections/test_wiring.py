"""What is connected to what, with pairs and Casts folded into marks."""

import onnx

from tests.toolkit.report import unpacked
from tests.toolkit.report.samples import MODEL, build
from toolkit.graph.model import Model
from toolkit.graph.surgery.assemble import body_initial_inputs, body_outputs
from toolkit.report.page.page_data import page_data
from toolkit.report.schema.report import LayerInfo, TensorInfo
from toolkit.report.sections.wiring import Mark, on_data, wiring


def layer(node, op, reads, makes, role="compute"):
    return LayerInfo(node=node, op=op, role=role, inputs=reads, outputs=makes)


def report(layers, outputs):
    model = MODEL.model_copy(update={"outputs": [TensorInfo(name=name) for name in outputs]})
    return build(layers, None, model=model)


def test_pairs_and_casts_become_marks():
    layers = [
        layer("q", "QuantizeLinear", ["image", "s"], ["image_q"], "convert"),
        layer("dq", "DequantizeLinear", ["image_q", "s"], ["image_dq"], "convert"),
        layer("wdq", "DequantizeLinear", ["w_q", "ws"], ["w"], "convert"),
        layer("conv", "Conv", ["image_dq", "w"], ["c"]),
        layer("cast", "Cast", ["c"], ["c32"], "convert"),
        layer("soft", "Softmax", ["c32"], ["p32"]),
        layer("add", "Add", ["c", "image"], ["sum"]),
        layer("back", "Cast", ["p32"], ["p"], "convert"),
    ]
    found = wiring(report(layers, ["p", "sum", "nobody"]))
    assert [(one.source, one.target, one.tensor, one.carried, one.marks) for one in found.connections] == [
        (-1, 3, "image", "image_q", Mark.PAIR),
        (3, 5, "c", "c32", Mark.CAST),
        (3, 6, "c", "c", Mark(0)),
        (-1, 6, "image", "image", Mark(0)),
        (5, -1, "p32", "p", Mark.CAST),
        (6, -1, "sum", "sum", Mark(0)),
    ]
    assert found.outputs == ["p", "sum"]
    assert [(one.target, one.tensor, one.carried, one.marks) for one in found.weights] == [(3, "w_q", "w_q", Mark.PAIR)]
    # a pair's two halves are drawn before the Conv, the last Cast after the Softmax
    assert found.readers == {0: 3, 1: 3, 2: 3, 4: 5, 7: 5}


def test_a_report_whose_layers_name_no_tensors_has_no_connections():
    found = wiring(report([layer("a", "Conv", [], []), layer("q", "QuantizeLinear", [], [], "convert")], []))
    assert not found.connections and not found.weights and not found.readers


def edges(layers, found):
    """Maker, reader and tensor of every connection, by name."""
    name = lambda index: layers[index].node if index >= 0 else "-"  # noqa: E731
    return {(name(one.source), name(one.target), one.tensor) for one in found.connections}


def test_branches_lead_into_their_node_and_bodies_begin_where_their_loop_does():
    layers = [
        layer("stem", "Conv", ["image", "w"], ["s"]),
        layer("route", "If", ["cond", "s"], ["r"]),
        layer("left", "Relu", ["s"], ["l"]),
        layer("right", "Cast", ["s"], ["rt"], "convert"),
        layer("loop", "Loop", ["n", "go", "r", "state"], ["out"]),
        layer("to", "Cast", ["state"], ["state32"], "convert"),
        layer("step", "Gemm", ["state32", "v"], ["next"]),
    ]
    layers[1].ends = ["l", "rt"]
    layers[4].begins, layers[4].ends = {"i": "n", "more": "go", "state": "r"}, ["more", "next"]
    found = wiring(report(layers, ["out"]))
    assert edges(layers, found) == {
        ("-", "stem", "image"), ("stem", "route", "s"), ("stem", "left", "s"), ("left", "route", "l"),
        ("route", "loop", "r"), ("route", "step", "r"), ("step", "loop", "next"), ("loop", "-", "out"),
    }  # fmt: skip
    marks = {(one.source, one.target, one.carried): one.marks for one in found.connections}
    # what lies between is a mark inside the branch, and inside the body
    assert marks[0, 1, "rt"] == marks[1, 6, "state32"] == Mark.CAST
    assert {(one.target, one.tensor) for one in found.weights} == {(0, "w"), (1, "cond"), (4, "n"), (4, "go"), (6, "v")}


def test_a_nodes_bodies_name_what_they_begin_as_and_give():
    graph = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[2] x, int64 n, bool go) => (float[2] y) {
        y = Loop(n, go, x) <body = b (int64 i, bool more, float[2] state) => (bool again, float[2] next)
            { again = Identity(more) next = Add(state, x) }>
    }"""
    (loop,) = [node for node in Model.from_proto(onnx.parser.parse_model(graph)).nodes if node.op == "Loop"]
    assert body_initial_inputs(loop) == {"i": "n", "more": "go", "state": "x"}
    assert body_outputs(loop) == ["again", "next"]


def test_what_hands_tokens_on_is_drawn_and_the_arithmetic_of_sizes_is_not():
    layers = [
        layer("first", "Gather", ["image", "zero"], ["id"], "other"),
        layer("embed", "Gather", ["table", "id"], ["e"]),
        layer("shape", "Shape", ["image"], ["size"], "other"),
        layer("many", "Gather", ["size", "zero"], ["m"], "other"),
        layer("turn", "Reshape", ["e", "m"], ["t"]),
        layer("unread", "Add", ["image", "one"], ["u"], "other"),
    ]
    assert on_data(layers, wiring(report(layers, ["t"]))) == {0}
    made = page_data(report(layers, ["t"]))
    assert unpacked.column(made, made["layers"]["role"]) == ["data", "compute", "other", "other", "compute", "other"]


def test_what_a_detector_selects_by_is_drawn_up_to_the_outputs():
    """Indices come out of a layer that computes in floats, and classes are an output of integers."""
    layers = [
        layer("nms", "NonMaxSuppression", ["image", "scores"], ["selected"]),
        layer("box", "Gather", ["selected", "two"], ["index"], "other"),
        layer("class", "Gather", ["selected", "one"], ["classes"], "other"),
        layer("boxes", "Gather", ["image", "index"], ["kept"]),
        layer("size", "Shape", ["kept"], ["count"], "other"),
        layer("rows", "Gather", ["count", "zero"], ["number"], "other"),
    ]
    # how many there are is arithmetic of sizes, though an output says it
    assert on_data(layers, wiring(report(layers, ["classes", "kept", "number"]))) == {1, 2}
