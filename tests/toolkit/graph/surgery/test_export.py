"""What is read, copied, sorted and written here is what onnx-graphsurgeon makes of it, object by object."""

from __future__ import annotations

import gc
import random
import sys
import weakref
from itertools import permutations
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.conftest import MODELS, build, node, normal, residual_proto
from tests.control_flow import conv_in_loop, layers_in_branches, nested, scan
from toolkit.base import collection
from toolkit.base.collection import collector_paused
from toolkit.base.errors import PassError
from toolkit.graph.kept_messages import forget_messages
from toolkit.graph.model import Model
from toolkit.graph.proto.light import LightModel
from toolkit.graph.surgery import assemble
from toolkit.graph.surgery.export import NodeMessages, export
from toolkit.graph.surgery.importing import import_light
from toolkit.graph.surgery.normalise import normalise
from toolkit.graph.surgery.order import drop_unused, sort


def plugin() -> onnx.ModelProto:
    """Attributes of every kind: numbers, texts, lists, one without entries, bytes and a tensor."""
    attrs = {"one": 1, "half": 0.5, "word": "a", "ints": [1, 2], "floats": [0.5, 2.0], "words": ["a", "b"]}
    made = helper.make_node("Own", ["x", "", "w"], ["y", ""], name="own", domain="plugins", **attrs)
    made.attribute.append(helper.make_attribute("raw", b"\xff\x00"))
    made.attribute.append(onnx.AttributeProto(name="none", type=onnx.AttributeProto.INTS))
    made.attribute.append(helper.make_attribute("tensor", onnx.numpy_helper.from_array(normal(2, 3), "t")))
    proto = build([made], {"x": ["n", 3]}, {"y": None}, {"w": np.float32([1, 2])})
    proto.opset_import.add(domain="plugins", version=3)
    return proto


CASES = {
    "residual": residual_proto, "branches": layers_in_branches, "nested": lambda: nested(True), "loop": conv_in_loop,
    "scan": scan, "plugin": plugin, "digits": lambda: onnx.load(MODELS / "digits_cnn.onnx"),
}  # fmt: skip


def content(proto: onnx.ModelProto) -> bytes:
    return proto.SerializeToString(deterministic=True)


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def light(request) -> LightModel:
    return LightModel(normalise(request.param(), "the model")[0])


def test_reading_what_was_written_changes_nothing(light):
    first = export(import_light(light))
    assert content(export(import_light(first)).proto) == content(first.proto)
    assert [n.name for n in first.proto.graph.node] == [n.name for n in light.proto.graph.node]


def test_it_is_written_as_onnx_graphsurgeon_writes_it(light):
    ours = import_light(light)
    if any(True for _ in assemble.subgraphs(ours)) or any(node.op == "Own" for node in ours.nodes):
        pytest.skip("onnx-graphsurgeon copies outer constants into subgraphs, and cannot read bytes")
    theirs = gs.export_onnx(gs.import_onnx(light.proto), do_type_check=False)
    assert content(export(ours).whole()) == content(theirs)


def test_a_copy_is_written_the_same_and_shares_nothing_but_values(light):
    first = import_light(light)
    second = assemble.copied(first)
    before = content(export(first).proto)
    second.producer_name, second.producer_version = first.producer_name, first.producer_version
    assert content(export(second).proto) == before
    tensors = {id(t) for node in first.nodes for t in (*node.inputs, *node.outputs)}
    assert not any(id(t) in tensors for node in second.nodes for t in (*node.inputs, *node.outputs))
    for one in second.nodes:
        one.name, one.op = f"{one.name}_twin", "Relu"
        one.inputs.clear()
        one.outputs.clear()
    assert content(export(first).proto) == before


def test_tensors_know_who_reads_and_makes_them(light):
    graph = import_light(light)
    for one in graph.nodes:
        assert all(one in list(tensor.outputs) for tensor in one.inputs)
        assert all(list(tensor.inputs) == [one] for tensor in one.outputs)
    first = graph.nodes[0]
    other = assemble.variable("other")
    first.inputs.append(other)
    assert list(other.outputs) == [first]
    first.inputs.pop()
    assert not other.outputs


