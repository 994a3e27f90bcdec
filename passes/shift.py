"""Center one-sided and skewed activations in a symmetric type's range, at no cost in the engine."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs
from pydantic import Field

from toolkit import (
    Array,
    BiasPlace,
    Code,
    Context,
    Facts,
    Finding,
    Forms,
    Harm,
    Helper,
    LayerWeights,
    Model,
    Names,
    Precision,
    bias_place,
    make_constant,
    make_node,
    note_input_mean,
    reroute,
    response,
    storable_scale,
)

_MOVES = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "MaxPool"})
"""Operators through which a constant added to their input passes unchanged; a MaxPool pads with -inf."""
_SIZES = frozenset({"Shape", "Size"})
_KERNELS = frozenset({"Gelu", "HardSwish", "Mish", "Swish"})
"""Activations whose kernel absorbs the addition of a constant. Seen on an H100 with TensorRT 8.6.0
(tests/benchmarks/bench_shift.py): the number of engine layers is the same; milliseconds without/with it, before a
convolution and before a MatMul: SiLU 0.0219/0.0209, 0.0259/0.0252; HardSwish 0.0207/0.0198, 0.0250/0.0239; GELU
0.0236/0.0242, 0.0287/0.0280. Mish was not measured.
"""
_TRIED = 32


@dataclass(frozen=True)
class _Site:
    """An activation that can be shifted.

    Attributes:
        tensor: the activation that the layers read.
        layers: its readers, each with the place of its bias.
        made: the tensor that is shifted: ``tensor``, or one upstream of it with only data movement between.
        maker: the node that produces ``made``.
        axis: the channel axis if each channel can have its own shift; None if all channels share one.
        bias: the place of the maker's bias, if the shift goes there.
        index: the maker's input that takes the shift, if it is not a bias; None for an Add after the maker.
        clamps: the Clips between the maker and the layers, whose limits are shifted too.
    """

    tensor: gs.Tensor
    layers: list[tuple[gs.Node, BiasPlace]]
    made: gs.Tensor
    maker: gs.Node
    axis: int | None = None
    bias: BiasPlace | None = None
    index: int | None = None
    clamps: tuple[gs.Node, ...] = ()

    def cuts(self, model: Model, high: float) -> bool:
        """Whether the largest value ``high`` is a Clip's upper limit, so calibration must not clip it further."""
        given = (node.inputs[2] for node in self.clamps if len(node.inputs) > 2 and not node.inputs[2].is_empty())
        limits = [limit.max() for tensor in given if (limit := model.constant(tensor)) is not None]
        return bool(limits) and high >= min(limits)


@dataclass(frozen=True)
class _Offset:
    """The shift of a tensor.

    Attributes:
        values: what is subtracted, float64 [channels].
        low: the tensor's smallest value.
        high: its largest value.
        gain_db: by how many dB its largest magnitude falls, and the quantization step with it.
    """

    values: Array
    low: float
    high: float
    gain_db: float


