"""Remove Q/DQ pairs, whatever tool inserted them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from pydantic import Field

from toolkit import (
    FLOAT_TYPES,
    CalibrationData,
    Clamp,
    Code,
    Context,
    ExistingPair,
    FloatPath,
    LostClamps,
    Model,
    Pass,
    PassError,
    QtoolError,
    Range,
    Ranges,
    RangesError,
    Role,
    choose,
    clamp_weights,
    compare_stripped,
    half_pairs,
    lost_clamps,
    make_constant,
    make_node,
    note_borders,
    onnx_type,
    pairs_and_borders,
    rank_in_samples,
    reroute,
    restore_bias,
    rounded_layers,
    saturation,
    write_border_outputs,
)

_SAMPLES, _FAR_DB = 16, 20.0


class StripQDQ(Pass):
    """Remove Q/DQ pairs from QAT or PTQ, of any type and zero point; quantized weights become float again.

    A weight that its pair clips far more than it rounds it, as after quantization-aware training, is clamped to the
    pair's range: the model was trained with the clipped values. Activations that a quantizer removed because a pair
    clamps the same way are restored. Half a pair at an input or output of the model, as in full-integer models from
    TFLite, becomes float operators that compute the same if TensorRT does not support it. If there are calibration
    samples, the result is compared with the model before stripping: a difference that the pairs' rounding does not
    explain is an error.
    """

    name = "strip_qdq"
    role = Role.STRIP
    supports_dry_run = True
    nodes: list[str] = Field([], description="strip only the pairs these nodes read (names or globs); empty: all")
    keep_ranges: bool = Field(False, description="keep the activation scales as ranges for insert_qdq")

    def reads_evaluation(self) -> bool:
        """Uses only the graph and calibration samples."""
        return False

    def measures_engines(self) -> bool:
        """Builds no engines."""
        return False

    def apply(self, model: Model, context: Context) -> None:
        """Rewire all readers of each pair to its float input.

        Raises:
            RecipeError: a pattern matches nothing.
            PassError: removing the pairs changes an output by more than their rounding explains.
        """
        pairs = self._chosen(model)
        data = _samples(context) if pairs and not context.dry_run else None
        clamp_weights(model, (quantize for pair in pairs for quantize in pair.quantizers), context.journal)
        paired = model.copy()
        seen: dict[str, tuple[bool, bool]] | None = None
        if data is not None:
            try:
                seen = saturation(model, pairs, data, _SAMPLES)
            except QtoolError as error:
                context.journal.noted(Code.STRIP_NOT_MEASURED(why="refused", error=error.what))
                data = None
        elif pairs:
            context.journal.noted(Code.STRIP_NOT_MEASURED(why="dry-run" if context.dry_run else "no-samples"))
        lost = lost_clamps(model, pairs, seen, context.profiles, partial(_rank, model, context))
        if lost.unsure:
            context.journal.noted(Code.CLAMPS_UNSURE(tensors=lost.unsure))
        _take_back_corrections(model, pairs)
        ranges = _Stripper(model, lost, context).strip(pairs)
        if not self.nodes:
            write_border_outputs(model, context.journal)
        for half in half_pairs(model) if not self.nodes else ():
            context.journal.declined(half.node.name, Code.NO_PAIR(why=half.why, at=half.at, op=half.op))
        if self.keep_ranges and ranges:
            known = context.known_ranges or Ranges()
            known.tensors.update(ranges)
            context.known_ranges = known
            context.journal.noted(Code.KEPT_RANGES(tensors=len(ranges)))
        if data is not None:
            beyond = {name for name, sides in (seen or {}).items() if lost.exceeds_range(name, sides)}
            rounded = paired.copy()
            _Stripper(rounded, lost, context.fork(), beyond).strip(self._chosen(rounded))
            _compare(paired, model, rounded, data, context)

    def _chosen(self, model: Model) -> list[ExistingPair]:
        """The pairs to remove, in the graph's order."""
        readers = set(choose(model, self.nodes, setting="strip_qdq nodes")) if self.nodes else None
        return [
            pair
            for pair in pairs_and_borders(model)
            if readers is None or any(node.name in readers for node in pair.dequantize.outputs[0].outputs)
        ]


def _take_back_corrections(model: Model, pairs: Sequence[ExistingPair]) -> None:
    """Undo bias corrections that compensated for the removed rounding of weights."""
    weights, names = {id(pair.dequantize) for pair in pairs}, model.tensor_names()
    for layer in rounded_layers(model):
        if id(layer.dequantize) in weights:
            restore_bias(model, layer.node, layer.weight, layer.rounded, names)


def _samples(context: Context) -> CalibrationData | None:
    """The calibration samples; None where there are none."""
    try:
        data: CalibrationData = context.calibration_samples()
    except RangesError:
        return None
    return data if len(data) else None


def _rank(model: Model, context: Context, tensor: str) -> int | None:
    """The rank of a tensor in the first calibration sample, in a dry run too: without it a run would be refused."""
    data = _samples(context)
    try:
        return rank_in_samples(model, tensor, data) if data is not None else None
    except QtoolError:
        return None


