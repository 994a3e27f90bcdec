"""Where pairs go that store weights alone in few bits, while their layers compute in floats."""

from __future__ import annotations

from collections.abc import Callable

import onnx_graphsurgeon as gs

from toolkit.base.precision import Precision
from toolkit.contract.findings import Code, Finding
from toolkit.graph.model import Model
from toolkit.placement.dequantized import dequantizer
from toolkit.placement.ops import TARGETS
from toolkit.placement.pairs import Placement, Use, refuse, want
from toolkit.placement.trouble import Trouble

BLOCKS = (128, 64, 32, 16)
"""Sizes of blocks in which TensorRT keeps weights packed (seen on RTX; 256 builds and is not packed)."""


def place_weights(
    model: Model, judge: Callable[[gs.Node], Finding | str | None], trouble: Trouble, precision: Precision, block: int
) -> Placement:
    """A pair on the constant weights of every MatMul and Gemm, with a scale for each block along the summed axis.

    Args:
        model: the graph; pairs that it already has are kept.
        judge: says for a node why it stays as it is, or None.
        trouble: what keeps a layer float in any case.
        precision: the type that weights are stored in.
        block: how many weights share a scale.
    """
    result = Placement()
    main = {id(node) for node in model.nodes}
    for node, _ in model.walk():
        if node.op not in TARGETS:
            continue
        kept = (
            (None if id(node) in main else Code.SUBGRAPH())
            or judge(node)
            or _misfit(model, node, precision, block)
            or trouble.of(node)
        )
        if kept is not None:
            refuse(result, node, kept)
            continue
        result.layers[node.name] = Code.WEIGHTS_STORED(precision=precision, block=block)
        result.groups[node.name] = []
        if dequantizer(node.inputs[1]) is not None:
            result.complete.append(node.name)
            continue
        tensor = node.inputs[1].name
        reason = Code.OPERAND(weight=True, op=node.op, node=node.name)
        want(result, tensor, Use(node.name, 1), summed_axis(node), True, reason, block)
        result.groups[node.name].append(tensor)
    return result


def summed_axis(node: gs.Node) -> int:
    """The axis of a MatMul's or Gemm's weight along which products are summed: that of the blocks."""
    return 1 if node.op == "Gemm" and node.attrs.get("transB", 0) else 0


def _misfit(model: Model, node: gs.Node, precision: Precision, block: int) -> Finding | None:
    """Why a layer's weights cannot be stored in blocks."""
    if node.op not in ("MatMul", "Gemm"):
        return Code.NO_BLOCKS_IN(op=node.op, precision=precision)
    if len(node.inputs) < 2 or dequantizer(node.inputs[1]) is not None:
        return None
    values = model.constant(node.inputs[1])
    if values is None or values.ndim != 2:
        return Code.NO_WEIGHT_MATRIX(precision=precision, rank=None if values is None else values.ndim)
    size = values.shape[summed_axis(node)]
    if size % block:
        return Code.BLOCK_DOES_NOT_DIVIDE(size=size, block=block, fits=[one for one in BLOCKS if size % one == 0])
    return None
