"""What is connected to what, with pairs and Casts folded into marks."""

from tests.toolkit.report.samples import MODEL, build
from toolkit.report.schema import LayerInfo, TensorInfo
from toolkit.report.wiring import Mark, wiring


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
    # a pair's two halves are drawn in front of the Conv, the last Cast behind the Softmax
    assert found.readers == {0: 3, 1: 3, 2: 3, 4: 5, 7: 5}


def test_a_report_whose_layers_name_no_tensors_has_no_connections():
    found = wiring(report([layer("a", "Conv", [], []), layer("q", "QuantizeLinear", [], [], "convert")], []))
    assert not found.connections and not found.weights and not found.readers
