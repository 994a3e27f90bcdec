"""Samples that a Polygraphy command or script takes from code: said in any case, also before there is a cache."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal
from toolkit.cli.main import invoke

SCRIPT = """
from polygraphy.backend.trt import Calibrator, CreateConfig, EngineFromNetwork, NetworkFromOnnxPath
from loader import samples

calibrator = Calibrator(data_loader=samples(), cache="c.cache")
build = EngineFromNetwork(NetworkFromOnnxPath("net.onnx"), config=CreateConfig(int8=True, calibrator=calibrator))
"""
COMMAND = "polygraphy convert net.onnx --int8 --data-loader-script loader.py:samples --calibration-cache c.cache"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = build([node("MatMul", ["x", "w"], ["y"], "fc")], {"x": [2, 8]}, {"y": [2, 3]}, {"w": normal(8, 3)})
    onnx.save(net, "net.onnx")
    Path("build.py").write_text(SCRIPT)
    Path("build.sh").write_text(COMMAND + "\n")
    np.savez("some.npz", x=normal(8, 8))


def fates(*words):
    status = invoke(["migrate", *words, "--out", "out"])
    found = json.loads(Path("out/migration.json").read_text())
    return status, found, {turn["why"]["code"]: turn["fate"] for turn in found["orders"] if turn.get("why")}


@pytest.mark.parametrize("source", ["build.py", "build.sh"])
def test_a_cache_that_is_still_to_be_written_is_no_missing_file(source):
    status, found, by = fates(source)
    assert status == 1 and found["model"] is None
    assert by["migrate-code-to-allow"] == by["migrate-cache-not-there"] == "lost"
    assert "ranges" not in Path("out/net.toml").read_text().split("[evaluation]")[0]


@pytest.mark.parametrize("source", ["build.py", "build.sh"])
def test_a_cache_that_is_there_decides_and_the_loader_is_said_to_be_needless(source):
    Path("c.cache").write_text(
        "TRT-8600-EntropyCalibration2\nx: 3c010a14\n(Unnamed Layer* 0) [Shuffle]_output: 3c010a14\n"
    )
    status, found, by = fates(source)
    assert status == 0 and found["model"] is not None and by["migrate-cache-decides"] == "overruled"


@pytest.mark.parametrize("source", ["build.py", "build.sh"])
def test_samples_that_are_given_take_the_place_of_both(source):
    status, found, _ = fates(source, "--data", "some.npz")
    assert status == 0 and found["model"] is not None
    assert 'data = "../some.npz"' in Path("out/net.toml").read_text()


def test_a_calibrators_cache_that_is_missing_may_be_replaced_by_samples(capsys):
    assert invoke(["migrate", "trtexec", "--onnx=net.onnx", "--int8", "--calib=c.cache"]) == 2
    assert "Give it with --cache, or samples with --data" in capsys.readouterr().err
