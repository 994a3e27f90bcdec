"""Wrong settings of a pass, and names of passes that are not there, as errors of qtool's own."""

from __future__ import annotations

import datetime

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from passes.fold_constants import FoldConstants
from passes.insert_qdq import InsertQDQ
from passes.keep_precision import KeepPrecision
from passes.search_precision import SearchPrecision
from tests.conftest import build, node, normal
from toolkit import Context, Model, Pass
from toolkit.base.errors import PassError, RecipeError
from toolkit.contract.findings import Code
from toolkit.contract.passes import Sequence
from toolkit.contract.registry import configure_pass, find_pass
from toolkit.graph.surgery.tensors import make_constant
from toolkit.report.findings import sentence


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: InsertQDQ(exclud=["/head/*"]), ["pass 'insert_qdq'", "'exclud'", "did you mean 'exclude'"]),
        (
            lambda: InsertQDQ(dtype="int9"),
            ["pass 'insert_qdq'", "'dtype' is 'int9'", "'int8', 'fp8', 'int4', 'mxfp8' or 'nvfp4'"],
        ),
        (lambda: SearchPrecision(helpers=["equalise"]), ["'equalise': did you mean 'equalize'? `qtool passes"]),
        (lambda: configure_pass(InsertQDQ, {"exclude": "/a/*"}), ["'exclude' is '/a/*': expected a list"]),
        (lambda: configure_pass(InsertQDQ, {"exclud": []}), ["pass 'insert_qdq'", "did you mean 'exclude'"]),
    ],
)
def test_wrong_settings_are_an_error_with_place_value_and_remedy(make, words):
    with pytest.raises(RecipeError) as caught:
        make()
    said = str(caught.value)
    assert all(word in said for word in words) and "lists its settings" in said and "?." not in said


def test_the_settings_of_a_pass_of_ones_own_are_listed_under_the_name_that_recipes_use():
    class KeepNarrow(Pass):
        channels: int = 16

    KeepNarrow.__module__, KeepNarrow.__qualname__ = "narrow", "KeepNarrow"
    with pytest.raises(RecipeError, match=r"did you mean 'channels'\? `qtool passes narrow:KeepNarrow` lists its"):
        KeepNarrow(channel=20)


def test_a_pass_that_fails_names_the_line_of_ones_own_code(tmp_path, residual):
    source = """
from toolkit import Pass

class Wrong(Pass):
    def apply(self, model, context):
        model.copy()
        self.look(model)

    def look(self, model):
        return model.nodes[0].input
"""
    namespace = {"__name__": "mine"}
    exec(compile(source, str(tmp_path / "mine.py"), "exec"), namespace)
    with pytest.raises(
        PassError, match=r"pass 'wrong' failed: AttributeError: .* \(mine\.py, line 10\)\. Run with --debug"
    ):
        namespace["Wrong"]()(residual)


