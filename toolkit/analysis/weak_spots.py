"""Why the worst layers are bad in eight bits, and what would help."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from toolkit.analysis.channels import collect_channels
from toolkit.analysis.layer_weights import LayerWeights
from toolkit.analysis.sensitivity import Sensitivity
from toolkit.analysis.simulation import Simulation
from toolkit.calibration.diagnosis import unlike_profiles
from toolkit.precision import Precision

_OUTLIERS = 6.0
_FEW_DB = 25.0
_SHARED = 4.0
_PROFILES = 2.0
_UNEVEN = 8.0
_SAMPLES = 32


@dataclass(frozen=True)
class Cause:
    """One reason why a layer loses accuracy.

    Attributes:
        kind: uneven-channels, outliers, few-levels, shared-scale, profiles, uneven-weights or none-found.
        tensor: the tensor that shows it.
        value: the number that shows it: a ratio, or dB.
        text: it in words.
        remedy: the pass or setting that would help.
    """

    kind: str
    tensor: str
    value: float
    text: str
    remedy: str


@dataclass(frozen=True)
class WeakSpot:
    """One of the worst layers.

    Attributes:
        node: its name.
        blame: its share of the harm of all layers, 0 to 1.
        causes: why, the plainest first.
    """

    node: str
    blame: float
    causes: tuple[Cause, ...]

    def to_json(self) -> dict[str, object]:
        """A JSON-able dictionary."""
        return {"node": self.node, "blame": self.blame, "causes": [asdict(cause) for cause in self.causes]}


def weak_spots(simulation: Simulation, sensitivity: Sensitivity, worst: int = 5, least: float = 0.02) -> list[WeakSpot]:
    """The worst layers with what is wrong with their tensors.

    Args:
        simulation: the model and its ranges.
        sensitivity: what every layer costs.
        worst: how many layers at most.
        least: leave out layers with a smaller share of the harm than this.
    """
    full = sensitivity.full
    harms = {group.name: min(group.harm(full), 1e30) for group in sensitivity.groups}
    total = sum(harms.values())
    found = []
    ranked = sensitivity.ranked()[:worst]
    uneven = _uneven_channels(simulation, [group.name for group in ranked])
    for group in ranked:
        blame = harms[group.name] / total if total else 0.0
        if blame < least:
            break
        causes = _causes(simulation, group.name, uneven)
        none = Cause("none-found", "", 0.0, "its tensors fit their scales; the layer itself is sensitive",
                     "keep it in float, or raise [calibration] samples")  # fmt: skip
        found.append(WeakSpot(group.name, blame, tuple(causes) or (none,)))
    return found


def _uneven_channels(simulation: Simulation, names: list[str]) -> dict[str, float]:
    """For the activations that these layers read the largest channel over the median one."""
    nodes = simulation.switches.nodes
    axes = {}
    for name in names:
        node = nodes[name]
        if simulation.model.constant(node.inputs[0]) is None:
            axes[node.inputs[0].name] = 1 if node.op in ("Conv", "ConvTranspose") else -1
    found = {}
    for tensor, channels in collect_channels(simulation.model, axes, simulation.data, _SAMPLES).items():
        live = channels.amax[channels.amax > 0]
        found[tensor] = float(live.max() / np.median(live)) if live.size else 1.0
    return found


def _causes(simulation: Simulation, name: str, uneven_channels: dict[str, float]) -> list[Cause]:
    switches, ranges = simulation.switches, simulation.ranges
    group = next(g for g in switches.groups if g.name == name)
    node = switches.nodes[name]
    found: list[Cause] = []
    profiles = {unlike.tensor: unlike for unlike in unlike_profiles(ranges, _PROFILES)}
    scales = switches.config(()).scales
    for tensor in group.tensors:
        known = ranges.tensors.get(tensor)
        if known is None:
            continue
        ratio, sqnr = known.diagnosis.get("outlier_ratio"), known.diagnosis.get("sqnr_db")
        shared = scales.get(tensor, 0.0) * switches.precision.max / known.amax if known.amax else 1.0
        if uneven_channels.get(tensor, 0.0) >= _UNEVEN:
            worst = uneven_channels[tensor]
            found.append(
                Cause(
                    "uneven-channels",
                    tensor,
                    worst,
                    f"its largest channel reaches {worst:.3g} times the median one",
                    "the pass equalize between Conv and ReLU, else smooth",
                )
            )
        if ratio is not None and ratio >= _OUTLIERS:
            found.append(Cause("outliers", tensor, ratio,
                               f"its largest value is {ratio:.3g} times the 99.9th percentile",
                               "the pass smooth, or method 'percentile' or 'mse' for this tensor"))  # fmt: skip
        if shared >= _SHARED:
            found.append(Cause("shared-scale", tensor, shared,
                               f"a Concat forces a scale on it that is {shared:.3g} times its own",
                               "exclude the Concat, or even out its branches"))  # fmt: skip
        if tensor in profiles:
            unlike = profiles[tensor]
            text = f"in profile '{unlike.high}' it reaches {unlike.ratio:.3g} times what it does in '{unlike.low}'"
            remedy = "[calibration] weights, or an engine for each profile"
            found.append(Cause("profiles", tensor, unlike.ratio, text, remedy))
        if sqnr is not None and sqnr < _FEW_DB and not any(cause.tensor == tensor for cause in found):
            found.append(Cause("few-levels", tensor, sqnr,
                               f"its values use few of the 256 levels: {sqnr:.1f} dB after rounding",
                               "another calibration method for this tensor, or the pass equalize"))  # fmt: skip
    weight = switches.model.constant(node.inputs[1])
    if weight is not None and weight.ndim >= 2 and node.op != "ConvTranspose":
        layer = LayerWeights(switches.model, node)
        reach = layer.in_range()
        typical = float(np.median(reach[reach > 0])) if (reach > 0).any() else 0.0
        uneven = float(reach.max()) / typical if typical else 1.0
        if uneven >= _UNEVEN and switches.precision is Precision.INT8:
            text = f"one input channel's weights are {uneven:.3g} times the median's: the others get few levels"
            found.append(Cause("uneven-weights", node.inputs[1].name, uneven, text, "the pass equalize"))
    return found
