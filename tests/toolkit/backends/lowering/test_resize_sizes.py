"""Resize with sizes for some axes only: what lowering writes, and what TensorRT-RTX's parser takes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.conftest import build, normal, ops, placeholder_context, run
from tests.control_flow import subgraph, switch
from tests.toolkit.backends.backend_models import FLOAT, make, node, profile, profiles, tensor
from toolkit import Journal, Model
from toolkit.backends.backend import EngineSettings
from toolkit.backends.codes import EngineCode
from toolkit.backends.lowering.prepare import lower_for
from toolkit.backends.lowering.resize_sizes import sizes_of_all_axes
from toolkit.backends.rtx import RtxBackend
from toolkit.base.precision import Precision

INT64, BOOL = 7, 9


def enlarged(given=(16, 24), shape=("n", 3, "h", "w"), region=(), **attrs):
    nodes = [
        node("Relu", ["x"], ["r"], "relu"),
        node("Resize", ["r", "region" if region else "", "", "sizes"], ["y"], "up", **attrs),
    ]
    constants = [tensor("sizes", given, INT64), *([tensor("region", region, FLOAT)] if region else [])]
    return make(nodes, {"x": (FLOAT, list(shape))}, {"y": (FLOAT, [None] * 4)}, constants, opset=18)


@pytest.mark.parametrize(
    ("axes", "given", "size"),
    [([2, 3], (16, 24), (2, 3, 16, 24)), ([-1, 2], (24, 16), (2, 3, 16, 24)), ([3], (5,), (2, 3, 8, 5))],
)
def test_sizes_of_some_axes_become_those_of_all(axes, given, size):
    model, journal, x = enlarged(given, axes=axes), Journal(), {"x": normal(2, 3, 8, 6)}
    before = run(model, x)[0]
    assert sizes_of_all_axes(model, journal) == 1 and "axes" not in model.node("up").attrs
    assert [event.why for event in journal.events] == [EngineCode.SIZES_OF_ALL_AXES(resizes=1)]
    assert ops(model) == {"Relu": 1, "Resize": 1, "Shape": 1, "Concat": 1, "Gather": 1}
    onnx.checker.check_model(model.to_proto())
    after = run(model, x)[0]
    assert after.shape == size and np.array_equal(after, before)
    assert sizes_of_all_axes(model, Journal()) == 0


def scaled(axes=(3, -2), wanted=(12.0, 4.0), **attrs):
    """A Resize to a size given by its scales, computed from the sides of its input."""
    nodes = [
        node("Shape", ["x"], ["shape"], "shape"), node("Gather", ["shape", "axes"], ["sides"], "sides"),
        node("Cast", ["sides"], ["lengths"], "lengths", to=FLOAT), node("Div", ["wanted", "lengths"], ["scales"], "scales"),
        node("Resize", ["x", "", "scales"], ["y"], "up", axes=list(axes), **attrs),
    ]  # fmt: skip
    constants = [tensor("axes", axes, INT64), tensor("wanted", wanted, FLOAT)]
    return make(nodes, {"x": (FLOAT, ["n", 3, "h", "w"])}, {"y": (FLOAT, [None] * 4)}, constants, opset=18)


def test_computed_scales_of_some_axes_become_those_of_all():
    model, journal, x = scaled(), Journal(), {"x": normal(2, 3, 8, 6)}
    before = run(model, x)[0]
    assert sizes_of_all_axes(model, journal) == 1 and "axes" not in model.node("up").attrs
    assert [event.why for event in journal.events] == [EngineCode.SIZES_OF_ALL_AXES(resizes=1)]
    onnx.checker.check_model(model.to_proto())
    after = run(model, x)[0]
    assert after.shape == (2, 3, 4, 12) and np.array_equal(after, before)
    assert sizes_of_all_axes(model, Journal()) == 0


@pytest.mark.parametrize("side", [6, 7, 11, 23])
def test_computed_scales_stay_in_fp32_where_float16_would_change_the_size(side):
    """16 / 6 is 2.666 in float16, and a side of 15 instead of 16 follows."""
    model, x = scaled((2, 3), (16.0, 16.0)), {"x": normal(1, 3, side, side)}
    context = placeholder_context()
    made = lower_for(RtxBackend(), EngineSettings(), model, context.plan, rest=Precision.FP16, journal=Journal()).model
    assert run(model, x)[0].shape == run(made, x)[0].shape == (1, 3, 16, 16)
    assert made.facts().types[made.node("up").inputs[0].name] == onnx.TensorProto.FLOAT16


@pytest.mark.parametrize("op", ["Resize", "Cast"])
def test_what_becomes_a_size_in_a_branch_stays_in_fp32(op):
    def branch(to):
        if op == "Cast":
            inner = [node("Cast", ["sides"], [f"{to}_sizes"], f"{to}_sizes", to=INT64),
                     node("Expand", ["zero", f"{to}_sizes"], [to], to)]  # fmt: skip
        else:
            inner = [node("Resize", ["x", "", "sides"], [to], to)]
        return onnx.helper.make_graph(inner, to, [], [onnx.helper.make_tensor_value_info(to, FLOAT, None)])

    nodes = [
        node("Shape", ["x"], ["shape"], "shape"), node("Cast", ["shape"], ["lengths"], "lengths", to=FLOAT),
        node("Div", ["wanted", "lengths"], ["sides"], "sides"),
        node("If", ["odd"], ["y"], "if", then_branch=branch("a"), else_branch=branch("b")),
    ]  # fmt: skip
    constants = [tensor("wanted", [1.0, 3.0, 16.0, 16.0], FLOAT), tensor("zero", 0.0, FLOAT)]
    inputs = {"x": (FLOAT, ["n", 3, "h", "w"]), "odd": (BOOL, [])}
    model = make(nodes, inputs, {"y": (FLOAT, [None] * 4)}, constants, opset=18)
    made = lower_for(
        RtxBackend(), EngineSettings(), model, placeholder_context().plan, rest=Precision.FP16, journal=Journal()
    ).model
    types = made.facts().types
    assert {types[name] for name in ("lengths", "sides")} == {onnx.TensorProto.FLOAT}


def test_a_range_keeps_its_length_above_the_integers_of_float16():
    nodes = [
        node("Shape", ["x"], ["shape"], "shape"), node("Squeeze", ["shape"], ["length"], "length"),
        node("Cast", ["length"], ["stop"], "stop", to=FLOAT), node("Range", ["zero", "stop", "one"], ["places"], "places"),
        node("Mul", ["x", "places"], ["y"], "y"),
    ]  # fmt: skip
    constants = [tensor("zero", 0.0, FLOAT), tensor("one", 1.0, FLOAT)]
    model = make(nodes, {"x": (FLOAT, ["n"])}, {"y": (FLOAT, ["n"])}, constants, opset=18)
    made = lower_for(
        RtxBackend(), EngineSettings(), model, placeholder_context().plan, rest=Precision.FP16, journal=Journal()
    ).model
    x = {"x": normal(2049, scale=1e-3)}
    assert run(made, x)[0].shape == run(model, x)[0].shape == (2049,)


def test_what_the_parser_takes_or_cannot_take_at_all_stays():
    static = enlarged(axes=[2, 3], shape=(2, 3, 8, 6))
    kept = enlarged(axes=[2, 3], keep_aspect_ratio_policy="not_larger")
    whole = enlarged((2, 3, 16, 24))
    for model in (static, kept, whole):
        before = model.fingerprint()
        assert sizes_of_all_axes(model, Journal()) == 0 and model.fingerprint() == before


def test_a_region_that_is_given_for_some_axes_stays_so():
    """Without the axes, the region of two would have been read as that of all four."""
    cut = enlarged(
        axes=[2, 3], region=(0.25, 0.0, 0.75, 1.0), coordinate_transformation_mode="tf_crop_and_resize", mode="linear"
    )
    x = {"x": normal(2, 3, 8, 6)}
    before = run(cut, x)[0]
    sizes_of_all_axes(cut, Journal())
    assert np.array_equal(run(cut, x)[0], before)


def test_branches_may_resize_tensors_of_one_name_and_several_ranks():
    """The rank of the one was taken for that of the other, and the graph was refused."""
    makers = {"maps": node("Abs", ["x"], ["t"], "abs"), "planes": node("Squeeze", ["x", "axis"], ["t"], "squeeze")}
    maps, planes = (
        subgraph([maker, node("Resize", ["t", "", "", "sizes"], [name], f"up_{name}", axes=[-2, -1])], {name: None})
        for name, maker in makers.items()
    )
    proto = build(
        [switch("if", "large", ["y"], maps, planes)], {"x": ["n", 1, "h", "w"], "large": []}, {"y": None},
        {"sizes": np.array([16, 24]), "axis": np.array([1])}, opset=18, types={"large": BOOL},
    )  # fmt: skip
    model = Model.from_proto(proto)
    feeds = [{"x": normal(2, 1, 8, 6), "large": np.array(large)} for large in (True, False)]
    before = [run(model, one)[0] for one in feeds]
    sizes_of_all_axes(model, Journal())
    assert all(np.array_equal(run(model, one)[0], wanted) for one, wanted in zip(feeds, before))


@pytest.mark.rtx
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx")
@pytest.mark.parametrize(("model", "given"), [(enlarged(axes=[2, 3]), 3), (scaled(), 2)], ids=["sizes", "scales"])
def test_the_parser_takes_a_dynamic_resize_of_two_axes(tmp_path: Path, model, given):
    backend, settings = RtxBackend(), EngineSettings(compute_capabilities=("8.9",))
    shapes = ((1, 3, 8, 6), (2, 3, 8, 6), (4, 3, 9, 9))
    context = placeholder_context()
    made = lower_for(backend, settings, model, context.plan, rest=Precision.FP16, journal=Journal()).model
    assert made.node("up").inputs[given].inputs[0].op == "Gather"
    assert made.facts().types[made.node("up").inputs[0].name] == onnx.TensorProto.FLOAT16
    backend.parse(made.save(tmp_path / "lowered.onnx", ir_version=10), profiles(profile("all", x=shapes)), settings)
