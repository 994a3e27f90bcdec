"""Engines that are kept come back as they were built, or not at all."""

from __future__ import annotations

import pytest

from toolkit.backends.layers.layer import Build, Layer, Port
from toolkit.backends.trials.engine_cache import EngineCache

BUILD = Build(
    "tensorrt", "8.6", b"engine", [Layer("a", "Conv", (Port("x", "int8", shape=(1, 2)),), nodes=("n",))], "inspector",
    {"raw": [1]}, ["WARNING: w"], 2.5, {"profiles": []}, {"a": {"default": 1.0}}, {"default": {"opt": 1.0}},
)  # fmt: skip


@pytest.mark.parametrize("own", [True, False])
def test_what_is_kept_comes_back(tmp_path, own):
    kept = EngineCache(tmp_path if own else None)
    assert kept.file("one") is None and kept.build("one") is None and not kept.any()
    assert kept.keep("one", BUILD) and not kept.keep("none", Build("none"))
    assert kept.build("one") == BUILD and kept.file("one").read_bytes() == b"engine"
    assert kept.any() == own
    kept.drop()
    assert kept.build("one") is None and not kept.any()


@pytest.mark.parametrize("ending", ["engine", "json"])
def test_what_was_damaged_is_not_taken(tmp_path, ending):
    kept = EngineCache(tmp_path)
    kept.keep("one", BUILD)
    (tmp_path / "engines" / f"one.{ending}").write_bytes(b"{}")
    assert kept.build("one") is None
