"""Operators that move quantized values or choose among them, and so may lie between the halves of a pair.

They do the same to float values as to quantized ones, since quantization preserves order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_graphsurgeon as gs

from toolkit.base.parts import ends_of
from toolkit.base.types import Array
from toolkit.graph.layers.constants import constant_value
from toolkit.graph.model import Model
from toolkit.graph.proto.nodes import ONNX_DOMAINS
from toolkit.graph.surgery.tensors import FLOAT_TYPES, onnx_type
from toolkit.placement.ops import MOVERS

_FIRST = (
    "Compress", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity",
    "MaxPool", "Pad", "ReduceMax", "ReduceMin", "Relu", "Reshape", "Resize", "ReverseSequence", "Slice", "SpaceToDepth",
    "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Upsample",
)  # fmt: skip
_DATA: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(_FIRST, (0,)),
    "Pad": (0, 2),
    "Clip": (0, 1, 2),
    "Where": (1, 2),
    "ScatterElements": (0, 2),
    "ScatterND": (0, 2),
}
_ALL = frozenset({"Concat", "Max", "Min"})
_SAME_RANK = frozenset(
    {
        "Clip", "Concat", "DepthToSpace", "DequantizeLinear", "Dropout", "GatherElements", "Identity", "MaxPool",
        "Pad", "QuantizeLinear", "Relu", "Resize", "ReverseSequence", "ScatterElements", "ScatterND", "Slice",
        "SpaceToDepth", "Split", "Tile", "Transpose", "Upsample",
    }
)  # fmt: skip
_CHANNELS_STAY = frozenset({"Identity", "Dropout"})


def data_inputs(node: gs.Node) -> list[int]:
    """The inputs whose quantized values a node moves to its outputs; empty if it computes something else."""
    if node.domain not in ONNX_DOMAINS or not _moves(node):
        return []
    wanted = range(len(node.inputs)) if node.op in _ALL else _DATA.get(node.op, ())
    return [index for index in wanted if index < len(node.inputs) and not node.inputs[index].is_empty()]


def _moves(node: gs.Node) -> bool:
    """Whether all of its output values are input values, according to its attributes."""
    if node.op == "Resize":
        mode, how = node.attrs.get("mode", "nearest"), node.attrs.get("coordinate_transformation_mode", "")
        return _text(mode) in ("nearest", "linear") and _text(how) != "tf_crop_and_resize"
    if node.op == "Upsample":
        return _text(node.attrs.get("mode", "nearest")) in ("nearest", "linear")
    if node.op in ("ScatterElements", "ScatterND"):
        return _text(node.attrs.get("reduction", "none")) in ("none", "max", "min")
    # before opset 11 the padding value is an attribute, and integers were not allowed
    return not (node.op == "Pad" and "pads" in node.attrs)


def with_moved(model: Model, observed: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """``observed`` with the extremes of tensors that are only moved from others, which calibration does not observe.

    Args:
        model: the graph, with its nodes in order.
        observed: smallest and largest value by tensor; existing entries stay.
    """
    found = dict(observed)
    for node in model.nodes:
        if node.op not in MOVERS or not node.inputs or all(t.name in found for t in node.outputs):
            continue
        ends = [_ends(model, node.inputs[index], found) for index in data_inputs(node)[:1]]
        if not ends or ends[0] is None:
            continue
        low, high = ends[0]
        if node.op == "Pad":
            filled = _filled(model, node)
            low, high = min(low, filled), max(high, filled)
        for tensor in node.outputs:
            found.setdefault(tensor.name, (low, high))
    return found


def _filled(model: Model, node: gs.Node) -> float:
    """The value that a Pad fills in; 0 if it is not known."""
    given = model.constant(node.inputs[2]) if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
    return float(given.reshape(-1)[0]) if given is not None and given.size else float(node.attrs.get("value", 0.0))


def _ends(model: Model, tensor: gs.Tensor, observed: Mapping[str, tuple[float, float]]) -> tuple[float, float] | None:
    if tensor.name in observed:
        return observed[tensor.name]
    values = model.constant(tensor)
    if values is None or not values.size or values.dtype.kind not in "fV" or onnx_type(values.dtype) not in FLOAT_TYPES:
        return None
    return ends_of(values)


def picks(node: gs.Node) -> bool:
    """Whether a node returns unchanged values from all regions of its first input, so that one scale fits both."""
    nearest = node.op in ("Resize", "Upsample") and _text(node.attrs.get("mode", "nearest")) == "nearest"
    return (nearest or node.op == "MaxPool") and len(node.outputs) == 1 and data_inputs(node) == [0]


def axis_before(model: Model, node: gs.Node, axis: int) -> int | None:
    """The axis of a node's input with the channels that are on ``axis`` of its output; None if it is not known.

    Args:
        node: a node for which ``data_inputs`` is not empty.
        axis: 0 or more.
    """
    if node.op in _CHANNELS_STAY:
        return axis
    if node.op == "Transpose":
        perm = node.attrs.get("perm")
        rank = rank_of(model, node.inputs[0])
        if perm is None:
            return None if rank is None else rank - 1 - axis
        return int(perm[axis])
    if node.op == "MaxPool":
        return axis if axis < 2 else None
    if node.op in ("Split", "Concat"):
        rank = rank_of(model, node.outputs[0]) or rank_of(model, node.inputs[0])
        cut = _from_start([int(node.attrs.get("axis", 0))], rank)
        return axis if cut is not None and axis not in cut else None
    if node.op == "Slice":
        cut = _from_start(_axes(model, node, 3), rank_of(model, node.inputs[0]))
        return axis if cut is not None and axis not in cut else None
    if node.op == "Gather":
        return _before_gather(model, node, axis)
    if node.op in ("Unsqueeze", "Squeeze"):
        return _before_squeeze(model, node, axis)
    return None


def _from_start(axes: Sequence[int] | None, rank: int | None) -> set[int] | None:
    """Axes counted from the first one; None if they are not known, or negative ones without a known rank."""
    if axes is None or (rank is None and any(one < 0 for one in axes)):
        return None
    return {one % rank if rank else one for one in axes}


def _before_gather(model: Model, node: gs.Node, axis: int) -> int | None:
    rank = rank_of(model, node.inputs[1])
    gathered = _from_start([int(node.attrs.get("axis", 0))], rank_of(model, node.inputs[0]))
    if gathered is None:
        return None
    (along,) = gathered
    if axis < along:
        return axis
    if rank is None or axis < along + rank:
        return None
    return axis - rank + 1


def _before_squeeze(model: Model, node: gs.Node, axis: int) -> int | None:
    wide = rank_of(model, node.inputs[0] if node.op == "Squeeze" else node.outputs[0])
    gone = _from_start(_axes(model, node, 1), wide)
    if gone is None:
        return None
    if node.op == "Unsqueeze":
        return None if axis in gone else axis - sum(one < axis for one in gone)
    for one in sorted(gone):
        axis += one <= axis
    return axis


def _axes(model: Model, node: gs.Node, index: int) -> Sequence[int] | None:
    """The parameter axes, an attribute in old operator sets and an input in newer ones; None if not known."""
    if "axes" in node.attrs:
        return [int(one) for one in node.attrs["axes"]]
    if index >= len(node.inputs) or node.inputs[index].is_empty():
        return None
    values: Array | None = constant_value(model, node.inputs[index])
    return None if values is None else [int(one) for one in values.reshape(-1)]


def rank_of(model: Model, tensor: gs.Tensor) -> int | None:
    """The rank of a tensor, from its shape or the operators that produce it; None if unknown."""
    change, seen = 0, set[int]()
    while tensor.shape is None and tensor.inputs and id(tensor) not in seen:
        seen.add(id(tensor))
        node = tensor.inputs[0]
        if node.op in ("Unsqueeze", "Squeeze"):
            axes = _axes(model, node, 1)
            if axes is None:
                return None
            change += len(axes) if node.op == "Unsqueeze" else -len(axes)
        elif node.op == "Gather":
            indices = rank_of(model, node.inputs[1])
            if indices is None:
                return None
            change += indices - 1
        elif node.op == "Flatten":
            return 2 + change
        elif node.op not in _SAME_RANK:
            return None
        tensor = node.inputs[0]
    return None if tensor.shape is None else len(tensor.shape) + change


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
