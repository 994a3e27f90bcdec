"""What writers of passes get wrong: nodes and tensors in place of their names, names for types, values that are no text."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper

from passes.fold_constants import FoldConstants
from passes.keep_precision import KeepPrecision
from tests.conftest import build, node, normal
from toolkit import Context, Model, Pass, Recipe, keep_float, run, sentence, session
from toolkit.base.code import import_path, load_object
from toolkit.base.errors import ModelError, PassError, QtoolError, RangesError, RecipeError
from toolkit.base.precision import Precision
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.contract.order import OrderCode
from toolkit.contract.ranges import Range, Ranges
from toolkit.run.folder.run_folder import RunFolder


def layer() -> Model:
    nodes = [node("MatMul", ["x", "w"], ["h"], "first"), node("Relu", ["h"], ["y"], "act")]
    return Model.from_proto(build(nodes, {"x": ["n", 8]}, {"y": ["n", 4]}, {"w": normal(8, 4)}))


class Provider:
    """Gives each tensor that it is asked for a range, and remembers for what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, Precision]] = []

    def __call__(self, model, tensors, dtype=Precision.INT8):
        self.asked.append((tensors, dtype))
        return Ranges({name: Range(2.0, "minmax", dtype=str(dtype)) for name in tensors})


@pytest.mark.parametrize("of", [lambda model: ["h"], lambda model: "h", lambda model: [model.node("first").outputs[0]]])
@pytest.mark.parametrize("dtype", ["int8", Precision.INT8])
def test_ranges_are_asked_for_by_tensors_or_names_and_types_or_their_names(of, dtype):
    model, provider = layer(), Provider()
    context = Context(provider=provider)
    assert context.ranges(model, of(model), dtype).amax("h") == 2
    assert provider.asked == [(["h"], Precision.INT8)]


def test_a_range_of_a_tensor_that_is_not_there_is_an_error_before_anything_is_calibrated():
    provider = Provider()
    with pytest.raises(RangesError, match=r"no tensor of the model has that name\. Did you mean 'h'"):
        Context(provider=provider).ranges(layer(), ["y", "hh"], "int8")
    with pytest.raises(RecipeError, match="'float16' is not a precision"):
        Context(provider=provider).ranges(layer(), ["y"], "float16")
    assert not provider.asked


def test_a_plan_takes_a_node_or_its_name():
    model, context = layer(), Context()
    context.plan.ask(model.node("first"), "fp16", "small")
    context.plan.ask("act", "fp32", "small")
    assert {name: str(ask.precision) for name, ask in context.plan.items()} == {"first": "fp16", "act": "fp32"}
    assert [name for name, _ in context.plan.history] == ["first", "act"]


def test_keep_float_refuses_what_is_no_float():
    model, context = layer(), Context()
    with pytest.raises(RecipeError, match=r"asked for int8 for node 'first'\. One of fp32, fp16, bf16"):
        keep_float(context, model.node("first"), "int8", "why")
    assert not len(context.plan) and not len(context.journal)


@pytest.mark.parametrize(
    ("value", "text"), [(3, "3"), (True, "true"), (0.5, "0.5"), (["a"], '["a"]'), ("a", "a"), (None, None)]
)
def test_the_value_of_an_error_may_be_what_the_recipe_was_read_into(value, text):
    assert RecipeError("wrong", value=value).value == text


class ScalesBoth(Pass):
    """Multiplies what both layers read by constants."""

    names: list[str]
    values: tuple[float, float] = (2.0, 3.0)

    def apply(self, model, context):
        """Insert a Mul in front of each."""
        for one, name, value in zip(["first", "act"], self.names, self.values):
            read, scaled = model.node(one).inputs[0], gs.Variable(f"{one}_scaled", dtype=np.float32)
            factor = gs.Constant(name, np.array(value, np.float32))
            model.node(one).inputs[0] = scaled
            model.graph.nodes.append(gs.Node("Mul", f"{one}_mul", {}, [read, factor], [scaled]))


