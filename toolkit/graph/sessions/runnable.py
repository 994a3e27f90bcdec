"""The part of a model that onnxruntime can run: all nodes except plugins and those downstream of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import onnx

from toolkit.graph.ort_forms.kernels import runs
from toolkit.graph.proto.nodes import ONNX_DOMAINS, all_nodes, operators_of, opset_of, reads_of
from toolkit.graph.surgery.assemble import bodies
from toolkit.graph.surgery.strangers import op_type

if TYPE_CHECKING:
    from toolkit.graph.model import Model


@dataclass(frozen=True)
class NotRun:
    """The nodes of a model that onnxruntime cannot run.

    Attributes:
        plugins: the operator without a kernel, by name of the main graph's node that is it or contains it.
        downstream: for every node that depends on a plugin's output, the first such plugin.
        tensors: outputs of plugins and of nodes downstream, each with the responsible plugin.
        feeds: the tensors that these nodes read from the part that runs, in the order of reading.
        places: indices of the main graph's nodes that are not run.
    """

    plugins: Mapping[str, str] = field(default_factory=dict)
    downstream: Mapping[str, str] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)
    feeds: Sequence[str] = ()
    places: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.plugins)


@dataclass(frozen=True)
class _Node:
    """A node of the main graph: the plugin operator in it, and the tensors that it reads and produces."""

    name: str
    plugin: str
    reads: Sequence[str]
    makes: Sequence[str]


def not_run_in(proto: onnx.ModelProto, operators: frozenset[tuple[str, str]] | None = None) -> NotRun:
    """The nodes of a model that onnxruntime's CPU provider cannot run; nodes without a name are named by number.

    ``operators`` are those of the message, by domain and name, if known.
    """
    own = {(function.domain, function.name) for function in proto.functions}
    version = opset_of(proto) or None
    if not _plugin((operators if operators is not None else operators_of(proto)) - own, version):
        return NotRun()
    nodes = []
    for number, node in enumerate(proto.graph.node):
        inner = ((one.domain, one.op_type) for one in all_nodes([node]) if (one.domain, one.op_type) not in own)
        reads = [*dict.fromkeys(filter(None, node.input)), *sorted(reads_of(node) - set(node.input))]
        name = node.name or f"{node.op_type} number {number}"
        nodes.append(_Node(name, _plugin(inner, version), reads, list(filter(None, node.output))))
    return _not_run(nodes)


def not_run(model: Model) -> NotRun:
    """The nodes of a model that onnxruntime's CPU provider cannot run."""
    return model.once("not run", lambda: _not_run_of(model))


def _not_run_of(model: Model) -> NotRun:
    if not _plugin({(node.domain or "", op_type(node)) for node, _ in model.walk()}, model.opset):
        return NotRun()
    nodes = []
    for node in model.nodes:
        within = [inner for sub in bodies(node, recursive=True) for inner in sub.nodes]
        plugin = _plugin(((one.domain or "", op_type(one)) for one in (node, *within)), model.opset)
        reads = [tensor.name for tensor in node.inputs if not tensor.is_empty()]
        nodes.append(_Node(node.name, plugin, [*reads, *_from_outside(node)], [t.name for t in node.outputs if t.name]))
    return _not_run(nodes)


def cut(proto: onnx.ModelProto, left: NotRun) -> None:
    """Remove the nodes that cannot be run, in place.

    Outputs that can still be computed stay; they are followed by the tensors that removed nodes read, which serve as
    substitutes. There may be no outputs at all.
    """
    graph = proto.graph
    nodes = [
        onnx.NodeProto.FromString(node.SerializeToString()) for i, node in enumerate(graph.node) if i not in left.places
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    outputs = [value for value in graph.output if value.name not in left.tensors]
    held = {value.name for value in outputs}
    outputs += [onnx.ValueInfoProto(name=name) for name in left.feeds if name not in held]
    del graph.output[:]
    graph.output.extend(outputs)
    kept = [value for value in graph.value_info if value.name not in left.tensors]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _plugin(operators: Iterable[tuple[str, str]], version: int | None) -> str:
    """The first operator without a kernel; empty if there is none."""
    for domain, op in operators:
        if not runs(domain, op, version):
            return op if domain in ONNX_DOMAINS else f"{domain}::{op}"
    return ""


def _from_outside(node: Any) -> list[str]:
    """Names of tensors that a node's subgraphs may read from enclosing graphs."""
    found: dict[str, None] = {}
    for sub in bodies(node, recursive=True):
        found.update((t.name, None) for inner in sub.nodes for t in inner.inputs if not t.is_empty())
        found.update((t.name, None) for t in sub.outputs)
    return list(found)


def _not_run(nodes: Sequence[_Node]) -> NotRun:
    """The nodes without a kernel, and all nodes that depend on them; see ``NotRun``."""
    blamed: dict[int, str] = {i: node.name for i, node in enumerate(nodes) if node.plugin}
    if not blamed:
        return NotRun()
    plugins = {node.name: node.plugin for node in nodes if node.plugin}
    tensors = {name: nodes[i].name for i in blamed for name in nodes[i].makes}
    before = 0
    # a single iteration is enough if the nodes are sorted
    while before != len(blamed):
        before = len(blamed)
        for i, node in enumerate(nodes):
            by = next((tensors[name] for name in node.reads if name in tensors), None)
            if by is not None and i not in blamed:
                blamed[i] = by
                tensors.update((name, by) for name in node.makes)
    made = {name for i, node in enumerate(nodes) if i not in blamed for name in node.makes}
    feeds = dict.fromkeys(name for i in sorted(blamed) for name in nodes[i].reads if name in made)
    downstream = {nodes[i].name: by for i, by in blamed.items() if not nodes[i].plugin}
    return NotRun(plugins, downstream, tensors, list(feeds), frozenset(blamed))
