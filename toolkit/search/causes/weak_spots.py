"""Why the worst layers lose accuracy when quantized, with measured numbers, and what would help."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from toolkit.calibration.diagnosis import unlike_profiles
from toolkit.contract.findings import Finding
from toolkit.contract.ranges import Range
from toolkit.contract.roles import Harm
from toolkit.evaluation.comparison.clipping import unlike_data
from toolkit.graph.layers.layer_weights import LayerWeights
from toolkit.graph.layers.work import work_of
from toolkit.search.causes.causes import (
    ACTIVATIONS,
    PROFILES,
    UNEVEN,
    Cause,
    CauseKind,
    MethodSetting,
    cheap,
    data_cause,
    range_causes,
    rounding,
    weight_causes,
)
from toolkit.search.causes.helpers import Helpers
from toolkit.search.causes.local_noise import LocalNoise, measure
from toolkit.search.causes.ties import NearTies, near_ties
from toolkit.search.codes import CauseCode
from toolkit.search.sensitivity.measure import GroupResult, Sensitivity
from toolkit.simulation.simulation import Simulation

_TOGETHER, _SEEN = 3.0, 0.1
_BETTER_DB = 1.0
_SMOOTH_FROM = 4.0
_FLIPS = 0.005
_FINE_DB = 25.0
_CLOSE_SHARE = 0.05


@dataclass(frozen=True)
class WeakSpot:
    """One of the layers with the largest quantization error, with the causes.

    Attributes:
        node: its name.
        blame: its share of the sum of all layers' harm, 0 to 1.
        causes: the causes, the most obvious first; never empty.
    """

    node: str
    blame: float
    causes: tuple[Cause, ...]

    def to_json(self) -> dict[str, object]:
        """A JSON-able dictionary."""
        return {"node": self.node, "blame": self.blame, "causes": [cause.to_json() for cause in self.causes]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> WeakSpot:
        """Parse the result of ``to_json``; raises the errors of ``Cause.from_json``."""
        causes = tuple(Cause.from_json(cause) for cause in content["causes"])
        return cls(str(content["node"]), float(content["blame"]), causes)


def weak_spots(
    simulation: Simulation,
    sensitivity: Sensitivity,
    worst: int = 5,
    least: float = 0.02,
    taken: Collection[str] = (),
) -> list[WeakSpot]:
    """The worst layers with the causes of their error.

    Args:
        simulation: the model with the ranges that ``sensitivity`` was measured with.
        sensitivity: the measurements of all layers.
        worst: the largest number of layers.
        least: layers with a smaller share of the harm than this are left out.
        taken: tensors whose range the search has already replaced: no other method is advised for them.
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


def alike(spots: Sequence[WeakSpot]) -> list[list[tuple[WeakSpot, Cause]]]:
    """All causes, grouped by finding and remedy, so that each is reported once.

    Each list begins with the layer with the largest harm.
    """
    found: dict[object, list[tuple[WeakSpot, Cause]]] = {}
    for spot in spots:
        for cause in spot.causes:
            # values that are not numbers decide how the finding is worded
            words = {key: str(value) for key, value in cause.why.values.items() if isinstance(value, (bool, str))}
            said = sorted((key, value) for key, value in words.items() if key != "tensor")
            found.setdefault((cause.why.code, cause.remedy.code, *said), []).append((spot, cause))
    return list(found.values())


