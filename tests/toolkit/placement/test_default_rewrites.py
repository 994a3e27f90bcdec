from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import onnx
import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal, placeholder_context
from toolkit import Code, Journal, Model, Precision
from toolkit.backends.lowering.strong import lower
from toolkit.base.errors import ModelError
from toolkit.data.dataset import CalibrationData
from toolkit.evaluation import default_optimizations
from toolkit.evaluation import evaluate as evaluating
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.default_optimizations import changed_layers, defaults_fault, sums_saturate
from toolkit.evaluation.evaluate import evaluate
from toolkit.graph.large_models import cutting
from toolkit.graph.sessions import session as sessions
from toolkit.graph.sessions.session import session
from toolkit.placement.default_rewrites import rewritten, split_large_biases


def linear():
    """MatMul and Add, then a Gemm, each with a bias of 10,000 steps and more of its inputs' and weights' scales."""
    weights = {"w1": normal(16, 16, scale=0.01), "b1": normal(16, seed=1), "w2": normal(16, 16, seed=2, scale=0.01),
               "b2": normal(16, seed=3), "w3": normal(16, 4, seed=4, scale=0.01), "b3": normal(4, seed=5)}  # fmt: skip
    nodes = [node("MatMul", ["x", "w1"], ["m"]), node("Add", ["m", "b1"], ["a"]), node("Relu", ["a"], ["r"]),
             node("Gemm", ["r", "w2", "b2"], ["g"]), node("Gemm", ["g", "w3", "b3"], ["y"])]  # fmt: skip
    return Model.from_proto(build(nodes, {"x": ["N", 16]}, {"y": ["N", 4]}, weights))


