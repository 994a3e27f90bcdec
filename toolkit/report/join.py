"""Joins a run's requests, engine, measurements and their reasons into one report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from toolkit.backends.codes import EngineCode
from toolkit.backends.layers.layer import Actual
from toolkit.base.collection import collector_paused
from toolkit.base.precision import Precision
from toolkit.base.version import __version__
from toolkit.contract.findings import Finding
from toolkit.graph.layers import work
from toolkit.graph.layers.macs import shape_of
from toolkit.graph.proto.nodes import ONNX_DOMAINS
from toolkit.graph.sessions.measured import squashed_by
from toolkit.graph.surgery.assemble import body_initial_inputs, body_outputs, reads
from toolkit.graph.surgery.strangers import op_type
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.advice import quantizers
from toolkit.report.conclusions.summary import Joined, summary
from toolkit.report.conclusions.verdict import lost_layers
from toolkit.report.findings import SharedSentences, sentence
from toolkit.report.fragments import Advice
from toolkit.report.schema.prediction import predicted_time
from toolkit.report.schema.report import (
    Accuracy,
    ActualInfo,
    Asked,
    BackendInfo,
    Declined,
    LayerError,
    LayerInfo,
    OpenedInfo,
    Report,
    StepInfo,
    Tool,
)
from toolkit.report.sections.describe import profile_infos, range_infos, tensor_infos
from toolkit.report.sections.found import EngineFound, Graphs, Measurements, Requests
from toolkit.report.sections.overridden import cause_of, remedy_of
from toolkit.report.sections.payoff import payoff_of
from toolkit.report.sections.rest_reasons import BY_REST, RestReasons
from toolkit.report.sections.shares import computes

if TYPE_CHECKING:
    from toolkit.contract.journal import Journal
    from toolkit.contract.plan import PrecisionPlan
    from toolkit.contract.ranges import Ranges
    from toolkit.evaluation.numerics.difference import TensorError
    from toolkit.graph.model import Model
    from toolkit.graph.shape_inference.facts import Facts

_CONVERTS, _NO_FLOATS = ReportCode.CONVERTS_TYPES(), ReportCode.NO_FLOAT_COMPUTATION()
_FLOAT64 = ReportCode.COMPUTES_IN_FLOAT64()
_NOT_TOLD = Actual(None, reason=EngineCode.NOT_IN_RECORD())


@collector_paused()
def join(
    asked: Requests,
    graphs: Graphs,
    engine: EngineFound,
    measured: Measurements,
    *,
    steps: Sequence[StepInfo] = (),
    warnings: Sequence[Finding] = (),
    advised: Sequence[Advice] = (),
    gpu: str = "",
    said: SharedSentences | None = None,
) -> Report:
    """The report of one run.

    Args:
        asked: the recipe, the plan and the journal.
        graphs: the model before and after the passes.
        engine: the engine that the backend built, and what is known about it.
        measured: accuracy, layer errors, the engine's run on the GPU and the search.
        steps: the run's steps, each done or reused.
        warnings: further warnings, listed before all others.
        advised: suggestions listed before all others.
        gpu: the GPU to predict the time for; empty for no prediction.
        said: cache of the sentences already written for entries of the journal.
    """
    journal, recipe = asked.journal, asked.recipe
    said = said or SharedSentences()
    facts = graphs.facts or work.facts_at_opt(graphs.final, graphs.profiles)
    reasons = RestReasons(graphs.final, journal, quantizers(recipe.passes), recipe.rest)
    layers = _layers(asked, graphs, engine, measured, facts, reasons, said)
    _attribute_time(layers, engine.build.time_ms)
    run = Joined(
        recipe=recipe,
        journal=journal,
        layers=layers,
        backend=_backend(engine),
        accuracy=_judged(measured.accuracy, graphs.final, layers),
        device=measured.device,
        latency=_latency(engine),
        payoff=payoff_of(layers, engine.build, engine.compared, engine.turns),
        search=measured.search,
        profiles=profile_infos(graphs.profiles, _calibration_samples(graphs.ranges)),
        ranges=range_infos(graphs.ranges, graphs.quantized) if graphs.ranges is not None else None,
        declined=_declined(journal, layers, said),
        spots=measured.spots,
        sizeless=not len(graphs.profiles) and _sizeless(graphs.final),
        opaque=_opaque(graphs.final, facts),
        branching=work.unlike_branches(graphs.final, facts),
    )
    first = next(iter(graphs.profiles.names), "default")
    return Report(
        tool=Tool(version=__version__),
        recipe=recipe,
        model=graphs.source,
        profiles=run.profiles,
        backend=run.backend,
        summary=summary(run, engine, reasons, warnings, advised),
        accuracy=run.accuracy,
        device=run.device,
        latency=run.latency or None,
        payoff=run.payoff,
        prediction=predicted_time(gpu, graphs.final, facts, computes(layers), recipe.rest, first) if gpu else None,
        search=run.search,
        layers=layers,
        tensors=tensor_infos(graphs.final, facts),
        declined=run.declined,
        ranges=run.ranges,
        steps=list(steps),
    )


def _sizeless(model: Model) -> bool:
    """Whether an input has a dimension without a size."""
    return any(not isinstance(size, int) for tensor in model.graph.inputs for size in tensor.shape or ())


def _opaque(model: Model, facts: Facts) -> list[str]:
    """The operators of other domains than ONNX's that give a tensor whose shape is not known, as ``domain::name``."""
    foreign = [node for node, _ in model.walk() if node.domain not in ONNX_DOMAINS]
    hidden = (node for node in foreign if any(t.name and shape_of(facts, t.name) is None for t in node.outputs))
    return list(dict.fromkeys(f"{node.domain}::{op_type(node)}" for node in hidden))


