from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal
from toolkit import Code, Context, Model, Precision, Ranges
from toolkit.backends.lowering.strong import lower
from toolkit.contract.ranges import Range
from toolkit.graph.sessions.session import session
from toolkit.graph.surgery.tensors import onnx_type
from toolkit.placement.qdq import storable_scale

HALF_STEP = 2.0**-24


def sqnr_db(wanted, found):
    noise = np.asarray(wanted, np.float64) - found
    return 10 * np.log10(np.square(wanted.astype(np.float64)).sum() / np.square(noise).sum())


@pytest.mark.parametrize("rest", [Precision.FP32, Precision.FP16])
def test_tensors_as_small_as_float16s_steps_keep_their_signal(rest):
    """Weights and activations of about 1e-7: with float16's smallest scale they would have one step, or none."""
    weights = {"w1": normal(4, 4, 1, 1) * np.float32(1e-7), "w2": normal(4, 4, 1, 1, seed=1)}
    nodes = [node("Conv", ["x", "w1"], ["c"]), node("Conv", ["c", "w2"], ["y"])]
    proto, x = build(nodes, {"x": [8, 4, 4, 4]}, {"y": [8, 4, 4, 4]}, weights), {"x": normal(8, 4, 4, 4)}
    values = session(proto, outputs=["c", "y"]).run(x) | x
    amax = {name: float(np.abs(value).max()) for name, value in values.items()}
    context = Context(provider=lambda *_, **__: Ranges({name: Range(one, "minmax") for name, one in amax.items()}))
    model = Model.from_proto(proto)
    InsertQDQ()(model, context)
    observed = {name: (-one, one) for name, one in amax.items()}
    made = lower(model, context.plan, rest=rest, observed=observed)
    assert sqnr_db(values["y"], session(made.model).run(x)["y"]) > 30
    scale = made.model.node("c").inputs[1].inputs[0].inputs[1]
    assert onnx_type(scale.dtype) == TensorProto.FLOAT
    if rest is Precision.FP16:
        assert made.types.reason["c"].code in (Code.SCALE_LOST, Code.VANISHING_VALUES)


def test_a_dead_channel_of_a_layer_does_not_make_it_float32():
    scale = storable_scale(np.float32([0.1, 1e-12, 0.0]), Precision.INT8)
    assert scale[1] == HALF_STEP
    np.testing.assert_array_equal(scale, scale.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("amax", [1e-9, 1e-7, 1e-5, 6e-5, 1e-3, 1.0, 1e4])
def test_a_scale_is_never_a_decibel_too_wide(amax):
    (scale,) = storable_scale(amax, Precision.INT8)
    assert 1 - 1e-6 <= scale * 127 / amax < 10 ** (1.03 / 20)


@pytest.mark.parametrize("amax, steps", [(235.39, 1), (139.15, 0), (30.37, 0), (0.0, 0)])
def test_a_shared_scale_comes_back_from_its_inverse(amax, steps):
    """235.39 / 127 does not in float32, its neighbour does; below 1 no error is as large as float32's epsilon."""
    nodes = [node("Conv", ["x", "w"], ["a"]), node("Conv", ["x", "w"], ["b"]), node("Concat", ["a", "b"], ["c"], axis=1),
             node("Conv", ["c", "v"], ["y"])]  # fmt: skip
    weights = {"w": normal(4, 4, 1, 1), "v": normal(4, 8, 1, 1)}
    model = Model.from_proto(build(nodes, {"x": [1, 4, 4, 4]}, {"y": None}, weights))
    known = {"x": 235.39, "a": amax, "b": amax / 2, "c": amax}
    InsertQDQ()(model, Context(provider=lambda *_, **__: Ranges({n: Range(v, "minmax") for n, v in known.items()})))
    alone = storable_scale(amax, Precision.INT8)[0]
    scales = {
        model.constant(model.node(n).inputs[i].inputs[0].inputs[1]).item() for n, i in (("c", 0), ("c", 1), ("y", 0))
    }
    (scale,) = scales
    assert (scale - alone) / np.spacing(np.float16(alone)) == steps
    back = np.float32(1) / (np.float32(1) / np.float32(scale))
    assert abs(back - scale) < np.finfo(np.float32).eps


def test_probabilities_have_one_scale_in_fp8(attention):
    """TensorRT's fused attention knows Softmax's output by its scale, whatever the samples held."""
    found = {}
    for dtype in ("int8", "fp8"):
        model, known = (
            attention.copy(),
            {n: Range(0.6, "minmax") for n in ("x", "q", "q_scaled", "kt", "p", "v", "c", "k", "s", "ss")},
        )
        InsertQDQ(dtype=dtype, activation_matmul=True)(model, Context(known_ranges=Ranges(known)))
        found[dtype] = {n.inputs[0].name: float(model.constant(n.inputs[1]).reshape(-1)[0]) for n in model.nodes
                        if n.op == "QuantizeLinear" and n.inputs[0].name in known}  # fmt: skip
    assert found["fp8"]["p"] == pytest.approx(1 / 448, rel=1e-3) and found["int8"]["p"] == pytest.approx(
        0.6 / 127, rel=1e-3
    )
    assert found["fp8"]["v"] == pytest.approx(0.6 / 448, rel=1e-3)


@pytest.mark.filterwarnings("error")
def test_scales_beyond_float16_are_exact_and_say_nothing():
    assert storable_scale(np.float32([127e9, 1.27]), Precision.INT8)[0] == np.float32(1e9)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP8, Precision.INT4])
def test_a_scale_is_the_next_float16_value_whatever_it_stands_beside(precision):
    """A channel of zeros, or one as small as float16's steps, changes how scales are made and not what they are."""
    amax = np.exp(np.random.default_rng(0).uniform(-5, 8, 200)) * precision.max / 127
    amax[:50] = np.float64(np.float16(amax[:50] / precision.max)) * precision.max
    alone = np.concatenate([storable_scale(one, precision) for one in amax])
    np.testing.assert_array_equal(storable_scale(amax, precision), alone)
    np.testing.assert_array_equal(storable_scale([*amax, 0], precision)[:-1], alone)
    np.testing.assert_array_equal(storable_scale([*amax, 1e9], precision)[:-1], alone)
    exact = amax / precision.max
    assert (alone >= exact).all() and (np.nextafter(np.float16(alone), np.float16(0)) < exact).all()
    assert storable_scale(65504 * precision.max, precision) == 65504
