"""Items of a data set that lack the axis of samples: it is added where all inputs lack it, else said what to write."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, normal
from toolkit import CalibrationData, Model
from toolkit.base.errors import DataError


def model(**inputs):
    nodes = [node("Gemm", [name, f"w_{name}"], [f"y_{name}"]) for name in inputs]
    weights = {f"w_{name}": normal(size, 3) for name, size in inputs.items()}
    shapes = {name: ["n", size] for name, size in inputs.items()}
    return Model.from_proto(build(nodes, shapes, {f"y_{name}": ["n", 3] for name in inputs}, weights))


def test_items_of_which_all_inputs_lack_the_axis_are_samples():
    """As data sets of Hugging Face yield them."""
    values = normal(4, 12)
    data = CalibrationData.open(({"x": value} for value in values), model(x=12))
    assert np.array_equal(np.concatenate([sample.inputs["x"] for sample in data.samples()]), values)


@pytest.mark.parametrize(("size", "told"), [(12, True), (11, False)])
def test_items_of_which_one_input_has_it_are_told_to_add_it_to_the_other(size, told):
    items = [{"x": value, "beside": normal(1, 2)} for value in normal(4, size)]
    with pytest.raises(DataError) as refused:
        list(CalibrationData.open(items, model(x=12, beside=2)).samples())
    assert ("numpy.expand_dims(value, 0)" in refused.value.remedy) is told
