"""Choosing nodes: what has no effect is refused, whichever setting chooses."""

from __future__ import annotations

import pytest

from passes.insert_qdq import InsertQDQ
from passes.keep_precision import KeepPrecision
from passes.search_precision import SearchPrecision
from passes.strip_qdq import StripQDQ
from tests import control_flow
from tests.conftest import placeholder_context
from toolkit import Model, choose
from toolkit.base.errors import RecipeError

CHOICES = {
    "a name": ({"exclude": ["fast_conv"]}, "fast_conv"),
    "a glob": ({"exclude": ["fast_*"]}, "fast_*"),
    "layers to quantize": ({"include": ["slow_matmul"]}, "slow_matmul"),
    "an operator": ({"exclude_ops": ["LSTM"]}, "LSTM"),
    "between two tensors": ({"exclude_between": [("t1", "t2")]}, "t1"),
}


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("kind", [InsertQDQ, SearchPrecision])
def test_a_choice_of_nothing_but_nodes_in_bodies_is_refused(kind, name):
    settings, value = CHOICES[name]
    step = kind(**settings)
    with pytest.raises(RecipeError, match="inside the body of an If, Loop or Scan") as error:
        step.settings_judge(Model.from_proto(control_flow.layers_in_branches()))
    assert error.value.value == value and error.value.remedy


@pytest.mark.parametrize("step", [
    KeepPrecision(nodes=["body_conv"], precision="fp32"), KeepPrecision(ops=["Div"]), KeepPrecision(between=[("moved", "next")]),
    StripQDQ(nodes=["body_*"]),
])  # fmt: skip
def test_other_passes_refuse_it_too(step):
    with pytest.raises(RecipeError, match="inside the body of an If, Loop or Scan"):
        step(Model.from_proto(control_flow.conv_in_loop()), placeholder_context())


def test_a_glob_that_reaches_into_a_body_chooses_what_is_outside_too():
    model = Model.from_proto(control_flow.layers_in_branches())
    chosen = choose(model, ["*conv"], ["MatMul"])
    assert {"conv", "fast_conv", "head", "slow_matmul"} <= set(chosen)
