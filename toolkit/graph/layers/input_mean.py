"""Notes in a model's metadata: the mean of what a layer reads, by which the pass that rounds its weights corrects its
bias, and the rounded weights whose error a bias was measured against.

They go with the model from the pass that changes an activation to the one that rounds the weights of its readers.
"""

from __future__ import annotations

import json

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.base.types import Array
from toolkit.graph.model import Model
from toolkit.graph.surgery.tensors import content_digest

_MEAN, _CORRECTED, _SETTLED = "qtool.input_mean", "qtool.corrected_mean", "qtool.bias_settled_for"


def note_input_mean(model: Model, node: gs.Node, mean: Array) -> None:
    """Note the mean of what a layer reads: the pass that rounds its weights corrects its bias by it.

    Args:
        model: gets the note in the node's metadata.
        node: a layer with weights.
        mean: [channels in], kept to four digits.
    """
    model.metadata.setdefault(node.name, {})[_MEAN] = json.dumps([float(f"{value:.4g}") for value in mean])


def input_mean(model: Model, node: gs.Node) -> Array | None:
    """The mean that was noted of what a layer reads, float64 [channels in]."""
    return _read(model, node, _MEAN)


def corrected_mean(model: Model, node: gs.Node) -> Array | None:
    """The mean input that the bias of a quantized layer is corrected by already, float64 [channels in]."""
    return _read(model, node, _CORRECTED)


def mark_corrected(model: Model, node: gs.Node) -> None:
    """Note that the mean has been made up for, so that it is not again."""
    own = model.metadata[node.name]
    own[_CORRECTED] = own.pop(_MEAN)


def mark_open(model: Model, node: gs.Node) -> None:
    """Note that the mean is no longer made up for: the weights are as they were before their rounding."""
    own = model.metadata[node.name]
    own[_MEAN] = own.pop(_CORRECTED)


def note_bias_corrected(model: Model, node: gs.Node, rounded: Array) -> None:
    """Note that the bias of a quantized layer makes up for all that these rounded weights do on samples.

    Args:
        model: gets the note in the node's metadata.
        node: the layer.
        rounded: its rounded weight, float, in the node's own layout.
    """
    model.metadata.setdefault(node.name, {})[_SETTLED] = _digest(rounded)


def is_bias_corrected(model: Model, node: gs.Node, rounded: Array) -> bool:
    """Whether the bias makes up for these rounded weights already: measured again, it would be corrected twice."""
    return model.metadata.get(node.name, {}).get(_SETTLED) == _digest(rounded)


def _digest(values: Array) -> str:
    return content_digest(np.asarray(values, np.float32))[:16]


def _read(model: Model, node: gs.Node, key: str) -> Array | None:
    text = model.metadata.get(node.name, {}).get(key)
    if text is None:
        return None
    try:
        found = np.asarray(json.loads(text), np.float64).reshape(-1)
    except (ValueError, TypeError):
        # a file may hold anything under that name
        return None
    return found if np.isfinite(found).all() else None
