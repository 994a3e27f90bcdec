"""Whether quantizing paid: this engine's time compared with the unquantized model's, by group of nodes, with reasons.

Time is measured by engine layer, but two engines have different layers, since a kernel can run several nodes. So layers
of both engines that run a common node are joined into a group: the group's time in either engine is the sum over its
layers. A layer that runs no computing node (a reformat, a Q/DQ kernel) belongs to the layer it converts for: its reader
or, if it converts values back to float, its producer.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.backends.layers.layer import Build, Layer
from toolkit.base.precision import Precision
from toolkit.contract.findings import Finding
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence
from toolkit.report.schema.engine import GroupTime, Latencies, Overhead, Paid, Payoff, PayoffGroup, PayoffInfo
from toolkit.report.schema.report import LayerInfo

NOISE = 0.02
"""Times that differ by at most this share count as equal: engines with identical kernels differ by as much."""
TINY_MS = 0.005
"""Shorter kernels consist mostly of their launch, so a narrower type saves nothing."""
_LEAST_MS = 0.001
"""Smaller differences count as none: CUDA events resolve half a microsecond."""
Turns = Mapping[str, Mapping[str, Sequence[float]]]
"""Milliseconds of each turn, by profile and engine: ``ours`` for this engine, the precision's name for others."""
_QUANTIZED = frozenset(str(precision) for precision in Precision if precision.quantized)


@dataclass(frozen=True)
class Timed:
    """An engine with measured layers.

    Attributes:
        build: its layers, times and latencies.
        runs: by computing node, the names of the engine layers that run it.
    """

    build: Build
    runs: Mapping[str, Sequence[str]]


def payoff_of(
    layers: Sequence[LayerInfo], build: Build, others: Mapping[str, Timed], turns: Turns | None = None
) -> PayoffInfo | None:
    """This engine's time in conversions, and its times compared with the engines in ``others``, by their precision.

    Latencies measured in turn take precedence over those that each build measured.

    None if neither layers nor latencies were measured.
    """
    computing = [layer for layer in layers if layer.role == "compute"]
    own = Timed(build, {layer.node: layer.engine_layers for layer in computing})
    pairs = {layer.node for layer in layers if layer.op in ("QuantizeLinear", "DequantizeLinear")}
    kinds = _overheads(build, pairs)
    found = PayoffInfo(overhead=_overhead(build, kinds))
    for name, other in others.items():
        alike = {layer.asked_precision for layer in computing if layer.asked is not None} == {name}
        latencies = _latencies(build.latency, other.build.latency, name, turns or {}, alike)
        compared = Payoff(alike=alike, profiles=latencies)
        if build.time_ms and other.build.time_ms:
            compared.groups, compared.rest = _groups(computing, own, other, kinds)
        if compared.profiles or compared.groups or compared.rest:
            found.against[name] = compared
    return found if found.overhead or found.against else None


def _latencies(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], name: str, turns: Turns, alike: bool
) -> dict[str, Latencies]:
    """Latencies by profile; two builds of one network (``alike``) differ only by chance, which is no gain."""
    found = {}
    for profile, times in ours.items():
        mine, other = _opt(times), _opt(theirs.get(profile))
        taken = [turns.get(profile, {}).get(engine, ()) for engine in ("ours", name)]
        noise = NOISE
        if all(taken):
            mine, other = (statistics.median(one) for one in taken)
            noise = max(NOISE, *(_spread(one) for one in taken))
        if mine is not None and other is not None and other > 0:
            paid = "even" if alike else _paid(mine, other, noise)
            found[profile] = Latencies(
                ours_ms=mine, other_ms=other, ratio=mine / other, noise=noise, turns=min(map(len, taken)), paid=paid
            )
    return found


def _spread(turns: Sequence[float]) -> float:
    """Half the turns' spread over their median; of five or more, without the fastest and the slowest."""
    inner = sorted(turns)[1:-1] if len(turns) >= 5 else turns
    return (max(inner) - min(inner)) / 2 / statistics.median(inner)


def _opt(times: Any) -> float | None:
    value = times.get("opt") if isinstance(times, Mapping) else None
    return float(value) if isinstance(value, (int, float)) else None


