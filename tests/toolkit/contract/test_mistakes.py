"""What writers of passes get wrong: nodes and tensors in place of their names, names for types, values that are no text."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import build, node, normal
from toolkit import Context, Model, Pass, keep_float
from toolkit.base.code import import_path, load_object
from toolkit.base.errors import PassError, QtoolError, RangesError, RecipeError
from toolkit.base.precision import Precision
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.contract.ranges import Range, Ranges
from toolkit.run.folder import RunFolder


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


class Fixes(Pass):
    """Fixes a dimension of the input."""

    axis: int = 0
    size: int = 1

    def apply(self, model, context):
        """Fix it."""
        model.graph.inputs[0].shape[self.axis] = self.size


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
