"""Unused names for additions to a graph."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from toolkit.base.errors import PassError


class Names(set[str]):
    """The set of used names."""

    def take(self, base: str) -> str:
        """``base``, or ``base_2`` and so on if it is used; the name is added to the set."""
        name, count = base, 1
        while name in self:
            count += 1
            name = f"{base}_{count}"
        self.add(name)
        return name


def wrong_name(node: gs.Node) -> PassError:
    """The error for a node without a name, or with the name of another node."""
    reads = ", ".join(f"'{tensor.name}'" for tensor in node.inputs) or "no input"
    fault = f"two nodes are named '{node.name}'" if node.name else f"a node has no name ({node.op} of {reads})"
    return PassError(fault, remedy=f"give it a name of its own, model.unique_node('{node.name or node.op.lower()}')")
