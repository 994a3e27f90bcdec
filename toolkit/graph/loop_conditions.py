"""Conditions of Loops, which ONNX lets a model leave out and TensorRT's ONNX parsers need."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.graph.model import Model
from toolkit.graph.surgery.tensors import make_constant


def add_loop_conditions(model: Model) -> int:
    """Give every Loop that has a number of iterations and no condition a condition that is true.

    ONNX takes a missing one as true, and TensorRT's parsers refuse it: "Node input was not registered" (RTX 1.7.1).

    Returns:
        How many there were.
    """
    loops = [node for node, _ in model.walk() if node.op == "Loop" and _counts_only(node)]
    if loops:
        true = make_constant(model.tensor_names().take("loop_condition"), np.array(True))
        for node in loops:
            node.inputs[1] = true
    return len(loops)


def _counts_only(loop: gs.Node) -> bool:
    """Whether a Loop ends by its number of iterations alone."""
    return len(loop.inputs) > 1 and not loop.inputs[0].is_empty() and loop.inputs[1].is_empty()
