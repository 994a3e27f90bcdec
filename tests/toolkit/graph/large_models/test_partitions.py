"""A model in partitions: the places of the cuts, bit-identical results, and what is loaded at a time."""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.large_models import block_samples, residual_blocks
from toolkit.base.errors import DataError, ModelError
from toolkit.graph.large_models.cutting import by_nodes
from toolkit.graph.large_models.memory import least_limit, loaded, memory_limit, weights_limit
from toolkit.graph.large_models.partitions import (
    Boundaries,
    PartitionedSession,
    bounding_limit,
    by_partition,
    partitions_of,
    resident_bytes,
)
from toolkit.graph.model import Model
from toolkit.graph.proto import on_disk
from toolkit.graph.proto.light import LightModel
from toolkit.graph.sessions import ort_session
from toolkit.graph.sessions import session as sessions
from toolkit.graph.sessions.endless_loops import LoopLimits
from toolkit.graph.sessions.session import session

WIDTH, BLOCKS = 64, 6
WEIGHT = 4 * WIDTH**2
PACKED = 2 * WEIGHT


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blocks")
    path = residual_blocks(folder / "blocks.onnx", WIDTH, BLOCKS)
    return Model.load(path), np.load(block_samples(folder / "x.npz", WIDTH))["x0"]


@pytest.mark.parametrize("weights", [1, 2, 3, 5, 11])
def test_results_are_those_of_the_whole_model(blocks, weights):
    model, x = blocks
    wanted = ["x2", "relu0", "y", "back3", "x0"]
    whole = session(model, wanted, threads=1).run({"x0": x})
    with memory_limit(least_limit(2 * weights * PACKED)):
        opened = session(model, wanted, threads=1)
        assert isinstance(opened._inner, PartitionedSession)
        found = opened.run({"x0": x})
        assert list(found) == list(whole) and opened.outputs == session(model, wanted).outputs
        assert all(found[name].tobytes() == whole[name].tobytes() for name in wanted)
        assert opened.run({"x0": x}, ["x2"])["x2"].tobytes() == whole["x2"].tobytes()


def test_partitions_fit_and_are_cut_where_one_tensor_is_alive(blocks):
    model, _ = blocks
    with memory_limit(least_limit(2 * 5 * PACKED)):
        found = partitions_of(model.to_light(), packed=True)
    assert [len(one.weights) for one in found] == [4, 4, 4]
    assert [one.reads for one in found] == [["x0"], ["x2"], ["x4"]]
    assert [one.gives for one in found] == [["x2"], ["x4"], ["y"]]
    with memory_limit(least_limit(2 * 12 * PACKED)):
        assert len(partitions_of(model.to_light(), packed=True)) == 1
    assert len(partitions_of(model.to_light(), packed=True)) == 1


def test_what_is_loaded_stays_within_the_limit(blocks, monkeypatch):
    model, x = blocks
    limit, most, known = least_limit(4 * PACKED), 0, []
    whole = loaded.use

    @contextmanager
    def watched(owner, part, make):
        nonlocal most
        with whole(owner, part, make) as found:
            most = max(most, sum(held for _, held in loaded._known.values()))
            known.append(weakref.ref(found._sess))
            in_memory = {id(held()) for held in known if held() is not None}
            assert len(in_memory) == len(loaded._known)
            yield found

    monkeypatch.setattr(loaded, "use", watched)
    with memory_limit(limit):
        one, other = session(model), session(model)
        for _ in range(2):
            one.run({"x0": x})
            other.run({"x0": x})
        assert 0 < most <= weights_limit() < limit and loaded._known
        del one, other
        assert not loaded._known


@pytest.mark.parametrize("spill", [False, True])
def test_several_samples_load_a_partition_once(blocks, monkeypatch, spill):
    model, x = blocks
    feeds = [{"x0": row[None]} for row in x]
    wanted = [session(model, ["y", "x2"], threads=1).run(feed) for feed in feeds]
    counted = []
    real = ort_session.load_session
    monkeypatch.setattr("toolkit.graph.sessions.session.load_session", lambda *given: counted.append(0) or real(*given))
    if spill:
        monkeypatch.setattr(on_disk, "SPILL_BYTES", 0)
    with memory_limit(least_limit(4 * PACKED)):
        opened = session(model, ["y", "x2"], threads=1)
        begun = len(counted)
        found = list(opened.run_each(feeds))
        # three partitions of four weights, of which two are loaded at a time
        assert begun == 6 and len(counted) - begun == 6
        with pytest.raises(DataError):
            list(opened.run_each([feeds[0], {}]))
        given = opened.run_each([feeds[0], {"x0": np.zeros((1, 3), np.float32)}])
        assert next(given)["y"].tobytes() == wanted[0]["y"].tobytes()
        with pytest.raises(ModelError, match="3"):
            next(given)
    assert [one["y"].tobytes() for one in found] == [one["y"].tobytes() for one in wanted]
    assert [one["x2"].tobytes() for one in found] == [one["x2"].tobytes() for one in wanted]


