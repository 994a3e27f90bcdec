"""Folding in graphs with control flow, and what cannot be computed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from passes.fold_constants import FoldConstants
from tests import control_flow as models
from tests.conftest import build, node, normal, ops, run, said
from toolkit import Code, Context, Extent, Model, Profiles, ShapeProfile
from toolkit.graph import folding


def folded(proto):
    """The folded model, of a copy as in a run, and the journal."""
    model, context = Model.from_proto(proto).copy(), Context()
    FoldConstants()(model, context)
    return model, context.journal


@pytest.mark.parametrize("inner", [None, False, True])
@pytest.mark.parametrize("outer", [False, True])
def test_nested_ifs_with_two_outputs_are_replaced_by_their_branches(outer, inner):
    proto = models.nested(outer, inner)
    model, journal = folded(proto)
    for rows in (1, 3):
        feeds = {"x": normal(rows, 4)}
        assert all(np.array_equal(a, b) for a, b in zip(run(proto, feeds), run(model, feeds)))
    left, taken = ("else", "then") if outer else ("then", "else")
    inlined = {e.node: e.what.values["branch"] for e in journal.of("changed") if e.what.code is Code.INLINED}
    expected = {"outer": taken, "twice": taken}
    if inner is not None:
        expected[f"{taken}_inner"] = "then" if inner else "else"
    assert inlined == expected
    assert ops(model).get("If", 0) == (inner is None)
    removed = {e.node for e in journal.of("changed") if e.what.code is Code.REMOVED}
    assert {f"{left}_h", f"{left}_p", f"{left}_q"} <= removed
    assert not journal.of("declined")


def test_what_is_inside_loops_and_scans_is_folded_and_computes_the_same():
    for make, feeds, gone in (
        (models.conv_in_loop, {"x": normal(2, 4, 8)}, {"body_two"}),
        (models.scan, {"x": normal(5, 2, 6), "state0": normal(2, 4)}, set()),
        (models.with_state, {"x": normal(2, 32), "state": normal(2, 2, 6), "sr": np.array(16000)}, set()),
    ):
        model, journal = folded(make())
        assert {e.node for e in journal.of("changed")} == gone
        assert all(np.array_equal(a, b) for a, b in zip(run(make(), feeds), run(model, feeds)))


def one_profile(**shapes):
    """A profile of min and max shapes."""
    return Profiles((ShapeProfile("all", {name: Extent(low, low, high) for name, (low, high) in shapes.items()}),))


@pytest.mark.parametrize("most", [1, 3])
def test_an_if_is_decided_by_what_all_profiles_fix(most):
    proto = models.nested(True)
    model, context = Model.from_proto(proto).copy(), Context(profiles=one_profile(x=((1, 4), (most, 4))))
    FoldConstants()(model, context)
    assert ops(model).get("If", 0) == (most > 1)
    assert model.input_shapes()["x"] == ([1, 4] if most == 1 else ["n", 4])
    fixed = [{"inputs": ("x",), "nodes": ("then_inner",)}] if most == 1 else []
    assert said(context.journal, Code.FIXED_BY_PROFILES) == fixed
    feeds = {"x": normal(most, 4)}
    assert all(np.array_equal(a, b) for a, b in zip(run(proto, feeds), run(model, feeds)))


def test_sizes_that_break_a_branch_for_other_sizes_decide_nothing():
    """One branch takes 4 columns, the other 8: with 4 fixed, the second cannot even be loaded."""
    cond = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "one"], ["cols"]),
        node("Equal", ["cols", "four"], ["is"]),
    ]
    inner = models.switch("inner", "is", ["a"], models.subgraph([node("MatMul", ["x", "w4"], ["p"])], {"p": None}),
                          models.subgraph([node("Neg", ["x"], ["q"])], {"q": None}))  # fmt: skip
    outer = models.switch("outer", "rate", ["y"], models.subgraph([*cond, inner], {"a": None}),
                          models.subgraph([node("MatMul", ["x", "w8"], ["b"])], {"b": None}))  # fmt: skip
    weights = {"w4": normal(4, 5), "w8": normal(8, 5), "one": np.array([1]), "four": np.array([4])}
    proto = build([outer], {"x": ["n", "m"], "rate": []}, {"y": None}, weights, types={"rate": TensorProto.BOOL})
    model, context = Model.from_proto(proto).copy(), Context(profiles=one_profile(x=((1, 4), (3, 4))))
    FoldConstants()(model, context)
    assert ops(model)["If"] == 2 and model.input_shapes()["x"] == ["n", "m"]
    assert [found["nodes"] for found in said(context.journal, Code.NOT_FIXED_BY_PROFILES)] == [("inner",)]
    feeds = {"x": normal(2, 4), "rate": np.array(True)}
    assert np.array_equal(run(proto, feeds)[0], run(model, feeds)[0])


def test_an_if_whose_condition_is_an_input_stays_with_its_layers():
    model, journal = folded(models.layers_in_branches())
    for rate in (0, 1):
        feeds = {"x": normal(2, 3, 16), "rate": np.array(rate)}
        assert all(np.array_equal(a, b) for a, b in zip(run(models.layers_in_branches(), feeds), run(model, feeds)))
    assert not journal.of("changed")


def test_a_branch_brings_no_name_twice():
    """Both Ifs use the names t and k inside, and both are replaced."""

    def choice(name, out):
        then = models.subgraph(
            [node("Mul", ["x", "k"], ["t"], f"{name}_mul")],
            {"t": None},
            weights={"k": np.array([2 if out == "a" else 3], np.float32)},
        )
        other = models.subgraph([node("Neg", ["x"], ["t"], f"{name}_neg")], {"t": None})
        return models.switch(name, "yes", [out], then, other)

    proto = build(
        [choice("first", "a"), choice("second", "b"), node("Add", ["a", "b"], ["y"])],
        {"x": [2, 4]}, {"y": None}, {"yes": np.array(True)},
    )  # fmt: skip
    model, _ = folded(proto)
    assert ops(model) == {"Mul": 2, "Add": 1}
    assert sorted(t for t in model.graph.tensors() if t.startswith("k")) == ["k", "k_2"]
    assert np.array_equal(run(proto, {"x": normal(2, 4)})[0], run(model, {"x": normal(2, 4)})[0])


def test_a_shape_that_only_the_branch_declares_is_not_taken_over():
    """torch.onnx's exporter of TorchScript declares shapes of branches that are another rank's."""
    then = models.subgraph([node("Identity", ["x"], ["t"], "same")], {"t": [4]})
    other = models.subgraph([node("Neg", ["x"], ["t"], "neg")], {"t": None})
    proto = build(
        [models.switch("if", "yes", ["a"], then, other), node("Concat", ["a", "x"], ["y"], axis=1)],
        {"x": [2, 4]}, {"y": None}, {"yes": np.array(True)},
    )  # fmt: skip
    del proto.graph.value_info[:]
    model, _ = folded(proto)
    assert ops(model) == {"Identity": 1, "Concat": 1}
    assert model.facts().shapes["a"] == [(2, 4)]
    assert model.facts().shapes["y"] == [(2, 8)]
    assert np.array_equal(run(proto, {"x": normal(2, 4)})[0], run(model, {"x": normal(2, 4)})[0])


def test_known_shapes_and_known_parts_of_shapes_are_values():
    pick = {"last": np.array([1]), "zero": np.array([0]), "one": np.array([1]), "two": np.array([2])}
    nodes = [
        node("Shape", ["x"], ["s"]), node("Gather", ["s", "last"], ["g"]), node("Slice", ["s", "one", "two", "zero"], ["p"]),
        node("Gather", ["s", "zero"], ["rows"]), node("Shape", ["s"], ["rank"]), node("Shape", ["x"], ["tail"], start=-1),
        node("Size", ["s"], ["size"]), node("Unsqueeze", ["size", "zero"], ["sizes"]), node("Shape", ["w"], ["ws"]),
        node("Concat", ["g", "p", "rows", "rank", "tail", "sizes", "ws"], ["y"], axis=0),
    ]  # fmt: skip
    types = {"y": TensorProto.INT64}
    proto = build(nodes, {"x": ["n", 4]}, {"y": None}, {**pick, "w": normal(3, 5)}, types=types)
    model, _ = folded(proto)
    assert ops(model) == {"Shape": 1, "Gather": 1, "Concat": 1}
    assert (
        run(model, {"x": normal(7, 4)})[0].tolist()
        == run(proto, {"x": normal(7, 4)})[0].tolist()
        == [4, 4, 7, 2, 4, 2, 3, 5]
    )


@pytest.mark.parametrize("returned", [False, True])
def test_known_parts_of_shapes_are_values_in_a_branch_too(returned):
    gather = node("Gather", ["s", "last"], ["g"], "gather")
    rest = [] if returned else [node("Mul", ["g", "rows"], ["t"])]
    branches = [
        models.subgraph([gather, *rest], {"g" if returned else "t": [1]}, types={"g": 7, "t": 7}),
        models.subgraph([node("Neg", ["last"], ["e"])], {"e": [1]}, types={"e": 7}),
    ]
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["rows"]),
        models.switch("if", "c", ["y"], *branches),
    ]
    proto = build(nodes, {"x": ["n", 4], "c": []}, {"y": [1]}, {"last": np.array([1]), "zero": np.array([0])},
                  types={"c": TensorProto.BOOL, "y": TensorProto.INT64})  # fmt: skip
    model = Model.from_proto(proto)
    folding.fold(model, lambda node: False, 1 << 20)
    assert all(one.outputs for one, _ in model.walk())
    for taken, value in ((True, 4 if returned else 4 * 7), (False, -1)):
        feeds = {"x": normal(7, 4), "c": np.array(taken)}
        assert run(model, feeds)[0].tolist() == run(proto, feeds)[0].tolist() == [value]


def test_sizes_that_are_halved_in_float_stay_halved():
    """graphsurgeon's folding takes the Casts out around this Mul and rounds its 0.5 to 0."""
    nodes = [
        node("Shape", ["x"], ["s"]), node("Cast", ["s"], ["f"], to=TensorProto.FLOAT), node("Mul", ["f", "half"], ["h"]),
        node("Cast", ["h"], ["i"], to=TensorProto.INT64), node("ConstantOfShape", ["i"], ["y"]),
    ]  # fmt: skip
    proto = build(nodes, {"x": ["n", 4]}, {"y": None}, {"half": np.array([0.5, 0.5], np.float32)})
    model, _ = folded(onnx.shape_inference.infer_shapes(proto))
    assert run(model, {"x": normal(6, 4)})[0].shape == (3, 2)


