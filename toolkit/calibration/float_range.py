"""Which nodes a 16-bit float type is too narrow or too coarse for, by observed values and weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs

from toolkit.base.parts import ends_of
from toolkit.base.precision import Precision
from toolkit.calibration.codes import PhaseCode
from toolkit.calibration.phases import coarse_phases, spacing
from toolkit.contract.findings import Code, Finding
from toolkit.graph.layers.macs import shape_of
from toolkit.graph.model import Model
from toolkit.graph.shape_inference.facts import Facts
from toolkit.placement.moved import with_moved
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE

NORMS = frozenset(
    {"LayerNormalization", "InstanceNormalization", "GroupNormalization", "LpNormalization", "RMSNormalization"}
)
REDUCTIONS = frozenset({"ReduceMean", "ReduceSum", "ReduceL1", "ReduceSumSquare", "ReduceL2", "ReduceLogSumExp",
                        "GlobalAveragePool", "AveragePool", "CumSum"})  # fmt: skip
SQUARES = frozenset({"ReduceSumSquare", "ReduceL2"})
_NEAR_ZERO = frozenset({"Log", "Pow", "Reciprocal", "Sqrt"})
"""Operators whose result depends on how close to zero their input is, such as Div's divisor."""
_RESOLUTION = 0.5
Observed = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Risk:
    """A node whose values overflow, underflow or lose too many digits in a 16-bit float type.

    Attributes:
        node: its name.
        why: a finding of code OVERFLOW, INNER_OVERFLOW, SUBNORMAL, VANISHING_CONSTANT or RESOLUTION, with the
            ``tensor`` and ``value`` that show it, and the ``limit`` of what the type can carry there; or of PhaseCode.
    """

    node: str
    why: Finding

    @property
    def fine(self) -> bool:
        """Whether the type has too few digits for the node, so that no type with as few will do, whatever its range."""
        return self.why.code is Code.RESOLUTION or isinstance(self.why.code, PhaseCode)


def precision_risks(
    model: Model, facts: Facts, observed: Observed, precision: Precision = Precision.FP16, margin: float = 2.0
) -> list[Risk]:
    """The nodes that need a wider type than ``precision``, each with the value that shows it, in graph order.

    Args:
        facts: types, and shapes where reductions are to be judged by how much they add.
        observed: smallest and largest value seen, by tensor.
        precision: FP16 or BF16.
        margin: how far above the observed values future inputs may lie: a value counts as ``margin`` times itself.
    """
    observed, found = with_moved(model, observed), []
    phases = coarse_phases(model, facts, observed, precision, margin)
    for node in model.nodes:
        if node.op in (QUANTIZE, DEQUANTIZE, "Constant") or not _computes_floats(node, facts):
            continue
        risk = next(_of(node, model, facts, observed, precision, margin), None)
        if node.name in phases and (risk is None or not risk.fine):
            # a type with more range but fewer digits would not help
            risk = Risk(node.name, phases[node.name])
        if risk is not None:
            found.append(risk)
    return found


def _computes_floats(node: gs.Node, facts: Facts) -> bool:
    return any(facts.is_float(t.name) for t in (*node.inputs, *node.outputs))


def _of(
    node: gs.Node, model: Model, facts: Facts, observed: Observed, precision: Precision, margin: float
) -> Iterator[Risk]:
    limit = precision.max
    for index, tensor in enumerate(node.inputs):
        values = model.constant(tensor) if facts.is_float(tensor.name) else None
        if values is None or not values.size or (node.op == "Clip" and index > 0):
            continue
        largest = max(map(abs, ends_of(values) or (0.0,)))
        if largest > limit:
            yield _risk(Code.OVERFLOW, node, tensor.name, largest, limit, precision, constant=True)
        elif 0 < largest < precision.tiny and not _harmless(node, index, largest, observed, precision):
            yield _risk(Code.VANISHING_CONSTANT, node, tensor.name, largest, precision.tiny, precision)
    for tensor in (*node.outputs, *node.inputs):
        if tensor.name not in observed or not facts.is_float(tensor.name):
            continue
        low, high = observed[tensor.name]
        largest = max(abs(low), abs(high))
        if largest * margin > limit:
            yield _risk(Code.OVERFLOW, node, tensor.name, largest, limit, precision, constant=False)
        if 0 < largest < precision.tiny:
            yield _risk(Code.SUBNORMAL, node, tensor.name, largest, precision.tiny, precision)
    yield from _inside(node, facts, observed, precision, margin)


