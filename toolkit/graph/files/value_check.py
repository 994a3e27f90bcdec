"""Check of constants that would invalidate every result: NaN in weights, invalid scales."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from toolkit.base.errors import ModelError
from toolkit.base.mapped import was_read
from toolkit.base.text import count
from toolkit.base.types import Array
from toolkit.graph.proto.light import LightModel, is_detached
from toolkit.graph.proto.nodes import all_nodes, node_words
from toolkit.graph.proto.stored import constants_of
from toolkit.graph.proto.strangers import operator_of

_FLOATS: Mapping[int, Any] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.FLOAT16: np.float16,
}
_PIECE = 1 << 22
SCALED = ("QuantizeLinear", "DequantizeLinear")
"""Operators whose second input is a scale."""
_PASSING_NAN_ON = ("Where", "IsNaN", "IsInf", "Equal", "Not")
"""Operators that select or compare: a NaN among their constants need not reach the output."""
_WEIGHTED = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1), "BatchNormalization": (1, 2, 3, 4),
    "LayerNormalization": (1, 2), "InstanceNormalization": (1, 2), "GroupNormalization": (1, 2),
    "LSTM": (1, 2, 3, 5, 6, 7), "GRU": (1, 2, 3, 5), "RNN": (1, 2, 3, 5), "PRelu": (1,), "Gather": (0,),
}  # fmt: skip
"""Weight inputs by operator: infinities are as bad as NaN there, whereas masks may contain them."""


def check_values(model: LightModel) -> None:
    """Check the constants that nodes read: no NaN, no infinite weights, and positive scales of Q/DQ nodes.

    Args:
        model: the model with its external data.

    Raises:
        ModelError: a constant is invalid; the message names tensor and node.
    """
    proto, where, weights = model.proto, model.where, model.weights
    for body in (proto.graph, *proto.functions):
        known = dict(constants_of(body))
        verdicts: dict[str, tuple[int, int]] = {}
        for node in all_nodes(body.node):
            op = operator_of(node)
            for index, name in enumerate(node.input):
                tensor = known.get(name)
                if tensor is None or tensor.data_type not in (*_FLOATS, TensorProto.BFLOAT16):
                    continue
                beside = weights.get(name) if is_detached(tensor) else None
                if name not in verdicts:
                    verdicts[name] = _not_finite(tensor, beside)
                nan, infinite = verdicts[name]
                if index == 1 and op in SCALED:
                    _check_scale(node, tensor, beside, where)
                elif (nan and op not in _PASSING_NAN_ON) or (infinite and index in _WEIGHTED.get(op, ())):
                    what = f"{nan:,} NaN" if nan else count(infinite, "infinite value")
                    raise ModelError(
                        f"tensor '{name}' of {node_words(node)} holds {what}",
                        where=where,
                        remedy="repair the weights: whatever is computed with them is meaningless",
                    )


def _check_scale(node: onnx.NodeProto, tensor: TensorProto, beside: Array | None, where: str) -> None:
    for values in _pieces(tensor, beside):
        wrong = values[~((values > 0) & np.isfinite(values))]
        if wrong.size:
            raise ModelError(
                f"{node_words(node)} has the scale {wrong[0]:g} in tensor '{node.input[1]}'",
                where=where,
                remedy="a scale is a positive number: export the model again, or remove the pair",
            )


def _not_finite(tensor: TensorProto, beside: Array | None) -> tuple[int, int]:
    """The numbers of NaN and of infinite values; ``beside`` has the values if they are not in the message."""
    nan = infinite = 0
    for values in _pieces(tensor, beside):
        finite = np.isfinite(values)
        if not finite.all():
            nan += int(np.isnan(values).sum())
            infinite += int(np.isinf(values).sum())
    return nan, infinite


def _pieces(tensor: TensorProto, beside: Array | None) -> Iterator[np.ndarray[Any, Any]]:
    """The values in pieces of a few million, so that a large tensor is not copied as a whole."""
    if beside is None and tensor.data_type in _FLOATS and tensor.HasField("raw_data"):
        beside = np.frombuffer(tensor.raw_data, np.dtype(_FLOATS[tensor.data_type]).newbyteorder("<"))
    flat = (onnx.numpy_helper.to_array(tensor) if beside is None else beside).reshape(-1)
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE]
        yield _wide(piece)
        was_read(piece.nbytes)


def _wide(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """bfloat16, which is not a numpy type, as float32."""
    return values.astype(np.float32) if values.dtype.kind not in "f" else values
