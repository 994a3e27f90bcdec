"""Near ties inside a model: TopK, ArgMax and ArgMin nodes whose decision depends on nearly equal values."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.base.types import Array
from toolkit.graph.model import Model
from toolkit.graph.sessions.runnable import not_run
from toolkit.graph.sessions.session import session

if TYPE_CHECKING:
    from toolkit.data.dataset import CalibrationData

DECIDES = frozenset({"TopK", "ArgMax", "ArgMin"})
_SAMPLES, _BATCH = 32, 8
_CLOSE = 0.01


@dataclass(frozen=True)
class NearTies:
    """A node that selects values, and how close its decisions are.

    Attributes:
        node: its name.
        op: TopK, ArgMax or ArgMin.
        share: share of its decisions with a margin below 1% of the values' standard deviation, 0 to 1.
    """

    node: str
    op: str
    share: float


def near_ties(model: Model, data: CalibrationData, layers: Iterable[str]) -> dict[str, NearTies]:
    """For each of these layers the nearest selecting node downstream, with how close its decisions are.

    Layers without one are left out. Only nodes of the main graph are considered.

    Args:
        model: the float model.
        data: samples; some 32 are run.
        layers: names of nodes.
    """
    main = {node.name for node in model.nodes}
    nodes = {node.name: node for node, _ in model.walk()}
    found = {name: node for name in layers if (node := _next(nodes[name], main)) is not None}
    left = not_run(model)
    found = {name: node for name, node in found.items() if node.inputs[0].name not in left.tensors}
    deciding = {node.name: node for node in found.values()}
    if not deciding:
        return {}
    tapped = session(model, outputs=sorted({node.inputs[0].name for node in deciding.values()}))
    margins: dict[str, list[Array]] = {name: [] for name in deciding}
    seen = 0
    for part in data.batches(_BATCH):
        values = tapped.run(part.inputs)
        for name, node in deciding.items():
            margins[name].append(_margins(model, node, np.asarray(values[node.inputs[0].name], np.float64)))
        seen += part.count
        if seen >= _SAMPLES:
            break
    shares = {name: np.concatenate(parts) for name, parts in margins.items()}
    return {
        name: NearTies(node.name, node.op, float((shares[node.name] < _CLOSE).mean()))
        for name, node in found.items() if shares[node.name].size
    }  # fmt: skip


def _next(start: gs.Node, main: set[str]) -> gs.Node | None:
    """The nearest selecting node downstream of ``start``, among the main graph's nodes; None if there is none."""
    queue, seen = deque([start]), {start.name}
    while queue:
        node = queue.popleft()
        if node.op in DECIDES:
            return node
        for reader in (reader for tensor in node.outputs for reader in tensor.outputs):
            if reader.name not in seen and reader.name in main:
                seen.add(reader.name)
                queue.append(reader)
    return None


def _margins(model: Model, node: gs.Node, values: Array) -> Array:
    """Each decision's margin: the last selected value minus the next one, in standard deviations of all values."""
    axis = int(node.attrs.get("axis", -1 if node.op == "TopK" else 0))
    count = 1
    if node.op == "TopK":
        given = model.constant(node.inputs[1])
        if given is None:
            return np.zeros(0)
        count = int(given.reshape(-1)[0])
    smallest = node.op == "ArgMin" or (node.op == "TopK" and not node.attrs.get("largest", 1))
    rows = np.moveaxis(-values if smallest else values, axis, -1)
    spread = float(rows.std())
    if not spread or not 0 < count < rows.shape[-1]:
        return np.zeros(0)
    ordered = -np.partition(-rows, (count - 1, count), axis=-1)
    return np.asarray((ordered[..., count - 1] - ordered[..., count]).reshape(-1) / spread)