def convolutions(bias):
    weights = {"w1": normal(8, 3, 3, 3, scale=0.01), "b1": np.full(8, bias, np.float32), "w2": normal(4, 8, 1, 1)}
    nodes = [node("Conv", ["x", "w1", "b1"], ["c"]), node("Relu", ["c"], ["r"]), node("Conv", ["r", "w2"], ["y"])]
    return Model.from_proto(build(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", 4, 6, 6]}, weights))


def joined(blocks=1):
    """Two convolutions of one tensor, joined before a third, again and again."""
    weights, nodes, before = {"w3": normal(4, 8, 1, 1)}, [], "x"
    weights |= {name: normal(4, 4, 1, 1, seed=seed) for seed, name in enumerate(("w1", "w2"))}
    for i in map(str, range(blocks)) if blocks > 1 else [""]:
        nodes += [
            node("Conv", [before, "w1"], [f"a{i}"]), node("Conv", [before, "w2"], [f"b{i}"]),
            node("Concat", [f"a{i}", f"b{i}"], [f"j{i}"], axis=1), node("Conv", [f"j{i}", "w3"], [before := f"y{i}"]),
        ]  # fmt: skip
    nodes[-1].output[0] = "y"
    return Model.from_proto(build(nodes, {"x": ["N", 4, 4, 4]}, {"y": ["N", 4, 4, 4]}, weights))


def lowered(model, rest=Precision.FP16, amax=4.0, journal=None):
    context = placeholder_context(amax)
    InsertQDQ()(model, context)
    return lower(model, context.plan, rest=rest, journal=journal).model


def notes(reference, subject, x):
    found = evaluate(reference, subject, CalibrationData.open([{"x": one[None]} for one in x], reference))
    return [
        note for note in found.notes if note.code in (EvaluationCode.DEFAULTS_CHANGE, EvaluationCode.DEFAULTS_REFUSE)
    ]


def test_linear_layers_compute_the_same_by_default():
    journal, x = Journal(), normal(8, 16)
    model = lowered(linear(), journal=journal)
    assert [event.node for event in journal if event.what and event.what.code is Code.BIAS_AS_ROW] == ["a", "g"]
    assert rewritten(model) == []
    written, default = (session(model, as_written=kind).run({"x": x})["y"] for kind in (True, False))
    np.testing.assert_array_equal(written, default)


def test_float32_biases_stay_as_they_are():
    journal = Journal()
    model = lowered(linear(), Precision.FP32, journal=journal)
    assert [event for event in journal if event.what and event.what.code is Code.BIAS_AS_ROW] == []
    assert rewritten(model) == []


@pytest.mark.parametrize(("bias", "named"), [(0.05, []), (200.0, ["c"])])
def test_a_convolution_whose_bias_float16_steps_cannot_count_is_named(bias, named):
    float_model, x = convolutions(bias), normal(4, 3, 8, 8)
    model = lowered(convolutions(bias), amax=4.0 + bias)
    assert rewritten(model) == named
    found = notes(float_model, model, x)
    assert [one.code for one in found] == [EvaluationCode.DEFAULTS_CHANGE] * len(named)
    for one in found:
        assert one.values["sqnr_db"] < 10 < one.values["written_db"]


@pytest.mark.parametrize(("bias", "named"), [(0.05, []), (200.0, ["c"])])
def test_the_layer_at_which_values_change_is_found(bias, named):
    """The layers after it change too, since they read what it computes."""
    model = lowered(convolutions(bias), amax=4.0 + bias)
    assert changed_layers(model, [{"x": normal(2, 3, 8, 8)}]) == named


@pytest.mark.parametrize("last", [True, False])
def test_every_layer_is_found_whose_result_stays_in_float(last):
    """Without VNNI sums of two products end at 32,767: the first and third layer pass that, the second does not.

    The inner shapes that the file declares are of another batch, and the third layer's result may be an output itself.
    """
    weights = {"w1": np.ones((16, 16), np.float32), "w2": np.eye(16, dtype=np.float32), "w3": normal(16, 16).clip(0.9)}
    nodes, before = [], "x"
    for place in "123":
        nodes += [node("MatMul", [before, f"w{place}"], [f"m{place}"], f"layer {place}")]
        nodes += [node("Sigmoid", [f"m{place}"], [before := f"s{place}"])]
    nodes, end = (nodes[:-1], "m3") if last else (nodes, "s3")
    proto = build(nodes, {"x": ["N", 16]}, {end: ["N", 16]}, weights)
    proto.graph.value_info.extend(onnx.helper.make_tensor_value_info(name, 1, [1, 16]) for name in ("m1", "m2"))
    model = Model.from_proto(proto)
    InsertQDQ()(model, placeholder_context(1.0))
    found = changed_layers(model, [{"x": np.ones((2, 16), np.float32)}])
    assert found == (["layer 1", "layer 3"] if sums_saturate() else [])


def test_few_samples_are_looked_at_as_long_as_most_of_them_decide(monkeypatch):
    """With 8 samples, the first alone decided, which may be the one that a wrong rewrite does not change."""
    reference, subject = convolutions(200.0), lowered(convolutions(200.0), amax=204.0)
    looked_at, real = [], default_optimizations.defaults_fault

    def watching(subject, outputs, *more):
        looked_at.append(len(outputs))
        return real(subject, outputs, *more)

    monkeypatch.setattr(evaluating, "defaults_fault", watching)
    for count, looked in ((2, 2), (8, 5), (200, 6)):
        assert notes(reference, subject, normal(count, 3, 8, 8))
        assert looked_at.pop() == looked


def test_samples_after_the_third_that_shows_the_fault_are_not_run(monkeypatch):
    runs, real = [], default_optimizations.run_on
    monkeypatch.setattr(default_optimizations, "run_on", lambda *given: (runs.append(given), real(*given))[1])
    one = {"x": normal(1, 3, 8, 8)}
    for bias, shown, count in ((0.05, False, 5), (200.0, True, 3)):
        subject = lowered(convolutions(bias), amax=4.0 + bias)
        outputs = [session(model).run(one) for model in (convolutions(bias), subject)]
        runs.clear()
        found = defaults_fault(subject, [(one, outputs)] * 5, {"y": "y"})
        assert (found is not None, len(runs)) == (shown, count)
        assert (defaults_fault(subject, [(one, outputs)], {"y": "y"}) is not None) is shown


@pytest.mark.parametrize(("wrong", "shown"), [([0], False), ([2], False), ([0, 1], False), ([0, 1, 3], True)])
def test_a_decision_that_rounding_reverses_on_a_few_samples_is_no_fault(monkeypatch, wrong, shown):
    """As of a row that a model selects: a wrong rewrite changes most samples, whichever comes first."""
    wanted = [normal(1, 40, seed=seed) for seed in range(5)]
    written = [one + normal(1, 40, seed=9, scale=0.03) for one in wanted]
    by_default = [{"y": one + 0.9 * (place in wrong)} for place, one in enumerate(written)]
    monkeypatch.setattr(default_optimizations, "session", lambda *given, **more: None)
    monkeypatch.setattr(default_optimizations, "run_on", lambda loaded, inputs, named: by_default[inputs["place"]])
    samples = [({"place": place}, ({"y": a}, {"y": b})) for place, (a, b) in enumerate(zip(wanted, written))]
    found = defaults_fault(convolutions(0.05), samples, {"y": "y"})
    assert (found is not None) is shown


def test_of_many_nodes_the_float_session_is_gone_when_the_default_one_is_loaded(monkeypatch):
    monkeypatch.setattr(sessions, "MOST_NODES", 4)
    reference = joined(3).settle()
    opened, alive = weakref.ref(sessions.own_session(reference)), []

    def load(*given, **more):
        if more.get("as_written") is False:
            alive.append(opened() is not None)
        return session(*given, **more)

    monkeypatch.setattr(default_optimizations, "session", load)
    (found,) = notes(reference, lowered(joined(3)), normal(4, 4, 4, 4))
    assert found.code is EvaluationCode.DEFAULTS_REFUSE
    assert alive == [False]


def test_a_concatenation_between_pairs_is_refused_in_float16_alone():
    x = normal(4, 4, 4, 4)
    (found,) = notes(joined(), lowered(joined()), x)
    assert found.code is EvaluationCode.DEFAULTS_REFUSE
    assert found.values["nodes"] == ("j",)
    assert notes(joined(), lowered(joined(), Precision.FP32), x) == []


def test_a_model_of_many_nodes_is_loaded_in_partitions_and_refused_for_the_same_reason(monkeypatch):
    x, model = normal(4, 4, 4, 4), lowered(joined(blocks=4))
    (whole,) = notes(joined(blocks=4), model, x)
    with_default = []
    real = sessions.load_session

    def loaded(part, *settings):
        with_default.append(len(part.proto.graph.node))
        return real(part, *settings)

    monkeypatch.setattr(sessions, "MOST_NODES", 20)
    monkeypatch.setattr(sessions, "_PARTITION_NODES", 20)
    monkeypatch.setattr(sessions, "load_session", loaded)
    # as in a graph of very many nodes, whose convolutions hand on nothing in blocked layout
    monkeypatch.setattr(cutting, "MOST_BLOCKED", 0)
    with pytest.raises(ModelError, match="Concat"):
        session(model, as_written=False)
    assert max(with_default) <= 30 < len(model.nodes)
    (cut,) = notes(joined(blocks=4), model, x)
    assert (cut.code, cut.values["nodes"]) == (whole.code, whole.values["nodes"])
    assert whole.values["nodes"] == ("j0", "j1", "j2", "j3")


def test_a_bias_beyond_the_steps_of_its_scales_is_moved_apart():
    scale, zero = np.float32(1e-6), np.int8(0)
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("DequantizeLinear", ["w", "s", "z"], ["dw"]), node("Conv", ["d", "dw", "b"], ["c"]),
        node("QuantizeLinear", ["c", "s", "z"], ["qc"]), node("DequantizeLinear", ["qc", "s", "z"], ["y"]),
    ]  # fmt: skip
    weights = {"s": scale, "z": zero, "w": np.ones((2, 3, 1, 1), np.int8), "b": np.array([1e3, -2e3], np.float32)}
    model = Model.from_proto(build(nodes, {"x": [1, 3, 2, 2]}, {"y": [1, 2, 2, 2]}, weights))
    before = session(model.copy()).run({"x": normal(1, 3, 2, 2)})["y"]
    assert rewritten(model)
    (conv,) = [n.name for n in model.nodes if n.op == "Conv"]
    assert split_large_biases(model) == [conv]
    assert not rewritten(model) and [n.op for n in model.nodes].count("Add") == 1
    onnx.checker.check_model(onnx.load_from_string(model.to_bytes()), full_check=True)
    np.testing.assert_array_equal(session(model).run({"x": normal(1, 3, 2, 2)})["y"], before)


def test_whether_integer_sums_saturate_follows_from_the_processor():
    """Not on one with VNNI: AVX-VNNI or AVX-512's, of x86."""
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    if "avx2" not in flags:
        pytest.skip("the processor's instructions are not known to be those of x86 with AVX2")
    assert sums_saturate() is not bool({"avx_vnni", "avx512_vnni"} & set(flags))
