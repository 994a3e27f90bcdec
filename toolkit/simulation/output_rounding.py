"""Rounds each layer's weights for the least error of its output, on samples of its input."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.base.cpu import blas_threads, session_threads
from toolkit.base.decibels import decibels
from toolkit.base.progress import Progress, silent
from toolkit.base.types import Array
from toolkit.calibration.related_inputs import RelatedInputs
from toolkit.calibration.weight_rounding import round_for_output, scales_for_output
from toolkit.calibration.weights import reach
from toolkit.contract.context import Context
from toolkit.graph.layers.input_mean import input_mean
from toolkit.graph.layers.layer_weights import is_stored_in_out
from toolkit.graph.model import Model
from toolkit.placement.blocks import summed_axis
from toolkit.placement.ops import weight_axis
from toolkit.placement.qdq import storable_scale
from toolkit.simulation.layer_inputs import collect_rows_by_sample, has_input_rows
from toolkit.simulation.output_ranges import RangeErrors
from toolkit.simulation.rounder import RoundedWeight, Rounder, rounding_key
from toolkit.simulation.rounding_checkpoint import RoundingCheckpoint
from toolkit.simulation.seen_layers import SeenLayer, SeenOnSamples, layer_key, remember, seen_before

if TYPE_CHECKING:
    from toolkit.data.dataset import CalibrationData

_SAMPLES, _ROWS, _LEAST_ROWS = 64, 1024, 16
_HELD, _LEAST_HELD = 0.25, 2
"""The share of samples to hold out, which judge roundings found on the others; at least two, since one does not show
how much samples differ.
"""
_DAMPINGS = 0.01, 0.1, 1.0
_OUTPUTS, _PARTS = 64, 16
"""The most outputs of a layer, and parts of the held-out rows, for this judgement."""
_MOST = 4608
"""The most inputs per output: the matrix of their products is inverted."""


def rounder_on_samples(
    model: Model,
    nodes: Sequence[gs.Node],
    data: CalibrationData,
    plain: Rounder,
    context: Context,
) -> Rounder:
    """A rounder of the weights of layers, with roundings chosen on samples.

    A search, its trials and the insertion after it choose only once for a layer that is the same in all of them:
    results from as many samples or more are reused. If the context keeps calibration results on disk, roundings are
    kept beside them.

    Args:
        model: the float graph.
        nodes: the layers, with constant weights.
        plain: the rounder without samples.
        context: holds earlier results, and receives new ones.
    """
    known: SeenOnSamples = context.roundings
    seen = {node.name: seen_before(known, model, node, plain, len(data)) for node in nodes}
    # layers that read one weight round it together
    fresh = {node.inputs[1].name for node in nodes if seen[node.name] is None}
    nodes_fresh = [node for node in nodes if node.inputs[1].name in fresh]
    if nodes_fresh:
        keep = getattr(context.provider, "keep", None)
        keys = sorted(rounding_key(model, node, plain) for node in nodes_fresh)
        beside = keep(model, keys, []) if keep is not None else None
        path = beside.with_name(f"roundings-{beside.stem}.npz") if beside is not None else None
        kept = RoundingCheckpoint(path, {node.inputs[1].name: node.inputs[1].shape for node in nodes_fresh})
        found, errors = round_on_samples(model, nodes_fresh, data, plain, context.progress, kept)
        for node in nodes_fresh:
            own = {key: one for key, one in found.items() if key[0] == node.inputs[1].name}
            weight, mean = model.constant(node.inputs[1]), input_mean(model, node)
            layer = SeenLayer(len(data), weight, mean, own, errors.get(node.name, RangeErrors()))
            remember(known, layer_key(node, plain), layer)
            seen[node.name] = layer
    chosen = {key: one for layer in seen.values() if layer is not None for key, one in layer.rounded.items()}
    return replace(
        plain, chosen=chosen, errors={name: layer.errors for name, layer in seen.items() if layer is not None}
    )


def round_on_samples(
    model: Model,
    nodes: Iterable[gs.Node],
    data: CalibrationData,
    rounder: Rounder,
    progress: Progress = silent,
    kept: RoundingCheckpoint | None = None,
) -> tuple[dict[tuple[str, int | None], RoundedWeight], dict[str, RangeErrors]]:
    """Round weights for the least output error, and measure the output errors for ranges of a layer's input.

    Each channel or block gets the one of 20 scales with the least output error, as in SeqMSE; then weights are rounded
    input by input, with the remaining ones compensating each error (GPTQ). Held-out samples decide whether, and with
    which damping, the result is better than rounding to the nearest level. If the mean of an input is noted (see
    ``note_input_mean``), its contribution is left to the bias.

    Args:
        model: the float graph.
        nodes: the layers, with constant weights; transposed convolutions and very wide layers are left out.
        data: the samples, of which at most 64 are used.
        rounder: has the type and the number of weights per scale.
        progress: called with the current task, the amount done, and the total.
        kept: checkpoint with results of an interrupted run, which receives those of this run.

    Returns:
        The rounded weights by tensor and axis of channels or blocks, and the errors by layer.
    """
    kept = kept or RoundingCheckpoint()
    layers: dict[tuple[str, int | None], list[gs.Node]] = {}
    for node in nodes:
        weight = model.constant(node.inputs[1]) if has_input_rows(node) else None
        axis = _axis(node, weight, rounder) if weight is not None else None
        if weight is not None and axis is not None and _width(node, weight) <= _MOST:
            layers.setdefault((node.inputs[1].name, axis), []).append(node)
    layers = {key: some for key, some in layers.items() if key not in kept.done}
    if not layers:
        return kept.found, kept.errors
    shapes = {node.name: node.inputs[1].shape for some in layers.values() for node in some}
    seen = collect_rows_by_sample(
        model, [node for some in layers.values() for node in some], shapes, data, _SAMPLES, _ROWS
    )

    def one(axis: int | None, some: Sequence[gs.Node]) -> tuple[dict[str, RangeErrors], RoundedWeight | None]:
        losses: dict[str, RangeErrors] = {}
        for node in some:
            if node.name in seen and not rounder.block:
                rows = np.concatenate(list(seen[node.name].values()), axis=1)
                flat = _flat(node, model.constant(node.inputs[1]), len(rows))
                losses[node.name] = RangeErrors.of(rows, flat, rounder.precision)
        # a weight that several layers share is rounded once for all
        read = [part for node in some for part in seen.get(node.name, {}).values()]
        alike = all(node.name in seen for node in some) and len({part.shape[::2] for part in read}) == 1
        if not alike or sum(part.shape[1] for part in read) < _LEAST_ROWS:
            return losses, None
        weight = model.constant(some[0].inputs[1])
        assert weight is not None and axis is not None
        return losses, _round(some[0], weight, axis, _by_sample(model, some, seen), rounder)

    # numpy releases the interpreter lock, and layers are independent of each other
    workers = max(1, min(session_threads(), len(layers)))
    with blas_threads(workers), ThreadPoolExecutor(workers, "rounding") as pool:
        made = pool.map(one, [axis for _, axis in layers], layers.values())
        try:
            for number, (key, (losses, rounded)) in enumerate(zip(layers, made)):
                progress("rounding weights", number, len(layers))
                kept.add(key, losses, rounded)
        finally:
            kept.save()
    progress("rounding weights", len(layers), len(layers))
    return kept.found, kept.errors


def _by_sample(model: Model, nodes: Sequence[gs.Node], seen: Mapping[str, Mapping[int, Array]]) -> list[Array]:
    """Input rows by sample of the layers that share a weight, each float32 [groups, rows, in]."""
    found: dict[int, list[Array]] = {}
    for node in nodes:
        for sample, rows in seen[node.name].items():
            found.setdefault(sample, []).append(_centred(model, node, rows))
    return [np.concatenate(found[sample], axis=1) for sample in sorted(found)]


def _flat(node: gs.Node, weight: Array | None, groups: int) -> Array:
    """A layer's weight, float64 [groups, out, in]."""
    assert weight is not None
    wide = (weight.T if is_stored_in_out(node) else weight).astype(np.float64)
    return wide.reshape(groups, len(wide) // groups, -1)


def _axis(node: gs.Node, weight: Array, rounder: Rounder) -> int | None:
    return summed_axis(node) if rounder.block else weight_axis(node.op, 1, weight.ndim, node.attrs)


def _round(node: gs.Node, weight: Array, axis: int, samples: Sequence[Array], rounder: Rounder) -> RoundedWeight | None:
    """A rounding with less output error than the nearest levels in the range of least error; None if none has.

    With few samples, chance correlations between inputs would be overfitted. So held-out samples decide on the damping,
    that is, how far correlations between inputs are trusted, and whether to keep the result; with fewer than three
    samples nothing is kept.
    """
    first_held = len(samples) - max(_LEAST_HELD, int(len(samples) * _HELD))
    if first_held < 1:
        return None
    rows, held_out = np.concatenate(samples, axis=1), samples[first_held:]
    shown, held = rows[:, : -sum(one.shape[1] for one in held_out)], np.concatenate(held_out, axis=1)
    ends = np.cumsum([one.shape[1] for one in held_out])
    flat = _flat(node, weight, len(rows))
    some = slice(None, None, -(-flat.shape[1] // _OUTPUTS))

    def noise(values: Array) -> Array:
        return _powers(values - flat[:, some], held, ends)

    plain = {method: replace(rounder, method=method, chosen={}) for method in ("mse", "minmax")}
    nearest = {
        method: noise(_flat(node, one.rounded(node.inputs[1].name, weight, axis), len(rows))[:, some])
        for method, one in plain.items()
    }
    signal, before = _power(flat[:, some], held), min(nearest.values(), key=np.sum)
    damping, after = _DAMPINGS[0], np.full(len(before), np.inf)
    inputs = RelatedInputs(shown)
    for tried in _DAMPINGS:
        now = noise(_fitted(flat[:, some], inputs, rounder, tried)[1])
        if now.sum() >= after.sum():
            break
        damping, after = tried, now
    # frees megabytes for a layer with thousands of inputs
    del inputs
    if _surely_less(after, before):
        scale, made = _fitted(flat, RelatedInputs(rows), rounder, damping)
        laid = made.reshape(weight.T.shape if is_stored_in_out(node) else weight.shape)
        values = np.ascontiguousarray(laid.T if is_stored_in_out(node) else laid).astype(weight.dtype)
        by_block = np.ascontiguousarray(scale[0].T if is_stored_in_out(node) else scale[0])
        kept = by_block if rounder.block else scale.reshape(-1)
        return RoundedWeight(kept, values, _db(signal, before.sum()), _db(signal, after.sum()))
    if _surely_less(nearest["minmax"], nearest["mse"]):
        # the values that the range of the weights' own least error would clip matter here
        full, name = plain["minmax"], node.inputs[1].name
        levels = _db(signal, nearest["mse"].sum()), _db(signal, nearest["minmax"].sum())
        return RoundedWeight(full.scale(name, weight, axis), full.rounded(name, weight, axis), *levels)
    return None


def _fitted(flat: Array, inputs: RelatedInputs, rounder: Rounder, damping: float) -> tuple[Array, Array]:
    """The scales [groups, out, blocks] for ``inputs``, and the weights [groups, out, in] quantized and dequantized."""
    groups, outs, width = flat.shape
    block, precision = rounder.block or width, rounder.precision
    # weights by scale, [groups * blocks, out, block]: the inputs of a block are treated as a layer of their own
    parts = flat.reshape(groups, outs, -1, block).swapaxes(1, 2).reshape(-1, outs, block)
    power = (inputs.power + damping * inputs.power.mean(axis=1, keepdims=True)).reshape(-1, block)
    amax = reach(parts, precision)
    factor = scales_for_output(parts, amax, power, precision)
    scale = storable_scale(amax * factor, precision).reshape(groups, -1, outs).swapaxes(1, 2)
    spread = np.repeat(scale.astype(np.float64), block, axis=2)
    return scale, round_for_output(flat, spread, inputs, precision, damping) * spread


def _centred(model: Model, node: gs.Node, rows: Array) -> Array:
    mean = input_mean(model, node)
    if mean is None or rows.shape[0] * rows.shape[2] % mean.size:
        return rows
    # the kernel positions of one channel are adjacent
    spread = np.repeat(mean, rows.shape[0] * rows.shape[2] // mean.size)
    return np.asarray(rows - spread.reshape(len(rows), 1, -1).astype(np.float32))


def _width(node: gs.Node, weight: Array) -> int:
    """Number of weights per output channel."""
    return int(weight.shape[0]) if is_stored_in_out(node) else int(np.prod(weight.shape[1:]))


def _power(weights: Array, rows: Array) -> float:
    """Sum of squares of all outputs for rows of inputs."""
    return float(_by_row(weights, rows).sum())


def _powers(weights: Array, rows: Array, ends: Array) -> Array:
    """``_power`` for parts of the rows, each of one or several samples, float64 [parts].

    Args:
        weights: [groups, out, in].
        rows: [groups, rows, in].
        ends: by sample, the index after its last row.
    """
    by_sample = np.diff(np.cumsum(_by_row(weights, rows))[ends - 1], prepend=0.0)
    return np.array([part.sum() for part in np.array_split(by_sample, min(_PARTS, len(by_sample)))])


def _by_row(weights: Array, rows: Array) -> Array:
    made = rows @ np.swapaxes(weights, 1, 2).astype(np.float32)
    return np.asarray(np.einsum("gro,gro->r", made, made, dtype=np.float64))


def _surely_less(noise: Array, other: Array) -> bool:
    """Whether ``noise`` is less than ``other`` by more than the standard error over the parts of the rows."""
    gain = other - noise
    return bool(gain.sum() > 0 and gain.mean() * math.sqrt(len(gain)) > (gain.std(ddof=1) if len(gain) > 1 else 0.0))


def _db(signal: float, noise: float) -> float:
    return decibels(signal, noise) if signal > 0 else math.inf
