"""Errors in a block that reads a file are the file's, unless no file can cause them."""

from __future__ import annotations

import math
from pathlib import Path
from types import FunctionType

import pytest

from tests.conftest import MODELS
from toolkit.base.errors import DataError
from toolkit.base.precision import Precision
from toolkit.base.profiles import ShapeProfile
from toolkit.base.reading import FileKind, reading
from toolkit.cli.main import invoke
from toolkit.evaluation.metrics.table import UsualDrop

KIND = FileKind("it is no table", DataError, "write it again")


def undefined():
    return nowhere  # noqa: F821


def within(work, name="toolkit.report.sections.describe"):
    """The function as if it were of a module of qtool's."""
    return FunctionType(work.__code__, {**globals(), "__name__": name, "__builtins__": __builtins__}, work.__name__)


@pytest.mark.parametrize(
    ("work", "error"),
    [
        (within(lambda: KIND.fault()), TypeError), (within(lambda: KIND.fault("x", "y", colour=1)), TypeError),
        (within(lambda: KIND.refusal()), TypeError), (lambda: {}[Precision.INT8], KeyError),
        (lambda: undefined.no_such, AttributeError), (lambda: KIND.fault.no_such, AttributeError),
        (undefined, NameError), (lambda: math.no_such, AttributeError), (lambda: ShapeProfile.no_such, AttributeError),
        (lambda: KIND.no_such, AttributeError),
    ],
)  # fmt: skip
def test_a_fault_of_the_code_is_not_blamed_on_the_file(work, error):
    with pytest.raises(error), reading("some.table", KIND):
        work()


@pytest.mark.parametrize(
    "work",
    [
        lambda: {}["rows"], lambda: None.rows, lambda: [][0], lambda: int("x"), lambda: Path("x").no_such,
        lambda: len(3), lambda: {}.get(3)(), lambda: KIND.fault(), within(lambda: ShapeProfile(colour=1)),
        within(lambda: UsualDrop(limit=1.0, colour=1)), within(lambda: UsualDrop(*[1.0])),
    ],
)  # fmt: skip
def test_what_a_file_can_cause_is_blamed_on_it(work):
    with pytest.raises(DataError, match="it is no table") as told, reading("some.table", KIND):
        work()
    assert told.value.where == "some.table"


def test_where_either_may_be_at_fault_the_remedy_says_so():
    """A KeyError of a file that lacks an entry is no other than one of a reader that looks for the wrong one."""
    for module, doubtful in (("toolkit.report.sections.describe", True), ("json.decoder", False)):
        work = within(lambda: {}["rows"], module)
        with pytest.raises(DataError) as told, reading("some.table", KIND):
            work()
        assert told.value.remedy.startswith("write it again")
        assert ("report a bug in qtool, with toolkit.report.sections.describe:" in told.value.remedy) is doubtful


@pytest.mark.parametrize(("fault", "bug"), [(undefined, True), (lambda: {}["type"], False)])
def test_inspect_calls_a_fault_of_the_code_a_bug(fault, bug, monkeypatch, capsys):
    monkeypatch.setattr("toolkit.report.sections.describe.tensor_infos", lambda *_: fault())
    assert invoke(["inspect", str(MODELS / "digits_cnn.onnx")]) != 0
    said = capsys.readouterr().err
    assert ("This is a bug in qtool" in said) is bug and ("not a valid ONNX model" in said) is not bug
