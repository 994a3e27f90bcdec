"""Checking the scales of Q/DQ nodes."""

from __future__ import annotations

import numpy as np

from toolkit.graph.files.value_check import SCALED
from toolkit.graph.model import Model


def wrong_scales(model: Model) -> dict[str, str]:
    """For every known scale that is not positive, by tensor, the fault; the text also names the node."""
    found: dict[str, str] = {}
    seen = set[str]()
    for node, _ in model.walk():
        if node.op not in SCALED or len(node.inputs) < 2 or node.inputs[1].name in seen:
            continue
        seen.add(node.inputs[1].name)
        values = model.constant(node.inputs[1])
        if values is None or values.dtype.kind not in "f":
            continue
        wrong = values[~((values > 0) & np.isfinite(values))]
        if wrong.size:
            tensor = node.inputs[1].name
            found[tensor] = (
                f"node '{node.name}' ({node.op}) has the scale {wrong.flat[0]:g} in tensor '{tensor}', "
                "but a scale must be a positive number"
            )
    return found