def test_what_cannot_be_computed_stays_and_the_rest_is_folded():
    nodes = [
        helper.make_node("Secret", ["w"], ["s"], "secret", domain="someone.else"), node("Neg", ["w"], ["n"]),
        node("Add", ["n", "s"], ["a"]), node("Exp", ["n"], ["e"]), node("Add", ["x", "e"], ["b"]), node("Add", ["a", "b"], ["y"]),
    ]  # fmt: skip
    proto = build(nodes, {"x": [2, 4]}, {"y": None}, {"w": normal(2, 4)})
    proto.opset_import.append(helper.make_opsetid("someone.else", 1))
    model, journal = folded(proto)
    assert ops(model) == {"Secret": 1, "Add": 3}
    assert {e.node: e.why.code for e in journal.of("declined")} == {"secret": Code.NOT_COMPUTED}
    assert {e.node for e in journal.of("changed")} == {"n", "e"}


def test_a_result_that_is_too_large_is_named_and_stays():
    nodes = [node("ConstantOfShape", ["size"], ["c"]), node("Add", ["x", "c"], ["y"])]
    model, context = Model.from_proto(build(nodes, {"x": [1]}, {"y": None}, {"size": np.array([1000, 100])})), Context()
    FoldConstants(limit_mb=0.1)(model, context)
    assert ops(model) == {"ConstantOfShape": 1, "Add": 1}
    assert {e.node: e.why.code for e in context.journal.of("declined")} == {"c": Code.LARGE}


