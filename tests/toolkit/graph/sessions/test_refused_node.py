"""What onnxruntime refuses is told with the node, where its own error has none."""

from __future__ import annotations

import gc
import weakref

import pytest

from tests.conftest import build, node, normal
from toolkit.base.errors import ModelError, QtoolError
from toolkit.graph.proto.light import LightModel
from toolkit.graph.sessions.ort_session import cause_of
from toolkit.graph.sessions.session import session


@pytest.mark.parametrize("name", ["conv 2", "c2"])
@pytest.mark.parametrize("size", [1, 64], ids=["small weights", "weights given as arrays"])
def test_a_kernel_that_cannot_be_made_is_named(name, size):
    nodes = [
        node("Conv", ["x", "w"], ["c1"], "conv 1"),
        node("Relu", ["c1"], ["r"]),
        node("Conv", ["r", "w"], ["c2"], name, auto_pad="SOMETHING"),
        node("Conv", ["c2", "w"], ["y"], "conv 3"),
    ]
    weights = {"w": normal(size, size, 1, 1)}
    with pytest.raises(ModelError, match=rf"refuses the model for node '{name}' \(Conv\): Unknown AutoPadType String"):
        session(build(nodes, {"x": ["n", size, 8, 8]}, {"y": None}, weights))


def test_an_error_that_names_its_node_stays():
    nodes = [node("Relu", ["x"], ["r"]), node("Add", ["r", "w"], ["y"], "sum")]
    with pytest.raises(ModelError) as caught:
        session(build(nodes, {"x": [2, 3]}, {"y": None}, {"w": normal(5)}))
    assert "for node" not in caught.value.what and "(sum)" in caught.value.what


def test_what_was_made_of_a_model_that_is_refused_goes_with_the_error():
    nodes = [node("Relu", ["x"], ["r"]), node("Add", ["r", "w"], ["y"], "sum")]
    light = LightModel.of(build(nodes, {"x": [2, 3]}, {"y": None}, {"w": normal(5)}))
    held, was = weakref.ref(light), gc.isenabled()
    gc.disable()
    try:
        with pytest.raises(ModelError) as caught:
            session(light)
        assert caught.value.__cause__ is not caught.value
        del light, caught
        # by itself, without the collector of cycles
        assert held() is None
    finally:
        if was:
            gc.enable()


@pytest.mark.parametrize(
    ("what", "cause"),
    [
        ("onnxruntime cannot run the model on x [2, 3]: out of memory", "out of memory"),
        ("onnxruntime refuses the model for node 'a: b' (Conv): no kernel", "node 'a: b' (Conv): no kernel"),
        ("the disk is full: /tmp", "the disk is full: /tmp"), ("onnxruntime is gone", "onnxruntime is gone"),
    ],
)  # fmt: skip
def test_a_cause_does_not_repeat_that_onnxruntime_failed(what, cause):
    assert cause_of(QtoolError(what, remedy="none")) == cause