def test_sessions_that_hand_on_load_no_partition_for_types_that_are_known(blocks, monkeypatch):
    model, x = blocks
    loads, real = [], ort_session.load_session
    monkeypatch.setattr("toolkit.graph.sessions.session.load_session", lambda *given: loads.append(0) or real(*given))
    with memory_limit(least_limit(2 * PACKED)):
        handed, counts = Boundaries(), []
        for group in by_partition(model, ["x1", "relu2", "x3", "y"]):
            opened = session(model, group, threads=1, boundaries=handed)
            opened.run({"x0": x})
            counts.append(len(loads))
    # the first has to look at all twelve; the others load what they run and no more
    assert counts[0] >= 12 and all(after - before < 12 for before, after in pairwise(counts))


def test_a_loops_limits_are_those_of_one_sample(blocks, monkeypatch):
    model, x = blocks
    begun = []

    @contextmanager
    def limited(limits, options, where):
        begun.append(limits.node)
        yield

    monkeypatch.setattr("toolkit.graph.sessions.session.loop_limits", lambda *of: LoopLimits("loop", 30.0, 1 << 40))
    monkeypatch.setattr("toolkit.graph.sessions.session.limited", limited)
    with memory_limit(least_limit(4 * PACKED)):
        assert len(list(session(model, ["y"], threads=1).run_each({"x0": row[None]} for row in x[:3]))) == 3
    assert begun == ["loop"] * 3


def test_a_session_that_is_run_in_partitions_holds_no_weights_by_itself(blocks):
    light = blocks[0].to_light()
    whole = sum(values.nbytes for values in light.weights.values())
    assert resident_bytes(light, packed=True) == whole > 0
    with memory_limit(least_limit(4 * PACKED)):
        assert resident_bytes(light, packed=True) == 0


def test_a_limit_leaves_the_program_its_part():
    for size in (10**3, 10**6, 10**8, 10**9, 10**10):
        with memory_limit(least_limit(size)):
            assert weights_limit() >= size
        with memory_limit(least_limit(size) - 4):
            assert weights_limit() < size
    with memory_limit(6 * 10**9):
        assert weights_limit() == 6 * 10**9 - (224 << 20) - (256 << 20)
    assert weights_limit() is None


def test_a_node_that_does_not_fit_alone_is_named(blocks):
    model, _ = blocks
    with memory_limit(PACKED), pytest.raises(ModelError, match=r"'wide0' \(MatMul\) alone needs 0\.03 MB") as caught:
        session(model)
    assert 'memory to "1MB"' in str(caught.value)
    assert session(model)


def test_an_output_that_is_no_tensor_is_told_as_it_is_of_the_whole_model(blocks):
    model, x = blocks
    proto = model.to_proto()
    proto.graph.node.append(helper.make_node("SequenceConstruct", ["x2", "y"], ["pair"], name="pair"))
    proto.graph.output.append(helper.make_tensor_sequence_value_info("pair", TensorProto.FLOAT, None))
    for limit in (None, least_limit(4 * PACKED)):
        with memory_limit(limit):
            opened = session(proto)
            with pytest.raises(ModelError) as raised:
                opened.run({"x0": x})
            assert "sequence" in raised.value.what
            assert opened.run({"x0": x}, ["y"])["y"].shape == x.shape