def _compare(paired: Model, model: Model, rounded: Model, data: CalibrationData, context: Context) -> None:
    """Compare the stripped model with the one with its pairs.

    Raises:
        PassError: an output differs by more than the pairs' rounding explains.
    """
    try:
        found = compare_stripped(paired, model, rounded, data, _SAMPLES)
    except QtoolError as error:
        context.journal.noted(Code.STRIP_NOT_MEASURED(why="refused", error=error.what))
        return
    if not found:
        context.journal.noted(Code.STRIP_NOT_MEASURED(why="shapes"))
        return
    worst = found[0]
    if worst.excessive:
        raise PassError(
            f"removing the Q/DQ pairs changes the model: output '{worst.output}' has {worst.sqnr_db:.1f} dB SQNR "
            f"relative to the model with pairs on {worst.samples} samples; their rounding explains only "
            f"{worst.rounding_db:.1f} dB",
            remedy="start from the float model that was quantized, or name the pairs to strip by nodes = [...]",
        )
    code = Code.STRIP_FAR if worst.sqnr_db < _FAR_DB else Code.STRIP_MEASURED
    context.journal.noted(
        code(output=worst.output, sqnr_db=worst.sqnr_db, rounding_db=worst.rounding_db, samples=worst.samples)
    )


class _Stripper:
    """Removes pairs from one model.

    Args:
        context: its journal and plan.
        beyond: to replace pairs by rounding instead of removing them: the names of the QuantizeLinears whose tensors
            exceed their range, which are rounded without clipping. None removes pairs.
    """

    def __init__(self, model: Model, lost: LostClamps, context: Context, beyond: set[str] | None = None) -> None:
        self.model, self.lost, self.context, self.beyond = model, lost, context, beyond
        self.path = FloatPath(model, self._entry)
        self.names = self.path.names
        self._entered: dict[int, gs.Tensor] = {}
        self._clamped: dict[tuple[int, Any], gs.Tensor] = {}
        self._inner = model.subgraph_tensors()

    def strip(self, pairs: Sequence[ExistingPair]) -> dict[str, Range]:
        """Remove the pairs; returns the ranges of their activations by tensor."""
        ranges: dict[str, Range] = {}
        for pair in pairs:
            source = self._strip(pair)
            amax, reach = pair.grid.amax, pair.grid.reach
            if amax is None or reach is None or self.model.constant(source) is not None:
                continue
            if any(quantize.name in self.lost.clamps for quantize in pair.quantizers):
                # the values reach both ends
                amax = float(max(np.abs(end).max() for end in reach))
            read = [self._entered[id(q)] for q in pair.quantizers if self.model.constant(q.inputs[0]) is None]
            for tensor in [*read, source]:
                ranges[tensor.name] = Range(amax, "stripped", dtype=pair.grid.range_type)
        note_borders(self.path.borders, self.context.journal)
        for pair in pairs:
            if pair.grid.scale is None and pair.quantize is not None:
                self.context.journal.noted(Code.COMPUTED_SCALE(tensor=pair.tensor.name), node=pair.quantize.name)
        self.path.finish()
        return ranges

    def _strip(self, pair: ExistingPair) -> gs.Tensor:
        """Rewire the readers of a pair to its float tensor, which is returned."""
        node, result = pair.dequantize, pair.dequantize.outputs[0]
        graph = self.path.graphs[id(node)]
        before = len(self.path.casts)
        source = self.path.given(pair)
        for name, tensor in list(self.path.casts.items())[before:]:
            self.context.journal.changed(name, Code.INSERTED(), Code.CAST_RESTORED(tensor=tensor))
        readers = list({id(reader): reader for reader in result.outputs}.values())
        node.outputs.clear()
        if self.path.take_over(result, source):
            # readers and ranges refer to it by this name
            source = result
        else:
            reroute(result, source)
            if any(out is result for out in graph.outputs):
                name = self.names.take(f"{node.name}_Identity")
                graph.nodes.append(make_node("Identity", name, [source], [result]))
                self.context.journal.noted(Code.OUTPUT_NAME_KEPT(output=result.name))
        for reader in readers:
            ask = self.context.plan.get(reader.name)
            if ask is not None and ask.precision.quantized:
                self.context.plan.withdraw(reader.name)
            self.context.journal.changed(reader.name, Code.READS_FLOAT(tensor=source.name), Code.STRIPPED())
        return source

    # ---------------------------------------------------------------- where values were quantized

    def _entry(self, quantize: gs.Node) -> gs.Tensor:
        """The tensor that replaces a QuantizeLinear's output."""
        if id(quantize) not in self._entered:
            tensor = quantize.inputs[0]
            clamp = self.lost.clamps.get(quantize.name)
            if clamp is not None:
                tensor = self._clamp(quantize, tensor, clamp)
            if self.beyond is not None:
                tensor = self._rounded(quantize, tensor)
            self._entered[id(quantize)] = tensor
        return self._entered[id(quantize)]

    def _clamp(self, quantize: gs.Node, tensor: gs.Tensor, clamp: Clamp) -> gs.Tensor:
        """Restore the activation that a pair replaced; its output takes the tensor's name if possible."""
        ends = tuple(None if end is None else end.tobytes() for end in (clamp.low, clamp.high))
        if (id(tensor), ends) in self._clamped:
            return self._clamped[id(tensor), ends]
        graph = self.path.graphs[id(quantize)]
        name = tensor.name
        alone = all(reader.op == quantize.op for reader in tensor.outputs) and name not in self._inner
        result = gs.Variable(self.names.take(f"{name}_clamped"), dtype=tensor.dtype, shape=tensor.shape)
        made = self._clamping(quantize, tensor, result, clamp)
        graph.nodes.extend(made)
        if alone and not any(tensor is out for out in graph.outputs):
            tensor.name, result.name = self.names.take(f"{name}_unclamped"), name
        low, high = clamp.interval
        self.context.journal.changed(
            made[-1].name, Code.INSERTED(), Code.CLAMP_RESTORED(tensor=name, low=low, high=high)
        )
        self._clamped[id(tensor), ends] = result
        return result

    def _clamping(self, quantize: gs.Node, tensor: gs.Tensor, result: gs.Tensor, clamp: Clamp) -> list[gs.Node]:
        """The Relu, the Clip, or the Max and Min by channel that clamp ``tensor`` to ``result``."""
        maker = tensor.inputs[0].name
        if clamp.relu:
            return [make_node("Relu", self.names.take(f"{maker}_Relu"), [tensor], [result])]
        name = self.names.take(f"{maker}_Clip")
        # the scale has the tensor's type, which many files do not declare
        kinds = (onnx_type(one.dtype) for one in (tensor, quantize.inputs[1]))
        kind = next((kind for kind in kinds if kind in FLOAT_TYPES), 1)
        if clamp.axis is not None:
            return self._by_channel(tensor, result, clamp, name, kind)
        low, high = clamp.interval
        if self.model.opset < 11:
            ends = {"min": low, "max": high}
            attrs = {key: float(value) for key, value in ends.items() if np.isfinite(value)}
            return [make_node("Clip", name, [tensor], [result], **attrs)]
        limits = [
            make_constant(self.names.take(f"{name}_{end}"), np.asarray(value, np.float32), kind)
            if np.isfinite(value) else gs.Variable.empty()
            for end, value in (("min", low), ("max", high))
        ]  # fmt: skip
        if not np.isfinite(high):
            limits.pop()
        return [make_node("Clip", name, [tensor, *limits], [result])]

    def _by_channel(self, tensor: gs.Tensor, result: gs.Tensor, clamp: Clamp, name: str, kind: int) -> list[gs.Node]:
        """Clamp by Max and Min: a Clip has one limit for all channels, these have one per channel."""
        assert clamp.axis is not None
        shape = [1] * clamp.rank
        shape[clamp.axis] = -1
        made: list[gs.Node] = []
        current = tensor
        for op, end in (("Max", clamp.low), ("Min", clamp.high)):
            if end is None:
                continue
            limit = make_constant(self.names.take(f"{name}_{op}"), end.astype(np.float32).reshape(shape), kind)
            out = gs.Variable(self.names.take(f"{name}_{op}_output"), dtype=tensor.dtype, shape=tensor.shape)
            made.append(make_node(op, self.names.take(f"{name}_{op}"), [current, limit], [out]))
            current = out
        made[-1].outputs[0] = result
        return made

    def _rounded(self, quantize: gs.Node, tensor: gs.Tensor) -> gs.Tensor:
        """The tensor rounded as its pair rounds it, but not clipped if it exceeds the pair's range."""
        assert self.beyond is not None
        graph = self.path.graphs[id(quantize)]
        base, scale = quantize.name, quantize.inputs[1]
        steps = [gs.Variable(self.names.take(f"{base}_round{i}"), dtype=tensor.dtype) for i in range(4)]
        if quantize.name in self.beyond and "axis" not in quantize.attrs:
            half = make_constant(
                self.names.take(f"{base}_half"), np.asarray(0.5, np.float32), onnx_type(scale.dtype) or 1
            )
            parts = (
                ("Div", [tensor, scale]),
                ("Add", [steps[0], half]),
                ("Floor", [steps[1]]),
                ("Mul", [steps[2], scale]),
            )
            for (op, inputs), out in zip(parts, steps):
                graph.nodes.append(make_node(op, self.names.take(f"{base}_{op}"), inputs, [out]))
            return steps[3]
        for op, inputs, out in (
            (quantize.op, [tensor, *quantize.inputs[1:]], steps[0]),
            ("DequantizeLinear", [steps[0], *quantize.inputs[1:]], steps[1]),
        ):
            attrs = {key: value for key, value in quantize.attrs.items() if key in ("axis", "block_size")}
            if op == quantize.op:
                attrs = dict(quantize.attrs)
                out.dtype = None
            made = make_node(op, self.names.take(f"{base}_{op}"), inputs, [out], **attrs)
            made.domain = quantize.domain
            graph.nodes.append(made)
        return steps[1]
