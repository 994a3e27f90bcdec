"""Fast creation of onnx-graphsurgeon's nodes and tensors, equal to those made by its constructors.

The constructors insert every tensor into lists that update each other one element at a time, which takes most of the
time of reading and copying a large graph. Attributes are set without access to an object's ``__dict__``: until that is
accessed, Python stores them in the object itself, in a third of the memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.util.misc import SynchronizedList

T = TypeVar("T")
_TENSOR = "tensor_type"
_set = object.__setattr__
"""Bypasses onnx-graphsurgeon's own, which checks every attribute for the lists of nodes and tensors."""


def _tensor(kind: type[T], name: str) -> T:
    """A tensor of one of onnx-graphsurgeon's classes, with only a name and its two synchronized lists."""
    made: T = kind.__new__(kind)
    _set(made, "name", name)
    _set(made, "inputs", _watching(made, "outputs"))
    _set(made, "outputs", _watching(made, "inputs"))
    return made


def variable(name: str, dtype: Any = None, shape: Any = None, kind: str = _TENSOR) -> gs.Variable:
    """A computed tensor, without producer and readers."""
    made = _tensor(gs.Variable, name)
    _set(made, "dtype", dtype)
    _set(made, "shape", shape)
    _set(made, "type", kind)
    return made


def kind_of(tensor: gs.Variable) -> str:
    """The kind of a computed tensor's type; a former constant has none and counts as a tensor."""
    return getattr(tensor, "type", _TENSOR)


def constant(
    name: str, values: LazyValues | Any, data_location: int | None = None, export_dtype: Any = None
) -> gs.Constant:
    """A tensor with known values, which are shared; it has no readers."""
    made = _tensor(gs.Constant, name)
    _set(made, "_values", values)
    _set(made, "data_location", data_location)
    _set(made, "_export_dtype", export_dtype)
    return made


def node(
    op: str,
    name: str,
    attrs: dict[str, Any],
    inputs: Iterable[gs.Tensor],
    outputs: Iterable[gs.Tensor],
    domain: str | None = None,
) -> gs.Node:
    """A node with these inputs and outputs, which is registered in their lists of readers and producers."""
    made: gs.Node = gs.Node.__new__(gs.Node)
    read, gives = _watching(made, "outputs"), _watching(made, "inputs")
    _set(made, "op", op)
    _set(made, "name", name)
    _set(made, "attrs", attrs)
    _set(made, "inputs", read)
    _set(made, "outputs", gives)
    _set(made, "domain", domain)
    list.extend(read, inputs)
    list.extend(gives, outputs)
    for tensor in read:
        list.append(tensor.outputs, made)
    for tensor in gives:
        list.append(tensor.inputs, made)
    return made


def detach(nodes: Iterable[gs.Node]) -> None:
    """Remove nodes from the lists of all their inputs and outputs, like clearing these, but all at once."""
    gone = {id(one): one for one in nodes}
    read = {id(tensor): tensor for one in gone.values() for tensor in one.inputs}
    made = {id(tensor): tensor for one in gone.values() for tensor in one.outputs}
    for one in gone.values():
        list.clear(one.inputs)
        list.clear(one.outputs)
    for tensor in read.values():
        list.__setitem__(tensor.outputs, slice(None), [one for one in tensor.outputs if id(one) not in gone])
    for tensor in made.values():
        list.__setitem__(tensor.inputs, slice(None), [one for one in tensor.inputs if id(one) not in gone])


def discard(graph: gs.Graph, nodes: Iterable[gs.Node]) -> None:
    """Remove nodes from a graph, and free their memory and that of tensors that nothing else refers to.

    The nodes and tensors must not be used afterwards. Without this they would stay in memory until Python's garbage
    collector runs, since objects and their lists refer to each other.
    """
    gone = {id(one): one for one in nodes}
    parts = {id(part): part for one in gone.values() for part in (*one.inputs, *one.outputs)}
    detach(gone.values())
    graph.nodes = [node for node in graph.nodes if id(node) not in gone]
    ends = {id(tensor) for one in (graph, *subgraphs(graph)) for tensor in (*one.inputs, *one.outputs)}
    alone = (part for number, part in parts.items() if number not in ends and not part.inputs and not part.outputs)
    for part in (*gone.values(), *alone):
        object.__delattr__(part, "inputs")
        object.__delattr__(part, "outputs")


def dismantle(graph: gs.Graph) -> None:
    """Free the memory of a graph that is no longer used, whose nodes and tensors refer to each other."""
    held: dict[int, gs.Node | gs.Tensor] = {}
    for one in (graph, *subgraphs(graph)):
        for node in one.nodes:
            held.update((id(part), part) for part in (node, *node.inputs, *node.outputs))
    graph.nodes = []
    for part in held.values():
        object.__delattr__(part, "inputs")
        object.__delattr__(part, "outputs")


