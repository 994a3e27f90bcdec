"""The header of an ONNX file, read without its weights: inputs, outputs, and the files of its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from toolkit.base.errors import QtoolError
from toolkit.graph.proto.nodes import all_nodes

_KNOWN_DOMAINS = ("", "ai.onnx", "com.microsoft")


@dataclass(frozen=True)
class Header:
    """The names that a recipe may use, and the files that belong to the model besides its own.

    Attributes:
        inputs: names of the graph's inputs, without initializers.
        outputs: names of the graph's outputs.
        external: the existing files with external data in the model's folder.
        ops: number of nodes by operator of ONNX or com.microsoft, including those in subgraphs and functions.
    """

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    external: tuple[Path, ...] = ()
    ops: Mapping[str, int] = field(default_factory=dict)


def read_header(path: Path) -> Header | None:
    """The header of an ONNX file; None if it cannot be parsed, which is reported when the model is loaded."""
    from toolkit.graph.files.external import external_files
    from toolkit.graph.files.onnx_file import parse

    try:
        proto = parse(path)
        stored = {tensor.name for tensor in proto.graph.initializer}
        stored |= {sparse.values.name for sparse in proto.graph.sparse_initializer}
        bodies = (proto.graph, *proto.functions)
        ops = Counter(n.op_type for body in bodies for n in all_nodes(body.node) if n.domain in _KNOWN_DOMAINS)
        names = [value.name for value in (*proto.graph.input, *proto.graph.output)]
        if not all(isinstance(name, str) for name in (*ops, *names)):
            return None
        return Header(
            tuple(value.name for value in proto.graph.input if value.name not in stored),
            tuple(value.name for value in proto.graph.output),
            tuple(external_files(proto, path)),
            ops,
        )
    except (QtoolError, UnicodeError):
        return None


def model_files(path: Path) -> list[Path]:
    """A model file and the files of its weights, which must be kept and hashed together."""
    from toolkit.graph.files.external import external_files
    from toolkit.graph.files.onnx_file import may_name_files, parse

    try:
        # parsing a graph of 50,000 nodes and looking at all its attributes takes 0.4 s
        return [path, *(external_files(parse(path), path) if may_name_files(path) else ())]
    except (QtoolError, UnicodeError):
        # loading the model will report the error
        return [path]
