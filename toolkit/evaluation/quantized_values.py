"""The floats that quantized values stand for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toolkit.base.types import Array


def dequantized(values: Array, by: Sequence[float] | None) -> Array:
    """The floats that values q stand for, float32: (q - zero point) * scale (ONNX, DequantizeLinear).

    Args:
        values: of any shape.
        by: their scale and zero point; None for values that are not quantized, which are returned as they are.
    """
    return values if by is None else (np.asarray(values, np.float32) - np.float32(by[1])) * np.float32(by[0])
