"""Pairs before a Concat are put after it where they are all the same: fewer nodes, the same bits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.conftest import build, node, normal
from toolkit.graph.large_models.memory import least_limit, memory_limit
from toolkit.graph.large_models.partitions import Boundaries, by_partition
from toolkit.graph.model import Model
from toolkit.graph.ort_forms.pairs_after_concats import move_pairs_after_concats
from toolkit.graph.sessions import session as sessions
from toolkit.graph.sessions.session import session

_HEAD = '<ir_version: 8, opset_import: ["": 17]>'
_INIT = "float s = {0.1}, float t = {0.1}, float u = {0.2}, int8 z = {0}, int8 zz = {0}, float[1] v = {0.1}"
_PAIR = "aq = QuantizeLinear(ar, s, z) ad = DequantizeLinear(aq, s, z) bq = QuantizeLinear(br, {b}) bd = DequantizeLinear(bq, {b})"
_MODEL = """%s
g (float[2,3] a, float[2,3] b) => (float[2,9] y)
<%s>
{ ar = Relu(a) br = Neg(b) %s
  c = Concat<axis=1>(ad, bd, ad)
  y = Abs(c) }"""


def _model(pairs: str, head: str = _HEAD, more: str = "") -> onnx.ModelProto:
    proto = onnx.parser.parse_model(_MODEL % (head, _INIT, pairs))
    for one in onnx.parser.parse_graph(f"g () => () {{ {more} }}").node if more else ():
        proto.graph.node.append(one)
    return proto


def _ops(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def _feed() -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    # ties, values out of range and what is no number
    made = {name: (8 * random.standard_normal((2, 3))).astype(np.float32) for name in "ab"}
    made["a"][0], made["b"][1] = [0.05, 0.15, 1e30], [np.inf, -0.25, -0.0]
    return made


def test_one_pair_after_gives_the_same_bits():
    proto = _model(_PAIR.format(b="t, zz"))
    wanted = onnx.ModelProto.FromString(proto.SerializeToString())
    assert move_pairs_after_concats(proto) == 1
    assert _ops(proto) == ["Relu", "Neg", "Concat", "QuantizeLinear", "DequantizeLinear", "Abs"]
    onnx.checker.check_model(proto, full_check=True)
    assert list(proto.graph.node[2].input) == ["ar", "br", "ar"] and proto.graph.node[4].output[0] == "c"
    reference = sessions.session(wanted, as_written=False, optimise=False).run(_feed())["y"]
    assert session(proto).run(_feed())["y"].tobytes() == reference.tobytes()
    assert session(wanted).run(_feed())["y"].tobytes() == reference.tobytes()


def test_concats_of_concats_hand_their_pair_on():
    proto = onnx.parser.parse_model(f"""{_HEAD}
        g (float[2,3] a, float[2,3] b) => (float[2,12] y)
        <{_INIT}>
        {{ aq = QuantizeLinear(a, s, z) ad = DequantizeLinear(aq, s, z)
           bq = QuantizeLinear(b, t, z) bd = DequantizeLinear(bq, t, z)
           c = Concat<axis=1>(ad, bd) d = Concat<axis=1>(bd2, ad2)
           ad2q = QuantizeLinear(a, s, z) ad2 = DequantizeLinear(ad2q, s, z)
           bd2q = QuantizeLinear(b, s, z) bd2 = DequantizeLinear(bd2q, s, z)
           y = Concat<axis=1>(c, d) }}""")
    order = [0, 1, 2, 3, 4, 6, 7, 8, 9, 5, 10]
    nodes = [onnx.NodeProto.FromString(proto.graph.node[place].SerializeToString()) for place in order]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    wanted = session(onnx.ModelProto.FromString(proto.SerializeToString()), as_written=False, optimise=False)
    assert move_pairs_after_concats(proto) == 3
    assert _ops(proto) == ["Concat", "Concat", "Concat", "QuantizeLinear", "DequantizeLinear"]
    onnx.checker.check_model(proto, full_check=True)
    assert session(proto).run(_feed())["y"].tobytes() == wanted.run(_feed())["y"].tobytes()


@pytest.mark.parametrize(
    ("pairs", "head", "more", "outputs"),
    [
        (_PAIR.format(b="u, zz"), _HEAD, "", []),  # another scale
        (_PAIR.format(b="v, zz"), _HEAD, "", []),  # another shape of it
        (_PAIR.format(b="t"), _HEAD, "", []),  # another type
        (_PAIR.format(b="t, zz"), '<ir_version: 11, opset_import: ["": 23]>', "", []),  # types may differ
        (_PAIR.format(b="t, zz"), _HEAD, "e = Neg(ad)", []),  # another reader
        (_PAIR.format(b="t, zz"), _HEAD, "e = Identity(bq)", []),
        (_PAIR.format(b="t, zz"), _HEAD, "", ["ad", "y"]),  # what is asked for
        (_PAIR.format(b="t, zz"), _HEAD, "", ["bq", "y"]),
        ("ad = Identity(ar) bq = QuantizeLinear(br, t, z) bd = DequantizeLinear(bq, t, z)", _HEAD, "", []),
    ],
)
def test_what_else_is_there_is_left(pairs, head, more, outputs):
    proto = _model(pairs, head, more)
    del proto.graph.output[1 if not outputs else 0 :]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    before = proto.SerializeToString()
    assert move_pairs_after_concats(proto) == 0
    assert proto.SerializeToString() == before


@pytest.mark.parametrize("reads", ["ad", "ad, ad"])
def test_one_pair_alone_stays_in_front(reads):
    proto = onnx.parser.parse_model(f"""{_HEAD}
        g (float[2,3] a, float[2,3] b) => (float[2,n] y)
        <{_INIT}>
        {{ aq = QuantizeLinear(a, s, z) ad = DequantizeLinear(aq, s, z) y = Concat<axis=1>({reads}) }}""")
    before = proto.SerializeToString()
    assert move_pairs_after_concats(proto) == 0
    assert proto.SerializeToString() == before


def test_a_scale_that_the_caller_may_give_is_no_constant():
    proto = _model(_PAIR.format(b="t, zz"))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("t", TensorProto.FLOAT, []))
    assert move_pairs_after_concats(proto) == 0


def test_sessions_have_the_fewer_nodes_and_by_default_optimizations_those_that_are_written(monkeypatch):
    loaded = []
    plain = sessions.load_session

    def load(part, *given, **more):
        loaded.append(len(part.proto.graph.node))
        return plain(part, *given, **more)

    monkeypatch.setattr(sessions, "load_session", load)
    proto = _model(_PAIR.format(b="t, zz"))
    session(proto)
    session(proto, as_written=False)
    session(proto, ["ad", "y"])
    assert loaded == [6, 8, 8]


@pytest.mark.parametrize("weights", [2, 3, 4, 6])
def test_sessions_that_hand_on_are_cut_alike_whatever_they_are_asked_for(weights):
    """What one gave at a cut is what the next began with, and which pairs are moved hangs on what is asked for."""
    width, nodes, last = 64, [], "x"
    stored = {"s": np.float32(0.05), "z": np.int8(0)}
    for i in range(4):
        for branch in "ab":
            out, name = f"{branch}{i}", f"w{branch}{i}"
            stored[name] = normal(width, width, seed=len(stored), scale=0.3)
            nodes += [
                node("MatMul", [last, name], [out]), node("QuantizeLinear", [out, "s", "z"], [f"{out}q"]),
                node("DequantizeLinear", [f"{out}q", "s", "z"], [f"{out}d"]),
            ]  # fmt: skip
        stored[f"v{i}"] = normal(2 * width, width, seed=len(stored), scale=0.3)
        nodes += [
            node("Concat", [f"a{i}d", f"b{i}d"], [f"c{i}"], axis=1), node("MatMul", [f"c{i}", f"v{i}"], [last := f"y{i}"]),
        ]  # fmt: skip
    model = Model.from_proto(build(nodes, {"x": ["n", width]}, {last: ["n", width]}, stored))
    names = [kind.format(i) for i in range(4) for kind in ("a{}", "a{}d", "b{}", "c{}", "y{}")]
    feed = {"x": normal(3, width)}
    whole, handed = session(model, names).run(feed), Boundaries()
    # a MatMul of 64 columns takes 8 bytes a value, packed, in half of the room
    with memory_limit(least_limit(16 * width**2 * weights)):
        groups = by_partition(model, names)
        assert len(groups) > 1
        for group in groups:
            found = session(model, group, boundaries=handed).run(feed)
            assert all(found[name].tobytes() == whole[name].tobytes() for name in group)
