"""Names and sentences as they are shown."""

from __future__ import annotations

from toolkit.base.text import on_one_line
from toolkit.graph.sessions.ort_session import explained


def test_a_long_text_keeps_its_end_where_the_cause_stands():
    words = (
        "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : "
        + "while running /some/node " * 40
        + "ScatterElements(18): no reduction"
    )
    assert on_one_line("a\n b") == "a b" and on_one_line("x" * 400) == "x" * 400
    short = on_one_line(words)
    assert len(short) <= 400 and short.startswith("[ONNXRuntimeError]") and short.endswith("(18): no reduction")
    error = explained(RuntimeError(words), "onnxruntime cannot run the model", "m.onnx")
    assert error.what.endswith("ScatterElements(18): no reduction")
