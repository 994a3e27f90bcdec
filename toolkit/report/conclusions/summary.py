"""The report's summary: first line, verdict, counts, warnings and suggestions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolkit.backends.codes import EngineCode
from toolkit.contract.findings import Code, Finding
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.advice import advice
from toolkit.report.conclusions.bound import bound, bound_advice
from toolkit.report.conclusions.device import device_warnings, on_device
from toolkit.report.conclusions.headline import headline
from toolkit.report.conclusions.helpers import helpers_used, idle_helpers
from toolkit.report.conclusions.left_out import left_out
from toolkit.report.conclusions.other_floats import other_floats
from toolkit.report.conclusions.out_of_reach import out_of_reach
from toolkit.report.conclusions.search_advice import rest_alone, search_advice
from toolkit.report.conclusions.search_time import slow_plan, too_slow
from toolkit.report.conclusions.speed import payoff_advice, payoff_warnings
from toolkit.report.conclusions.verdict import culprits, verdict, warnings_of
from toolkit.report.findings import sentence
from toolkit.report.fragments import Advice
from toolkit.report.schema.report import (
    Accuracy,
    BackendInfo,
    Declined,
    DeviceInfo,
    LayerInfo,
    PayoffInfo,
    ProfileInfo,
    RangeInfo,
    RecipeInfo,
    SearchInfo,
    Suggestion,
    Summary,
    Verdict,
    counts,
)
from toolkit.report.schema.search import WeakSpotInfo
from toolkit.report.sections.shares import quantized_shares, work_not_known

if TYPE_CHECKING:
    from toolkit.contract.journal import Journal
    from toolkit.report.sections.found import EngineFound
    from toolkit.report.sections.rest_reasons import RestReasons


@dataclass(frozen=True)
class Joined:
    """The parts of a report that its summary is made from.

    Attributes:
        recipe: the recipe, with its passes.
        journal: the passes' records of changes, refusals and notes.
        layers: the nodes of the final graph.
        backend: what built the engine.
        accuracy: the measured accuracy; None if there is none.
        device: the engine's run on the GPU; None if there was none.
        latency: milliseconds by profile, and under ``compare`` those of the engines built for comparison.
        payoff: whether quantizing paid; None if not measured.
        search: the precision search; None if there was none.
        profiles: the shape profiles.
        ranges: the calibrated ranges; None if there are none.
        declined: what the passes declined.
        spots: the layers that cost most by the search, with the causes.
        sizeless: whether an input has a dimension to which neither the model nor a profile gives a size.
        opaque: the operators that ONNX does not have and behind which shapes are not known, as ``domain::name``.
        branching: the If nodes whose branches have unequal work.
    """

    recipe: RecipeInfo
    journal: Journal
    layers: list[LayerInfo]
    backend: BackendInfo
    accuracy: Accuracy | None
    device: DeviceInfo | None
    latency: Mapping[str, Any]
    payoff: PayoffInfo | None
    search: SearchInfo | None
    profiles: list[ProfileInfo]
    ranges: list[RangeInfo] | None
    declined: list[Declined]
    spots: Sequence[WeakSpotInfo] = ()
    sizeless: bool = False
    opaque: Sequence[str] = ()
    branching: Sequence[str] = ()


def summary(
    run: Joined, engine: EngineFound, reasons: RestReasons, warnings: Sequence[Finding], advised: Sequence[Advice]
) -> Summary:
    """The first line, verdict, counts, warnings and suggestions.

    Args:
        run: the joined parts.
        engine: the engine that the backend built.
        reasons: why layers without a request run in the recipe's ``rest`` type.
        warnings: further warnings, listed before all others.
        advised: suggestions listed before all others.
    """
    late = too_slow(run.search, run.latency)
    result = verdict(run.accuracy, run.device, late)
    alone = rest_alone(run.search) if run.search is not None and result in ("missed", "broken") else None
    left = alone or left_out(run.layers, run.declined, run.recipe.passes, run.recipe.rest)
    noted = _warnings(run, engine, warnings)
    beyond = out_of_reach(run.layers, reasons.why, run.recipe.passes)
    keeping = bound(run.search, run.journal, run.layers) if run.search is not None else []
    if beyond is not None and keeping:
        keeping.insert(0, beyond)
    elif beyond is not None:
        noted.append(beyond)
    tried = [*advised, *_advised(run, engine, result)]
    why, slow = engine.reason, slow_plan(run.search)
    tells = run.backend.name == "none" and why is not None and why.code is EngineCode.BACKEND_REFUSES_MODEL
    refused = str(why.values["backend"]) if why is not None and tells else ""
    return Summary(
        headline=headline(run.layers, run.accuracy, run.device, run.payoff, late, slow, left, refused),
        verdict=result,
        nodes=len(run.layers),
        computing=sum(layer.role == "compute" for layer in run.layers),
        **quantized_shares(run.layers),
        warnings=list(dict.fromkeys(sentence(one) for one in noted)),
        floats=[sentence(one) for one in other_floats(run.layers, run.recipe.rest, run.declined)],
        helpers=[sentence(one) for one in helpers_used(run.journal, run.recipe.passes)],
        bound=[sentence(one) for one in keeping],
        next=[Suggestion(text=sentence(one.finding), fragment=one.fragment) for one in tried],
        **counts(run.layers),
    )


def _warnings(run: Joined, engine: EngineFound, first: Sequence[Finding]) -> list[Finding]:
    """The warnings about the figures, beginning with ``first``."""
    lost = sorted(set(engine.actuals) - {layer.node for layer in run.layers})
    task = run.accuracy.task if run.accuracy is not None else None
    noted = [event.why for event in run.journal.of("noted")]
    idle = idle_helpers(run.journal, run.recipe.passes, run.layers)
    unfinished = work_not_known(run.layers, sizeless=run.sizeless, opaque=run.opaque)
    return [
        *first,
        *(one for one in noted if one.code is Code.BLOCKS_SCALED_ON_GPU and not run.latency),
        *([Code.OWN_WORDS(text=task.why)] if task is not None and not task.sure else []),
        *(Code.OWN_WORDS(text=line) for line in (run.search.warnings if run.search is not None else ())),
        *([ReportCode.RECORD_OF_LOST_NODES(count=len(lost), node=lost[0])] if lost else []),
        *warnings_of(run.layers, run.accuracy, run.backend, run.profiles, run.ranges),
        *(one for one in (unfinished, idle) if one is not None),
        *([ReportCode.WORK_OF_BRANCHES(nodes=list(run.branching))] if run.branching else []),
        *(device_warnings(run.device) if run.backend.name != "none" else ()),
        *payoff_warnings(run.payoff),
    ]


def _advised(run: Joined, engine: EngineFound, result: Verdict) -> list[Advice]:
    """The suggestions, the most useful first."""
    passes, search = run.recipe.passes, run.search
    tried = list(payoff_advice(run.payoff, run.layers, bool(run.latency), passes))
    if search is not None:
        tried += search_advice(search, result, culprits(run.layers), on_device(run.device) or run.accuracy, passes)
        tried += bound_advice(search, passes, run.spots)
    one_by_one = search is not None and bool(search.layers)
    return tried + advice(
        run.layers, run.accuracy, run.backend, run.declined, run.ranges, one_by_one, run.device, passes, engine.reason
    )
