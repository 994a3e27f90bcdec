"""Nodes added to a graph to collect statistics of inner tensors, and facts about those tensors."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from toolkit.base.errors import RangesError, did_you_mean
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.data.dataset import CalibrationData
from toolkit.graph.model import Model
from toolkit.graph.shape_inference.facts import Facts
from toolkit.graph.surgery.assemble import bodies
from toolkit.graph.surgery.tensors import FLOAT_TYPES

_FLOATS = FLOAT_TYPES | {TensorProto.DOUBLE}
_LARGEST = float(np.finfo(np.float32).max)
MEMORY = 192 << 20
"""Default for the most bytes of tapped tensors in memory."""
SMALL_BYTES = 1024
"""Most bytes of a sample for which a tensor's values are returned, not its extremes: for a batch of eight they take
less memory than the three nodes that compute these, 8 kB each, and less time than loading and running them."""


@dataclass(frozen=True)
class Probe:
    """The names of the graph outputs that hold a tensor's smallest and largest value, and whether all are finite.

    ``check`` is not finite (for a careful probe: above zero) if a value is NaN or infinite: a sum propagates them,
    while minimum and maximum may ignore a NaN.
    """

    low: str
    high: str
    check: str


def add_probes(
    proto: onnx.ModelProto, tensors: Iterable[str], careful: Iterable[str] = (), other_types: Collection[str] = ()
) -> dict[str, Probe]:
    """Append ReduceMin, ReduceMax and ReduceSum, so that the graph returns three numbers per tensor, not its values.

    Without axes they reduce over everything in every opset. onnxruntime's CPU kernels do not support float16: a Cast is
    inserted for ``other_types``.

    Args:
        proto: the model; changed.
        tensors: the float tensors to watch.
        careful: those with NaN or infinities, which are to be excluded, at the cost of more nodes.
        other_types: those whose type may differ from float32.
    """
    careful = set(careful)
    nodes: list[onnx.NodeProto] = []
    if careful:
        for name, value in (("qtool/largest", _LARGEST), ("qtool/smallest", -_LARGEST)):
            proto.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    probes = {}
    for number, tensor in enumerate(tensors):
        base = f"qtool/probe_{number}"
        wide = tensor
        if tensor in other_types:
            wide = f"{base}/float"
            nodes.append(helper.make_node("Cast", [tensor], [wide], to=TensorProto.FLOAT))
        below = above = summed = wide
        if tensor in careful:
            # infinity minus infinity is NaN, so one test finds both; IsInf would need opset 10
            below, above, summed = f"{base}/below", f"{base}/above", f"{base}/count"
            nodes.append(helper.make_node("Sub", [wide, wide], [f"{base}/zero"]))
            nodes.append(helper.make_node("IsNaN", [f"{base}/zero"], [f"{base}/bad"]))
            nodes.append(helper.make_node("Cast", [f"{base}/bad"], [summed], to=TensorProto.FLOAT))
            nodes.append(helper.make_node("Where", [f"{base}/bad", "qtool/largest", wide], [below]))
            nodes.append(helper.make_node("Where", [f"{base}/bad", "qtool/smallest", wide], [above]))
        probe = Probe(f"{base}/min", f"{base}/max", f"{base}/sum")
        nodes.append(helper.make_node("ReduceMin", [below], [probe.low], keepdims=0))
        nodes.append(helper.make_node("ReduceMax", [above], [probe.high], keepdims=0))
        nodes.append(helper.make_node("ReduceSum", [summed], [probe.check], keepdims=0))
        probes[tensor] = probe
    proto.graph.node.extend(nodes)
    return probes


def check_tensors(model: Model, tensors: Sequence[str], facts: Facts) -> None:
    """Check that every tensor is a float tensor computed in the main graph, or one of its inputs.

    Raises:
        RangesError: one does not exist, is a constant, or is not float.
    """
    made = {t.name for node in model.graph.nodes for t in node.outputs if t.name}
    inputs = {t.name for t in model.graph.inputs}
    known = model.graph.tensors()
    for name in tensors:
        if name not in made and name not in inputs:
            if name in known and known[name] is not None:
                raise RangesError(
                    f"tensor '{name}' is a constant: its range is that of its values",
                    remedy="ask for weight_amax of a constant",
                )
            raise RangesError(
                f"no tensor of the main graph is named '{name}'", remedy=did_you_mean(name, made | inputs)
            )
        kind = facts.types.get(name)
        if kind is not None and kind not in _FLOATS:
            word = TensorProto.DataType.Name(kind).lower()
            raise RangesError(f"tensor '{name}' holds {word}, which has no range", remedy="collect float tensors only")


def repeated_tensors(model: Model, tensors: Iterable[str]) -> set[str]:
    """Those of ``tensors`` that depend only on the samples' shapes, not their values, such as a slice of a position
    table.

    Such a tensor may be computed once per batch instead of once per sample, and then must be counted once for each
    sample of the batch: otherwise the ranges would depend on the batch size.
    """
    reached = {t.name for t in model.graph.inputs}
    for node in model.graph.nodes:
        if node.op in ("Shape", "Size"):
            continue
        read = {t.name for t in node.inputs}
        for sub in bodies(node, recursive=True):
            read |= {t.name for inner in sub.nodes for t in inner.inputs} | {t.name for t in sub.outputs}
        if read & reached or node.op.startswith("Random"):
            reached |= {t.name for t in node.outputs}
    return set(tensors) - reached


def bytes_per_sample(facts: Facts, tensors: Iterable[str]) -> dict[str, int]:
    """Bytes of each tensor for the largest sample of any profile; 0 if shape inference cannot tell.

    Args:
        facts: for the profiles that ``largest_samples`` returns.
        tensors: their names.
    """
    sizes = {}
    for name in tensors:
        shapes = facts.shapes.get(name, [])
        known = [math.prod(shape) for shape in shapes if all(size >= 0 for size in shape)]
        sizes[name] = 4 * max(known, default=0)
    return sizes


def small_tensors(model: Model, facts: Facts, data: CalibrationData, tensors: Iterable[str]) -> frozenset[str]:
    """Those of ``tensors`` that take at most ``SMALL_BYTES`` per sample, for samples of any shape.

    Args:
        facts: for the profiles that ``largest_samples`` returns.
        data: gives the batch axis of each input: if no profile fixes the batch size, and all other dimensions of the
            inputs are known, a first axis of unknown size is the batch axis.
        tensors: names of float32 tensors.
    """
    batched = all(
        isinstance(size, int) or place == data.axes.get(name)
        for name, shape in model.input_shapes().items()
        for place, size in enumerate(shape)
    )

    def small(shape: Sequence[int]) -> bool:
        sizes = shape[1:] if batched and shape[:1] == (-1,) else shape
        return all(size >= 0 for size in sizes) and 4 * math.prod(sizes) <= SMALL_BYTES

    return frozenset(name for name in tensors if (shapes := facts.shapes.get(name)) and all(map(small, shapes)))


def largest_samples(data: CalibrationData) -> Profiles:
    """The largest shapes of each profile with one sample per batch."""
    made = []
    for profile in data.profiles:
        shapes: dict[str, Extent] = {}
        for name, extent in profile.shapes.items():
            axis = data.axes.get(name)
            shape = tuple(1 if one == axis else size for one, size in enumerate(extent.max))
            shapes[name] = Extent(shape, shape, shape)
        made.append(ShapeProfile(profile.name, shapes))
    return Profiles(tuple(made))


def split_by_memory(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """The tensors in groups whose bytes for one sample stay below ``limit``; a larger tensor is a group of its own."""
    groups: list[list[str]] = [[]]
    room = limit
    for name, size in sizes.items():
        if size > room and groups[-1]:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= size
    return groups