class _Doctor:
    """The measurements and lookups from which the causes in one model's layers are determined."""

    def __init__(self, simulation: Simulation, names: list[str], taken: Collection[str]) -> None:
        self.simulation = simulation
        self.switches, self.ranges = simulation.switches, simulation.ranges
        self.taken = {MethodSetting(method, tensor) for tensor in taken if tensor in self.ranges.tensors
                      for method in self.ranges.tensors[tensor].diagnosis.get("amax", {})}  # fmt: skip
        self.local = measure(simulation, names)
        self.ties = near_ties(simulation.model, simulation.data, names)
        self.helpers = Helpers(simulation.model)
        self.unlike = {unlike.tensor: unlike for unlike in unlike_profiles(self.ranges, PROFILES)}
        self.scales = self.switches.config(()).scales
        # without profiles the samples provide sizes that the model does not declare
        self.work = work_of(simulation.model, simulation.facts)

    def _evening(self, layer: str) -> str:
        """The helper pass that evens out a layer's weights; empty if there is none."""
        return self.helpers.passes(layer).get(Harm.UNEVEN_WEIGHTS, "")

    def causes(self, group: GroupResult) -> list[Cause]:
        """The causes in one layer: its tensors, its rounding, close decisions after it, and the cost of keeping it."""
        node = self.switches.nodes[group.name]
        local = self.local.get(group.name)
        found = self._tensors(group.name, local)
        layer = self._weights(group.name)
        if layer is not None:
            evening = partial(self._evening, group.name)
            found += weight_causes(layer, node.inputs[1].name, self.switches.precision, evening)
        unlike = self._unlike(local) if local is not None else []
        if unlike:
            found = [*unlike, *found]
        elif local is not None and local.sides:
            found.append(self._rounding(group, local))
        found += _ties(group, self.ties.get(group.name))
        small = cheap(self.work.macs_share(group.name), layer)
        return [*found, small] if small is not None else found

    def _tensors(self, name: str, local: LocalNoise | None) -> list[Cause]:
        """The causes in the ranges of the activations that a layer reads."""
        found: list[Cause] = []
        for tensor in next(g for g in self.switches.groups if g.name == name).tensors:
            known = self.ranges.tensors.get(tensor)
            if known is None:
                continue
            own = self.switches.amax.get(tensor, known.amax)
            if own != known.amax:
                # the search replaced the range by another method's
                known = known.with_amax(own, known.method)
            shared = self.scales.get(tensor, 0.0) * self.switches.precision.max / own if own else 1.0
            uneven = local.uneven.get(tensor, 1.0) if local is not None else 1.0
            passes = self.helpers.evening(name) if uneven >= UNEVEN else []
            found += range_causes(
                tensor, known, uneven=uneven, shared=shared, unlike=self.unlike.get(tensor), passes=passes
            )
        return found

    def _unlike(self, local: LocalNoise) -> list[Cause]:
        """The activations that are clipped because these samples differ from the calibration data."""
        return [data_cause(one, measured=True) for one in unlike_data(local.clipping, self.ranges)]

    def _weights(self, name: str) -> LayerWeights | None:
        """A layer's constant weights by output channel; None if it has none or is a transposed convolution."""
        node = self.switches.nodes[name]
        weight = self.simulation.model.constant(node.inputs[1])
        known = weight is not None and weight.ndim >= 2 and node.op != "ConvTranspose"
        return LayerWeights(self.simulation.model, node) if known else None

    def _rounding(self, group: GroupResult, local: LocalNoise) -> Cause:
        """The rounding error of a layer, and what improves the worse operand."""
        tensor = self.switches.nodes[group.name].inputs[0].name
        known = self.ranges.tensors.get(tensor)
        one_sided = known is not None and "one-sided" in known.diagnosis.get("notes", ())
        return rounding(
            local.sides, self.work.macs_share(group.name), both=local.both,
            alone=group.alone.sqnr_db if group.alone is not None else None,
            remedy=self._better(group.name, local, known is not None and _skewed(known)), one_sided=one_sided,
        )  # fmt: skip

    def _better(self, name: str, local: LocalNoise, skewed: bool) -> Finding | None:
        """What improves the worse operand: a range method that was tried, or a pass; None if there is nothing."""
        worse = min(local.sides, key=lambda side: local.sides[side])
        ways = {way: db for (side, way), db in local.other.items() if side == worse and way not in self.taken}
        best = max(ways, key=lambda way: ways[way], default=None)
        if best is not None and ways[best] > local.sides[worse] + _BETTER_DB:
            return best.remedy(ways[best], local.sides[worse], worse.kind)
        uneven = max(local.uneven.values(), default=1.0)
        passes = self.helpers.evening(name)
        if worse == ACTIVATIONS and uneven >= _SMOOTH_FROM and passes:
            return CauseCode.APPLY_PASS_OR_KEEP(name=passes[-1], ratio=uneven)
        shift = self.helpers.passes(name).get(Harm.ONE_SIDED)
        return CauseCode.APPLY_PASS(passes=(shift,)) if worse == ACTIVATIONS and skewed and shift else None


def _skewed(known: Range) -> bool:
    """Whether a tensor's range on one side of zero is less than half of that on the other."""
    return known.observed is not None and min(map(abs, known.observed)) < max(map(abs, known.observed)) / 2


def _company(group: GroupResult, sensitivity: Sensitivity) -> list[Cause]:
    """The cause that a layer's harm appears only together with that of others, or is masked by theirs."""
    if group.alone is None or group.without is None:
        return []
    noises = [group.noise_in(outcome) for outcome in (group.alone, sensitivity.full, group.without)]
    alone, full, saved = noises[0], noises[1], noises[1] - noises[2]
    if not (math.isfinite(alone) and math.isfinite(saved)):
        return []
    measured = {"alone_db": group.alone, "full_db": sensitivity.full, "without_db": group.without}
    levels = {name: group.level_in(outcome) for name, outcome in measured.items()}
    feeding = [other for other in sensitivity.ranked() if other.alone is None or group.noise_in(other.alone) > 0]
    others = [other.name for other in feeding[:4] if other.name != group.name][:2]
    if saved > _TOGETHER * alone:
        ratio = saved / alone if alone else math.inf
        # outputs whose shape changes show no noise, so the other layers may be unknown
        remedy = CauseCode.KEEP_IT_OR_OTHERS(others=others) if others else CauseCode.KEEP_FLOAT()
        return [Cause(CauseKind.TOGETHER, "", ratio, CauseCode.HARM_TOGETHER(**levels), remedy)]
    # a small part of the total is lost in the random sum of the other errors
    if saved * _TOGETHER < alone and alone > _SEEN * full and others:
        ratio = alone / saved if saved > 0 else math.inf
        why, remedy = CauseCode.HARM_HIDDEN(**levels), CauseCode.KEEP_WITH_OTHERS(others=others)
        return [Cause(CauseKind.HIDDEN, "", ratio, why, remedy)]
    return []


def _ties(group: GroupResult, ties: NearTies | None) -> list[Cause]:
    """Decisions that little noise changes: at the output, or at a TopK or ArgMax downstream of the layer."""
    found: list[Cause] = []
    alone = group.alone
    if alone is not None and alone.flips is not None and alone.flips >= _FLIPS and alone.sqnr_db >= _FINE_DB:
        changed = None if alone.agreement is None else 1 - alone.agreement
        why = CauseCode.TIES_AT_OUTPUT(sqnr_db=alone.sqnr_db, flips=alone.flips, changed=changed)
        found.append(Cause(CauseKind.NEAR_TIES, "", alone.flips, why, CauseCode.KEEP_OR_USE_METRIC()))
    if ties is not None and ties.share >= _CLOSE_SHARE:
        why = CauseCode.TIES_AT_DECISION(share=ties.share, op=ties.op, node=ties.node)
        found.append(Cause(CauseKind.NEAR_TIES, "", ties.share, why, CauseCode.EXCLUDE_UP_TO(node=ties.node)))
    return found
