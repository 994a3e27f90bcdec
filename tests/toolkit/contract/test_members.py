"""Faults in what a pass of the user's own says of itself are told by the pass's name, and never called a bug of qtool."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from passes.keep_precision import KeepPrecision
from tests.conftest import build, node
from toolkit import Context, Helper, Model, Pass, Quantizer
from toolkit.base.errors import PassError, RecipeError
from toolkit.contract.registry import configure_pass
from toolkit.contract.roles import Role


class Own(Pass):
    """Does nothing."""

    def apply(self, model: Model, context: Context) -> None:
        """Nothing."""


def model() -> Model:
    return Model.from_proto(build([node("Relu", ["x"], ["y"])], {"x": [2]}, {"y": [2]}))


CALLS = {
    "reads_evaluation": lambda own: own.reads_evaluation(),
    "measures_engines": lambda own: own.measures_engines(),
    "predicts_times": lambda own: own.predicts_times(),
    "accuracy_limits": lambda own: own.accuracy_limits(),
    "unused_settings": lambda own: own.unused_settings(),
    "measured_with": lambda own: own.measured_with(),
    "code_named": lambda own: own.code_named(),
    "applicable_layers": lambda own: own.applicable_layers(model()),
    "ranges_wanted": lambda own: own.ranges_wanted(model(), Context()),
    "input_files": lambda own: own.input_files(Path()),
}


@pytest.mark.parametrize("member", CALLS)
def test_a_member_that_fails_is_named_with_its_pass(member):
    def fails(self, *given):
        raise KeyError("boom")

    with pytest.raises(PassError, match=rf"{member} of the pass '.*:Fails' failed: KeyError: 'boom'"):
        CALLS[member](configure_pass(type("Fails", (Own,), {member: fails}), {}))


@pytest.mark.parametrize("member", CALLS)
def test_a_member_that_returns_another_type_is_named_with_what_it_has_to_return(member):
    with pytest.raises(PassError, match=rf"{member} of the pass '.*:Odd' returned 3") as caught:
        CALLS[member](configure_pass(type("Odd", (Own,), {member: lambda self, *given: 3}), {}))
    assert caught.value.remedy.startswith("return ")


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("member", ["reads_evaluation", "measures_engines", "predicts_times"])
def test_what_numpy_compares_is_true_or_false(member, value):
    made = configure_pass(type("Compares", (Own,), {member: lambda self, *given: np.bool_(value)}), {})
    assert CALLS[member](made) is value
    assert configure_pass(type("Declares", (Own,), {"graph_only": np.bool_(value)}), {}).graph_only == value


def test_members_that_return_what_they_should_are_left_alone():
    class Says(Own):
        def input_files(self, base: Path) -> list[Path]:
            return [*super().input_files(base), base / "a"]

        def ranges_wanted(self, model: Model, context: Context) -> list[str] | None:
            return None

        @classmethod
        def title(cls) -> str:
            return "says"

    own = Says()
    assert own.input_files(Path("b")) == [Path("b/a")] and own.ranges_wanted(model(), Context()) is None
    assert Says.title() == "says" and Says.input_files.__name__ == "input_files"


def test_a_static_member_is_called_without_the_pass():
    class Says(Own):
        @staticmethod
        def title() -> str:
            return "says"

        @staticmethod
        def input_files(base: Path) -> list[Path]:
            return [base / "a"]

    assert Says.title() == Says().title() == "says" and Says().input_files(Path("b")) == [Path("b/a")]
    with pytest.raises(PassError, match=r"title of the pass '.*:Odd' returned 3"):
        type("Odd", (Own,), {"title": staticmethod(lambda: 3)}).title()


def test_class_members_are_guarded_too():
    def fails(cls):
        raise KeyError("boom")

    with pytest.raises(PassError, match=r"title of the pass .* failed"):
        type("Fails", (Own,), {"title": classmethod(fails)})()(model())


def test_a_quantizer_that_places_nothing_is_told_what_to_return():
    class Nowhere(Quantizer):
        def place(self, model, facts, judge):
            return None

    with pytest.raises(PassError, match=r"place of the pass .*Nowhere' returned None") as caught:
        Nowhere()(model(), Context())
    assert "toolkit.place" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "value"), [("name", 3), ("role", "help"), ("mends", "x"), ("graph_only", "yes"), ("supports_dry_run", 1)]
)
def test_an_attribute_of_another_type_is_refused_with_the_class(name, value):
    with pytest.raises(TypeError, match=f"{name} of the pass Odd is "):
        type("Odd", (Own,), {name: value, "__annotations__": {}})


def test_a_role_is_taken():
    class Keeps(Helper):
        role = Role.KEEP

        def apply(self, model: Model, context: Context) -> None:
            """Nothing."""

    assert Keeps.role is Role.KEEP


def test_a_pass_with_a_constructor_of_its_own_is_refused_with_the_remedy():
    class Built(Own):
        def __init__(self, count: int = 2) -> None:
            self.count = count

    with pytest.raises(RecipeError, match=r"the pass '.*Built' cannot be created: ValueError") as caught:
        configure_pass(Built, {})
    assert "__init__" in caught.value.remedy


@pytest.mark.parametrize(
    "change",
    [lambda node: node.attrs.update(a=object()), lambda node: setattr(node, "name", 3)],
    ids=["attribute", "name"],
)
def test_a_graph_that_cannot_be_written_is_laid_to_the_pass_that_made_it(change):
    class Breaks(Own):
        def apply(self, model: Model, context: Context) -> None:
            change(model.nodes[0])

    with pytest.raises(PassError, match="pass 'breaks' broke the graph, which cannot be written as ONNX: TypeError"):
        Breaks()(model())


@pytest.mark.parametrize("fault", [MemoryError(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_fault_of_the_machine_is_not_laid_to_the_pass_before_it(monkeypatch, fault):
    def fails(*given):
        raise fault

    monkeypatch.setattr(Pass, "_check", fails)
    with pytest.raises(type(fault)):
        Own()(model())


def test_a_bug_of_qtools_own_check_is_not_laid_to_a_pass_of_its_own(monkeypatch):
    def fails(*given):
        raise AssertionError

    monkeypatch.setattr(Pass, "_check", fails)
    with pytest.raises(AssertionError):
        KeepPrecision(ops=["Relu"])(model())
