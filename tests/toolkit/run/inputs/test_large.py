"""Models above protobuf's limit, which is lowered here: every command works, and no message grows beyond it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.large_models import block_samples, hold_to_limit, residual_blocks
from toolkit.cli.main import invoke
from toolkit.graph.large_models import memory
from toolkit.report.schema.report import Report

LIMIT = 60_000
WIDTH, BLOCKS = 64, 3
INSERT = '[[pass]]\nuse = "insert_qdq"\n'


@pytest.fixture
def place(tmp_path, monkeypatch):
    hold_to_limit(monkeypatch, LIMIT)
    residual_blocks(tmp_path / "big.onnx", WIDTH, BLOCKS)
    block_samples(tmp_path / "samples.npz", WIDTH)
    # every path of a recipe and of the command line is relative, as people write them
    monkeypatch.chdir(tmp_path)
    return tmp_path


def done(capsys, *words):
    assert invoke(list(words)) == 0, capsys.readouterr()
    return capsys.readouterr().out


def test_the_whole_road(place, capsys):
    done(capsys, "new", "big.onnx", "--data", "samples.npz", "--out", "new.toml")
    text = (place / "new.toml").read_text().replace('backend = "auto"', 'backend = "none"')
    (place / "searched.toml").write_text(text)
    done(capsys, "check", "searched.toml")
    done(capsys, "run", "searched.toml", "--out", "runs/searched")
    searched = Report.load(place / "runs/searched/report.json")
    assert searched.search is not None and searched.accuracy.outputs["y"].sqnr_db > 20
    (prepared,) = (place / "runs/searched/.qtool").glob("prepared.onnx.*.data")
    assert prepared.stat().st_size >= 2 * BLOCKS * 4 * WIDTH * WIDTH
    assert all(len(p.read_bytes()) <= LIMIT for p in (place / "runs").rglob("*.onnx"))
    assert "reused task, passes" in done(capsys, "run", "searched.toml", "--out", "runs/searched").replace("\n", " ")

    found = json.loads(done(capsys, "sensitivity", "searched.toml", "--out", "runs/searched", "--json"))
    assert len(found["groups"]) == 2 * BLOCKS

    # the model with its pairs is above the limit too: they are taken out, and put in anew
    text = re.sub(r'\[\[pass\]\]\nuse = "search_precision".*?\n\n', INSERT + "\n", text, flags=re.DOTALL)
    (place / "plain.toml").write_text(text)
    done(capsys, "run", "plain.toml", "--out", "runs/plain")
    for path in (place / "runs/plain/.qtool").glob("prepared.onnx*"):
        path.rename(place / path.name)
    text = text.replace("big.onnx", "prepared.onnx").replace("[[pass]]", '[[pass]]\nuse = "strip_qdq"\n\n[[pass]]', 1)
    (place / "stripped.toml").write_text(text)
    done(capsys, "check", "stripped.toml")
    done(capsys, "run", "stripped.toml", "--out", "runs/stripped")
    plain, stripped = (Report.load(place / f"runs/{name}/report.json") for name in ("plain", "stripped"))
    assert plain.accuracy.outputs["y"].sqnr_db == pytest.approx(stripped.accuracy.outputs["y"].sqnr_db, abs=0.01)

    done(capsys, "compare", "runs/searched", "runs/plain", "--html", "both.html")
    assert f"MatMul {2 * BLOCKS}" in done(capsys, "inspect", "big.onnx")
    assert f"Q/DQ pairs: {4 * BLOCKS}" in done(capsys, "inspect", "prepared.onnx")
    done(capsys, "inspect", "runs/plain")
    done(capsys, "bisect", "searched.toml", "--out", "runs/searched")


@pytest.mark.rtx
def test_an_engine_is_built_from_weights_in_a_file_of_their_own(place, capsys):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install qtool[rtx]")
    (place / "recipe.toml").write_text(
        '[model]\npath = "big.onnx"\n[[profile]]\nname = "a"\n'
        f"shapes.x0 = {{ min = [1, {WIDTH}], opt = [4, {WIDTH}], max = [8, {WIDTH}] }}\n"
        '[calibration]\ndata = "samples.npz"\n'
        f'{INSERT}exclude = ["wide*"]\n[engine]\nbackend = "tensorrt_rtx"\nrest = "fp32"\n'
    )
    done(capsys, "run", "recipe.toml", "--out", "out")
    assert list((place / "out").glob("model.onnx.*.data"))
    report = Report.load(place / "out/report.json")
    run_in = {layer.node: layer.actual.precision for layer in report.layers if layer.op == "MatMul"}
    assert {run_in["wide1"], run_in["back1"]} == {"fp32", "int8"}


def test_processes_share_the_work_and_map_the_weights(place, capsys):
    (place / "recipe.toml").write_text(
        f'[model]\npath = "big.onnx"\n[calibration]\ndata = "samples.npz"\n{INSERT}[engine]\nbackend = "none"\n'
    )
    one = json.loads(done(capsys, "sensitivity", "recipe.toml", "--out", "one", "--json"))
    two = json.loads(done(capsys, "sensitivity", "recipe.toml", "--out", "two", "--processes", "2", "--json"))
    assert one["groups"] == two["groups"]


def test_memory_cuts_the_model_into_partitions_and_changes_no_result(tmp_path, monkeypatch, capsys):
    residual_blocks(tmp_path / "big.onnx", 128, 6)
    block_samples(tmp_path / "samples.npz", 128)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "whole.toml").write_text(
        f'[model]\npath = "big.onnx"\n[calibration]\ndata = "samples.npz"\n{INSERT}[engine]\nbackend = "none"\n'
    )
    (tmp_path / "cut.toml").write_text((tmp_path / "whole.toml").read_text() + '[run]\nmemory = "1MB"\n')
    for name in ("whole", "cut"):
        done(capsys, "run", f"{name}.toml", "--out", name)
        done(capsys, "calibrate", f"{name}.toml", "--out", f"{name}.npz")
    layers = [json.loads(done(capsys, "sensitivity", f"{n}.toml", "--out", n, "--json")) for n in ("whole", "cut")]
    assert layers[0]["groups"] == layers[1]["groups"] and Path("whole.npz").read_bytes() == Path("cut.npz").read_bytes()
    events = [json.loads(line) for line in Path("cut/journal.jsonl").read_text().splitlines()]
    (said,) = [one["values"] for one in events if one["rule"] == "stretches"]
    assert said == {"stretches": 6, "weights": 12 * 4 * 128**2, "memory": 10**6}
    for file in ("ranges.json", "model.onnx"):
        assert Path("whole", file).read_bytes() == Path("cut", file).read_bytes(), file
    whole, cut = (Report.load(tmp_path / name / "report.json") for name in ("whole", "cut"))
    assert whole.accuracy == cut.accuracy and [one.error for one in whole.layers] == [one.error for one in cut.layers]
    # whoever opens the run again works within the same memory
    given, real = [], memory.limit_memory
    monkeypatch.setattr(memory, "limit_memory", lambda size: given.append(size) or real(size))
    done(capsys, "accuracy", "cut")
    done(capsys, "accuracy", "whole")
    assert given == [10**6, None]
    # a bound is no part of any key: the steps are found again
    assert "reused task, passes" in done(capsys, "run", "cut.toml", "--out", "whole").replace("\n", " ")
