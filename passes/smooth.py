"""SmoothQuant: move activation outliers into the weights of the layers that read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_graphsurgeon as gs
from pydantic import Field, PrivateAttr

from toolkit import (
    Array,
    CalibrationData,
    Code,
    Context,
    Harm,
    Helper,
    LayerNoise,
    LayerWeights,
    Model,
    Names,
    Precision,
    bias_of,
    collect_rows,
    has_input_rows,
    has_other_bias,
    make_constant,
    make_node,
)

_SMALL, _USUAL, _ROWS = 1e-5, 0.5, 256
_THROUGH = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "Identity", "Dropout"})
_STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_WEAK = (0.1, 0.2)
_LAYERS = ("MatMul", "Gemm", "Conv")
_EVEN = 4.0
"""An input whose largest channel is below this many medians has no outliers worth moving."""
_SAME = 1e-4
"""Largest difference, relative to the largest value, of values that are equal in two float forms of a model."""


class _Editing:
    """A model with lookups made once before its nodes are changed: names, outputs, tensors that subgraphs read."""

    def __init__(self, model: Model) -> None:
        self.model, self.inner = model, model.subgraph_tensors()
        self.tensors, self.nodes = model.tensor_names(), Names(model.node_names())
        self.outputs = {tensor.name for tensor in model.graph.outputs}

    def read_by(self, tensor: gs.Tensor, nodes: set[int]) -> bool:
        """Whether only these nodes, given by their ``id``, read a tensor."""
        kept = tensor.name in self.outputs or tensor.name in self.inner
        return not kept and all(id(reader) in nodes for reader in tensor.outputs)


@dataclass(frozen=True)
class _Choice:
    """The factor chosen for a tensor, and the statistics it was chosen from.

    Attributes:
        amax: of each channel of the tensor, float [channels].
        weights: of the readers.
        factor: float32 [channels]; None if the tensor stays as it is.
    """

    amax: Array
    weights: list[Array]
    factor: Array | None

    def matches(self, amax: Array, weights: list[Array]) -> bool:
        """Whether these are the same except for rounding, as in another form of the model."""
        pairs = [(self.amax, amax), *zip(self.weights, weights)]
        return len(self.weights) == len(weights) and all(
            one.shape == other.shape and np.abs(one - other).max(initial=0) <= _SAME * np.abs(one).max(initial=0)
            for one, other in pairs
        )


class Smooth(Helper):
    """Divide each channel of a layer's input by s and multiply its weights by it, so that outliers fit one scale.

    s = amax(x)^strength / amax(w)^(1 - strength) per channel: Xiao et al., "SmoothQuant: accurate and efficient
    post-training quantization for large language models", ICML 2023, equation 4. Unless it is given, the
    strength is the one with the smallest error at the layers' outputs on samples. The division is folded into the
    preceding node if these layers are its only readers: a normalization, or a layer, also through a ReLU or MaxPool.
    Otherwise a Mul is inserted.

    In INT4 the activations stay in float, and s = amax(x)^strength: the weights multiplied by large channels get finer
    steps (Lin et al., "AWQ: activation-aware weight quantization for LLM compression and acceleration", MLSys 2024,
    equation 4).
    """

    name = "smooth"
    supports_dry_run = True
    mends = Harm.OUTLIER_CHANNELS
    strength: float | None = Field(
        None,
        ge=0,
        le=1,
        description="migration strength (alpha): how much of the difficulty moves to the weights; null: by the output",
    )
    least: float | None = Field(
        None, ge=1, le=1e6,
        description="skip inputs whose largest channel is below this many channel medians; default 4, in int4 1",
    )  # fmt: skip
    dtype: Literal["int8", "fp8", "int4", "mxfp8", "nvfp4"] = Field(
        "int8", description="the type that the layers are quantized to"
    )
    block: Literal[128, 64, 32, 16] = Field(128, description="int4: how many weights share a scale")
    insert: bool = Field(True, description="insert a Mul where no preceding node can absorb the factors")
    samples: int = Field(64, gt=0, le=1_000_000, description="how many calibration samples to use")
    _chosen: dict[tuple[str, str], list[_Choice]] = PrivateAttr(default_factory=dict)

    def unused_settings(self) -> dict[str, str]:
        """As in Helper, and ``block`` for a type without blocks."""
        found = super().unused_settings()
        if not self._weights_only:
            found["block"] = f"block is a setting of int4, and dtype is '{self.dtype}'"
        return found

    def measured_with(self) -> dict[str, object]:
        """The type that the layers are quantized to."""
        return {"dtype": self.dtype, **({"block": self.block} if self._weights_only else {})}

    def measures_engines(self) -> bool:
        """Builds no engines."""
        return False

    def applicable_layers(self, model: Model) -> set[str]:
        """Layers that read an activation and have a constant weight of their own."""
        return {node.name for nodes in self._readers(model).values() for node in nodes}

    def apply(self, model: Model, context: Context) -> None:
        """Smooth the inputs that have outlier channels.

        Raises:
            RangesError: there is no calibration data.
        """
        from toolkit import collect_channels, forget_ranges

        readers = {
            name: nodes for name, nodes in self._readers(model).items()
            if not self.decline_float(context, (node.name for node in nodes))
        }  # fmt: skip
        self.decline_transposed(model, context)
        if not readers:
            context.journal.noted(Code.NOTHING_TO_SMOOTH())
            return
        data = context.calibration_samples()
        if context.dry_run:
            context.journal.noted(Code.DRY_RUN(step="channels"))
            return
        axes = {name: 1 if nodes[0].op == "Conv" else -1 for name, nodes in readers.items()}
        found = collect_channels(model, axes, data, self.samples)
        # tensors that onnxruntime cannot compute have no statistics
        amax = {name: found[name].amax for name in readers if name in found}
        uneven = self._uneven_inputs({name: readers[name] for name in amax}, amax, context)
        if not uneven:
            return
        # for another form of the same model the earlier choice is reused
        begun = {name: _weights(model, nodes) for name, nodes in uneven.items()}
        known = {name: self._known(name, amax[name], weights) for name, weights in begun.items()}
        asked = {name: nodes for name, nodes in uneven.items() if known[name] is None}
        editing, rows = _Editing(model), self._rows(model, asked, data)
        for name, nodes in uneven.items():
            choice = known[name]
            if choice is None:
                layers = [LayerWeights(model, node) for node in nodes]
                factor = self._factor(amax[name], layers, rows.get(nodes[0].name))
                choice = _Choice(amax[name], begun[name], factor)
                self._chosen.setdefault(self._key(name), []).append(choice)
            self._smooth(editing, name, nodes, amax[name], choice.factor, context)
        model.tidy()
        forget_ranges(context)

    def _uneven_inputs(
        self, readers: Mapping[str, list[gs.Node]], amax: Mapping[str, Array], context: Context
    ) -> dict[str, list[gs.Node]]:
        """The readers of tensors with outlier channels, given the channels' ``amax``; the others are declined."""
        least = self.least if self.least is not None else 1.0 if self._weights_only else _EVEN
        found: dict[str, list[gs.Node]] = {}
        for name, nodes in readers.items():
            medians = self._uneven(amax[name])
            if medians >= least:
                found[name] = nodes
                continue
            for node in nodes:
                context.journal.declined(node.name, Code.EVEN(tensor=name, medians=medians))
        return found

    @property
    def _weights_only(self) -> bool:
        """Whether activations stay in float."""
        return Precision(self.dtype).weights_only

    @property
    def _block(self) -> int:
        """How many values share a scale; 0 for one per channel or tensor."""
        return self.block if self._weights_only else Precision(self.dtype).block

    def _known(self, name: str, amax: Array, weights: list[Array]) -> _Choice | None:
        """The earlier choice of these settings for a tensor with such values and readers with such weights."""
        return next((one for one in self._chosen.get(self._key(name), []) if one.matches(amax, weights)), None)

    def _key(self, name: str) -> tuple[str, str]:
        # copies of a pass with other settings share the dictionary
        return name, self.model_dump_json()

    def _rows(self, model: Model, worth: Mapping[str, list[gs.Node]], data: CalibrationData) -> dict[str, Array]:
        """Input rows of the first reader of each tensor, if they are needed to choose the strength."""
        if self.strength is not None:
            return {}
        first = [nodes[0] for nodes in worth.values() if has_input_rows(nodes[0])]
        shapes = {node.name: node.inputs[1].shape for node in first}
        return collect_rows(model, first, shapes, data, self.samples, _ROWS)

    def _readers(self, model: Model) -> dict[str, list[gs.Node]]:
        """For each activation the layers with constant weights that read it; either Convs or others, not both."""
        found: dict[str, list[gs.Node]] = {}
        for node in model.nodes:
            if node.op not in _LAYERS[: 2 if self._block else 3] or node.attrs.get("transA", 0):
                continue
            weight = model.constant(node.inputs[1])
            if weight is None or len(node.inputs[1].outputs) > 1 or model.constant(node.inputs[0]) is not None:
                continue
            if node.op != "Conv" and weight.ndim != 2:
                continue
            nodes = found.setdefault(node.inputs[0].name, [])
            if not nodes or (nodes[0].op == "Conv") == (node.op == "Conv"):
                nodes.append(node)
        return found

    def _uneven(self, amax: Array) -> float:
        """The largest channel relative to the median of the channels that are not 0."""
        median = float(np.median(amax[amax > 0])) if (amax > 0).any() else 0.0
        return float(amax.max()) / median if median else 1.0

    def _smooth(
        self,
        editing: _Editing,
        name: str,
        nodes: list[gs.Node],
        amax: Array,
        factor: Array | None,
        context: Context,
    ) -> None:
        """Divide a tensor's channels by ``factor`` and multiply its readers' weights by it; None changes nothing."""
        layers = [LayerWeights(editing.model, node) for node in nodes]
        if factor is None:
            for node in nodes:
                context.journal.declined(node.name, Code.NO_STRENGTH(tensor=name, medians=self._uneven(amax)))
            return
        tensor = nodes[0].inputs[0]
        where = self._fold(editing, tensor, nodes, factor)
        if where is None and not self.insert:
            for node in nodes:
                context.journal.declined(node.name, Code.NO_NORM(tensor=name))
            return
        if where is None:
            where = self._insert(editing, tensor, nodes, 1 / factor, layers[0].dtype)
        ratio, after = self._uneven(amax), self._uneven(amax / factor)
        for node, layer in zip(nodes, layers):
            layer.scale_in(factor.astype(np.float64))
            layer.write("smooth", editing.tensors)
            why = Code.OUTLIER_CHANNEL(tensor=name, before=ratio, after=after)
            context.journal.changed(node.name, Code.SMOOTHED(divider=where), why)

    def _factor(self, amax: Array, layers: list[LayerWeights], rows: Array | None) -> Array | None:
        """The divisor of each channel, float32 [channels]; None if the layers' output error is smallest without."""
        largest = np.maximum(np.max([layer.in_range() for layer in layers], axis=0), _SMALL)
        others, strengths = (0.0, (*_WEAK, *_STRENGTHS)) if self._weights_only else (1.0, _STRENGTHS)

        def at(strength: float) -> Array:
            factor = np.maximum(amax, _SMALL) ** strength / largest ** (others * (1 - strength))
            # a dead channel has no outlier to move
            factor = np.where(amax > _SMALL, factor, 1.0)
            return np.asarray(factor / np.exp(np.mean(np.log(factor))))

        if self.strength is not None:
            return at(self.strength).astype(np.float32)
        alike = [layer for layer in layers if layer.weight.shape[1:] == layers[0].weight.shape[1:]]
        if rows is None or len({layer.group for layer in alike}) != 1:
            return at(_USUAL).astype(np.float32)
        flat = [layer.weight.reshape(layer.group, len(layer.weight) // layer.group, -1) for layer in alike]
        noise = LayerNoise(rows, np.concatenate(flat, axis=1), len(amax), Precision(self.dtype), self._block)
        tried = [np.ones(len(amax)), *(at(strength) for strength in strengths)]
        best = noise.least(tried)
        return tried[best].astype(np.float32) if best else None

    def _insert(self, editing: _Editing, tensor: gs.Tensor, nodes: list[gs.Node], inverse: Array, dtype: Any) -> str:
        """Insert a per-channel Mul before the layers; returns its name."""
        rank = np.asarray(editing.model.constant(nodes[0].inputs[1])).ndim
        spread = inverse.reshape(-1, *(1,) * (rank - 2)) if nodes[0].op == "Conv" else inverse
        out = gs.Variable(editing.tensors.take(f"{tensor.name}_smooth"), dtype=tensor.dtype, shape=tensor.shape)
        factors = make_constant(editing.tensors.take(f"{tensor.name}_smooth_factor"), spread.astype(dtype))
        name = editing.nodes.take(f"{nodes[0].name}_smooth")
        editing.model.graph.nodes.append(make_node("Mul", name, [tensor, factors], [out]))
        for node in nodes:
            node.inputs[0] = out
        return name

    def _fold(self, editing: _Editing, tensor: gs.Tensor, nodes: list[gs.Node], factor: Array) -> str | None:
        """Fold the division into the node that produces the tensor; returns that node's name, or None if it cannot."""
        model = editing.model
        mine = {id(node) for node in nodes}
        if not editing.read_by(tensor, mine):
            return None
        maker = model.producer(tensor)
        layer = _layer_before(editing, tensor, nodes[0].op)
        if layer is not None and layer.channels_out == factor.size:
            layer.scale_out(1.0 / factor.astype(np.float64))
            layer.write("smooth", editing.tensors)
            return str(layer.node.name)
        if maker is None:
            return None
        places = self._gain_and_offset(editing, maker, nodes[0].op)
        values = [(node, index, model.constant(node.inputs[index])) for node, index in places]
        if not values or any(v is None or v.size not in (1, factor.size) or v.ndim > 1 for _, _, v in values):
            return None
        for node, index, value in values:
            assert value is not None
            divided = (np.broadcast_to(value, factor.shape) / factor).astype(value.dtype)
            node.inputs[index] = make_constant(editing.tensors.take(f"{node.inputs[index].name}_smooth"), divided)
        return str(maker.name)

    def _gain_and_offset(self, editing: _Editing, maker: gs.Node, op: str) -> list[tuple[gs.Node, int]]:
        """The inputs with a normalization's per-channel gain and offset, for readers of the operator ``op``.

        Empty if the node is no such normalization.
        """
        if op == "Conv":
            return [(maker, 1), (maker, 2)] if maker.op == "BatchNormalization" else []
        if maker.op == "LayerNormalization":
            return [(maker, 1), (maker, 2)] if len(maker.inputs) > 2 else [(maker, 1)]
        if maker.op == "RMSNormalization":
            return [(maker, 1)]
        return self._affine(editing, maker) if maker.op in ("Add", "Mul") else []

    def _affine(self, editing: _Editing, node: gs.Node) -> list[tuple[gs.Node, int]]:
        """The constants of the last Mul and Add of a normalization that is exported as several nodes."""
        model = editing.model
        constant = [i for i, t in enumerate(node.inputs) if model.constant(t) is not None]
        if len(constant) != 1:
            return []
        if node.op == "Mul":
            return [(node, constant[0])]
        scaled = node.inputs[1 - constant[0]]
        other = model.producer(scaled)
        if other is None or other.op != "Mul" or not editing.read_by(scaled, {id(node)}):
            return []
        inner = [i for i, t in enumerate(other.inputs) if model.constant(t) is not None]
        return [(node, constant[0]), (other, inner[0])] if len(inner) == 1 else []


def _weights(model: Model, nodes: list[gs.Node]) -> list[Array]:
    """The constant weights of layers."""
    return [np.asarray(model.constant(node.inputs[1])) for node in nodes]


def _layer_before(editing: _Editing, tensor: gs.Tensor, op: str) -> LayerWeights | None:
    """The layer that produces a tensor, also through operators that commute with positive factors; None otherwise.

    Its output channels are on the axis where a layer of the operator ``op`` has its input channels.
    """
    model = editing.model
    while (maker := model.producer(tensor)) is not None and maker.op in _THROUGH:
        tensor = maker.inputs[0]
        if not editing.read_by(tensor, {id(maker)}):
            return None
    if maker is not None and maker.op == "Add":
        maker = _matmul_with_bias(model, maker)
    if maker is None or maker.op not in (("Conv",) if op == "Conv" else ("Gemm", "MatMul")):
        return None
    if maker.attrs.get("transA", 0):
        return None
    if maker.op == "MatMul" and not editing.read_by(maker.outputs[0], {id(n) for n in maker.outputs[0].outputs}):
        return None
    weight = model.constant(maker.inputs[1])
    plain = weight is not None and (maker.op == "Conv" or weight.ndim == 2) and not has_other_bias(model, maker)
    return LayerWeights(model, maker) if plain else None


def _matmul_with_bias(model: Model, add: gs.Node) -> gs.Node | None:
    """The MatMul to which an Add adds the bias; None if it adds something else."""
    found = next((m for t in add.inputs if (m := model.producer(t)) is not None and m.op == "MatMul"), None)
    held = bias_of(model, found) if found is not None else None
    return found if held is not None and held[0].outputs[0] is add.outputs[0] else None
