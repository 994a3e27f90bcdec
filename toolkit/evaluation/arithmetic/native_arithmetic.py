"""Run a lowered model in onnxruntime's own arithmetic, which rounds to float16 only between some of its kernels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

import onnx
from onnx import TensorProto, helper

from toolkit.data.dataset import CalibrationData
from toolkit.evaluation.arithmetic.wide_weights import widen_weights
from toolkit.evaluation.comparison.counterparts import Run, run_on
from toolkit.graph.model import Model
from toolkit.graph.proto.light import LightModel
from toolkit.graph.proto.nodes import held_by, opset_of, reads_of
from toolkit.graph.proto.strangers import operator_of
from toolkit.graph.sessions.session import session
from toolkit.placement.ops import QUANTIZE

_DIVIDES_AS_SCALED = 23
"""The opset from which on QuantizeLinear divides in the type of its scale by default."""


def run_natively(subject: Model, named: Mapping[str, str], data: CalibrationData) -> Run:
    """A function that runs a model in onnxruntime's own arithmetic, node by node; it is tried on one sample.

    Args:
        subject: the lowered model.
        named: by the name under which values are returned, the model's tensor, see ``counterparts``.

    Raises:
        ModelError: onnxruntime cannot run the model.
        BackendError: there is not enough memory.
    """
    # no fusions: the last bits that they change may flip as many answers as rounding does; constants are still folded
    light = widen_weights(quantized_in_float32(subject.to_light(metadata=False)), subject.facts().types)
    opened = session(light, outputs=list(named.values()), optimise="constants", arena="shared")
    run = partial(run_on, opened, named=named)
    run(next(data.batches(1)).inputs)
    return run


def quantized_in_float32(model: LightModel) -> LightModel:
    """Cast float16 tensors to float32 before the QuantizeLinears that read them, in place; returns the model.

    The results do not change: onnxruntime's float16 kernel (from 1.24 on) divides in float32 too, but converts one
    value at a time and takes several times as long. The same applies to a Clip before it, which only selects values.
    Models of opset 23 or newer are left unchanged.
    """
    if opset_of(model.proto) < _DIVIDES_AS_SCALED:
        _widen(model.proto.graph, {})
    return model


def _widen(graph: onnx.GraphProto, outer: Mapping[str, int]) -> None:
    """``quantized_in_float32`` for one graph and its subgraphs; ``outer``: types of constants in enclosing graphs."""
    kinds = {**outer, **{tensor.name: tensor.data_type for tensor in graph.initializer}}
    nodes = list(graph.node)
    clips = _clips(graph, nodes, kinds)
    del graph.node[:]
    for node in nodes:
        for body in held_by(node):
            _widen(body, kinds)
        if _quantizes(node, kinds):
            graph.node.extend(_wide(node, [1] if node.input[0] in clips else [0, 1], kinds))
        elif operator_of(node) == "Clip" and node.output[0] in clips:
            graph.node.extend(_wide(node, range(len(node.input)), kinds))
        graph.node.append(node)
    known = [value for value in graph.value_info if value.name not in clips]
    del graph.value_info[:]
    graph.value_info.extend(known)


def _quantizes(node: onnx.NodeProto, kinds: Mapping[str, int]) -> bool:
    """Whether a node quantizes a float16 tensor that is not a constant."""
    known = operator_of(node) == QUANTIZE and kinds.get(node.input[1])
    return known == TensorProto.FLOAT16 and node.input[0] not in kinds


def _clips(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto], kinds: Mapping[str, int]) -> set[str]:
    """Outputs of Clips with constant limits that are only read by float16 QuantizeLinears, as the input to quantize."""
    clips = [node for node in nodes if operator_of(node) == "Clip"]
    made = {node.output[0] for node in clips if all(name in kinds for name in node.input[1:] if name)}
    made -= {value.name for value in graph.output}
    quantized = set[str]()
    for node in nodes if made else ():
        quantized |= {node.input[0]} if _quantizes(node, kinds) else set()
        made -= reads_of(node) if not _quantizes(node, kinds) else set(node.input[1:])
    return made & quantized


def _wide(node: onnx.NodeProto, places: Iterable[int], kinds: Mapping[str, int]) -> Iterator[onnx.NodeProto]:
    """Make a node read some of its inputs in float32; yields the nodes that convert them."""
    for place in places:
        name = node.input[place]
        if not name:
            continue
        node.input[place] = wide = f"{node.output[0]} input {place} widened"
        if name not in kinds:
            # onnxruntime would remove this Cast together with an adjacent one that it inserts, and so the rounding
            kept = f"{node.output[0]} input {place} kept"
            yield helper.make_node("Identity", [name], [kept], f"{node.name} keep {place}")
            name = kept
        yield helper.make_node("Cast", [name], [wide], f"{node.name} widen {place}", to=TensorProto.FLOAT)
