"""Operators that ONNX has in its own domains: those of today, not of when somebody first asked."""

from __future__ import annotations

import onnx
import pytest

from toolkit.graph.sessions.foreign import similar_ops
from toolkit.graph.surgery.opset import is_foreign


@pytest.mark.parametrize(
    ("domain", "op", "foreign"),
    [
        ("", "Conv", False),
        ("ai.onnx", "Upsample", False),
        ("", "EfficientNMS_TRT", True),
        ("ai.onnx.ml", "Scaler", False),
        ("ai.onnx.ml", "Conv", True),
        ("ai.onnx.contrib", "Conv", False),
        ("com.mine", "Conv", False),
    ],
)
def test_onnx_has_what_its_own_domains_have(domain, op, foreign):
    assert is_foreign(domain, op) is foreign


def test_an_operator_that_is_registered_later_is_known_and_forgotten_again():
    assert is_foreign("", "MyOwnRelu") and "MyOwnRelu" not in similar_ops("", "MyOwnRelus")
    schema = onnx.defs.OpSchema("MyOwnRelu", "", 1, inputs=[], outputs=[])
    onnx.defs.register_schema(schema)
    try:
        assert not is_foreign("", "MyOwnRelu") and "MyOwnRelu" in similar_ops("", "MyOwnRelus")
    finally:
        onnx.defs.deregister_schema("MyOwnRelu", 1, "")
    assert is_foreign("", "MyOwnRelu")


def test_registering_an_operator_does_not_make_a_domain_onnxs():
    onnx.defs.register_schema(onnx.defs.OpSchema("Foo", "com.mine", 1, inputs=[], outputs=[]))
    try:
        assert not is_foreign("com.mine", "Bar")
    finally:
        onnx.defs.deregister_schema("Foo", 1, "com.mine")
