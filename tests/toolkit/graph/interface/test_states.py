"""Where the first states of recurrent layers hold samples, whatever the model calls it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal
from toolkit import Model
from toolkit.data.dataset import CalibrationData
from toolkit.graph.interface.states import shapes_to_join
from toolkit.graph.sessions.session import session
from toolkit.run.new.new_recipe import recipe_for
from toolkit.run.recipe.recipe import Recipe

STEPS, FEATURES, HIDDEN = 5, 3, 4


def recurrent(op="GRU", x=("N", STEPS, FEATURES), states=((1, None, HIDDEN),), between=()):
    """A recurrent layer of inputs [batch, steps, features] that begins with states of the given shapes."""
    gates = {"GRU": 3, "LSTM": 4, "RNN": 1}[op]
    names = ["h0", "c0"][: len(states)]
    read = [between[-1].outputs[0] if between and name == "h0" else name for name in names]
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), *(one.proto for one in between),
        node(op, ["t", "w", "r", "", "", *read], ["y", "yh"], hidden_size=HIDDEN),
    ]  # fmt: skip
    weights = {"w": normal(1, gates * HIDDEN, FEATURES, seed=1), "r": normal(1, gates * HIDDEN, HIDDEN, seed=2),
               "first": np.array(0), "axis 0": np.array([0]), "axis 1": np.array([1]), "last": np.array([-3]),
               "as state": np.array([1, -1, HIDDEN]), "kept": np.array([1, 0, HIDDEN]),
               "apart": np.array([-1, HIDDEN])}  # fmt: skip
    inputs = {"x": list(x), **dict(zip(names, map(list, states)))}
    return Model.from_proto(build(nodes, inputs, {"y": None, "yh": None}, weights))


class Between:
    """A node that reads ``h0``, or what the one before it made, and hands on what the layer reads."""

    def __init__(self, op, *more, read="h0", made="h", **attrs):
        self.outputs = [made]
        self.proto = node(op, [read, *more], [made], made, **attrs)


@pytest.mark.parametrize("dim", [None, "h0_dynamic_axes_1", "M"])
@pytest.mark.parametrize("first", ["N", None, "s0"])
def test_a_state_without_a_name_for_its_samples_is_split_and_joined_with_the_others(tmp_path, dim, first):
    model = recurrent(x=(first, STEPS, FEATURES), states=((1, dim, HIDDEN),))
    x, h0 = normal(24, STEPS, FEATURES), normal(1, 24, HIDDEN, seed=3)
    np.savez(tmp_path / "data.npz", x=x, h0=h0)
    data = CalibrationData.open(str(tmp_path / "data.npz"), model)
    assert data.axes == {"x": 0, "h0": 1} and len(data) == 24
    first_sample = next(iter(data.samples())).inputs
    np.testing.assert_array_equal(first_sample["h0"], h0[:, :1])
    wanted = session(model).run({"x": x, "h0": h0})["yh"]
    made = [session(model).run(batch.inputs)["yh"] for batch in data.batches(8)]
    assert [one.shape[1] for one in made] == [8, 8, 8]
    np.testing.assert_allclose(np.concatenate(made, axis=1), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (lambda: recurrent("LSTM", states=((1, None, HIDDEN), (1, None, HIDDEN))), {"h0": [1, "N", 4], "c0": [1, "N", 4]}),
        (lambda: recurrent("LSTM", states=((1, "N", HIDDEN), (1, None, HIDDEN))), {"h0": [1, "N", 4], "c0": [1, "N", 4]}),
        (lambda: recurrent("RNN", x=(None, STEPS, FEATURES)), {"h0": [1, "batch", 4]}),
        (lambda: recurrent(between=[Between("Identity")]), {"h0": [1, "N", 4]}),
        (lambda: recurrent(states=((None, 1, HIDDEN),), between=[Between("Transpose", perm=[1, 0, 2])]), {"h0": ["N", 1, 4]}),
        # the layers' states are stacked, or of no directions, or laid out otherwise
        (lambda: recurrent(states=((2, None, HIDDEN),), between=[Between("Gather", "axis 1", axis=0)]), {"h0": [2, "N", 4]}),
        (lambda: recurrent(states=((2, 1, None, HIDDEN),), between=[Between("Gather", "first", axis=0)]),
         {"h0": [2, 1, "N", 4]}),
        (lambda: recurrent(states=((None, 2, HIDDEN),), between=[
            Between("Gather", "first", made="g", axis=1), Between("Unsqueeze", "axis 0", read="g")]), {"h0": ["N", 2, 4]}),
        (lambda: recurrent(states=((None, HIDDEN),), between=[Between("Unsqueeze", "last")]), {"h0": ["N", 4]}),
        (lambda: recurrent(states=((1, 1, None, HIDDEN),), between=[Between("Squeeze", "axis 0")]), {"h0": [1, 1, "N", 4]}),
        (lambda: recurrent(states=((None, 1, HIDDEN),), between=[Between("Reshape", "as state")]), {"h0": ["N", 1, 4]}),
        (lambda: recurrent(states=((None, 2, 2),), between=[Between("Reshape", "as state")]), {"h0": ["N", 2, 2]}),
        (lambda: recurrent(states=((1, None, 2, 2),), between=[Between("Reshape", "kept")]), {"h0": [1, "N", 2, 2]}),
        # a fixed one stays as it is
        (lambda: recurrent(states=((1, 1, HIDDEN),)), {"h0": [1, 1, 4]}),
        (lambda: recurrent(x=(8, STEPS, FEATURES)), {"h0": [1, None, 4]}),
    ],
)  # fmt: skip
def test_the_operator_says_which_dimension_is_the_samples(model, shapes):
    found = shapes_to_join(model())
    assert {name: found[name] for name in shapes} == shapes


def test_states_that_are_stacked_otherwise_are_joined_where_the_samples_lie(tmp_path):
    """Of [layers, directions, batch, hidden] one layer's is read, and of [batch, hidden] that of all directions."""
    stacked = recurrent(states=((2, 1, None, HIDDEN),), between=[Between("Gather", "first", axis=0)])
    flat = recurrent(states=((None, HIDDEN),), between=[Between("Unsqueeze", "axis 0")])
    x = normal(24, STEPS, FEATURES)
    for model, axis, h0 in ((stacked, 2, normal(2, 1, 24, HIDDEN, seed=3)), (flat, 0, normal(24, HIDDEN, seed=3))):
        np.savez(tmp_path / "data.npz", x=x, h0=h0)
        data = CalibrationData.open(str(tmp_path / "data.npz"), model)
        assert data.axes == {"x": 0, "h0": axis} and len(data) == 24
        wanted = session(model).run({"x": x, "h0": h0})["yh"]
        made = [session(model).run(batch.inputs)["yh"] for batch in data.batches(8)]
        np.testing.assert_allclose(np.concatenate(made, axis=1), wanted, rtol=1e-5)


def test_new_writes_profiles_in_which_states_grow_with_the_batch(tmp_path):
    onnx.save(recurrent().to_proto(), str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", x=normal(24, STEPS, FEATURES), h0=normal(1, 24, HIDDEN, seed=3))
    made = recipe_for(tmp_path / "model.onnx", tmp_path / "r.toml", tmp_path / "data.npz", None, None)
    (profile,) = Recipe.parse(made.text, tmp_path / "r.toml").profile
    state, x = profile.shapes["h0"], profile.shapes["x"]
    assert state["min"][1] == x["min"][0] == 1 and state["max"][1] == x["max"][0] > 1
