"""The graphs whose engines the recorded inspector files describe, rebuilt with the same names and narrow weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.toolkit.backends.backend_models import FLOAT, INT8, make, node, tensor
from toolkit.backends.layers.inspector import read_layers
from toolkit.backends.layers.layer import Build
from toolkit.base.errors import BackendError
from toolkit.base.reading import FileKind, read_json

DATA = Path(__file__).parent / "data"
KIND = FileKind("this is not what an engine inspector writes", BackendError, "export the layers again")
STAGES = (3, 4, 6, 3)


def content(name: str) -> Any:
    """What a recorded file says."""
    return read_json(DATA / f"{name}.json", KIND, strict=False)


def recorded(name: str, *profiles: str, **settings: str) -> Build:
    """A Build from recorded files: one for each profile."""
    layers = []
    for index, file in enumerate(profiles or (name,)):
        layers += read_layers(content(file), index)
    return Build("tensorrt", "8.6.0", b"engine", layers, "inspector", settings=dict(settings))


def mnist():
    """The network of mnist_mixed: conv1 relu1 pool1 conv2 relu2 pool2 flat fc1 relu3 fc2 softmax."""
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], "conv1", pads=[2] * 4), node("Relu", ["c1"], ["r1"], "relu1"),
        node("MaxPool", ["r1"], ["p1"], "pool1", **pool),
        node("Conv", ["p1", "w2"], ["c2"], "conv2", pads=[2] * 4), node("Relu", ["c2"], ["r2"], "relu2"),
        node("MaxPool", ["r2"], ["p2"], "pool2", **pool), node("Flatten", ["p2"], ["f"], "flat"),
        node("Gemm", ["f", "w3"], ["a3"], "fc1"), node("Relu", ["a3"], ["r3"], "relu3"),
        node("Gemm", ["r3", "w4"], ["a4"], "fc2"), node("Softmax", ["a4"], ["y"], "softmax"),
    ]  # fmt: skip
    shapes = {"w1": (2, 1, 5, 5), "w2": (2, 2, 5, 5), "w3": (98, 4), "w4": (4, 10)}
    weights = [tensor(name, np.ones(shape)) for name, shape in shapes.items()]
    return make(nodes, {"x": (FLOAT, ["n", 1, 28, 28])}, {"y": (FLOAT, ["n", 10])}, weights, opset=17, ir=8)


class _Resnet:
    """ResNet-50 as torch exports it, with or without the Q/DQ pairs of rn50_good."""

    def __init__(self, quantized: bool) -> None:
        self.quantized = quantized
        self.nodes, self.weights, self.count, self.pairs = [], [], 497, {}

    def add(self, op, inputs, name, **attributes):
        out = f"{name}_output_0"
        self.nodes.append(node(op, inputs, [out], name, **attributes))
        return out

    def pair(self, name, axis=None):
        if not self.quantized:
            return name
        if name not in self.pairs:
            scale, zero = f"{name}_s", f"{name}_z"
            size = () if axis is None else (2,)
            self.weights += [tensor(scale, np.full(size, 0.1)), tensor(zero, np.zeros(size), INT8)]
            more = {} if axis is None else {"axis": axis}
            self.nodes.append(node("QuantizeLinear", [name, scale, zero], [f"{name}_q"], f"{name}_Q", **more))
            self.nodes.append(
                node("DequantizeLinear", [f"{name}_q", scale, zero], [f"{name}_dq"], f"{name}_DQ", **more)
            )
            self.pairs[name] = f"{name}_dq"
        return self.pairs[name]

    def conv(self, x, name, inputs=2, stride=1):
        weight = f"onnx::Conv_{self.count}"
        self.count += 3
        self.weights.append(tensor(weight, np.ones((2, inputs, 1, 1))))
        return self.add("Conv", [self.pair(x), self.pair(weight, 0)], name, strides=[stride, stride])

    def block(self, x, index, down, stride):
        at = f"/l/l.{index}"
        count = self.count
        y = self.add("Relu", [self.conv(x, f"{at}/c1/Conv")], f"{at}/r/Relu")
        y = self.add("Relu", [self.conv(y, f"{at}/c2/Conv", stride=stride)], f"{at}/r_1/Relu")
        y = self.conv(y, f"{at}/c3/Conv")
        side = self.conv(x, f"{at}/d/d.0/Conv", stride=stride) if down else x
        assert self.count == count + (12 if down else 9)
        return self.add("Relu", [self.add("Add", [y, self.pair(side)], f"{at}/Add")], f"{at}/r_2/Relu")


def resnet50(quantized: bool):
    """ResNet-50 with the names of the rn50 files."""
    net = _Resnet(quantized)
    y = net.add("Relu", [net.conv("x", "/c/Conv", inputs=3)], "/r/Relu")
    y = net.add("MaxPool", [y], "/p/MaxPool", kernel_shape=[1, 1], strides=[1, 1])
    index = 0
    for stage, blocks in enumerate(STAGES):
        for block in range(blocks):
            y = net.block(y, index, block == 0, 2 if stage and block == 0 else 1)
            index += 1
    y = net.add("GlobalAveragePool", [net.pair(y)], "/g/GlobalAveragePool")
    y = net.add("Flatten", [y], "/Flatten")
    net.weights += [tensor("f.weight", np.ones((2, 2))), tensor("f.bias", np.ones(2))]
    net.nodes.append(node("Gemm", [net.pair(y), net.pair("f.weight", 0), "f.bias"], ["y"], "/f/Gemm", transB=1))
    return make(net.nodes, {"x": (FLOAT, ["n", 3, 8, 8])}, {"y": (FLOAT, ["n", 2])}, net.weights, opset=17, ir=8)


def names_in(file: str) -> list[str]:
    """The names of all layers in a recorded file."""
    return [layer["Name"] for layer in json.loads((DATA / f"{file}.json").read_bytes(), strict=False)["Layers"]]