def test_what_is_known_to_be_too_large_is_not_computed(monkeypatch):
    nodes = [node("Transpose", ["w"], ["t"]), node("MatMul", ["x", "t"], ["y"]), node("Gather", ["w", "i"], ["z"])]
    proto = build(nodes, {"x": [1, 200], "i": [3]}, {"y": None, "z": None}, {"w": normal(300, 200)},
                  types={"i": TensorProto.INT64})  # fmt: skip
    model, context, ran = Model.from_proto(proto), Context(), []
    monkeypatch.setattr(folding, "session", lambda proto, wanted, **_: ran.append(wanted))
    FoldConstants(limit_mb=0.1)(model, context)
    assert not ran and ops(model) == {"Transpose": 1, "MatMul": 1, "Gather": 1}
    assert {e.node: e.why.code for e in context.journal.of("declined")} == {"t": Code.LARGE}


def test_one_output_of_several_is_stored_without_moving_the_others():
    nodes = [
        node("TopK", ["w", "k"], ["values", "places"]),
        node("Add", ["x", "values"], ["y"]),
        node("Identity", ["places"], ["z"]),
    ]
    proto = build(
        nodes, {"x": [2]}, {"y": None, "z": None}, {"w": normal(4), "k": np.array([2])}, types={"z": TensorProto.INT64}
    )
    model, _ = folded(proto)
    assert all(np.array_equal(a, b) for a, b in zip(run(proto, {"x": normal(2)}), run(model, {"x": normal(2)})))
    assert ops(model) == {"Add": 1, "Identity": 1}


