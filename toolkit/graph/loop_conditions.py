"""Conditions of Loops, which are optional in ONNX but required by TensorRT's ONNX parsers."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.graph.model import Model
from toolkit.graph.surgery.tensors import make_constant


def add_loop_conditions(model: Model) -> int:
    """Add a condition that is always true to every Loop with a trip count and no condition.

    ONNX treats a missing condition as true; TensorRT's parsers refuse it: "Node input was not registered" (RTX 1.7.1).

    Returns:
        The number of conditions added.
    """
    loops = [node for node, _ in model.walk() if node.op == "Loop" and _counts_only(node)]
    if loops:
        true = make_constant(model.tensor_names().take("loop_condition"), np.array(True))
        for node in loops:
            node.inputs[1] = true
    return len(loops)


def _counts_only(loop: gs.Node) -> bool:
    """Whether a Loop ends only by its trip count."""
    return len(loop.inputs) > 1 and not loop.inputs[0].is_empty() and loop.inputs[1].is_empty()
