"""A layer's channels, whatever its operator and the layout of its weight."""

from __future__ import annotations

import math
import re

import onnx
import pytest

from toolkit import LayerWeights, Model, ModelError

LAYERS = {
    "Conv": ("float[N,4,6,6] x", "float[N,10,6,6] y", "float[10,2,1,1] w", "Conv <group = 2> (x, w)"),
    "ConvTranspose": ("float[N,4,6,6] x", "float[N,10,6,6] y", "float[4,5,1,1] w", "ConvTranspose <group = 2> (x, w)"),
    "Gemm": ("float[N,4] x", "float[N,10] y", "float[4,10] w", "Gemm (x, w)"),
    "transposed Gemm": ("float[N,4] x", "float[N,10] y", "float[10,4] w", "Gemm <transB = 1> (x, w)"),
    "MatMul": ("float[N,3,4] x", "float[N,3,10] y", "float[4,10] w", "MatMul (x, w)"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_channels_are_counted_as_the_layer_computes_them(name):
    given, result, weight, call = LAYERS[name]
    sizes = re.findall(r"\d+", weight.partition("[")[2])
    ones = ", ".join(["1"] * math.prod(map(int, sizes)))
    text = (
        f'<ir_version: 8, opset_import: ["" : 17]> g ({given}) => ({result}) <{weight} = {{{ones}}}> {{ y = {call} }}'
    )
    proto = onnx.parser.parse_model(text)
    onnx.checker.check_model(proto, full_check=True)
    model = Model.from_proto(proto)
    assert LayerWeights.channels(model, model.nodes[0]) == (10, 4)


def test_a_weight_behind_a_pair_is_refused_with_the_node_and_the_remedy():
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,2] y)
    <float[2,2] w = {1, 2, 3, 4}, float s = {0.1}, int8 z = {0}>
    { q = QuantizeLinear (w, s, z) d = DequantizeLinear (q, s, z) y = Gemm (x, d) }"""
    model = Model.from_proto(onnx.parser.parse_model(text))
    for read in (lambda: LayerWeights(model, model.nodes[-1]), lambda: LayerWeights.channels(model, model.nodes[-1])):
        with pytest.raises(ModelError, match=r"the weight of node 'Gemm_y' \(Gemm\) is no constant.*Q/DQ pair"):
            read()
