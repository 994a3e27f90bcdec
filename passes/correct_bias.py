"""Bias correction: remove the mean shift that rounding the weights causes in each output channel."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from toolkit import (
    Array,
    CalibrationData,
    Code,
    Context,
    Harm,
    Helper,
    Model,
    Names,
    RoundedLayer,
    bias_place,
    is_bias_corrected,
    note_bias_corrected,
    response,
    rounded_layers,
    rounding_correction,
)


class CorrectBias(Helper):
    """Subtract from each bias what the rounded weights add to the mean of the output: (Wq - W) E[x].

    Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019, section 4.2,
    with E[x] measured on calibration samples. Use it after insert_qdq.
    """

    name = "correct_bias"
    # it needs Q/DQ pairs, so it cannot be tried on a float model
    role = None
    supports_dry_run = True
    mends = Harm.SHIFTED_MEAN
    samples: int = Field(64, gt=0, le=1_000_000, description="how many calibration samples to use")

    def measures_engines(self) -> bool:
        """Builds no engines."""
        return False

    def apply(self, model: Model, context: Context) -> None:
        """Correct every quantized layer that has a bias or can be given one.

        Raises:
            RangesError: there is no calibration data.
        """
        layers = list(rounded_layers(model))
        if not layers:
            context.journal.noted(Code.NO_QUANTIZED_WEIGHTS())
            return
        data = context.calibration_samples()
        if context.dry_run:
            context.journal.noted(Code.DRY_RUN(step="biases"))
            return
        settled = [layer.node.name for layer in layers if is_bias_corrected(model, layer.node, layer.rounded())]
        for name in settled:
            context.journal.declined(name, Code.BIAS_SETTLED())
        before = len(context.journal.events)
        self._correct_all(model, [layer for layer in layers if layer.node.name not in settled], data, context)
        changed = {event.node for event in context.journal.events[before:] if event.kind == "changed"}
        for layer in rounded_layers(model):
            if layer.node.name in changed:
                note_bias_corrected(model, layer.node, layer.rounded())
        model.tidy()

    def _correct_all(self, model: Model, layers: list[RoundedLayer], data: CalibrationData, context: Context) -> None:
        """Correct these layers by their mean inputs on the samples; each gets a journal entry."""
        from toolkit import collect_channels

        axes = {one.node.inputs[0].name: 1 if one.node.op in ("Conv", "ConvTranspose") else -1 for one in layers}
        means = {name: found.mean for name, found in collect_channels(model, axes, data, self.samples).items()}
        names = model.tensor_names()
        for layer in layers:
            node = layer.node
            if node.op == "ConvTranspose" or (node.op == "Gemm" and node.attrs.get("transA", 0)):
                context.journal.declined(node.name, Code.NOT_SUPPORTED(op=node.op))
                continue
            if node.inputs[0].name not in means:
                context.journal.declined(node.name, Code.NOT_CALIBRATED())
                continue
            self._correct(model, layer, means[node.inputs[0].name], names, context)

    def _correct(self, model: Model, layer: RoundedLayer, mean: Array, names: Names, context: Context) -> None:
        """Correct one layer's bias; ``mean`` is the mean of each input channel, float64 [channels]."""
        node = layer.node
        error = layer.rounded().astype(np.float64) - layer.weight.astype(np.float64)
        shift = response(node, error, mean) + rounding_correction(model, node, error)
        place = bias_place(model, node, len(shift))
        if place is None:
            context.journal.declined(node.name, Code.NO_BIAS())
            return
        context.note_float_values(*place.add(model, -shift, "corrected", names, layer.weight.dtype))
        why = Code.MEAN_SHIFT(shift=np.abs(shift).max())
        context.journal.changed(node.name, Code.BIAS_CORRECTED(holder=place.holder.name), why)