def _paid(ours: float, other: float, noise: float = NOISE) -> Paid:
    """Whether ``ours`` is faster or slower by more than the noise and the timer's resolution."""
    if abs(ours - other) <= max(noise * other, _LEAST_MS):
        return "even"
    return "faster" if ours < other else "slower"


# ---------------------------------------------------------------- reformats and Q/DQ kernels


def _overheads(build: Build, pairs: set[str]) -> dict[str, str]:
    """The kind of the layers that only convert, by name: ``qdq`` or ``reformat``."""
    found = {}
    for layer in build.layers:
        if layer.origin == "QDQ" or (layer.nodes and all(node in pairs for node in layer.nodes)):
            found[layer.name] = "qdq"
        elif layer.origin == "REFORMAT" or layer.kind == "Reformat":
            found[layer.name] = "reformat"
    return found


def _overhead(build: Build, kinds: Mapping[str, str]) -> dict[str, Overhead]:
    found: dict[str, Overhead] = {}
    for name, times in build.time_ms.items():
        for profile, value in times.items():
            one = found.setdefault(profile, Overhead(layers_ms=0.0))
            one.layers_ms += value
            if kinds.get(name) == "qdq":
                one.qdq_ms, one.qdq_kernels = one.qdq_ms + value, one.qdq_kernels + 1
            elif kinds.get(name) == "reformat":
                one.reformat_ms, one.reformats = one.reformat_ms + value, one.reformats + 1
    return found


# ---------------------------------------------------------------- groups


class _Sets:
    """Disjoint sets of keys (union-find)."""

    def __init__(self) -> None:
        self._parents: dict[Any, Any] = {}

    def find(self, key: Any) -> Any:
        """The representative of the set of ``key``."""
        path = [key]
        while (parent := self._parents.get(path[-1], path[-1])) != path[-1]:
            path.append(parent)
        for passed in path:
            self._parents[passed] = path[-1]
        return path[-1]

    def join(self, first: Any, second: Any) -> None:
        """Unite the sets of two keys."""
        self._parents[self.find(first)] = self.find(second)


def _groups(
    computing: Sequence[LayerInfo], ours: Timed, other: Timed, kinds: Mapping[str, str]
) -> tuple[list[PayoffGroup], dict[str, GroupTime]]:
    """The groups with a time, the greatest cost first, and by profile the time of layers of no node."""
    sets = _Sets()
    for layer in computing:
        for side, engine in (("ours", ours), ("other", other)):
            for name in engine.runs.get(layer.node, ()):
                sets.join((side, name), ("node", layer.node))
    for side, engine in (("ours", ours), ("other", other)):
        known = {layer.node for layer in computing}
        running = {name for node, names in engine.runs.items() if node in known for name in names}
        for name, host in _hosts(engine.build, running).items():
            sets.join((side, name), (side, host))
    members: dict[Any, list[LayerInfo]] = defaultdict(list)
    for layer in computing:
        members[sets.find(("node", layer.node))].append(layer)
    times: dict[Any, dict[str, GroupTime]] = defaultdict(dict)
    rest: dict[str, GroupTime] = {}
    for side, engine in (("ours", ours), ("other", other)):
        for name, by_profile in engine.build.time_ms.items():
            root = sets.find((side, name))
            for profile, value in by_profile.items():
                held = times[root] if root in members else rest
                one = held.setdefault(profile, GroupTime(ours_ms=0.0, other_ms=0.0))
                setattr(one, f"{side}_ms", getattr(one, f"{side}_ms") + value)
                if side == "ours" and name in kinds:
                    setattr(one, f"{kinds[name]}_ms", getattr(one, f"{kinds[name]}_ms") + value)
    tactics = {layer.name: layer.tactic for layer in ours.build.layers}
    groups = [_group(members[root], held, ours, tactics) for root, held in times.items()]
    return sorted(groups, key=lambda group: (sum(t.gain_ms for t in group.times.values()), group.name)), rest