class Shift(Helper):
    """Subtract the middle of its range from a layer's input and compensate in the layer's bias: a free zero point.

    With x = x' + c the layer computes W x' + (b + W c), which is exact unless it pads its input. The producer outputs
    x': a bias or the shift of a normalization absorbs c per channel, as in Outlier Suppression+ (Wei et al., EMNLP
    2023, equation 3); after a SiLU, GELU, HardSwish or Mish one constant is subtracted, which TensorRT fuses into the
    activation's pointwise kernel. The limits of a ReLU6 or another Clip are shifted with its input. A ReLU would become
    a Clip; whether TensorRT fuses that into the preceding convolution was not measured, so a ReLU is left as it is.

    The mean of x' is recorded; the quantizer uses it to correct the bias for the rounding of the weights.
    """

    name = "shift"
    supports_dry_run = True
    mends = Harm.ONE_SIDED
    least: float = Field(
        1.0, ge=0, le=100, description="shift only inputs whose quantization step becomes finer by this many dB"
    )
    insert: bool = Field(True, description="also subtract after a SiLU, GELU, HardSwish or Mish")
    samples: int = Field(64, gt=0, le=1_000_000, description="how many calibration samples to use")

    def measures_engines(self) -> bool:
        """Builds no engines."""
        return False

    def applicable_layers(self, model: Model) -> set[str]:
        """Layers whose input can be shifted, regardless of its values."""
        return {node.name for site in self._sites(model, Context(), None) for node, _ in site.layers}

    def apply(self, model: Model, context: Context) -> None:
        """Shift the inputs that gain from it; each layer that reads one gets a journal entry.

        Raises:
            RangesError: there is no calibration data.
        """
        from toolkit import collect_channels, forget_ranges

        sites = self._sites(model, context, model.facts(context.profiles))
        # float16 is finest around 0, where activations are before the shift
        sites = [one for one in sites if not self.decline_float(context, (node.name for node, _ in one.layers))]
        if not sites:
            context.journal.noted(Code.NOTHING_TO_SHIFT())
            return
        data = context.calibration_samples()
        if context.dry_run:
            context.journal.noted(Code.DRY_RUN(step="shifts"))
            return
        amax = context.ranges(model, [site.tensor.name for site in sites]).tensors
        axes = {site.tensor.name: _axis(site.layers[0][0]) for site in sites}
        found = collect_channels(model, axes, data, self.samples)
        tensors, nodes = model.tensor_names(), Names(model.node_names())
        changed = False
        for site in sites:
            name = site.tensor.name
            if name not in found or name not in amax:
                _decline(context, site.layers, Code.NOT_CALIBRATED())
                continue
            largest = math.inf if site.cuts(model, found[name].high.max()) else amax[name].amax
            shift = _middle(found[name].low, found[name].high, largest, site.axis is not None, bool(site.clamps))
            if shift is None or shift.gain_db < self.least:
                _decline(context, site.layers, Code.CENTRED(tensor=name, gain_db=shift.gain_db if shift else 0.0))
                continue
            holder = _take(model, site, shift.values, tensors, nodes)
            why = Code.SKEWED(tensor=name, low=shift.low, high=shift.high, gain_db=shift.gain_db)
            for node in site.clamps:
                context.journal.changed(node.name, Code.LIMITS_SHIFTED(shift=-float(shift.values[0])), why)
            for node, place in site.layers:
                weight = model.constant(node.inputs[1])
                assert weight is not None
                place.add(model, response(node, weight, shift.values), "shifted", tensors, weight.dtype)
                note_input_mean(model, node, found[name].mean - shift.values)
                context.journal.changed(node.name, Code.SHIFTED(holder=holder, channels=site.axis is not None), why)
            changed = True
        if changed:
            model.tidy()
            forget_ranges(context)

    # ---------------------------------------------------------------- where

    def _sites(self, model: Model, context: Context, facts: Facts | None) -> list[_Site]:
        """The activations that can be shifted; for the others, the journal gets the reason.

        Without ``facts``, some that could be shifted per channel are shifted as a whole.
        """
        kept = model.subgraph_tensors() | {tensor.name for tensor in model.graph.outputs}
        forms, found = Forms(model, facts), list[_Site]()
        self.decline_transposed(model, context)
        for nodes in _readers(model).values():
            places = [(node, bias_place(model, node, LayerWeights.channels(model, node)[0])) for node in nodes]
            refused = _refusals(places)
            if not any(refused.values()):
                layers = [(node, place) for node, place in places if place is not None]
                site = self._site(model, forms, facts, kept, layers)
                if isinstance(site, _Site):
                    found.append(site)
                    continue
                refused = dict.fromkeys(refused, site)
            for node in nodes:
                other = next(name for name, why in refused.items() if why is not None)
                why = refused[node.name] or Code.OTHER_READER(tensor=node.inputs[0].name, reader=other)
                context.journal.declined(node.name, why)
        return found

    def _site(
        self, model: Model, forms: Forms, facts: Facts | None, kept: set[str], layers: list[tuple[gs.Node, BiasPlace]]
    ) -> _Site | Finding:
        """Where the shift of the tensor that these layers read can be applied, or why nowhere.

        ``kept`` names the model's outputs, and the tensors that subgraphs read.
        """
        made = layers[0][0].inputs[0]
        own = {id(node) for node, _ in layers}
        clamps = []
        while True:
            stranger = next((node for node in made.outputs if id(node) not in own and node.op not in _SIZES), None)
            if stranger is not None or made.name in kept:
                return Code.OTHER_READER(tensor=made.name, reader=stranger.name if stranger is not None else "")
            maker = model.producer(made)
            if maker is not None and _clamps(model, forms, maker):
                clamps.append(maker)
            elif maker is None or maker.op not in _MOVES:
                break
            own, made = {id(maker)}, maker.inputs[0]
        if maker is None:
            return Code.NO_FREE_SHIFT(tensor=made.name, op="")
        site = self._taker(model, forms, facts, layers, made, maker)
        return replace(site, clamps=tuple(clamps)) if isinstance(site, _Site) else site

    def _taker(
        self,
        model: Model,
        forms: Forms,
        facts: Facts | None,
        layers: list[tuple[gs.Node, BiasPlace]],
        made: gs.Tensor,
        maker: gs.Node,
    ) -> _Site | Finding:
        """How the node that produces a tensor can absorb the shift, or why it cannot."""
        tensor, op = layers[0][0].inputs[0], forms.op(maker)
        if op in _KERNELS and self.insert:
            return _Site(tensor, layers, made, maker)
        axis = _axis(layers[0][0]) if made is tensor else None
        flat = facts is not None and facts.rank(made.name) == 2
        if maker.op in ("Conv", "ConvTranspose", "Gemm"):
            constant = model.constant(maker.inputs[1]) is not None
            place = bias_place(model, maker, LayerWeights.channels(model, maker)[0]) if constant else None
            if place is not None:
                fits = axis == (-1 if maker.op == "Gemm" else 1) or flat
                return _Site(tensor, layers, made, maker, axis if fits else None, bias=place)
        elif maker.op == "LayerNormalization":
            scale, shift = model.constant(maker.inputs[1]), _optional(model, maker, 2)
            if scale is not None and shift is not False:
                fits = scale.ndim == 1 and axis == -1
                return _Site(tensor, layers, made, maker, axis if fits else None, index=2)
        elif maker.op == "BatchNormalization" and model.constant(maker.inputs[2]) is not None:
            return _Site(tensor, layers, made, maker, axis if axis == 1 or flat else None, index=2)
        elif maker.op == "Add" and (forms.composite(maker) is None or op.endswith("Normalization")):
            constants = [i for i, t in enumerate(maker.inputs) if model.constant(t) is not None]
            if len(constants) == 1:
                return _Site(tensor, layers, made, maker, axis, index=constants[0])
        return Code.NO_FREE_SHIFT(tensor=made.name, op=op)