def _harmless(node: gs.Node, index: int, largest: float, observed: Observed, precision: Precision) -> bool:
    """Whether an addend of magnitude ``largest`` at most, such as an epsilon or a bias, may underflow.

    It may if what it is added to stays clear of zero; or if it is less than half a step of the largest sum, and no
    reader of the sum depends on how close to zero that is.
    """
    bias = index == 2 and node.op in ("Conv", "ConvTranspose", "Gemm")
    if not bias and node.op not in ("Add", "Sub", "Max", "Clip"):
        return False
    out = node.outputs[0]
    # values after a Relu or Clip were in the sum, which itself is not observed
    seen = [out.name, *(reader.outputs[0].name for reader in out.outputs if reader.op in ("Relu", "Clip"))]
    most = max((abs(value) for name in seen for value in observed.get(name, ())), default=0.0)
    close = any(one.op in _NEAR_ZERO or (one.op == "Div" and one.inputs[1] is out) for one in out.outputs)
    if not close and largest < most * _half_step(precision):
        return True
    return not bias and all(
        t.name in observed and (observed[t.name][0] >= precision.tiny or observed[t.name][1] <= -precision.tiny)
        for position, t in enumerate(node.inputs)
        if position != index
    )


def _half_step(precision: Precision) -> float:
    """Half the largest relative distance of neighbouring values."""
    return spacing(1.0, precision) / 2


def _inside(node: gs.Node, facts: Facts, observed: Observed, precision: Precision, margin: float) -> Iterator[Risk]:
    """Risks of values inside a node: squares of a normalization, sums of a reduction, exponentials of a softmax."""
    if not node.inputs or node.inputs[0].name not in observed:
        return
    tensor = node.inputs[0].name
    low, high = observed[tensor]
    largest = max(abs(low), abs(high))
    limit = precision.max
    if (node.op in NORMS or node.op in SQUARES) and (largest * margin) ** 2 > limit:
        yield _risk(Code.INNER_OVERFLOW, node, tensor, largest**2, limit, precision, op=node.op)
    out = node.outputs[0].name
    if node.op in REDUCTIONS and out in observed:
        count = _reduced(node, facts)
        mean = node.op in ("ReduceMean", "GlobalAveragePool", "AveragePool")
        total = max(abs(v) for v in observed[out]) * (count if mean else 1)
        if total * margin > limit:
            yield _risk(Code.INNER_OVERFLOW, node, out, total, limit, precision, op=node.op, summed=count)
    if node.op in ("Softmax", "LogSoftmax") and high > 0:
        # only the largest scores matter: a mask of -10000 is far below them, and its rounding has no effect
        step = spacing(high, precision)
        if step > _RESOLUTION:
            yield _risk(Code.RESOLUTION, node, tensor, high, _RESOLUTION, precision, step=step)


def _reduced(node: gs.Node, facts: Facts) -> int:
    """How many values a reduction combines into one; 1 if the shapes are not known."""
    before, after = shape_of(facts, node.inputs[0].name), shape_of(facts, node.outputs[0].name)
    if before is None or after is None:
        return 1
    if node.op == "AveragePool":
        return math.prod(node.attrs.get("kernel_shape", [1]))
    return max(1, math.prod(before) // max(math.prod(after), 1))


def _risk(
    code: Code, node: gs.Node, tensor: str, value: float, limit: float, precision: Precision, **more: Any
) -> Risk:
    return Risk(node.name, code(tensor=tensor, value=value, limit=limit, precision=precision, **more))
