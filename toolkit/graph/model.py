"""The model being worked on: an onnx-graphsurgeon graph with unique node names, shapes and a fingerprint."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from toolkit.base.collection import collector_paused
from toolkit.base.errors import ModelError, PassError, did_you_mean
from toolkit.base.reading import reading
from toolkit.base.text import on_one_line
from toolkit.graph.files.onnx_file import ONNX, read, write
from toolkit.graph.proto.light import LightModel, SerializedModel, Skeleton, weights_as_inputs
from toolkit.graph.proto.names import Names, wrong_name
from toolkit.graph.proto.nodes import all_nodes
from toolkit.graph.shape_inference.block_functions import declare
from toolkit.graph.shape_inference.dimensions import dim_of
from toolkit.graph.shape_inference.facts import Facts
from toolkit.graph.shape_inference.inferred import Inferred
from toolkit.graph.surgery import assemble
from toolkit.graph.surgery.accepted import accepted
from toolkit.graph.surgery.export import NodeMessages, export
from toolkit.graph.surgery.importing import import_light
from toolkit.graph.surgery.normalise import normalise
from toolkit.graph.surgery.opset import convert_opset, renumbered
from toolkit.graph.surgery.order import drop_unused, sort, tidy
from toolkit.graph.surgery.strangers import op_type
from toolkit.graph.surgery.tensors import StoredValues, content_digest, onnx_type, stored_bytes, values_of

if TYPE_CHECKING:
    from toolkit.base.profiles import Profiles

gs.ir.graph.G_LOGGER.severity = gs.ir.graph.G_LOGGER.ERROR
T = TypeVar("T")


@dataclass(frozen=True)
class Signature:
    """Name and ONNX element type of the graph's inputs and outputs, which passes must keep."""

    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]