def _readers(model: Model) -> dict[str, list[gs.Node]]:
    """For each activation the layers with constant weights that read it."""
    found: dict[str, list[gs.Node]] = {}
    for node in model.nodes:
        weight = model.constant(node.inputs[1]) if node.op in ("Conv", "Gemm", "MatMul") else None
        if weight is None or model.constant(node.inputs[0]) is not None or node.attrs.get("transA", 0):
            continue
        if node.op == "Conv" or weight.ndim == 2:
            found.setdefault(node.inputs[0].name, []).append(node)
    return found


def _refusals(places: list[tuple[gs.Node, BiasPlace | None]]) -> dict[str, Finding | None]:
    """For each reader of one tensor, why its input cannot be shifted, or None; ``places`` gives the readers' biases."""
    first = places[0][0]
    refused = {node.name: _refusal(node) if place is not None else Code.NO_BIAS() for node, place in places}
    # the shift, and the recorded mean, are per channel of one axis
    other_axis = [node.name for node, _ in places if _axis(node) != _axis(first)]
    return refused | dict.fromkeys(other_axis, Code.OTHER_READER(tensor=first.inputs[0].name, reader=first.name))


def _axis(node: gs.Node) -> int:
    """The channel axis of a layer's input."""
    return 1 if node.op == "Conv" else -1


def _optional(model: Model, node: gs.Node, index: int) -> Array | bool | None:
    """The values of an optional input; None if it is absent, False if it is not a constant."""
    if index >= len(node.inputs) or node.inputs[index].is_empty():
        return None
    values = model.constant(node.inputs[index])
    return values if values is not None else False


def _refusal(node: gs.Node) -> Finding | None:
    """Why a layer's input cannot be shifted, or None."""
    if node.op != "Conv":
        return None
    same = str(node.attrs.get("auto_pad", "NOTSET")).startswith("SAME")
    pads = any(node.attrs.get("pads", ())) or (same and any(size > 1 for size in node.inputs[1].shape[2:]))
    return Code.PADS_INPUT() if pads else None


def _clamps(model: Model, forms: Forms, node: gs.Node) -> bool:
    """Whether a node is a Clip with constant limits that is not part of another operator."""
    if node.op != "Clip" or forms.composite(node) is not None or node.attrs.keys() & {"min", "max"}:
        return False
    return all(model.constant(t) is not None for t in node.inputs[1:] if not t.is_empty())


def _decline(context: Context, layers: list[tuple[gs.Node, BiasPlace]], why: Finding) -> None:
    """Journal the same reason for all layers."""
    for node, _ in layers:
        context.journal.declined(node.name, why)


