"""Digests of arrays, and what lies upstream of a tensor."""

from __future__ import annotations

import numpy as np
import onnx

from toolkit.graph.model import Model
from toolkit.graph.surgery.tensors import arrays_digest, upstream


def test_a_digest_is_of_strings_and_not_of_where_they_lie_in_memory() -> None:
    letters = ["a", "b"]
    one, same, other = (np.array(["".join(letters), word], object) for word in ("c d", " ".join("cd"), "ce"))
    assert one[0] is not same[0]
    assert arrays_digest({"x": one}) == arrays_digest({"x": same}) != arrays_digest({"x": other})


def test_a_digest_tells_names_types_and_shapes_apart() -> None:
    values = np.zeros((2, 3), np.float32)
    forms = ({"x": values}, {"y": values}, {"x": values.reshape(3, 2)}, {"x": values.view(np.int32)}, {})
    assert len({arrays_digest(form) for form in forms}) == len(forms)
    assert arrays_digest({"x": values, "y": values + 1}) == arrays_digest({"y": values + 1, "x": values})


def test_upstream_follows_first_inputs_as_far_as_the_operators_go() -> None:
    model = Model.from_proto(
        onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        agraph (float[2, 3] x) => (float[3, 2] y)
        {
            r = Relu (x)
            c = Cast <to = 1> (r)
            y = Transpose (c)
        }""")
    )
    output = model.graph.outputs[0]
    assert upstream(output, {"Transpose", "Cast"}).name == "r"
    assert upstream(output, {"Transpose", "Cast", "Relu"}).name == "x"
    assert upstream(output, {"Cast"}) is output
