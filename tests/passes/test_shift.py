from __future__ import annotations

import numpy as np
import onnx
import pytest

from passes.correct_bias import CorrectBias
from passes.insert_qdq import InsertQDQ
from passes.search_precision import SearchPrecision
from passes.shift import Shift
from passes.smooth import Smooth
from passes.strip_qdq import StripQDQ
from tests.conftest import build, node, normal, ops, run, said
from tests.control_flow import subgraph, switch
from tests.toolkit.search.planted import damage, simulation
from tests.toolkit.simulation.test_simulation import noise_of_real_pairs
from toolkit import Code, Context, Model, Precision, session, storable_scale
from toolkit.calibration.provider import Calibrator
from toolkit.data.dataset import CalibrationData
from toolkit.search.causes.local_noise import measure
from toolkit.simulation.channels import sqnr_against

WIDTH = 8
ONES = np.ones(WIDTH, np.float32)
FAR = (np.linspace(2, 6, WIDTH)).astype(np.float32)
"""What lifts each channel above zero, each by its own number."""
SIGNS = np.sign(normal(WIDTH, WIDTH, seed=1))
"""Weights that INT8 holds: what is lost comes from the activations alone."""
GATE = [node("Sigmoid", ["in"], ["s"]), node("Mul", ["in", "s"], ["h"])]
LINEAR = [node("MatMul", ["h", "w"], ["m"]), node("Add", ["m", "b"], ["y"])]
GEMM, CONV = [node("Gemm", ["h", "w", "b"], ["y"])], [node("Conv", ["h", "k", "b"], ["y"])]
NORM = {"g": ONES, "s": FAR}
# by maker: the nodes, the rank of the input, weights, the name of the layer, whether each channel is shifted on its own
MAKERS = {
    "layer-norm": ([node("LayerNormalization", ["in", "g", "s"], ["h"]), *LINEAR], 3, NORM, "m", True),
    "layer-norm-without-shift": (
        [node("Add", ["in", "lift"], ["l"]), node("LayerNormalization", ["l", "g"], ["h"]), *GEMM], 2,
        {"g": ONES, "lift": 20 * np.eye(WIDTH, dtype=np.float32)[0]}, "y", True,
    ),
    "written-out": ([node("Mul", ["in", "g"], ["p"]), node("Add", ["s", "p"], ["h"]), *LINEAR], 3, NORM, "m", True),
    "batch-norm": (
        [node("BatchNormalization", ["in", "g", "s", "zero", "g"], ["h"]), *CONV], 4, {**NORM, "zero": 0 * ONES}, "y", True
    ),
    "batch-norm-flat": (
        [node("BatchNormalization", ["in", "g", "s", "zero", "g"], ["h"]), *GEMM], 2, {**NORM, "zero": 0 * ONES}, "y", True
    ),
    "conv": ([node("Conv", ["in", "k", "s"], ["h"]), node("Conv", ["h", "k"], ["y"])], 4, {"s": FAR * 4}, "y", True),
    "transposed": (
        [node("ConvTranspose", ["in", "k", "s"], ["h"]), *CONV], 4, {"s": FAR * 4}, "y", True
    ),
    "add-by-channel": (
        [node("Add", ["in", "s"], ["h"]), node("Conv", ["h", "k", "b"], ["y"], group=2)], 4,
        {"s": FAR.reshape(-1, 1, 1), "k": SIGNS[:, :4].reshape(WIDTH, 4, 1, 1)}, "y", True,
    ),
    "gemm": ([node("Gemm", ["in", "w", "s"], ["h"]), node("Gemm", ["h", "w"], ["y"], transB=1)], 2, {"s": FAR * 4}, "y", True),
    "linear": (
        [node("MatMul", ["in", "w"], ["n"]), node("Add", ["n", "s"], ["h"]), *LINEAR], 3, {"s": FAR * 4}, "m", True
    ),
    "silu": ([*GATE, *CONV], 4, {}, "y", False),
    "hard-swish": ([node("HardSwish", ["in"], ["h"]), node("Conv", ["h", "k", "b"], ["y"], auto_pad="SAME_UPPER")], 4, {}, "y", False),
    "moved": (
        [node("Sigmoid", ["in"], ["s"]), node("Mul", ["in", "s"], ["a"]), node("Transpose", ["a"], ["t"], perm=[0, 2, 1]),
         node("Transpose", ["t"], ["h"], perm=[0, 2, 1]), *LINEAR], 3, {}, "m", False,
    ),
    "moved-norm": (
        [node("LayerNormalization", ["in", "g", "s"], ["a"]), node("Unsqueeze", ["a", "one"], ["t"]),
         node("Squeeze", ["t", "one"], ["h"]), *LINEAR], 3, {**NORM, "one": np.array([1])}, "m", False,
    ),
}  # fmt: skip


