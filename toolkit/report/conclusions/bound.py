"""Why a search did not quantize more of the work: the bound shown by its measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toolkit.base.precision import Precision
from toolkit.contract.findings import Code, Finding
from toolkit.contract.journal import Journal
from toolkit.contract.registry import pass_name
from toolkit.contract.roles import Role
from toolkit.report.bound_codes import BoundCode
from toolkit.report.fragments import Advice
from toolkit.report.schema.report import LayerInfo, PassInfo
from toolkit.report.schema.search import PlanPoint, SearchInfo, WeakSpotInfo
from toolkit.search.causes.causes import CauseKind

MUCH = 0.85
"""A plan that quantizes at least this share of the work needs no explanation."""
_SHOWN = 5e-5
"""The least difference between two shares of answers that shows in the figures: 0.01 %, rounded."""
_LATE = "max_ms"
_NAMED = 3
_OF_FP8 = 29.2
"""The SQNR in dB that FP8 leaves at a layer whose two operands it rounds, whatever their distribution.

E4M3's values in [1, 2) are 1/8 apart, so the mean squared error there is (1/8)^2 / 12. The mean square of values whose
logarithm is uniform in [1, 2) is 3 / (2 ln 2): one operand has 32.2 dB, two have 3 dB less.
"""


def bounded(info: SearchInfo) -> bool:
    """Whether the budget kept the chosen plan from quantizing ``MUCH`` of the work: quantizing all layers misses it.

    False if the chosen plan quantizes every layer that can be quantized, with other ranges.
    """
    best, chosen = _everything(info), info.chosen
    return chosen.kept > 0 and chosen.quantized_share < MUCH and best is not None and bool(set(best.lacks) - {_LATE})


def bound(info: SearchInfo, journal: Journal, layers: Sequence[LayerInfo]) -> list[Finding]:
    """What keeps the other layers in float, the most informative finding first; empty if the plan quantizes enough.

    Args:
        journal: for the search's notes, such as helper passes that were tried and not applied.
        layers: those of the final graph, with their multiply-accumulates.
    """
    if not bounded(info):
        return []
    best, noted = _everything(info), journal.of("noted")
    assert best is not None
    shared = {"precision": info.precision, "metric": info.metric or "", "allowed": info.allowed, "rest": info.rest}
    found = [
        BoundCode.EVERYTHING(
            **shared, **_shown(best), output=info.output, squashed_by=info.squashed_by, float_metric=info.float_metric
        )
    ]  # fmt: skip
    found += dict.fromkeys(e.why for e in noted if e.why.code is Code.SEARCH_WITHOUT_LABELS)
    for place, more in enumerate(_larger(info)):
        known = {"share": more.quantized_share, "of": info.share_of, "next": not place}
        found.append(BoundCode.LARGER_PLAN(**shared, **_shown(more), **known))
    chosen = info.chosen
    adds = info.types_db is not None and chosen.sqnr_db is not None and info.types_db < chosen.sqnr_db
    counted = info.types_expected is not None and chosen.expected is not None
    # noise that no answer shows does not keep layers in float
    tells = not counted or (info.types_expected or 0.0) - (chosen.expected or 0.0) > _SHOWN
    if adds and tells and info.rest is not Precision.FP32:
        found.append(
            BoundCode.FLOAT_TYPE(
                rest=info.rest, sqnr_db=info.types_db, expected=info.types_expected, simulated_db=chosen.sqnr_db,
                simulated=chosen.expected,
            )
        )  # fmt: skip
    found += _layers(info, layers)
    found += [e.why for e in noted if e.why.code is Code.SEARCH_HELPER_UNLIKE]
    return found + [e.why for e in noted if e.why.code is Code.SEARCH_HELPER and not e.why.values["applied"]]


def bound_advice(info: SearchInfo, passes: Sequence[PassInfo], spots: Sequence[WeakSpotInfo]) -> list[Advice]:
    """Advice on quantizing more if accuracy keeps layers in float.

    FP8 is suggested unless INT8's rounding is known to leave more than FP8 can at each of the explained layers.

    Args:
        spots: the layers that cost most, with the SQNR that rounding leaves at each.
    """
    own = next((one for one in passes if one.role is Role.SEARCH), None)
    if not bounded(info) or info.precision is not Precision.INT8 or (own is not None and own.settings.get("also")):
        return []
    use = own.use if own is not None else pass_name(Role.SEARCH)
    kept = [spot for spot in spots if spot.kept]
    if kept and all(map(_above_fp8, kept)):
        return [Advice(BoundCode.WHAT_NEXT(precision=info.precision, other=""))]
    finding = BoundCode.WHAT_NEXT(precision=info.precision, other="fp8")
    return [Advice(finding, f'[[pass]]\nuse = "{use}"\nalso = "fp8"\n')]


def _above_fp8(spot: WeakSpotInfo) -> bool:
    """Whether INT8's rounding leaves a layer more than FP8's can; False if it was not measured, as beside clipping."""
    levels = [one.value for one in spot.causes if one.kind == CauseKind.ROUNDING]
    return bool(levels) and all(level is not None and level > _OF_FP8 for level in levels)


def _everything(info: SearchInfo) -> PlanPoint | None:
    """The plan with the least noise of those that quantize every layer; they differ in ranges."""
    plans = [plan for plan in info.plans if plan.kept == 0 and plan.noise is not None]
    return min(plans, key=lambda plan: plan.noise or 0.0, default=None)


def _larger(info: SearchInfo) -> list[PlanPoint]:
    """The plans with the next larger and the largest share, of those that miss the budget with layers in float."""
    least = info.chosen.quantized_share + 1e-9
    above = [plan for plan in info.plans if plan.kept and plan.lacks and plan.quantized_share > least]
    above.sort(key=lambda plan: plan.quantized_share)
    return above if len(above) < 2 else [above[0], above[-1]]


def _shown(plan: PlanPoint) -> Mapping[str, object]:
    return {
        "sqnr_db": plan.sqnr_db, "value": plan.metric, "unchanged": plan.unchanged, "expected": plan.expected,
        "samples": plan.samples, "limits": list(plan.lacks),
        "lacks": ["inf" if by is None else by for by in plan.lacks.values()],
    }  # fmt: skip


def _layers(info: SearchInfo, layers: Sequence[LayerInfo]) -> list[Finding]:
    """Findings on the best single layer to keep in float, and on the most costly layers."""
    found = list[Finding]()
    gains = {
        layer.node: (layer.without_db, full)
        for layer in info.layers
        # reports of earlier releases have only the SQNR of the worst output
        if layer.without_db is not None
        and (full := layer.full_db if layer.full_db is not None else info.full_db) is not None
    }
    if gains:
        best = max(gains, key=lambda node: gains[node][0] - gains[node][1])
        found.append(BoundCode.ONE_LAYER(node=best, db=gains[best][0], before_db=gains[best][1], tried=len(gains)))
    macs = {layer.node: layer.macs or 0 for layer in layers}
    total = sum(macs.values())
    measured = sum(one.measured for one in info.layers)
    costly = [layer for layer in info.layers if layer.share > 0][:_NAMED]
    if costly and info.share_of == "macs" and total:
        found.append(
            BoundCode.COSTLIEST(
                nodes=[one.node for one in costly], loss=sum(one.share for one in costly),
                work=sum(macs.get(one.node, 0) for one in costly) / total, layers=measured,
                kept=sum(one.kept for one in costly), unmeasured=len(info.layers) - measured,
            )
        )  # fmt: skip
    return found
