"""Operators written out in pieces, as exporters write them, are taken for what they are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.conftest import LIGHT, build, node, normal
from toolkit import Model
from toolkit.graph.layers.forms import Forms, constant_affine

WIDTH = 8
NUMBERS = {
    "two": 2.0, "eps": 1e-5, "one": 1.0, "half": 0.5, "root2": 2**0.5, "inverse": 2**-0.5, "minus": -0.5, "three": 3.0,
    "zero": 0.0, "six": 6.0, "sixth": 1 / 6, "cubic": 0.044715, "tanh": 0.79788, "quick": 1.702,
}  # fmt: skip
WEIGHTS = {
    **{name: np.array(value, np.float32) for name, value in NUMBERS.items()},
    "gain": normal(WIDTH, seed=1), "shift": normal(WIDTH, seed=2),
}  # fmt: skip


def made(nodes, output="y", shape=("N", "L", WIDTH), opset=17, extra=None):
    used = {name for one in nodes for name in one.input}
    weights = {name: value for name, value in {**WEIGHTS, **(extra or {})}.items() if name in used}
    return Model.from_proto(build(nodes, {"x": list(shape)}, {output: None}, weights, opset=opset))


def norm(axes=(-1,), square="Pow", root="Sqrt", twice=False, affine=True, eps=True, keepdims=1):
    """LayerNorm in pieces, in the ways that exporters write it."""
    axes = list(axes)
    nodes = [node("ReduceMean", ["x"], ["mean"], axes=axes, keepdims=keepdims), node("Sub", ["x", "mean"], ["d"])]
    over = "d"
    if twice:
        nodes.append(node("Sub", ["x", "mean"], ["d2"]))
        over = "d2"
    nodes.append(node("Pow", ["d", "two"], ["sq"]) if square == "Pow" else node("Mul", ["d", "d"], ["sq"]))
    nodes.append(node("ReduceMean", ["sq"], ["var"], axes=axes, keepdims=keepdims))
    nodes.append(node("Add", ["var", "eps"] if eps is True else ["eps", "var"], ["ve"]))
    last = [] if affine else ["y"]
    out = (last or ["n"])[0]
    if root == "Sqrt":
        nodes += [node("Sqrt", ["ve"], ["std"]), node("Div", [over, "std"], [out])]
    elif root == "Reciprocal":
        nodes += [node("Sqrt", ["ve"], ["std"]), node("Reciprocal", ["std"], ["r"]), node("Mul", [over, "r"], [out])]
    elif root == "one over":
        nodes += [node("Sqrt", ["ve"], ["std"]), node("Div", ["one", "std"], ["r"]), node("Mul", ["r", over], [out])]
    else:
        nodes += [node("Pow", ["ve", "minus"], ["r"]), node("Mul", [over, "r"], [out])]
    return nodes + ([node("Mul", ["n", "gain"], ["g"]), node("Add", ["g", "shift"], ["y"])] if affine else [])


def whole(model):
    """The only composite of a model: its operator, its nodes' names, input and output."""
    (one,) = Forms(model).composites
    return one.op, {n.name for n in one.nodes}, one.input.name, one.output.name


@pytest.mark.parametrize(
    "form",
    [{}, {"square": "Mul"}, {"twice": True}, {"root": "Reciprocal"}, {"root": "one over"}, {"root": "Pow"}, {"affine": False},
     {"eps": "first"}, {"axes": (2,)}, {"axes": (1, 2)}],
)  # fmt: skip
def test_a_layer_norm_in_pieces(form):
    nodes = norm(**form)
    model = made(nodes)
    assert whole(model) == ("LayerNormalization", {n.name for n in nodes}, "x", "y")
    forms = Forms(model)
    assert {forms.op(n) for n in model.nodes} == {"LayerNormalization"}
    assert [len(forms.readers(model.graph.inputs[0])), forms.outputs(model.nodes[0])[0].name] == [1, "y"]


def test_a_norm_over_the_spatial_axes():
    nodes = norm(axes=(2, 3), affine=False)
    assert whole(made(nodes, shape=("N", 3, 4, 4)))[0] == "InstanceNormalization"
    # over channels, as ConvNeXt has it
    assert whole(made(norm(axes=(1,), affine=False), shape=("N", 3, 4, 4)))[0] == "LayerNormalization"


