"""One node of a run, explained from its report and its final graph."""

from __future__ import annotations

import pytest

from tests.toolkit.report.test_join import _join, model
from toolkit.base.errors import QtoolError
from toolkit.contract.ranges import Range, Ranges
from toolkit.report.explain import NodeFacts, explain, explanation_text
from toolkit.report.findings.commands.explanation import kind_of

__all__ = ["model"]


@pytest.fixture
def report(model):
    return _join(model, ranges=Ranges({"x": Range(2.5, "entropy", observed=(-3.0, 2.0))}))


def test_a_quantized_node_with_its_pairs_ranges_and_neighbours(report):
    found = explain(report, "Conv")
    data, weights = found.inputs
    assert (data.tensor, data.pair, data.weights, data.nodes) == ("x", True, False, [])
    assert data.range.amax == 2.5 and data.range.observed == (-3.0, 2.0)
    assert (weights.tensor, weights.pair, weights.weights, weights.shape) == ("w", False, True, [4, 3, 3, 3])
    assert [(one.tensor, one.nodes, one.pair) for one in found.outputs] == [("c", ["Relu"], False)]
    assert found.layer.time_ms == {"one": 0.5} and 0 < found.work_share < 1
    assert 'nodes = [\n    "Conv",\n]' in found.keep
    text = explanation_text(found)
    assert text.startswith("Conv (Conv)\n") and "2.5" in text and "0.5 ms" in text


def test_what_was_declined_and_why_it_runs_in_float(report):
    found = explain(report, "MatMul")
    assert [entry.rule for entry in found.declined] == ["small"]
    assert found.why == report.layers[5].reason and found.layer.error.drop_db == pytest.approx(9)


def test_a_node_that_nobody_asked_about_has_a_reason(report):
    relu = explain(report, "Relu")
    # the engine's word counts where there is one
    assert relu.why == relu.layer.reason
    reshape = explain(report, "Reshape")
    assert reshape.why == reshape.layer.asked.reason and "Reshape" in reshape.why and not reshape.keep


def test_integers_are_not_called_floats_and_what_computes_none_has_no_precision(report):
    reshape = explain(report, "Reshape")
    assert [(one.tensor, one.dtype) for one in reshape.inputs][1][1] == "int64"
    text = explanation_text(reshape)
    assert "int64" in text and "runs in    none" not in text and reshape.layer.asked.reason in text


def test_nodes_that_differ_in_their_reason_alone_share_their_sentences(report):
    (conv,) = [layer for layer in report.layers if layer.node == "Conv"]
    asked = [conv.asked.model_copy(update={"reason": f"for '{name}'"}) for name in "ab"]
    layers = [conv.model_copy(update={"node": one.reason, "asked": one, "reason": ""}) for one in asked]
    known = NodeFacts(report.model_copy(update={"layers": layers}))
    (first, _), (second, _) = (kind_of(known.known(layer)) for layer in layers)
    assert first == second
    assert [layer.asked.reason in known.facts(layer)[0].text for layer in layers] == [True, True]
    # the engine's word is another reason, and what was declined is compared with it
    engine = layers[1].model_copy(update={"reason": "no kernel", "status": "overridden"})
    assert kind_of(known.known(engine))[0] != first and "no kernel" in known.facts(engine)[2].text


@pytest.mark.parametrize(("name", "node"), [("c", "Conv"), ("r", "Relu"), ("y", "MatMul")])
def test_a_tensor_stands_for_the_node_that_makes_it(report, name, node):
    assert explain(report, name).layer.node == node


def test_an_input_names_the_nodes_that_read_it(report):
    with pytest.raises(QtoolError) as caught:
        explain(report, "x")
    assert "'Conv'" in caught.value.remedy and "Quantize" not in caught.value.remedy


@pytest.mark.parametrize("name", ["Conf", "d"])
def test_an_unknown_name_is_refused_with_the_nearest(report, name):
    with pytest.raises(QtoolError) as caught:
        explain(report, name)
    assert name in caught.value.what and ("Conv" in caught.value.remedy or name != "Conf")
