"""Comparison of implicit and explicit quantization on the same samples in onnxruntime."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.base.precision import Precision
from toolkit.contract.findings import Code
from toolkit.contract.ranges import Ranges
from toolkit.graph.model import Model
from toolkit.placement.existing import pairs_of
from toolkit.placement.ops import ACTIVATIONS, ADDS, FOLDED
from toolkit.placement.pairs import Pair, Use
from toolkit.placement.qdq import Inserter, storable_scale

if TYPE_CHECKING:
    from toolkit.evaluation.comparison.outputs import EvaluationResult
    from toolkit.run.inputs.inputs import Inputs

_FUSED = ACTIVATIONS | ADDS | FOLDED
"""Operators that are fused into the preceding layer's kernel: the tensor in between is never stored."""


@dataclass(frozen=True)
class Form:
    """Accuracy of one form compared with the float model.

    Attributes:
        sqnr_db: the lowest SQNR of its outputs, in dB.
        metric: the metric's value; None without labels.
        float_metric: the float model's value; None without labels.
    """

    sqnr_db: float | None
    metric: float | None
    float_metric: float | None

    def to_json(self) -> dict[str, Any]:
        """A JSON-serializable dictionary."""
        return {key: str(one) if isinstance(one, float) and not np.isfinite(one) else one
                for key, one in vars(self).items()}  # fmt: skip


def implicit_form(prepared: Model, ranges: Ranges) -> Model:
    """The most that TensorRT may quantize with the given ranges: every tensor with a range is rounded to INT8.

    Args:
        prepared: the float model with the Q/DQ pairs of the explicit form; not changed.
    """
    model = prepared.copy()
    inserter, facts = Inserter(model, Precision.INT8), model.facts()
    paired = {q.inputs[0].name for pair in pairs_of(model) for q in pair.quantizers}
    nodes = {id(node): node for node in model.nodes}
    for name, one in ranges.tensors.items():
        tensor = inserter.tensors.get(name)
        if tensor is None or name in paired or not facts.is_float(name) or model.constant(tensor) is not None:
            continue
        readers = [node for node in tensor.outputs if id(node) in nodes]
        if model.is_output(tensor) or not readers or all(node.op in _FUSED for node in readers):
            continue
        uses = [Use(node.name, index) for node in readers for index, t in enumerate(node.inputs) if t is tensor]
        inserter.insert(Pair(name, Code.TRIAL(), uses), storable_scale(one.amax, Precision.INT8))
    model.tidy()
    return model


def measured(inputs: Inputs, reference: Model, subject: Model) -> Form | None:
    """Compare one form with the float model on the recipe's samples; None if it has no samples."""
    from toolkit.evaluation.evaluate import evaluate

    data, _ = inputs.evaluation_data(inputs.source())
    if data is None or len(data) == 0:
        return None
    section = inputs.job.recipe.evaluation
    found: EvaluationResult = evaluate(
        reference, subject, data, metric=section.metric, output=section.output, batch=section.batch,
        samples=section.samples, layer_samples=1,
    )  # fmt: skip
    levels = [math.inf if one.max_abs == 0 else one.sqnr_db for one in found.outputs.values()]
    lowest = min((level for level in levels if level is not None), default=None)
    return Form(lowest, found.value, found.float_value)
