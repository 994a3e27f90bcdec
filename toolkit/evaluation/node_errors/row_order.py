"""Finds tensors whose rows two models may hold in another order, or of other objects: rows selected by their values."""

from __future__ import annotations

from collections.abc import Collection

import onnx_graphsurgeon as gs

from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.graph.interface.used_inputs import SIZES
from toolkit.graph.model import Model
from toolkit.graph.shape_inference.facts import Facts
from toolkit.graph.surgery.assemble import bodies, reads
from toolkit.placement.ops import MOVERS, TARGETS

_SELECTING = frozenset({"NonZero", "NonMaxSuppression", "Compress", "Unique"})
"""Operators that select rows by value, so that the place of a row depends on others. The values of a TopK do not count:
they are sorted in both models, unlike what its indices select."""
_SCATTERING = frozenset({"Scatter", "ScatterElements", "ScatterND"})
"""Operators that write rows to the places that they were selected from."""
_PLAIN = MOVERS | {"Cast", "Constant", "ConstantOfShape"}
"""Operators whose results are the same in both models if their inputs are."""

Selecting = frozenset[str]
"""Names of nodes that select rows."""


def selected_rows(model: Model) -> dict[str, Selecting]:
    """By tensor, the nodes that select its rows by values that differ between two models; others are missing.

    Compared by position, rows of such tensors are those of different objects where a single decision differs.
    """
    return {name: by for name, by in Followed.through(model).order.items() if by}


def rows_by_value(model: Model, measured: Collection[str] = ()) -> list[Finding]:
    """A finding that layers have no error since their rows are selected by value; empty if there are none.

    Args:
        model: the float model.
        measured: names of the nodes with an error all the same.
    """
    rows = selected_rows(model)
    layers = [node for node in model.nodes if node.op in TARGETS and any(one.name in rows for one in node.outputs)]
    layers = [node for node in layers if node.name not in measured]
    if not layers:
        return []
    by = sorted(frozenset().union(*(rows[one.name] for node in layers for one in node.outputs if one.name in rows)))
    return [EvaluationCode.ROWS_BY_VALUE(by=by, layers=len(layers))]


class Followed:
    """Follows the selected rows through a graph, node by node in graph order.

    Attributes:
        order: by tensor, the nodes that its rows' order depends on.
    """

    def __init__(self, model: Model) -> None:
        self.order: dict[str, Selecting] = {}
        self._facts = model.facts()
        self._model = model
        # by tensor, the selecting nodes between which and the tensor there are no others
        self._nearest: dict[str, Selecting] = {}
        self._computed: set[str] = set()
        self._counts: dict[str, int] = {}

    @classmethod
    def through(cls, model: Model) -> Followed:
        """The rows of all tensors of a graph."""
        found = cls(model)
        for node in model.nodes:
            found.follow(node)
        return found

    def follow(self, node: gs.Node) -> None:
        """Set what is known of a node's outputs."""
        names = [] if node.op in SIZES else list(reads(node))
        computed = any(name in self._computed for name in names)
        # floats that were computed differ between the models, and so does all that depends on them
        makes_floats = node.op not in _PLAIN and any(self._facts.is_float(tensor.name) for tensor in node.outputs)
        order = frozenset[str]().union(*(self.order.get(name, frozenset()) for name in names))
        nearest = frozenset[str]().union(*(self._nearest.get(name, frozenset()) for name in names))
        if node.op in _SCATTERING:
            order = self._put_back(node)
        elif node.op.startswith("Reduce"):
            order -= self._summed(order, _reduced_extents(node, self._model, self._facts))
        elif node.op == "MatMul":
            order -= self._summed(order, _contracted_extents(node, self._facts))
        for place, tensor in enumerate(node.outputs):
            if computed or makes_floats:
                self._computed.add(tensor.name)
            selects = computed and self._selects(node, place)
            self.order[tensor.name] = order | {node.name} if selects else order
            self._nearest[tensor.name] = frozenset({node.name}) if selects else nearest
        if node.op == "TopK":
            count = self._model.constant(node.inputs[1]) if len(node.inputs) > 1 else None
            self._counts[node.name] = int(count.reshape(-1)[0]) if count is not None else int(node.attrs.get("k", 0))

    def _selects(self, node: gs.Node, place: int) -> bool:
        if node.op == "TopK":
            return place == 1
        inner = (one for body in bodies(node, recursive=True) for one in body.nodes)
        return any(one.op in _SELECTING or "NMS" in one.op for one in (node, *inner))

    def _put_back(self, node: gs.Node) -> Selecting:
        """The order after rows were written to their places: that of the places."""
        data, places, rows = (self.order.get(tensor.name, frozenset()) for tensor in node.inputs[:3])
        return data | ((places | rows) - self._nearest.get(node.inputs[1].name, frozenset()))

    def _summed(self, order: Selecting, extents: set[int]) -> Selecting:
        """The TopK nodes whose rows, as many as they select, are summed up, whatever their order.

        Args:
            extents: those of the axes that the node sums over.
        """
        return frozenset(name for name in order if self._counts.get(name, 0) in extents)


def _reduced_extents(node: gs.Node, model: Model, facts: Facts) -> set[int]:
    """The extents of the axes that a reduction reduces, as far as known."""
    shapes = facts.shapes.get(node.inputs[0].name, [])
    if not shapes:
        return set()
    given = model.constant(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1].name else None
    axes = node.attrs.get("axes", []) if given is None else given.reshape(-1).tolist()
    rank = len(shapes[0])
    return {shapes[0][axis] for axis in (axes or range(rank)) if -rank <= axis < rank} - {-1, 1}


def _contracted_extents(node: gs.Node, facts: Facts) -> set[int]:
    """The extent of the axis that a MatMul sums over, if known and no axis of the result has it too.

    Experts or neighbours are mixed so. In attention among selected rows, the result has a row for each of them again.
    """
    first, second, made = (facts.shapes.get(one.name, [()])[0] for one in (*node.inputs[:2], node.outputs[0]))
    if not first or not second or not made:
        return set()
    return {first[-1], second[max(len(second) - 2, 0)]} - {-1, 1, *made}
