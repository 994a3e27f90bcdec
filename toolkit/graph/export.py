"""From onnx-graphsurgeon's graph to ONNX's protobuf message, and the opset conversion that goes there and back."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from toolkit.base.errors import ModelError
from toolkit.graph.onnx_file import normalise


def export(graph: gs.Graph) -> onnx.ModelProto:
    """The graph as a message, types unchecked; subgraphs without the copies that graphsurgeon writes into them."""
    proto = gs.export_onnx(graph, do_type_check=False)
    _drop_shadows(proto.graph, set())
    return proto


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
    graph = model.copy()
    weights: dict[str, gs.Constant] = {}
    for tensor in list(graph.tensors().values()):
        if isinstance(tensor, gs.Constant) and tensor.values.size > 4096:
            weights[tensor.name] = gs.Constant(tensor.name, tensor._values)
            tensor.to_variable(dtype=tensor.dtype, shape=list(tensor.shape))
            tensor.type = "tensor_type"
            graph.inputs.append(tensor)
    graph.ir_version = max(graph.ir_version or 0, 8)
    light = export(graph)
    try:
        converted = onnx.version_converter.convert_version(light, target)
    except Exception as error:
        raise ModelError(
            f"opset {model.opset} cannot be raised to {target}: {' '.join(str(error).split())[:300]}",
            where=where,
            remedy=f"export the model at opset {target} or later",
        ) from error
    if model.opset < 11 <= target:
        _mend_resizes(light, converted)
    for node in converted.graph.node:
        if node.op_type == "Dropout":
            # The converter makes the ratio a tensor of one element where a scalar is due; inference needs it not.
            del node.input[1:]
    proto, _ = normalise(converted, where)
    result = gs.import_onnx(proto)
    tensors_by_name = result.tensors()
    for name, weight in weights.items():
        if name in tensors_by_name:
            tensors_by_name[name].to_constant(weight._values)
    result.inputs = [t for t in result.inputs if t.name not in weights]
    return result


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
