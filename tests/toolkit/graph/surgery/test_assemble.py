"""What is taken out of a graph for good gives back its memory at once."""

from __future__ import annotations

import gc
import weakref

import numpy as np

from tests.conftest import build, node
from tests.control_flow import nested
from toolkit.graph.model import Model
from toolkit.graph.surgery import assemble


def test_discarded_nodes_go_with_what_they_alone_have():
    stored = {"own": np.ones(4, np.float32), "both": np.ones(4, np.float32)}
    nodes = [node("Add", ["x", "both"], ["y"]), node("Mul", ["own", "both"], ["t"]), node("Relu", ["t"], ["unread"])]
    model = Model.from_proto(build(nodes, {"x": [4]}, {"y": [4]}, stored))
    gone = [one for one in model.nodes if one.op != "Add"]
    held = [weakref.ref(part) for one in gone for part in (one, *one.inputs, *one.outputs) if part.name != "both"]
    gc.disable()
    try:
        assemble.discard(model.graph, gone)
        del gone
        assert len(held) == 6 and not any(one() for one in held)
    finally:
        gc.enable()
    assert [one.op for one in model.nodes] == ["Add"]
    assert [t.name for t in model.nodes[0].inputs] == ["x", "both"] and len(model.nodes[0].inputs[1].outputs) == 1
    model.check()


def test_inputs_and_what_a_body_gives_stay():
    model = Model.from_proto(nested(True))
    tops = [tensor for graph in (model.graph, *assemble.subgraphs(model.graph)) for tensor in graph.outputs]
    assemble.discard(model.graph, model.nodes)
    assert not model.nodes
    ends = [*tops[: len(model.graph.outputs)], *model.graph.inputs]
    assert ends and not any(tensor.inputs for tensor in ends)