@pytest.mark.parametrize("root", ["Reciprocal", "one over", "Pow", "Sqrt"])
def test_a_root_mean_square_norm(root):
    nodes = [n for n in norm(root=root) if n.name not in ("mean", "d")]
    for one in nodes:
        one.input[:] = ["x" if name == "d" else name for name in one.input]
    assert whole(made(nodes))[:1] == ("RMSNormalization",)


def test_casts_within_a_norm_belong_to_it():
    nodes = norm()
    square = next(n for n in nodes if n.name == "sq")
    square.input[0] = "wide"
    nodes.insert(2, node("Cast", ["d"], ["wide"], to=TensorProto.FLOAT))
    nodes += [node("Cast", ["y"], ["z"], to=TensorProto.FLOAT)]
    op, names, start, end = whole(made(nodes, "z"))
    assert (op, start, end) == ("LayerNormalization", "x", "y") and "wide" in names and "z" not in names


@pytest.mark.parametrize("inner", ["d", "var", "n"])
def test_what_others_read_of_is_no_operator(inner):
    nodes = [*norm(), node("Add", ["y", inner], ["z"])]
    assert not [one for one in Forms(made(nodes, "z")).composites if "Normalization" in one.op and inner in {t.name for n in one.nodes[:-1] for t in n.outputs if t is not one.output}]  # fmt: skip


def test_means_over_other_axes_are_no_norm():
    nodes = norm()
    nodes[0].attribute[0].ints[:] = [1]
    assert Forms(made(nodes)).composites == [] or Forms(made(nodes)).composites[0].input.name == "d"


ACTIVATIONS = {
    "gelu, torch": ("Gelu", [("Div", "x root2", "a"), ("Erf", "a", "b"), ("Add", "b one", "c"), ("Mul", "x c", "d"), ("Mul", "d half", "y")]),
    "gelu, half first": ("Gelu", [("Mul", "x half", "h"), ("Mul", "x inverse", "a"), ("Erf", "a", "b"), ("Add", "one b", "c"), ("Mul", "h c", "y")]),
    "gelu, half inside": ("Gelu", [("Mul", "x inverse", "a"), ("Erf", "a", "b"), ("Add", "b one", "c"), ("Mul", "c half", "d"), ("Mul", "x d", "y")]),
    "gelu by tanh": ("Gelu", [("Pow", "x three", "p"), ("Mul", "p cubic", "q"), ("Add", "x q", "r"), ("Mul", "r tanh", "s"), ("Tanh", "s", "t"),
                              ("Add", "t one", "u"), ("Mul", "x half", "h"), ("Mul", "h u", "y")]),
    "gelu by tanh, products": ("Gelu", [("Mul", "x x", "p"), ("Mul", "p x", "q"), ("Mul", "q cubic", "q2"), ("Add", "x q2", "r"), ("Mul", "r tanh", "s"),
                                        ("Tanh", "s", "t"), ("Add", "t one", "u"), ("Mul", "x u", "v"), ("Mul", "v half", "y")]),
    "silu": ("Swish", [("Sigmoid", "x", "s"), ("Mul", "x s", "y")]),
    "quick gelu": ("Swish", [("Mul", "x quick", "a"), ("Sigmoid", "a", "s"), ("Mul", "s x", "y")]),
    "silu by exp": ("Swish", [("Neg", "x", "a"), ("Exp", "a", "b"), ("Add", "b one", "c"), ("Div", "x c", "y")]),
    "hard swish": ("HardSwish", [("HardSigmoid", "x", "s"), ("Mul", "x s", "y")]),
    "hard swish by clip": ("HardSwish", [("Add", "x three", "a"), ("Clip", "a zero six", "b"), ("Mul", "x b", "c"), ("Div", "c six", "y")]),
    "hard swish by clip, sixth first": ("HardSwish", [("Add", "x three", "a"), ("Clip", "a zero six", "b"), ("Div", "b six", "c"), ("Mul", "x c", "y")]),
    "mish": ("Mish", [("Softplus", "x", "a"), ("Tanh", "a", "b"), ("Mul", "x b", "y")]),
    "softsign": ("Softsign", [("Abs", "x", "a"), ("Add", "a one", "b"), ("Div", "x b", "y")]),
}  # fmt: skip


