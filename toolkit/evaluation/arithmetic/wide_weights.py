"""Widen the float16 weights of layers that onnxruntime computes in float32 once, instead of in every run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from toolkit.base.types import Array
from toolkit.graph.large_models.memory import weights_limit
from toolkit.graph.proto.light import LARGE, LightModel, large_header
from toolkit.graph.proto.names import Names
from toolkit.graph.proto.nodes import reads_of, subgraphs_of
from toolkit.graph.proto.scopes import defined
from toolkit.graph.proto.strangers import operator_of
from toolkit.graph.sessions.session import session
from toolkit.placement.ops import DEQUANTIZE, MOVERS

_IN_FLOAT32 = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"})
"""Operators with large weights that onnxruntime's CPU provider computes in float32."""
_OF_WEIGHTS = frozenset({DEQUANTIZE, "Cast", *MOVERS})
"""Operators between a stored weight and the node that reads it."""
_MOST_BYTES = 256 << 20
"""Largest size of a model's widened weights, in bytes."""
_TIMES = 2
"""Copies of the widened weights while a session is loaded: onnxruntime's own and the one passed to it."""
_OVERRIDABLE = 4
"""The IR version from which on an initializer that is also an input is a default that can be overridden."""


def widen_weights(model: LightModel, types: Mapping[str, int]) -> LightModel:
    """Store large float16 weights as float32 if onnxruntime would convert them in every run; returns the model.

    They are followed by a Cast to float16, which onnxruntime removes together with the Cast to float32 that it inserts.
    The values do not change: they are computed once by the model's own nodes. They become inputs with a default, so
    that onnxruntime neither folds the Cast nor chooses kernels for constant weights, which sum in another order. If
    they do not fit in memory, the model is left unchanged.

    Args:
        model: a lowered model; it is changed in place.
        types: the types of the model's tensors by name, as ``onnx.TensorProto`` constants.
    """
    graph = model.proto.graph
    constant = {tensor.name for tensor in graph.initializer} - {value.name for value in graph.input}
    makers = _makers(graph, constant)
    names = [name for name in _widened(graph, {*constant, *makers}) if types.get(name) == TensorProto.FLOAT16]
    made = _values(model, names, makers) if _have_room(model) else {}
    if not made:
        return model
    taken = Names(name for one in (graph, *subgraphs_of(graph)) for name in defined(one))
    nodes, narrowed = [], {name: name if name in makers else taken.take(f"{name} narrowed") for name in made}
    for name, values in made.items():
        wide = taken.take(f"{name} widened")
        nodes.append(helper.make_node("Cast", [wide], [narrowed[name]], to=TensorProto.FLOAT16))
        graph.initializer.append(large_header(wide, TensorProto.FLOAT, values.shape))
        graph.input.append(helper.make_tensor_value_info(wide, TensorProto.FLOAT, values.shape))
        model.weights[wide] = values
    for node in graph.node:
        if made.keys().isdisjoint(node.output):
            node.input[:] = [narrowed.get(name, name) for name in node.input]
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def _have_room(model: LightModel) -> bool:
    """Whether all large weights fit in memory in float32, and the IR version allows inputs with a default."""
    size, room = sum(value.size for value in model.weights.values()) * np.dtype(np.float32).itemsize, weights_limit()
    fits = size <= _MOST_BYTES and (room is None or _TIMES * size <= room)
    return fits and model.proto.ir_version >= _OVERRIDABLE


def _makers(graph: onnx.GraphProto, constant: Collection[str]) -> dict[str, onnx.NodeProto]:
    """By tensor, the node that computes it from constants alone, by moving, casting or dequantizing them."""
    known, found = set(constant), dict[str, onnx.NodeProto]()
    for node in graph.node:
        if operator_of(node) in _OF_WEIGHTS and len(node.output) == 1 and known.issuperset(filter(None, node.input)):
            known.add(node.output[0])
            found[node.output[0]] = node
    return found


def _widened(graph: onnx.GraphProto, constant: Collection[str]) -> list[str]:
    """The constants that are read only by nodes that compute in float32."""
    taken, other = dict[str, None](), {value.name for value in graph.output}
    for node in graph.node:
        if node.op_type in _IN_FLOAT32 and not node.domain:
            taken.update(dict.fromkeys(name for name in node.input if name in constant))
        else:
            other |= reads_of(node)
    return [name for name in taken if name not in other]


def _values(model: LightModel, names: Sequence[str], makers: Mapping[str, onnx.NodeProto]) -> dict[str, Array]:
    """The values, in float32, of those of the float16 constants that are large (see ``LARGE``)."""
    made = {name: model.weights[name] for name in names if name in model.weights}
    nodes = dict[str, onnx.NodeProto]()
    waiting = computed = [name for name in names if name in makers]
    while waiting:
        needed = {name: makers[name] for name in waiting if name not in nodes}
        nodes.update(needed)
        waiting = [name for node in needed.values() for name in node.input if name in makers]
    if computed:
        part = LightModel(onnx.ModelProto(ir_version=model.proto.ir_version), dict(model.weights), model.where)
        part.proto.opset_import.extend(model.proto.opset_import)
        read = {name for node in nodes.values() for name in node.input}
        part.proto.graph.name = "weights"
        part.proto.graph.node.extend(node for name, node in makers.items() if name in nodes)
        part.proto.graph.initializer.extend(one for one in model.proto.graph.initializer if one.name in read)
        part.weights = {name: value for name, value in model.weights.items() if name in read}
        part.proto.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT16, None) for name in computed
        )
        made.update(session(part, optimise=False).run({}))
    return {name: made[name].astype(np.float32) for name in names if name in made and made[name].size >= LARGE}