def _hosts(build: Build, running: set[str]) -> dict[str, str]:
    """For each layer that runs no computing node, the layer it converts for, if there is one."""
    found: dict[str, str] = {}
    for number in sorted({layer.profile for layer in build.layers}):
        layers = [layer for layer in build.layers if layer.profile == number]
        readers = {port.name: layer for layer in reversed(layers) for port in layer.inputs}
        makers = {port.name: layer for layer in layers for port in layer.outputs}
        for layer in layers:
            if layer.name in running or layer.name in found:
                continue
            steps = [("outputs", readers), ("inputs", makers)]
            for side, near in reversed(steps) if _makes_float(layer) else steps:
                host = _follow(layer, side, near, running)
                if host is not None:
                    found[layer.name] = host
                    break
    return found


def _follow(layer: Layer, side: str, neighbours: Mapping[str, Layer], running: set[str]) -> str | None:
    """The nearest layer in ``running``, downstream (side ``outputs``) or upstream (``inputs``), or None."""
    seen = {layer.name}
    pending = [layer]
    while pending:
        at = pending.pop(0)
        for port in getattr(at, side):
            near = neighbours.get(port.name)
            if near is None or near.name in seen:
                continue
            if near.name in running:
                return near.name
            seen.add(near.name)
            pending.append(near)
    return None


def _makes_float(layer: Layer) -> bool:
    """Whether a layer converts quantized values to float."""
    return any(p.precision in _QUANTIZED for p in layer.inputs) and not any(
        p.precision in _QUANTIZED for p in layer.outputs
    )


def _group(
    members: Sequence[LayerInfo], times: dict[str, GroupTime], ours: Timed, tactics: Mapping[str, str]
) -> PayoffGroup:
    main = max(members, key=lambda layer: layer.macs or 0)
    quantized = [layer.node for layer in members if _is(layer.asked_precision) or _is(layer.actual.precision)]
    group = PayoffGroup(
        name=main.node,
        nodes=[layer.node for layer in members],
        quantized=quantized,
        precision=main.actual.precision,
        times=times,
        worst=min(times, key=lambda name: times[name].gain_ms),
    )
    if quantized:
        total, other = sum(t.ours_ms for t in times.values()), sum(t.other_ms for t in times.values())
        group.paid = _paid(total, other)
        if group.paid != "faster":
            wanted = [layer for layer in members if layer.node in quantized]
            kernels = [tactics.get(name, "") for name in ours.runs.get(main.node, ())]
            group.why = "; ".join(sentence(one) for one in _why(wanted, times[group.worst], kernels))
    return group


def _is(precision: Precision | None) -> bool:
    return precision is not None and precision.quantized


def _why(wanted: Sequence[LayerInfo], worst: GroupTime, tactics: Sequence[str]) -> list[Finding]:
    """Why quantizing a group did not pay, the most important reason first; ``worst``: times in its worst profile."""
    reasons = []
    float_ones = [layer for layer in wanted if layer.actual.precision is not None and not _is(layer.actual.precision)]
    if float_ones:
        layer = float_ones[0]
        reason = layer.reason or layer.status
        reasons.append(ReportCode.GROUP_RUNS_FLOAT(node=layer.node, precision=layer.actual.precision, why=reason))
    own = worst.ours_ms - worst.reformat_ms - worst.qdq_ms
    spent = [(worst.qdq_ms, ReportCode.TIME_IN_QDQ_KERNELS), (worst.reformat_ms, ReportCode.TIME_IN_REFORMATS)]
    spent = sorted((pair for pair in spent if pair[0] > 0), reverse=True)
    reasons += [code(ms=value, of_ms=worst.ours_ms) for value, code in spent]
    if max(own, worst.other_ms) < TINY_MS:
        reasons.append(ReportCode.GROUP_TINY(limit_ms=TINY_MS))
    elif 0 < own < 2 * (worst.reformat_ms + worst.qdq_ms):
        reasons.append(ReportCode.GROUP_SMALL_BESIDE_CONVERSIONS(ms=own))
    hidden = next((layer for layer in wanted if layer.status == "opaque"), None)
    if not reasons and hidden is not None:
        reasons.append(ReportCode.GROUP_HIDDEN(node=hidden.node, why=hidden.reason))
    return reasons or [ReportCode.KERNELS_NO_FASTER(kernel=next((tactic for tactic in tactics if tactic), ""))]


def unpaid(payoff: Payoff) -> list[PayoffGroup]:
    """The groups that quantizing made slower, the costliest first."""
    return [group for group in payoff.groups if group.paid == "slower"]
