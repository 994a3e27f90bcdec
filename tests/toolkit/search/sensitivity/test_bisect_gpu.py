"""``qtool bisect --on engine`` on a GPU: one damaged range makes one layer fail, in the engine as in the simulation."""

from __future__ import annotations

import json

import pytest

from tests.toolkit.run.analysis.test_bisect_engine import FRAGILE, prepare, recipe
from toolkit.backends.choose import usable
from toolkit.cli.main import invoke

pytestmark = pytest.mark.gpu

# The test host has no cuBLAS and cuDNN: only TensorRT's own kernels.
ENGINE = '[engine]\nbackend = "tensorrt"\ntactic_sources = []\noptimization_level = 1\n'


def test_the_damaged_layer_is_found_on_engines_and_no_verdict_is_lost(tmp_path, capsys):
    features, refusal = usable("tensorrt")
    if features is None:
        pytest.skip(str(refusal))
    prepare(tmp_path)
    (tmp_path / "r.toml").write_text(recipe(later=ENGINE))
    words = ["bisect", str(tmp_path / "r.toml"), "--out", str(tmp_path / "run"), "--min-sqnr-db", "15", "--json"]

    def call(*more):
        assert invoke([*words, *more]) == 0
        return json.loads(capsys.readouterr().out)

    found = call("--on", "engine")
    with capsys.disabled():
        print(found["checks"], [(len(v["kept"]), v["passed"], v["reason"]) for v in found["verdicts"]], found["notes"])
    assert found["kept"] == [FRAGILE] == call()["kept"]
    assert found["checks"] > 4
    assert (tmp_path / "run" / ".qtool" / "engines.timing").stat().st_size > 0
    again = call("--on", "engine")
    assert again["kept"] == [FRAGILE] and again["checks"] == 0
