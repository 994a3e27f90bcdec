"""Scales that are not determined by samples alone: shared scales, and that of probabilities in FP8."""

from __future__ import annotations

import numpy as np

from toolkit.base.precision import Precision
from toolkit.contract.findings import Code, Finding
from toolkit.graph.model import Model
from toolkit.graph.surgery.tensors import onnx_type
from toolkit.placement.existing import existing
from toolkit.placement.pairs import Placement
from toolkit.placement.qdq import storable_scale


def share_amax(model: Model, placement: Placement, amax: dict[str, float], precision: Precision) -> list[Finding]:
    """Give tensors that must share one scale the largest amax among them, in place; an existing pair's scale wins.

    In FP8 the output of a Softmax always has amax 1: TensorRT's fused attention requires the scale 1/448 (as ModelOpt
    writes it), and E4M3 loses nothing by it, since its steps are relative.

    Args:
        model: the graph, with its existing pairs.
        placement: its ``same_scale`` says which tensors share a scale.
        amax: by activation tensor; changed.

    Returns:
        Findings for the user.
    """
    tensors = model.graph.tensors()
    notes = []
    for name in amax if precision is Precision.FP8 else ():
        maker = model.producer(tensors[name])
        if maker is not None and maker.op == "Softmax":
            amax[name] = 1.0
    for names in placement.same_scale:
        present = []
        for name in sorted(names):
            node = existing(tensors[name]) if name in tensors else None
            scale = model.constant(node.inputs[1]) if node is not None else None
            if scale is not None and scale.size == 1:
                kind = Precision.from_onnx(onnx_type(node.inputs[2].dtype)) if node is not None else None
                present.append(float(scale.reshape(())) * (kind or precision).max)
        largest = max((amax[n] for n in names if n in amax), default=0.0)
        shared = max(present) if present else _cancelling(largest, precision)
        if len(set(present)) > 1:
            notes.append(Code.UNLIKE_SCALES(tensors=sorted(names)))
        for name in amax.keys() & names:
            amax[name] = shared
    return notes


def _cancelling(amax: float, precision: Precision) -> float:
    """The next amax whose scale equals 1 / (1 / scale) in float32, so that a DQ and Q with it cancel.

    TensorRT 8.6.0 kept kernels that requantized from a scale to the same scale. On an H100 they took 0.019 ms of a
    detector's 0.719 ms (batch 8), all at one of its nine Concats, the only one whose scale is at least 1 and differs
    from 1 / (1 / scale); ModelOpt's engine had the same. That this is the cause was not tested.
    """
    if not 0 < amax < np.inf:
        return amax
    scale, one = storable_scale(amax, precision)[0], np.float32(1)
    while scale < 32768 and abs(one / (one / scale) - scale) >= np.finfo(np.float32).eps:
        scale = np.float32(np.nextafter(np.float16(scale), np.float16(np.inf)))
        amax = float(scale) * precision.max
    return amax
