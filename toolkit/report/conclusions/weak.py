"""Why the layers where the error arises lose accuracy, from their ranges and weights, without running anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from toolkit.base.precision import Precision
from toolkit.calibration.diagnosis import unlike_profiles
from toolkit.contract.ranges import Range, Ranges
from toolkit.contract.roles import Harm
from toolkit.evaluation.comparison.clipping import ClippedTensor
from toolkit.graph.layers.layer_weights import LayerWeights
from toolkit.graph.model import Model
from toolkit.placement.existing import pairs_of
from toolkit.placement.ops import TARGETS, weight_axis
from toolkit.placement.qdq import without_pairs
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.verdict import quantized_type
from toolkit.report.fragments import Advice
from toolkit.report.schema.report import LayerInfo
from toolkit.report.schema.search import WeakSpotInfo
from toolkit.report.sections.search import cause_info
from toolkit.report.sections.shares import work_in
from toolkit.search.causes.causes import (
    ACTIVATIONS,
    PROFILES,
    WEIGHTS,
    Cause,
    CauseKind,
    Operand,
    cheap,
    data_cause,
    other_method,
    range_causes,
    rounding,
    rounding_of_small,
    weight_causes,
    weight_sqnr_db,
)
from toolkit.search.causes.helpers import Helpers

_UNLIKE_DB = 10.0
"""A layer this much noisier than its operands' SQNR predicts is not explained by their rounding."""


def weak_spots_from_ranges(
    blamed: Sequence[LayerInfo],
    layers: Sequence[LayerInfo],
    model: Model,
    ranges: Ranges | None,
    float_form: Callable[[], Model] | None = None,
) -> list[WeakSpotInfo]:
    """Why some layers lose accuracy; layers without a known cause are left out.

    Args:
        blamed: the layers to explain, the worst first.
        layers: all layers, for the share of multiply-accumulates.
        model: the graph with its pairs, before lowering; not changed.
        float_form: returns ``model`` without its pairs; None to remove them here.
    """
    if not blamed or ranges is None:
        return []
    scales = {quantize.inputs[0].name: float(pair.scale.reshape(-1)[0])
              for pair in pairs_of(model) if pair.scale is not None for quantize in pair.quantizers}  # fmt: skip
    plain = float_form() if float_form is not None else without_pairs(model)
    work = work_in(layers)
    reader = _Reader(plain, ranges, scales)
    spots = []
    for layer in blamed:
        causes = reader.causes(layer, work.macs_share(layer.node))
        if causes:
            infos = [cause_info(cause) for cause in causes]
            spots.append(WeakSpotInfo(node=layer.node, op=layer.op, source="ranges", causes=infos))
    return spots


def blame_data(
    spots: Sequence[WeakSpotInfo],
    model: Model,
    unlike: Sequence[ClippedTensor],
    float_form: Callable[[], Model] | None = None,
) -> list[WeakSpotInfo]:
    """The weak spots, with clipping of the evaluation's data as the first cause if that explains them.

    For a spot explained from ranges, rounding is then left out as a cause: it was estimated from calibration samples.

    Args:
        spots: the weak spots, from ranges or from a search.
        model: the graph with its pairs, before lowering; not changed.
        unlike: the tensors whose values exceed their ranges on the evaluation's samples.
        float_form: returns ``model`` without its pairs; None to remove them here.
    """
    if not unlike:
        return list(spots)
    plain = float_form() if float_form is not None else without_pairs(model)
    readers = {node.name: {tensor.name for tensor in node.inputs} for node in plain.nodes}
    told = []
    for spot in spots:
        causes = [cause_info(data_cause(one)) for one in unlike if one.tensor in readers.get(spot.node, ())]
        known = {cause.kind for cause in spot.causes}
        if causes and CauseKind.UNLIKE_DATA not in known:
            rest = [cause for cause in spot.causes if spot.source == "search" or cause.kind != CauseKind.ROUNDING]
            spot = spot.model_copy(update={"causes": [*causes, *rest]})
        told.append(spot)
    return told


def data_advice(unlike: Sequence[ClippedTensor]) -> list[Advice]:
    """The suggestion to make first if the evaluation's values exceed the calibrated ranges."""
    if not unlike:
        return []
    worst = unlike[0]
    return [Advice(ReportCode.FIRST_MEND_DATA(tensor=worst.tensor, remedy=worst.remedy))]


