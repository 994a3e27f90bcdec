from __future__ import annotations

import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal, placeholder_context
from tests.passes.test_insert_qdq import reads_pair
from toolkit import Code, Model, Ranges
from toolkit.contract.ranges import Range


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("beside", [True, False])
def test_a_nearest_resize_beside_a_quantized_layer_reads_its_pair_at_one_scale(mode, beside):
    """A pyramid's way down: a head reads what is upsampled and joined. The size is computed, and gets no pair."""
    head = [node("Conv", ["a", "w"], ["h"])] if beside else [node("Relu", ["a"], ["h"])]
    model = Model.from_proto(build(
        [node("Conv", ["x", "w"], ["a"]), *head, node("Conv", ["z", "w"], ["b"]), node("Shape", ["b"], ["size"]),
         node("Resize", ["a", "", "", "size"], ["u"], mode=mode), node("Concat", ["u", "b"], ["c"], axis=1),
         node("Conv", ["c", "w1"], ["y"])],
        {"x": [1, 4, 3, 3], "z": [1, 4, 6, 6]}, {"y": None, "h": None},
        {"w": normal(4, 4, 1, 1), "w1": normal(4, 8, 1, 1, seed=1)},
    ))  # fmt: skip
    amax = {"x": 1.0, "z": 1.0, "a": 2.0, "u": 2.0, "b": 5.0, "c": 5.0}
    context = placeholder_context(known_ranges=Ranges({n: Range(v, "minmax") for n, v in amax.items()}))
    InsertQDQ()(model, context)
    shared = beside and mode == "nearest"
    assert reads_pair(model, "u", 0) is shared and not reads_pair(model, "u", 3)
    if beside:
        scale = model.constant(model.node("h").inputs[0].inputs[0].inputs[1]).item()
        assert scale == pytest.approx((5 if shared else 2) / 127, rel=1e-3)
    if shared:
        reason = context.plan.get("u").reason
        assert reason.code is Code.SHARED_POOL_INPUT and reason.values["op"] == "Resize"
