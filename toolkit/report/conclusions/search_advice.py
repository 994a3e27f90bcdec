"""Suggestions from a search that measured the layers one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from toolkit.contract.findings import Code, Finding
from toolkit.contract.registry import pass_name, passes_with_role
from toolkit.contract.roles import Role
from toolkit.evaluation.metrics.table import METRICS
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.advice import as_good_as_float, not_all
from toolkit.report.fragments import Advice, keep_fragment
from toolkit.report.schema.report import Accuracy, LayerInfo, PassInfo, Verdict
from toolkit.report.schema.search import SearchInfo

_MOST = 5
_LEAST_SHARE = 0.01
_LATE = {"max_ms"}


def rest_alone(info: SearchInfo) -> Finding | None:
    """The finding that the float layers' type alone misses the budget; None if it does not."""
    # null in the report is a number that is not finite
    lacks = {name: math.inf if by is None else by for name, by in info.rest_lacks.items()}
    return Code.TYPE_MISSES(rest=info.rest, limits=list(lacks), by=list(lacks.values())) if lacks else None


def search_advice(
    info: SearchInfo,
    result: Verdict,
    blamed: Sequence[LayerInfo],
    accuracy: Accuracy | None = None,
    passes: Sequence[PassInfo] = (),
) -> list[Advice]:
    """Suggestions from the search's measurements, the most useful first.

    Args:
        blamed: the layers with the largest error of their own; named if they differ from the search's.
        accuracy: that of the engine if it was run, else of the simulation: with weak typing the simulation computes in
            float32.
        passes: the recipe's passes; helper passes that its search tries already are not suggested.
    """
    missed = result in ("missed", "broken")
    if missed and (info.rest_lacks or (info.met and not info.chosen.quantized_share)):
        # a budget missed with nothing quantized is missed with any choice of layers
        return [_other_rest(info, accuracy)]
    found: list[Advice] = []
    if info.unlabelled is not None and info.chosen.kept:
        found.append(Advice(ReportCode.LABEL_CALIBRATION(metric=info.unlabelled, samples=info.samples), ""))
    own = next((one for one in passes if one.role is Role.SEARCH), None)
    use = own.use if own is not None else pass_name(Role.SEARCH)
    if not info.met and not info.in_types:
        found.append(_unmet(info, use, own is not None and bool(own.settings.get("helpers"))))
    elif missed:
        found.append(_stricter(info, use, accuracy))
    gains = missed or (result in ("usable", "doubtful") and not as_good_as_float(accuracy))
    if gains and set(info.lacks) != _LATE:
        found += _keep_more(info, blamed, usable=result == "usable")
    return found


def _keep_more(info: SearchInfo, blamed: Sequence[LayerInfo], usable: bool) -> list[Advice]:
    """Advice to keep the quantized layers that cost most in float; empty if none costs much.

    Args:
        blamed: the layers with the largest error of their own; the first is mentioned if it is not to be kept.
        usable: whether the result is usable as it is.
    """
    quantized = [layer for layer in info.layers if not layer.kept]
    left = [layer for layer in quantized if layer.share >= _LEAST_SHARE][:_MOST]
    left = not_all(left, len(quantized)) if usable else left
    if not left:
        return []
    nodes, shares = [layer.node for layer in left], {layer.node: layer.share for layer in info.layers}
    other = next((layer.node for layer in blamed[:1] if layer.node not in nodes), "")
    finding = ReportCode.KEEP_MORE_LAYERS(
        count=len(left), precision=info.rest, node=nodes[0], share=left[0].share, usable=usable, other=other,
        other_share=shares.get(other),
    )  # fmt: skip
    return [Advice(finding, keep_fragment(nodes, str(info.rest)))]


def _unmet(info: SearchInfo, use: str, helped: bool) -> Advice:
    """Advice for a search in which no plan meets the budget."""
    if set(info.lacks) == _LATE:
        fastest = min(info.plans, key=lambda plan: plan.predicted_ms)
        by_time = info.prefer == "time"
        finding = ReportCode.NO_PLAN_FAST_ENOUGH(
            ms=fastest.predicted_ms, float_ms=info.float_ms, gpu=info.gpu, by_time=by_time
        )
        return Advice(finding, "" if by_time else f'[[pass]]\nuse = "{use}"\nprefer = "time"\n')
    limits, lacks = list(info.lacks), list(info.lacks.values())
    helpers = [] if helped else [name for name, _ in passes_with_role(Role.HELP)]
    finding = ReportCode.NO_PLAN_MEETS_BUDGET(limits=limits, lacks=lacks, helpers=helpers)
    if not helpers:
        return Advice(finding, f'[[pass]]\nuse = "{use}"\nevaluations = {4 * info.evaluations}\n')
    listed = ", ".join(f'"{name}"' for name in helpers)
    return Advice(finding, f'[[pass]]\nuse = "{use}"\nhelpers = [{listed}]\n')


def _stricter(info: SearchInfo, use: str, accuracy: Accuracy | None) -> Advice:
    """Advice for stricter limits in the search: a margin, or a lower ``max_drop`` for a metric of the user's own."""
    limit, own = info.budget.get("max_drop"), f'[[pass]]\nuse = "{use}"\n'
    if accuracy is not None and accuracy.metric not in (None, *METRICS) and limit and accuracy.drop_kept is False:
        lower = limit**2 / max(accuracy.drop or 0.0, limit)
        finding = ReportCode.LOWER_LIMIT(samples=info.samples, metric=accuracy.metric)
        return Advice(finding, f"{own}max_drop = {lower:.2g}\n")
    margin = 2 * max(info.budget.get("margin", 0.0), 0.5)
    return Advice(ReportCode.WIDEN_MARGIN(samples=info.samples), f"{own}margin = {margin:g}\n")


def _other_rest(info: SearchInfo, accuracy: Accuracy | None) -> Advice:
    """Advice to use another type for the float layers, if the budget is missed whatever is quantized."""
    rest, alone = str(info.rest), rest_alone(info)
    nothing = not info.chosen.quantized_share and accuracy is not None
    levels = [o.sqnr_db for o in accuracy.outputs.values() if o.sqnr_db is not None] if accuracy is not None else []
    finding = ReportCode.FLOAT_TYPE_MISSES_BUDGET(
        rest=rest, nothing_quantized=nothing, alone=alone, sqnr_db=min(levels, default=None) if nothing else None,
        metric=accuracy.quantized if nothing and accuracy is not None else None,
    )  # fmt: skip
    return Advice(finding, "" if rest == "fp32" else '[engine]\nrest = "fp32"\n')