def shape(rank: int) -> list[int]:
    return {2: [WIDTH], 3: [5, WIDTH], 4: [WIDTH, 3, 3]}[rank]


def made(
    nodes: list[onnx.NodeProto], rank: int, weights: dict[str, np.ndarray], outputs: tuple[str, ...] = ("y",)
) -> Model:
    given = {"w": SIGNS, "k": SIGNS.reshape(WIDTH, WIDTH, 1, 1), "b": normal(WIDTH, seed=2), **weights}
    used = {name for one in nodes for name in one.input}
    sizes = ["n", *shape(rank)]
    opset = 20 if any(one.op_type == "Gelu" for one in nodes) else 17
    proto = build(
        nodes, {"in": sizes}, dict.fromkeys(outputs, None), {n: v for n, v in given.items() if n in used}, opset=opset
    )
    for value in proto.graph.output:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return Model.from_proto(proto)


def inputs(rank: int, count: int = 64) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(5)
    return [{"in": rng.uniform(-3, 3, (1, *shape(rank))).astype(np.float32)} for _ in range(count)]


def shifted(model: Model, rank: int, method: str = "minmax", **settings: object) -> tuple[Model, Context]:
    """The model with its inputs shifted, and what the pass said; its function is checked to be the same."""
    data = CalibrationData.open(inputs(rank), model)
    context = Context(provider=Calibrator(data, method=method))
    twin = model.copy()
    Shift(**{"only_if_better": False, **settings})(twin, context)
    twin.check()
    x = inputs(rank, 4)
    feed = {"in": np.concatenate([one["in"] for one in x])}
    for found, wanted in zip(run(twin, feed), run(model, feed)):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)
    return twin, context


def gained(model: Model, twin: Model, layer: str, context: Context) -> float:
    """By how many dB the output's SQNR rises with the shift, where one layer alone is quantized."""
    data = context.provider.data
    levels = []
    for subject in (model, twin):
        quantized = subject.copy()
        InsertQDQ(include=[layer])(quantized, Context(provider=Calibrator(data, method="minmax")))
        levels.append(sqnr_against(model, quantized, data))
    return levels[1] - levels[0]


def refused(
    nodes: list[onnx.NodeProto], rank: int, weights: dict[str, np.ndarray] | None = None, **more: object
) -> dict[str, str]:
    """The rules by which layers are left alone; nothing is changed."""
    model = made(nodes, rank, weights or {}, **more)
    model.check()
    twin, context = shifted(model, rank)
    assert not context.journal.of("changed") and twin.fingerprint() == model.fingerprint()
    return {event.node: event.rule for event in context.journal.of("declined")}


@pytest.mark.parametrize("maker", MAKERS)
def test_what_is_in_front_takes_the_shift(maker):
    nodes, rank, weights, layer, channels = MAKERS[maker]
    model = made(nodes, rank, weights)
    twin, context = shifted(model, rank)
    (event,) = context.journal.of("changed")
    assert event.node == layer and event.what.values["channels"] == channels
    inserted = maker in ("silu", "hard-swish", "moved")
    assert (
        ops(twin) == {**ops(model), "Add": ops(model).get("Add", 0) + inserted} if inserted else ops(twin) == ops(model)
    )
    # the noise of an activation falls by what its steps become finer
    gain = event.why.values["gain_db"]
    assert gain > 3 and gained(model, twin, layer, context) == pytest.approx(gain, abs=1.2)


CLIP = node("Clip", ["in2", "zero", "six"], ["h"])
CLAMPED = {
    "conv": ([node("Conv", ["in", "k", "s"], ["in2"]), CLIP, *CONV], 4, "y"),
    "depthwise": ([node("Conv", ["in", "d", "s"], ["in2"], group=WIDTH, pads=[1] * 4), CLIP, *CONV], 4, "y"),
    "linear": ([node("MatMul", ["in", "w"], ["n"]), node("Add", ["n", "s"], ["in2"]), CLIP, *LINEAR], 3, "m"),
    "gate": ([node("HardSwish", ["in"], ["in2"]), CLIP, *CONV], 4, "y"),
    "pooled": (
        [node("Conv", ["in", "k", "s"], ["in2"]), node("Clip", ["in2", "zero", "six"], ["c"]),
         node("MaxPool", ["c"], ["h"], kernel_shape=[2, 2], pads=[1, 1, 0, 0]), *CONV], 4, "y",
    ),
}  # fmt: skip
"""Clip(0, 6) between what takes the shift and a layer; the name of the layer."""
LIMITS = {"zero": np.float32(0), "six": np.float32(6), "s": FAR / 2, "d": normal(WIDTH, 1, 3, 3, seed=8)}


