"""The Q/DQ pairs of a quantized model before and after a migration: which were kept, and which were rebuilt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from toolkit.base.precision import Precision
from toolkit.contract.findings import Finding
from toolkit.contract.ranges import Range, Ranges
from toolkit.graph.model import Model
from toolkit.placement.dequantized import pair_type, stored_type
from toolkit.placement.existing import ExistingPair, pairs_of
from toolkit.placement.grid import block_type
from toolkit.placement.moved import data_inputs
from toolkit.placement.ops import DEQUANTIZE, TARGETS
from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.migrate.tensors import FittedRanges, TensorTurn, propagate_ranges, scales_of
from toolkit.run.new.new_recipe import mixed_layers

_SIXTEEN = frozenset({TensorProto.INT16, TensorProto.UINT16})


def ranges_of_pairs(model: Model, stripped: bool) -> FittedRanges:
    """The ranges of a model's quantized activations, by tensor.

    Args:
        model: the model with its Q/DQ pairs.
        stripped: whether the pairs are removed: readers after a Flatten then read a tensor that inherits the range.
    """
    found, added = FittedRanges(Ranges(made_from={"kind": "pairs"})), []
    for name, pair in activations(model):
        if pair.grid.amax is None or pair.axis is not None:
            continue
        one = Range(float(pair.grid.amax), "stripped", dtype=pair.grid.range_type)
        found.ranges.tensors[name] = one
        if stripped:
            result = pair.dequantize.outputs[0].name
            found.ranges.tensors[result] = one
            added += [result] if not pair.between else []
    if stripped:
        propagate_ranges(found, model)
        for name in added:
            found.ranges.tensors.pop(name, None)
    return found


def symmetric(pair: ExistingPair) -> bool:
    """Whether a pair is per-tensor and symmetric: a signed type with zero point 0."""
    if pair.grid.amax is None or pair.scale is None or pair.scale.size != 1 or pair.grid.zero is None:
        return False
    kind = Precision.from_onnx(pair.grid.kind)
    return kind is not None and kind.quantized and not pair.grid.zero.any()


def float_layers(model: Model, stored: bool = False) -> list[str]:
    """The layers that do not compute in a quantized type: at least one of their two operands has no Q/DQ pair.

    Args:
        model: the model with its Q/DQ pairs.
        stored: whether to include layers with only quantized weights, in a weight-only type (INT4).
    """
    found = []
    for node in (node for node in model.nodes if node.op in TARGETS):
        pairs = [pair for tensor in node.inputs[:2] if (pair := _pair_upstream(model, tensor)) is not None]
        types = {kind for pair in pairs if (kind := pair_type(pair)) is not None}
        if len(pairs) < 2 and (stored or not any(kind.weights_only for kind in types)):
            found.append(node.name)
    return found


def _pair_upstream(model: Model, tensor: gs.Tensor) -> gs.Node | None:
    """The DequantizeLinear that produces the values, also through operators that only move them, or None."""
    node = model.producer(tensor)
    while node is not None and node.op != DEQUANTIZE:
        node = model.producer(node.inputs[0]) if data_inputs(node)[:1] == [0] else None
    return node


def layer_findings(model: Model) -> Iterator[Finding]:
    """Findings about layers with operands of different types, and about layers that stay float."""
    if mixed := mixed_layers(model):
        yield MigrateCode.PAIRS_MIXED(layers=mixed)
    if floats := float_layers(model):
        yield MigrateCode.LAYERS_STAY_FLOAT(layers=floats)


def pair_turns(source: Model, final: Model, derived: Mapping[str, str]) -> list[TensorTurn]:
    """The outcome for the Q/DQ pair of each activation; ``derived`` as in ``FittedRanges``."""
    after = dict(scales_of(final))
    in_blocks = {name for name, pair in activations(final) if block_type(pair.dequantize) is not None}
    turns: dict[str, TensorTurn] = {}
    for name, pair in activations(source):
        amax = None if pair.grid.amax is None else float(pair.grid.amax)
        before = None if pair.scale is None or pair.scale.size != 1 else float(np.reshape(pair.scale, -1)[0])
        even = symmetric(pair)
        from_it = (name, pair.dequantize.outputs[0].name)
        moved = next((to for to, origin in derived.items() if origin in from_it and to in after), None)
        if name in in_blocks and block_type(pair.dequantize) is not None:
            why = MigrateCode.PAIR_KEPT(scale=None)
        elif name not in after and moved is not None:
            why = MigrateCode.PAIR_MOVED(scale=after[moved], before=before, to=moved)
        elif name not in after:
            why = MigrateCode.TENSOR_INSIDE()
        elif even and before is not None and abs(after[name] - before) <= 1e-3 * before:
            why = MigrateCode.PAIR_KEPT(scale=after[name])
        else:
            wide = {"bits": 16} if stored_type(pair.dequantize) in _SIXTEEN else {}
            why = MigrateCode.PAIR_MADE_ANEW(scale=after[name], before=before, symmetric=even, **wide)
        turns[name] = TensorTurn(name, amax, why)
    return list(turns.values())


def activations(model: Model) -> Iterator[tuple[str, ExistingPair]]:
    """The Q/DQ pairs of a model's activations, each with the name of the quantized tensor."""
    for pair in pairs_of(model):
        for quantize in pair.quantizers:
            if model.constant(quantize.inputs[0]) is None:
                yield quantize.inputs[0].name, pair
