"""Inputs that share a dimension by name: samples are joined, split and stacked along it wherever it stands."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, normal
from toolkit import CalibrationData, Model
from toolkit.base.errors import DataError
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.data.sample import axes_of, input_specs
from toolkit.graph.sessions.session import session
from toolkit.run.inputs.feeds import Tally, own_rows, samples_of, split

COUNT = 6


@pytest.fixture
def stream():
    """x [N, 4, T] plus the mean of a state [2, N, 4] and a scalar."""
    return Model.from_proto(
        build(
            [
                node("ReduceMean", ["h"], ["m"], axes=[0], keepdims=0),
                node("Unsqueeze", ["m", "last"], ["u"]),
                node("Add", ["x", "u"], ["a"]),
                node("Mul", ["a", "gain"], ["y"]),
                node("Relu", ["h"], ["h_out"]),
            ],
            {"x": ["N", 4, "T"], "h": [2, "N", 4], "gain": []},
            {"y": ["N", 4, "T"], "h_out": [2, "N", 4]},
            {"last": np.array([2], np.int64)},
        )
    )


def samples(gains=(1.0,)):
    return [
        {"x": normal(1, 4, 5, seed=i), "h": normal(2, 1, 4, seed=i + 50), "gain": np.float32(gains[i % len(gains)])}
        for i in range(COUNT)
    ]


def profiles(least=1, most=4):
    extents = {
        "x": Extent((least, 4, 1), (least, 4, 5), (most, 4, 9)),
        "h": Extent((2, least, 4), (2, least, 4), (2, most, 4)),
    }
    return Profiles((ShapeProfile("default", extents),))


def test_samples_are_joined_along_their_own_axis(stream):
    data = CalibrationData.open(samples(), stream, profiles())
    assert data.can_batch and data.axes == {"x": 0, "h": 1}
    batches = list(data.batches(8))
    assert [batch.count for batch in batches] == [4, 2], "the profile takes four"
    joined, alone = session(stream), []
    for feed in samples():
        alone.append(joined.run(feed))
    start = 0
    for batch in batches:
        assert batch.inputs["h"].shape == (2, batch.count, 4) and batch.inputs["gain"].shape == ()
        together = joined.run(batch.inputs)
        for place in range(batch.count):
            one = alone[start + place]
            np.testing.assert_allclose(together["y"][place : place + 1], one["y"], rtol=1e-6)
            np.testing.assert_allclose(together["h_out"][:, place : place + 1], one["h_out"], rtol=1e-6)
        assert [value.shape for value in batch.each("h")] == [(2, 1, 4)] * batch.count
        start += batch.count


def test_only_samples_of_one_scalar_share_a_batch(stream):
    data = CalibrationData.open(samples(gains=(1.0, 2.0)), stream, profiles())
    assert sorted((float(b.inputs["gain"]), b.count) for b in data.batches(8)) == [(1.0, 3), (2.0, 3)]


def test_no_profile_is_missed_for_the_number_of_samples(stream):
    """The batch axis is left out of account where it stands, not where it stands in another input."""
    data = CalibrationData.open(samples(), stream, profiles(least=2))
    assert [sample.profiles for sample in data.samples()] == [("default",)] * COUNT
    other = profiles(least=2)["default"].shapes
    wide = Profiles((ShapeProfile("wide", {"x": other["x"], "h": Extent((3, 2, 4), (3, 2, 4), (3, 4, 4))}),))
    with pytest.raises(DataError, match="fits no profile"):
        list(CalibrationData.open(samples(), stream, wide).samples())


def test_a_batch_is_filled_up_and_cut_along_its_axes(stream):
    data, tally = CalibrationData.open(samples()[:5], stream, profiles(least=4)), Tally()
    feeds = [feed for batch in data.batches(8) for feed in split(batch, data, tally)]
    assert [(feed.count, feed.rows) for feed in feeds] == [(4, 4), (1, 4)]
    last = feeds[-1]
    assert last.inputs["x"].shape == (4, 4, 5) and last.inputs["h"].shape == (2, 4, 4)
    short = samples_of(last)
    assert short["x"].shape == (1, 4, 5) and short["h"].shape == (2, 1, 4)
    loaded = session(stream)
    wanted, found = loaded.run(short), own_rows(loaded.run(short), loaded.run(last.inputs), last)
    assert found is not None
    for name, values in wanted.items():
        np.testing.assert_array_equal(values, found[name])


def test_stacked_arrays_lie_along_the_axis_of_the_samples(stream, tmp_path):
    feeds = samples()
    np.savez(
        tmp_path / "stacked.npz",
        x=np.concatenate([feed["x"] for feed in feeds]), h=np.concatenate([feed["h"] for feed in feeds], axis=1),
        gain=np.stack([feed["gain"] for feed in feeds]), label=np.arange(COUNT),
    )  # fmt: skip
    read = list(CalibrationData.open(str(tmp_path / "stacked.npz"), stream, labels=True).samples())
    assert [int(one.labels["label"][0]) for one in read] == list(range(COUNT))
    for one, feed in zip(read, feeds):
        for name, value in feed.items():
            np.testing.assert_array_equal(one.inputs[name], value)


def test_random_samples_have_one_row_along_it(stream):
    data = CalibrationData.open(None, stream, profiles(), random={"seed": 0, "samples": 3})
    assert {one.inputs["h"].shape for one in data.samples()} == {(2, 1, 4)}


def test_an_input_without_an_axis_of_samples_leaves_them_apart():
    model = Model.from_proto(build([node("Add", ["x", "b"], ["y"])], {"x": ["N", 4], "b": [1, 4]}, {"y": ["N", 4]}))
    assert axes_of(input_specs(model)) == {}
    feeds = [{"x": normal(1, 4, seed=i), "b": normal(1, 4, seed=9)} for i in range(3)]
    data = CalibrationData.open(feeds, model)
    assert not data.can_batch and [batch.count for batch in data.batches(8)] == [1, 1, 1]
