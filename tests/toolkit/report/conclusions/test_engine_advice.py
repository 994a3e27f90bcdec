"""What is advised on engines where none was asked for."""

from __future__ import annotations

import pytest

from toolkit.backends.unsupported import unsupported_operators
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions import advice as module
from toolkit.report.conclusions.advice import advice
from toolkit.report.findings import sentence
from toolkit.report.schema.report import ActualInfo, BackendInfo, LayerInfo


def advised(*ops, backend="none"):
    layers = [LayerInfo(node=f"n{at}", op=op, actual=ActualInfo(precision=None)) for at, op in enumerate(ops)]
    found = [one.finding for one in advice(layers, None, BackendInfo(name=backend), [], None)]
    return [one for one in found if one.code in (ReportCode.BUILD_AN_ENGINE, ReportCode.REPLACE_FOR_TENSORRT)]


@pytest.mark.parametrize("op", ["TreeEnsembleRegressor", "SplitToSequence", "SequenceAt", "OptionalGetElement"])
def test_no_engine_is_advised_that_no_tensorrt_builds(op):
    (found,) = advised("MatMul", op)
    assert found == ReportCode.REPLACE_FOR_TENSORRT(node="n1", op=op)
    assert sentence(found).startswith(f"No TensorRT supports 'n1' ({op})")


@pytest.mark.parametrize("there", [True, False])
def test_an_engine_is_advised_and_its_package_where_it_is_not_installed(there, monkeypatch):
    monkeypatch.setattr(module, "installed", lambda backend: there and backend == "tensorrt_rtx")
    (found,) = advised("MatMul", "Loop", "Gather")
    assert found.code is ReportCode.BUILD_AN_ENGINE
    assert ("pip install" in sentence(found)) is not there and '"tensorrt_rtx"' in sentence(found)


def test_nothing_is_advised_where_an_engine_was_built():
    assert not advised("MatMul", backend="tensorrt_rtx")


def test_operators_of_tensors_are_not_among_those_that_no_tensorrt_supports():
    assert not unsupported_operators() & {
        "Conv",
        "Identity",
        "Loop",
        "If",
        "Scan",
        "Gather",
        "NonMaxSuppression",
        "Cast",
    }
