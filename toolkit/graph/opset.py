"""Operator sets: bringing a graph to a newer one, and operators that ONNX has in none."""

from __future__ import annotations

from functools import cache, lru_cache

import onnx
import onnx_graphsurgeon as gs

from toolkit.base.errors import ModelError
from toolkit.graph.export import NodeMessages, export
from toolkit.graph.importing import import_light
from toolkit.graph.light import large_header, weights_as_inputs
from toolkit.graph.nodes import all_nodes
from toolkit.graph.onnx_file import normalise
from toolkit.graph.tensors import onnx_type

_ONNX = ("", "ai.onnx")
_FOREIGN = "qtool.foreign"
_PER_CHANNEL = 21
"""The opset from which on GroupNormalization means something else (ONNX's Changelog.md, GroupNormalization-21)."""


def name_foreign(proto: onnx.ModelProto, withdrawn: bool = False) -> bool:
    """Give operators that ONNX has in no version a domain of their own, in place.

    Plugins of TensorRT stand in ONNX's own domain, where checker and converter refuse what they do not know.

    Args:
        proto: the model.
        withdrawn: whether those too that ONNX took back in the model's opset, as GroupNormalization of 18 to 20, which
            runtimes compute all the same.

    Returns:
        Whether there were any.
    """
    version = next((entry.version for entry in proto.opset_import if entry.domain in _ONNX), 1)
    foreign = [
        node
        for node in all_nodes(proto.graph.node)
        if node.domain in _ONNX
        and (not onnx.defs.has(node.op_type) or (withdrawn and _withdrawn(node.op_type, version)))
    ]
    for node in foreign:
        node.domain = _FOREIGN
    if foreign:
        proto.opset_import.add(domain=_FOREIGN, version=1)
    return bool(foreign)


@lru_cache(maxsize=1024)
def _withdrawn(op: str, version: int) -> bool:
    try:
        return bool(onnx.defs.get_schema(op, version, "").deprecated)
    except onnx.defs.SchemaError:
        return False


def convert_opset(model: gs.Graph, target: int, where: str, known: NodeMessages | None = None) -> gs.Graph:
    """The graph at a newer opset, by ONNX's version converter; large weights stay where they are.

    ``known`` has messages of nodes that were written before.

    Raises:
        ModelError: the converter has no way for one of the operators.
    """
    light = export(model, where, known)
    own = [node for node in all_nodes(light.proto.graph.node) if node.domain in _ONNX]
    groups = [node.name for node in own if node.op_type == "GroupNormalization"]
    if groups and model.opset < _PER_CHANNEL <= target:
        raise ModelError(
            f"opset {model.opset} cannot be raised to {target}: node '{groups[0]}' (GroupNormalization) has a scale "
            f"a group, and from opset {_PER_CHANNEL} on one a channel, which ONNX's converter gets wrong",
            where=where,
            remedy=f"export the model at opset {_PER_CHANNEL} or later, or at 17",
        )
    light.proto.ir_version = max(model.ir_version or 0, 8)
    given = [value.name for value in light.proto.graph.input]
    proto = weights_as_inputs(light.proto, light.weights)
    foreign = name_foreign(proto)
    try:
        converted = proto if _renumbered(proto, target) else onnx.version_converter.convert_version(proto, target)
    except Exception as error:
        raise ModelError(
            f"opset {model.opset} cannot be raised to {target}: {' '.join(str(error).split())[:300]}",
            where=where,
            remedy=f"export the model at opset {target} or later",
        ) from error
    for node in all_nodes(converted.graph.node) if foreign else ():
        node.domain = "" if node.domain == _FOREIGN else node.domain
    if model.opset < 11 <= target:
        _mend_resizes(proto, converted)
    for node in converted.graph.node:
        if node.op_type == "Dropout":
            # The converter makes the ratio a tensor of one element where a scalar is due; inference needs it not.
            del node.input[1:]
    inputs = [value for value in converted.graph.input if value.name in given]
    del converted.graph.input[:]
    converted.graph.input.extend(inputs)
    converted.graph.initializer.extend(
        large_header(name, onnx_type(values.dtype), tuple(values.shape)) for name, values in light.weights.items()
    )
    light.proto, _ = normalise(converted, where)
    return import_light(light.lighten())


def _renumbered(proto: onnx.ModelProto, target: int) -> bool:
    """Change the number alone, in place, where both opsets define all of the model's operators alike."""
    own = [one for one in proto.opset_import if one.domain in _ONNX]
    ops = {node.op_type for node in all_nodes(proto.graph.node) if node.domain in _ONNX}
    if proto.functions or any(_since(op, one.version) != _since(op, target) for op in ops for one in own):
        return False
    for one in own:
        one.version = target
    return True


@cache
def _since(op: str, opset: int) -> int:
    """The opset that defined an operator as it is in this one."""
    return int(onnx.defs.get_schema(op, opset).since_version)


def _mend_resizes(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Say how Resize and Upsample of opset 9 and 10 place their samples; the converter leaves opset 11's defaults.

    They meant asymmetric coordinates, rounded down (ONNX's Changelog.md, Resize-10).
    """
    old = {node.output[0] for node in before.graph.node if node.op_type in ("Resize", "Upsample")}
    for node in after.graph.node:
        if node.op_type == "Resize" and node.output[0] in old:
            kept = [a for a in node.attribute if a.name not in ("coordinate_transformation_mode", "nearest_mode")]
            del node.attribute[:]
            node.attribute.extend(kept)
            node.attribute.append(onnx.helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
            node.attribute.append(onnx.helper.make_attribute("nearest_mode", "floor"))
