"""Source models that are already quantized: with operators that TensorRT does not support, or with Q/DQ pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from toolkit.base.errors import ModelError
from toolkit.contract.findings import Code, Finding
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE

if TYPE_CHECKING:
    from toolkit.graph.model import Model

_INTEGER = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulInteger16",
        "MatMulIntegerToFloat",
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
    }
)
_NARROW = frozenset({"GatherBlockQuantized", "MatMulBnb4", "MatMulNBits", "QMoE"})
"""onnxruntime's operators with weights of few bits and float activations."""


def refuse_integer_operators(ops: Mapping[str, int], where: str) -> None:
    """Refuse a model with quantized operators of ONNX (QLinearConv) or onnxruntime (QGemm), or with onnxruntime's
    operators for narrow weights (MatMulNBits).

    TensorRT's parser supports none of them (onnx-tensorrt's docs/operators.md), and there is no float model to start
    from.

    Args:
        ops: the number of nodes by operator.
        where: the model, for the message.

    Raises:
        ModelError: it has such operators; the message names them.
    """
    narrow = {op: number for op, number in sorted(ops.items()) if op in _NARROW}
    found = {op: number for op, number in sorted(ops.items()) if op.startswith("QLinear") or op in _INTEGER}
    if found:
        listed = ", ".join(f"{op} {number}" for op, number in found.items())
        kind = "QLinear*" if any(op.startswith("QLinear") for op in found) else "integer"
        raise ModelError(
            f"this model is quantized with {kind} operators ({listed}), which TensorRT does not support",
            where=where,
            remedy="export the float model, or quantize it to Q/DQ pairs (onnxruntime: QuantFormat.QDQ)",
        )
    if narrow:
        listed = ", ".join(f"{op} {number}" for op, number in narrow.items())
        raise ModelError(
            "its weights are stored in a few bits and its activations are float: onnxruntime's operators for that "
            f"({listed}) are not supported by TensorRT",
            where=where,
            remedy="export the float model and give the pass that inserts pairs dtype = 'int4', or store the weights "
            "with DequantizeLinear (onnxruntime: quant_format = QuantFormat.QDQ, is_symmetric = True)",
        )


def quantized_nodes(model: Model) -> bool:
    """Whether a model has any QuantizeLinear or DequantizeLinear."""
    return any(node.op in (QUANTIZE, DEQUANTIZE) for node, _ in model.walk())


def pair_count(model: Model) -> int:
    """The number of Q/DQ pairs in a model, including constants that are stored quantized."""
    from toolkit.placement.existing import pairs_of

    return sum(1 for _ in pairs_of(model))


def quantized_source(model: Model, stripping: bool) -> Finding | None:
    """A note if results are compared with a model that has quantized values itself; else None.

    Args:
        model: the model that results are compared with.
        stripping: whether the recipe removes pairs; those left then could not or should not be removed.
    """
    from toolkit.placement.existing import half_pairs

    if not quantized_nodes(model):
        return None
    halves = [half.node.name for half in half_pairs(model)]
    pairs = pair_count(model)
    if not pairs and not halves:
        return None
    more = {"halves": halves} if halves else {}
    return Code.QUANTIZED_SOURCE(pairs=pairs, **more, **({"stripping": True} if stripping else {}))