def _latency(engine: EngineFound) -> dict[str, Any]:
    """Latencies in milliseconds by profile; under ``compare`` those of the engines built for comparison."""
    found: dict[str, Any] = dict(engine.build.latency)
    if engine.compared:
        found["compare"] = {name: one.build.latency for name, one in engine.compared.items()}
    return found


def _calibration_samples(ranges: Ranges | None) -> Mapping[str, int] | None:
    """How many samples ranges were calibrated on, by profile; None without ranges, or if they were given."""
    return None if ranges is None or (ranges.tensors and not ranges.samples) else ranges.samples


def _backend(engine: EngineFound) -> BackendInfo:
    build = engine.build
    return BackendInfo(
        name=build.backend,
        version=build.version,
        reason=sentence(engine.reason) if engine.reason is not None else "",
        typing=engine.typing,
        engine_bytes=len(build.engine) if build.engine is not None else engine.engine_bytes,
        build_seconds=round(build.seconds, 3) if build.engine is not None or engine.engine_bytes else None,
        log=list(build.log),
    )


def _judged(accuracy: Accuracy | None, final: Model, layers: Sequence[LayerInfo]) -> Accuracy | None:
    """The accuracy with the operator that bounds each output, and with a doubt if layers lost their signal."""
    if accuracy is None:
        return None
    for name, output in accuracy.outputs.items():
        output.squashed_by = squashed_by(final, name)
    dead = lost_layers(layers)
    return accuracy if dead is None else accuracy.model_copy(update={"doubts": [*accuracy.doubts, sentence(dead)]})


def _layers(
    asked: Requests, graphs: Graphs, engine: EngineFound, measured: Measurements, facts: Facts, reasons: RestReasons,
    said: SharedSentences,
) -> list[LayerInfo]:  # fmt: skip
    """A layer for every node of the final graph, in graph order."""
    nodes = [node for node, _ in graphs.final.walk()]
    errors, macs, shared = _layer_errors(nodes, measured.errors), work.node_macs(graphs.final, facts), _SharedParts()
    return [
        _layer(
            node=node,
            plan=asked.plan,
            actual=engine.actuals.get(node.name),
            error=errors.get(node.name),
            reasons=reasons,
            rest=asked.recipe.rest,
            facts=facts,
            macs=macs[node.name],
            backend=engine.build.backend,
            said=said,
            shared=shared,
        )
        for node in nodes
    ]


class _SharedParts:
    """Parts that layers share: equal parts are created once, so they must not be modified."""

    def __init__(self) -> None:
        self._asked: dict[tuple[Precision | None, str, str], Asked] = {}
        self._actual: dict[int, tuple[Actual, ActualInfo]] = {}

    def asked(self, precision: Precision | None, reason: str, by: str) -> Asked:
        """The requested precision and its reason."""
        key = (precision, reason, by)
        if key not in self._asked:
            self._asked[key] = Asked(precision=precision, reason=reason, by=by)
        return self._asked[key]

    def actual(self, actual: Actual) -> ActualInfo:
        """The actual precision of a node."""
        if id(actual) not in self._actual:
            info = ActualInfo(
                precision=actual.precision,
                input_types=list(actual.input_types),
                output_types=list(actual.output_types),
                source=actual.source,
                opened=_opened(actual),
            )
            # keeps the key's object alive, so that its id is not reused
            self._actual[id(actual)] = actual, info
        return self._actual[id(actual)][1]