class Model:
    """A graph being worked on.

    ``graph`` is an onnx_graphsurgeon graph whose node names are unique over all subgraphs. ``metadata`` maps node
    names to ONNX ``metadata_props``, which graphsurgeon itself drops. ``changed`` counts what reading the file
    changed (see ``normalise``).

    Example:
        >>> model = Model.load("models/digits_cnn.onnx")            # doctest: +SKIP
        >>> [node.name for node in model.nodes if node.op == "Gemm"]  # doctest: +SKIP
    """

    def __init__(
        self,
        graph: gs.Graph,
        metadata: Mapping[str, Mapping[str, str]] | None = None,
        props: Mapping[str, str] | None = None,
        source: Path | None = None,
    ) -> None:
        self.graph = graph
        self.metadata: dict[str, dict[str, str]] = {name: dict(props) for name, props in (metadata or {}).items()}
        self.props: dict[str, str] = dict(props or {})
        self.source = source
        self.changed: dict[str, int] = {}
        self._known, self._inferred = NodeMessages(), Inferred()
        self._checked = b""
        self._found: dict[str, Any] | None = None
        self._as_checked: dict[str, Any] | None = None

    # ---------------------------------------------------------------- reading and writing

    @classmethod
    @collector_paused()
    def load(cls, path: str | os.PathLike[str]) -> Model:
        """Read an ONNX file, with its external data, and give every node a unique name.

        Raises:
            ModelError: no such file, not ONNX, an opset outside 9 to 25, no nodes, broken or unsafe external data.
        """
        light = read(path := Path(path))
        with reading(path, ONNX):
            return cls.from_light(light, source=path)

    @classmethod
    def from_proto(cls, proto: onnx.ModelProto, source: Path | None = None) -> Model:
        """Wrap a model in memory. ``proto`` is not changed."""
        return cls.from_light(LightModel(proto, where=str(source or "the model")), source)

    @classmethod
    @collector_paused()
    def from_light(cls, light: LightModel, source: Path | None = None) -> Model:
        """Wrap a message and the arrays of its large weights, which must not be changed; neither is changed here."""
        weights = dict(light.weights)
        proto, changed = normalise(light.proto, light.where, weights)
        light = replace(light, proto=proto, weights=weights).lighten()
        metadata = {
            node.name: {p.key: p.value for p in node.metadata_props}
            for node in all_nodes(proto.graph.node)
            if node.metadata_props
        }
        model = cls(import_light(light), metadata, {p.key: p.value for p in proto.metadata_props}, source)
        model.changed = changed
        return model

    @collector_paused()
    def to_light(self, ir_version: int | None = None, metadata: bool = True) -> LightModel:
        """The model as a message, with or without node metadata, and its large weights beside it, not copied."""
        light = self._exported()
        self.graph.ir_version = light.proto.ir_version = ir_version or max(self.graph.ir_version or 0, 8)
        for node in all_nodes(light.proto.graph.node) if metadata and self.metadata else ():
            for key, value in self.metadata.get(node.name, {}).items():
                node.metadata_props.add(key=key, value=value)
        for key, value in self.props.items():
            light.proto.metadata_props.add(key=key, value=value)
        return light

    def to_proto(self, ir_version: int | None = None) -> onnx.ModelProto:
        """The whole model as a protobuf message, node metadata included: a copy of all weights."""
        return self.to_light(ir_version).whole()

    def save(self, path: str | os.PathLike[str], ir_version: int | None = None) -> Path:
        """Write the model atomically, with ``<name>.<hash>.data`` above 1.9 GB; a ModelError over its own source."""
        path = Path(path)
        if self.source is not None and path.exists() and path.resolve() == self.source.resolve():
            raise ModelError("refusing to overwrite the input model", where=str(path), remedy="give another file name")
        return write(self.to_light(ir_version), path)

    def to_bytes(self) -> bytes:
        """The serialized model; the same graph always gives the same bytes.

        Raises:
            ModelError: it exceeds the size limit of a protobuf message; save it to a file instead.
        """
        light = self.to_light()
        if not light.fits_whole():
            raise ModelError("the model is too large for one message", remedy="save it to a file and use its path")
        return bytes(light.whole().SerializeToString(deterministic=True))

    def fingerprint(self) -> str:
        """SHA-256 of graph and weights, in hex; node metadata and file names are not included."""
        found = self._skeleton_now()
        if not found.fingerprint:
            constants = (t for node, _ in self.walk() for t in node.inputs if isinstance(t, gs.Constant))
            stored = {id(t._values.array): t._values for t in constants if isinstance(t._values, StoredValues)}
            skeleton = onnx.ModelProto.FromString(found.content)
            for name, values in sorted(found.weights.items()):
                held = stored.get(id(values))
                digest = held.digest if held is not None else content_digest(values)
                skeleton.metadata_props.add(key=name, value=digest)
            found.fingerprint = hashlib.sha256(skeleton.SerializeToString(deterministic=True)).hexdigest()
        return found.fingerprint

    @collector_paused()
    def copy(self) -> Model:
        """An independent copy of the graph; weights are shared."""
        made = Model(assemble.copied(self.graph), self.metadata, self.props, self.source)
        made._known, made._inferred, made._checked = self._known, self._inferred, self._checked
        return made

    def become(self, other: Model) -> None:
        """Take over another model's graph and node metadata; the other must not be used afterwards."""
        self.graph, self.metadata, self.props = other.graph, other.metadata, other.props
        self._forget()

    def settle(self, checked: bool = False) -> Model:
        """Declare that the graph will not change from now on; returns the model.

        Results derived from the graph are then cached. ``checked`` says that it has not changed since ``check`` either.
        """
        self._found = self._found if self._found is not None else ((checked and self._as_checked) or {})
        return self.changing()

    def changing(self) -> Model:
        """Drop cached results before the graph is changed; returns the model."""
        self._as_checked = None
        return self

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Within the block the graph is changed only through the model's own methods; see ``settle``."""
        before = self._found
        self.settle()
        try:
            yield
        finally:
            self._found = before

    def once(self, what: str, found: Callable[[], T]) -> T:
        """The result of ``found``, which is called once per name while the graph is settled."""
        if self._found is None:
            return found()
        if what not in self._found:
            self._found[what] = found()
        return cast("T", self._found[what])

    def drop(self, what: str) -> None:
        """Drop the result that ``once`` cached under a name."""
        (self._found or {}).pop(what, None)

    def _forget(self) -> None:
        (self.changing()._found or {}).clear()

    # ---------------------------------------------------------------- looking

    @property
    def nodes(self) -> list[gs.Node]:
        """The nodes of the main graph, in stored order."""
        return list(self.graph.nodes)

    @property
    def opset(self) -> int:
        """The version of the default ONNX operator set."""
        return int(self.graph.opset)

    def walk(self) -> Iterator[tuple[gs.Node, gs.Graph]]:
        """Every node with the graph it is in, subgraphs of If, Loop and Scan included."""
        return assemble.walk(self.graph)

    def node(self, name: str) -> gs.Node:
        """The node of that name, in any subgraph.

        Raises:
            PassError: there is none; the message names the closest.
        """
        for node, _ in self.walk():
            if node.name == name:
                return node
        raise PassError(f"no node is named '{name}'", remedy=did_you_mean(name, self.node_names()))

    def node_names(self) -> list[str]:
        """The names of all nodes, subgraphs included."""
        return [node.name for node, _ in self.walk()]

    def tensor_names(self) -> Names:
        """The names of all tensors, subgraphs included; its ``take`` returns unused names and records them."""
        held = {id(t): t for n, _ in self.walk() for side in (n.inputs, n.outputs) for t in side}
        return Names([t.name for t in (*held.values(), *self.graph.inputs, *self.graph.outputs)])

    def producer(self, tensor: gs.Tensor) -> gs.Node | None:
        """The node that produces a tensor, or None for inputs and constants."""
        return tensor.inputs[0] if tensor.inputs else None

    def is_output(self, tensor: gs.Tensor) -> bool:
        """Whether the tensor is an output of the main graph."""
        return any(out is tensor for out in self.graph.outputs)

    def constant(self, tensor: gs.Tensor) -> np.ndarray[Any, Any] | None:
        """The values of an initializer or a Constant node's output; None if the tensor is computed or not numeric."""
        if isinstance(tensor, gs.Constant):
            return values_of(tensor)
        producer = self.producer(tensor)
        if producer is not None and producer.op == "Constant" and "value" in producer.attrs:
            return values_of(producer.attrs["value"])
        return None

    def subgraph_tensors(self) -> set[str]:
        """Names of main-graph tensors that nodes inside subgraphs read."""
        return {name for n in self.graph.nodes for sub in assemble.bodies(n, True) for name in assemble.outer(sub)}

    def signature(self) -> Signature:
        """Names and types of inputs and outputs."""
        return Signature(
            tuple((t.name, onnx_type(t.dtype)) for t in self.graph.inputs),
            tuple((t.name, onnx_type(t.dtype)) for t in self.graph.outputs),
        )

    def input_shapes(self) -> dict[str, list[int | str | None]]:
        """The declared shape of every input: sizes, names of dynamic dimensions, or None."""
        return {t.name: [dim_of(d) for d in t.shape] if t.shape is not None else [] for t in self.graph.inputs}

    def weight_bytes(self) -> int:
        """Bytes of all constants, subgraphs included, as stored in a file: sub-byte types are packed."""
        held = (t for node, _ in self.walk() for t in (*node.inputs, node.attrs.get("value")))
        return stored_bytes((*self.graph.outputs, *held))

    @collector_paused()
    def facts(self, profiles: Profiles | None = None) -> Facts:
        """Element types and shapes by ONNX's shape inference, at every corner of every profile.

        They are inferred again if the graph has changed; the caller owns the result.
        """
        return self._inferred.facts(self._skeleton_now().content, profiles)

    @collector_paused()
    def types_fault(self) -> Exception | None:
        """Why ONNX's strict shape inference rejects the graph; None if its types agree."""
        return self._inferred.fault(self._skeleton_now().content)

    # ---------------------------------------------------------------- changing

    def unique_tensor(self, base: str) -> str:
        """``base``, or ``base_2`` and so on if a tensor of that name exists; for several names use ``tensor_names``."""
        return self.tensor_names().take(base)

    def unique_node(self, base: str) -> str:
        """``base``, or ``base_2`` and so on if a node of that name exists."""
        return Names(self.node_names()).take(base)

    @collector_paused()
    def tidy(self) -> None:
        """Sort the nodes topologically and drop those that no output needs."""
        self._forget()
        tidy(self.graph)

    def drop_unused(self) -> None:
        """Drop the nodes that no output needs; the others keep their order."""
        self._forget()
        drop_unused(self.graph)

    def raise_opset(self, minimum: int) -> list[str]:
        """Raise the operator set to ``minimum``; nodes that remain keep their names.

        If all operators mean the same in both sets, only the number changes. Otherwise ONNX's version converter
        recreates all nodes and tensors, and references to the old ones become invalid.

        Returns:
            Names of nodes that the conversion created.

        Raises:
            ModelError: an operator has no conversion, or there is no such opset.
        """
        if self.opset < minimum:
            self._forget()
        if self.opset >= minimum or renumbered(self.graph, minimum):
            return []
        before, makers = set(self.node_names()), {t.name: node.name for node in self.nodes for t in node.outputs}
        old, self.graph = self.graph, convert_opset(self.graph, minimum, str(self.source or "the model"), self._known)
        assemble.dismantle(old)
        kept = set(self.node_names())
        for node in self.nodes:
            # replaced nodes keep their names, so that requests and patterns still match them
            name = makers.get(node.outputs[0].name) if node.outputs else None
            if node.name not in before and name is not None and name not in kept:
                node.name = name
                kept.add(name)
        return [name for name in self.node_names() if name not in before]

    # ---------------------------------------------------------------- invariants

    @collector_paused()
    def check(self, types: bool = False) -> None:
        """Check that names are unique, it has no cycle and ONNX's checker accepts it; ``types``: infer types too.

        Raises:
            PassError: one of these does not hold; the message names the node.
        """
        seen, kinds = set[str](), dict[tuple[str | None, str], gs.Node]()
        for node, _ in self.walk():
            if not node.name or node.name in seen:
                raise wrong_name(node)
            seen.add(node.name)
            kinds[node.domain, node.op] = node
        operators = {(domain or "", op_type(node)) for (domain, _), node in kinds.items()}
        self._forget()
        sort(self.graph, recurse=False)
        with self.settled():
            content, found = self._skeleton_now().content, self._found
        if (digest := hashlib.sha256(content).digest()) != self._checked:
            accepted(content, operators)
            self._checked = digest
        self._as_checked = found
        if types and (fault := self._inferred.fault(content)) is not None:
            raise PassError(f"shape inference refuses the graph: {on_one_line(str(fault))}") from fault

    def _exported(self) -> LightModel:
        """The graph as a message that the caller owns, without large weights; cached serialized while settled."""
        if self._found is None or "exported" not in self._found:
            made = export(self.graph, str(self.source or "the model"), self._known)
            if self._found is not None:
                self._found["exported"] = SerializedModel.of(made)
            return made
        return cast("SerializedModel", self._found["exported"]).light()

    def _skeleton_now(self) -> Skeleton:
        """The graph with large constants as graph inputs: enough for the checker and for shape inference."""
        return self.once("skeleton", self._made_skeleton)

    @collector_paused()
    def _made_skeleton(self) -> Skeleton:
        light = self._exported()
        for maker in ("producer_name", "producer_version"):  # the producer is not part of the graph
            light.proto.ClearField(maker)
        light.proto.ir_version = max(self.graph.ir_version or 0, 10)
        declare(light.proto, imports_all=True)
        skeleton = weights_as_inputs(light.proto, light.weights).SerializeToString(deterministic=True)
        return Skeleton(skeleton, light.weights)
