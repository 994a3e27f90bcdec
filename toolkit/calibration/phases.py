"""Arguments of periodic functions for which a 16-bit float type is too coarse: large positions or times.

The spacing of float values grows with their magnitude, and a periodic function turns it into an error of the same size:
at 2000, float16 values are 1 apart, a sixth of a sine's period.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import onnx_graphsurgeon as gs

from toolkit.base.parts import ends_of
from toolkit.base.precision import Precision
from toolkit.calibration.codes import PhaseCode
from toolkit.contract.findings import Finding
from toolkit.graph.model import Model
from toolkit.graph.proto.nodes import ONNX_DOMAINS
from toolkit.graph.shape_inference.facts import Facts
from toolkit.placement.ops import MOVERS

_PERIODS = {"Sin": 2 * math.pi, "Cos": 2 * math.pi, "Tan": math.pi}
_STEPS = 64
"""A period of fewer steps than this is too coarse. With this many, rounding the argument leaves a sine 28 dB SQNR: an
error of a step over the square root of 12, against a sine's mean square of a half."""
_PRODUCTS = frozenset({"MatMul", "Gemm"})
_CARRIES = MOVERS | _PRODUCTS | {"Add", "Sub", "Mul", "Div", "Neg", "Abs", "Cast", "Concat", "Einsum", "Where", "Range",
                                 "CumSum", "Clip", "ScatterND", "Mod"}  # fmt: skip
"""Operators whose result has the relative error of their input."""
_LAYER = 4
"""A MatMul that sums more terms is a layer of the network, whose inputs are activations and not positions."""


def coarse_phases(
    model: Model, facts: Facts, observed: Mapping[str, tuple[float, float]], precision: Precision, margin: float
) -> dict[str, Finding]:
    """Why nodes need a finer type than ``precision``, by name: periodic functions of large arguments, and the nodes
    that compute these arguments.

    Args:
        observed: smallest and largest value seen, by tensor.
        precision: FP16 or BF16.
        margin: safety factor on the observed arguments.
    """
    found: dict[str, Finding] = {}
    for node in model.nodes:
        period = _period(node, model) if node.domain in ONNX_DOMAINS and node.inputs else None
        argument = node.inputs[0].name if period else ""
        if period is None or argument not in observed or not facts.is_float(argument):
            continue
        largest = max(map(abs, observed[argument]))
        if not 0 < largest < math.inf:
            continue
        step = spacing(largest * margin, precision)
        if step * _STEPS <= period:
            continue
        values = {
            "op": node.op, "tensor": argument, "value": largest, "step": step, "period": period, "precision": precision
        }  # fmt: skip
        found[node.name] = PhaseCode.COARSE(**values)
        for maker in _makers(node, facts):
            found.setdefault(maker.name, PhaseCode.MAKES_IT(**values, reader=node.name))
    return found


def spacing(value: float, precision: Precision) -> float:
    """The spacing of a 16-bit float type's values around a normal positive value."""
    return float(2.0 ** (math.floor(math.log2(value)) - (10 if precision is Precision.FP16 else 7)))


def _period(node: gs.Node, model: Model) -> float | None:
    """The period of a node's function; None if it is not periodic."""
    if node.op != "Mod" or len(node.inputs) < 2:
        return _PERIODS.get(node.op)
    divisor = model.constant(node.inputs[1])
    ends = ends_of(divisor) if divisor is not None and divisor.size else None
    return max(map(abs, ends)) or None if ends is not None else None


def _makers(node: gs.Node, facts: Facts) -> Iterator[gs.Node]:
    """The nodes whose rounding error reaches a node's first input unchanged, nearest first."""
    seen, pending = {node.name}, [node.inputs[0]]
    while pending:
        for maker in pending.pop().inputs:
            if maker.name in seen or maker.domain not in ONNX_DOMAINS or maker.op not in _CARRIES:
                continue
            seen.add(maker.name)
            yield maker
            if maker.op not in _PRODUCTS or _terms(maker, facts) <= _LAYER:
                pending += [tensor for tensor in maker.inputs if facts.is_float(tensor.name)]


def _terms(node: gs.Node, facts: Facts) -> int:
    """How many terms a MatMul sums for one value; a large number if that is not known."""
    first, second = (facts.shapes.get(tensor.name) for tensor in node.inputs[:2])
    turned = [bool(node.op == "Gemm" and node.attrs.get(name, 0)) for name in ("transA", "transB")]
    known = [
        shapes[-1][place]
        for shapes, place in ((first, -2 if turned[0] else -1), (second, -1 if turned[1] else -2))
        if shapes and len(shapes[-1]) >= 2 and shapes[-1][place] >= 0
    ]
    return int(known[0]) if known else _LAYER + 1