def copied(graph: gs.Graph) -> gs.Graph:
    """An independent copy of a graph with its subgraphs; values and other attributes are shared."""
    return _copied(graph, {}, graph.functions)


def _copied(graph: gs.Graph, tensors: dict[int, gs.Tensor], functions: list[gs.Function]) -> gs.Graph:
    def twin(tensor: gs.Tensor) -> gs.Tensor:
        found = tensors.get(id(tensor))
        if found is None:
            if isinstance(tensor, gs.Constant):
                found = constant(tensor.name, tensor._values, None, tensor._export_dtype)
            else:
                found = variable(tensor.name, tensor.dtype, tensor.shape, kind_of(tensor))
            tensors[id(tensor)] = found
        return found

    inputs = [twin(tensor) for tensor in graph.inputs]
    nodes = []
    for one in graph.nodes:
        read, gives = [twin(tensor) for tensor in one.inputs], [twin(tensor) for tensor in one.outputs]
        attrs = dict(one.attrs)
        for name, value in attrs.items():
            if isinstance(value, gs.Graph):
                attrs[name] = _copied(value, tensors, functions)
        nodes.append(node(one.op, one.name, attrs, read, gives, one.domain))
    return gs.Graph(
        nodes, inputs, [twin(tensor) for tensor in graph.outputs], name=graph.name, doc_string=graph.doc_string,
        opset=graph.opset, import_domains=graph.import_domains, functions=functions, ir_version=graph.ir_version,
    )  # fmt: skip


def walk(graph: gs.Graph) -> Iterator[tuple[gs.Node, gs.Graph]]:
    """Every node with its graph, including subgraphs; nodes may be added and removed during iteration."""
    for node in list(graph.nodes):
        yield node, graph
        for value in node.attrs.values() if node.attrs else ():
            if isinstance(value, gs.Graph):
                yield from walk(value)


def bodies(node: gs.Node, recursive: bool = False) -> list[gs.Graph]:
    """The subgraphs of a node; with ``recursive`` also subgraphs inside these."""
    own = [value for value in node.attrs.values() if isinstance(value, gs.Graph)] if node.attrs else []
    return [*own, *(inner for one in own for inner in subgraphs(one))] if recursive and own else own


def reads(node: gs.Node) -> Iterator[str]:
    """Names of the tensors that a node reads, including outer tensors that its subgraphs read."""
    yield from (tensor.name for tensor in node.inputs)
    for sub in bodies(node):
        own = {tensor.name for inner in sub.nodes for tensor in inner.outputs}
        used = [name for inner in sub.nodes for name in reads(inner)]
        yield from (name for name in (*used, *(t.name for t in sub.outputs)) if name not in own)


def body_initial_inputs(node: gs.Node) -> dict[str, str]:
    """The tensors that the inputs of a node's bodies (Loop, Scan) start from: outer names by inner names."""
    pairs = [pair for sub in bodies(node) for pair in zip(sub.inputs, node.inputs)]
    return {inner.name: outside.name for inner, outside in pairs if outside.name}


def body_outputs(node: gs.Node) -> list[str]:
    """Names of the tensors that a node's bodies return, without duplicates."""
    return list(dict.fromkeys(tensor.name for sub in bodies(node) for tensor in sub.outputs))


def outer(graph: gs.Graph) -> Iterator[str]:
    """Names of the outer tensors that a subgraph reads, without those that only its own subgraphs read."""
    own = {t.name for node in graph.nodes for t in node.outputs} | {t.name for t in graph.inputs}
    read = (*graph.outputs, *(t for node in graph.nodes for t in node.inputs))
    yield from (t.name for t in read if t.name not in own)


def subgraphs(graph: gs.Graph) -> Iterator[gs.Graph]:
    """The subgraphs of a graph, at any depth."""
    for one in graph.nodes:
        for value in one.attrs.values():
            if isinstance(value, gs.Graph):
                yield value
                yield from subgraphs(value)


class _Watching(SynchronizedList):
    """A node's or tensor's synchronized list without a ``__dict__``, which would need half of a large graph's memory.

    Elements are removed by identity, since onnx-graphsurgeon compares nodes by their whole content.
    """

    __slots__ = ("field_name", "parent_obj")

    def _remove_from_elem(self, elem: gs.Node | gs.Tensor) -> None:
        others, own = getattr(elem, self.field_name), self.parent_obj
        for place, one in enumerate(others):
            if one is own:
                list.__delitem__(others, place)
                return


def _watching(owner: gs.Node | gs.Tensor, field_name: str) -> Any:
    made = _Watching.__new__(_Watching)
    made.parent_obj, made.field_name = owner, field_name
    return made
