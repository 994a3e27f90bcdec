"""Converts results of sensitivity and bisection to their form in the report."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.base.precision import Precision
from toolkit.report.findings import sentence
from toolkit.report.schema.analysis import BisectionCheck, BisectionInfo, SensitivityInfo
from toolkit.report.schema.search import WeakSpotInfo
from toolkit.report.sections.search import cause_info, layer_harms
from toolkit.search.causes.weak_spots import WeakSpot
from toolkit.search.sensitivity.bisect import Bisection
from toolkit.search.sensitivity.measure import Sensitivity


def sensitivity_info(found: Sensitivity, spots: Sequence[WeakSpot]) -> SensitivityInfo:
    """The report's form of a sensitivity measurement, with its weak spots."""
    ops = {group.name: group.op for group in found.groups}
    return SensitivityInfo(
        method=found.method,
        samples=found.samples,
        inferences=round(found.inferences, 2),
        reliability=found.reliability,
        full_db=found.full.sqnr_db,
        metric=found.metric,
        float_metric=found.float_metric,
        full_metric=found.full.metric,
        layers=layer_harms(found, ()),
        weak_spots=[
            WeakSpotInfo(node=spot.node, op=ops.get(spot.node, ""), share=spot.blame, source="search",
                         causes=[cause_info(cause) for cause in spot.causes])
            for spot in spots
        ],
        notes=[sentence(note) for note in found.notes],
    )  # fmt: skip


def bisection_info(
    found: Bisection, layers: int, asked: tuple[str, str], precision: Precision, fragment: str
) -> BisectionInfo:
    """The report's form of a bisection.

    Args:
        layers: number of layers to choose from.
        asked: the limits or the command, and where they were checked: simulation or engine.
        precision: the precision of kept layers.
        fragment: recipe fragment that keeps the layers in float.
    """
    check, on = asked
    return BisectionInfo(
        check=check,
        on=on,
        precision=precision,
        kept=found.kept,
        layers=layers,
        checks=[BisectionCheck(kept=len(one.kept), passed=one.passed) for one in found.verdicts],
        fragment=fragment,
        notes=[sentence(note) for note in found.notes],
    )