def test_a_pass_of_ones_own_is_named_with_its_module(tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match="pass of your own is named module:Name"):
        find_pass("keep_narrow")
    with pytest.raises(RecipeError, match=r"Did you mean 'insert_qdq'\? A pass of your own is named module:Name$"):
        find_pass("insert_qdp")
    (tmp_path / "keep_narrow.py").write_text("from toolkit import Pass\nclass KeepNarrow(Pass):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="did you mean 'keep_narrow:KeepNarrow'"):
        find_pass("keep_narrow")


def test_a_package_whose_passes_are_not_registered_is_said_to_be(monkeypatch):
    monkeypatch.setattr("toolkit.contract.registry.installed_passes", dict)
    with pytest.raises(RecipeError) as caught:
        find_pass("insert_qdq")
    assert "there is no pass 'insert_qdq'. No pass is registered: install qtool itself again" in str(caught.value)


class GivesACopy(Pass):
    """Changes a copy and gives that back, as passes of other tools do."""

    def apply(self, model, context):
        """Nobody would read what it gives."""
        return model.copy()


class Yields(Pass):
    """Nobody would run what it is made of."""

    def apply(self, model, context):
        """A generator by mistake."""
        yield model


class Waits(Pass):
    """As ``Yields``."""

    async def apply(self, model, context):
        """A coroutine by mistake."""


class GivesTheModel(Pass):
    """Changes the model in place and gives it back: nothing is lost by that."""

    def apply(self, model, context):
        """Change nothing."""
        return model


class Widens(Pass):
    """Makes the constants float64, which the operators do not take beside float32."""

    def apply(self, model, context):
        """Widen all."""
        for tensor in [t for one in model.nodes for t in one.inputs if isinstance(t, gs.Constant)]:
            tensor.values = tensor.values.astype(np.float64)


class Cuts(Pass):
    """Takes rows off the weights, which the layers' inputs do not fit then."""

    def apply(self, model, context):
        """Cut all."""
        for tensor in [
            t for one in model.nodes for t in one.inputs if isinstance(t, gs.Constant) and t.values.ndim > 1
        ]:
            tensor.values = tensor.values[:3].copy()


class Spoils(Pass):
    """Makes a pair's scale NaN."""

    def apply(self, model, context):
        """Spoil all."""
        for one in [one for one in model.nodes if one.op == "QuantizeLinear"]:
            one.inputs[1].values = one.inputs[1].values * np.float32(np.nan)


class HasNone(Pass):
    """Defines no apply."""


class DropsTheOutput(Pass):
    """Leaves the model nothing to compute."""

    def apply(self, model, context):
        """Drop it."""
        model.graph.outputs.clear()


class RenamesTheInput(Pass):
    """Gives the input a name that users do not know."""

    def apply(self, model, context):
        """Rename it."""
        model.graph.inputs[0].name = "image"


class ShowsAnInnerTensor(Pass):
    """Adds an output without a type, as one does to look at it."""

    def apply(self, model, context):
        """Add it."""
        model.graph.outputs.append(next(one for one in model.nodes if one.name == "first").outputs[0])


class Halves(Pass):
    """Says that the output is float16."""

    def apply(self, model, context):
        """Say it."""
        model.graph.outputs[0].dtype = np.float16


class Refuses(Pass):
    """Needs a pass before it, and says so without its name."""

    def apply(self, model, context):
        """Refuse."""
        raise PassError("no Clip is here", remedy="put one before it")


class Ends(Pass):
    """Looks for what is not there: an error without words."""

    def apply(self, model, context):
        """Look."""
        next(iter(()))


def two_layers():
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("MatMul", ["d", "w"], ["h"], "first"), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "v"], ["y"], "second"),
    ]  # fmt: skip
    weights = {"s": np.float32(0.1), "z": np.int8(0), "w": normal(8, 6), "v": normal(6, 4)}
    return Model.from_proto(build(nodes, {"x": ["n", 8]}, {"y": ["n", 4]}, weights))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (GivesACopy, "returned an object of the type Model, which nothing would read"),
        (Yields, "returned an object of the type generator"),
        (Waits, "returned an object of the type coroutine"),
        (Widens, "broke the graph: shape inference refuses the graph"),
        (Cuts, "broke the graph: shape inference refuses the graph"),
        (Spoils, "broke the graph: node 'q' (QuantizeLinear) has the scale nan in tensor 's'"),
        (HasNone, "its class defines no apply(self, model, context)"),
        (DropsTheOutput, "removed the output 'y' (after gives_the_model). A pass must keep the names, types and order"),
        (RenamesTheInput, "put the input 'image' in place of 'x'"),
        (ShowsAnInnerTensor, "added the output 'h'"),
        (Halves, "changed the type of the output 'y' from float to float16"),
        (Refuses, ": no Clip is here (after gives_the_model). Put one before it"),
        (Ends, "failed: StopIteration (test_passes.py, line"),
    ],
)
def test_a_pass_of_somebody_else_that_does_wrong_is_named(kind, words):
    with pytest.raises(PassError) as caught:
        Sequence(passes=[GivesTheModel(), kind()])(two_layers())
    said = str(caught.value)
    assert said.startswith(f"pass '{kind.title()}'") and words in said and "(after gives_the_model)" in said


