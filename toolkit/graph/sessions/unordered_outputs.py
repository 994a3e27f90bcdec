"""Sessions of models from which reordering is taken out, once onnxruntime has rewritten them.

Its convolutions compute in blocks of 8 or 16 channels, and what leaves them is reordered: for layers that could do
without (see ``toolkit.graph.ort_forms.blocked_layout``), and for outputs of which callers only count the values, which
takes more than half as long as counting them. The same kernels compute the same values, each as often as before.
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

_MOST_BYTES = 512 << 20
"""Bytes of weights up to which the rewritten model is written: that takes a millisecond a megabyte."""


class AnyOrder:
    """A session of onnxruntime, some of whose outputs it knows by other names.

    Args:
        inner: the session.
        names: its names of these outputs.
    """

    def __init__(self, inner: Any, names: Mapping[str, str]) -> None:
        self._inner, self._names = inner, names

    def get_inputs(self) -> Sequence[Any]:
        """What the model takes."""
        return list(self._inner.get_inputs())

    def get_outputs(self) -> list[Value]:
        """The model's outputs, by the names that were asked for."""
        asked = {own: name for name, own in self._names.items()}
        found = map(Value.of, self._inner.get_outputs())
        return [value._replace(name=asked.get(value.name, value.name)) for value in found]

    def run_with_ort_values(self, names: Sequence[str], feed: Mapping[str, Any], options: Any = None) -> list[Any]:
        """The outputs that are asked for."""
        return list(self._inner.run_with_ort_values([self._names.get(name, name) for name in names], feed, options))


def without_reordering(
    model: LightModel, rewrite: Callable[[Path], object], load: Callable[[Path], Any], any_order: bool
) -> Any:
    """A session that reorders less than onnxruntime's own; None where there is no convolution or it cannot be loaded.

    Args:
        model: the model with the outputs wanted; not changed.
        rewrite: has onnxruntime write its rewritten model to a path.
        load: loads what is at a path as it is.
        any_order: whether outputs may come as they are computed.
    """
    convolutions = any(node.op_type == "Conv" for node in model.proto.graph.node)
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
            # its weights stay mapped when the files are gone
            return AnyOrder(load(path), names) if names else load(path)
        except (QtoolError, OSError):
            # loading the model as it is will report what is wrong with it; and onnxruntime does not read all that it
            # writes, as it makes the same names within a branch of an If and outside
            return None


def _with_outputs_as_computed(proto: onnx.ModelProto) -> dict[str, str]:
    """Take out what only reorders an output; returns, by output, the tensor that takes its place."""
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
