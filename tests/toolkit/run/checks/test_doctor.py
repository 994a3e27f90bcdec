from __future__ import annotations

import json

import pytest

from toolkit.backends import choose, rtx
from toolkit.base import gpu
from toolkit.base.errors import BackendError
from toolkit.base.gpu import Gpu
from toolkit.cli.main import invoke
from toolkit.run.checks.doctor import examine

FEATURES = {"version": "10.3.0", "strong": True, "weak": True, "implicit": True}


def machine(monkeypatch, card, tensorrt=None, measures=True):
    """A machine with this GPU, and TensorRT where ``tensorrt`` says no reason against it."""
    from toolkit.backends import tensorrt as module

    answers = {
        "tensorrt": (FEATURES, None) if tensorrt is None else (None, BackendError(tensorrt, remedy="mend it")),
        "tensorrt_rtx": ({**FEATURES, "weak": False}, None),
    }
    for place in (choose, rtx, module, gpu):
        monkeypatch.setattr(place, "find_gpu", lambda: card)
    monkeypatch.setattr(choose, "usable", answers.__getitem__)
    monkeypatch.setattr(module, "cuda_runtime", lambda: object() if measures else None)
    return {(one.what, one.by.split()[0]): one for one in examine().abilities}


def test_without_a_gpu_rtx_builds_and_nothing_runs(monkeypatch):
    found = machine(monkeypatch, None, tensorrt="tensorrt is not installed")
    assert not found["build", "tensorrt"].able and found["build", "tensorrt"].remedy == "mend it"
    assert found["build", "tensorrt_rtx"].able
    assert not found["run", "tensorrt_rtx"].able and not found["measure", "tensorrt_rtx"].able
    assert found["simulate", "onnxruntime"].able


def test_on_a_gpu_that_rtx_does_not_build_for_tensorrt_does_all(monkeypatch):
    found = machine(monkeypatch, Gpu("H100", "9.0"))
    assert all(found[what, "tensorrt"].able for what in ("build", "run", "measure"))
    assert not found["run", "tensorrt_rtx"].able and "8.9" in found["run", "tensorrt_rtx"].why
    found = machine(monkeypatch, Gpu("L4", "8.9"), measures=False)
    assert found["run", "tensorrt_rtx"].able
    assert not found["measure", "tensorrt"].able and "cuda-python" in found["measure", "tensorrt"].remedy


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_doctor_prints_what_is_installed_as_text_and_as_json(words, capsys):
    assert invoke(["doctor", *words]) == 0
    printed = capsys.readouterr().out
    assert "onnxruntime" in printed
    if words:
        found = json.loads(printed)
        assert found["packages"]["python"] == found["machine"]["python"] and not found["missing"]