class Renames(Pass):
    """Puts an operator that ONNX does not have in place of one that it has."""

    op: str = "Rellu"
    domain: str = ""

    def apply(self, model, context):
        """Rename the Relu."""
        for one in [one for one in model.nodes if one.op == "Relu"]:
            one.op, one.domain = self.op, self.domain or None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "of the operator Rellu, which ONNX does not have: onnxruntime cannot run it, and TensorRT takes it for a "
             "plugin. Was Relu meant?"),
        ({"op": "Relu", "domain": "ai.onnx.ml"}, "of the operator ai.onnx.ml::Relu, which ONNX does not have"),
        ({"op": "Tanh"}, None),
        ({"op": "Anything", "domain": "com.somebody"}, None),
    ],
)  # fmt: skip
def test_a_pass_that_inserts_an_operator_which_onnx_does_not_have_is_named(settings, told):
    model, context = two_layers(), Context()
    Renames(**settings)(model, context)
    said = [event.why for event in context.journal if event.why.code is Code.FOREIGN_OPERATOR]
    assert bool(said) is (told is not None)
    if told is not None:
        assert sentence(said[0]).startswith("Pass 'renames' inserted 'r' ") and told in sentence(said[0])
        # whoever comes after it has not inserted it
        GivesTheModel()(model, context)
        assert [event.why for event in context.journal if event.why.code is Code.FOREIGN_OPERATOR] == said


def test_a_pass_is_not_blamed_for_a_scale_that_was_none_before():
    model = two_layers()
    next(one for one in model.nodes if one.op == "QuantizeLinear").inputs[1].values = np.float32(0)
    GivesTheModel()(model)

    class SpoilsAnother(Spoils):
        """Makes another scale, that of the second pair, 0."""

        def apply(self, model, context):
            """Spoil it."""
            pair = next(one for one in model.nodes if one.op == "DequantizeLinear")
            pair.inputs[1] = make_constant("t", np.float32(0))

    with pytest.raises(PassError, match=r"'spoils_another' broke the graph: node .* has the scale 0 in tensor 't'"):
        SpoilsAnother()(model)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SearchPrecision(times=5), "'times' is 5: expected a string or a list"),
        (lambda: SearchPrecision(times=["r", 5]), "'times.1' is 5: expected a string"),
        (lambda: FoldConstants(fixed_inputs={"k": "x"}), "'fixed_inputs.k' is 'x': expected true or false or a number"),
        (lambda: FoldConstants(fixed_inputs={"k": [1]}), "'fixed_inputs.k' is [1]: expected true or false or a number"),
        (lambda: KeepPrecision(between=[["a"]]), "'between.0.1' is missing"),
        (lambda: KeepPrecision(between=[["a", "b", "c"]]), "expected a list of at most 2, not of 3"),
        (lambda: SearchPrecision(measure="maybe"), "'measure' is 'maybe': expected true or false"),
        (lambda: SearchPrecision(samples=1.5), "'samples' is 1.5: expected a whole number"),
        (lambda: SearchPrecision(minutes=float("nan")), "'minutes' is nan: expected a finite number"),
        (lambda: SearchPrecision(minutes=[True, datetime.date(1979, 5, 27)]), "'minutes' is [true, 1979-05-27]: expected a number"),
        (lambda: SearchPrecision(keep="int8"), "'keep' is 'int8': expected 'fp16', 'bf16' or 'fp32'"),
        (lambda: SearchPrecision(batch=0), "'batch' is 0: it must be greater than 0"),
        (lambda: SearchPrecision(min_agreement=2), "'min_agreement' is 2: it must be at most 1"),
        (lambda: configure_pass(SearchPrecision, {"min_agreement": True}), "'min_agreement' is true: expected a number"),
        (lambda: configure_pass(InsertQDQ, {"only_if_faster": "yes"}), "'only_if_faster' is 'yes': expected true or false"),
        (lambda: configure_pass(InsertQDQ, {"only_if_faster": 1}), "'only_if_faster' is 1: expected true or false"),
        (lambda: SearchPrecision(quantizer="insert_qd").plain(), "there is no pass 'insert_qd'. Did you mean"),
    ],
)  # fmt: skip
def test_what_is_expected_is_said_as_a_file_writes_it(make, said):
    with pytest.raises(RecipeError) as caught:
        make()
    assert said in str(caught.value)
    assert not any(word in str(caught.value) for word in ("nput should", "str'", "datetime", "True"))