@pytest.mark.parametrize("form", CLAMPED)
def test_the_limits_of_a_clip_are_shifted_with_its_input(form):
    nodes, rank, layer = CLAMPED[form]
    model = made(nodes, rank, LIMITS)
    # what a Clip cuts off already is cut at no other place
    twin, context = shifted(model, rank, method="mse")
    own = {event.node: event for event in context.journal.of("changed")}
    (clip,) = [one for one in twin.nodes if one.op == "Clip"]
    assert {name: event.what.code.value for name, event in own.items()} == {
        clip.name: "limits-shifted",
        layer: "shifted",
    }
    assert own[layer].why.values["high"] == pytest.approx(max_of(model, rank), rel=1e-6)
    assert ops(twin) == ({**ops(model), "Add": 1} if form == "gate" else ops(model))
    low, high = (float(twin.constant(limit)) for limit in clip.inputs[1:])
    assert low == own[clip.name].what.values["shift"] and high == 6 + low
    # the many values at the limit are numbers of INT8 and of float16, so that they are not all rounded alike
    step = float(storable_scale(own[layer].why.values["high"] + low, Precision.INT8)[0])
    assert abs(low / step - round(low / step)) < 0.05 and np.float16(low) == low
    assert gained(model, twin, layer, context) == pytest.approx(5.8, abs=1.0)


def test_a_clip_that_cuts_nothing_leaves_that_to_calibration():
    nodes, rank, layer = CLAMPED["conv"]
    model = made(nodes, rank, {**LIMITS, "six": np.finfo(np.float32).max})
    _, context = shifted(model, rank, method="mse")
    (why,) = [event.why.values for event in context.journal.of("changed") if event.node == layer]
    assert why["high"] < 0.999 * max_of(model, rank)


def max_of(model: Model, rank: int) -> float:
    """The largest value after the Clip that the samples give."""
    (clip,) = [one for one in model.nodes if one.op == "Clip"]
    seen = session(model, outputs=[clip.outputs[0].name])
    return max(float(next(iter(seen.run(one).values())).max()) for one in inputs(rank))


def test_a_clip_without_limits_to_shift_is_left_alone():
    first = {"in2": "no-free-shift"}
    top = [node("Conv", ["in", "k", "s"], ["in2"]), node("ReduceMax", ["in2"], ["top"], keepdims=0)]
    computed = [*top, node("Clip", ["in2", "zero", "top"], ["h"]), *CONV]
    assert refused(computed, 4, {"zero": np.float32(0), "s": FAR}) == {**first, "y": "no-free-shift"}
    # one that is read by others too
    read = [node("Conv", ["in", "k", "s"], ["in2"]), CLIP, *CONV, node("Neg", ["in2"], ["z"])]
    assert refused(read, 4, LIMITS, outputs=("y", "z")) == {**first, "y": "other-reader"}
    # all that it lets through is one number
    const = [node("Conv", ["in", "k", "s"], ["in2"]), CLIP, *CONV]
    assert refused(const, 4, {**LIMITS, "s": FAR + 1000}) == {**first, "y": "centred"}


@pytest.mark.parametrize("form", ["Gelu", "erf", "HardSigmoid", "clip", "Mish"])
def test_pointwise_activations_in_every_form(form):
    nodes = {
        "Gelu": [node("Gelu", ["in"], ["h"])],
        "erf": [
            node("Div", ["in", "root"], ["d"]), node("Erf", ["d"], ["e"]), node("Add", ["e", "one"], ["f"]),
            node("Mul", ["in", "f"], ["p"]), node("Mul", ["p", "half"], ["h"]),
        ],
        "HardSigmoid": [node("HardSigmoid", ["in"], ["s"], alpha=1 / 6), node("Mul", ["in", "s"], ["h"])],
        "clip": [
            node("Add", ["in", "three"], ["a"]), node("Clip", ["a", "zero", "six"], ["c"]),
            node("Mul", ["in", "c"], ["p"]), node("Div", ["p", "six"], ["h"]),
        ],
        "Mish": [node("Softplus", ["in"], ["p"]), node("Tanh", ["p"], ["t"]), node("Mul", ["in", "t"], ["h"])],
    }[form]  # fmt: skip
    numbers = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    numbers |= {"zero": np.float32(0), "three": np.float32(3), "six": np.float32(6)}
    model = made([*nodes, *CONV], 4, {name: np.asarray(value) for name, value in numbers.items()})
    twin, context = shifted(model, 4)
    (event,) = context.journal.of("changed")
    assert event.why.values["gain_db"] > 4.5
    twin, context = shifted(model, 4, insert=False)
    assert {e.rule for e in context.journal.of("declined")} == {"no-free-shift"} and ops(twin) == ops(model)