def test_a_graph_of_many_nodes_is_cut_in_front_of_layers_and_computes_the_same(blocks, monkeypatch):
    model, x = blocks
    wanted = ["x2", "relu0", "y", "back3", "x0"]
    whole = session(model, wanted, threads=1).run({"x0": x})
    monkeypatch.setattr(sessions, "MOST_NODES", 9)
    monkeypatch.setattr(sessions, "_PARTITION_NODES", 9)
    light = model.to_light()
    opened = session(light, wanted, threads=1)
    # the sessions take the place of the message
    assert not light.proto.graph.node and not opened._inner._pieces
    found = opened._inner._partitions
    assert [len(one.nodes) for one in found] == [8, 8, 8] and [one.reads for one in found] == [["x0"], ["x2"], ["x4"]]
    assert all(opened.run({"x0": x})[name].tobytes() == whole[name].tobytes() for name in wanted)
    assert len(opened._inner._kept) == 3 and isinstance(session(model, as_written=False)._inner, PartitionedSession)
    nodes = [helper.make_node("Relu", [f"r{i}"], [f"r{i + 1}"]) for i in range(20)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("r0", "r20")]
    proto = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:]), ir_version=8)
    assert not isinstance(session(proto)._inner, PartitionedSession)


def test_each_partition_takes_the_types_of_its_own_tensors(blocks):
    model, _ = blocks
    light = model.to_light()
    del light.proto.graph.value_info[:]
    known = sorted({name for node in light.proto.graph.node for name in node.output} - {"y"}, reverse=True)
    light.proto.graph.value_info.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in known)
    nodes, parts = list(light.proto.graph.node), []

    def load(part):
        parts.append([value.name for value in part.proto.graph.value_info])
        return _loaded_alone(part)

    partitions = by_nodes(light, 9)
    opened = PartitionedSession(light, partitions, load, True, all_fit=True)
    made = [{name for index in one.nodes for name in nodes[index].output} - set(one.gives) for one in partitions]
    assert len(parts) == 3 and parts == [[name for name in known if name in inner] for inner in made]
    assert opened.get_outputs()[0].name == "y"


@pytest.mark.parametrize("told", [None, {("", "Conv")}, {("", "Conv"), ("", "SequenceConstruct")}])
def test_a_graph_is_cut_alike_whether_its_operators_are_known_or_too_many_are(blocks, told):
    light = blocks[0].to_light()
    assert [list(one.nodes) for one in by_nodes(light, 9, told)] == [list(one.nodes) for one in by_nodes(light, 9)]
    assert len(by_nodes(light, 9, told)) == 3


@pytest.mark.parametrize("operators", [None, {("", "Relu"), ("", "SequenceConstruct"), ("", "SequenceAt")}])
def test_a_graph_that_hands_on_sequences_is_not_cut_by_its_nodes(operators):
    nodes = [
        helper.make_node("SequenceConstruct", ["x", "x"], ["s"]),
        helper.make_node("SequenceAt", ["s", "i"], ["r0"]),
    ]
    nodes += [helper.make_node("Relu", [f"r{n}"], [f"r{n + 1}"]) for n in range(20)]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]), helper.make_tensor_value_info("i", 7, [])]
    made = [helper.make_tensor_value_info("r20", TensorProto.FLOAT, [2])]
    light = LightModel(helper.make_model(helper.make_graph(nodes, "g", given, made), ir_version=8))
    (whole,) = by_nodes(light, 9, operators)
    assert list(whole.nodes) == list(range(22))


@pytest.mark.parametrize(("refused", "pieces"), [("relu0", 1), ("y", 3)])
def test_what_is_refused_at_its_beginning_is_cut_no_further(blocks, monkeypatch, refused, pieces):
    """Cutting a graph of 225,000 nodes takes longer than to see that onnxruntime refuses the first of them."""
    model, _ = blocks
    light, parts, cut_out = model.to_light(), [], PartitionedSession._cut_out
    maker = next(node for node in light.proto.graph.node if refused in node.output)
    maker.op_type = "Unknown"
    monkeypatch.setattr(PartitionedSession, "_cut_out", lambda self, one: parts.append(one) or cut_out(self, one))
    with pytest.raises(ModelError, match="Unknown"):
        PartitionedSession(light, by_nodes(light, 9), _loaded_alone, True, all_fit=True)
    assert len(parts) == pieces


def _loaded_alone(part):
    return ort_session.load_session(part, 1, True, True, True, "own", [])


