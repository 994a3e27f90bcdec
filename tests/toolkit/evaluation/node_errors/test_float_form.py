"""Node errors are against a float model with the same scales: rescaled tensors are exact, not wrong."""

from __future__ import annotations

import numpy as np
import pytest

from passes.insert_qdq import InsertQDQ
from passes.smooth import Smooth
from tests.conftest import build, node, normal
from tests.passes.test_smooth import outliers
from toolkit import Context, Model
from toolkit.calibration.provider import Calibrator
from toolkit.data.dataset import CalibrationData
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.evaluate import evaluate
from toolkit.evaluation.node_errors.float_form import node_reference
from toolkit.graph.sessions.session import session


@pytest.fixture(scope="module")
def prepared():
    """(the source model, its smoothed form with pairs, samples)."""
    source = outliers()
    data = CalibrationData.open([{"x": normal(1, 3, 16, seed=i)} for i in range(16)], source)
    model, context = source.copy(), Context(provider=Calibrator(data, method="minmax"))
    Smooth(measure=False)(model, context)
    InsertQDQ()(model, context)
    return source, model, data


def test_a_rescaled_tensor_is_exact_and_the_quantized_layers_keep_their_error(prepared):
    source, model, data = prepared
    against_source = evaluate(source, model, data).nodes
    found = evaluate(source, model, data, prepared=lambda: model)
    assert against_source["h"].sqnr_db < 10
    assert found.nodes["h"].max_abs == 0
    for layer in ("q", "k"):
        assert found.nodes[layer].sqnr_db == pytest.approx(against_source[layer].sqnr_db, abs=0.2)
        assert 20 < found.nodes[layer].sqnr_db < 60
    assert EvaluationCode.RESCALED_TENSORS_LEFT_OUT not in {note.code for note in found.notes}


def test_where_the_passes_changed_the_function_rescaled_tensors_are_left_out(prepared):
    source, model, data = prepared
    changed = model.copy()
    weight = next(t for t in changed.graph.tensors().values() if t.name.startswith("wq"))
    weight.values = np.asarray(weight.values) * (1 + normal(16, 16, seed=9, scale=0.1))
    found = evaluate(source, changed, data, prepared=lambda: changed)
    assert "h" not in found.nodes and found.nodes["q"].sqnr_db < 30
    assert {"k", "a"} <= set(found.nodes)
    (note,) = [note for note in found.notes if note.code is EvaluationCode.RESCALED_TENSORS_LEFT_OUT]
    assert note.values["tensors"] == ("h",) and note.values["sqnr_db"] < 60
    # the overall accuracy is against the source model whatever the nodes are held against
    assert found.outputs["y"].sqnr_db == pytest.approx(evaluate(source, changed, data).outputs["y"].sqnr_db)


def linear(shift: float, wrong: float) -> Model:
    """Two MatMuls with an Add between; what is taken off the first one's input comes back in the Add."""
    taken, first, second = np.full(8, shift, np.float32), normal(8, 8, seed=1), normal(8, 4, seed=2)
    nodes = [
        node("Sub", ["x", "c"], ["z"]),
        node("MatMul", ["z", "w"], ["h"]),
        node("Add", ["h", "b"], ["a"]),
        node("MatMul", ["a", "v"], ["y"]),
    ]
    weights = {"c": taken, "w": first, "b": taken @ first, "v": second + wrong * normal(8, 4, seed=3)}
    return Model.from_proto(build(nodes, {"x": ["n", 8]}, {"y": ["n", 4]}, weights))


@pytest.mark.parametrize("samples", [6, 40])
def test_a_shifted_tensor_is_left_out_and_no_output_is(samples):
    source, plain = linear(0.0, 0.0), linear(2.0, 0.05)
    data = CalibrationData.open([{"x": normal(1, 8, seed=i) + 1} for i in range(samples)], source)
    reference, left, (note,) = node_reference(source, plain, session(source), data, 4)
    assert reference is source and left == {"z", "h"} and note.values["tensors"] == ("h", "z")


def test_a_model_that_was_not_rescaled_keeps_the_source_and_every_tensor(prepared):
    source, _, data = prepared
    plain = source.copy()
    InsertQDQ()(plain, Context(provider=Calibrator(data, method="minmax")))
    found, before = evaluate(source, plain, data, prepared=lambda: plain), evaluate(source, plain, data)
    assert found.nodes == before.nodes and found.notes == before.notes and set(found.nodes) >= {"h", "q", "k", "a"}
