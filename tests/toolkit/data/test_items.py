"""Items of a data set that lack the axis of samples are refused with what to write."""

from __future__ import annotations

import pytest

from tests.conftest import build, node, normal
from toolkit import CalibrationData, Model
from toolkit.base.errors import DataError


@pytest.mark.parametrize(("size", "told"), [(12, True), (11, False)])
def test_items_without_an_axis_of_samples_are_told_to_add_it(size, told):
    """As data sets of Hugging Face yield them."""
    proto = build([node("Gemm", ["x", "w"], ["y"])], {"x": ["n", 12]}, {"y": ["n", 3]}, {"w": normal(12, 3)})
    model = Model.from_proto(proto)
    with pytest.raises(DataError) as refused:
        list(CalibrationData.open(({"x": value} for value in normal(4, size)), model).samples())
    assert ("numpy.expand_dims(value, 0)" in refused.value.remedy) is told
    added = CalibrationData.open([{"x": value[None]} for value in normal(4, 12)], model)
    assert sum(batch.count for batch in added.batches(4)) == 4
