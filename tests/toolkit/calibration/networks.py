"""Small models written as ONNX text, for the calibration and data tests."""

from __future__ import annotations

import onnx

from toolkit.graph.model import Model


def model(text: str) -> Model:
    return Model.from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}'))


def chain() -> Model:
    """Values go through exact operations only, so that tensors are the same bit for bit in any batch."""
    return model(
        """
        g (float[batch, 3, width] x) => (float[batch, 3, width] y)
        <float two = {2.0}, float[1, 3, 1] offset = {-1.0, 0.0, 4.0}>
        {
            doubled = Mul(x, two)
            moved = Add(x, offset)
            kept = Relu(moved)
            low = Neg(kept)
            y = Add(doubled, low)
        }"""
    )


def sentences() -> Model:
    """Two inputs that share a dimension, one the mask of the other; a table that no sample's values reach."""
    return model(
        """
        g (int64[batch, length] ids, int64[batch, length] mask) => (float[batch, length] y)
        <float[8] table = {0, 10, 20, 30, 40, 50, 60, 70}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}>
        {
            shape = Shape(ids)
            length = Slice(shape, one, two)
            places = Slice(table, zero, length)
            wide = Cast <to = 1> (ids)
            held = Cast <to = 1> (mask)
            masked = Mul(wide, held)
            y = Add(masked, places)
        }"""
    )


def fixed(batch: int) -> Model:
    return model(f"g (float[{batch}, 2] x) => (float[{batch}, 2] y) {{ y = Relu(x) }}")
