"""Outputs that are initializers, as onnx-simplifier leaves constants that a model returns, such as its version."""

from __future__ import annotations

import onnx

from toolkit.base.errors import ModelError
from toolkit.base.types import Array
from toolkit.graph.proto.names import Names
from toolkit.graph.proto.nodes import all_nodes


def computed_outputs(graph: onnx.GraphProto, where: str, weights: dict[str, Array]) -> int:
    """Insert an Identity between each initializer that is an output, which is renamed, and the output.

    Args:
        graph: the graph, changed in place.
        where: the model's name in errors.
        weights: the large weights' values by name, which are renamed too.

    Returns:
        The number of these outputs.

    Raises:
        ModelError: another output is not produced by any node.
    """
    renamed = _behind_identity(graph)
    weights.update({other: weights.pop(name) for name, other in renamed.items() if name in weights})
    produced = {name for node in graph.node for name in node.output}
    for value in graph.output:
        if value.name not in produced:
            raise ModelError(
                f"output '{value.name}' is not computed by any node",
                where=where,
                remedy="put an Identity node before it, or remove it from the outputs",
            )
    return len(renamed)


def _behind_identity(graph: onnx.GraphProto) -> dict[str, str]:
    """The new names of initializers that were outputs."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    names = [value.name for value in graph.output if value.name in stored]
    if not names:
        return {}
    nodes = list(all_nodes(graph.node))
    taken = Names({*stored, *(name for node in nodes for name in (*node.input, *node.output))})
    renamed = {name: taken.take(f"{name}/value") for name in dict.fromkeys(names)}
    for name, other in renamed.items():
        stored[name].name = other
    for node in nodes:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
    graph.node.extend(
        onnx.helper.make_node("Identity", [other], [name], name=f"{name}/output") for name, other in renamed.items()
    )
    return renamed