class _Reader:
    """Causes of accuracy loss from the float graph without pairs, its ranges and its pairs' scales."""

    def __init__(self, model: Model, ranges: Ranges, scales: Mapping[str, float]) -> None:
        self.model, self.ranges, self.scales = model, ranges, scales
        self.nodes = {node.name: node for node in model.nodes}
        self.unlike = {unlike.tensor: unlike for unlike in unlike_profiles(ranges, PROFILES)}
        self.helpers = Helpers(model)

    def causes(self, layer: LayerInfo, share: float | None) -> list[Cause]:
        """Causes of a layer's accuracy loss, the most obvious first."""
        node = self.nodes.get(layer.node)
        precision = quantized_type(layer)
        if node is None or precision is None:
            return []
        read = {t.name: self.ranges.tensors[t.name] for t in node.inputs
                if t.name in self.scales and t.name in self.ranges.tensors}  # fmt: skip
        found: list[Cause] = []
        for tensor, known in read.items():
            shared = self.scales[tensor] * precision.max / known.amax if known.amax else 1.0
            found += range_causes(
                tensor, known, shared=shared, unlike=self.unlike.get(tensor), passes=self._passes(layer, known)
            )
        weights = self._weights(node)
        if weights is not None:
            found += weight_causes(weights, node.inputs[1].name, precision, lambda: self._evening(layer))
        sides = self._sides(node, read, precision)
        if sides:
            found.append(self._rounding(layer, sides, read, share))
        small = cheap(share, weights) if layer.macs else None
        return [*found, small] if small is not None else found

    def _evening(self, layer: LayerInfo) -> str:
        """The helper pass that equalizes a layer's weights; empty if there is none."""
        return self.helpers.passes(layer.node).get(Harm.UNEVEN_WEIGHTS, "")

    def _passes(self, layer: LayerInfo, known: Range) -> list[str]:
        """Helper passes for the layer, if the tensor's values leave most of the levels unused."""
        low = known.diagnosis.get("sqnr_db")
        wasteful = layer.op in TARGETS and low is not None and low < 30
        return list(self.helpers.passes(layer.node).values()) if wasteful else []

    def _weights(self, node: Any) -> LayerWeights | None:
        if node.op not in ("Conv", "Gemm", "MatMul"):
            return None
        weight = self.model.constant(node.inputs[1])
        return LayerWeights(self.model, node) if weight is not None and weight.ndim >= 2 else None

    def _sides(self, node: Any, read: Mapping[str, Range], precision: Precision) -> dict[Operand, float]:
        """SQNR in dB of each operand after rounding, as far as known."""
        levels = {tensor: known.diagnosis.get("sqnr_db") for tensor, known in read.items()}
        known = {tensor: float(level) for tensor, level in levels.items() if level is not None}
        one = len(known) == 1
        sides = {ACTIVATIONS if one else Operand(ACTIVATIONS.kind, tensor): level for tensor, level in known.items()}
        # block scales are not known here
        if node.op in TARGETS and not precision.weights_only and not precision.block:
            values = self.model.constant(node.inputs[1])
            if values is not None and values.dtype.kind == "f":
                axis = weight_axis(node.op, 1, values.ndim, node.attrs)
                sides[WEIGHTS] = weight_sqnr_db(values, axis, precision)
        return sides

    def _rounding(
        self, layer: LayerInfo, sides: Mapping[Operand, float], read: Mapping[str, Range], share: float | None
    ) -> Cause:
        remedy = None
        if min(sides, key=lambda side: sides[side]) == ACTIVATIONS:
            ((tensor, known),) = [(t, k) for t, k in read.items() if k.diagnosis.get("sqnr_db") is not None]
            setting = other_method(tensor, known)
            remedy = setting.remedy() if setting is not None else None
        one_sided = any("one-sided" in known.diagnosis.get("notes", ()) for known in read.values())
        estimate, own = rounding(sides, share, remedy=remedy, one_sided=one_sided), _own_db(layer)
        if own is None or own > estimate.value - _UNLIKE_DB:
            return estimate
        return rounding_of_small(own, sides, share, dict.fromkeys(self.helpers.passes(layer.node).values()))


def _own_db(layer: LayerInfo) -> float | None:
    """Measured SQNR in dB at a layer's output without the noise of its inputs; None if not known."""
    error = layer.error
    if error is None or error.sqnr_db is None:
        return None
    noise = 10 ** (-error.sqnr_db / 10)
    own = noise - (10 ** (-(error.sqnr_db + error.drop_db) / 10) if error.drop_db is not None else 0.0)
    return -10 * math.log10(own) if own > 0 else None
