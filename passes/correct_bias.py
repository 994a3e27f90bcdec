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
    bias_of,
    make_constant,
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
        facts = model.facts(context.profiles)
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
            self._correct(model, node, means[node.inputs[0].name], facts.rank(node.outputs[0].name), names, context)
        model.tidy()

    def _correct(
        self, model: Model, node: gs.Node, mean: Array, rank: int | None, names: Names, context: Context
    ) -> None:
        found = _rounded(model, node)
        assert found is not None
        weight, stored = found
        shift = _shift(node, stored.astype(np.float64) - weight.astype(np.float64), mean)
        place = _bias(model, node, len(shift))
        if place is None:
            context.journal.declined(node.name, Code.NO_BIAS())
            return
        holder, index = place
        if index < len(holder.inputs):
            old = model.constant(holder.inputs[index])
            assert old is not None
            beta = float(node.attrs.get("beta", 1.0)) if holder is node and node.op == "Gemm" else 1.0
            new = (old.astype(np.float64) - shift.reshape(old.shape if old.size == shift.size else -1) / beta).astype(
                old.dtype
            )
            holder.inputs[index] = make_constant(names.take(f"{holder.inputs[index].name}_corrected"), new)
        else:
            name = names.take(f"{node.name}_bias_corrected")
            holder.inputs.append(make_constant(name, (-shift).astype(weight.dtype)))
        why = Code.MEAN_SHIFT(shift=np.abs(shift).max())
        context.journal.changed(node.name, Code.BIAS_CORRECTED(holder=holder.name), why)


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


def _shift(node: gs.Node, error: Array, mean: Array) -> Array:
    """How far the mean of each output channel moves, float64 [out]; padding counts like other values."""
    if node.op == "MatMul":
        return np.asarray(mean @ error)
    if node.op == "Gemm":
        alpha = float(node.attrs.get("alpha", 1.0))
        return np.asarray(alpha * (error @ mean if node.attrs.get("transB", 0) else mean @ error))
    group = int(node.attrs.get("group", 1))
    summed = error.reshape(group, error.shape[0] // group, error.shape[1], -1).sum(axis=3)
    return np.asarray(np.einsum("goi,gi->go", summed, mean.reshape(group, -1)).reshape(-1))


def _bias(model: Model, node: gs.Node, size: int) -> tuple[gs.Node, int] | None:
    """The node and input that hold the bias; the index after the last input where a bias can be added."""
    place = bias_of(model, node)
    if place is None:
        return (node, 2) if node.op != "MatMul" and len(node.inputs) < 3 else None
    value = model.constant(place[0].inputs[place[1]])
    return place if value is not None and value.size == size else None
