"""Records in a model's metadata: the mean input of a layer, by which the pass that rounds its weights corrects its
bias, the rounded weights for which a bias was corrected, and by how much bias and weights were.

They travel with the model from the pass that changes an activation to the pass that rounds its readers' weights.
"""

from __future__ import annotations

import json

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.base.types import Array
from toolkit.graph.model import Model
from toolkit.graph.surgery.tensors import content_digest

_MEAN, _CORRECTED, _SETTLED = "qtool.input_mean", "qtool.corrected_mean", "qtool.bias_settled_for"
_ADDED, _FACTORS = "qtool.bias_added", "qtool.weight_factors"


def note_input_mean(model: Model, node: gs.Node, mean: Array) -> None:
    """Record a layer's mean input, by which the pass that rounds its weights corrects its bias.

    Args:
        model: gets the record in the node's metadata.
        node: a layer with weights.
        mean: [channels in], stored with four digits.
    """
    model.metadata.setdefault(node.name, {})[_MEAN] = json.dumps([float(f"{value:.4g}") for value in mean])


def input_mean(model: Model, node: gs.Node) -> Array | None:
    """The recorded mean input of a layer, float64 [channels in]; None if there is none."""
    return _read(model, node, _MEAN)


def corrected_mean(model: Model, node: gs.Node) -> Array | None:
    """The mean input by which a quantized layer's bias was corrected, float64 [channels in]; None if it was not."""
    return _read(model, node, _CORRECTED)


def mark_corrected(model: Model, node: gs.Node) -> None:
    """Record that the bias was corrected by the mean, so that it is not corrected again."""
    own = model.metadata[node.name]
    own[_CORRECTED] = own.pop(_MEAN)


def mark_open(model: Model, node: gs.Node) -> None:
    """Record that the correction was undone: the weights are no longer rounded."""
    own = model.metadata[node.name]
    own[_MEAN] = own.pop(_CORRECTED)


def note_bias_corrected(model: Model, node: gs.Node, rounded: Array) -> None:
    """Record that a quantized layer's bias was corrected for these rounded weights, as measured on samples.

    Args:
        model: gets the record in the node's metadata.
        rounded: its rounded weight, float, in the node's own layout.
    """
    model.metadata.setdefault(node.name, {})[_SETTLED] = _digest(rounded)


def is_bias_corrected(model: Model, node: gs.Node, rounded: Array) -> bool:
    """Whether the bias was already corrected for these rounded weights; correcting it again would be wrong."""
    return model.metadata.get(node.name, {}).get(_SETTLED) == _digest(rounded)


def note_correction(model: Model, node: gs.Node, added: Array, factors: Array | None = None) -> None:
    """Record how a quantized layer was corrected by samples, so that a pass that removes its pairs can undo it.

    Args:
        model: gets the record in the node's metadata.
        added: what was added to the layer's output, [channels out], or [1] for all.
        factors: by what each output channel of the float weights was multiplied, [channels out]; None for nothing.
    """
    own, (before, scaled) = model.metadata.setdefault(node.name, {}), corrections(model, node)
    own[_ADDED] = json.dumps((added if before is None else before + added).tolist())
    if factors is not None:
        own[_FACTORS] = json.dumps((factors if scaled is None else scaled * factors).tolist())


def corrections(model: Model, node: gs.Node) -> tuple[Array | None, Array | None]:
    """What was added to a layer's output, and by what its weights were multiplied; None where nothing is recorded."""
    return _read(model, node, _ADDED), _read(model, node, _FACTORS)


def is_corrected(model: Model, node: gs.Node) -> bool:
    """Whether a layer's bias or weights were corrected for the rounding of its weights."""
    return bool(model.metadata.get(node.name, {}).keys() & {_CORRECTED, _ADDED, _FACTORS})


def forget_corrections(model: Model, node: gs.Node) -> None:
    """Drop the records of corrections that were undone."""
    for key in (_ADDED, _FACTORS, _SETTLED):
        model.metadata.get(node.name, {}).pop(key, None)


def _digest(values: Array) -> str:
    return content_digest(np.asarray(values, np.float32))[:16]


def _read(model: Model, node: gs.Node, key: str) -> Array | None:
    text = model.metadata.get(node.name, {}).get(key)
    if text is None:
        return None
    try:
        found = np.asarray(json.loads(text), np.float64).reshape(-1)
    except (ValueError, TypeError):
        # a file may contain anything under that key
        return None
    return found if np.isfinite(found).all() else None
