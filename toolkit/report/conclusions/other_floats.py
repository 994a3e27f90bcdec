"""Layers in another float type than the rest of the model, and why."""

from __future__ import annotations

from collections.abc import Iterable

from toolkit.base.precision import Precision
from toolkit.contract.findings import Code, Finding
from toolkit.report.codes import ReportCode
from toolkit.report.schema.report import Declined, LayerInfo

_STAYS = frozenset({Code.STAYS_FP32.value, Code.FLOAT_RANGE.value})


def other_floats(layers: Iterable[LayerInfo], rest: Precision, declined: Iterable[Declined] = ()) -> list[Finding]:
    """One finding for each type and the pass or engine that chose it, most layers first.

    Args:
        rest: the float type of all nodes without a request.
        declined: what the passes declined; lowering keeps nodes in FP32 whose values ``rest`` cannot represent.
    """
    kept = {one.node: one for one in declined if one.rule in _STAYS}
    found: dict[tuple[Precision, str], list[tuple[str, str]]] = {}
    for layer in layers:
        asked, actual, stays = layer.asked_precision, layer.actual.precision, kept.get(layer.node)
        runs = actual or (Precision.FP32 if stays is not None and asked is rest else asked)
        if layer.role != "compute" or runs is None or runs.quantized or runs is rest:
            continue
        if stays is not None and runs is Precision.FP32:
            by, reason = stays.by, stays.reason
        elif runs is asked and layer.asked is not None:
            by, reason = layer.asked.by, layer.asked.reason
        else:
            by, reason = "the engine", layer.reason
        found.setdefault((runs, by), []).append((layer.node, reason))
    return [
        ReportCode.OTHER_FLOAT(
            count=len(own), precision=precision, rest=rest, by=by, node=own[0][0], reason=own[0][1]
        )
        for (precision, by), own in sorted(found.items(), key=lambda item: -len(item[1]))
    ]  # fmt: skip