def test_outputs_of_the_model_stay_computed():
    """A constant cannot be an output of a graph that is read again."""
    proto = build(
        [node("Neg", ["w"], ["n"]), node("Exp", ["n"], ["z"]), node("Add", ["x", "n"], ["y"])],
        {"x": [4]},
        {"y": None, "z": None},
        {"w": normal(4)},
    )
    model, _ = folded(proto)
    assert ops(model) == {"Exp": 1, "Add": 1}
    again = Model.from_proto(model.to_proto())
    assert np.array_equal(run(proto, {"x": normal(4)})[1], run(again, {"x": normal(4)})[1])


@pytest.mark.parametrize("place", ["body", "branch"])
def test_pairs_and_random_numbers_inside_subgraphs_stay(place):
    inner = [
        node("QuantizeLinear", ["w", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("RandomNormal", [], ["r"], shape=[4]), node("Mul", ["r", "none"], ["silent"]), node("Add", ["d", "silent"], ["sum"]),
    ]  # fmt: skip
    weights = {
        "w": normal(4),
        "s": np.array(0.1, np.float32),
        "z": np.array(0, np.int8),
        "none": np.zeros(4, np.float32),
    }
    if place == "branch":
        then = models.subgraph([*inner, node("Add", ["x", "sum"], ["t"])], {"t": None})
        main = models.switch("if", "yes", ["y"], then, models.subgraph([node("Neg", ["x"], ["t2"])], {"t2": None}))
        proto = build([main], {"x": [4], "yes": []}, {"y": None}, weights, types={"yes": TensorProto.BOOL})
    else:
        body = models.subgraph([*inner, node("Add", ["c", "sum"], ["t"]), node("Identity", ["go"], ["on"])], {"on": [], "t": None},
                               {"i": [], "go": [], "c": [4]}, types={"on": TensorProto.BOOL, "go": TensorProto.BOOL, "i": TensorProto.INT64})  # fmt: skip
        proto = build([node("Loop", ["n", "go0", "x"], ["y"], body=body)], {"x": [4]}, {"y": None},
                      {**weights, "n": np.array(2), "go0": np.array(True)})  # fmt: skip
    model, journal = folded(proto)
    assert {"QuantizeLinear", "DequantizeLinear", "RandomNormal"} <= set(ops(model))
    assert not journal.of("changed") and not said(journal, Code.FOLDED)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_a_weight_that_takes_the_type_of_an_activation_is_a_constant(kind):
    """Of the activation only the type is read, and that is known."""
    wide = np.float64 if kind == TensorProto.FLOAT else np.float32
    proto = build(
        [node("Relu", ["x"], ["r"]), node("CastLike", ["w", "r"], ["c"]), node("Transpose", ["c"], ["t"]),
         node("MatMul", ["r", "t"], ["y"])],
        {"x": ["n", 4]}, {"y": ["n", 6]}, {"w": normal(6, 4).astype(wide)}, types={"x": kind, "y": kind},
    )  # fmt: skip
    x = normal(3, 4).astype(helper.tensor_dtype_to_np_dtype(kind))
    model, journal = folded(proto)
    assert ops(model) == {"Relu": 1, "MatMul": 1}
    assert np.array_equal(run(proto, {"x": x})[0], run(model, {"x": x})[0])
    assert {event.node for event in journal.of("changed") if event.what.code is Code.FOLDED} == {"c", "t"}
    onnx.checker.check_model(model.to_proto(), full_check=True)


def test_an_activation_that_takes_the_type_of_another_stays():
    proto = build(
        [node("Relu", ["x"], ["r"]), node("CastLike", ["x", "r"], ["c"]), node("Add", ["c", "w"], ["y"])],
        {"x": ["n", 4]}, {"y": ["n", 4]}, {"w": normal(4)},
    )  # fmt: skip
    assert ops(folded(proto)[0]) == {"Relu": 1, "CastLike": 1, "Add": 1}


@pytest.mark.parametrize("inside", [False, True])
def test_a_weight_takes_a_type_inside_a_branch_as_well(inside):
    cast = [node("CastLike", ["w", "x"], ["c"]), node("MatMul", ["x", "c"], ["t"])]
    if inside:
        then, other = (
            models.subgraph(part, {out: None}) for part, out in ((cast, "t"), ([node("Neg", ["x"], ["e"])], "e"))
        )
        nodes, types = [models.switch("if", "yes", ["y"], then, other)], {"yes": TensorProto.BOOL}
        inputs = {"x": [2, 4], "yes": []}
    else:
        nodes, types, inputs = [*cast, node("Neg", ["t"], ["y"])], {}, {"x": [2, 4]}
    proto = build(nodes, inputs, {"y": None}, {"w": normal(4, 4).astype(np.float64)}, types=types)
    model, journal = folded(proto)
    assert "CastLike" not in {one.op for one, _ in model.walk()}
    feeds = {"x": normal(2, 4), **({"yes": np.array(True)} if inside else {})}
    assert np.array_equal(run(proto, feeds)[0], run(model, feeds)[0])
    assert {event.node for event in journal.of("changed")} == {"c"}


@pytest.mark.parametrize("kinds", [(TensorProto.INT32, TensorProto.FLOAT), (TensorProto.FLOAT, TensorProto.INT32)])
def test_a_weight_takes_the_type_of_what_its_own_body_begins_with(kinds):
    """Two Loops whose bodies call what they begin with the same, and have it in different types."""
    nodes, inputs = [], {}
    for number, kind in enumerate(kinds):
        value = helper.make_tensor_value_info
        body = helper.make_graph(
            [node("CastLike", ["w", "v"], [f"c{number}"]), node("Add", ["v", f"c{number}"], [f"n{number}"]),
             node("Identity", ["on"], [f"o{number}"])],
            f"body{number}",
            [value("i", TensorProto.INT64, []), value("on", TensorProto.BOOL, []), value("v", kind, [3])],
            [value(f"o{number}", TensorProto.BOOL, []), value(f"n{number}", kind, [3])],
        )  # fmt: skip
        nodes += [node("Loop", ["times", "", f"x{number}"], [f"l{number}"], body=body),
                  node("Cast", [f"l{number}"], [f"f{number}"], to=1)]  # fmt: skip
        inputs[f"x{number}"] = [3]
    weights = {"w": np.array([1.6, 2.3, -7.9], np.float32), "times": np.array(2)}
    proto = build([*nodes, node("Add", ["f0", "f1"], ["y"])], inputs, {"y": [3]}, weights,
                  types={f"x{number}": kind for number, kind in enumerate(kinds)})  # fmt: skip
    feeds = {f"x{n}": np.array([1, 2, 3], helper.tensor_dtype_to_np_dtype(kind)) for n, kind in enumerate(kinds)}
    assert np.array_equal(run(folded(proto)[0], feeds)[0], run(proto, feeds)[0])


@pytest.mark.parametrize(
    ("shape", "k", "dtype"), [((3, 4), 0, None), ((3, 4), 1, TensorProto.INT64), ((4, 2), -1, None)]
)
def test_the_diagonal_of_a_known_shape_is_a_constant(shape, k, dtype):
    attrs = {"k": k} | ({"dtype": dtype} if dtype is not None else {})
    nodes = [node("Relu", ["x"], ["r"]), node("EyeLike", ["r"], ["e"], **attrs), node("Cast", ["e"], ["f"], to=1),
             node("Mul", ["r", "f"], ["y"])]  # fmt: skip
    proto = build(nodes, {"x": list(shape)}, {"y": list(shape)})
    model, _ = folded(proto)
    assert ops(model) == {"Relu": 1, "Mul": 1}
    assert np.array_equal(run(proto, {"x": normal(*shape)})[0], run(model, {"x": normal(*shape)})[0])
    open_shape = build(nodes, {"x": ["n", shape[1]]}, {"y": ["n", shape[1]]})
    assert ops(folded(open_shape)[0])["EyeLike"] == 1
    large, context = Model.from_proto(proto).copy(), Context()
    FoldConstants(limit_mb=1e-6)(large, context)
    assert ops(large)["EyeLike"] == 1
    assert {event.node for event in context.journal.of("declined") if event.why.code is Code.LARGE} == {"e"}


def test_what_fills_a_known_shape_is_a_constant_unless_it_is_drawn():
    proto = build(
        [node("Shape", ["x"], ["s"]), node("ConstantOfShape", ["s"], ["zeros"]), node("Size", ["x"], ["n"]),
         node("CastLike", ["n", "x"], ["f"]), node("Add", ["zeros", "f"], ["all"]),
         node("RandomUniformLike", ["x"], ["u"]), node("Mul", ["u", "none"], ["silent"]),
         node("Add", ["x", "all"], ["sum"]), node("Add", ["sum", "silent"], ["y"])],
        {"x": [2, 3]}, {"y": [2, 3]}, {"none": np.zeros(1, np.float32)},
    )  # fmt: skip
    model, _ = folded(proto)
    assert ops(model) == {"RandomUniformLike": 1, "Mul": 1, "Add": 2}
    assert np.array_equal(run(model, {"x": normal(2, 3)})[0], normal(2, 3) + 6)
