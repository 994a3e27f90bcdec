"""Models that plain INT8 harms: a hard-swish CNN with squeeze-excite, and the strip reader with outlier channels."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from toolkit import Model
from toolkit.graph.surgery.tensors import make_constant

MODELS = Path(__file__).resolve().parents[2] / "models"


def hard_swish_cnn(path: Path, epochs: int = 25) -> Path:
    """Train a MobileNetV3-like digit classifier and write it: depthwise, squeeze-excite, hard-swish."""
    sys.path.insert(0, str(MODELS))
    import digits
    import onnx_export
    import torch
    from torch import nn

    class Act(nn.Module):
        def forward(self, x: Any) -> Any:
            return x * nn.functional.hardtanh(x + 3, 0, 6) / 6

    class Gate(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.down, self.up = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1)
            self.relu = nn.ReLU()

        def forward(self, x: Any) -> Any:
            return x * (nn.functional.hardtanh(self.up(self.relu(self.down(self.pool(x)))) + 3, 0, 6) / 6)

    class Block(nn.Module):
        def __init__(self, width: int, wide: int, out: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), Act(),
                nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), Act(), Gate(wide),
                nn.Conv2d(wide, out, 1, bias=False), nn.BatchNorm2d(out),
            )  # fmt: skip
            self.same = stride == 1 and width == out

        def forward(self, x: Any) -> Any:
            y = self.body(x)
            return x + y if self.same else y

    onnx_export.make_deterministic(5)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), Act(),
        Block(16, 48, 24, 1), Block(24, 72, 24, 1), Block(24, 96, 32, 2), Block(32, 128, 32, 1), Block(32, 128, 32, 1),
        nn.Conv2d(32, 96, 1, bias=False), nn.BatchNorm2d(96), Act(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10),
    )  # fmt: skip
    data = digits.load_splits()
    rng = np.random.default_rng(5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    model.train()
    for _ in range(epochs):
        order = rng.permutation(len(data.train.label))
        for start in range(0, len(order) - 62, 63):
            index = order[start : start + 63]
            image = torch.from_numpy(digits.shift_digits(data.train.image[index], rng))
            loss = nn.functional.cross_entropy(model(image), torch.from_numpy(data.train.label[index]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    _stretch(model, rng)
    image = torch.from_numpy(data.calibration.image[:1])
    onnx_export.export(model, image, path, {"image": {0: "batch"}, "logits": {0: "batch"}})
    return path


def _stretch(model: Any, rng: np.random.Generator, factor: float = 150.0) -> None:
    """Outlier channels in the residual streams, as ImageNet models have them; the function stays the same.

    Every block that writes to a stream multiplies these channels, every layer that reads it divides them.
    """
    import torch

    layers = list(model)
    blocks = [m for m in layers if hasattr(m, "body")]
    last = layers[layers.index(blocks[-1]) + 1]
    with torch.no_grad():
        for number, block in enumerate(blocks):
            if block.same:
                continue
            norm = block.body[-1]
            scale = torch.ones(norm.num_features)
            scale[rng.choice(norm.num_features, 2, replace=False)] = factor
            for position in range(number, len(blocks)):
                if position > number and not blocks[position].same:
                    break
                writer = blocks[position].body[-1]
                writer.weight.mul_(scale)
                writer.bias.mul_(scale)
                reader = blocks[position + 1].body[0] if position + 1 < len(blocks) else last
                reader.weight.div_(scale[None, :, None, None])


def outlier_reader(path: Path, factor: float = 400.0, channels: int = 3) -> Path:
    """The strip reader with outlier channels after every layer normalization, undone in the MatMuls that read them."""
    model = Model.load(MODELS / "strip_reader.onnx")
    rng = np.random.default_rng(3)
    for node in [n for n in model.nodes if n.op == "LayerNormalization"]:
        readers = node.outputs[0].outputs
        if not all(r.op == "MatMul" and isinstance(r.inputs[1], gs.Constant) for r in readers):
            continue
        gain = np.array(model.constant(node.inputs[1]))
        scale = np.ones_like(gain)
        scale[rng.choice(len(scale), channels, replace=False)] = factor
        for index in (1, 2):
            value = np.array(model.constant(node.inputs[index])) * scale
            node.inputs[index] = make_constant(f"{node.name} outlier {index}", value)
        for reader in readers:
            weight = np.array(model.constant(reader.inputs[1])) / scale[:, None]
            reader.inputs[1] = make_constant(f"{reader.name} outlier weight", weight.astype(np.float32))
    model.tidy()
    onnx.save(model.to_proto(), str(path))
    return path


def bert(path: Path, layers: int = 6, width: int = 128, heads: int = 4, outliers: int = 2, seed: int = 0) -> Path:
    """An encoder as BERT's exporters write it (post-norm), random weights, outlier channels in its normalizations."""
    from tests.conftest import build, node

    rng = np.random.default_rng(seed)
    weights: dict[str, Any] = {"scale": np.float32((width // heads) ** -0.5).reshape(())}
    nodes = []

    def linear(tensor: str, name: str, inputs: int, outputs: int) -> str:
        weights[f"{name}.w"] = (rng.standard_normal((inputs, outputs)) * inputs**-0.5).astype(np.float32)
        weights[f"{name}.b"] = (rng.standard_normal(outputs) * 0.02).astype(np.float32)
        nodes.append(node("MatMul", [tensor, f"{name}.w"], [f"{name}.m"], name=f"/{name}/MatMul"))
        nodes.append(node("Add", [f"{name}.m", f"{name}.b"], [f"{name}.y"], name=f"/{name}/Add"))
        return f"{name}.y"

    def norm(tensor: str, name: str) -> str:
        gain = np.ones(width, np.float32)
        gain[rng.choice(width, outliers, replace=False)] = 12.0
        weights[f"{name}.g"], weights[f"{name}.s"] = gain, (rng.standard_normal(width) * 0.1).astype(np.float32)
        nodes.append(
            node("LayerNormalization", [tensor, f"{name}.g", f"{name}.s"], [f"{name}.y"], name=f"/{name}/Norm")
        )
        return f"{name}.y"

    def split(tensor: str, name: str, perm: list[int]) -> str:
        weights.setdefault("heads", np.array([0, 0, heads, width // heads], np.int64))
        nodes.append(node("Reshape", [tensor, "heads"], [f"{name}.r"], name=f"/{name}/Reshape"))
        nodes.append(node("Transpose", [f"{name}.r"], [f"{name}.t"], name=f"/{name}/Transpose", perm=perm))
        return f"{name}.t"

    weights["table"] = rng.standard_normal((500, width)).astype(np.float32)
    weights["merge"] = np.array([0, 0, width], np.int64)
    nodes.append(node("Gather", ["table", "ids"], ["e"], name="/embed/Gather"))
    x = norm("e", "embed.norm")
    for i in range(layers):
        p = f"layer{i}"
        q, k, v = (linear(x, f"{p}.{w}", width, width) for w in "qkv")
        qt, kt, vt = (
            split(q, f"{p}.qh", [0, 2, 1, 3]),
            split(k, f"{p}.kh", [0, 2, 3, 1]),
            split(v, f"{p}.vh", [0, 2, 1, 3]),
        )
        nodes.append(node("MatMul", [qt, kt], [f"{p}.s"]))
        nodes.append(node("Mul", [f"{p}.s", "scale"], [f"{p}.ss"]))
        nodes.append(node("Softmax", [f"{p}.ss"], [f"{p}.p"], axis=-1))
        nodes.append(node("MatMul", [f"{p}.p", vt], [f"{p}.c"]))
        nodes.append(node("Transpose", [f"{p}.c"], [f"{p}.ct"], perm=[0, 2, 1, 3]))
        nodes.append(node("Reshape", [f"{p}.ct", "merge"], [f"{p}.cm"]))
        o = linear(f"{p}.cm", f"{p}.o", width, width)
        nodes.append(node("Add", [x, o], [f"{p}.h"]))
        x = norm(f"{p}.h", f"{p}.norm1")
        up = linear(x, f"{p}.up", width, 4 * width)
        nodes.append(node("Relu", [up], [f"{p}.a"]))
        down = linear(f"{p}.a", f"{p}.down", 4 * width, width)
        nodes.append(node("Add", [x, down], [f"{p}.h2"]))
        x = norm(f"{p}.h2", f"{p}.norm2")
    linear(x, "head", width, 16)
    nodes[-1].output[0] = "logits"
    proto = build(
        nodes, {"ids": ["n", "l"]}, {"logits": ["n", "l", 16]}, weights, types={"ids": onnx.TensorProto.INT64}
    )
    onnx.save(proto, str(path))
    return path
