"""Between onnx-graphsurgeon's graphs and messages without their large weights, and the conversion of the opset."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues
from onnx_graphsurgeon.util.misc import convert_from_onnx_attr_type

from toolkit.base.errors import ModelError
from toolkit.graph.light import (
    APART,
    LARGE,
    LightModel,
    fits_message,
    is_away,
    large_header,
    weights_as_inputs,
)
from toolkit.graph.names import Names
from toolkit.graph.nodes import all_nodes, subgraphs_of
from toolkit.graph.onnx_file import normalise
from toolkit.graph.stored import BITS
from toolkit.graph.tensors import StoredValues, onnx_type, values_of

_ONNX = ("", "ai.onnx")
_FOREIGN = "qtool.foreign"
_LISTS = (onnx.AttributeProto.FLOATS, onnx.AttributeProto.INTS, onnx.AttributeProto.STRINGS)


def export(graph: gs.Graph, where: str = "the model") -> LightModel:
    """The graph as a message without its large weights, types unchecked; nothing of the weights is copied.

    Subgraphs come without the copies that graphsurgeon writes into them. Their own large constants stay in them, unless
    the message would be too large with these: then the main graph has them, where subgraphs find them as well.
    """
    large = [tensor for tensor in graph.tensors().values() if _is_large(tensor)]
    main = {id(tensor) for tensor in large}
    inner = [tensor for tensor in _inner_constants(graph) if id(tensor) not in main and _is_large(tensor)]
    hoisted = [] if fits_message(2 * sum(map(_size, inner))) else inner
    held = [(tensor, tensor._values, tensor.name) for tensor in (*large, *hoisted)]
    try:
        _name_apart(graph, hoisted)
        weights = {tensor.name: values_of(tensor) for tensor in (*large, *hoisted)}
        headers = {
            name: large_header(name, onnx_type(values.dtype), tuple(values.shape)) for name, values in weights.items()
        }
        moved = {tensor.name for tensor in hoisted}
        for tensor, _, _ in held:
            tensor._values = LazyValues(headers[tensor.name])
        proto = gs.export_onnx(graph, do_type_check=False)
    finally:
        for tensor, values, name in held:
            tensor._values, tensor.name = values, name
    _drop_shadows(proto.graph, set())
    for sub in subgraphs_of(proto.graph) if moved else ():
        kept = [tensor for tensor in sub.initializer if tensor.name not in moved]
        del sub.initializer[:]
        sub.initializer.extend(kept)
    proto.graph.initializer.extend(headers[name] for name in sorted(moved))
    return LightModel(proto, weights, where)


def import_light(model: LightModel) -> gs.Graph:
    """A message without its large weights as a graph that has them: those of ``model``, not copies.

    Attributes of plugins that are no text leave the message.
    """
    kept = _unlike_graphsurgeons(model.proto)
    graph = gs.import_onnx(model.proto)
    for tensor in {id(t): t for t in (*graph.tensors().values(), *_inner_constants(graph))}.values():
        if isinstance(tensor, gs.Constant) and tensor.name in model.weights and _is_stub(tensor):
            tensor._values = StoredValues(model.weights[tensor.name], onnx_type(tensor.dtype))
    for sub in (graph, *graph.subgraphs(recursive=True)) if kept else ():
        for node in sub.nodes:
            node.attrs.update(kept.get(node.name, {}))
    return graph


def _unlike_graphsurgeons(proto: onnx.ModelProto) -> dict[str, dict[str, Any]]:
    """Attributes that onnx-graphsurgeon cannot take or give as they are, by node: lists without entries, and bytes.

    Bytes, which plugins have, leave the message; it gives them where they are an attribute's value.
    """
    found: dict[str, dict[str, Any]] = {}
    for node in all_nodes(proto.graph.node):
        for attribute in node.attribute:
            if attribute.type in _LISTS and not (attribute.floats or attribute.ints or attribute.strings):
                found.setdefault(node.name, {})[attribute.name] = _EmptyList(attribute.type)
            elif attribute.type == onnx.AttributeProto.STRING and not _is_text(attribute.s):
                found.setdefault(node.name, {})[attribute.name] = attribute.s
                attribute.s = b""
            elif attribute.type == onnx.AttributeProto.STRINGS and not all(map(_is_text, attribute.strings)):
                found.setdefault(node.name, {})[attribute.name] = list(attribute.strings)
                del attribute.strings[:]
    return found


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


class _EmptyList(list[Any], gs.Node.AttributeRef):
    """A list attribute without entries, whose type nothing else would tell when it is written again.

    It is a reference to no attribute as well: of a reference onnx-graphsurgeon writes the type.
    """

    def __init__(self, kind: int) -> None:
        super().__init__()
        self.name, self.type = "", convert_from_onnx_attr_type(kind)


def _is_stub(tensor: gs.Constant) -> bool:
    held = tensor._values
    return isinstance(held, LazyValues) and not isinstance(held, (SparseValues, StoredValues)) and is_away(held.tensor)


def _is_large(tensor: gs.Tensor) -> bool:
    if not isinstance(tensor, gs.Constant) or isinstance(tensor._values, SparseValues):
        return False
    kind = onnx_type(tensor.dtype)
    return kind in APART and math.prod(tensor.shape) >= LARGE


def _size(tensor: gs.Constant) -> int:
    return math.prod(tensor.shape) * BITS[onnx_type(tensor.dtype)] // 8


def _inner_constants(graph: gs.Graph) -> Iterator[gs.Constant]:
    """The constants that subgraphs read or give, each once; those of the main graph may be among them."""
    seen: set[int] = set()
    for node in graph.nodes:
        for sub in node.subgraphs(recursive=True):
            for tensor in (*sub.outputs, *(t for inner in sub.nodes for t in inner.inputs)):
                if isinstance(tensor, gs.Constant) and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield tensor


def _name_apart(graph: gs.Graph, inner: Iterable[gs.Constant]) -> None:
    """Give constants of subgraphs names that mean nothing else anywhere: those of two subgraphs may have one name."""
    taken = Names(graph.tensors())
    for sub in graph.subgraphs(recursive=True):
        taken.update(t.name for t in sub.inputs)
        taken.update(t.name for node in sub.nodes for t in node.outputs)
    names: dict[tuple[str, int], str] = {}
    for tensor in inner:
        key = tensor.name, id(tensor._values)
        if key not in names:
            names[key] = taken.take(tensor.name)
        tensor.name = names[key]


def name_foreign(proto: onnx.ModelProto) -> bool:
    """Give operators that ONNX has in no version a domain of their own, in place.

    Plugins of TensorRT stand in ONNX's own domain, where checker and converter refuse what they do not know.

    Returns:
        Whether there were any.
    """
    foreign = [n for n in all_nodes(proto.graph.node) if n.domain in _ONNX and not onnx.defs.has(n.op_type)]
    for node in foreign:
        node.domain = _FOREIGN
    if foreign:
        proto.opset_import.add(domain=_FOREIGN, version=1)
    return bool(foreign)


def _drop_shadows(graph: onnx.GraphProto, outer: set[str]) -> None:
    """Remove from subgraphs the copies of outer constants and value infos that graphsurgeon writes into them."""
    for field_name in ("initializer", "value_info") if outer else ():
        entries = getattr(graph, field_name)
        kept = [entry for entry in entries if entry.name not in outer]
        if len(kept) != len(entries):
            del entries[:]
            entries.extend(kept)
    names = outer | {t.name for t in graph.initializer} | {t.name for t in graph.input}
    names |= {name for node in graph.node for name in node.output}
    for node in graph.node:
        for attribute in node.attribute:
            for sub in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
                if sub.node or sub.output:
                    _drop_shadows(sub, names)


def convert_opset(model: gs.Graph, target: int, where: str) -> gs.Graph:
    """The graph at a newer opset, by ONNX's version converter; large weights stay where they are.

    Raises:
        ModelError: the converter has no way for one of the operators.
    """
    light = export(model, where)
    light.proto.ir_version = max(model.ir_version or 0, 8)
    given = [value.name for value in light.proto.graph.input]
    proto = weights_as_inputs(light.proto, light.weights)
    foreign = name_foreign(proto)
    try:
        converted = onnx.version_converter.convert_version(proto, target)
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
