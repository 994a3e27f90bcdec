"""Models whose weights are in external data, written as they are made: no message ever holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tests.conftest import node

SEED = 16


def residual_blocks(path: Path, width: int, blocks: int = 17) -> Path:
    """Blocks of ``x + relu(x W1) W2`` in float32, ``width`` wide; 34 weights of 4 * width * width bytes in all."""
    random = np.random.default_rng(SEED)
    data = path.with_name(f"{path.stem}.bin")
    nodes, weights = [], []
    with data.open("wb") as stream:
        for block in range(blocks):
            before, wide, positive, back = (f"{word}{block}" for word in ("x", "wide", "relu", "back"))
            for name in (f"w{block}a", f"w{block}b"):
                values = random.standard_normal((width, width), dtype=np.float32) * np.float32(width**-0.5)
                weight = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[width, width])
                for key, value in (("location", data.name), ("offset", stream.tell()), ("length", values.nbytes)):
                    weight.external_data.add(key=key, value=str(value))
                weight.data_location = TensorProto.EXTERNAL
                weights.append(weight)
                stream.write(values.data)
            after = f"x{block + 1}" if block + 1 < blocks else "y"
            nodes += [
                node("MatMul", [before, f"w{block}a"], [wide]),
                node("Relu", [wide], [positive]),
                node("MatMul", [positive, f"w{block}b"], [back]),
                node("Add", [before, back], [after]),
            ]
    graph = helper.make_graph(
        nodes, "blocks",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", width])],
        weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def block_samples(path: Path, width: int, count: int = 12) -> Path:
    """Inputs for ``residual_blocks``."""
    random = np.random.default_rng(SEED + 1)
    np.savez(path, x0=random.standard_normal((count, width), dtype=np.float32))
    return path


def hold_to_limit(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Lower protobuf's limit, and let everything that takes a message refuse one above it."""
    monkeypatch.setattr("toolkit.graph.proto.light.PROTOBUF_LIMIT", limit)

    def hold(owner: Any, name: str, place: int = 0) -> None:
        whole = getattr(owner, name)

        def holding(*given: Any, **more: Any) -> Any:
            message = given[place]
            size = message.ByteSize() if isinstance(message, onnx.ModelProto) else len(message)
            assert size <= limit, f"{name} was given {size} bytes"
            return whole(*given, **more)

        monkeypatch.setattr(owner, name, holding)

    hold(ort.InferenceSession, "__init__", 1)
    hold(onnx.checker, "check_model")
    hold(onnx.shape_inference, "infer_shapes")
    hold(onnx.version_converter, "convert_version")
    hold(onnx.inliner, "inline_local_functions")