def test_what_is_remembered_of_nodes_follows_every_change():
    model = Model.from_proto(plugin())
    changed = model.graph.nodes[0]
    changed.attrs.clear()
    seen = {content(export(model.graph, known=(known := NodeMessages())).proto)}
    for change in (
        lambda: changed.attrs.update(k=1.0), lambda: changed.attrs.update(k=[1]), lambda: changed.attrs["k"].append(2),
        lambda: changed.attrs.update(k=[1.0, 2.0]), lambda: changed.attrs.update(k="1"),
        lambda: changed.attrs.update(k=-0.0), lambda: changed.attrs.update(k=0.0),
        lambda: setattr(changed, "op", "Other"), lambda: setattr(changed, "domain", "d"),
        lambda: setattr(changed.outputs[0], "name", "z"), lambda: changed.inputs.append(assemble.variable("")),
    ):  # fmt: skip
        change()
        written = content(export(model.graph, known=known).proto)
        assert written not in seen and written == content(export(model.graph).proto)
        seen.add(written)


@given(st.integers(0, 1 << 30))
def test_nodes_are_sorted_and_dropped_as_onnx_graphsurgeon_does(seed):
    dice = random.Random(seed)
    names, nodes = ["x"], []
    for i in range(12):
        read = dice.sample(names, min(len(names), dice.randint(1, 3)))
        nodes.append(node("Sum", read, [f"t{i}"], f"n{i}"))
        names.append(f"t{i}")
    last = dice.choice(names[1:])
    ours = Model.from_proto(build(nodes, {"x": [1]}, {last: [1]})).graph
    if dice.random() < 0.7:
        dice.shuffle(ours.nodes)
    theirs = ours.copy()
    drop_unused(ours)
    sort(ours)
    theirs.cleanup().toposort()
    assert [node.name for node in ours.nodes] == [node.name for node in theirs.nodes]
    assert [sorted(r.name for r in t.outputs) for n in ours.nodes for t in n.outputs] == [
        sorted(r.name for r in t.outputs) for n in theirs.nodes for t in n.outputs
    ]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_what_subgraphs_alone_read_is_kept_in_any_order(order):
    inner = helper.make_graph(
        [node("Relu", ["a"], ["i"])], "inner", [], [helper.make_tensor_value_info("i", TensorProto.FLOAT, None)]
    )
    nodes = [
        node("Neg", ["x"], ["a"], "read"), node("Abs", ["x"], ["b"], "unread"),
        node("If", ["yes"], ["y"], "if", then_branch=inner, else_branch=inner),
    ]  # fmt: skip
    graph = Model.from_proto(build(nodes, {"x": [1], "yes": []}, {"y": None}, types={"yes": TensorProto.BOOL})).graph
    graph.nodes[:] = [graph.nodes[place] for place in order]
    drop_unused(graph)
    sort(graph)
    assert [node.name for node in graph.nodes] == ["read", "if"]


def test_a_cycle_is_refused():
    model = Model.from_proto(build([node("Relu", ["x"], ["a"], "r"), node("Relu", ["a"], ["y"], "s")], {"x": [1]}, {"y": [1]}))  # fmt: skip
    first, second = model.graph.nodes
    first.inputs[0] = second.outputs[0]
    with pytest.raises(PassError, match=r"cycle through node '[rs]'"):
        model.check()


def test_a_deep_graph_needs_no_deep_stack():
    nodes = [node("Relu", [f"t{i}"], [f"t{i + 1}"], f"r{i}") for i in range(3000)]
    model = Model.from_proto(build(nodes, {"t0": [1]}, {"t3000": [1]}))
    model.graph.nodes.reverse()
    model.tidy()
    assert [node.name for node in model.nodes] == [f"r{i}" for i in range(3000)]


def test_facts_are_inferred_anew_where_something_changed_and_are_the_callers_own():
    model = Model.from_proto(residual_proto())
    facts = model.facts()
    facts.types.clear()
    assert model.facts().types["c1"] == TensorProto.FLOAT
    model.graph.inputs[0].dtype = np.dtype(np.float16)
    assert model.facts().types["x"] == TensorProto.FLOAT16 and model.copy().facts().types["x"] == TensorProto.FLOAT16


def test_the_collector_is_paused_and_comes_back():
    @collector_paused()
    def enabled() -> bool:
        return gc.isenabled()

    assert gc.isenabled() and not enabled() and gc.isenabled()
    with pytest.raises(ValueError), collector_paused():
        raise ValueError
    assert gc.isenabled()


