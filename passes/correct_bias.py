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
    note_correction,
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
        means, names = self._mean_inputs(model, [one for one in layers if not _unlike(one)], data), model.tensor_names()
        for layer in layers:
            name = layer.node.name
            if what := _unlike(layer):
                context.journal.declined(name, Code.NOT_SUPPORTED(op=what))
            elif name not in means:
                context.journal.declined(name, Code.NOT_CALIBRATED())
            else:
                self._correct(model, layer, means[name], names, context)

    def _mean_inputs(self, model: Model, layers: list[RoundedLayer], data: CalibrationData) -> dict[str, Array]:
        """By layer, the mean of each input channel, float64 [channels]; without layers that were not calibrated."""
        from toolkit import collect_channels

        means: dict[str, Array] = {}
        left = [(layer.node.name, layer.node.inputs[0].name, layer.node.op == "Conv") for layer in layers]
        while left:
            # a Conv and a MatMul may read the same tensor, whose channels are then on two axes
            conv = {tensor: is_conv for _, tensor, is_conv in reversed(left)}
            axes = {tensor: 1 if is_conv else -1 for tensor, is_conv in conv.items()}
            found = collect_channels(model, axes, data, self.samples)
            means |= {
                name: found[tensor].mean
                for name, tensor, is_conv in left
                if tensor in found and conv[tensor] == is_conv
            }
            left = [one for one in left if conv[one[1]] != one[2]]
        return means

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
        note_correction(model, node, -shift)
        why = Code.MEAN_SHIFT(shift=np.abs(shift).max())
        context.journal.changed(node.name, Code.BIAS_CORRECTED(holder=place.holder.name), why)


def _unlike(layer: RoundedLayer) -> str:
    """What of a layer keeps one mean per input channel from telling the mean of its output; empty if nothing does."""
    node = layer.node
    if node.op == "MatMul" and layer.weight.ndim > 2:
        return f"MatMul with weights of {layer.weight.ndim} axes"
    return str(node.op) if node.op == "ConvTranspose" or node.attrs.get("transA", 0) else ""
