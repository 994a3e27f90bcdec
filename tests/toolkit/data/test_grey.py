"""Grey pictures without their axis of channels are never taken for one sample of many channels."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, normal
from toolkit import CalibrationData, Model
from toolkit.base.errors import DataError
from toolkit.graph.interface.channels import channels_read

FREE = ["batch", "channels", "height", "width"]


def pictures(channels, dims=FREE, before=()):
    """A convolution over pictures, after what ``before`` computes: pairs of an operator and its constant."""
    nodes, weights, last = [], {"w": normal(4, channels, 3, 3)}, "x"
    for number, (op, value) in enumerate(before):
        weights[f"k{number}"] = np.float32(value)
        nodes.append(node(op, [last, f"k{number}"], [f"h{number}"]))
        last = f"h{number}"
    nodes += [node("Conv", [last, "w"], ["c"]), node("GlobalAveragePool", ["c"], ["g"]), node("Flatten", ["g"], ["y"])]
    return Model.from_proto(build(nodes, {"x": dims}, {"y": ["batch", 4]}, weights))


def taken(model, items):
    return [sample.inputs["x"].shape for sample in CalibrationData.open(items, model).samples()]


def refused(model, items):
    with pytest.raises(DataError) as error:
        taken(model, items)
    return error.value


@pytest.mark.parametrize("dims", [FREE, ["batch", None, 8, 8], ["batch", 1, 8, 8]])
@pytest.mark.parametrize("before", [(), [("Sub", 0.5), ("Div", [[[[0.2]]]])]])
def test_a_stack_of_grey_pictures_is_refused_with_what_to_write(dims, before):
    error = refused(pictures(1, dims, before), [{"x": normal(6, 8, 8)}])
    assert "6" in error.what and "6 samples of one channel" in error.remedy and "array[:, None]" in error.remedy
    assert taken(pictures(1, dims, before), [{"x": normal(1, 8, 8)}]) == [(1, 1, 8, 8)]


def test_a_stored_stack_is_told_the_same(tmp_path):
    np.savez(tmp_path / "d.npz", x=normal(6, 8, 8))
    error = refused(pictures(1), str(tmp_path / "d.npz"))
    assert "array[:, None]" in error.remedy and "[6, 1, 8, 8]" in error.remedy
    np.savez(tmp_path / "d.npz", x=normal(6, 8, 8)[:, None])
    assert taken(pictures(1), str(tmp_path / "d.npz")) == [(1, 1, 8, 8)] * 6


def test_items_with_the_channels_that_the_convolutions_take_are_samples():
    assert taken(pictures(3), [{"x": normal(3, 8, 8)}] * 2) == [(1, 3, 8, 8)] * 2
    error = refused(pictures(3), [{"x": normal(6, 8, 8)}])
    assert "6 in dimension 1" in error.what and "convolutions take 3" in error.what
    assert "transpose" in refused(pictures(3), [{"x": normal(1, 8, 8, 3)}]).remedy


def test_where_nothing_tells_the_channels_it_is_an_error_that_says_both_ways():
    nodes = [node("GlobalAveragePool", ["x"], ["g"]), node("Relu", ["g"], ["y"])]
    model = Model.from_proto(build(nodes, {"x": FREE}, {"y": FREE}))
    error = refused(model, [{"x": normal(6, 8, 8)}])
    assert "one sample with 6" in error.what and "6 samples [8, 8]" in error.what
    assert "value[None]" in error.remedy and "expand_dims(sample, (0, 1))" in error.remedy
    assert taken(model, [{"x": normal(1, 6, 8, 8)}]) == [(1, 6, 8, 8)]


def test_the_length_of_a_series_is_no_axis_of_channels():
    sizes = ["batch", "length", 5]
    model = Model.from_proto(build([node("Relu", ["x"], ["y"])], {"x": sizes}, {"y": sizes}))
    assert taken(model, [{"x": normal(7, 5)}]) == [(1, 7, 5)]


def test_what_may_give_a_picture_its_channels_tells_nothing():
    assert channels_read(pictures(3, before=[("Mul", np.ones((1, 3, 1, 1)))])) == {}
    assert channels_read(pictures(3, before=[("Mul", np.ones((1, 1, 8, 8)))])) == {"x": (1, 3)}
    # a constant of four dimensions makes a picture of rows and columns alone
    assert channels_read(pictures(1, dims=["height", "width"], before=[("Mul", np.ones((1, 1, 1, 1)))])) == {}


@pytest.mark.parametrize("channels", [3, 4])
def test_a_colour_picture_is_a_sample_where_a_constant_may_give_the_channels(channels):
    model = pictures(channels, before=[("Sub", np.full((1, channels, 1, 1), 0.5))])
    assert taken(model, [{"x": normal(channels, 8, 8)}] * 2) == [(1, channels, 8, 8)] * 2


@pytest.mark.parametrize(
    ("dims", "item"),
    [
        (["batch", "frames", 17, 2], (9, 17, 2)), (["batch", "time", "joints", 3], (9, 17, 3)),
        (["batch", "frames", 3, 8, 8], (6, 3, 8, 8)), (["batch", None, 3, None, None], (6, 3, 8, 8)),
    ],
)  # fmt: skip
def test_frames_of_a_film_and_steps_of_a_movement_are_one_sample(dims, item):
    model = Model.from_proto(build([node("Relu", ["x"], ["y"])], {"x": dims}, {"y": dims}))
    assert taken(model, [{"x": normal(*item)}] * 2) == [(1, *item)] * 2


@pytest.mark.parametrize("name", ["channels", "c", "in_channels", None, "unk__12", "x_dim_1", "input_dynamic_axes_2"])
def test_a_dimension_of_which_nothing_is_known_may_be_that_of_channels(name):
    dims = ["batch", name, "height", "width"]
    model = Model.from_proto(build([node("Relu", ["x"], ["y"])], {"x": dims}, {"y": dims}))
    assert "6 samples [8, 8]" in refused(model, [{"x": normal(6, 8, 8)}]).what
