"""Insert the Q/DQ pairs of a placement: weights are rounded, activations get the scale of their range."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.base.errors import RangesError
from toolkit.base.precision import Precision
from toolkit.base.types import Array
from toolkit.contract.context import Context
from toolkit.contract.findings import Code
from toolkit.graph.layers.bias import correction
from toolkit.graph.layers.input_mean import input_mean, mark_corrected
from toolkit.graph.model import Model
from toolkit.graph.surgery.tensors import make_constant, values_of
from toolkit.placement.pairs import Pair, Placement
from toolkit.placement.qdq import Inserter, storable_scale
from toolkit.simulation.rounder import RoundedWeight, Rounder


def require_finite(amax: Mapping[str, float]) -> None:
    """Check that the ranges that pairs are made from are finite.

    Args:
        amax: {activation: the largest absolute value of its range}.

    Raises:
        RangesError: a range is not finite.
    """
    for tensor, value in amax.items():
        if not math.isfinite(value):
            raise RangesError(f"the range of tensor '{tensor}' is {value}", remedy="calibrate again")


class PairInsertion:
    """Inserts Q/DQ pairs and records in the journal which node reads which pair.

    Args:
        model: the graph, which is changed.
        context: its journal gets the changes, and it records the float values of changed weights and biases.
        precision: the quantized type.
        amax: {activation: the largest absolute value of its range}, all finite.
    """

    def __init__(self, model: Model, context: Context, precision: Precision, amax: Mapping[str, float]) -> None:
        self._model, self._context, self._precision, self._amax = model, context, precision, amax
        self._nodes = {node.name: node for node, _ in model.walk()}
        self._names = model.tensor_names()
        self._inserter = Inserter(model, precision)

    def insert(self, placement: Placement, rounder: Rounder) -> None:
        """Insert all pairs of a placement, with weights rounded by ``rounder``."""
        for pair in placement.pairs.values():
            if pair.weight:
                self._weight(pair, rounder)
            else:
                self._inserter.insert(pair, self._activation_scale(pair))
            for use in pair.uses:
                self._context.journal.changed(
                    use.node, Code.READS_PAIR(input=use.index, tensor=pair.tensor), pair.reason
                )
        if rounder.errors:
            plain = [
                use.node
                for pair in placement.pairs.values()
                if pair.weight and (pair.tensor, pair.axis) not in rounder.chosen
                for use in pair.uses
            ]
            if plain:
                self._context.journal.noted(Code.ROUNDED_TO_NEAREST(nodes=list(dict.fromkeys(plain))))

    def _weight(self, pair: Pair, rounder: Rounder) -> None:
        """Insert a weight's pair; if input means are noted, biases are corrected for the rounding."""
        values = self._model.constant(self._inserter.tensors[pair.tensor])
        assert values is not None
        scale = rounder.scale(pair.tensor, values, pair.axis)
        readers = [self._nodes[use.node] for use in pair.uses if use.index == 1]
        if any(input_mean(self._model, node) is not None for node in readers):
            rounded = rounder.rounded(pair.tensor, values, pair.axis)
            for node in readers:
                self._correct_bias(node, rounded)
        back = self._inserter.insert(pair, scale)
        if (chosen := rounder.chosen.get((pair.tensor, pair.axis))) is not None:
            self._take(back.inputs[0].inputs[0], chosen, readers)

    def _activation_scale(self, pair: Pair) -> Array:
        value = self._amax.get(pair.tensor, self._precision.max)
        if value == 0:
            self._context.journal.noted(Code.DEAD(tensor=pair.tensor), pair.uses[0].node)
        return storable_scale(value, self._precision)

    def _take(self, quantize: gs.Node, chosen: RoundedWeight, readers: Sequence[gs.Node]) -> None:
        """Make a weight's pair read the chosen values, which lie on the quantization grid."""
        exact, name = quantize.inputs[0], self._names.take(f"{quantize.inputs[0].name}_rounded")
        quantize.inputs[0] = make_constant(name, chosen.values)
        self._context.note_float_values(name, exact.name, values_of(exact))
        why = Code.ROUNDING_NOISE(before_db=chosen.before_db, after_db=chosen.after_db)
        for node in readers:
            self._context.journal.changed(node.name, Code.ROUNDED_FOR_OUTPUT(), why)

    def _correct_bias(self, node: gs.Node, rounded: Array) -> None:
        """Correct a layer's bias for the mean shift that rounding its weights causes, if its input mean is noted."""
        if (found := correction(self._model, node, rounded)) is None:
            return
        place, values = found
        self._context.note_float_values(*place.add(self._model, values, "corrected", self._names))
        mark_corrected(self._model, node)
        why = Code.MEAN_SHIFT(shift=np.abs(values).max())
        self._context.journal.changed(node.name, Code.BIAS_CORRECTED(holder=place.holder.name), why)