def test_what_has_no_place_for_a_shift_is_left_alone():
    gate = GATE
    assert refused([*gate, node("Conv", ["h", "k", "b"], ["y"], pads=[1, 1, 1, 1])], 4) == {"y": "pads-input"}
    wide = {"k": np.repeat(SIGNS.reshape(WIDTH, WIDTH, 1, 1), 2, axis=3)}
    assert refused([*gate, node("Conv", ["h", "k", "b"], ["y"], auto_pad="SAME_LOWER")], 4, wide) == {"y": "pads-input"}
    assert refused([node("Relu", ["in"], ["h"]), *CONV], 4) == {"y": "no-free-shift"}
    assert refused([node("Conv", ["in", "k", "b"], ["y"])], 4) == {"y": "no-free-shift"}
    assert refused([*gate, node("MatMul", ["h", "w"], ["y"])], 3) == {"y": "no-bias"}
    # a bias that counts for nothing
    assert refused([*gate, node("Gemm", ["h", "w", "b"], ["y"], beta=0.0)], 2) == {"y": "no-bias"}
    # the same on both sides of zero already
    assert refused([node("LayerNormalization", ["in", "g"], ["h"]), *GEMM], 2, {"g": ONES}) == {"y": "centred"}


def test_what_others_read_is_left_alone():
    gate = GATE
    assert refused([*gate, *CONV], 4, outputs=("y", "h")) == {"y": "other-reader"}
    assert refused([*gate, *CONV, node("Neg", ["h"], ["z"])], 4, outputs=("y", "z")) == {"y": "other-reader"}
    padded = node("Conv", ["h", "k", "b"], ["z"], pads=[1, 1, 1, 1])
    assert refused([*gate, *CONV, padded], 4, outputs=("y", "z")) == {"y": "other-reader", "z": "pads-input"}
    branches = [subgraph([node(op, ["h"], [op])], {op: None}) for op in ("Neg", "Abs")]
    read = [*gate, *CONV, node("ReduceMax", ["in"], ["top"], keepdims=0), node("Greater", ["top", "two"], ["c"]),
            switch("if", "c", ["z"], *branches)]  # fmt: skip
    assert refused(read, 4, {"two": np.float32(2).reshape(())}, outputs=("y", "z")) == {"y": "other-reader"}
    # one layer sums over channels and the other over columns
    columns = [node("MatMul", ["h", "v"], ["m"]), node("Add", ["m", "c"], ["z"])]
    across = {"v": normal(3, 6, seed=4), "c": normal(6, seed=5)}
    assert refused([*gate, *CONV, *columns], 4, across, outputs=("y", "z")) == {
        "y": "other-reader",
        "m": "other-reader",
    }
    # so is what becomes of it by moving values
    moved = [*gate[:1], node("Mul", ["in", "s"], ["a"]), node("Flatten", ["a"], ["h"], axis=2), *LINEAR]
    assert refused([*moved, node("Neg", ["a"], ["z"])], 3, outputs=("y", "z")) == {"m": "other-reader"}


def test_layers_that_share_an_input_and_weights_are_shifted_together():
    nodes = [
        node("LayerNormalization", ["in", "g", "s"], ["h"]), node("MatMul", ["h", "w"], ["q"]), node("Add", ["q", "b"], ["y"]),
        node("MatMul", ["h", "w"], ["r"]), node("Add", ["b2", "r"], ["z"]), node("Add", ["y", "s"], ["v"]),
        node("Shape", ["h"], ["size"]), node("Reshape", ["v", "size"], ["u"]),
    ]  # fmt: skip
    for one in nodes:
        one.name = ""
    model = made(nodes, 3, {**NORM, "b2": normal(WIDTH, seed=3)}, outputs=("u", "z"))
    twin, context = shifted(model, 3)
    assert len(context.journal.of("changed")) == 2 and ops(twin) == ops(model)
    # what others read of the same constants stays
    (other,) = [one for one in twin.nodes if one.outputs[0].name == "v"]
    assert other.inputs[1].name == "s"


