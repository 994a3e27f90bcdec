"""The search's part of the report, read from search.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.base.errors import QtoolError
from toolkit.base.reading import FileKind, read_json, reading
from toolkit.contract.findings import Finding
from toolkit.report.findings import sentence
from toolkit.report.search_parts import CauseInfo, LayerHarm, PlanPoint, SearchInfo, WeakSpotInfo
from toolkit.search.causes import Cause

_KIND = FileKind("it cannot be read as a search.json", QtoolError, "run the recipe again")


def read_search(path: Path) -> tuple[SearchInfo | None, list[WeakSpotInfo]]:
    """The search of a run and the weak spots it explained; nothing where the run had no search.

    Raises:
        QtoolError: the file is no search.json.
    """
    if not path.is_file():
        return None, []
    with reading(path, _KIND):
        content = read_json(path, _KIND)
        info = search_info(content)
        return info, weak_spots_of(content, info)


def search_info(content: Mapping[str, Any]) -> SearchInfo:
    """The report's form of search.json.

    Args:
        content: what ``toolkit.search.search_record.record`` made.
    """
    best, plain = content["best"], content["float"]
    front = [_key(plan) for plan in content["front"]]
    points = [_point(plan, front, best) for plan in content["plans"]]
    return SearchInfo(
        precision=content["precision"], rest=content["rest"], gpu=content["gpu"], prefer=content["prefer"],
        budget=content["budget"], met=content["met"], lacks={k: float(v) for k, v in best["lacks"].items()},
        evaluations=content["evaluations"], samples=content["samples"], metric=content["metric"],
        float_metric=plain.get("metric"), higher_is_better=content["higher_is_better"],
        float_ms=plain["predicted_ms"], measured_share=content["measured_share"],
        share_of=content["share_of"], plans=points, layers=_layers(content.get("sensitivity"), best["kept"]),
        warnings=_sentences(content["warnings"]), notes=_sentences(content["notes"]),
    )  # fmt: skip


def weak_spots_of(content: Mapping[str, Any], info: SearchInfo) -> list[WeakSpotInfo]:
    """The weak spots that the search explained."""
    known = {layer.node: layer for layer in info.layers}
    return [
        WeakSpotInfo(
            node=spot["node"], op=known[spot["node"]].op, share=spot["blame"], kept=known[spot["node"]].kept,
            source="search", causes=[cause_info(Cause.from_json(cause)) for cause in spot["causes"]],
        )
        for spot in content["weak_spots"]
    ]  # fmt: skip


def cause_info(cause: Cause) -> CauseInfo:
    """A cause as the report holds it, in sentences."""
    return CauseInfo(
        kind=cause.kind.value, tensor=cause.tensor, value=cause.value, text=sentence(cause.why),
        remedy=sentence(cause.remedy),
    )  # fmt: skip


def _sentences(findings: Sequence[Mapping[str, Any]]) -> list[str]:
    return [sentence(Finding.from_json(one)) for one in findings]


def _key(plan: Mapping[str, Any]) -> tuple[Sequence[str], dict[str, float]]:
    return sorted(plan["kept"]), dict(plan["amax"])


def _point(plan: Mapping[str, Any], front: Sequence[Any], best: Mapping[str, Any]) -> PlanPoint:
    outcome = plan["outcome"]
    noise = float(outcome["noise"])
    on_front, chosen = _key(plan) in front, _key(plan) == _key(best)
    return PlanPoint(
        predicted_ms=plan["predicted_ms"], noise=noise, sqnr_db=_db(noise), metric=outcome.get("metric"),
        agreement=outcome.get("agreement"), quantized_share=plan["quantized_share"], kept=len(plan["kept"]),
        names=sorted(plan["kept"]) if on_front or chosen else [], meets=not plan["lacks"], front=on_front,
        chosen=chosen, lacks={name: float(value) for name, value in plan["lacks"].items()},
    )  # fmt: skip


def _layers(sensitivity: Mapping[str, Any] | None, kept: Sequence[str]) -> list[LayerHarm]:
    if sensitivity is None:
        return []
    from toolkit.search.sensitivity import Sensitivity

    found = Sensitivity.from_json(sensitivity)
    harms = {group.name: min(group.harm(found.full), 1e30) for group in found.groups}
    total = sum(harms.values()) or 1.0
    return [
        LayerHarm(
            node=group.name, op=group.op, share=harms[group.name] / total, kept=group.name in kept,
            alone_db=group.alone.sqnr_db if group.alone is not None else None,
            without_db=group.without.sqnr_db if group.without is not None else None,
        )
        for group in found.ranked()
    ]  # fmt: skip


def _db(noise: float) -> float | None:
    return -10 * math.log10(noise) if noise > 0 and math.isfinite(noise) else None