@pytest.mark.parametrize(("room", "most"), [(5, 4), (0.5, 1)])
def test_weights_stored_in_less_are_widened_partition_by_partition(blocks, monkeypatch, room, most):
    model, x = blocks
    proto = model.to_proto()
    stored = {one.name: np.rint(numpy_helper.to_array(one) * 100).astype(np.int8) for one in proto.graph.initializer}
    scale = numpy_helper.from_array(np.float32(0.01), "scale")
    del proto.graph.initializer[:]
    proto.graph.initializer.extend([scale, *(numpy_helper.from_array(v, f"{n}_int8") for n, v in stored.items())])
    pairs = [helper.make_node("DequantizeLinear", [f"{n}_int8", "scale"], [n], f"{n}_dq") for n in stored]
    nodes = [*pairs, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    whole = session(proto, threads=1, packed=False)
    wanted = whole.run({"x0": x})["y"]
    monkeypatch.setattr(sessions, "_WIDENED_BYTES", int(room * WEIGHT))
    opened = session(proto, threads=1, packed=False)
    assert not isinstance(whole._inner, PartitionedSession) and isinstance(opened._inner, PartitionedSession)
    held = [len(one.weights) for one in opened._inner._partitions]
    assert sum(held) == len(stored) and max(held) == most
    assert opened.run({"x0": x})["y"].tobytes() == wanted.tobytes()
    # what is stored as it is computed with takes no more, and packed weights are widened as they are loaded
    assert not isinstance(session(model, packed=False)._inner, PartitionedSession)
    assert not isinstance(session(proto)._inner, PartitionedSession)
    # a sequence is nothing to hand on
    proto.graph.node.append(helper.make_node("SequenceConstruct", ["x2", "y"], ["pair"], name="pair"))
    proto.graph.output.append(helper.make_tensor_sequence_value_info("pair", TensorProto.FLOAT, None))
    assert not isinstance(session(proto, packed=False)._inner, PartitionedSession)


@pytest.mark.parametrize(("nodes", "folded"), [(20, True), (5, False)])
def test_constants_are_folded_in_a_partition_of_few_nodes(blocks, monkeypatch, nodes, folded):
    model, x = blocks
    half = helper.make_node("Mul", ["w0a", "w0b"], ["both"], "both")
    proto = model.to_proto()
    proto.graph.node.insert(0, half)
    for one in proto.graph.node[1:]:
        one.input[:] = ["both" if name == "w3a" else name for name in one.input]
    made = []
    real = ort_session._loaded
    monkeypatch.setattr(ort_session, "_loaded", lambda *given: made.append(given[2]) or real(*given))
    wanted = session(proto, threads=1).run({"x0": x})["y"]
    monkeypatch.setattr(sessions, "MOST_NODES", 9)
    monkeypatch.setattr(sessions, "_PARTITION_NODES", 9)
    monkeypatch.setattr(ort_session, "_OF_CONSTANTS", {"ConstantFolding": nodes})
    made.clear()
    found = session(proto, threads=1).run({"x0": x})["y"]
    assert len(made) == 3 and all(("ConstantFolding" not in unwanted) is folded for unwanted in made)
    assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize(("widths", "factor"), [([64] * 6, 1.2), ([64, 64, 512], None)])
def test_the_limit_that_bounds_a_large_model_lets_each_node_run(tmp_path, monkeypatch, widths, factor):
    # the last layer may hold most of the weights: then 1.2 times their size would leave no room for it
    nodes, weights = [], {}
    for number, width in enumerate(widths):
        weights[f"w{number}"] = numpy_helper.from_array(
            np.ones((widths[number - 1] if number else 64, width), np.float16)
        )
        nodes.append(helper.make_node("MatMul", [f"x{number}", f"w{number}"], [f"x{number + 1}"], name=f"n{number}"))
    half, last = TensorProto.FLOAT16, f"x{len(widths)}"
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x0", half, ["n", 64])],
        [helper.make_tensor_value_info(last, half, ["n", widths[-1]])],
        [helper.make_tensor(name, half, one.dims, one.raw_data, raw=True) for name, one in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    model = Model.load(tmp_path / "m.onnx")
    assert bounding_limit(model.to_light()) is None
    monkeypatch.setattr("toolkit.graph.proto.light.PROTOBUF_LIMIT", 0)
    size = sum(4 * int(np.prod(one.dims)) for one in weights.values())
    limit = bounding_limit(model.to_light())
    assert limit is not None and (limit == int(np.ceil(1.2 * size)) if factor else limit > 2 * size)
    with memory_limit(limit):
        assert len(partitions_of(model.to_light(), packed=True)) > 1
    if not factor:
        with memory_limit(int(0.9 * limit)), pytest.raises(ModelError, match=r"'n2' .MatMul. alone needs"):
            partitions_of(model.to_light(), packed=True)