def test_constants_of_one_name_and_different_values_are_an_error_for_the_file_would_hold_one():
    x = {"x": normal(3, 8, seed=1)}
    wanted = np.maximum(3 * (2 * x["x"] @ normal(8, 4)), 0)
    apart = ScalesBoth(names=["a", "b"])(layer())
    np.testing.assert_allclose(session(apart).run(x)["y"], wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(
        PassError,
        match=r"two constants of different values are named 'f' \(nodes 'first_mul' and 'act_mul'\)\. "
        r"Give one of them a name of its own, model\.unique_tensor\('f'\)",
    ):
        ScalesBoth(names=["f", "f"])(layer())
    # of the same values one is as good as the other
    same = ScalesBoth(names=["f", "f"], values=(2.0, 2.0))(layer())
    np.testing.assert_allclose(session(same).run(x)["y"], wanted * 2 / 3, rtol=1e-5, atol=1e-6)
    for taken in ("w", "h", "x"):
        with pytest.raises(PassError, match=f"named '{taken}'"):
            ScalesBoth(names=[taken, "b"])(layer())


class ScalesWithin(Pass):
    """Multiplies by constants of one name around an If and in a branch of it."""

    within: float

    def apply(self, model, context):
        """Insert a Mul at both places."""
        (choice,) = (node for node in model.nodes if node.op == "If")
        graph = choice.attrs["then_branch"]
        for nodes, one, value in (
            (model.graph.nodes, model.node("a"), 2.0),
            (graph.nodes, graph.nodes[0], self.within),
        ):
            scaled, factor = gs.Variable(f"{one.name}_s", np.float32), gs.Constant("f", np.array(value, np.float32))
            nodes.insert(0, gs.Node("Mul", f"{one.name}_mul", {}, [one.inputs[0], factor], [scaled]))
            one.inputs[0] = scaled


def choosing() -> Model:
    then, other = (
        helper.make_graph(
            [node(op, ["a"], [f"{op} y"])], op, [], [helper.make_tensor_value_info(f"{op} y", 1, ["n", 4])]
        )
        for op in ("Relu", "Neg")
    )
    nodes = [node("Abs", ["x"], ["a"]), node("If", ["c"], ["y"], then_branch=then, else_branch=other)]
    types = {"c": TensorProto.BOOL}
    return Model.from_proto(build(nodes, {"x": ["n", 4], "c": []}, {"y": ["n", 4]}, types=types))


def test_a_constant_of_a_subgraph_does_not_become_the_one_of_its_name_around_it():
    feed = {"x": normal(3, 4), "c": np.array(True)}
    scaled = ScalesWithin(within=2.0)(choosing())
    np.testing.assert_allclose(session(scaled).run(feed)["y"], 4 * np.abs(feed["x"]), rtol=1e-6)
    with pytest.raises(PassError, match="two constants of different values are named 'f'"):
        ScalesWithin(within=3.0)(choosing())


class Unnamed(Pass):
    """Inserts a node without a name of its own."""

    named: str = ""

    def apply(self, model, context):
        """Insert an Identity."""
        read, copied = model.node("act").inputs[0], gs.Variable("copied", dtype=np.float32)
        model.node("act").inputs[0] = copied
        model.graph.nodes.append(gs.Node("Identity", self.named, {}, [read], [copied]))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", r"a node has no name \(Identity of 'h'\)\. Give it a name of its own, model\.unique_node\('identity'\)"),
        ("first", r"two nodes are named 'first'\. Give it a name of its own, model\.unique_node\('first'\)"),
    ],
)
def test_a_node_needs_a_name_and_is_told_how_it_gets_one(name, words):
    with pytest.raises(PassError, match=words):
        Unnamed(named=name)(layer())


class RenamesNodes(Pass):
    """Renames all nodes; with their requests or without."""

    carry: bool = False

    def apply(self, model, context):
        """Rename them."""
        for one in model.nodes:
            if self.carry:
                context.plan.rename(one.name, f"net/{one.name}")
            one.name = f"net/{one.name}"


@pytest.mark.parametrize("carry", [False, True])
def test_requests_that_a_pass_takes_the_nodes_from_are_told(carry):
    model, context = layer(), Context()
    KeepPrecision(nodes=["*"], precision="fp32")(model, context)
    RenamesNodes(carry=carry)(model, context)
    told = [sentence(event.why) for event in context.journal if event.why.code is OrderCode.REQUESTS_LOST]
    if carry:
        assert not told and {str(context.plan.get(name).precision) for name in ("net/first", "net/act")} == {"fp32"}
        return
    assert told == [
        "Pass 'renames_nodes' renamed or replaced 'first', for which 'keep_precision' had requested fp32: this request "
        "and 1 like it have no effect. Put 'renames_nodes' before 'keep_precision', or let it call "
        "context.plan.rename(old, new)."
    ]
    # it is said once, of the pass that did it
    RenamesNodes()(model, context)
    assert len([event for event in context.journal if event.why.code is OrderCode.REQUESTS_LOST]) == 1


class AsksLoudly(Pass):
    """Asks for a precision by a name that it does not have."""

    def apply(self, model, context):
        """Ask for it."""
        context.plan.ask("first", "FP16", "why")


def test_an_error_of_a_pass_that_is_in_no_file_names_the_pass():
    with pytest.raises(RecipeError, match=r"^pass 'asks_loudly': 'FP16' is not a precision"):
        AsksLoudly()(layer())


class Fixes(Pass):
    """Fixes a dimension of the input."""

    axis: int = 0
    size: int = 1

    def apply(self, model, context):
        """Fix it."""
        model.graph.inputs[0].shape[self.axis] = self.size


class FixesInside(Pass):
    """Fixes the batch that a node gives, and not that of the input."""

    def apply(self, model, context):
        """Reshape to one row."""
        node = model.nodes[-1]
        rows, made = gs.Constant("one_row", np.int64([1, 4])), node.outputs[0]
        node.outputs[0] = gs.Variable("before", made.dtype)
        model.graph.nodes.append(gs.Node("Reshape", "to_one", inputs=[node.outputs[0], rows], outputs=[made]))


