"""Padding with zeros that is taken for a part of the convolution after it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, normal
from toolkit import Model
from toolkit.calibration.collect import collect
from toolkit.calibration.histogram import Histogram
from toolkit.calibration.tapped import Tapped
from toolkit.data.dataset import CalibrationData
from toolkit.graph.layers.zero_pads import ZeroPad, zero_pads
from toolkit.graph.sessions.session import session
from toolkit.simulation.channels import collect_channels
from toolkit.simulation.layer_inputs import collect_rows_by_sample

PADS = (0, 0, 0, 1, 0, 0, 2, 1)
AROUND = ((0, 0), (0, 0), (0, 2), (1, 1))


def padded(value: float | None = 0.0, pads: tuple[int, ...] = PADS, other: bool = False, **attrs: object) -> Model:
    """Conv, Pad and Conv; with ``other`` the padded tensor has another reader."""
    sizes = {"sizes": np.asarray(pads, np.int64)} | ({"value": np.float32(value)} if value is not None else {})
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("Pad", ["r", *sizes], ["p"], **attrs),
        node("Conv", ["p", "v"], ["y"], pads=[0, 1, 1, 0], strides=[1, 2], group=16),
        *([node("Neg", ["p"], ["z"])] if other else []),
    ]
    weights = {"w": normal(16, 3, 3, 3, seed=1), "v": normal(16, 1, 3, 3, seed=2), **sizes}
    return Model.from_proto(build(nodes, {"x": ["n", 3, 8, 9]}, {"y": None} | ({"z": None} if other else {}), weights))


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (padded(), {"p": ZeroPad("r", PADS)}),
        (padded(None), {"p": ZeroPad("r", PADS)}),
        (padded(1.0), {}),
        (padded(mode="edge"), {}),
        (padded(pads=(0, 1, 0, 1, 0, 0, 2, 1)), {}),
        (padded(pads=(0, 0, -1, 1, 0, 0, 2, 1)), {}),
        (padded(other=True), {}),
    ],
)
def test_a_tensor_padded_with_zeros_for_one_convolution_is_found(model, found):
    assert zero_pads(model, ["p", "r", "y"]) == found
    assert not zero_pads(model, ["r", "y"])


def test_other_tensors_with_zeros_added_are_computed_as_they_are():
    """A weight, which onnxruntime does not pad within the convolution, and a scalar, which has no axis to pad."""
    nodes = [
        node("Pad", ["k", "sizes"], ["p"]), node("Conv", ["x", "p"], ["c"]), node("ReduceMax", ["c"], ["m"], keepdims=0),
        node("Pad", ["m", "none"], ["s"]), node("Mul", ["c", "s"], ["y"]),
    ]  # fmt: skip
    constants = {"sizes": np.asarray(PADS, np.int64), "none": np.zeros(0, np.int64)}
    model = Model.from_proto(build(nodes, {"x": ["n", 3, 8, 9], "k": [4, 3, 1, 1]}, {"y": None}, constants))
    assert not zero_pads(model, ["p", "s"])


def test_values_before_the_padding_are_counted_with_its_zeros():
    model = padded()
    feeds = [{"x": normal(1, 3, 8, 9, seed=seed)} for seed in range(6)]
    data = CalibrationData.open(feeds, model)
    found = collect(model, ["c", "p"], data, data.profiles, batch=4).total("p")
    wanted = Histogram(found.bins)
    for feed in feeds:
        (before,) = session(model, ["r"]).run(feed).values()
        wanted.add(np.pad(before, AROUND))
    assert found == wanted and found.zeros > 6 * 16 * (10 * 11 - 8 * 9)
    # the padded tensor itself is not computed, which would keep the padding apart from the convolution
    assert list(Tapped.of(model, model.facts(), ["p"], [], 64, None).computed.values()) == ["r"]


def test_statistics_by_channel_of_a_padded_tensor_are_those_of_all_its_values():
    model = padded()
    feeds = [{"x": normal(1, 3, 8, 9, seed=seed)} for seed in range(5)]
    found = collect_channels(model, {"p": 1, "r": 1}, CalibrationData.open(feeds, model))
    befores = [next(iter(session(model, ["r"]).run(feed).values())) for feed in feeds]
    for name, values in (("r", befores), ("p", [np.pad(one, AROUND) for one in befores])):
        rows = np.moveaxis(np.concatenate(values), 1, 0).reshape(16, -1)
        assert np.array_equal(found[name].low, rows.min(axis=1)) and np.array_equal(found[name].high, rows.max(axis=1))
        assert found[name].count == rows.shape[1] and np.allclose(found[name].mean, rows.mean(axis=1, dtype=np.float64))


def test_rows_of_a_padded_input_are_those_of_the_padded_tensor():
    model, other = padded(), padded(other=True)
    feeds = [{"x": normal(1, 3, 8, 9, seed=seed)} for seed in range(3)]
    rows = []
    for one in (model, other):
        layer = one.node("y")
        data = CalibrationData.open(feeds, one)
        rows.append(collect_rows_by_sample(one, [layer], {"y": (16, 1, 3, 3)}, data, 3, 300)["y"])
    assert rows[0].keys() == rows[1].keys() == {0, 1, 2}
    assert all(np.array_equal(rows[0][sample], rows[1][sample]) for sample in rows[0])
