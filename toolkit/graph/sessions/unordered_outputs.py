"""Sessions of models from which unnecessary layout reorderings are removed after onnxruntime's rewrites.

onnxruntime's convolutions compute in blocks of 8 or 16 channels, and reorder their outputs: for layers that do not need
it (see ``toolkit.graph.ort_forms.blocked_layout``), and for outputs whose values callers only count, where
reordering takes more than half as long as counting. The results are the same: the same kernels compute the same values,
each value equally often.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from toolkit.base.errors import QtoolError
from toolkit.base.temporary import temporary_folder
from toolkit.graph.large_models.partitions import Value
from toolkit.graph.ort_forms.blocked_layout import keep_blocked_layout, reorders_to_plain
from toolkit.graph.proto.light import LightModel
from toolkit.graph.proto.nodes import reads_of
from toolkit.graph.proto.strangers import operator_of

_MOST_BYTES = 512 << 20
"""Largest weights in bytes for which the rewritten model is written, which takes one millisecond per megabyte."""


class AnyOrder:
    """An onnxruntime session in which some outputs have other names.

    Args:
        inner: the session.
        names: the session's names of these outputs.
    """

    def __init__(self, inner: Any, names: Mapping[str, str]) -> None:
        self._inner, self._names = inner, names

    def get_inputs(self) -> Sequence[Any]:
        """The model's inputs."""
        return list(self._inner.get_inputs())

    def get_outputs(self) -> list[Value]:
        """The model's outputs, under the requested names."""
        asked = {own: name for name, own in self._names.items()}
        found = map(Value.of, self._inner.get_outputs())
        return [value._replace(name=asked.get(value.name, value.name)) for value in found]

    def run_with_ort_values(self, names: Sequence[str], feed: Mapping[str, Any], options: Any = None) -> list[Any]:
        """The requested outputs."""
        return list(self._inner.run_with_ort_values([self._names.get(name, name) for name in names], feed, options))


def without_reordering(
    model: LightModel, rewrite: Callable[[Path], object], load: Callable[[Path], Any], any_order: bool
) -> Any:
    """A session with fewer reorderings than onnxruntime's own; None if there is no convolution or it cannot be loaded.

    Args:
        model: the model with the wanted outputs; not changed.
        rewrite: makes onnxruntime write its rewritten model to a path.
        load: loads the model at a path without rewriting it.
        any_order: whether outputs may be in any order.
    """
    convolutions = any(operator_of(node) == "Conv" for node in model.proto.graph.node)
    if os.name != "posix" or not convolutions or not model.holds_at_most(_MOST_BYTES - model.weight_bytes):
        return None
    with temporary_folder("session") as folder:
        path = folder / "model.onnx"
        try:
            rewrite(path)
            proto = onnx.load_model(path, load_external_data=False)
            changed = keep_blocked_layout(proto, any_order)
            names = _with_outputs_as_computed(proto) if any_order else {}
            if not names and not changed:
                return None
            path.write_bytes(proto.SerializeToString())
            # weights stay mapped after the files are deleted
            return AnyOrder(load(path), names) if names else load(path)
        except (QtoolError, OSError):
            # loading the original model will report its errors; and onnxruntime cannot read every model that it writes,
            # since it may use the same name inside a branch of an If and outside
            return None


def _with_outputs_as_computed(proto: onnx.ModelProto) -> dict[str, str]:
    """Remove nodes that only reorder an output; returns, by output, the tensor that replaces it."""
    graph = proto.graph
    outputs = {value.name for value in graph.output}
    readers = Counter(name for node in graph.node for name in reads_of(node))
    names: dict[str, str] = {}
    for node in graph.node:
        if node.output[0] in outputs and not readers[node.output[0]] and reorders_to_plain(node):
            names[node.output[0]] = node.input[0]
    kept = [node for node in graph.node if not names.keys() & set(node.output)]
    values = [onnx.ValueInfoProto(name=names[v.name]) if v.name in names else v for v in graph.output]
    del graph.node[:], graph.output[:]
    graph.node.extend(kept)
    graph.output.extend(values)
    return names
