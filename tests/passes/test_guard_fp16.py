from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from passes.guard_fp16 import GuardFP16
from tests.conftest import build, node, normal
from toolkit import Code, Context, Model, Precision, PrecisionPlan, Ranges, lower
from toolkit.calibration.codes import PhaseCode
from toolkit.data.dataset import CalibrationData
from toolkit.evaluation.arithmetic.rounding import with_rounding
from toolkit.simulation.channels import sqnr_against


def guarded(proto: onnx.ModelProto, observed: dict[str, tuple[float, float]], **settings: object) -> Context:
    context = Context(known_ranges=Ranges(observed=observed))
    model = Model.from_proto(proto)
    before = model.fingerprint()
    GuardFP16(**settings)(model, context)
    assert model.fingerprint() == before
    return context


def asked(context: Context) -> set[str]:
    return {name for name, ask in context.plan.items() if ask.precision is Precision.FP32}


def decomposed_norm() -> onnx.ModelProto:
    return build(
        [
            node("ReduceMean", ["x"], ["mean"], axes=[-1]), node("Sub", ["x", "mean"], ["d"]),
            node("Mul", ["d", "d"], ["square"]), node("ReduceMean", ["square"], ["var"], axes=[-1]),
            node("Add", ["var", "eps"], ["ve"]), node("Sqrt", ["ve"], ["sd"]), node("Div", ["d", "sd"], ["y"]),
        ],
        {"x": ["n", 16]}, {"y": ["n", 16]}, {"eps": np.float32(1e-12).reshape(())},
    )  # fmt: skip


def test_only_the_square_and_its_readers_are_kept():
    calm = {"x": (-300, 300), "mean": (-3, 3), "d": (-300, 300), "square": (0, 9e4), "var": (0.1, 3e4), "ve": (0.1, 3e4),
            "sd": (0.3, 173), "y": (-4, 4)}  # fmt: skip
    context = guarded(decomposed_norm(), calm)
    assert asked(context) == {"square", "var"}
    why = context.plan.get("square").reason
    assert why == Code.OVERFLOW(tensor="square", value=9e4, limit=65504.0, precision="fp16", constant=False)


def test_a_vanishing_epsilon_counts_only_near_zero():
    quiet = {"x": (-1, 1), "mean": (-1, 1), "d": (-1, 1), "square": (0, 1), "var": (0.0, 1), "ve": (1e-12, 1),
             "sd": (1e-6, 1), "y": (-1, 1)}  # fmt: skip
    assert asked(guarded(decomposed_norm(), quiet)) == {"ve"}
    assert asked(guarded(decomposed_norm(), {**quiet, "var": (0.01, 1), "ve": (0.01, 1), "sd": (0.1, 1)})) == set()


@pytest.mark.parametrize("reader", ["Relu", "Sqrt"])
def test_a_small_bias_may_vanish_in_a_sum_unless_its_reader_looks_at_zero(reader):
    small = {"b": np.full(8, 3e-6, np.float32), "w": normal(8, 8)}
    proto = build(
        [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["s"]), node("Gemm", ["s", "w", "b"], ["g"]),
         node(reader, ["s"], ["y"]), node(reader, ["g"], ["z"])],
        {"x": ["n", 8]}, {"y": ["n", 8], "z": ["n", 8]}, small,
    )  # fmt: skip
    seen = {"x": (-1, 1), "m": (-3, 3), "s": (-3, 3), "g": (-9, 9), "y": (0, 3), "z": (0, 9)}
    assert asked(guarded(proto, seen)) == ({"s", "g"} if reader == "Sqrt" else set())
    # calibration does not look between a layer and its Relu
    assert asked(guarded(proto, {n: v for n, v in seen.items() if n not in "sg"})) == (
        {"s", "g"} if reader == "Sqrt" else set()
    )
    near = dict.fromkeys("msy", (0, 1e-3))
    assert asked(guarded(proto, {**seen, **near})) >= {"s"}


@pytest.mark.parametrize("divisor", [False, True])
def test_a_small_bias_may_vanish_in_a_numerator_and_not_in_a_divisor(divisor):
    proto = build(
        [node("Add", ["x", "b"], ["s"]), node("Div", ["c", "s"] if divisor else ["s", "c"], ["y"])],
        {"x": ["n", 8]}, {"y": ["n", 8]}, {"b": np.full(8, 3e-6, np.float32), "c": np.full(8, 2, np.float32)},
    )  # fmt: skip
    assert asked(guarded(proto, {"x": (-3, 3), "s": (-3, 3), "y": (-9, 9)})) == ({"s"} if divisor else set())