def test_what_a_paused_block_makes_is_old_and_is_looked_through_once_there_is_much(monkeypatch: pytest.MonkeyPatch):
    def rings() -> list[weakref.ref[Any]]:
        with collector_paused():
            made = [type("Ring", (), {})() for _ in range(5)]
            kept = [[] for _ in range(2 * collection.MANY_NEW)]
            for one in made:
                one.own = one
            refs = [weakref.ref(one) for one in made]
        del made, kept
        return refs

    frozen = gc.get_freeze_count()
    gc.unfreeze()
    gc.collect()
    try:
        before = rings()
        assert all(ref() is not None for ref in before) and not gc.get_freeze_count()
        monkeypatch.setattr(collection, "living_limit", collection.CollectionThreshold(0))
        after = rings()
        assert all(ref() is None for ref in before)
        assert collection.living_limit.most >= collection.MOST_LIVING and all(ref() is not None for ref in after)
    finally:
        if frozen:
            gc.freeze()


def test_what_lives_is_counted_only_where_blocks_of_memory_have_grown(monkeypatch: pytest.MonkeyPatch):
    limit = collection.CollectionThreshold(1000)

    def reached(blocks: int) -> bool:
        monkeypatch.setattr(sys, "getallocatedblocks", lambda: blocks)
        found = limit.reached()
        if found:
            limit.counted()
        return found

    assert [reached(blocks) for blocks in (1000, 1001, 1126, 1127, 900)] == [False, True, False, True, False]


def test_a_graph_that_nobody_uses_gives_its_memory_back_at_once():
    model = Model.from_proto(residual_proto())
    node = weakref.ref(model.nodes[0])
    tensor = weakref.ref(model.nodes[0].outputs[0])
    gc.disable()
    try:
        assemble.dismantle(model.graph)
        assert node() is None and tensor() is None and not model.nodes
    finally:
        gc.enable()


def test_what_was_dropped_in_a_cycle_goes_where_the_process_has_grown(monkeypatch: pytest.MonkeyPatch):
    held = [1000]
    monkeypatch.setattr(collection, "resident", lambda: held[0])
    memory = collection.GrownMemory(most=100, held=1000)

    def ring() -> weakref.ref[Any]:
        one = type("Ring", (), {})()
        one.own = one
        return weakref.ref(one)

    with collector_paused():
        for grown, gone in ((100, False), (101, True)):
            held[0], dropped = 1000 + grown, ring()
            memory.give_back()
            assert (dropped() is None) == gone
        assert memory.held == 1101
        # what the process has given back counts as growth when it comes again
        held[0] = 300
        memory.give_back()
        held[0], dropped = 401, ring()
        memory.give_back()
        assert dropped() is None and memory.held == 401
        # what was made before is looked through by those alone who may have dropped it
        old = type("Old", (), {})()
        old.own, kept = old, weakref.ref(old)
        held[0] = 502
        memory.give_back()
        del old
        held[0], dropped = 603, ring()
        memory.give_back(young_only=True)
        assert dropped() is None and kept() is not None
        held[0] = 704
        memory.give_back()
        assert kept() is None


@pytest.mark.skipif(sys.version_info < (3, 11), reason="before, Python gave every object a dictionary at once")
def test_what_is_read_and_copied_has_no_dictionaries_of_its_own(light):
    graph = import_light(light)
    for one in (graph, assemble.copied(graph)):
        export(one)
        held = [part for node, _ in assemble.walk(one) for part in (node, *node.inputs, *node.outputs)]
        # attributes lie within the object as long as nobody asks for its dictionary
        assert not any(isinstance(o, dict) and "inputs" in o for part in held for o in gc.get_referents(part))


def test_a_constant_that_became_a_variable_is_copied_and_written():
    graph = import_light(LightModel(normalise(residual_proto(), "the model")[0]))
    weight = next(t for node in graph.nodes for t in node.inputs if isinstance(t, gs.Constant))
    graph.inputs.append(weight.to_variable(np.float32, [1]))
    twin = assemble.copied(graph)
    assert content(export(twin).proto) == content(export(graph).proto)


def test_what_writing_a_graph_again_needs_is_freed():
    model = Model.from_proto(residual_proto()).settle()
    twin, before = model.copy(), model.to_bytes()
    twin.to_bytes()
    forget_messages(model)
    assert not model._known._nodes and not model._known._types and twin._known is model._known
    assert model.to_bytes() == twin.to_bytes() == before
