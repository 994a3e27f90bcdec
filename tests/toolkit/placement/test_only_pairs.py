from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.fold_batchnorm import FoldBatchNorm
from passes.insert_qdq import InsertQDQ
from tests import control_flow
from tests.conftest import build, node, normal, placeholder_context
from tests.passes.test_insert_qdq import random_chain
from toolkit import Model
from toolkit.placement.only_pairs import differs_only_in_pairs
from toolkit.placement.qdq import without_pairs


def paired(model: Model) -> Model:
    found = model.copy()
    InsertQDQ()(found, placeholder_context())
    return found


def wires(model: Model) -> dict[str, tuple[list[str], list[str]]]:
    return {one.name: ([t.name for t in one.inputs], [t.name for t in one.outputs]) for one in model.nodes}


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_it_says_what_taking_the_pairs_out_says(data):
    model = Model.from_proto(random_chain(data, 17))
    model.tidy()
    found = paired(model)
    assert differs_only_in_pairs(found, model)
    assert wires(without_pairs(found)) == wires(model)


def test_a_graph_with_bodies():
    model = Model.from_proto(control_flow.layers_in_branches())
    found = paired(model)
    assert differs_only_in_pairs(found, model)
    inside = next(inner for inner, graph in found.walk() if graph is not found.graph and inner.op == "Conv")
    inside.attrs["dilations"] = [2, 2]
    assert not differs_only_in_pairs(found, model)


def changed_attribute(model):
    model.node("c1").attrs["pads"] = [0, 0, 0, 0]


def changed_weight(model):
    constant = model.node("c1").inputs[1].inputs[0].inputs[0].inputs[0].inputs[0]
    constant.values = constant.values.copy()


def another_scale(model):
    quantize = model.node("c1").inputs[1].inputs[0].inputs[0].inputs[0]
    quantize.inputs[1] = quantize.inputs[1].copy()


def another_source(model):
    model.node("a").inputs[0] = model.graph.inputs[0]


def raised_opset(model):
    model.raise_opset(19)


@pytest.mark.parametrize("change", [changed_attribute, changed_weight, another_scale, another_source, raised_opset])
def test_anything_else_that_was_changed_is_seen(residual, change):
    found = paired(residual)
    assert differs_only_in_pairs(found, residual)
    change(found)
    assert not differs_only_in_pairs(found, residual)


def test_a_model_with_pairs_of_its_own_is_not_told(residual):
    found = paired(residual)
    assert not differs_only_in_pairs(found, found)


def test_a_folded_node_is_seen():
    stored = {"w": normal(4, 3, 3, 3), **{n: np.ones(4, np.float32) for n in ("g", "b", "m", "v")}}
    nodes = [node("Conv", ["x", "w"], ["c"]), node("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"])]
    model = Model.from_proto(build(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 4, 6, 6]}, stored))
    found = model.copy()
    FoldBatchNorm()(found, placeholder_context())
    assert not differs_only_in_pairs(paired(found), model)
