"""Which forms of a residual Add after an INT8 convolution TensorRT builds, and how fast each is.

On the GPU host: python3.10 tests/benchmarks/bench_residual.py OUT.json
The block is Conv (INT8) -> Add(skip) -> Relu -> readers. The skip has a pair or none, it is the block's own input or
another INT8 convolution's output, and the readers of the sum are quantized layers, float layers, both, or the network's
output. Each form is built for batch 8 and measured in turn with its twin.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from passes.keep_precision import KeepPrecision
from tests.benchmarks.bench_placement import in_turn
from toolkit import Context, Extent, Model, Profiles, ShapeProfile
from toolkit.backends.backend import Backend, EngineSettings, Extras
from toolkit.backends.choose import choose
from toolkit.backends.layers.layer import Build
from toolkit.backends.lowering.weak import lower_weak
from toolkit.contract.journal import Journal
from toolkit.contract.plan import PrecisionPlan

READERS = ("quantized", "float", "both", "output", "pool", "quantized pool")
SKIPS = ("input", "convolution")
SHAPE = (8, 64, 56, 56)


class Block:
    """The graph of one form, built node by node."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def pair(self, tensor: str, name: str, scale: np.ndarray | None = None) -> str:
        per_channel = scale is not None
        scale = self.constant(f"{name}_scale", np.float32(0.05) if scale is None else scale)
        zero = self.constant(f"{name}_zero", np.zeros(SHAPE[1] if per_channel else (), np.int8))
        axis = {"axis": 0} if per_channel else {}
        self.node("QuantizeLinear", [tensor, scale, zero], f"{name}_q", **axis)
        return self.node("DequantizeLinear", [f"{name}_q", scale, zero], f"{name}_dq", **axis)

    def conv(self, tensor: str, name: str, quantized: bool = True) -> str:
        weight = self.random.standard_normal((SHAPE[1], SHAPE[1], 3, 3)).astype(np.float32) * 0.05
        kernel = self.constant(f"{name}_w", weight)
        if quantized:
            kernel = self.pair(kernel, f"{name}_w", np.full(SHAPE[1], 0.002, np.float32))
        return self.node("Conv", [tensor, kernel], name, pads=[1, 1, 1, 1], kernel_shape=[3, 3])


def form(reader: str, skip: str, paired: bool) -> Model:
    """The block with these readers, this skip, and a pair on the skip or none."""
    block = Block()
    first = block.node("Relu", [block.conv(block.pair("x", "x"), "c0")], "r0")
    entered = block.pair(first, "r0")
    branch = block.conv(entered, "short") if skip == "convolution" else first
    if paired:
        branch = block.pair(branch, "short") if skip == "convolution" else entered
    total = block.node("Relu", [block.node("Add", [block.conv(entered, "c1"), branch], "a")], "r1")
    outputs = {}
    if reader in ("quantized", "both"):
        outputs["y"] = block.node("Relu", [block.conv(block.pair(total, "r1"), "c2")], "y")
    if reader in ("float", "both"):
        outputs["z"] = block.node("Relu", [block.conv(total, "c3", quantized=False)], "z")
    if reader == "output":
        outputs["r1"] = total
    if reader == "pool":
        outputs["g"] = block.node("GlobalAveragePool", [total], "g")
    if reader == "quantized pool":
        pooled = block.node("GlobalAveragePool", [block.pair(total, "r1")], "g")
        outputs["y"] = block.node("Relu", [block.conv(block.pair(pooled, "g"), "c2")], "y")
    size = (1, 1) if reader in ("pool", "quantized pool") else SHAPE[2:]
    graph = helper.make_graph(
        block.nodes, "block",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [*SHAPE[:2], *size]) for name in outputs],
        block.constants,
    )  # fmt: skip
    return Model.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def built(
    backend: Backend, settings: EngineSettings, profiles: Profiles, model: Model, plan: PrecisionPlan, at: Path
) -> Build:
    """The engine of a model in FP16 where nothing else is asked; the model is written to ``at``."""
    made = lower_weak(model, plan, settings, backend, Journal())
    made.model.source = None
    made.model.save(at, ir_version=8)
    return backend.build(at, profiles, settings, extras=Extras(plan=made.plan, rest="fp16"))


def main() -> None:
    """Build every form and print a table."""
    backend, _ = choose("tensorrt")
    extent = Extent(SHAPE, SHAPE, SHAPE)
    profiles = Profiles((ShapeProfile("b8", {"x": extent}),))
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        settings = EngineSettings(tactic_sources=(), optimization_level=2, avg_timing_iterations=8)
        for reader, skip in itertools.product(READERS, SKIPS):
            engines: dict[str, bytes] = {}
            row: dict[str, object] = {"readers": reader, "skip": skip}
            for kind, paired in (("pair", True), ("no pair", False)):
                model = form(reader, skip, paired)
                kept = [n for n in ("c3", "z", "g") if any(o.name == n for o in model.nodes)]
                context = Context()
                if kept and reader != "quantized pool":
                    KeepPrecision(nodes=kept)(model, context)
                target = folder / f"{reader}_{skip}_{paired}.onnx".replace(" ", "_")
                try:
                    build = built(backend, settings, profiles, model, context.plan, target)
                    engines[kind] = build.engine
                    row[f"{kind} layers"] = len(build.time_ms)
                except Exception as error:
                    row[kind] = f"FAILED {error}"[:300]
            row.update({kind: times["b8"] for kind, times in in_turn(engines, profiles).items()} if engines else {})
            rows.append(row)
            print(row, flush=True)
            Path(sys.argv[1]).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