def _layer(
    node: Any, plan: PrecisionPlan, actual: Actual | None, error: LayerError | None, reasons: RestReasons,
    rest: Precision, facts: Facts, macs: int | None, backend: str, said: SharedSentences, shared: _SharedParts,
) -> LayerInfo:  # fmt: skip
    role = work.role(node, facts)
    ask = plan.get(node.name)
    if ask is not None:
        stated = ask.reason.code is EngineCode.TYPE_STATED and role == "compute"
        why = reasons.stated(node.name, ask.precision) if stated else ask.reason
        asked = shared.asked(ask.precision, said(why), ask.by)
    elif role == "compute" and work.in_float64(node, facts):
        asked = shared.asked(Precision.FP32, said(_FLOAT64), "qtool")
    elif role == "compute":
        asked = shared.asked(rest, said(reasons.reason(node.name)), BY_REST)
    else:
        asked = shared.asked(None, said(_CONVERTS if role == "convert" else _NO_FLOATS), "qtool")
    actual = actual or _NOT_TOLD
    remedy = remedy_of(actual.reason, ask.by if ask is not None else "") if actual.status == "overridden" else None
    return LayerInfo(
        node=node.name,
        op=node.op,
        role=role,
        asked=asked,
        actual=shared.actual(actual),
        status=actual.status,
        reason=_reason(actual, node.op, backend, said),
        remedy=sentence(remedy) if remedy is not None else "",
        inputs=list(dict.fromkeys(name for name in reads(node) if name)),
        outputs=[tensor.name for tensor in node.outputs if tensor.name],
        begins=body_initial_inputs(node),
        ends=body_outputs(node),
        engine_layers=list(actual.engine_layers),
        error=error,
        macs=macs,
    )


def _reason(actual: Actual, op: str, backend: str, said: SharedSentences) -> str:
    """The reason for a node's actual precision, with its cause if known."""
    if actual.reason is None:
        return ""
    cause = cause_of(actual.reason, op, backend) if actual.status == "overridden" else None
    return said(actual.reason) + (f"; {sentence(cause)}" if cause is not None else "")


def _opened(actual: Actual) -> OpenedInfo | None:
    """What opening its opaque block showed about a node."""
    if actual.opened is None:
        return None
    values = actual.opened.get("values")
    if values is None:
        return OpenedInfo(**actual.opened)
    why = sentence(values["why"]) if values["why"] is not None else ""
    return OpenedInfo(**{**actual.opened, "values": {**values, "why": why}})


def _layer_errors(nodes: Iterable[Any], errors: Mapping[str, TensorError]) -> dict[str, LayerError]:
    """Errors by node, each with its SQNR drop in dB from the worst of its inputs.

    Nodes without an error of their own (Q/DQ, Casts) pass on the worst of their inputs.
    """
    reached: dict[str, float] = {}
    found: dict[str, LayerError] = {}
    for node in nodes:
        before = min((reached[name] for name in reads(node) if name in reached), default=math.inf)
        after = before
        if node.name in errors:
            given = errors[node.name]
            error = LayerError(sqnr_db=_number(given.sqnr_db), max_abs=_number(given.max_abs))
            after = error.sqnr_db if error.sqnr_db is not None else (math.inf if error.identical else before)
            if error.sqnr_db is not None and math.isfinite(before):
                error.drop_db = before - error.sqnr_db
            found[node.name] = error
        for tensor in node.outputs:
            reached[tensor.name] = after
    return found


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _attribute_time(layers: Sequence[LayerInfo], time_ms: Mapping[str, Mapping[str, float]]) -> None:
    """Attribute each engine layer's time to one node, the one with the most work, so that the nodes' times add up."""
    runs: dict[str, list[LayerInfo]] = {}
    for layer in layers:
        for name in layer.engine_layers:
            runs.setdefault(name, []).append(layer)
    for name, times in time_ms.items():
        if name not in runs:
            continue
        owner = max(runs[name], key=lambda layer: (layer.macs or 0, layer.role == "compute", layer.status != "fused"))
        for profile, value in times.items():
            owner.time_ms[profile] = owner.time_ms.get(profile, 0.0) + float(value)


def _declined(journal: Journal, layers: Sequence[LayerInfo], said: SharedSentences) -> list[Declined]:
    """Nodes that passes declined, without duplicates, with the operator if the node still exists."""
    ops = {layer.node: layer.op for layer in layers}
    events = dict.fromkeys(journal.of("declined"))
    return [
        Declined(node=e.node, op=ops.get(e.node, ""), rule=e.rule or "declined", reason=said(e.why), by=e.by)
        for e in events
    ]
