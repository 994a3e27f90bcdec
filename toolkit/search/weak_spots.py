"""Why the worst layers are bad in eight bits, with numbers measured, and what would help."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace

from toolkit.calibration.diagnosis import unlike_profiles
from toolkit.contract.roles import Harm
from toolkit.evaluation.clipping import unlike_data
from toolkit.graph.layer_weights import LayerWeights
from toolkit.graph.work import macs
from toolkit.placement.ops import TARGETS
from toolkit.search.causes import (
    KEEP,
    PROFILES,
    UNEVEN,
    Cause,
    cheap,
    data_cause,
    method_setting,
    range_causes,
    rounding,
    weight_causes,
)
from toolkit.search.helpers import Helpers
from toolkit.search.local_noise import LocalNoise, measure
from toolkit.search.sensitivity import GroupResult, Sensitivity
from toolkit.search.ties import NearTies, near_ties
from toolkit.simulation.simulation import Simulation

_TOGETHER = 3.0
_BETTER_DB = 1.0
_SMOOTH_FROM = 4.0
_FLIPS = 0.005
_FINE_DB = 25.0
_CLOSE_SHARE = 0.05


@dataclass(frozen=True)
class WeakSpot:
    """One of the worst layers.

    Attributes:
        node: its name.
        blame: its share of the harm of all layers, 0 to 1.
        causes: why, the plainest first; never empty.
    """

    node: str
    blame: float
    causes: tuple[Cause, ...]

    def to_json(self) -> dict[str, object]:
        """A JSON-able dictionary; infinities are written as text."""
        causes = [asdict(cause) for cause in self.causes]
        for cause in causes:
            cause["value"] = cause["value"] if math.isfinite(cause["value"]) else str(cause["value"])
        return {"node": self.node, "blame": self.blame, "causes": causes}


def weak_spots(
    simulation: Simulation,
    sensitivity: Sensitivity,
    worst: int = 5,
    least: float = 0.02,
    taken: Collection[str] = (),
) -> list[WeakSpot]:
    """The worst layers with what is wrong with their tensors.

    Args:
        simulation: the model and its ranges, those that ``sensitivity`` was measured with.
        sensitivity: what every layer costs.
        worst: how many layers at most.
        least: leave out layers with a smaller share of the harm than this.
        taken: tensors whose range the search has replaced already: no other method is advised for them.
    """
    full = sensitivity.full
    harms = {group.name: min(group.harm(full), 1e30) for group in sensitivity.groups}
    total = sum(harms.values())
    blame = {name: harm / total if total else 0.0 for name, harm in harms.items()}
    ranked = [group for group in sensitivity.ranked()[:worst] if blame[group.name] >= least]
    if not ranked:
        return []
    names = [group.name for group in ranked]
    doctor = _Doctor(simulation, names, taken)
    return [
        WeakSpot(group.name, blame[group.name], (*doctor.causes(group), *_company(group, sensitivity)))
        for group in ranked
    ]


class _Doctor:
    """What all layers of one model are judged by."""

    def __init__(self, simulation: Simulation, names: list[str], taken: Collection[str]) -> None:
        self.simulation = simulation
        self.switches, self.ranges = simulation.switches, simulation.ranges
        self.taken = {method_setting(tensor, method) for tensor in taken if tensor in self.ranges.tensors
                      for method in self.ranges.tensors[tensor].diagnosis.get("amax", {})}  # fmt: skip
        self.local = measure(simulation, names)
        self.ties = near_ties(simulation.model, simulation.data, names)
        self.helpers = Helpers(simulation.model)
        self.unlike = {unlike.tensor: unlike for unlike in unlike_profiles(self.ranges, PROFILES)}
        self.scales = self.switches.config(()).scales
        work = {n.name: macs(n, simulation.facts) or 0 for n in simulation.model.nodes if n.op in TARGETS}
        total = sum(work.values())
        self.share = {name: count / total if total else 0.0 for name, count in work.items()}

    def causes(self, group: GroupResult) -> list[Cause]:
        """Why this layer is bad: its tensors, its rounding, what hangs on it, what keeping it costs."""
        node = self.switches.nodes[group.name]
        local = self.local.get(group.name)
        found = self._tensors(group.name, local)
        layer = self._weights(group.name)
        if layer is not None:
            helper = self.helpers.passes(group.name).get(Harm.UNEVEN_WEIGHTS, "")
            found += weight_causes(layer, node.inputs[1].name, self.switches.precision, helper)
        unlike = self._unlike(local) if local is not None else []
        if unlike:
            found = [*unlike, *found]
        elif local is not None and local.sides:
            found.append(self._rounding(group, local))
        found += _ties(group, self.ties.get(group.name))
        small = cheap(self.share[group.name], layer)
        return [*found, small] if small is not None else found

    def _tensors(self, name: str, local: LocalNoise | None) -> list[Cause]:
        found: list[Cause] = []
        for tensor in next(g for g in self.switches.groups if g.name == name).tensors:
            known = self.ranges.tensors.get(tensor)
            if known is None:
                continue
            own = self.switches.amax.get(tensor, known.amax)
            if own != known.amax:
                # the search gave it another method's range: what calibration said of its own is no longer true
                kept = {key: value for key, value in known.diagnosis.items() if key not in ("sqnr_db", "clipped")}
                known = replace(known, amax=own, diagnosis=kept)
            shared = self.scales.get(tensor, 0.0) * self.switches.precision.max / own if own else 1.0
            uneven = local.uneven.get(tensor, 1.0) if local is not None else 1.0
            passes = list(self.helpers.passes(name).values()) if uneven >= UNEVEN else []
            found += range_causes(
                tensor, known, uneven=uneven, shared=shared, unlike=self.unlike.get(tensor), passes=passes
            )
        return found

    def _unlike(self, local: LocalNoise) -> list[Cause]:
        """The activations that are clipped, since these samples are unlike those that calibration saw."""
        return [data_cause(one, "the samples measured") for one in unlike_data(local.clipping, self.ranges)]

    def _weights(self, name: str) -> LayerWeights | None:
        node = self.switches.nodes[name]
        weight = self.simulation.model.constant(node.inputs[1])
        known = weight is not None and weight.ndim >= 2 and node.op != "ConvTranspose"
        return LayerWeights(self.simulation.model, node) if known else None

    def _rounding(self, group: GroupResult, local: LocalNoise) -> Cause:
        worse = min(local.sides, key=lambda side: local.sides[side])
        ways = {way: db for (side, way), db in local.other.items() if side == worse}
        ways = {way: db for way, db in ways.items() if way not in self.taken}
        best = max(ways, key=lambda way: ways[way], default="")
        better = (best, ways[best]) if best and ways[best] > local.sides[worse] + _BETTER_DB else None
        uneven = max(local.uneven.values(), default=1.0)
        if better is None and worse == "activations" and uneven >= _SMOOTH_FROM:
            for name in list(self.helpers.passes(group.name).values())[-1:]:
                text = f"the pass {name}: the largest channel of its input is {uneven:.2g} times the median one;"
                cause = self._cause(group, local, None)
                return Cause(cause.kind, cause.tensor, cause.value, cause.text, f"{text} else {KEEP}")
        return self._cause(group, local, better)

    def _cause(self, group: GroupResult, local: LocalNoise, better: tuple[str, float] | None) -> Cause:
        tensor = self.switches.nodes[group.name].inputs[0].name
        known = self.ranges.tensors.get(tensor)
        return rounding(
            local.sides, self.share[group.name], both=local.both,
            alone=group.alone.sqnr_db if group.alone is not None else None, better=better,
            one_sided=known is not None and "one-sided" in known.diagnosis.get("notes", ()),
        )  # fmt: skip


def _company(group: GroupResult, sensitivity: Sensitivity) -> list[Cause]:
    """Whether the layer's harm shows only together with that of others, or is hidden behind theirs."""
    if group.alone is None or group.without is None:
        return []
    alone, saved = group.alone.noise, sensitivity.full.noise - group.without.noise
    if not (math.isfinite(alone) and math.isfinite(saved)):
        return []
    full, without = sensitivity.full.sqnr_db, group.without.sqnr_db
    others = [other.name for other in sensitivity.ranked()[:4] if other.name != group.name][:2]
    names = " and ".join(f"'{name}'" for name in others)
    if saved > _TOGETHER * alone:
        text = (f"its harm comes together with others': quantized alone it leaves {group.alone.sqnr_db:.1f} dB, yet "
                f"keeping it alone lifts the whole from {full:.1f} to {without:.1f} dB")  # fmt: skip
        ratio = saved / alone if alone else math.inf
        return [Cause("together", "", ratio, text, f"keep it, or what it goes together with ({names}), in float")]
    if saved * _TOGETHER < alone and others:
        text = (f"others hide its harm: quantized alone it leaves {group.alone.sqnr_db:.1f} dB, yet keeping it alone "
                f"takes the whole only from {full:.1f} to {without:.1f} dB")  # fmt: skip
        ratio = alone / saved if saved > 0 else math.inf
        return [Cause("hidden", "", ratio, text, f"keep it in float together with {names}, not by itself")]
    return []


def _ties(group: GroupResult, ties: NearTies | None) -> list[Cause]:
    """Decisions that so little noise turns: at the output, or at a TopK or ArgMax behind the layer."""
    found: list[Cause] = []
    alone = group.alone
    if alone is not None and alone.flips is not None and alone.flips >= _FLIPS and alone.sqnr_db >= _FINE_DB:
        text = (f"{alone.sqnr_db:.1f} dB at the output still turn {alone.flips:.1%} of the winners: their scores "
                "are near ties")  # fmt: skip
        found.append(Cause("near-ties", "", alone.flips, text, f"{KEEP}, or judge by a metric rather than by winners"))
    if ties is not None and ties.share >= _CLOSE_SHARE:
        text = (f"{ties.share:.0%} of the decisions of the {ties.op} '{ties.node}' behind it have a margin under 1% of "
                "their values' spread: little noise turns them")  # fmt: skip
        remedy = f"exclude_between from this layer's output to the input of '{ties.node}'"
        found.append(Cause("near-ties", "", ties.share, text, remedy))
    return found
