"""Layers of the typed network definition of a parsed model, used if no GPU can open the engine."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ConfigDict

from toolkit.backends.layers.layer import Layer, Port
from toolkit.base.errors import BackendError
from toolkit.base.reading import FileKind
from toolkit.base.schema import FileSchema, validated

_KIND = FileKind("it cannot be read as a network's layers", BackendError, "run the recipe again")

_TYPES = {
    "FLOAT": "fp32",
    "HALF": "fp16",
    "BF16": "bf16",
    "FP8": "fp8",
    "INT8": "int8",
    "INT4": "int4",
    "FP4": "fp4",
}
ONNX_LAYER = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f]|\[ONNX Layer: |$)", re.DOTALL)
BRANCH = re.compile(r"( \| [^|]*? \([\w ]+\))+$")


def precision_word(tensorrt_type: str) -> str:
    """The name in qtool of a ``trt.DataType``: HALF is fp16, INT64 is int64."""
    return _TYPES.get(tensorrt_type, tensorrt_type.lower())


def metadata_nodes(metadata: str) -> tuple[str, ...]:
    """The ONNX nodes named in a layer's metadata, each once, in order.

    8.6 joins ``[ONNX Layer: name]`` with U+001E, 10 and later with U+001F. Nodes of subgraphs are written as
    ``name | then_output (then_branch) | if_name (If)``, of which only their own name is kept.
    """
    found = (BRANCH.sub("", name) for name in ONNX_LAYER.findall(metadata or ""))
    return tuple(dict.fromkeys(found))


class NetworkTensor(FileSchema):
    """A tensor as recorded by ``walk_network``."""

    name: str
    type: str
    shape: list[int]


class NetworkLayer(FileSchema):
    """A layer as recorded by ``walk_network``."""

    name: str
    type: str
    inputs: list[NetworkTensor]
    outputs: list[NetworkTensor]
    metadata: str


class NetworkRecord(FileSchema):
    """The parts of the record of ``walk_network`` that are used here."""

    model_config = ConfigDict(extra="ignore")
    layers: list[NetworkLayer]


def network_layers(raw: Any, where: str = "layers.json") -> list[Layer]:
    """The layers in a record of ``walk_network``.

    Raises:
        BackendError: it is not such a record; the message names the field.
    """
    return [
        Layer(
            name=entry.name,
            kind=entry.type,
            inputs=_ports(entry.inputs),
            outputs=_ports(entry.outputs),
            nodes=metadata_nodes(entry.metadata),
        )
        for entry in validated(NetworkRecord, raw, where, _KIND).layers
    ]


def _ports(tensors: list[NetworkTensor]) -> tuple[Port, ...]:
    return tuple(Port(t.name, precision_word(t.type), shape=tuple(t.shape)) for t in tensors)