def skewed() -> tuple[Model, list[dict[str, np.ndarray]]]:
    """A SiLU before a convolution whose weights INT8 rounds."""
    model = made([*GATE, *CONV], 4, {"k": normal(WIDTH, WIDTH, 1, 1, seed=7)})
    return model, inputs(4)


def test_the_rounding_of_weights_does_not_move_the_mean():
    model, samples = skewed()
    twin, context = shifted(model, 4)
    data = context.provider.data
    quantized = twin.copy()
    journal = Context(provider=Calibrator(data, method="minmax"))
    InsertQDQ()(quantized, journal)
    assert {e.by for e in journal.journal.of("changed") if e.rule == "mean-shift"} == {"insert_qdq"}
    feed = {"in": np.concatenate([one["in"] for one in samples])}
    (wanted,), (found,) = run(model, feed), run(quantized, feed)
    offset = np.abs((found - wanted).mean(axis=(0, 2, 3)))
    assert offset.max() < 0.01
    # it is made up for: bias correction finds nothing left to correct
    after = quantized.copy()
    CorrectBias(only_if_better=False)(after, journal)
    (again,) = run(after, feed)
    assert np.abs(again - found).max() < 0.01


def test_a_search_sees_the_corrected_bias():
    model, samples = skewed()
    twin, _ = shifted(model, 4)
    sim = simulation(twin, samples)
    assert sim.without([]).noise == pytest.approx(noise_of_real_pairs(sim, twin, []), rel=1e-4)
    assert sim.without(["y"]).noise == 0


def test_the_plan_of_a_search_that_shifts_has_the_corrected_bias():
    model, samples = skewed()
    context = Context(provider=Calibrator(CalibrationData.open(samples, model), method="minmax"))
    SearchPrecision(helpers=["shift"], min_sqnr_db=200.0, try_ranges=False)(model.copy(), context)
    (tried,) = said(context.journal, Code.SEARCH_HELPER)
    assert tried["applied"] and tried["after_db"] > tried["before_db"] + 3
    twin = model.copy()
    context = Context(provider=Calibrator(CalibrationData.open(samples, model), method="minmax"))
    SearchPrecision(helpers=["shift"], min_sqnr_db=tried["before_db"] + 1, margin=0, try_ranges=False)(twin, context)
    assert "mean-shift" in {event.why.code.value for event in context.journal.of("changed")}
    assert sqnr_against(model, twin, CalibrationData.open(samples, model)) == pytest.approx(tried["after_db"], abs=0.2)


def test_a_search_keeps_a_shift_that_a_worse_layer_hides():
    model = made([*GATE, node("Conv", ["h", "k", "b"], ["m"]), node("Conv", ["m", "k2"], ["y"])], 4,
                 {"k2": normal(WIDTH, WIDTH, 1, 1, seed=9)})  # fmt: skip
    damage(model, "y")
    context = Context(provider=Calibrator(CalibrationData.open(inputs(4), model), method="minmax"))
    SearchPrecision(helpers=["shift"], min_sqnr_db=25.0, try_ranges=False)(model, context)
    (tried,) = said(context.journal, Code.SEARCH_HELPER)
    assert tried["after_db"] < tried["before_db"] + 1 and tried["applied"]
    assert tried["layers"] == 1 and tried["alone_db"] > tried["alone_before_db"] + 3


TWO = [
    node("Conv", ["in", "k3"], ["a"]), node("HardSwish", ["a"], ["h"]), node("Conv", ["h", "k", "b"], ["m"]),
    node("HardSwish", ["m"], ["g"]), node("Conv", ["g", "k2", "b"], ["y"]),
]  # fmt: skip
WIDE = np.r_[300.0, np.ones(WIDTH - 1)].astype(np.float32).reshape(-1, 1)
"""Two layers after activations, the second of which reads a channel that is far wider than the others."""


def two_layers() -> Model:
    kernels = {"k": SIGNS * WIDE, "k2": SIGNS / WIDE.T, "k3": SIGNS}
    weights = {name: values.reshape(WIDTH, WIDTH, 1, 1) for name, values in kernels.items()}
    return made(TWO, 4, weights)