# -------------------------------------------------------------------- how far


def _on_step(low: float, high: float) -> float:
    """The shift just below the middle of a range that puts the range's lower end exactly on a quantization step.

    A clamp gives many values its limit. If that is off a step by even a tenth, they all get the same rounding error,
    which a layer's sum accumulates where other rounding errors cancel. The scale is known beforehand: what the shift
    leaves above zero, rounded to float16.
    """
    with np.errstate(over="ignore"):
        half = np.float16((high - low) / 2)
    if not 0 < half < np.inf:
        return (low + high) / 2
    tried = half.astype(np.float64) - float(np.spacing(half)) * np.arange(_TRIED)
    steps = storable_scale(high - low - tried, Precision.INT8).astype(np.float64)
    return low + float(tried[np.argmin(np.abs(tried - steps * np.round(tried / steps)))])


def _middle(low: Array, high: Array, amax: float, channels: bool, clamped: bool) -> _Offset | None:
    """The shift that centers the range at zero, and by how much the largest magnitude falls.

    Values that the calibration method clips do not count.

    Args:
        low: smallest value of each channel.
        high: largest value of each channel.
        amax: the largest magnitude that calibration keeps.
        channels: whether each channel has its own shift.
        clamped: whether the ends are the limits of a clamp.
    """
    low, high = np.clip(low, -amax, amax), np.clip(high, -amax, amax)
    ends = float(low.min()), float(high.max())
    if not all(map(math.isfinite, ends)):
        return None
    middle = (low + high) / 2 if channels else np.full(len(low), _on_step(*ends) if clamped else sum(ends) / 2)
    reach, after = max(-ends[0], ends[1]), float(np.maximum(high - middle, middle - low).max())
    # a constant tensor has no range to halve
    return _Offset(middle, *ends, 20 * math.log10(reach / after)) if reach > 0 and after > 0 else None


def _take(model: Model, site: _Site, shift: Array, tensors: Names, nodes: Names) -> str:
    """Have the producer of the layers' input subtract the shift; returns the name of the node that does."""
    maker = site.maker
    for node in site.clamps:
        for index, tensor in enumerate(node.inputs[1:], start=1):
            limit = model.constant(tensor) if not tensor.is_empty() else None
            if limit is not None:
                moved = (limit.astype(np.float64) - shift[0]).astype(limit.dtype)
                node.inputs[index] = make_constant(tensors.take(f"{tensor.name}_shifted"), moved)
    if site.bias is not None:
        weight = model.constant(maker.inputs[1])
        assert weight is not None
        values = shift if site.axis is not None else np.full(LayerWeights.channels_of(maker, weight)[0], shift[0])
        site.bias.add(model, -values, "shifted", tensors, weight.dtype)
        return str(site.bias.holder.name)
    if site.index is None:
        return _insert(model, site, shift[0], tensors, nodes)
    old = _optional(model, maker, site.index)
    if not isinstance(old, np.ndarray):
        scale = model.constant(maker.inputs[1])
        assert scale is not None
        old = np.zeros(scale.shape, scale.dtype)
    name = maker.inputs[site.index].name if site.index < len(maker.inputs) else ""
    spread = shift if site.axis is not None else shift[:1]
    if site.axis == 1 and maker.op == "Add":
        spread = spread.reshape(-1, *(1,) * (len(site.layers[0][0].inputs[1].shape) - 2))
    new = (old.astype(np.float64) - (spread if site.axis is not None else spread.reshape(()))).astype(old.dtype)
    constant = make_constant(tensors.take(f"{name or maker.name}_shifted"), new)
    if site.index < len(maker.inputs):
        maker.inputs[site.index] = constant
    else:
        maker.inputs.append(constant)
    return str(maker.name)


def _insert(model: Model, site: _Site, shift: float, tensors: Names, nodes: Names) -> str:
    """Insert an Add of a constant after an activation; returns its name."""
    weight = model.constant(site.layers[0][0].inputs[1])
    assert weight is not None
    out = gs.Variable(tensors.take(f"{site.made.name}_shifted"), dtype=site.made.dtype, shape=site.made.shape)
    number = make_constant(tensors.take(f"{site.made.name}_shift"), np.asarray(-shift, weight.dtype))
    reroute(site.made, out)
    name = nodes.take(f"{site.maker.name}_shift")
    model.graph.nodes.append(make_node("Add", name, [site.made, number], [out]))
    return name
