"""What one walk finds in a message is what the walks that look for one thing each find."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, parser

from toolkit.graph.ort_forms.float32_twin import computes_in_bfloat16, has_other_types
from toolkit.graph.proto.nodes import operators_of
from toolkit.graph.proto.survey import Survey

_BODIES = {
    "cast": "c = Cast <to = 16> (x)\n y = Cast <to = 1> (c)",
    "stored": "c = Cast <to = 16> (x)\n s = Add (c, w)\n y = Cast <to = 1> (s)",
    "constant": "v = Constant <value = bfloat16[1] {1}> ()\n y = Cast <to = 1> (v)",
    "branch": "c = Constant <value = bool {1}> ()\n y = If (c) <then_branch = t () => (float[N] a) "
    "{ v = Constant <value = bfloat16[1] {1}> ()\n a = Cast <to = 1> (v) }, else_branch = e () => (float[N] b) "
    "{ b = Identity (x) }>",
    "plain": "y = Relu (x)",
}


def _model(body: str) -> onnx.ModelProto:
    stored = "<bfloat16[1] w = {1}>" if "w)" in body else ""
    text = f'<ir_version: 10, opset_import: ["": 21]> g (float[N] x) => (float[N] y) {stored} {{ {body} }}'
    return parser.parse_model(text)


@pytest.mark.parametrize("name", _BODIES)
def test_types_and_operators_are_found_wherever_they_are(name: str) -> None:
    proto = _model(_BODIES[name])

    found = Survey.of(proto)

    assert found.operators == operators_of(proto)
    assert (TensorProto.BFLOAT16 in found.types) is (name != "plain")
    assert has_other_types(found) or not computes_in_bfloat16(proto)
    assert TensorProto.FLOAT in found.types


def test_types_in_functions_and_sequences_are_found() -> None:
    proto = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21, "own": 1]> g (seq(bfloat16[N]) x) => (float[N] y) '
        '{ y = own.Widen (x) } <domain: "own", opset_import: ["": 21]> Widen (a) => (b) '
        "{ i = Constant <value_int = 0> ()\n s = SequenceAt (a, i)\n b = Cast <to = 11> (s) }"
    )

    found = Survey.of(proto)

    assert found.operators == {("own", "Widen")}
    assert {TensorProto.BFLOAT16, TensorProto.DOUBLE} <= found.types
