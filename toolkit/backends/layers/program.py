"""What a TensorRT-RTX engine's kernels read, according to the compiled program in the engine file.

This needs no GPU. The program is text among the binary parts of the engine (observed with 1.7; not documented by
NVIDIA): lines of ``tensor={ ... name="t" ... type=int8 }``, and of ``corrltn={ name="conv" output={"t3"} input={"t1"
"t2"} ... layers="[ONNX Layer: conv]" }``. Anything not found there is unknown; nothing depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from toolkit.backends.layers.network import metadata_nodes

_OPENING = b"={ "
"""What every entry has after its kind: found a hundred times faster than a kind is among megabytes of binary parts."""
_KIND = re.compile(rb"[a-z_]{2,40}\Z")
_TENSOR = re.compile(rb"={ (?P<tensor>[^\n]{0,4000}?) type=(?P<type>\w{1,20}) }")
_OPERATION = re.compile(
    rb'={ name="[^"\n]{0,4000}" output={(?P<out>[^}\n]{0,4000})} input={(?P<in>[^}\n]{0,8000})}(?P<rest>[^\n]{0,40000})'
)
_NAME = re.compile(rb'name="([^"\n]{1,400})"')
_LAYERS = re.compile(r'layers="([^"\n]*)"')
_WORDS = {"float": "fp32", "half": "fp16", "b16": "bf16", "bf16": "bf16", "fp8_e4m3": "fp8", "int8": "int8",
          "int4": "int4", "fp4_e2m1": "fp4"}  # fmt: skip


@dataclass(frozen=True)
class Kernel:
    """One kernel of a compiled program.

    Attributes:
        op: the compiler's name of the operation: corrltn (convolution), deconvolution, fully_connected, ...
        nodes: the ONNX nodes that it runs.
        operands: types of the tensors that it reads, in order: int8, fp16, ...
    """

    op: str
    nodes: tuple[str, ...]
    operands: tuple[str, ...]


def kernels(engine: bytes) -> Iterator[Kernel]:
    """The kernels of an engine that name ONNX nodes; those of several profiles follow one another."""
    types: dict[bytes, str] = {}
    for op, found in _entries(engine):
        if op is None:
            name = _NAME.search(found["tensor"])
            if name:
                word = found["type"].decode("ascii", "replace")
                types[name[1]] = _WORDS.get(word, word)
            continue
        layers = _LAYERS.search(found["rest"].decode("utf-8", "replace"))
        nodes = metadata_nodes(layers[1]) if layers else ()
        operands = re.findall(rb'"([^"]+)"', found["in"])
        if nodes and operands:
            yield Kernel(op, nodes, tuple(types.get(name, "") for name in operands))


def _entries(engine: bytes) -> Iterator[tuple[str | None, re.Match[bytes]]]:
    """The entries of an engine's programs in order, each with its operation, or None for a tensor."""
    at = end = 0
    while (at := engine.find(_OPENING, at)) >= 0:
        kind = _KIND.search(engine[max(end, at - 40) : at])
        word = kind[0] if kind else b""
        # a word that only ends like a tensor begins before it, as an operation does
        forms = (_TENSOR, _OPERATION) if word == b"tensor" else (_OPERATION, _TENSOR)
        possible = forms if word.endswith(b"tensor") else forms[: bool(word)]
        found = next(filter(None, (form.match(engine, at) for form in possible)), None)
        if found:
            yield None if found.re is _TENSOR else word.decode(), found
            end = found.end()
        at = end if found else at + len(_OPENING)


def tactics(engine: bytes) -> dict[str, str]:
    """Per ONNX node named by a kernel, the kernel and its first two operands: ``corrltn(int8, int8)``.

    If the kernels of profiles differ, all are listed, joined by `` | ``.
    """
    found: dict[str, dict[str, None]] = {}
    for kernel in kernels(engine):
        for node in kernel.nodes:
            found.setdefault(node, {})[f"{kernel.op}({', '.join(kernel.operands[:2])})"] = None
    return {node: " | ".join(texts) for node, texts in found.items()}


def operands(tactic: str) -> set[str]:
    """The operand types in a text returned by ``tactics``; empty for any other text."""
    return {word for group in re.findall(r"\w+\(([\w, ]*)\)", tactic) for word in group.split(", ") if word}
