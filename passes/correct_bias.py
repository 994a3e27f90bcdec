"""Bias correction: take out the mean shift that rounding the weights gives each output channel."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from pydantic import Field

from toolkit import (
    DEQUANTIZE,
    QUANTIZE,
    TARGETS,
    Array,
    Code,
    Context,
    Harm,
    Helper,
    Model,
    Names,
    bias_place,
    corrected_mean,
    response,
)


class CorrectBias(Helper):
    """Subtract from each bias what the rounded weights add to the mean of the output: (Wq - W) E[x].

    Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019, section 4.2,
    with E[x] measured on calibration samples. Use it after insert_qdq.
    """

    name = "correct_bias"
    # it works on pairs: nothing that is tried on a float model
    role = None
    tells_in_dry_run = True
    mends = Harm.SHIFTED_MEAN
    samples: int = Field(64, gt=0, le=1_000_000, description="calibration samples to look at")

    def measures_engines(self) -> bool:
        """It builds none."""
        return False

    def apply(self, model: Model, context: Context) -> None:
        """Correct every quantized layer that has a bias, or can have one.

        Raises:
            RangesError: there is no calibration data.
        """
        from toolkit import collect_channels

        layers = [node for node in model.nodes if node.op in TARGETS and _rounded(model, node) is not None]
        if not layers:
            context.journal.noted(Code.NO_QUANTIZED_WEIGHTS())
            return
        data = context.calibration_samples()
        if context.dry_run:
            context.journal.noted(Code.DRY_RUN(step="biases"))
            return
        axes = {node.inputs[0].name: 1 if node.op in ("Conv", "ConvTranspose") else -1 for node in layers}
        means = {name: found.mean for name, found in collect_channels(model, axes, data, self.samples).items()}
        names = model.tensor_names()
        for node in layers:
            if node.op == "ConvTranspose" or (node.op == "Gemm" and node.attrs.get("transA", 0)):
                context.journal.declined(node.name, Code.NOT_SUPPORTED(op=node.op))
                continue
            if node.inputs[0].name not in means:
                context.journal.declined(node.name, Code.NOT_CALIBRATED())
                continue
            self._correct(model, node, means[node.inputs[0].name], names, context)
        model.tidy()

    def _correct(self, model: Model, node: gs.Node, mean: Array, names: Names, context: Context) -> None:
        found = _rounded(model, node)
        assert found is not None
        weight, stored = found
        done = corrected_mean(model, node)
        left = mean if done is None else mean - done
        shift = response(node, stored.astype(np.float64) - weight.astype(np.float64), left)
        place = bias_place(model, node, len(shift))
        if place is None:
            context.journal.declined(node.name, Code.NO_BIAS())
            return
        place.add(model, -shift, "corrected", names, weight.dtype)
        why = Code.MEAN_SHIFT(shift=np.abs(shift).max())
        context.journal.changed(node.name, Code.BIAS_CORRECTED(holder=place.holder.name), why)


def _rounded(model: Model, node: gs.Node) -> tuple[Array, Array] | None:
    """A layer's float weights and what its Q/DQ pair makes of them, or None."""
    back = node.inputs[1].inputs[0] if len(node.inputs) > 1 and node.inputs[1].inputs else None
    if back is None or back.op != DEQUANTIZE or not back.inputs[0].inputs:
        return None
    quantize = back.inputs[0].inputs[0]
    if quantize.op != QUANTIZE:
        return None
    values, scale = model.constant(quantize.inputs[0]), model.constant(quantize.inputs[1])
    if values is None or scale is None or values.ndim < 2:
        return None
    from toolkit import Precision, fake_quantized, onnx_type

    precision = Precision.from_onnx(onnx_type(quantize.inputs[2].dtype)) if len(quantize.inputs) > 2 else Precision.INT8
    axis = int(quantize.attrs.get("axis", 1)) if scale.size > 1 else None
    return values, fake_quantized(values, np.atleast_1d(scale), axis, precision or Precision.INT8)
