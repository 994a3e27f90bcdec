"""Samples of the inputs of layers with weights, as rows: vectors that are multiplied with each output channel."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.base.types import Array
from toolkit.graph.layers.zero_pads import ZeroPad, zero_pads
from toolkit.graph.model import Model
from toolkit.graph.sessions.runnable import not_run
from toolkit.graph.sessions.side_by_side import run_side_by_side

if TYPE_CHECKING:
    from toolkit.data.dataset import CalibrationData

_LEAST_ROWS, _ROWS_AN_INPUT = 128, 16
_BATCH = 1
"""The inputs of all layers for three batches are in memory at once."""


def has_input_rows(node: gs.Node) -> bool:
    """Whether rows can be extracted from a layer's input."""
    if node.op == "Conv":
        return str(node.attrs.get("auto_pad", "NOTSET")) in ("NOTSET", "VALID")
    return node.op in ("Gemm", "MatMul") and not node.attrs.get("transA", 0)


def collect_rows(
    model: Model, nodes: Iterable[gs.Node], shapes: dict[str, tuple[int, ...]], data: CalibrationData, samples: int,
    rows: int,
) -> dict[str, Array]:  # fmt: skip
    """Rows of each layer's input by layer name, float32 [groups, rows, in]; see ``has_input_rows``.

    Args:
        model: the graph; layers that onnxruntime cannot compute have no rows.
        shapes: by layer, the shape of its weight.
        samples: the most samples to use.
        rows: the most rows per layer, evenly from all samples; fewer if each group has few inputs.
    """
    found = collect_rows_by_sample(model, nodes, shapes, data, samples, rows)
    return {name: np.concatenate(list(parts.values()), axis=1) for name, parts in found.items()}


def collect_rows_by_sample(
    model: Model, nodes: Iterable[gs.Node], shapes: dict[str, tuple[int, ...]], data: CalibrationData, samples: int,
    rows: int,
) -> dict[str, dict[int, Array]]:  # fmt: skip
    """``collect_rows`` by layer and sample number from 0; samples for which a layer's input is empty are missing."""
    left = not_run(model).tensors
    nodes = [node for node in nodes if node.inputs[0].name not in left]
    if not nodes:
        return {}
    padded = zero_pads(model, [node.inputs[0].name for node in nodes])
    inputs = {node.name: padded.get(name := node.inputs[0].name) or ZeroPad(name, ()) for node in nodes}
    tensors = sorted({one.source for one in inputs.values()})
    total = max(1, min(samples, len(data)))
    number = {node.name: max(1, _rows(node, shapes[node.name], rows) // total) for node in nodes}
    random = np.random.default_rng(0)
    parts: dict[str, dict[int, Array]] = {}
    seen = 0
    # rows of one sample are extracted while the next ones are computed
    batches = islice(data.batches(_BATCH), samples)
    for batch, values in run_side_by_side(model, tensors, batches, lambda batch: batch.inputs):
        for node in nodes:
            pad = inputs[node.name]
            value = np.asarray(values[pad.source], np.float32)
            if value.size:
                taken = _patches if node.op == "Conv" else _vectors
                wanted = number[node.name] * batch.count
                parts.setdefault(node.name, {})[seen] = taken(value, node, shapes[node.name], pad, wanted, random)
        seen += batch.count
    return parts


def _rows(node: gs.Node, shape: tuple[int, ...], rows: int) -> int:
    """How many rows suffice for a layer; fewer for grouped convolutions, since each row has values for every group."""
    if int(node.attrs.get("group", 1)) == 1:
        return rows
    return min(rows, max(_LEAST_ROWS, _ROWS_AN_INPUT * int(np.prod(shape[1:]))))


def _vectors(
    value: Array, node: gs.Node, shape: tuple[int, ...], pad: ZeroPad, number: int, random: np.random.Generator
) -> Array:
    rows = value.reshape(-1, value.shape[-1])
    return rows[random.integers(len(rows), size=min(number, len(rows)))][None]


def _patches(
    value: Array, node: gs.Node, shape: tuple[int, ...], pad: ZeroPad, number: int, random: np.random.Generator
) -> Array:
    """The inputs of a convolution at random positions of its output, float32 [groups, rows, in]."""
    from toolkit.simulation.window_kernel import take_windows

    attrs: dict[str, Any] = node.attrs
    spatial = len(shape) - 2
    steps, gaps = (attrs.get(word, [1] * spatial) for word in ("strides", "dilations"))
    pads = np.add(attrs.get("pads", [0] * 2 * spatial), pad.spatial or 0).tolist()
    sizes = value.shape[2:]
    reach = [(size - 1) * gap + 1 for size, gap in zip(shape[2:], gaps)]
    outs = [(size + pads[i] + pads[i + spatial] - reach[i]) // steps[i] + 1 for i, size in enumerate(sizes)]
    number = min(number, len(value) * int(np.prod(outs)))
    at = [random.integers(len(value), size=number), *(random.integers(out, size=number) for out in outs)]
    group = int(attrs.get("group", 1))
    if not any(pads) and all(size == 1 for size in shape[2:]):
        positions = [place * step for place, step in zip(at[1:], steps)]
        rows = value[(at[0], slice(None), *positions)]
        return np.ascontiguousarray(rows.reshape(number, group, -1).swapaxes(0, 1))
    places, inside = np.zeros((number, 1), np.int64), np.ones((number, 1), bool)
    for place, step, before, size, gap, kernel in zip(at[1:], steps, pads, sizes, gaps, shape[2:]):
        along = (place * step - before)[:, None] + np.arange(kernel) * gap
        within = (along >= 0) & (along < size)
        places = (places[:, :, None] * size + along[:, None]).reshape(number, -1)
        inside = (inside[:, :, None] & within[:, None]).reshape(number, -1)
    found = np.empty((group, number, value.shape[1] // group, places.shape[1]), np.float32)
    planes = np.ascontiguousarray(value).reshape(*value.shape[:2], -1)
    take_windows(planes, at[0], np.where(inside, places, -1), found)
    return found.reshape(group, number, -1)
