"""Errors in a block that reads a file are the file's, unless no file can cause them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.conftest import MODELS
from toolkit.base.errors import DataError
from toolkit.base.profiles import ShapeProfile
from toolkit.base.reading import FileKind, reading
from toolkit.cli.main import invoke

KIND = FileKind("it is no table", DataError, "write it again")


def undefined():
    return nowhere  # noqa: F821


@pytest.mark.parametrize(
    ("work", "error"),
    [
        (undefined, NameError), (lambda: math.no_such, AttributeError), (lambda: ShapeProfile.no_such, AttributeError),
        (lambda: KIND.no_such, AttributeError),
    ],
)  # fmt: skip
def test_a_fault_of_the_code_is_not_blamed_on_the_file(work, error):
    with pytest.raises(error), reading("some.table", KIND):
        work()


@pytest.mark.parametrize(
    "work",
    [lambda: {}["rows"], lambda: None.rows, lambda: [][0], lambda: int("x"), lambda: Path("x").no_such, lambda: len(3)],
)
def test_what_a_file_can_cause_is_blamed_on_it(work):
    with pytest.raises(DataError, match="it is no table") as told, reading("some.table", KIND):
        work()
    assert told.value.where == "some.table"


@pytest.mark.parametrize(("fault", "bug"), [(undefined, True), (lambda: {}["type"], False)])
def test_inspect_calls_a_fault_of_the_code_a_bug(fault, bug, monkeypatch, capsys):
    monkeypatch.setattr("toolkit.report.sections.describe.tensor_infos", lambda *_: fault())
    assert invoke(["inspect", str(MODELS / "digits_cnn.onnx")]) != 0
    said = capsys.readouterr().err
    assert ("This is a bug in qtool" in said) is bug and ("not a valid ONNX model" in said) is not bug
