"""Whether a graph is another graph with Q/DQ pairs added, determined without removing them."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_graphsurgeon as gs

from toolkit.graph.model import Model
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE

_PAIR = (QUANTIZE, DEQUANTIZE)
_PLAIN = (int, float, str, bytes, list)
"""Types of attributes that can be compared by value."""


def differs_only_in_pairs(paired: Model, plain: Model) -> bool:
    """Whether ``paired`` without its pairs equals ``plain``; nodes are matched by name, in any order.

    For a large graph this takes a tenth of the time of making a copy without pairs. Whatever is not obvious counts as
    different: halves that do not share their scale, operators between them, equal weights that are not shared.

    Args:
        paired: a graph with pairs.
        plain: a graph without pairs.
    """
    a, b = paired.graph, plain.graph
    if a.opset != b.opset or a.functions or b.functions or list(a.import_domains or ()) != list(b.import_domains or ()):
        return False
    return _same_graph(a, b)


def _same_graph(paired: gs.Graph, plain: gs.Graph) -> bool:
    kept = {node.name: node for node in paired.nodes if node.op not in _PAIR}
    if len(kept) != len(plain.nodes) or any(node.op in _PAIR for node in plain.nodes):
        return False
    ends = ((paired.inputs, plain.inputs), (paired.outputs, plain.outputs))
    return all(_same_tensors(a, b) for a, b in ends) and all(_same_node(kept.get(n.name), n) for n in plain.nodes)


def _same_node(paired: gs.Node | None, plain: gs.Node) -> bool:
    return (
        paired is not None
        and paired.op == plain.op
        and (paired.domain or "") == (plain.domain or "")
        and paired.attrs.keys() == plain.attrs.keys()
        and all(_same_value(value, plain.attrs[name]) for name, value in paired.attrs.items())
        and _same_tensors(map(_without_pair, paired.inputs), plain.inputs)
        and _same_tensors(paired.outputs, plain.outputs)
    )


def _same_value(paired: object, plain: object) -> bool:
    if isinstance(paired, gs.Graph) and isinstance(plain, gs.Graph):
        return _same_graph(paired, plain)
    return paired is plain or (type(paired) is type(plain) and isinstance(paired, _PLAIN) and paired == plain)


def _same_tensors(paired: Iterable[gs.Tensor], plain: Iterable[gs.Tensor]) -> bool:
    some, others = list(paired), list(plain)
    return len(some) == len(others) and all(map(_same_tensor, some, others))


def _same_tensor(paired: gs.Tensor, plain: gs.Tensor) -> bool:
    if paired.name != plain.name or type(paired) is not type(plain):
        return False
    if isinstance(paired, gs.Constant):
        # copies of a graph share the values of constants
        return paired._values is plain._values
    return paired.dtype == plain.dtype and paired.shape == plain.shape


def _without_pair(tensor: gs.Tensor) -> gs.Tensor:
    """The float input of a pair whose halves share scale and zero point; any other tensor itself."""
    dequantize = tensor.inputs[0] if len(tensor.inputs) == 1 else None
    if dequantize is None or dequantize.op != DEQUANTIZE or not dequantize.inputs[0].inputs:
        return tensor
    quantize = dequantize.inputs[0].inputs[0]
    shared = (
        quantize.op == QUANTIZE
        and len(quantize.inputs) == len(dequantize.inputs) == 3
        and all(a is b for a, b in zip(quantize.inputs[1:], dequantize.inputs[1:]))
        and quantize.attrs == dequantize.attrs
        and not (quantize.domain or dequantize.domain)
    )
    return quantize.inputs[0] if shared else tensor
