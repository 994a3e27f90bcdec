"""Whether a batch gives what its samples give, and which node is to blame where it does not."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import build, node, normal
from toolkit import Model
from toolkit.base.errors import ModelError
from toolkit.graph.interface.batch_probe import batch_fault, fault_by_shapes
from toolkit.graph.sessions.session import session

IMAGE = {"x": ["n", 3, 4, 4]}
SEQUENCE = {"x": ["t", "n", 6]}
WEIGHTS = {"w": normal(4, 3, 1, 1), "m": normal(64, 5, seed=1), "u": normal(1, 16, 6, seed=2), "r_": normal(1, 16, 4, seed=3),
           "table": normal(50, 8, seed=4), "h0": normal(1, 1, 4, seed=5), "extra": normal(1, 2, 4, 4, seed=6), "k": normal(16, 5, seed=7)}  # fmt: skip
STEP = 0.05
NUMBERS = {"one": [1], "zero": [0], "fixed": [1, 2, 2, 4, 4], "merged": [1, -1], "wide": [3, 4, 4, 4], "free": [-1, 64],
           "heads": [1, -1, 2, 2], "first": [7, -1], "rows": [0, -1], "last": [5]}  # fmt: skip


def network(nodes, inputs=None, types=None):
    read = {name for one in nodes for name in one.input}
    stored = {name: value for name, value in WEIGHTS.items() if name in read}
    stored |= {name: np.array(value, np.int64) for name, value in NUMBERS.items() if name in read}
    return Model.from_proto(build(nodes, inputs or IMAGE, {"y": None}, stored, types=types))


CONV = node("Conv", ["x", "w"], ["a"])
FAULTS = {
    "a Reshape that fails": ([CONV, node("Reshape", ["a", "fixed"], ["r"]), node("Relu", ["r"], ["y"])], "r", False),
    "a Reshape that moves the batch": (
        [CONV, node("Reshape", ["a", "merged"], ["r"]), node("Relu", ["r"], ["q"]), node("MatMul", ["q", "m"], ["y"])],
        "r", False,
    ),
    "a Reshape that joins it with the features": (
        [CONV, node("Transpose", ["a"], ["t"], perm=[2, 0, 1, 3]), node("Reshape", ["t", "rows"], ["r"]), node("MatMul", ["r", "k"], ["y"])],
        "r", False,
    ),
    "an Expand": ([CONV, node("Expand", ["a", "wide"], ["e"]), node("Relu", ["e"], ["y"])], "e", False),
    "a Concat with a constant": (
        [node("Relu", ["x"], ["a"]), node("Concat", ["a", "extra"], ["c"], axis=1), node("Relu", ["c"], ["y"])], "c", False,
    ),
    "a Slice": ([node("Slice", ["x", "zero", "one", "zero"], ["s"]), node("Conv", ["s", "w"], ["y"])], "s", True),
    "a Gather": (
        [CONV, node("Gather", ["a", "zero"], ["s"], axis=0), node("Reshape", ["s", "free"], ["f"]), node("MatMul", ["f", "m"], ["y"])],
        "s", True,
    ),
    "a Squeeze": ([CONV, node("Squeeze", ["a", "zero"], ["q"]), node("Relu", ["q"], ["y"])], "q", False),
    "a mean over the batch": ([CONV, node("ReduceMean", ["a"], ["y"], axes=[0])], "y", True),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_the_node_that_fixes_the_batch_is_named(case):
    nodes, blamed, runs = FAULTS[case]
    found = batch_fault(network(nodes), {"x": 0}, [{"x": normal(1, 3, 4, 4, seed=seed)} for seed in (1, 2)])
    assert (found.node, found.runs, found.samples) == (blamed, runs, 2)


def test_a_reshape_that_mixes_samples_is_found_where_they_meet():
    nodes = [
        node("Reshape", ["x", "heads"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3]),
        node("Softmax", ["t"], ["p"], axis=2),
        node("Relu", ["p"], ["y"]),
    ]
    found = batch_fault(
        network(nodes, {"x": ["n", 6, 4]}), {"x": 0}, [{"x": normal(1, 6, 4, seed=seed)} for seed in (1, 2)]
    )
    assert (found.node, found.op, found.runs) == ("r", "Reshape", True)


def test_a_largest_value_that_chooses_a_branch_is_not_taken_for_a_reshape_in_the_branch():
    """The condition is that of every sample; the batch is fixed in the branch."""
    branches = {
        f"{name}_branch": helper.make_graph(
            [node("Reshape", ["a", "fixed"], [name])], name, [], [helper.make_tensor_value_info(name, 1, None)]
        )
        for name in ("then", "else")
    }
    nodes = [
        CONV, node("ReduceMax", ["x"], ["top"], keepdims=0), node("Cast", ["top"], ["is"], to=TensorProto.BOOL),
        node("If", ["is"], ["r"], **branches), node("Relu", ["r"], ["y"]),
    ]  # fmt: skip
    model = network(nodes)
    proto = model.to_proto()
    proto.graph.initializer.append(numpy_helper.from_array(np.array(NUMBERS["fixed"]), "fixed"))
    found = batch_fault(Model.from_proto(proto), {"x": 0}, [{"x": normal(1, 3, 4, 4, seed=seed)} for seed in (1, 2)])
    assert (found.node, found.op, found.runs) == ("r", "If", False)


def test_a_slice_of_integers_is_found():
    nodes = [node("Slice", ["x", "zero", "one", "zero"], ["s"]), node("Gather", ["table", "s"], ["y"])]
    model = network(nodes, {"x": ["n", 6]}, {"x": TensorProto.INT64})
    ids = [{"x": np.arange(6, dtype=np.int64)[None] + start} for start in (0, 9)]
    assert batch_fault(model, {"x": 0}, ids).node == "s"


def test_what_takes_batches_has_no_fault():
    flat = [CONV, node("Reshape", ["a", "free"], ["f"]), node("MatMul", ["f", "m"], ["y"])]
    images = [{"x": normal(1, 3, 4, 4, seed=seed)} for seed in (1, 2, 3)]
    assert batch_fault(network(flat), {"x": 0}, images) is None
    beside = Model.from_proto(
        build([node("Relu", ["x"], ["y"]), node("ReduceMean", ["x"], ["z"], keepdims=0)], IMAGE, {"y": None, "z": None})
    )
    assert batch_fault(beside, {"x": 0}, images) is None
    # rows that bear their sample's number
    numbered = [node("Relu", ["x"], ["y"]), node("Reshape", ["x", "rows"], ["r"]), node("Shape", ["x"], ["s"]), node("Cast", ["s"], ["c"], to=1),
                node("Gather", ["c", "zero"], ["count"]), node("Add", ["r", "count"], ["z"])]  # fmt: skip
    rows = {"rows": np.array([-1, 8]), "zero": np.array(0)}
    assert batch_fault(Model.from_proto(build(numbered, IMAGE, {"y": None, "z": None}, rows)), {"x": 0}, images) is None
    against = [node("Flatten", ["x"], ["y"]), node("Transpose", ["y"], ["t"]), node("MatMul", ["y", "t"], ["z"])]
    assert batch_fault(Model.from_proto(build(against, IMAGE, {"y": None, "z": None})), {"x": 0}, images) is None


def test_steps_of_pairs_that_last_bits_decide_are_no_fault():
    class StepOff:
        """A session in which a batch rounds to the next step."""

        def __init__(self, model):
            self.inner, self.left, self.outputs = session(model), None, ("y",)

        def run(self, inputs):
            found = self.inner.run(inputs)["y"]
            return {"y": found + STEP * (len(found) > 1)}

    pairs = [node("QuantizeLinear", ["x", "s"], ["q"]), node("DequantizeLinear", ["q", "s"], ["d"])]
    zero = {"z": np.zeros((), np.int8)}
    foreign = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], domain="com.microsoft"),
        node("DequantizeLinear", ["q", "s", "z"], ["d"], domain="com.microsoft"),
    ]
    mixing = [*pairs, node("Softmax", ["d"], ["p"], axis=0), node("Relu", ["p"], ["y"])]
    images = [{"x": normal(1, 3, 4, 4, seed=seed)} for seed in (1, 2)]
    found = {}
    for name, nodes in {
        "kept": [*pairs, node("Relu", ["d"], ["y"])],
        "foreign": [*foreign, node("Relu", ["d"], ["y"])],
        "mixed": mixing,
        "float": [node("Relu", ["x"], ["y"])],
    }.items():
        constants = {"s": np.array(STEP, np.float32)} if name != "float" else {}
        model = Model.from_proto(build(nodes, IMAGE, {"y": None}, constants | (zero if name == "foreign" else {})))
        found[name] = batch_fault(model, {"x": 0}, images, StepOff(model))
    assert found["kept"] is None and found["foreign"] is None and found["mixed"].node == "p" and found["float"].runs


def test_one_output_that_mixes_samples_is_a_fault_beside_others_that_do_not():
    nodes = [node("Relu", ["x"], ["y"]), node("Softmax", ["x"], ["p"], axis=0), node("Relu", ["p"], ["z"])]
    model = Model.from_proto(build(nodes, IMAGE, {"y": None, "z": None}))
    found = batch_fault(model, {"x": 0}, [{"x": normal(1, 3, 4, 4, seed=seed)} for seed in (1, 2)])
    assert (found.node, found.op, found.runs) == ("p", "Softmax", True)


def test_a_loop_that_ends_for_one_sample_only_is_named_and_not_tried_again(monkeypatch):
    from tests.fuzz.corpus import with_loop
    from toolkit.graph.sessions.endless_loops import EndlessLoopError
    from toolkit.graph.sessions.session import Session

    model, runs = Model.from_proto(with_loop(trips=1)), []

    def run(self, inputs, outputs=None):
        runs.append(inputs)
        if len(runs) == 3:
            raise EndlessLoopError("loop", "after 30 s", "m.onnx")
        return {name: np.zeros((1, 2), np.float32) for name in self.outputs}

    monkeypatch.setattr(Session, "run", run)
    found = batch_fault(model, {"x": 0}, [{"x": normal(1, 3, 4, 4, seed=seed)} for seed in (1, 2)])
    assert (found.node, found.op, found.runs, len(runs)) == ("loop", "Loop", False, 3)


def test_the_batch_axis_need_not_be_the_first():
    lstm = ["x", "u", "r_", "", ""]
    samples = [{"x": normal(7, 1, 6, seed=seed), "h": normal(1, 1, 4, seed=seed)} for seed in (1, 2)]
    free = network(
        [node("LSTM", [*lstm, "h"], ["o", "", ""], "o", hidden_size=4), node("Squeeze", ["o", "one"], ["y"])],
        {**SEQUENCE, "h": [1, "n", 4]},
    )
    assert batch_fault(free, {"x": 1, "h": 1}, samples) is None
    fixed = network(
        [node("LSTM", [*lstm, "h0"], ["o", "", ""], "o", hidden_size=4), node("Squeeze", ["o", "one"], ["y"])], SEQUENCE
    )
    assert batch_fault(fixed, {"x": 1}, samples).node == "o"
    turned = [node("Transpose", ["x"], ["r"], perm=[2, 0, 1]), node("Relu", ["r"], ["y"])]
    assert batch_fault(network(turned, SEQUENCE), {"x": 1}, samples) is None


def test_shapes_alone_tell_of_constants():
    reshape = network([CONV, node("Reshape", ["a", "fixed"], ["r"]), node("Relu", ["r"], ["y"])])
    concat = network([node("Concat", ["x", "extra"], ["c"], axis=1), node("Relu", ["c"], ["y"])])
    expand = network([CONV, node("Expand", ["a", "wide"], ["e"]), node("Relu", ["e"], ["y"])])
    free = network([CONV, node("Reshape", ["a", "free"], ["y"])])
    sample = {"x": normal(1, 3, 4, 4)}
    assert [fault_by_shapes(one, {"x": 0}, sample, 2).node for one in (reshape, concat, expand)] == ["r", "c", "e"]
    assert fault_by_shapes(free, {"x": 0}, sample, 2) is None


def test_a_model_that_does_not_run_on_one_sample_says_so():
    with pytest.raises(ModelError):
        batch_fault(network([CONV, node("MatMul", ["a", "m"], ["y"])]), {"x": 0}, [{"x": normal(1, 3, 4, 4)}] * 2)
