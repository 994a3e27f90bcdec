"""Placing pairs with block scales: on weights only (INT4), or on both operands (MXFP8, NVFP4)."""

from __future__ import annotations

from collections.abc import Callable

import onnx_graphsurgeon as gs

from toolkit.base.precision import Precision
from toolkit.contract.findings import Code, Finding
from toolkit.graph.model import Model
from toolkit.graph.shape_inference.facts import Facts
from toolkit.placement.dequantized import dequantizer
from toolkit.placement.obstacles import Obstacles
from toolkit.placement.ops import TARGETS
from toolkit.placement.pairs import Placement, Use, request_pair, skip_candidate

BLOCKS = (128, 64, 32, 16)
"""Block sizes for which TensorRT keeps weights packed (seen on RTX; with 256 it builds but does not pack)."""
RANKS = (2, 3)
"""Ranks of the activations that TensorRT quantizes in blocks."""


def place_blocks(
    model: Model,
    facts: Facts,
    judge: Callable[[gs.Node], Finding | str | None],
    obstacles: Obstacles,
    precision: Precision,
    block: int,
) -> Placement:
    """A pair on the constant weights of every MatMul and Gemm, with a scale for each block along the summed axis.

    If the type is not for weights only, the layer's input gets a pair too, whose block scales are computed at run
    time.

    Args:
        model: the graph; pairs that it already has are kept.
        judge: returns why a node stays as it is, or None.
        obstacles: finds what keeps a layer in float in any case.
        precision: the type that weights are stored in.
        block: how many values share a scale.
    """
    result = Placement(ranged=precision.ranged)
    main = {id(node) for node in model.nodes}
    for node, _ in model.walk():
        if node.op not in TARGETS:
            continue
        kept = (
            (None if id(node) in main else Code.SUBGRAPH())
            or judge(node)
            or _misfit(model, node, precision, block)
            or (None if precision.weights_only else _unread(facts, node, precision))
            or obstacles.of(node)
        )
        if kept is not None:
            skip_candidate(result, node, kept)
            continue
        code = Code.WEIGHTS_STORED if precision.weights_only else Code.IN_BLOCKS
        result.layers[node.name] = code(precision=precision, block=block)
        operands = (1,) if precision.weights_only else (0, 1)
        missing = [index for index in operands if dequantizer(node.inputs[index]) is None]
        result.groups[node.name] = [node.inputs[index].name for index in missing]
        if not missing:
            result.complete.append(node.name)
        for index in missing:
            reason = Code.OPERAND(weight=index == 1, op=node.op, node=node.name)
            axis, size = (summed_axis(node), block) if index == 1 else (None, 0)
            request_pair(result, node.inputs[index].name, Use(node.name, index), axis, index == 1, reason, size)
    return result


def summed_axis(node: gs.Node) -> int:
    """The axis of a MatMul's or Gemm's weight along which products are summed, and blocks lie."""
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
        fits = [] if precision.block else [one for one in BLOCKS if size % one == 0]
        return Code.BLOCK_DOES_NOT_DIVIDE(size=size, block=block, fits=fits)
    if precision.block == size:
        # seen on RTX 1.7.1: NVFP4 runs in float, MXFP8 fails in Myelin («operand.h:524: CHECK(is_constant())»), and at
        # batch 1 its parser refuses the scales of either
        return Code.ONE_BLOCK(size=size, precision=precision)
    return None


def _unread(facts: Facts, node: gs.Node, precision: Precision) -> Finding | None:
    """Why a layer's input cannot be quantized in blocks at run time.

    TensorRT's DynamicQuantize accepts tensors of rank 2 and 3 with blocks along one of the last two axes, whose size
    must be known when the engine is built (documentation of the operator).
    """
    rank = facts.rank(node.inputs[0].name)
    if rank not in RANKS:
        return Code.NO_BLOCKS_OF_RANK(tensor=node.inputs[0].name, rank=rank, precision=precision)
    if node.op == "Gemm" and node.attrs.get("transA", 0):
        return Code.NO_BLOCKS_ACROSS(precision=precision)
    return None
