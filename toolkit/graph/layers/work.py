"""The role of a node, and its share of a model's arithmetic.

Used for all shares of the arithmetic: in the report, search, sensitivity and cost model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from onnx import TensorProto

from toolkit.base.block_operators import FP4_QUANTIZE, MXFP8_DEQUANTIZE, MXFP8_QUANTIZE
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.graph.layers.macs import macs, shape_of
from toolkit.graph.proto.nodes import MOST_TRIPS
from toolkit.graph.surgery.assemble import bodies

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from toolkit.graph.model import Model
    from toolkit.graph.shape_inference.facts import Facts

NodeRole = Literal["compute", "convert", "other"]
CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "CastLike",
                         FP4_QUANTIZE, MXFP8_QUANTIZE, MXFP8_DEQUANTIZE})  # fmt: skip
_NO_COMPUTATION = frozenset({"Constant", "Shape", "Size"})


def facts_at_opt(model: Model, profiles: Profiles) -> Facts:
    """Types and shapes at the first profile's opt shapes; without profiles, with the model's declared dimensions."""
    first = next(iter(profiles), None)
    if first is None:
        return model.facts()
    opt = {name: Extent(extent.opt, extent.opt, extent.opt) for name, extent in first.shapes.items()}
    return model.facts(Profiles((ShapeProfile(first.name, opt),)))


def role(node: Any, facts: Facts) -> NodeRole:
    """The role of a node: a computation, a conversion between types, or other (constants, shape arithmetic).

    A node with unknown types (a plugin) counts as a computation.
    """
    if node.op in CONVERSIONS:
        return "convert"
    if node.op in _NO_COMPUTATION:
        return "other"
    tensors = [tensor.name for tensor in (*node.inputs, *node.outputs)]
    if any(facts.is_float(name) or _is_float64(name, facts) for name in tensors):
        return "compute"
    known = any(tensor.name in facts.types for tensor in node.outputs)
    return "other" if known else "compute"


def in_float64(node: Any, facts: Facts) -> bool:
    """Whether a node computes in float64 and no other float type, so that no precision can be requested for it.

    TensorRT's parser casts float64 down to float32 (onnx-tensorrt, "Supported ONNX Operators").
    """
    tensors = [tensor.name for tensor in (*node.inputs, *node.outputs)]
    return any(_is_float64(name, facts) for name in tensors) and not any(map(facts.is_float, tensors))


def _is_float64(tensor: str, facts: Facts) -> bool:
    return facts.types.get(tensor) == TensorProto.DOUBLE


@dataclass(frozen=True)
class Work:
    """The weights of a model's nodes in shares of its arithmetic.

    Attributes:
        weights: by computing node, its multiply-accumulates, or 1 for each if some node's are not known.
        of: what is counted, ``macs`` or ``nodes``.
    """

    weights: Mapping[str, int]
    of: Literal["macs", "nodes"]

    @classmethod
    def counted(cls, counts: Mapping[str, int | None]) -> Work:
        """From the multiply-accumulates of all computing nodes, None for unknown ones."""
        known = {name: count for name, count in counts.items() if count is not None}
        if len(known) == len(counts) and any(known.values()):
            return cls(known, "macs")
        return cls(dict.fromkeys(counts, 1), "nodes")

    @cached_property
    def total(self) -> int:
        """The total weight of all nodes."""
        return sum(self.weights.values())

    def share(self, nodes: Iterable[str]) -> float:
        """The share of these nodes, 0 to 1; names that are not computing nodes count nothing."""
        return sum(self.weights.get(name, 0) for name in set(nodes)) / self.total if self.total else 0.0

    def macs_share(self, node: str) -> float | None:
        """One node's share of the multiply-accumulates, 0 to 1; None if they are not known."""
        if self.of != "macs":
            return None
        return self.weights.get(node, 0) / self.total if self.total else 0.0


def work_of(model: Model, facts: Facts) -> Work:
    """The weights of a model's nodes; ``facts`` must be from ``facts_at_opt``, so that all callers count the same."""
    counts = node_macs(model, facts)
    return Work.counted({node.name: counts[node.name] for node, _ in model.walk() if role(node, facts) == "compute"})


def node_macs(model: Model, facts: Facts) -> dict[str, int | None]:
    """Multiply-accumulates of every node in one inference; None if they are not known.

    A node in the body of a Scan or Loop counts once per iteration: of a Scan, the length of its inputs; of a Loop, its
    trip count, if constant or known from shapes, unless it only means no limit (torch.jit writes the largest int64 for
    ``while``). Of the branches of an If, of which one inference runs one, that with the most counts: the nodes of the
    other have 0.
    """
    found: dict[str, int | None] = {}
    _count(model, model.graph, 1, facts, found, [])
    return found


def unlike_branches(model: Model, facts: Facts) -> list[str]:
    """The If nodes whose branch with fewer multiply-accumulates ``node_macs`` leaves out, where shares count these."""
    unlike: list[str] = []
    if any(node.op == "If" for node, _ in model.walk()):
        _count(model, model.graph, 1, facts, {}, unlike)
    return unlike if unlike and work_of(model, facts).of == "macs" else []


def _count(
    model: Model, graph: gs.Graph, times: int | None, facts: Facts, found: dict[str, int | None], unlike: list[str]
) -> None:
    for node in graph.nodes:
        once = macs(node, facts)
        found[node.name] = once * times if once is not None and times is not None else (0 if once == 0 else None)
        parts: list[dict[str, int | None]] = []
        for body in bodies(node):
            trips, part = _trips(model, node, facts), dict[str, int | None]()
            _count(model, body, times * trips if times is not None and trips is not None else None, facts, part, unlike)
            parts.append(part)
        if node.op == "If" and _keep_largest(parts):
            unlike.append(node.name)
        for part in parts:
            found.update(part)


def _keep_largest(branches: Sequence[dict[str, int | None]]) -> bool:
    """Set the multiply-accumulates of all branches but the one with the most to 0, if those of all are known.

    Returns:
        Whether all branches had some, and not equally many.
    """
    if any(None in branch.values() for branch in branches):
        return False
    works = [sum(count or 0 for count in branch.values()) for branch in branches]
    for place, branch in enumerate(branches):
        if place != works.index(max(works)):
            branch.update(dict.fromkeys(branch, 0))
    return min(works, default=0) > 0 and len(set(works)) > 1


def _trips(model: Model, node: gs.Node, facts: Facts) -> int | None:
    """How often a node runs its bodies; None if it is not known."""
    if node.op == "Loop":
        given = None if node.inputs[0].is_empty() else model.constant(node.inputs[0])
        most = facts.trips.get(node.inputs[0].name) if given is None else int(given.reshape(-1)[0])
        return None if most is None or most > MOST_TRIPS else max(most, 0)
    if node.op == "Scan":
        axes = list(node.attrs.get("scan_input_axes", ())) or [0]
        shape = shape_of(facts, node.inputs[-int(node.attrs["num_scan_inputs"])].name)
        return None if shape is None else shape[axes[0]]
    return 1
