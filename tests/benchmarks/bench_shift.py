"""Whether TensorRT takes what ``shift`` adds after an activation into that activation's own kernel.

On the GPU host: python3.10 tests/benchmarks/bench_shift.py OUT.json
The block is Conv (INT8) -> activation -> [Add of a number] -> pair -> Conv of kernel 1 (INT8), and the same with MatMul.
A clamp has no Add: its limits are shifted, Relu becomes Clip(-3, ) and Clip(0, 6) becomes Clip(-3, 3); it stands after a
pointwise convolution, a depthwise one and a MatMul. Each form is built without and with the shift, counted in engine layers
and measured in turn.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.benchmarks.bench_placement import in_turn
from tests.benchmarks.bench_residual import Block, built
from toolkit import Extent, Model, Profiles, ShapeProfile
from toolkit.backends.backend import EngineSettings
from toolkit.backends.choose import choose
from toolkit.contract.plan import PrecisionPlan

CLAMPS = {"relu": (None, 3.0), "relu6": (6.0, 3.0)}
"""By clamp: its upper limit, and how far it is shifted."""
ACTIVATIONS = ("silu", "hardswish", "gelu", "gelu tanh", *CLAMPS, *(f"depthwise {clamp}" for clamp in CLAMPS))
READERS = ("conv", "matmul")
SHAPES = {"conv": (8, 64, 56, 56), "matmul": (8, 256, 512)}


class Layers(Block):
    """A block of layers of kernel 1, or of matrices, with activations in the pieces that exporters write."""

    def __init__(self, reader: str) -> None:
        super().__init__()
        self.reader = reader

    def number(self, name: str, value: float) -> str:
        return self.constant(name, np.array(value, np.float32))

    def layer(self, tensor: str, name: str, depthwise: bool = False) -> str:
        width = SHAPES[self.reader][1 if self.reader == "conv" else -1]
        shape: tuple[int, ...] = (width, width, 1, 1) if self.reader == "conv" else (width, width)
        if depthwise:
            shape = (width, 1, 3, 3)
        kernel = self.constant(f"{name}_w", self.random.standard_normal(shape).astype(np.float32) * 0.05)
        scale = self.constant(f"{name}_w_scale", np.full(width, 0.002, np.float32))
        zero = self.constant(f"{name}_w_zero", np.zeros(width, np.int8))
        axis = 0 if self.reader == "conv" else 1
        self.node("QuantizeLinear", [kernel, scale, zero], f"{name}_w_q", axis=axis)
        self.node("DequantizeLinear", [f"{name}_w_q", scale, zero], f"{name}_w_dq", axis=axis)
        bias = self.constant(f"{name}_b", np.zeros(width, np.float32))
        if depthwise:
            more = {"pads": [1, 1, 1, 1], "group": width}
            return self.node("Conv", [tensor, f"{name}_w_dq", bias], name, kernel_shape=[3, 3], **more)
        if self.reader == "conv":
            return self.node("Conv", [tensor, f"{name}_w_dq", bias], name, kernel_shape=[1, 1])
        return self.node("Add", [self.node("MatMul", [tensor, f"{name}_w_dq"], f"{name}_m"), bias], name)

    def clamp(self, tensor: str, kind: str, shifted: bool) -> str:
        upper, shift = CLAMPS[kind] if shifted else (CLAMPS[kind][0], 0.0)
        if upper is None and not shifted:
            return self.node("Relu", [tensor], "act")
        limits = [self.number("low", -shift), *([] if upper is None else [self.number("high", upper - shift)])]
        return self.node("Clip", [tensor, *limits], "act")

    def activation(self, tensor: str, kind: str) -> str:
        if kind == "silu":
            return self.node("Mul", [tensor, self.node("Sigmoid", [tensor], "sigmoid")], "act")
        if kind == "hardswish":
            return self.node("HardSwish", [tensor], "act")
        if kind == "gelu":
            inner = self.node("Erf", [self.node("Div", [tensor, self.number("root", 2**0.5)], "div")], "erf")
        else:
            cube = self.node("Mul", [self.node("Mul", [tensor, tensor], "square"), tensor], "cube")
            small = self.node("Mul", [cube, self.number("small", 0.044715)], "small_cube")
            total = self.node("Add", [tensor, small], "total")
            inner = self.node("Tanh", [self.node("Mul", [total, self.number("factor", 0.7978845608)], "in")], "erf")
        half = self.node("Mul", [tensor, self.node("Add", [inner, self.number("one", 1.0)], "plus")], "product")
        return self.node("Mul", [half, self.number("half", 0.5)], "act")


def form(kind: str, reader: str, shifted: bool) -> Model:
    """The block with this activation and these layers, shifted or not."""
    block = Layers(reader)
    first = block.layer(block.pair("x", "x"), "c0", kind.startswith("depthwise"))
    clamp = kind.removeprefix("depthwise ")
    if clamp in CLAMPS:
        made = block.clamp(first, clamp, shifted)
    else:
        made = block.activation(first, kind)
        if shifted:
            made = block.node("Add", [made, block.number("shift", -1.5)], "shifted")
    block.layer(block.pair(made, "act"), "y")
    shape = SHAPES[reader]
    ends = [[helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)] for name in "xy"]
    graph = helper.make_graph(block.nodes, "block", *ends, block.constants)
    return Model.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def main() -> None:
    """Build every form and print a table."""
    backend, _ = choose("tensorrt")
    settings = EngineSettings(tactic_sources=(), optimization_level=3, avg_timing_iterations=8)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for kind, reader in itertools.product(ACTIVATIONS, READERS):
            if kind.startswith("depthwise") and reader != "conv":
                continue
            extent = Extent(*[SHAPES[reader]] * 3)
            profiles = Profiles((ShapeProfile("b8", {"x": extent}),))
            engines: dict[str, bytes] = {}
            row: dict[str, object] = {"activation": kind, "reader": reader}
            for name, shifted in (("plain", False), ("shifted", True)):
                target = Path(place) / f"{kind}_{reader}_{name}.onnx".replace(" ", "_")
                try:
                    build = built(backend, settings, profiles, form(kind, reader, shifted), PrecisionPlan(), target)
                    engines[name] = build.engine
                    row[f"{name} layers"] = [layer.name[:80] for layer in build.layers]
                except Exception as error:
                    row[name] = f"FAILED {error}"[:300]
            row.update({name: times["b8"] for name, times in in_turn(engines, profiles).items()} if engines else {})
            rows.append(row)
            print(row, flush=True)
            Path(sys.argv[1]).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