@pytest.mark.parametrize(
    ("step", "said"),
    [(Fixes(), "input 'x' with 1 in dimension 0"), (Fixes(size=4), "input 'x' with 4 in dimension 0"),
     (FixesInside(), "tensor 'y' of node 'to_one' with 1 in dimension 0")],
)  # fmt: skip
@pytest.mark.parametrize("most", [None, 1, 4])
def test_a_batch_that_a_pass_fixes_is_an_error_where_samples_run_in_batches(tmp_path, step, said, most):
    layer().save(tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=normal(12, 8, seed=1))
    shapes = {"x": {"min": [most, 8], "opt": [most, 8], "max": [most, 8]}}
    recipe = Recipe.build(
        "fixed", model={"path": tmp_path / "model.onnx"}, passes=[step], calibration={"data": str(tmp_path / "data.npz")},
        evaluation={"data": str(tmp_path / "data.npz"), "task": "regression"}, engine={"backend": "none"},
        **({"profile": [{"name": "one", "shapes": shapes}]} if most else {}),
    )  # fmt: skip
    if most == 1 and getattr(step, "size", 1) == 1:
        assert run(recipe, tmp_path / "out").report.accuracy.samples == 12
        return
    with pytest.raises(PassError, match=f"left {said}, along which samples are run one by one and in batches"):
        run(recipe, tmp_path / "out")


class Bypasses(Pass):
    """Bypasses the last node and leaves it in the graph, with an output gone."""

    def apply(self, model, context):
        """Let the node before it make the output."""
        last = model.nodes[-1]
        made = last.outputs[0]
        last.outputs.clear()
        model.graph.nodes.append(gs.Node("Identity", "instead", inputs=[model.graph.inputs[0]], outputs=[made]))


def test_a_broken_graph_of_a_batched_model_is_blamed_on_the_pass_that_broke_it(tmp_path):
    layer().save(tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=normal(12, 8, seed=1))
    recipe = Recipe.build(
        "broken", model={"path": tmp_path / "model.onnx"}, passes=[FoldConstants(), Bypasses()],
        calibration={"data": str(tmp_path / "data.npz")}, engine={"backend": "none"},
    )  # fmt: skip
    # its shapes, which are compared for the batch, cannot be inferred either
    with pytest.raises(PassError, match=r"pass 'bypasses' broke the graph: .*after fold_constants"):
        run(recipe, tmp_path / "out")


def test_an_array_of_another_size_than_a_fixed_one_is_an_error_in_words():
    model = Fixes()(layer())
    with pytest.raises(ModelError, match=r"input 'x' is \[3, 8\], and the model takes only 1 in dimension 0"):
        session(model).run({"x": normal(3, 8)})


def test_an_input_that_no_longer_takes_the_profiles_is_an_error():
    def profiles(least, most):
        return Profiles((ShapeProfile("one", {"x": Extent((least, 8), (least, 8), (most, 8))}),))

    with pytest.raises(PassError, match="'fixes' left input 'x' with 1 in dimension 0, where profile 'one' has 1 to 4"):
        Fixes()(layer(), Context(profiles=profiles(1, 4)))
    with pytest.raises(PassError, match="with 1 in dimension 0, where profile 'one' has 4 to 4"):
        Fixes()(layer(), Context(profiles=profiles(4, 4)))
    assert Fixes(size=4)(layer(), Context(profiles=profiles(4, 4))).input_shapes() == {"x": [4, 8]}
    assert Fixes()(layer()).input_shapes() == {"x": [1, 8]}


@pytest.mark.parametrize(
    "named", [lambda folder: folder / "a.txt", lambda folder: "a.txt", lambda folder: (folder / "a.txt").resolve()]
)
def test_a_file_is_announced_by_its_path_or_its_place_in_the_folder(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/one")
    context = Context(folder=folder)
    context.wrote(named(folder))
    assert context.files == [folder / "a.txt"]


def test_a_file_that_was_announced_and_not_written_is_named(tmp_path):
    with (
        RunFolder(tmp_path / "run") as folder,
        pytest.raises(QtoolError, match=r"a\.txt: step 'passes' named this file"),
    ):
        folder.store("passes", {}, [folder.path / "a.txt"])


def test_a_module_that_is_named_as_a_file_is_told_how_to_be_named(tmp_path):
    (tmp_path / "mine.py").write_text("Mine = 3\n")
    with import_path(tmp_path):
        with pytest.raises(RecipeError, match="Name the module without folder and ending, as in 'mine:Mine'"):
            load_object("mine.py:Mine", True, "pass")
        assert load_object("mine:Mine", True, "pass") == 3


def test_a_file_that_has_the_name_of_a_loaded_module_is_told_apart_from_it(tmp_path):
    (tmp_path / "json.py").write_text("Mine = 3\n")
    with import_path(tmp_path):
        with pytest.raises(
            RecipeError, match=r"'json' of the pass 'json:Mine' is .*, and not json\.py beside the recipe"
        ):
            load_object("json:Mine", True, "pass")
        with pytest.raises(RecipeError, match="the module 'tomllib' has no 'Mine'"):
            load_object("tomllib:Mine", True, "pass")
    assert "Mine" not in vars(sys.modules["json"])
