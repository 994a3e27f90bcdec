"""A reader for the engine inspector's output of any TensorRT version: 8.x, 10.x, 11.x and TensorRT-RTX."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from toolkit.backends.layers.layer import Layer, Port
from toolkit.backends.layers.network import metadata_nodes, network_layers
from toolkit.base.errors import BackendError
from toolkit.base.schema import value_words

_PROFILE = re.compile(r" \[profile (\d{1,4})\]$")
# Longer words come first: BFloat16 contains Float, UInt8 contains Int8.
_WORDS = (
    ("bf16", r"bf16|bfloat16"),
    ("fp16", r"fp16|half|float16"),
    ("fp8", r"fp8|e4m3\w*|float8\w*"),
    ("fp4", r"fp4|e2m1\w*"),
    ("fp32", r"fp32|tf32|float32|float"),
    ("uint8", r"uint8"),
    ("int8", r"int8"),
    ("int4", r"int4"),
    ("int64", r"int64"),
    ("int32", r"int32"),
    ("bool", r"bool"),
)
_TYPE = re.compile("|".join(rf"(?<![A-Za-z0-9])(?P<{word}>{pattern})(?![a-z0-9])" for word, pattern in _WORDS), re.I)
_TACTIC = re.compile(
    r"(?<![a-z])(?:(?P<int8>i8i8|i8f32|i8f16|s8s8|int8|imma)|(?P<fp8>e4m3\w*|fp8)|(?P<bf16>bf16\w*)"
    r"|(?P<fp16>f16f16\w*|fp16\w*|half|h884\w*|h1688\w*|h16816\w*|hmma|hgemm|f16)"
    r"|(?P<fp32>tf32\w*|f32f32\w*|fp32\w*|s1688\w*|ffma|sgemm|float|f32))",
    re.I,
)


def read_layers(content: Any, profile: int = 0, where: str = "layers.json") -> list[Layer]:
    """The layers of one optimization profile.

    Args:
        content: the parsed JSON of the inspector: an object with "Layers", or the list itself. Layers may be plain
            names.
        profile: index of the profile. If the content lists the layers of all profiles (8.x), those of others are left
            out.
        where: name of the file, for errors.

    Raises:
        BackendError: there is no list of layers.
    """
    found = _fields(content).get("layers") if isinstance(content, Mapping) else content
    if not isinstance(found, list):
        raise BackendError(
            f"the file holds no list of layers ({type(content).__name__})",
            where=where,
            remedy="give the file that the engine inspector or 'trtexec --exportLayerInfo' wrote",
        )
    layers = [layer for entry in found if (layer := _layer(entry)) is not None]
    if found and not layers:
        raise BackendError(
            f"none of the file's {len(found)} entries is a layer: the first is {value_words(found[0])}",
            where=where,
            remedy="give the file that the engine inspector or 'trtexec --exportLayerInfo' wrote",
        )
    marked = any(number is not None for _, number in layers)
    return [replace(layer, profile=profile) for layer, number in layers if not marked or (number or 0) == profile]


def layers_of_file(content: Any, where: str = "layers.json") -> list[Layer]:
    """The layers in a parsed layers.json, written by qtool, from an inspector or from the network, or by trtexec.

    Raises:
        BackendError: it has none; the message says what is wrong.
    """
    source = content.get("source") if isinstance(content, Mapping) else None
    if source == "network":
        return network_layers(content, where)
    if source == "inspector":
        profiles = content.get("profiles")
        if not isinstance(profiles, list):
            raise BackendError(
                f"'profiles' is {value_words(profiles)}, not a list", where=where, remedy="run the recipe again"
            )
        return [layer for index, said in enumerate(profiles) for layer in read_layers(said, index, where)]
    return read_layers(content, 0, where)


def plain_name(name: str) -> str:
    """The name of a layer or tensor without its profile suffix."""
    return _split(name)[0]


def type_word(text: str) -> str:
    """The type in an inspector's text: "Row major linear FP16 format" is fp16; empty if it names none."""
    found = _TYPE.search(text)
    return found.lastgroup or "" if found else ""


def tactic_word(tactic: str) -> str:
    """The type of a kernel's operands according to its name; empty if the name does not tell."""
    found = _TACTIC.search(tactic)
    return found.lastgroup or "" if found else ""


def _layer(entry: Any) -> tuple[Layer, int | None] | None:
    """One layer and the index of its profile; None if the entry is not a layer."""
    if isinstance(entry, str):
        name, number = _split(entry)
        return Layer(name), number
    if not isinstance(entry, Mapping):
        return None
    fields = _fields(entry)
    name, number = _split(_text(fields, "name"))
    weights = fields.get("weights", fields.get("convweights"))
    stream = fields.get("streamid")
    layer = Layer(
        name=name,
        kind=_text(fields, "layertype"),
        inputs=_ports(fields.get("inputs")),
        outputs=_ports(fields.get("outputs")),
        weights=type_word(_text(_fields(weights), "type")) if isinstance(weights, Mapping) else "",
        tactic=_text(fields, "tacticname"),
        nodes=metadata_nodes(_text(fields, "metadata")),
        origin=_text(fields, "origin"),
        stream=stream if isinstance(stream, int) else 0,
    )
    return layer, number


def _ports(tensors: Any) -> tuple[Port, ...]:
    if not isinstance(tensors, list):
        return ()
    return tuple(_port(tensor) for tensor in tensors if isinstance(tensor, (Mapping, str)))


def _port(tensor: Mapping[str, Any] | str) -> Port:
    if isinstance(tensor, str):
        return Port(_split(tensor)[0])
    fields = _fields(tensor)
    joined = _text(fields, "formatdatatype")
    shape = fields.get("dimensions")
    sizes = shape if isinstance(shape, list) and all(isinstance(size, int) for size in shape) else []
    return Port(
        name=_split(_text(fields, "name"))[0],
        precision=type_word(_text(fields, "datatype") or joined),
        format=joined or _text(fields, "format"),
        shape=tuple(sizes),
    )


def _fields(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by name, reduced to lower-case letters: versions differ, as in "Datatype", "DataType", "I/O Tensors"."""
    return {"".join(c for c in str(key).lower() if "a" <= c <= "z"): value for key, value in entry.items()}


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _split(name: str) -> tuple[str, int | None]:
    found = _PROFILE.search(name)
    return (name[: found.start()], int(found[1])) if found else (name, None)