def pieces(spec, tail=()):
    return [node(op, names.split(), [out]) for op, names, out in (*spec, *tail)]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_in_pieces(name):
    op, spec = ACTIVATIONS[name]
    model = made(pieces(spec))
    assert whole(model) == (op, {out for _, _, out in spec}, "x", "y")
    # after a layer, and with another reader of what it reads
    tail = [("Add", "y x", "z"), ("Mul", "z gain", "w")]
    model = made(pieces(spec, tail), "w")
    assert whole(model)[:2] == (op, {out for _, _, out in spec})


@pytest.mark.parametrize(
    "spec",
    [
        [("Sigmoid", "x", "s"), ("Mul", "x gain", "g"), ("Mul", "g s", "y")],
        [("Relu", "x", "a"), ("Mul", "a half", "y")],
        [("Mul", "x gain", "a"), ("Add", "a shift", "y")],
        [("Relu", "x", "a"), ("Neg", "x", "b"), ("Mul", "a b", "y")],
    ],
)
def test_other_arithmetic_is_no_activation(spec):
    assert Forms(made(pieces(spec))).composites == []


def test_a_gate_of_another_tensor_is_none():
    nodes = pieces([("MatMul", "x w", "m"), ("Sigmoid", "m", "s"), ("Mul", "x s", "y")])
    assert Forms(made(nodes, extra={"w": normal(WIDTH, WIDTH)})).composites == []


@pytest.mark.parametrize(
    ("axes", "shape", "opset", "pool"),
    [
        ([2, 3], ["N", 3, 4, 4], 17, True),
        ([-1, -2], ["N", 3, 4, 4], 17, True),
        ([3], ["N", 3, 4, 4], 17, True),
        ([2], ["N", 3, 9], 17, True),
        ([1], ["N", 3, 9], 17, False),
        ([-1], ["N", 9], 17, False),
        ([1, 2], ["N", 4, 4, 3], 17, False),
        (None, ["N", 3, 4, 4], 17, False),
        ([-1, -2], ["N", 3, 4, 4], 18, True),
        ([2, 3], None, 17, True),
    ],
)
@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_mean_over_the_spatial_axes_is_a_pool(axes, shape, opset, pool, keepdims):
    weights = {"axes": np.array(axes, np.int64)} if opset >= 18 else {}
    given = {"axes": axes} if axes and opset < 18 else {}
    one = node("ReduceMean", ["r", *weights], ["y"], keepdims=keepdims, **given)
    model = made([node("Relu", ["x"], ["r"]), one], shape=shape or ["N", 3, 4, 4], opset=opset, extra=weights)
    assert Forms(model).op(model.node("y")) == ("GlobalAveragePool" if pool else "ReduceMean")


@pytest.mark.parametrize("model", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem)
def test_pieces_of_whole_networks_are_apart(model):
    proto = onnx.load(model)
    forms = Forms(Model.from_proto(proto))
    names = [n.name for one in forms.composites for n in one.nodes]
    assert len(names) == len(set(names))


def test_scaling_by_constants():
    model = made(pieces([("Mul", "x gain", "a"), ("Sub", "a shift", "b"), ("Mul", "b a", "y")]))
    assert [constant_affine(model, n) for n in model.nodes] == [True, True, False]


class Counted(list):
    """A list that counts how often it is read."""

    reads = 0

    def __iter__(self):
        self.reads += 1
        return super().__iter__()


def test_outputs_are_read_once_however_many_nodes_there_are():
    model = made([node("Relu", ["x"], ["a"]), *(node("Tanh", ["a"], [f"t{i}"]) for i in range(20)),
                  node("Sum", [f"t{i}" for i in range(20)], ["y"])])  # fmt: skip
    model.graph.outputs = outputs = Counted(model.graph.outputs)
    Forms(model)
    assert outputs.reads == 1
