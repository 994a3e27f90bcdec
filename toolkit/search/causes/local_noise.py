"""The rounding error of single layers: each runs on its float inputs, with one operand rounded at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from toolkit.base.cpu import session_threads
from toolkit.base.decibels import decibels
from toolkit.base.mapped import is_mapped
from toolkit.base.spread import spread_indices
from toolkit.base.types import Array
from toolkit.evaluation.comparison.clipping import Clipping
from toolkit.graph.large_models.memory import loaded
from toolkit.graph.layers.bias import response
from toolkit.graph.layers.input_mean import input_mean
from toolkit.graph.proto.on_disk import spilled
from toolkit.graph.sessions.runnable import not_run
from toolkit.graph.sessions.session import Session, session
from toolkit.placement.qdq import storable_scale
from toolkit.search.causes.causes import ACTIVATIONS, WEIGHTS, MethodSetting, Operand
from toolkit.simulation.switches import fake_quantized

if TYPE_CHECKING:
    from toolkit.simulation.simulation import Simulation

_SAMPLES, _BATCH = 16, 4
_FEWER, _ENOUGH = 8, 1 << 16
"""Fewer samples are enough if each layer reads at least this many values from them."""
_AT_ONCE = 1 << 14
"""How many values are squared and summed in their own type."""
_LEAST = 1e-30
_SAME_RANGE = 0.03
_WEIGHTS_MSE = MethodSetting("mse")
_Way = tuple[Operand, MethodSetting | None]


@dataclass
class LocalNoise:
    """The SQNR in dB of one layer's output, with float inputs, and statistics of its inputs.

    Attributes:
        both: with all operands rounded.
        sides: with one operand rounded.
        other: with one operand rounded differently, by the operand and the setting.
        uneven: for each activation tensor its largest channel relative to the median channel.
        clipping: for each activation tensor how much its range clips.
    """

    both: float
    sides: dict[Operand, float]
    other: dict[tuple[Operand, MethodSetting], float] = field(default_factory=dict)
    uneven: dict[str, float] = field(default_factory=dict)
    clipping: dict[str, Clipping] = field(default_factory=dict)


def measure(simulation: Simulation, names: Iterable[str]) -> dict[str, LocalNoise]:
    """Run these layers by themselves on 16 samples, or on 8 if these have enough values for every layer.

    Layers without a quantized operand are left out.

    Args:
        simulation: the model, its ranges and samples.
        names: the layers.
    """
    layers = [layer for name in names if (layer := _SingleLayer(simulation, name)).operands]
    left = not_run(simulation.model)
    layers = [layer for layer in layers if not left.tensors.keys() & set(layer.computed.values())]
    wanted = sorted({tensor for layer in layers for tensor in layer.computed.values()})
    if not wanted:
        return {}
    simulation.rest()
    every = max(1, len(simulation.data) // _SAMPLES)
    parts = [part for number, part in enumerate(simulation.data.batches(_BATCH)) if not number % every]
    seen, read = 0, dict.fromkeys(wanted, 0)
    # the layers' weights and their rounded forms are in memory beside the model's
    with (
        loaded.holding(sum(layer.mapped for layer in layers)),
        ThreadPoolExecutor(min(session_threads(), len(layers)), "layers") as pool,
    ):
        tapped = session(simulation.model, outputs=wanted)
        for number in spread_indices(len(parts)):
            values = tapped.run(parts[number].inputs)
            # layers are independent of each other
            list(pool.map(lambda layer, values=values: layer.add(values), layers))
            seen += parts[number].count
            read = {tensor: count + values[tensor].size for tensor, count in read.items()}
            if seen >= (_FEWER if min(read.values()) >= _ENOUGH else _SAMPLES):
                break
    return {layer.name: layer.result() for layer in layers}


class _SingleLayer:
    """One layer as a separate model, with its operands as inputs."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        graph, self.name = simulation.cutter.graph, name
        self.precision = simulation.switches.precision
        self._layer = simulation.switches.nodes[name]
        self._rounder = graph.rounder
        self._mean = input_mean(simulation.switches.model, self._layer)
        self._made_up: dict[int, Array] = {}
        self.node = next(segment.nodes[0] for segment in simulation.cutter.segments if segment.layer == name)
        self.constants = {
            index: graph.values(tensor)
            for index, tensor in enumerate(self.node.input[:2]) if tensor in graph.constants
        }  # fmt: skip
        self.computed = {i: tensor for i, tensor in enumerate(self.node.input[:2]) if i not in self.constants}
        self.operands = [i for i in (0, 1) if (name, i) in graph.pair_of]
        self.axes = {i: graph.pair_of[name, i].axis for i in self.operands}
        self.scales = {i: graph.base.scales[graph.pair_of[name, i].tensor]
                       for i in self.operands if not graph.pair_of[name, i].weight}  # fmt: skip
        self.rounded: dict[int, dict[MethodSetting | None, Array]] = {}
        self.methods = simulation.settings.weights
        self.ranges = simulation.ranges
        self._types = {i: graph.type_of(t) or onnx.TensorProto.FLOAT for i, t in enumerate(self.node.input[:2])}
        self._opset = list(graph.proto.opset_import)
        self._version = max(graph.proto.ir_version, 8)
        self._session: Session | None = None
        self.signal = 0.0
        self.noise: dict[_Way | None, float] = {}
        self.amax: dict[str, Array] = {}
        self.clipping = {self.computed[i]: Clipping(scale * self.precision.max) for i, scale in self.scales.items()}
        for index in self.operands:
            if index in self.constants:
                tensor, axis = self.node.input[index], self.axes[index]
                self.rounded[index] = {None: spilled(graph.rounder.rounded(tensor, self.constants[index], axis))}
                if self.methods == "minmax":
                    self.rounded[index][_WEIGHTS_MSE] = self._weight(index, "mse")

    @property
    def mapped(self) -> int:
        """Bytes of its weights and their rounded forms that are mapped from files."""
        arrays = [*self.constants.values(), *(one for ways in self.rounded.values() for one in ways.values())]
        return sum(values.nbytes for values in arrays if is_mapped(values))

    def side(self, index: int) -> Operand:
        """An operand as weights, activations, or a named tensor if both operands are computed."""
        if index in self.constants:
            return WEIGHTS
        return ACTIVATIONS if len(self.computed) == 1 else Operand(ACTIVATIONS.kind, self.computed[index])

    def add(self, values: Mapping[str, Array]) -> None:
        """Add one batch of values of the tensors that the layer reads."""
        plain = {i: values[tensor] for i, tensor in self.computed.items()} | self.constants
        variants = {i: self.rounded.get(i) or self._activation(i, plain[i]) for i in self.operands}
        for index, tensor in self.computed.items():
            self._channels(tensor, plain[index])
        for tensor, clipping in self.clipping.items():
            clipping.add(values[tensor])
        wanted = self._run(plain)
        self.signal += _power(wanted)
        for index, ways in variants.items():
            for way, value in ways.items():
                self._differ((self.side(index), way), wanted, {**plain, index: value})
        self._differ(None, wanted, {**plain, **{i: ways[None] for i, ways in variants.items()}})

    def result(self) -> LocalNoise:
        """The result over all batches."""
        levels = {key: self._db(noise) for key, noise in self.noise.items() if key is not None}
        uneven = {}
        for tensor, amax in self.amax.items():
            live = amax[amax > 0]
            uneven[tensor] = float(live.max() / np.median(live)) if live.size else 1.0
        return LocalNoise(
            self._db(self.noise.get(None, 0.0)), {side: db for (side, way), db in levels.items() if way is None},
            {(side, way): db for (side, way), db in levels.items() if way is not None}, uneven, self.clipping,
        )  # fmt: skip

    def _db(self, noise: float) -> float:
        return decibels(self.signal, noise) if self.signal > 0 else math.inf

    def _differ(self, key: _Way | None, wanted: Array, operands: Mapping[int, Array]) -> None:
        found = self._run(operands)
        if self._mean is not None and 1 in self.constants:
            found = found + self._bias(operands[1]).astype(found.dtype)
        self.noise[key] = self.noise.get(key, 0.0) + _power(wanted - found)

    def _bias(self, weight: Array) -> Array:
        """The correction that the quantized layer's bias makes for the rounding of these weights."""
        assert self._mean is not None
        if id(weight) not in self._made_up:
            error = weight.astype(np.float64) - self.constants[1].astype(np.float64)
            moved = response(self._layer, error, self._mean)
            spread = (-1,) if self.node.op_type in ("Gemm", "MatMul") else (-1, *(1,) * (weight.ndim - 2))
            self._made_up[id(weight)] = -moved.reshape(spread)
        return self._made_up[id(weight)]

    def _run(self, operands: Mapping[int, Array]) -> Array:
        if self._session is None:
            inputs = [helper.make_tensor_value_info(f"operand {i}", self._types[i], None) for i in (0, 1)]
            out = onnx.ValueInfoProto(name="out")
            # a bias is exact and would only increase the signal
            node = helper.make_node(self.node.op_type, ["operand 0", "operand 1"], ["out"], "layer")
            node.attribute.extend(self.node.attribute)
            graph = helper.make_graph([node], "layer", inputs, [out])
            made = helper.make_model(graph, opset_imports=self._opset, ir_version=self._version)
            self._session = session(made.SerializeToString(), threads=1)
        feed = {f"operand {i}": value for i, value in operands.items()}
        made = self._session.run(feed)["out"]
        return np.asarray(made, np.float64 if made.dtype == np.float64 else np.float32)

    def _weight(self, index: int, method: str) -> Array:
        rounder = replace(self._rounder, method=method, chosen={})
        return spilled(rounder.rounded(self.node.input[index], self.constants[index], self.axes[index]))

    def _activation(self, index: int, values: Array) -> dict[MethodSetting | None, Array]:
        """The tensor rounded with its own scale, and with those of other calibration methods."""
        tensor, own = self.computed[index], self.scales[index]
        scales: dict[MethodSetting | None, Array] = {None: np.asarray([own], np.float32)}
        entry = self.ranges.tensors.get(tensor)
        for method, amax in (entry.diagnosis.get("amax", {}) if entry is not None else {}).items():
            scale = storable_scale(float(amax), self.precision) if amax else None
            if scale is not None and abs(float(scale[0]) / own - 1) > _SAME_RANGE:
                scales[MethodSetting(method, tensor)] = scale
        return {way: fake_quantized(values, scale, None, self.precision) for way, scale in scales.items()}

    def _channels(self, tensor: str, values: Array) -> None:
        axis = 1 if self.node.op_type in ("Conv", "ConvTranspose") else -1
        rows = np.moveaxis(np.asarray(values, np.float32), axis, 0)
        amax = np.abs(rows.reshape(rows.shape[0], -1)).max(axis=1, initial=0.0)
        self.amax[tensor] = np.maximum(self.amax.get(tensor, np.zeros(len(amax), np.float32)), amax)


def _power(values: Array) -> float:
    """The sum of squares: in the values' type within blocks and float64 across them, which is several times as fast."""
    flat = np.ascontiguousarray(values).reshape(-1)
    with np.errstate(over="ignore"):
        found = sum(
            float(np.dot(some, some)) for some in (flat[at : at + _AT_ONCE] for at in range(0, flat.size, _AT_ONCE))
        )
    # squares of very large or small values are outside float32's range
    return found if _LEAST < found < math.inf else float(np.square(flat, dtype=np.float64).sum())