def test_fused_normalization_is_judged_by_its_square():
    proto = build(
        [node("LayerNormalization", ["x", "g"], ["y"])],
        {"x": ["n", 16]},
        {"y": ["n", 16]},
        {"g": np.ones(16, np.float32)},
    )
    assert asked(guarded(proto, {"x": (-100, 100), "y": (-3, 3)})) == set()
    assert asked(guarded(proto, {"x": (-400, 100), "y": (-3, 3)})) == {"y"}


def test_softmax_is_judged_by_its_scores_not_its_name_or_mask():
    proto = build([node("Softmax", ["x"], ["y"])], {"x": ["n", 16]}, {"y": ["n", 16]})
    assert asked(guarded(proto, {"x": (-10000, 40), "y": (0, 1)})) == set()
    assert asked(guarded(proto, {"x": (-10, 4000), "y": (0, 1)})) == {"y"}


def test_a_long_mean_is_judged_by_its_sum():
    proto = build([node("GlobalAveragePool", ["x"], ["y"])], {"x": [1, 4, 200, 200]}, {"y": [1, 4, 1, 1]})
    assert asked(guarded(proto, {"x": (0, 9), "y": (0, 3)})) == {"y"}
    assert asked(guarded(proto, {"x": (-9, 9), "y": (0, 0.1)})) == set()


def test_token_ids_are_no_risk():
    proto = build(
        [node("Gather", ["table", "ids"], ["e"]), node("MatMul", ["e", "w"], ["y"])],
        {"ids": ["n", 4]}, {"y": ["n", 4, 8]}, {"table": normal(100_000, 8), "w": normal(8, 8, seed=1)},
        types={"ids": TensorProto.INT64},
    )  # fmt: skip
    assert asked(guarded(proto, {"ids": (0, 99_999), "e": (-5, 5), "y": (-50, 50)})) == set()


def test_weights_that_overflow_or_vanish():
    def proto(scale: float) -> onnx.ModelProto:
        return build(
            [node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 8]}, {"y": ["n", 8]}, {"w": normal(8, 8, scale=scale)}
        )

    assert asked(guarded(proto(1e5), {"x": (-1e-3, 1e-3), "y": (-1, 1)})) == {"y"}
    assert asked(guarded(proto(1e-7), {"x": (-1e4, 1e4), "y": (-1, 1)})) == {"y"}
    assert asked(guarded(proto(1.0), {"x": (-1, 1), "y": (-9, 9)})) == set()


def test_margin_and_bf16():
    proto = build([node("Mul", ["x", "x"], ["y"])], {"x": ["n", 8]}, {"y": ["n", 8]})
    assert asked(guarded(proto, {"x": (0, 200), "y": (0, 40_000)})) == {"y"}
    assert asked(guarded(proto, {"x": (0, 200), "y": (0, 40_000)}, margin=1.0)) == set()
    context = guarded(proto, {"x": (0, 200), "y": (0, 40_000)}, precision="bf16")
    assert context.plan.get("y").precision is Precision.BF16


def test_what_is_moved_goes_as_far_as_what_it_was():
    """Calibration looks at no tensor twice: of a mask that is unsqueezed twice and expanded it knows the first alone."""
    ints = {"zero": [0], "one": [1], "shape": [2, 1, 4, 4]}
    proto = build(
        [node("Mul", ["x", "big"], ["m"], "m"), node("Gather", ["table", "zero"], ["g"], "g"),
         node("Unsqueeze", ["m", "zero"], ["a"], "a"), node("Squeeze", ["g", "zero"], ["h"], "h"),
         node("Unsqueeze", ["a", "one"], ["b"], "b"), node("Expand", ["b", "shape"], ["c"], "c"),
         node("Pad", ["c", "pads", "fill"], ["p"], "p"), node("Add", ["p", "x"], ["s"], "s"),
         node("Add", ["s", "h"], ["t"], "t"), node("Softmax", ["t"], ["y"], "y")],
        {"x": [4, 4]}, {"y": [2, 1, 4, 4]},
        {"big": np.float32(-10.0), "fill": np.float32(-1e9), "table": np.full((2, 1, 4), -1e6, np.float32),
         "pads": np.zeros(8, np.int64), **{name: np.asarray(value, np.int64) for name, value in ints.items()}},
    )  # fmt: skip
    calm = {"x": (0, 1), "m": (-10, 0), "s": (-10, 1), "t": (-10, 1), "y": (0, 1)}
    # of the table, which is constant, its values are known, and so is what the Pad fills in
    assert asked(guarded(proto, calm)) == {"g", "h", "t", "p", "s"}
    assert asked(guarded(proto, {**calm, "m": (-1e9, 0)})) == {"m", "a", "b", "c", "p", "s", "g", "h", "t"}
    lowered = lower(Model.from_proto(proto), PrecisionPlan(), observed={**calm, "m": (-1e9, 0)})
    assert {"a", "b", "c", "p", "g", "h"} <= set(lowered.types.reason)


