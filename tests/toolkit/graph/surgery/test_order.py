"""Sorting nodes and dropping unused ones: the same as onnx-graphsurgeon's, whatever the stored order."""

import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit import PassError
from toolkit.graph.surgery.assemble import copied, walk
from toolkit.graph.surgery.order import drop_unused, sort, tidy


@st.composite
def graphs(draw) -> gs.Graph:
    """A graph of nodes with one or two outputs, some unread, some read only in the subgraph of another, in any order."""
    x = gs.Variable("x")
    made, nodes = [x], []
    for i in range(draw(st.integers(1, 8))):
        outputs = [gs.Variable(f"t{i}_{k}") for k in range(draw(st.integers(1, 2)))]
        read = draw(st.lists(st.sampled_from(made), min_size=1, max_size=2))
        attrs = {}
        if draw(st.integers(0, 3)) == 0:
            inner = [gs.Variable(f"s{i}_{k}") for k in range(2)]
            body = [
                gs.Node("Neg", f"b{i}_1", {}, [inner[0]], [inner[1]]),
                gs.Node("Abs", f"b{i}_0", {}, read, [inner[0]]),
            ]
            body += [gs.Node("Abs", f"b{i}_unread", {}, read, [gs.Variable(f"s{i}_unread")])]
            attrs, read = {"body": gs.Graph(draw(st.permutations(body)), outputs=[inner[1]])}, [x]
        nodes.append(gs.Node("Op", f"n{i}", attrs, read, outputs))
        made += outputs
    outputs = draw(st.lists(st.sampled_from(made[1:]), min_size=1, max_size=2, unique_by=id))
    stored = nodes if draw(st.booleans()) else draw(st.permutations(nodes))
    return gs.Graph(list(stored), inputs=[x], outputs=outputs)


def order(graph: gs.Graph) -> list[str]:
    return [node.name for node, _ in walk(graph)]


@given(graphs())
def test_the_order_is_that_of_graphsurgeon(graph):
    theirs = copied(graph)
    theirs.toposort(recurse_subgraphs=True)
    sort(graph)
    assert order(graph) == order(theirs)


@given(graphs())
def test_tidying_drops_what_no_output_needs_and_sorts(graph):
    needed, pending = set(), [maker for tensor in graph.outputs for maker in tensor.inputs]
    top = {id(node) for node in graph.nodes}
    while pending:
        node = pending.pop()
        if node.name not in needed:
            needed.add(node.name)
            inside = [t for sub in node.attrs.values() for one in sub.nodes for t in one.inputs]
            pending += [one for t in (*node.inputs, *inside) for one in t.inputs if id(one) in top]
    apart = copied(graph)
    drop_unused(apart)
    sort(apart)
    tidy(graph)
    assert {node.name for node in graph.nodes} == needed
    assert order(graph) == order(apart)
    assert not any(name.endswith("unread") for name in order(graph))


def chain(count: int) -> gs.Graph:
    tensors = [gs.Variable(f"t{i}") for i in range(count + 1)]
    nodes = [gs.Node("Neg", f"n{i}", {}, [tensors[i]], [tensors[i + 1]]) for i in range(count)]
    return gs.Graph(nodes, inputs=tensors[:1], outputs=tensors[-1:])


@pytest.mark.parametrize("act", [sort, tidy])
def test_a_cycle_is_refused_in_any_stored_order(act):
    graph = chain(3)
    graph.nodes[0].inputs = [graph.nodes[1].outputs[0]]
    for nodes in (list(graph.nodes), list(graph.nodes)[::-1]):
        graph.nodes = nodes
        with pytest.raises(PassError, match="cycle"):
            act(graph)


@pytest.mark.parametrize("act", [sort, tidy])
def test_a_node_stored_twice_is_stored_once(act):
    graph = chain(3)
    graph.nodes.append(graph.nodes[0])
    act(graph)
    assert order(graph) == ["n0", "n1", "n2"]


def test_a_tensor_of_two_producers_is_after_both():
    graph = chain(3)
    x, between = graph.inputs[0], gs.Variable("between")
    graph.nodes[-1].inputs.append(second := gs.Variable("second"))
    graph.nodes.insert(0, gs.Node("Abs", "early", {}, [x], [second]))
    graph.nodes += [gs.Node("Abs", "one", {}, [x], [between]), gs.Node("Abs", "late", {}, [between], [second])]
    theirs = copied(graph)
    theirs.toposort()
    sort(graph)
    assert order(graph) == order(theirs)
    assert order(graph).index("late") < order(graph).index("n2")
