"""A run on a GPU holds its engine against the float one before it is done, and takes the engine that it measured."""

from __future__ import annotations

import json

import pytest

from tests.conftest import digits_recipe
from tests.toolkit.backends.payoff_stand_in import StandIn
from toolkit import run
from toolkit.backends import choose
from toolkit.backends.codes import EngineCode
from toolkit.base import gpu
from toolkit.base.gpu import Gpu

LAYERS = ["stem", "second", "head"]


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Runs the digits' recipe with a stand-in whose layers take so long quantized, 1 ms in float."""

    def go(quantized, prefer="speed", typing="strong"):
        backend = StandIn(dict.fromkeys(LAYERS, 1.0), quantized, {"single": 1.0, "batch": 8.0})
        backend.typing = typing
        monkeypatch.setattr(choose, "choose", lambda name: (backend, EngineCode.BACKEND_REQUESTED()))
        monkeypatch.setattr(gpu, "find_gpu", lambda: Gpu("NVIDIA Test", "9.0"))
        recipe = tmp_path / "digits.toml"
        recipe.write_text(digits_recipe(tmp_path).replace('"auto"', f'"auto"\nprefer = "{prefer}"'))
        return run(recipe, tmp_path / "out", device_check=False), backend

    return go


def asked(result):
    return {layer.node: str(layer.asked.precision) for layer in result.report.layers if layer.node in LAYERS}


def engine_of(result):
    return json.loads((result.folder / "model.engine").read_bytes())


@pytest.mark.parametrize("typing", ["strong", "weak"])
def test_the_engine_that_was_measured_is_the_runs_own(ran, tmp_path, typing):
    result, backend = ran(dict.fromkeys(LAYERS, 0.5), typing=typing)
    assert [len(inside) for inside in backend.built] == [0, len(LAYERS)]
    assert set(asked(result).values()) == {"int8"} and not (tmp_path / "out" / ".qtool" / "engines").exists()
    assert engine_of(result) == sorted(LAYERS)


def test_an_engine_that_would_be_slower_is_float_and_the_first_line_says_why(ran):
    result, backend = ran(dict.fromkeys(LAYERS, 1.3))
    assert set(asked(result).values()) == {"fp16"} and len(backend.built) <= 6
    assert engine_of(result) == [] and result.report.latency["single"]["opt"] == pytest.approx(len(LAYERS), rel=0.05)
    assert all(word in result.report.summary.headline for word in ("slower than FP16", 'prefer = "int8"'))
    again, same = ran(dict.fromkeys(LAYERS, 1.3), "int8")
    assert set(asked(again).values()) == {"int8"} and [len(inside) for inside in same.built] == [len(LAYERS)]
