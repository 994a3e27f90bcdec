"""``qtool inspect`` on what belongs to a build."""

from __future__ import annotations

import json

import pytest

from tests.conftest import MODELS
from tests.toolkit.conftest import GOOD
from toolkit.base.errors import QtoolError
from toolkit.cli.main import invoke
from toolkit.run.pipeline import run
from toolkit.run.results.inspect import inspect

HEADER = b"ftrt" + bytes(20) + bytes([8, 6, 0, 12]) + b"the rest of it"


def test_a_recipe_is_shown_with_what_is_missing(place, capsys):
    assert invoke(["inspect", str(place / "recipe.toml"), "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["kind"] == "recipe" and found["pass"] == [{"use": "insert_qdq"}] and not printed.err
    (place / "data.npz").unlink()
    shown = inspect(place / "recipe.toml")
    assert "data.npz" in shown.warnings[0] and "profile all: x" in shown.text
    (place / "recipe.toml").write_text(GOOD.replace("[engine]", "[engin]"))
    assert invoke(["inspect", str(place / "recipe.toml")]) == 2 and "'engine'" in capsys.readouterr().err


def test_a_lock_file_says_what_changed_since(place):
    run(place / "recipe.toml", place / "out")
    lock = place / "out" / "recipe.lock.toml"
    shown = inspect(lock)
    assert shown.content["lock"]["backend"] == "none" and not shown.warnings
    assert shown.content["now"] == {"the model": "same", "[calibration] data": "same"}
    (place / "data.npz").unlink()
    (place / "model.onnx").write_bytes(b"another")
    assert inspect(lock).content["now"] == {"the model": "changed", "[calibration] data": "not there"}
    assert len(inspect(lock).warnings) == 2
    lock.write_text(GOOD)
    assert invoke(["inspect", str(lock)]) == 2


@pytest.mark.parametrize("name", ["model.engine", "model.plan", "anything.bin"])
def test_an_engine_is_known_by_its_header(name, tmp_path):
    (tmp_path / name).write_bytes(HEADER)
    found = inspect(tmp_path / name)
    assert (found.content["backend"], found.content["version"]) == ("tensorrt", "8.6.0.12") and not found.content[
        "layers"
    ]
    (tmp_path / "layers.json").write_text(json.dumps({"Layers": ["conv1", "fc"], "Bindings": []}))
    found = inspect(tmp_path / name)
    assert [layer["name"] for layer in found.content["layers"]] == ["conv1", "fc"] and "8.6.0.12" in found.text


def test_what_is_no_engine_is_refused(tmp_path, capsys):
    for content in (b"", b"ftrt", b"PK\x03\x04" + bytes(40)):
        (tmp_path / "model.engine").write_bytes(content)
        assert invoke(["inspect", str(tmp_path / "model.engine")]) == 2 and "not an engine" in capsys.readouterr().err


def test_a_log_tells_each_warning_once(tmp_path, capsys):
    (tmp_path / "build.log").write_text("INFO: a\nWARNING: b\nWARNING: b\nERROR: c\n  more of c\n")
    found = inspect(tmp_path / "build.log").content
    assert found["levels"] == {"INFO": 1, "WARNING": 2, "ERROR": 1}
    assert found["messages"] == [
        {"level": "WARNING", "text": "b", "times": 2},
        {"level": "ERROR", "text": "c", "times": 1},
    ]
    (tmp_path / "other.log").write_text("something else\n")
    assert invoke(["inspect", str(tmp_path / "other.log")]) == 2


def test_a_timing_cache_is_called_that(tmp_path):
    for name in ("engines.timing", "trtexec.cache"):
        (tmp_path / name).write_bytes(b"ptrtd" + bytes(9))
        assert inspect(tmp_path / name).content["kind"] == "timing cache"
    (tmp_path / "engines.timing").write_bytes(bytes(range(256)))
    with pytest.raises(QtoolError, match="this is not a timing cache: it has no header of TensorRT"):
        inspect(tmp_path / "engines.timing")


def test_a_json_file_of_anybodys_with_a_summary_is_shown(tmp_path):
    path = tmp_path / "s.json"
    path.write_text('{"schema": "qtool-search/1", "summary": ["x"]}')
    assert inspect(path).content["summary"] == ["x"]


def test_an_ending_may_be_in_capitals(tmp_path):
    path = tmp_path / "M.ONNX"
    path.write_bytes((MODELS / "digits_cnn.onnx").read_bytes())
    assert inspect(path).content["pairs"] == 0


def test_a_model_is_shown_with_types_and_shapes(place, capsys):
    assert invoke(["inspect", str(place / "model.onnx")]) == 0
    text = capsys.readouterr().out
    assert "input x: fp32 n×3×h×w_" in text and "output y: fp32" in text and "None" not in text


@pytest.mark.parametrize(("name", "remedy"), [("report.html", "qtool view"), ("build.sh", "qtool migrate")])
def test_a_file_for_another_command_names_that(name, remedy, tmp_path, capsys):
    (tmp_path / name).write_text("something")
    assert invoke(["inspect", str(tmp_path / name)]) == 2
    assert remedy in capsys.readouterr().err


def test_layers_of_a_typed_network_come_with_their_kernels(tmp_path, capsys):
    layer = {"name": "conv", "type": "CONVOLUTION", "inputs": [], "metadata": "",
             "outputs": [{"name": "c", "type": "HALF", "shape": [1]}]}  # fmt: skip
    content = {
        "source": "network",
        "backend": "tensorrt_rtx",
        "kernels": {"conv": "corrltn(int8, int8)"},
        "layers": [layer],
    }
    (tmp_path / "layers.json").write_text(json.dumps(content))
    assert invoke(["inspect", str(tmp_path / "layers.json")]) == 0
    text = capsys.readouterr().out
    assert "typed network" in text and text.rstrip().endswith("conv  corrltn(int8, int8)")
