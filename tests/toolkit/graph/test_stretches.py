"""A model in stretches: the places of the cuts, bit-identical results, and what is loaded at a time."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.large_models import block_samples, residual_blocks
from toolkit.base.errors import ModelError
from toolkit.graph import stretches
from toolkit.graph.model import Model
from toolkit.graph.sessions import session
from toolkit.graph.stretches import Stretched, memory_limit, stretches_of

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
    with memory_limit(2 * weights * PACKED):
        loaded = session(model, wanted, threads=1)
        assert isinstance(loaded._inner, Stretched)
        found = loaded.run({"x0": x})
        assert list(found) == list(whole) and loaded.outputs == session(model, wanted).outputs
        assert all(found[name].tobytes() == whole[name].tobytes() for name in wanted)
        assert loaded.run({"x0": x}, ["x2"])["x2"].tobytes() == whole["x2"].tobytes()


def test_stretches_fit_and_are_cut_where_one_tensor_is_alive(blocks):
    model, _ = blocks
    with memory_limit(2 * 5 * PACKED):
        found = stretches_of(model.to_light(), packed=True)
    assert [len(one.weights) for one in found] == [4, 4, 4]
    assert [one.reads for one in found] == [["x0"], ["x2"], ["x4"]]
    assert [one.gives for one in found] == [["x2"], ["x4"], ["y"]]
    with memory_limit(2 * 12 * PACKED):
        assert len(stretches_of(model.to_light(), packed=True)) == 1
    assert len(stretches_of(model.to_light(), packed=True)) == 1


def test_what_is_loaded_stays_within_the_limit(blocks, monkeypatch):
    model, x = blocks
    limit, most = 4 * PACKED, 0
    opened = stretches._loaded.open

    known = []

    def watched(key, size, load):
        nonlocal most
        found = opened(key, size, load)
        most = max(most, sum(held for _, held in stretches._loaded._known.values()))
        known.append(weakref.ref(found._sess))
        in_memory = {id(held()) for held in known if held() is not None}
        assert len(in_memory) == len(stretches._loaded._known)
        return found

    monkeypatch.setattr(stretches._loaded, "open", watched)
    with memory_limit(limit):
        one, other = session(model), session(model)
        for _ in range(2):
            one.run({"x0": x})
            other.run({"x0": x})
        assert 0 < most <= limit and stretches._loaded._known
        del one, other
        assert not stretches._loaded._known


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
    for limit in (None, 4 * PACKED):
        with memory_limit(limit):
            loaded = session(proto)
            with pytest.raises(ModelError) as raised:
                loaded.run({"x0": x})
            assert "sequence" in raised.value.what
            assert loaded.run({"x0": x}, ["y"])["y"].shape == x.shape
