"""The time of each quantized layer in an engine: its kernels, with its own Q/DQ pairs and reformats."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from toolkit.backends.attribution.engine_map import EngineMap
from toolkit.backends.attribution.flow import Flow
from toolkit.backends.layers.layer import Build, Layer
from toolkit.graph.model import Model
from toolkit.placement.ops import MOVERS, PAIR_OPERATORS, TARGETS

_PAIR = PAIR_OPERATORS


@dataclass
class UnitTimes:
    """Times per unit; a unit is a node that placement quantizes, with the nodes that belong to it.

    Attributes:
        ms: unit to {profile: milliseconds}. Units that one engine layer runs together share its time equally.
        ties: per profile, sets of units that one engine layer runs together, so only the sum of their times is known.
        rest: per profile, milliseconds of the engine's layers that belong to no unit.
    """

    ms: dict[str, dict[str, float]] = field(default_factory=dict)
    ties: dict[str, list[list[str]]] = field(default_factory=dict)
    rest: dict[str, float] = field(default_factory=dict)


def unit_times(model: Model, build: Build, units: Collection[str]) -> UnitTimes:
    """Time of each unit, to compare engines of one model with different Q/DQ pairs unit by unit.

    Every engine layer counts for the units whose nodes it runs. A node that is not a unit belongs to the last unit
    before it, a Q/DQ pair to the units that read it, and a layer that runs no node, such as a reformat, to the reader
    of its output. Layers before the first unit belong to none.

    Args:
        model: the lowered graph that was built.
        build: the build of its engine, with layer times.
        units: names of the nodes to time.

    Returns:
        Empty if the build has no times or its layers are not the engine's own.
    """
    found = UnitTimes()
    if build.source != "inspector" or not build.time_ms:
        return found
    flow = Flow(model)
    owners = _owners(model, flow, units)
    names = list(build.settings.get("profiles") or ()) or ["default"]
    for number, profile in enumerate(names):
        layers = [layer for layer in build.layers if layer.profile == number]
        shares, tied = _shares(flow, model, layers, owners, units)
        if tied:
            found.ties[profile] = sorted(sorted(tie) for tie in tied)
        for name, shared in shares.items():
            milliseconds = build.time_ms.get(name, {}).get(profile)
            if milliseconds is None:
                continue
            if not shared:
                found.rest[profile] = found.rest.get(profile, 0.0) + milliseconds
            for unit in shared:
                times = found.ms.setdefault(unit, {})
                times[profile] = times.get(profile, 0.0) + milliseconds / len(shared)
    return found


def _shares(
    flow: Flow, model: Model, layers: list[Layer], owners: dict[str, tuple[str, ...]], units: Collection[str]
) -> tuple[dict[str, tuple[str, ...]], set[frozenset[str]]]:
    """Per layer name, the units that the layer counts for; and the sets of units that one layer runs together."""
    runs: dict[str, list[str]] = {}
    for node, held in EngineMap(flow, model.graph.outputs, layers).layers.items():
        for layer in held:
            runs.setdefault(layer.name, []).append(node)
    own = {layer.name: _units_in(flow, runs.get(layer.name, []), units) for layer in layers}
    ties = {frozenset(names) for names in own.values() if len(names) > 1}
    shares: dict[str, tuple[str, ...]] = {}
    for layer in layers:
        inside = runs.get(layer.name, [])
        # a pair in another layer's kernel takes no extra time
        served = [node for node in inside if flow.nodes[node].op not in _PAIR] or inside
        shares[layer.name] = _unique(own[layer.name] or [unit for node in served for unit in owners.get(node, ())])
    for name, near in _neighbours(layers, runs).items():
        shares[name] = shares[near] if near is not None else ()
    return shares, ties


def _units_in(flow: Flow, nodes: list[str], units: Collection[str]) -> list[str]:
    """The units that a layer runs: those with weights, or all if there are none."""
    heavy = [node for node in nodes if node in units and flow.nodes[node].op in TARGETS]
    return heavy or [node for node in nodes if node in units]


def _neighbours(layers: list[Layer], runs: Mapping[str, list[str]]) -> dict[str, str | None]:
    """Per layer that runs no node, such as a reformat, an adjacent layer that does: a reader, else a producer."""
    readers = {port.name: layer.name for layer in reversed(layers) for port in layer.inputs}
    makers = {port.name: layer.name for layer in layers for port in layer.outputs}
    found: dict[str, str | None] = {}
    for layer in layers:
        if not runs.get(layer.name):
            sides = [*(readers.get(port.name) for port in layer.outputs), *(makers.get(p.name) for p in layer.inputs)]
            found[layer.name] = next((name for name in sides if name is not None and runs.get(name)), None)
    return found


def _owners(model: Model, flow: Flow, units: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Per node, the units that it belongs to."""
    rank: dict[str, int] = {}
    found: dict[str, tuple[str, ...]] = {}
    for position, node in enumerate(model.nodes):
        if node.name in units:
            found[node.name], rank[node.name] = (node.name,), position
            continue
        before = [owner for made in _before(node) for owner in found.get(made.name, ())]
        found[node.name] = (max(before, key=lambda unit: rank[unit]),) if before else ()
    for node in model.nodes:
        if node.op in _PAIR:
            read = [unit for reader in flow.readers(node, MOVERS | _PAIR) for unit in found.get(reader.name, ())]
            found[node.name] = _unique(read) or found[node.name]
    return found


def _before(node: gs.Node) -> Iterable[gs.Node]:
    return (maker for tensor in node.inputs for maker in tensor.inputs)


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
