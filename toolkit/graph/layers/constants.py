"""Values of tensors that depend only on constants."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs
from onnx import helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from toolkit.base.types import Array
from toolkit.graph.model import Model
from toolkit.graph.proto.nodes import ONNX_DOMAINS
from toolkit.graph.shape_inference.node_values import run_node
from toolkit.graph.surgery.assemble import bodies
from toolkit.graph.surgery.tensors import make_constant, np_dtype, onnx_type, values_of

_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
"""Operators whose result differs between runs, and so is never constant."""
_TRAINS = 2
"""The input of a Dropout that enables training mode."""


def is_random(node: gs.Node) -> bool:
    """Whether a node draws random numbers in every run, as a Dropout in training mode does."""
    if node.op == "Dropout" and len(node.inputs) > _TRAINS and node.inputs[_TRAINS].name:
        trains = node.inputs[_TRAINS]
        return not isinstance(trains, gs.Constant) or bool(values_of(trains).any())
    return node.op in _RANDOM


def constant_value(model: Model, tensor: gs.Tensor) -> Array | None:
    """The values of a tensor that depends only on constants; None if it does not, or cannot be computed here."""
    known = model.constant(tensor)
    if known is not None:
        return known
    order = _makers(tensor)
    if order is None:
        return None
    values: dict[str, Array] = {}
    for node in order:
        inputs = {t.name: values[t.name] if t.name in values else model.constant(t) for t in node.inputs if t.name}
        if any(value is None for value in inputs.values()):
            return None
        # the reference implementation has Q and DQ only from opset 19 on; older ones mean the same
        opset = max(model.opset, 19) if node.op in ("QuantizeLinear", "DequantizeLinear") else model.opset
        try:
            made = run_node(OnnxExporter.export_node(node), inputs, [helper.make_opsetid("", opset)])  # type: ignore[arg-type]
        except Exception:  # whatever the reference implementation raises: the value stays unknown
            return None
        values.update((t.name, value) for t, value in zip((t for t in node.outputs if t.name), made))
    return values.get(tensor.name)


def with_values(model: Model, values: Mapping[str, Array]) -> None:
    """Replace the values of the constants with these names, in place.

    A constant of another shape is a different one with the same name, and stays. The type bfloat16, which numpy's files
    cannot express, is taken from the constant.
    """
    made: dict[str, gs.Constant] = {}
    for node, _ in model.walk() if values else ():
        for index, tensor in enumerate(node.inputs):
            if tensor.name in values and isinstance(tensor, gs.Constant):
                given = values[tensor.name]
                if tuple(given.shape) != tuple(tensor.shape or ()):
                    continue
                if tensor.name not in made:
                    given = given.view(np_dtype(onnx_type(tensor.dtype))) if given.dtype.kind == "V" else given
                    made[tensor.name] = make_constant(tensor.name, given)
                node.inputs[index] = made[tensor.name]


def is_stored(tensor: gs.Tensor) -> bool:
    """Whether a tensor is an initializer or the output of a Constant node, without decoding its values."""
    return isinstance(tensor, gs.Constant) or bool(tensor.inputs and tensor.inputs[0].op == "Constant")


def _makers(tensor: gs.Tensor) -> list[gs.Node] | None:
    """The nodes that compute a tensor from constants only, in order; None if anything else contributes."""
    order: list[gs.Node] = []
    seen: set[int] = set()
    pending: list[tuple[gs.Tensor, gs.Node | None]] = [(tensor, None)]
    while pending:
        current, done = pending.pop()
        if done is not None:
            order.append(done)
            continue
        # do not decode constants here: a walk may pass all weights of the model
        if current.is_empty() or is_stored(current):
            continue
        if not current.inputs:
            return None
        node = current.inputs[0]
        if is_random(node) or node.domain not in ONNX_DOMAINS or bodies(node):
            return None
        if id(node) not in seen:
            seen.add(id(node))
            pending.append((current, node))
            pending.extend((t, None) for t in node.inputs)
    return order
