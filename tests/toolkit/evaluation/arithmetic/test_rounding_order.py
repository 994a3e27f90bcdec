from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, normal
from toolkit import Model, Precision, session
from toolkit.backends.lowering.strong import lower
from toolkit.contract.plan import PrecisionPlan
from toolkit.evaluation.arithmetic.rounding import with_rounding
from toolkit.evaluation.arithmetic.rounding_order import fused_more

PADS = {"pads": np.int64([0, 0, 1, 1, 0, 0, 1, 1])}


def padded(
    before=(), scale=0.05, rest=Precision.FP16, pad=("pads",), stored=None, back=("scale", "zero"), **attributes
):
    """A convolution, ``before``, a Pad, a pair and a convolution, with its rounding written out."""
    nodes, last = [node("Conv", ["x", "w"], ["c"])], "c"
    for number, op in enumerate(before):
        nodes.append(node(op, [last, "low", "high"] if op == "Clip" else [last], [last := f"{op}{number}"]))
    nodes += [
        node("Pad", [last, *pad], ["p"], **attributes),
        node("QuantizeLinear", ["p", "scale", "zero"], ["q"], axis=1), node("DequantizeLinear", ["q", *back], ["d"], axis=1),
        node("Conv", ["d", "v"], ["y"]),
    ]  # fmt: skip
    stored = {
        "w": normal(4, 4, 1, 1),
        "v": normal(4, 4, 3, 3),
        "low": np.float32(-0.1),
        "high": np.float32(1.7),
        **PADS,
        **(stored or {}),
    }
    stored |= {"scale": np.float32(scale), "zero": np.zeros(np.shape(scale), np.int8)}
    proto = build(nodes, {"x": [2, 4, 5, 5]}, {"y": None}, stored, opset=19, ir_version=9)
    return with_rounding(lower(Model.from_proto(proto), PrecisionPlan(), rest=rest).model)


def ops(light):
    return [one.op_type for one in light.proto.graph.node]


def changed(light, outputs=("y",)):
    """The operators in their new order, where the outputs are the same as before."""
    x = {"x": normal(2, 4, 5, 5, seed=3)}
    before = session(light.copy(), outputs=outputs).run(x)
    after = session(fused_more(light, outputs), outputs=outputs).run(x)
    for name in outputs:
        np.testing.assert_array_equal(after[name], before[name])
    return ops(light)


@pytest.mark.parametrize("rest", [Precision.FP16, Precision.BF16])
@pytest.mark.parametrize("before", [["Relu"], ["Clip"], ["Relu", "Clip"]])
def test_activations_are_rounded_and_pairs_are_padded_after(before, rest):
    found = changed(light := padded(before, rest=rest))
    place = found.index(before[0])
    assert found[place - 1] == "Conv" and found[place : place + len(before) + 2] == [*before, "Cast", "Cast"]
    assert found[found.index("Pad") - 1 :][:3] == ["DequantizeLinear", "Pad", "Conv"]
    assert sorted(found) == sorted(ops(padded(before, rest=rest)))
    assert len({one.name for one in light.proto.graph.node}) == len(found)


@pytest.mark.parametrize("wanted", ["c", "p"])
def test_a_tensor_that_is_wanted_keeps_its_values(wanted):
    as_before = ops(padded(["Relu"]))
    found = changed(padded(["Relu"]), ["y", wanted])
    assert (found.index("Relu") == as_before.index("Relu")) == (wanted == "c")
    assert (found.index("Pad") < found.index("QuantizeLinear")) == (wanted == "p")


@pytest.mark.parametrize(
    ("given", "moves"),
    [
        ({"pad": ["pads", "none"], "stored": {"none": np.float32(0)}}, True),
        ({"pad": ["pads", "one"], "stored": {"one": np.float32(1)}}, False),
        ({"mode": "reflect"}, True),
        ({"scale": [0.05] * 4}, False),
        ({"back": ["scale", "again"], "stored": {"again": np.int8(0)}}, True),
        ({"back": ["scale", "again"], "stored": {"again": np.int8(3)}}, False),
        (
            {
                "back": ["scales", "zeros"],
                "stored": {"scales": np.full(4, 0.05, np.float32), "zeros": np.zeros(4, np.int8)},
            },
            False,
        ),
    ],
)
def test_only_what_a_pair_leaves_as_it_is_is_padded_after_it(given, moves):
    found = changed(padded(**given))
    assert (found.index("Pad") > found.index("DequantizeLinear")) == moves
