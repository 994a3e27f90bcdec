"""Tensors with the same values in another shape, order or float type: what is known of one holds for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import onnx_graphsurgeon as gs

from toolkit.graph.model import Model
from toolkit.graph.proto.nodes import ONNX_DOMAINS, SAME_VALUES
from toolkit.graph.surgery.tensors import FLOAT_TYPES

_Known = TypeVar("_Known")


def with_reshaped(model: Model, known: Mapping[str, _Known]) -> dict[str, _Known]:
    """What is known of tensors, extended to those with the same values in another shape, order or float type.

    Args:
        model: the graph; tensors of its main graph are looked at.
        known: what is known, by tensor; it takes precedence for these tensors themselves.
    """
    found = dict(known)
    if not found:
        return found
    links = _links(model)
    # back to the first of each chain, and from there to all of its branches
    for source, made in reversed(links):
        if made in found:
            found.setdefault(source, found[made])
    for source, made in links:
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


def _links(model: Model) -> list[tuple[str, str]]:
    return [(node.inputs[0].name, node.outputs[0].name) for node in model.nodes if _keeps_values(node)]


def _keeps_values(node: gs.Node) -> bool:
    if node.domain not in ONNX_DOMAINS or not node.inputs or not node.outputs:
        return False
    return node.op in SAME_VALUES or (node.op == "Cast" and node.attrs.get("to") in FLOAT_TYPES)