def rotary(largest: float) -> tuple[onnx.ModelProto, dict[str, tuple[float, float]]]:
    """Angles of positions as rotary embeddings make them, a Conv of something else beside, and what was observed."""
    proto = build(
        [node("Mul", ["p", "scale"], ["q"], "scaled"), node("MatMul", ["q", "freq"], ["a"], "angles"),
         node("Concat", ["a", "a"], ["c"], "joined", axis=-1), node("Sin", ["c"], ["s"], "sin"),
         node("Cos", ["c"], ["k"], "cos"), node("MatMul", ["s", "w"], ["m"], "layer"), node("Add", ["m", "k"], ["y"], "sum")],
        {"p": ["n", 1]}, {"y": ["n", 8]},
        {"scale": np.float32(1.0), "freq": np.float32([[0.97, 0.83, 0.61, 0.53]]), "w": normal(8, 8)},
    )  # fmt: skip
    ends = (0.0, largest)
    return proto, {
        **dict.fromkeys(("p", "q", "a", "c"), ends),
        **dict.fromkeys("sk", (-1.0, 1.0)),
        "m": (-3, 3),
        "y": (-3, 3),
    }


@pytest.mark.parametrize(("largest", "precision"), [(40.0, "fp32"), (1500.0, "fp32"), (1500.0, "bf16")])
def test_sines_of_long_positions_and_what_makes_their_arguments_stay_in_float32(largest, precision):
    proto, observed = rotary(largest)
    context = guarded(proto, observed, precision=precision)
    coarse = {"scaled", "angles", "joined", "sin", "cos"}
    assert asked(context) == (coarse if largest > 100 else set())
    if largest > 100:
        why = context.plan.get("sin").reason
        assert why.code is PhaseCode.COARSE and (why.values["step"], why.values["tensor"]) == (2.0, "c")
        assert context.plan.get("scaled").reason.values["reader"] in ("sin", "cos")
        model = Model.from_proto(proto)
        samples = CalibrationData.open(
            [{"p": np.float32([[largest * part]])} for part in np.linspace(0.31, 0.99, 16)], model
        )
        levels = [
            sqnr_against(model, with_rounding(lower(model, plan, observed=observed).model), samples)
            for plan in (PrecisionPlan(), context.plan)
        ]
        assert levels[0] < 25 and levels[1] > 55


def test_a_wide_layer_before_a_sine_is_kept_and_not_the_network_before_it():
    proto = build(
        [node("MatMul", ["x", "w"], ["h"], "first"), node("MatMul", ["h", "w"], ["m"], "second"),
         node("Mul", ["m", "thirty"], ["a"], "times"), node("Sin", ["a"], ["y"], "sin"),
         node("Mod", ["a", "turn"], ["z"], "mod", fmod=1)],
        {"x": ["n", 8]}, {"y": ["n", 8], "z": ["n", 8]},
        {"w": normal(8, 8), "thirty": np.float32(30.0), "turn": np.float32(6.0)},
    )  # fmt: skip
    near = {"x": (-1, 1), "h": (-3, 3), "m": (-8, 8), "y": (-1, 1), "z": (-6, 6)}
    assert asked(guarded(proto, {**near, "a": (-240, 240)})) == {"second", "times", "sin", "mod"}
    assert asked(guarded(proto, {**near, "a": (-24, 24)})) == set()
