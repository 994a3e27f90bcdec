"""Compensation: scale and shift each output channel of a quantized layer towards its float output."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from passes.correct_bias import CorrectBias
from toolkit import (
    Array,
    CalibrationData,
    ChannelErrors,
    Code,
    Context,
    Model,
    Names,
    Precision,
    RoundedLayer,
    bias_place,
    make_constant,
    note_correction,
    onnx_type,
    rounding_correction,
    storable_scale,
)

_MOST = 1.5
"""The largest factor for a channel's scale; the smallest is its inverse."""


class Compensate(CorrectBias):
    """Scale and offset each output channel of a quantized layer so that it is closest to the float output.

    Both are fitted by least squares on calibration samples (channel-wise affine compensation: Tao et al., "QwT-v2",
    2025, arXiv 2505.20932). The factor is folded into the weight scales (the quantized weights stay the same) and the
    offset into the bias, so the engine gets no extra operations. Use it after insert_qdq, instead of correct_bias.
    """

    name = "compensate"
    scale: bool = Field(True, description="correct the scale of each channel too, not only its bias")

    def _correct_all(self, model: Model, layers: list[RoundedLayer], data: CalibrationData, context: Context) -> None:
        from toolkit import collect_output_errors

        found = collect_output_errors(model, layers, data, self.samples)
        names = model.tensor_names()
        for layer in layers:
            if layer.node.name in found:
                self._compensate(model, layer, found[layer.node.name], names, context)
            else:
                context.journal.declined(layer.node.name, Code.NOT_CALIBRATED())

    def _compensate(
        self, model: Model, layer: RoundedLayer, error: ChannelErrors, names: Names, context: Context
    ) -> None:
        """Fold the factor and offset of each output channel into the layer's weight scales and bias."""
        place = bias_place(model, layer.node, len(error.error))
        if place is None:
            context.journal.declined(layer.node.name, Code.NO_BIAS())
            return
        factor = self._scaled(model, layer, error.factor(), names) if self.scale else np.ones(len(error.error))
        rounding = layer.rounded().astype(np.float64) - layer.weight.astype(np.float64)
        offset = error.number(factor) - rounding_correction(model, layer.node, rounding)
        context.note_float_values(*place.add(model, offset, "compensated", names, layer.weight.dtype))
        note_correction(model, layer.node, offset, factor if (factor != 1).any() else None)
        why = Code.OUTPUT_ERROR(factor=np.abs(factor - 1).max(), number=np.abs(offset).max())
        context.journal.changed(layer.node.name, Code.COMPENSATED(holder=place.holder.name), why)

    def _scaled(self, model: Model, layer: RoundedLayer, factor: Array, names: Names) -> Array:
        """Multiply a layer's weight scales; returns the factors applied, whose scales are rounded to float16.

        Args:
            model: the graph; it is changed.
            factor: of each output channel, float64 [channels]; clipped to 1.5 and its inverse.
        """
        back, quantize = layer.dequantize, layer.quantize
        readers = len(back.outputs[0].outputs), len(quantize.outputs[0].outputs)
        old = model.constant(quantize.inputs[1])
        moved = layer.node.inputs[1] is not back.outputs[0]
        # scales that are shared with other layers, or by all channels, stay as they are
        if layer.axis is None or readers != (1, 1) or moved or old is None:
            return np.ones(len(factor))
        wanted = np.asarray(old, np.float64) * np.clip(factor, 1 / _MOST, _MOST)
        precision = Precision.from_onnx(onnx_type(quantize.inputs[2].dtype)) or Precision.INT8
        new = storable_scale(wanted * precision.max, precision)
        taken = new.astype(np.float64) / old
        shape = [1] * layer.weight.ndim
        shape[layer.axis] = -1
        weight = (layer.weight.astype(np.float64) * taken.reshape(shape)).astype(layer.weight.dtype)
        quantize.inputs[0] = make_constant(names.take(f"{quantize.inputs[0].name}_compensated"), weight)
        scale = make_constant(names.take(f"{quantize.inputs[1].name}_compensated"), new, onnx_type(old.dtype))
        quantize.inputs[1] = back.inputs[1] = scale
        return taken