def test_the_input_of_a_layer_that_the_plan_keeps_float_is_left_alone():
    model = two_layers()
    context = Context(
        provider=Calibrator(CalibrationData.open(inputs(4), model), method="minmax"), judges_helpers=False
    )
    context.plan.ask("y", Precision.FP16, "asked for")
    twin = model.copy()
    Shift()(twin, context)
    assert {event.node for event in context.journal.of("changed")} == {"m"}
    assert [event.rule for event in context.journal.of("declined") if event.node == "y"] == ["kept"]
    assert ops(twin) == {**ops(model), "Add": 1}


@pytest.mark.parametrize("rest", ["fp16", "fp32"])
def test_a_search_shifts_only_what_its_plan_quantizes(rest):
    model = two_layers()
    context = Context(
        provider=Calibrator(CalibrationData.open(inputs(4), model), method="minmax"), rest=Precision(rest)
    )
    before = model.copy()
    SearchPrecision(helpers=["shift"], min_sqnr_db=36.0, try_ranges=False)(model, context)
    (tried,) = said(context.journal, Code.SEARCH_HELPER)
    (found,) = said(context.journal, Code.SEARCH_SUMMARY)
    assert tried["applied"] and found["kept"] == 1, (tried, found)
    assert context.plan.get("y").precision is Precision(rest)
    shifts = [e.node for e in context.journal.of("changed") if e.what.code is Code.SHIFTED]
    assert shifts == ["m"] and ops(model)["Add"] == ops(before).get("Add", 0) + 1
    # the ranges that the run keeps are those of this form
    known = context.known_ranges.tensors["g"].amax
    seen = session(before, outputs=["g"])
    assert known == pytest.approx(max(float(abs(seen.run(one)["g"]).max()) for one in inputs(4)), rel=1e-5)
    data = CalibrationData.open(inputs(4), before)
    assert sqnr_against(before, model, data) > 36


def test_scaled_channels_keep_their_means():
    model, samples = skewed()
    twin, _ = shifted(model, 4)
    data = CalibrationData.open(samples, model)
    context = Context(provider=Calibrator(data, method="minmax"))
    Smooth(least=1.0, only_if_better=False)(twin, context)
    InsertQDQ()(twin, context)
    feed = {"in": np.concatenate([one["in"] for one in samples])}
    (wanted,), (found,) = run(model, feed), run(twin, feed)
    assert np.abs((found - wanted).mean(axis=(0, 2, 3))).max() < 0.01


def test_without_its_pairs_a_layer_has_the_bias_that_it_had_before_and_is_corrected_again_with_new_ones():
    model, samples = skewed()
    twin, context = shifted(model, 4)
    feed = {"in": np.concatenate([one["in"] for one in samples])}
    paired = twin.copy()
    InsertQDQ()(paired, Context(provider=context.provider))
    stripped = paired.copy()
    StripQDQ()(stripped, Context(provider=context.provider))
    np.testing.assert_allclose(run(stripped, feed)[0], run(twin, feed)[0], atol=1e-5)
    InsertQDQ()(stripped, Context(provider=context.provider))
    np.testing.assert_allclose(run(stripped, feed)[0], run(paired, feed)[0], atol=1e-5)


def test_a_note_that_does_not_fit_is_ignored():
    model, samples = skewed()
    for text in ("[1, 2]", "nonsense", "[NaN, 1, 1, 1, 1, 1, 1, 1]", "{}"):
        twin = model.copy()
        twin.metadata["y"] = {"qtool.input_mean": text}
        context = Context(provider=Calibrator(CalibrationData.open(samples, model), method="minmax"))
        InsertQDQ()(twin, context)
        assert "mean-shift" not in {e.rule for e in context.journal.of("changed")}
        twin.metadata["y"] = {"qtool.corrected_mean": text}
        CorrectBias()(twin, Context(provider=context.provider))
        StripQDQ()(twin, Context(provider=context.provider))
        # the correction that CorrectBias measured is undone, and so are its notes
        assert twin.metadata["y"] == {"qtool.corrected_mean": text}
        feed = {"in": np.concatenate([one["in"] for one in samples])}
        np.testing.assert_allclose(run(twin, feed)[0], run(model, feed)[0], atol=1e-5)


def test_a_layers_own_noise_is_that_with_the_corrected_bias():
    model, samples = skewed()
    twin, _ = shifted(model, 4)
    sim = simulation(twin, samples)
    (local,) = measure(sim, ["y"]).values()
    assert local.both == pytest.approx(sim.without([]).sqnr_db, abs=2)
