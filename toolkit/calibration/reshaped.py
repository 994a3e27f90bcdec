"""Tensors with the same values in another shape, order or float type: what is known of one holds for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import onnx_graphsurgeon as gs

from toolkit.graph.model import Model
from toolkit.graph.proto.nodes import ONNX_DOMAINS, SAME_VALUES
from toolkit.graph.surgery.tensors import FLOAT_TYPES

_Known = TypeVar("_Known")


_REARRANGING = frozenset({"DepthToSpace", "SpaceToDepth"})
_PARTS = frozenset({"Slice", "Split", "Gather", "GatherElements", "GatherND", "Expand", "Tile"})
"""Operators whose outputs hold values of their first input only, maybe not all of them."""


def with_reshaped(model: Model, known: Mapping[str, _Known], parts: bool = False) -> dict[str, _Known]:
    """What is known of tensors, extended to those with the same values in another shape, order or float type.

    Args:
        model: the graph; tensors of its main graph are looked at.
        known: what is known, by tensor; it takes precedence for these tensors themselves.
        parts: whether to extend it to parts of a tensor too, such as slices: a range holds for these as well, if none
            of their own can be calibrated.
    """
    found = dict(known)
    if not found:
        return found
    links = _links(model)
    # back to the first of each chain, and from there to all of its branches
    for source, made in reversed(links):
        if made in found:
            found.setdefault(source, found[made])
    for source, made in _links(model, parts=True) if parts else links:
        if source in found:
            found.setdefault(made, found[source])
    return found


def contradictions(model: Model, known: Mapping[str, float]) -> list[str]:
    """The tensors with the same values as another for which something else is known, in the order of ``known``.

    Args:
        model: the graph; tensors of its main graph are looked at.
        known: a number by tensor.
    """
    first = dict[str, str]()
    for source, made in _links(model) if len(known) > 1 else ():
        first[made] = first.get(source, source)
    numbers = dict[str, set[float]]()
    for name, number in known.items():
        numbers.setdefault(first.get(name, name), set()).add(number)
    return [name for name in known if len(numbers[first.get(name, name)]) > 1]


def _links(model: Model, parts: bool = False) -> list[tuple[str, str]]:
    """Pairs of a tensor and one with the same values, or with ``parts`` of it, in graph order."""
    links = []
    for node in model.nodes:
        if _keeps_values(node):
            links.append((node.inputs[0].name, node.outputs[0].name))
        elif parts and node.op in _PARTS and node.domain in ONNX_DOMAINS:
            links += [(node.inputs[0].name, tensor.name) for tensor in node.outputs]
    return links


def _keeps_values(node: gs.Node) -> bool:
    if node.domain not in ONNX_DOMAINS or not node.inputs or not node.outputs:
        return False
    return node.op in SAME_VALUES | _REARRANGING or (node.op == "Cast" and node.attrs.get("to") in FLOAT_TYPES)
