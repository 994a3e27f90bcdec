"""Whether an engine's inner values are those of the pairs or of float: told tensor by tensor, from its own values."""

from __future__ import annotations

import numpy as np
import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal, placeholder_context
from toolkit import Model
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.node_errors.opened_values import AS_FLOAT, AS_QUANTIZED, UNTOLD, OpenedAccumulator
from toolkit.graph.sessions.session import session
from toolkit.placement.qdq import bypass

INNER = ["m0", "s", "m1", "r", "m2"]


def models():
    """matmul - softmax - matmul - relu - matmul - relu, and the same with pairs on every matmul."""
    weights = {f"w{i}": normal(32, 32, seed=i) for i in range(3)}
    source = Model.from_proto(build(
        [
            node("MatMul", ["x", "w0"], ["m0"]), node("Softmax", ["m0"], ["s"]), node("MatMul", ["s", "w1"], ["m1"]),
            node("Relu", ["m1"], ["r"]), node("MatMul", ["r", "w2"], ["m2"]), node("Relu", ["m2"], ["y"]),
        ],
        {"x": ["n", 32]}, {"y": ["n", 32]}, weights,
    ))  # fmt: skip
    simulation = source.copy()
    InsertQDQ()(simulation, placeholder_context())
    return source, simulation


def only(simulation, *quantized):
    """The simulation with the pairs of no other matmul."""
    model = simulation.copy()
    for one in list(model.nodes):
        if one.op == "MatMul" and one.name not in quantized:
            bypass(one)
    model.tidy()
    return model


def told(source, simulation, engine, tensors=INNER, spoil=None):
    comparison = OpenedAccumulator(source, simulation, tensors)
    held = session(engine, [name for name in tensors if name in comparison.tensors])
    for seed in range(3):
        inputs = {"x": normal(4, 32, seed=seed, scale=0.2)}
        values = {name: value.astype(np.float16) for name, value in held.run(inputs).items()}
        comparison.add(inputs, spoil(values) if spoil else values)
    return comparison, comparison.result()


@pytest.mark.parametrize("quantized", [(), ("m0",), ("m1",), ("m2",), ("m0", "m2"), ("m0", "m1", "m2")])
def test_each_product_is_told_by_itself_whatever_came_before(quantized):
    source, simulation = models()
    _, found = told(source, simulation, only(simulation, *quantized))
    for name in ("m0", "m1", "m2"):
        assert found[name]["verdict"] == (AS_QUANTIZED if name in quantized else AS_FLOAT), (name, found[name])
    assert {found[name]["verdict"] for name in ("s", "r")} == {UNTOLD}
    assert all(found[name]["why"] == EvaluationCode.NO_PAIR_BETWEEN() for name in ("s", "r"))


def test_measured_figures_are_against_the_float_model():
    source, simulation = models()
    _, quantized = told(source, simulation, simulation)
    _, plain = told(source, simulation, source)
    for name in INNER:
        assert plain[name]["simulated"] == quantized[name]["simulated"]
        assert quantized[name]["engine"]["sqnr_db"] == pytest.approx(plain[name]["simulated"]["sqnr_db"], abs=0.5)
        assert plain[name]["engine"]["sqnr_db"] > 60 > plain[name]["simulated"]["sqnr_db"]
        assert plain[name]["engine"]["max_abs"] > 0
    assert quantized["m1"]["to_quantized_db"] > quantized["m1"]["to_float_db"] + 6


def test_values_between_both_forms_are_not_told():
    source, simulation = models()
    held = session(only(simulation, "m0"), ["m0"]), session(source, ["m0"])
    comparison = OpenedAccumulator(source, simulation, ["m0"])
    inputs = {"x": normal(4, 32, scale=0.2)}
    a, b = (one.run(inputs)["m0"] for one in held)
    comparison.add(inputs, {"m0": (a + b) / 2})
    found = comparison.result()["m0"]
    assert found["verdict"] == UNTOLD and found["why"] == EvaluationCode.NEITHER_FORM_NEARER(db=6.0)


def test_nan_and_wrong_shapes_and_unknown_tensors_are_no_verdicts():
    source, simulation = models()

    def spoil(values):
        return {**values, "m1": np.where(np.arange(32) == 3, np.float16(np.nan), values["m1"]), "m2": values["m2"][:1]}

    comparison, found = told(source, simulation, simulation, [*INNER, "gone"], spoil)
    assert comparison.lacking == ["gone"] and "m2" not in found
    assert (
        found["m1"]["verdict"] == UNTOLD
        and found["m1"]["why"] == EvaluationCode.VALUES_NOT_COMPARABLE()
        and found["m1"]["to_float_db"] is None
    )
    assert found["m1"]["engine"] == {"sqnr_db": None, "max_abs": None}
    assert found["m0"]["verdict"] == AS_QUANTIZED


def test_a_tensor_that_the_float_model_lacks_is_told_without_an_error_of_its_own():
    source, simulation = models()
    next(n for n in source.nodes if n.name == "m1").outputs[0].name = "another"
    _, found = told(source, simulation, simulation)
    assert found["m1"]["engine"] is None and found["m1"]["simulated"] is None
    assert found["m1"]["verdict"] == AS_QUANTIZED and found["m2"]["engine"]["sqnr_db"] is not None
