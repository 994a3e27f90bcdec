"""Which node of one run is which of another whose exporter gave other names."""

from __future__ import annotations

import random

from tests.toolkit.report.samples import sample
from toolkit.report.comparison.matching import match
from toolkit.report.schema.model import TensorInfo
from toolkit.report.schema.report import LayerInfo

# name, operator, what it reads, shape of its weights
NODES = [
    ("stem", "Conv", ["x"], [8, 3, 3, 3]),
    ("relu0", "Relu", ["stem"], None),
    ("main1", "Conv", ["relu0"], [8, 8, 3, 3]),
    ("relu1", "Relu", ["main1"], None),
    ("main2", "Conv", ["relu1"], [8, 8, 3, 3]),
    ("skip", "Conv", ["relu0"], [8, 8, 1, 1]),
    ("sum", "Add", ["main2", "skip"], None),
    # twins that only what is after them tells apart
    ("left", "Conv", ["sum"], [4, 8, 1, 1]),
    ("right", "Conv", ["sum"], [4, 8, 1, 1]),
    ("left_act", "Sigmoid", ["left"], None),
    ("right_act", "Tanh", ["right"], None),
    ("both", "Concat", ["left_act", "right_act"], None),
    ("head", "Gemm", ["both"], [8, 10]),
]


def report(nodes, called=lambda name: name, pairs=()):
    """A report of these nodes; ``pairs`` names nodes that read their first input through a Q/DQ pair."""
    layers, tensors = [], []
    for name, op, reads, weight in nodes:
        inputs = [one if one == "x" else f"{called(one)}_out" for one in reads]
        if name in pairs:
            for kind in ("QuantizeLinear", "DequantizeLinear"):
                layers.append(LayerInfo(node=f"{called(name)}_{kind}", op=kind, role="convert", inputs=[inputs[0]],
                                        outputs=[f"{called(name)}_{kind}_out"]))  # fmt: skip
                inputs[0] = f"{called(name)}_{kind}_out"
        if weight is not None:
            inputs.append(f"{called(name)}_w")
            tensors.append(TensorInfo(name=inputs[-1], shape=weight))
        layers.append(LayerInfo(node=called(name), op=op, inputs=inputs, outputs=[f"{called(name)}_out"]))
    base = sample()
    model = base.model.model_copy(
        update={"inputs": [TensorInfo(name="x")], "outputs": [TensorInfo(name=f"{called(nodes[-1][0])}_out")]}
    )
    return base.model_copy(update={"layers": layers, "tensors": tensors, "model": model})


def renamed(nodes, seed):
    """Another exporter's: nodes counted, in another order that is right too."""
    left, done, order = list(nodes), {"x"}, []
    rng = random.Random(seed)
    while left:
        node = rng.choice([one for one in left if set(one[2]) <= done])
        left.remove(node)
        done.add(node[0])
        order.append(node)
    places = {name: f"{op}_{number}" for number, (name, op, _, _) in enumerate(order)}
    return order, places.__getitem__


def test_nodes_are_matched_whatever_their_names_and_order():
    for seed in range(5):
        order, called = renamed(NODES, seed)
        found = match(report(NODES), report(order, called))
        assert found == {name: called(name) for name, *_ in NODES}


def test_pairs_go_with_the_node_that_reads_them():
    order, called = renamed(NODES, 1)
    found = match(report(NODES, pairs=("main1", "head")), report(order, called, pairs=("main1",)))
    assert found["main1_QuantizeLinear"] == f"{called('main1')}_QuantizeLinear"
    assert "head_QuantizeLinear" not in found and found["head"] == called("head")


def test_what_one_exporter_writes_otherwise_costs_only_itself():
    other = [one if one[0] != "head" else ("product", "MatMul", ["both"], [8, 10]) for one in NODES]
    other.append(("bias", "Add", ["product"], [10]))
    other.insert(4, ("same", "Identity", ["relu1"], None))
    other = [(n, op, ["same"] if n == "main2" else reads, w) for n, op, reads, w in other]
    found = match(report(NODES), report(other, lambda name: f"n_{name}"))
    assert found.pop("head") == "n_product"
    assert found == {name: f"n_{name}" for name, *_ in NODES if name != "head"}


def test_names_that_are_shared_are_taken_at_their_word():
    fewer = [node for node in NODES if node[0] not in ("left", "left_act")]
    fewer = [(n, op, ["right_act"] if n == "both" else reads, w) for n, op, reads, w in fewer]
    found = match(report(NODES), report(fewer))
    assert found == {name: name for name, *_ in fewer}


def test_counted_names_that_mean_other_nodes_are_not_taken_for_the_same():
    """Two exporters that count their convolutions from 0 share names of unlike nodes."""
    convs = [name for name, op, *_ in NODES if op == "Conv"]
    swapped = dict(zip(convs, reversed(convs)))
    one = report(NODES)
    two = report(NODES, lambda name: swapped.get(name, f"other_{name}"))
    assert match(one, two) == {name: swapped.get(name, f"other_{name}") for name, *_ in NODES}
