"""What an ONNX file says of itself without its weights being read: inputs, outputs, and where the weights are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


_KNOWN_DOMAINS = ("", "ai.onnx", "com.microsoft")


@dataclass(frozen=True)
class Header:
    """The names a recipe may use, and the files that belong to the model besides its own.

    Attributes:
        inputs: names of the graph's inputs, weights left out.
        outputs: names of the graph's outputs.
        external: the files with external data that lie in the model's folder and exist.
        ops: how many nodes there are of each operator of ONNX or onnxruntime, in subgraphs and functions too.
    """

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    external: tuple[Path, ...] = ()
    ops: Mapping[str, int] = field(default_factory=dict)


def read_header(path: Path) -> Header | None:
    """The header of an ONNX file; None where it cannot be parsed, which loading it will say in full."""
    import onnx

    from toolkit.graph.onnx_file import tensors

    try:
        proto = onnx.load(str(path), load_external_data=False)
    except Exception:
        return None
    stored = {tensor.name for tensor in proto.graph.initializer}
    folder = path.resolve().parent
    names = {
        entry.value
        for tensor in tensors(proto.graph)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    files = []
    for name in sorted(names):
        # a place outside the folder is refused when the model is loaded; it is not for us to read
        file = folder / name
        if "\0" not in name and folder in file.resolve().parents and file.is_file():
            files.append(file)
    return Header(
        tuple(value.name for value in proto.graph.input if value.name not in stored),
        tuple(value.name for value in proto.graph.output),
        tuple(files),
        Counter(
            node.op_type
            for body in (proto.graph, *proto.functions)
            for node in all_nodes(body.node)
            if node.domain in _KNOWN_DOMAINS
        ),
    )


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes with those of their subgraphs, each behind the node that holds it."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for sub in (attribute.g, *attribute.graphs):
                yield from all_nodes(sub.node)


def model_files(path: Path) -> list[Path]:
    """A model file and the files of its weights: what has to be kept, and hashed, together."""
    header = read_header(path)
    return [path, *(header.external if header is not None else ())]
