"""The float tensors of Q/DQ pairs; operators between a pair's halves are duplicated for float values."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.graph.layers.constants import constant_value
from toolkit.graph.model import Model
from toolkit.graph.proto.names import Names
from toolkit.graph.surgery import assemble
from toolkit.graph.surgery.tensors import FLOAT_TYPES, make_constant, make_node, onnx_type, reroute
from toolkit.placement.borders import Borders
from toolkit.placement.existing import ExistingPair
from toolkit.placement.grid import Grid, limiter
from toolkit.placement.moved import axis_before, data_inputs, rank_of
from toolkit.placement.ops import CAST, QUANTIZE

FloatKey = tuple[int, Hashable, int | None]
Entry = Callable[[gs.Node], gs.Tensor]
"""Returns the float tensor to read in place of a QuantizeLinear's output."""
_SHAPES = ("Shape", "Size")


class FloatPath:
    """Creates the float tensors of pairs; the nodes of the pairs stay until ``finish``.

    Args:
        model: the graph, to which float duplicates (twins) and constants are added.
        entry: returns the tensor that replaces a QuantizeLinear's output; its input if None.
    """

    def __init__(self, model: Model, entry: Entry | None = None) -> None:
        self.model = model
        self._entry = entry or (lambda quantize: quantize.inputs[0])
        self.graphs = {id(node): graph for node, graph in model.walk()}
        self.names = Names(node.name for node, _ in model.walk())
        self.names.update(t.name for node, _ in model.walk() for t in (*node.inputs, *node.outputs))
        self.casts: dict[str, str] = {}
        """The inserted Casts, each with the tensor that it reads."""
        self.borders = Borders(model, self.names)
        self._made: dict[FloatKey, gs.Tensor] = {}
        self._twins: list[tuple[gs.Node, str]] = []
        # outputs of twins, kept alive so that their id is not reused, each with its cache keys
        self._fresh: dict[int, tuple[gs.Tensor, set[FloatKey]]] = {}

    def of(self, pair: ExistingPair) -> gs.Tensor:
        """The float tensor that equals the pair's output, apart from rounding and clamping.

        For constants stored quantized it holds (stored - zero point) * scale.
        """
        stored, grid = pair.dequantize.inputs[0], pair.grid
        if not pair.quantizers:
            values = constant_value(self.model, stored)
            if values is not None:
                key = (id(stored), grid.key, None)
                if key not in self._made:
                    self._keep(key, self._constant(stored.name, grid.dequantize(values), grid))
                return self._made[key]
        axis, clip = pair.axis, limiter(pair.dequantize) if grid.limits is not None else None
        if clip is not None:
            # the clamp of rounding goes with it
            stored = clip.inputs[0]
        if axis is not None and axis < 0:
            axis += rank_of(self.model, stored) or 0
        return self._float(stored, grid, axis)

    def given(self, pair: ExistingPair) -> gs.Tensor:
        """``of`` in the type of the pair's output: from opset 19 a pair may read float32 and return float16.

        Both types are those of the scales (ONNX's Changelog.md, QuantizeLinear-19 and DequantizeLinear-19).
        """
        return self.in_type(self.of(pair), pair.quantize, pair.dequantize)

    def in_type(self, source: gs.Tensor, quantize: gs.Node | None, dequantize: gs.Node) -> gs.Tensor:
        """The tensor that replaces a pair's output, with a Cast if the pair changes the float type; see ``given``."""
        if quantize is None:
            return source
        read, made = (onnx_type(node.inputs[1].dtype) for node in (quantize, dequantize))
        if read == made or not {read, made} <= FLOAT_TYPES:
            return source
        graph = self.graphs[id(dequantize)]
        # a tensor of one branch of an If does not exist in the other
        key = (id(source), ("cast", made, id(graph)), None)
        if key not in self._made:
            dtype = dequantize.inputs[1].dtype
            cast = assemble.variable(self.names.take(f"{source.name}_cast"), dtype=dtype, shape=source.shape)
            name = self.names.take(f"{dequantize.name}_Cast")
            graph.nodes.append(make_node("Cast", name, [source], [cast], to=made))
            self.casts[name] = source.name
            self._keep(key, cast)
        return self._made[key]

    def moved(self, tensor: gs.Tensor, dequantize: gs.Node, source: gs.Tensor) -> gs.Tensor:
        """The float tensor that equals ``tensor``, to which operators moved what a DequantizeLinear returned.

        Args:
            tensor: see ``dequantizer``; the operators that lead to it are duplicated.
            dequantize: the DequantizeLinear.
            source: the tensor that replaces its output.
        """
        node = tensor.inputs[0]
        if node is dequantize:
            return source
        key = (id(tensor), ("moved", id(source)), None)
        if key not in self._made:
            read = self.moved(node.inputs[0], dequantize, source)
            made = assemble.variable(self.names.take(f"{tensor.name}_float"), dtype=source.dtype, shape=tensor.shape)
            name = self.names.take(f"{node.name}_float")
            twin = make_node(node.op, name, [read, *node.inputs[1:]], [made], **dict(node.attrs))
            graph = self.graphs[id(node)]
            graph.nodes.append(twin)
            self.graphs[id(twin)] = graph
            self._keep(key, made)
        return self._made[key]

    def take_over(self, new: gs.Tensor, old: gs.Tensor) -> bool:
        """Let the twin that outputs ``old`` output ``new`` instead, to preserve that name; at most once for each.

        Returns:
            Whether a twin outputs it and was not redirected before.
        """
        if id(old) not in self._fresh:
            return False
        _, keys = self._fresh.pop(id(old))
        maker = old.inputs[0]
        maker.outputs[next(i for i, t in enumerate(maker.outputs) if t is old)] = new
        reroute(old, new)
        for key in keys:
            self._keep(key, new)
        return True

    def finish(self) -> None:
        """Drop unread nodes; twins take the names of the nodes that they replace."""
        self.model.tidy()
        left = set(self.model.node_names())
        for twin, name in self._twins:
            if name not in left and twin.name in left:
                left.add(name)
                twin.name = name
        self._twins = []

    def _float(self, tensor: gs.Tensor, grid: Grid, axis: int | None) -> gs.Tensor:
        key = (id(tensor), grid.key, axis)
        if key in self._made:
            return self._made[key]
        node = tensor.inputs[0] if tensor.inputs else None
        values = self.model.constant(tensor)
        if values is not None:
            made = self._constant(tensor.name, grid.dequantize(values, axis), grid)
        elif node is not None and node.op == QUANTIZE:
            made = self._entry(node)
        elif node is None:
            made = self.borders.dequantized(tensor, grid, axis)
        elif node.op == CAST:
            made = self._float(node.inputs[0], grid, axis)
        else:
            self._twin(node, grid, axis)
            made = self._made[key]
        self._keep(key, made)
        for reader in [reader for reader in tensor.outputs if reader.op in _SHAPES]:
            reader.inputs[0] = made
        return made

    def _constant(self, name: str, values: np.ndarray, grid: Grid) -> gs.Constant:
        kind = grid.float_kind
        return make_constant(self.names.take(f"{name}_float"), values, kind if kind in FLOAT_TYPES else None)

    def _twin(self, node: gs.Node, grid: Grid, axis: int | None) -> None:
        """The same operator on float tensors."""
        data = data_inputs(node)
        before = axis if axis is None else axis_before(self.model, node, axis)
        inputs = [self._float(t, grid, before) if i in data else t for i, t in enumerate(node.inputs)]
        op, dtype = node.op, inputs[data[0]].dtype
        if grid.zero is not None and grid.zero.any():
            # a quantized 0 that the operator fills in means (0 - zero point) * scale
            if op == "Relu":
                op, inputs = "Clip", [inputs[0], self._zero(node, grid)]
            elif op == "Pad" and _fills(node):
                inputs = [*inputs[:2], inputs[2] if 2 in data else self._zero(node, grid), *inputs[3:]]
        outputs = [
            assemble.variable(self.names.take(f"{t.name}_float"), dtype=dtype, shape=t.shape)
            for t in (node.outputs if op == "Split" else node.outputs[:1])
        ]
        twin = make_node(op, self.names.take(f"{node.name}_float"), inputs, outputs, **dict(node.attrs))
        graph = self.graphs[id(node)]
        graph.nodes.append(twin)
        self.graphs[id(twin)] = graph
        self._twins.append((twin, node.name))
        self._fresh.update((id(t), (t, set())) for t in outputs)
        for old, new in zip(node.outputs, outputs):
            self._keep((id(old), grid.key, axis), new)

    def _keep(self, key: FloatKey, made: gs.Tensor) -> None:
        self._made[key] = made
        if id(made) in self._fresh:
            self._fresh[id(made)][1].add(key)

    def _zero(self, node: gs.Node, grid: Grid) -> gs.Constant:
        return self._constant(f"{node.name}_zero", grid.dequantize(np.zeros((), np.int64)), grid)


def _fills(node: gs.Node) -> bool:
    mode = node.attrs.get("mode", "constant")
    return (mode.decode() if isinstance(mode, bytes) else str(mode)) == "constant"
