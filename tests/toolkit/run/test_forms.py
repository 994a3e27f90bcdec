"""One decision for one network, whichever exporter wrote it: the recipes and the plans of two forms are the same."""

from __future__ import annotations

import json
import re
import zlib

import numpy as np
import onnx
import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal, placeholder_context, run
from toolkit import Model, Precision
from toolkit.cli.main import invoke
from toolkit.graph.layers.forms import Forms
from toolkit.run.recipe.recipe import Recipe

WIDTH, CLASSES = 8, 5
ROOT2 = 2**0.5


class Network:
    """Collects nodes and weights; what has two forms is written out where ``pieces`` says so."""

    def __init__(self, pieces: bool, opset: int = 20) -> None:
        self.pieces, self.opset = pieces, opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}

    def add(self, op, read, out, **attrs):
        self.nodes.append(node(op, read, [out], **attrs))
        return out

    def weight(self, name, *shape, scale=0.3, values=None):
        self.weights[name] = normal(*shape, seed=zlib.crc32(name.encode()), scale=scale) if values is None else values
        return name

    def number(self, value):
        return self.weight(f"number {value}", values=np.array(value, np.float32))

    def mean(self, tensor, axes, out, keepdims=1):
        if self.opset < 18:
            return self.add("ReduceMean", [tensor], out, axes=axes, keepdims=keepdims)
        return self.add(
            "ReduceMean", [tensor, self.weight(f"axes {axes}", values=np.array(axes, np.int64))], out, keepdims=keepdims
        )

    def conv(self, tensor, name, channels, into, kernel=3, **attrs):
        pads = [kernel // 2] * 4
        return self.add(
            "Conv", [tensor, self.weight(f"{name}.w", into, channels, kernel, kernel)], name, pads=pads, **attrs
        )

    def batchnorm(self, tensor, name, channels):
        values = [np.abs(normal(channels, seed=zlib.crc32(f"{name}{i}".encode()))) + 0.5 for i in range(4)]
        if not self.pieces:
            names = [self.weight(f"{name}.{i}", values=value) for i, value in enumerate(values)]
            return self.add("BatchNormalization", [tensor, *names], name)
        gain, shift, mean, variance = values
        scale = (gain / np.sqrt(variance + 1e-5)).astype(np.float32)
        spread = (-1, 1, 1)
        scaled = self.add("Mul", [tensor, self.weight(f"{name}.scale", values=scale.reshape(spread))], f"{name}.scaled")
        return self.add(
            "Add", [scaled, self.weight(f"{name}.shift", values=(shift - mean * scale).reshape(spread))], name
        )

    def linear(self, tensor, name, channels, into, rank2=False):
        weight, bias = normal(channels, into, seed=zlib.crc32(name.encode()), scale=0.4), self.weight(f"{name}.b", into)
        if rank2 and not self.pieces:
            return self.add("Gemm", [tensor, self.weight(f"{name}.w", values=weight.T.copy()), bias], name, transB=1)
        self.nodes.append(node("MatMul", [tensor, self.weight(f"{name}.w", values=weight)], [f"{name}.product"], name))
        return self.add("Add", [f"{name}.product", bias], f"{name}.sum")

    def norm(self, tensor, name):
        gain, shift = self.weight(f"{name}.g", WIDTH, scale=1), self.weight(f"{name}.s", WIDTH)
        if not self.pieces:
            return self.add("LayerNormalization", [tensor, gain, shift], name, axis=-1)
        mean = self.mean(tensor, [-1], f"{name}.mean")
        centred = self.add("Sub", [tensor, mean], f"{name}.d")
        square = self.add("Pow", [centred, self.number(2.0)], f"{name}.sq")
        variance = self.mean(square, [-1], f"{name}.var")
        safe = self.add("Add", [variance, self.number(1e-5)], f"{name}.ve")
        ratio = self.add("Div", [centred, self.add("Sqrt", [safe], f"{name}.sd")], f"{name}.n")
        return self.add("Add", [self.add("Mul", [ratio, gain], f"{name}.m"), shift], f"{name}.out")

    def gelu(self, tensor, name):
        if not self.pieces:
            return self.add("Gelu", [tensor], name)
        inner = self.add("Erf", [self.add("Div", [tensor, self.number(ROOT2)], f"{name}.a")], f"{name}.e")
        product = self.add("Mul", [tensor, self.add("Add", [inner, self.number(1.0)], f"{name}.p")], f"{name}.q")
        return self.add("Mul", [product, self.number(0.5)], f"{name}.out")

    def hard_swish(self, tensor, name):
        if not self.pieces:
            return self.add("HardSwish", [tensor], name)
        moved = self.add("Add", [tensor, self.number(3.0)], f"{name}.a")
        gate = self.add("Clip", [moved, self.number(0.0), self.number(6.0)], f"{name}.c")
        return self.add("Div", [self.add("Mul", [tensor, gate], f"{name}.m"), self.number(6.0)], f"{name}.out")

    def mish(self, tensor, name):
        if not self.pieces:
            return self.add("Mish", [tensor], name)
        inner = self.add("Tanh", [self.add("Softplus", [tensor], f"{name}.s")], f"{name}.t")
        return self.add("Mul", [tensor, inner], f"{name}.out")

    def pool(self, tensor, name):
        if self.pieces:
            return self.mean(tensor, [2, 3], name, keepdims=0)
        return self.add("Flatten", [self.add("GlobalAveragePool", [tensor], name)], f"{name}.flat")

    def proto(self, inputs, output):
        self.nodes[-1].output[0] = "y"
        used = {name for one in self.nodes for name in one.input}
        weights = {name: value for name, value in self.weights.items() if name in used}
        return build(self.nodes, inputs, {"y": output}, weights, opset=self.opset, ir_version=9)


def convolutional(pieces):
    """A residual block, a branch with a Concat, and a head of two linear layers."""
    net = Network(pieces)
    first = net.add("Relu", [net.batchnorm(net.conv("x", "c0", 3, WIDTH), "n0", WIDTH)], "r0")
    block = net.batchnorm(net.conv(first, "c1", WIDTH, WIDTH), "n1", WIDTH)
    first = net.add("Relu", [net.add("Add", [block, first], "add")], "r1")
    left = net.hard_swish(net.conv(first, "c2", WIDTH, WIDTH, 1), "h2")
    right = net.mish(net.conv(first, "c3", WIDTH, WIDTH, 1), "h3")
    joined = net.add("Concat", [left, right], "concat", axis=1)
    last = net.gelu(net.conv(joined, "c4", 2 * WIDTH, WIDTH), "g4")
    pooled = net.pool(last, "pool")
    hidden = net.add("Relu", [net.linear(pooled, "l5", WIDTH, WIDTH, rank2=True)], "r5")
    net.linear(hidden, "l6", WIDTH, CLASSES, rank2=True)
    return net.proto({"x": ["N", 3, 8, 8]}, ["N", CLASSES])


def transformer(pieces):
    """A block of attention without a mask and a feed-forward network, and a head."""
    net, tensor = Network(pieces), "x"
    for block in "a":
        normed = net.norm(tensor, f"{block}.ln1")
        q, k, v = (net.linear(normed, f"{block}.{one}", WIDTH, WIDTH) for one in "qkv")
        scores = net.add("MatMul", [q, net.add("Transpose", [k], f"{block}.kt", perm=[0, 2, 1])], f"{block}.scores")
        weights = net.add("Softmax", [scores], f"{block}.p", axis=-1)
        out = net.linear(net.add("MatMul", [weights, v], f"{block}.context"), f"{block}.o", WIDTH, WIDTH)
        tensor = net.add("Add", [tensor, out], f"{block}.add1")
        hidden = net.gelu(
            net.linear(net.norm(tensor, f"{block}.ln2"), f"{block}.up", WIDTH, 2 * WIDTH), f"{block}.gelu"
        )
        tensor = net.add("Add", [tensor, net.linear(hidden, f"{block}.down", 2 * WIDTH, WIDTH)], f"{block}.add2")
    net.linear(net.norm(tensor, "ln"), "head", WIDTH, CLASSES)
    return net.proto({"x": ["N", "L", WIDTH]}, ["N", "L", CLASSES])


NETWORKS = {"convolutional": (convolutional, (3, 8, 8)), "transformer": (transformer, (6, WIDTH))}


def test_the_forms_are_of_one_network():
    for make, shape in NETWORKS.values():
        x = normal(4, *shape)
        whole, pieces = (run(make(form), {"x": x})[0] for form in (False, True))
        np.testing.assert_allclose(whole, pieces, rtol=1e-3, atol=1e-4)


def asked(names_and_precisions, model):
    """What is asked of each layer, pool, addition and Concat, by name."""
    forms = Forms(model)
    units = {"Conv", "MatMul", "Gemm", "GlobalAveragePool", "Concat"}
    chosen = {node.name for node in model.nodes if forms.op(node) in units} | {"add"}
    return {name: str(precision) for name, precision in names_and_precisions if name in chosen}


@pytest.mark.parametrize("name", NETWORKS)
def test_both_forms_get_the_same_pairs(name):
    """Without folding, so that a normalization that is written out is between the layers."""
    found = []
    for pieces in (False, True):
        model = Model.from_proto(NETWORKS[name][0](pieces))
        context = placeholder_context()
        InsertQDQ()(model, context)
        plan = [(node, ask.precision) for node, ask in context.plan.items() if ask.precision is Precision.INT8]
        declined = {e.node: e.rule for e in context.journal.of("declined")}
        found.append((asked(plan, model), declined))
    assert found[0] == found[1]
    layers = found[0][0]
    if name == "convolutional":
        assert set(layers) == {"c0", "c1", "add", "c2", "c3", "concat", "c4", "pool", "l5", "l6"}
    else:
        assert len(layers) == 7 and all("scores" not in one for one in layers)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_recipes_of_both_forms_make_the_same_plan(name, tmp_path, capsys):
    make, shape = NETWORKS[name]
    np.savez(tmp_path / "data.npz", x=normal(20, *shape, seed=7))
    found, times = {}, []
    for pieces in (False, True):
        stem = "pieces" if pieces else "whole"
        onnx.save(make(pieces), str(tmp_path / f"{stem}.onnx"))
        out, recipe = tmp_path / f"run {stem}", tmp_path / f"{stem}.toml"
        command = ["new", str(tmp_path / f"{stem}.onnx"), "--data", str(tmp_path / "data.npz"), "--out", str(recipe)]
        assert invoke(command) == 0
        text = recipe.read_text()
        # a budget that some layers miss, so that the search has something to decide; on noise alone, since an answer may turn on rounding
        text = re.sub(r"budget = .*", "budget = { min_sqnr_db = 40.0, min_unchanged = 0.0 }", text)
        recipe.write_text(text.replace('backend = "auto"', 'backend = "none"'))
        assert invoke(["run", str(recipe), "--out", str(out)]) in (0, 1)
        report = json.loads((out / "report.json").read_text())
        plan = [(layer["node"], layer["asked"]["precision"]) for layer in report["layers"]]
        final = Model.load(out / "model.onnx")
        settings = Recipe.load(recipe).model_dump()
        settings["model"] = {}
        chosen = next(one for one in report["search"]["plans"] if one["chosen"])
        found[stem] = settings, asked(plan, final), chosen["names"]
        times.append([chosen["predicted_ms"], report["search"]["float_ms"]])
    assert found["whole"] == found["pieces"]
    assert set(found["whole"][1].values()) == {"int8", "fp16"}
    assert times[0] == pytest.approx(times[1], rel=1e-3)
