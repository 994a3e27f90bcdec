from __future__ import annotations

import numpy as np
import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal, placeholder_context
from tests.passes.test_insert_qdq import reads_pair
from toolkit import Code, Model


def patches(channels=3, kernel=4, stride=4, after="LayerNormalization"):
    """A convolution that cuts a picture, its patches as rows, and a product that reads them through one operator more."""
    weights = {"w": normal(8, channels, kernel, kernel), "m": normal(8, 5), "rows": np.array([1, 8, -1]),
               "gain": np.ones(8, np.float32)}  # fmt: skip
    norm = [node("LayerNormalization", ["t", "gain"], ["n"], axis=-1)]
    parts = [node("Conv", ["x", "w"], ["c"], strides=[stride] * 2, kernel_shape=[kernel] * 2),
             node("Reshape", ["c", "rows"], ["r"]), node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
             *(norm if after == "LayerNormalization" else [node(after, ["t"], ["n"])]),
             node("MatMul", ["n", "m"], ["y"])]  # fmt: skip
    return Model.from_proto(build(parts, {"x": [1, channels, 8, 8]}, {"y": None}, weights))


@pytest.mark.parametrize(
    ("changes", "float_"),
    [({}, True), ({"channels": 8}, False), ({"stride": 2}, False), ({"kernel": 1, "stride": 1}, False), ({"after": "Relu"}, False)],
)  # fmt: skip
def test_a_convolution_that_cuts_a_picture_for_a_float_reader_stays_float(changes, float_):
    model, context = patches(**changes), placeholder_context()
    InsertQDQ()(model, context)
    declined = {event.node: event.why for event in context.journal.of("declined")}
    assert declined == ({"c": Code.PATCHES(channels=3, padded=32)} if float_ else {})
    assert reads_pair(model, "c", 0) is not float_ and reads_pair(model, "y", 0)


def test_in_another_type_it_is_judged_by_nothing_of_this():
    model = patches()
    InsertQDQ(dtype="fp8")(model, placeholder_context())
    assert reads_pair(model, "c", 0)
