"""Builds the report's part on the search from search.json."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from toolkit.base.given import shown
from toolkit.contract.findings import Code, Finding
from toolkit.report.findings import sentence
from toolkit.report.schema.search import CauseInfo, LayerHarm, PlanPoint, SearchInfo, WeakSpotInfo
from toolkit.search.causes.causes import Cause
from toolkit.search.plans.searched_plan import SearchedPlan
from toolkit.search.sensitivity.measure import Sensitivity
from toolkit.search.stages.record import SearchRecord

_Key = tuple[list[str], dict[str, float]]
"""The layers that a plan keeps in float, sorted, and its amax by tensor."""


def read_search(path: Path) -> tuple[SearchInfo | None, list[WeakSpotInfo]]:
    """The search of a run and the weak spots it explained; None and an empty list if the run had no search.

    Raises:
        QtoolError: the file is not a search.json.
    """
    if not path.is_file():
        return None, []
    record = SearchRecord.load(path)
    info = search_info(record)
    return info, weak_spots_of(record, info)


def search_info(record: SearchRecord) -> SearchInfo:
    """The report's form of a search."""
    front = [_key(plan) for plan in record.front]
    layers = layer_harms(record.sensitivity, record.best.kept) if record.sensitivity is not None else []
    return SearchInfo(
        precision=record.precision, rest=record.rest, gpu=record.gpu, prefer=record.prefer, budget=record.budget,
        met=record.best.meets and not record.lacks_in_types, lacks=record.lacks_in_types or dict(record.best.lacks),
        in_types=bool(record.lacks_in_types), rest_lacks=dict(record.rest_lacks), allowed=record.allowed,
        unsure=_unsure(record.notes),
        types_db=_db(record.real.noise) if record.real is not None else None,
        types_expected=record.real.expected if record.real is not None else None,
        full_db=_db(record.sensitivity.full.noise) if record.sensitivity is not None else None,
        evaluations=len(record.plans), samples=record.samples,
        output=record.best.outcome.output, squashed_by=record.squashed_by, inferences=round(record.inferences, 2),
        metric=shown(record.metric) if record.metric else None, unlabelled=record.unlabelled,
        float_metric=record.reference.metric, higher_is_better=record.higher_is_better,
        float_ms=record.float_ms, measured_share=record.measured_share, share_of=record.share_of,
        plans=[_point(plan, front, record) for plan in record.plans], layers=layers,
        warnings=_sentences(record.warnings), notes=_sentences(record.notes),
    )  # fmt: skip


def weak_spots_of(record: SearchRecord, info: SearchInfo) -> list[WeakSpotInfo]:
    """The weak spots that the search explained."""
    known = {layer.node: layer for layer in info.layers}
    return [
        WeakSpotInfo(
            node=spot.node, op=known[spot.node].op, share=spot.blame, kept=known[spot.node].kept, source="search",
            causes=[cause_info(cause) for cause in spot.causes],
        )
        for spot in record.weak_spots if spot.node in known
    ]  # fmt: skip


def cause_info(cause: Cause) -> CauseInfo:
    """The report's form of a cause, in sentences."""
    return CauseInfo(
        kind=cause.kind.value, tensor=cause.tensor, value=cause.value, text=sentence(cause.why),
        remedy=sentence(cause.remedy),
    )  # fmt: skip


def _sentences(findings: Sequence[Finding]) -> list[str]:
    return [sentence(one) for one in findings]


def _unsure(notes: Sequence[Finding]) -> str:
    """The note that samples lost more than the budget allows, but too few to exclude chance; empty if they did not."""
    found: list[Any] = [note.values["why"] for note in notes if note.code is Code.SEARCH_UNPROVEN]
    return next((sentence(why) for why in found if why.values["lost"] > why.values["share"]), "")


def _key(plan: SearchedPlan) -> _Key:
    return sorted(plan.kept), dict(plan.amax)


def _point(plan: SearchedPlan, front: Sequence[_Key], record: SearchRecord) -> PlanPoint:
    # without float outputs ``noise`` is the share of elements that differ, which is no SQNR
    noise = plan.outcome.noise
    level = _db(noise) if plan.outcome.cosine is not None else None
    on_front, chosen = _key(plan) in front, _key(plan) == _key(record.best)
    return PlanPoint(
        predicted_ms=plan.seconds * 1e3, noise=noise, sqnr_db=level, metric=plan.outcome.metric,
        agreement=plan.outcome.agreement if plan.outcome.of_classes else None,
        quantized_share=plan.quantized, kept=len(plan.kept),
        names=sorted(plan.kept) if on_front or chosen else [], meets=plan.meets, front=on_front, chosen=chosen,
        lacks=dict(plan.lacks), unchanged=plan.outcome.kept, expected=plan.outcome.expected,
        samples=round(record.samples * plan.batches / plan.of),
    )  # fmt: skip


def layer_harms(found: Sensitivity, kept: Collection[str]) -> list[LayerHarm]:
    """Each layer's cost, the costliest first; ``kept`` names the layers that stay in float."""
    harms = {group.name: min(group.harm(found.full), 1e30) for group in found.groups}
    total = sum(harms.values()) or 1.0
    return [
        LayerHarm(
            node=group.name, op=group.op, share=harms[group.name] / total, kept=group.name in kept,
            alone_db=group.alone.sqnr_db if group.alone is not None else None,
            without_db=group.level_in(group.without) if group.without is not None else None,
            full_db=group.level_in(found.full), output=group.output,
            measured=group.alone is not None or group.without is not None,
        )
        for group in found.ranked()
    ]  # fmt: skip


def _db(noise: float) -> float | None:
    return -10 * math.log10(noise) if noise > 0 and math.isfinite(noise) else None
