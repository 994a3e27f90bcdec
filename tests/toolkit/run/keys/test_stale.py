"""Stale results, which must never be: a folder that is used again answers as a fresh one does, whatever changed."""

from __future__ import annotations

import importlib.util
import json
import os
import py_compile
import sys

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal, said
from tests.toolkit.conftest import GOOD
from tests.toolkit.run.steps.test_compare import Builder
from toolkit import Code, DataError, Journal, Recipe, run
from toolkit.backends import choose
from toolkit.backends.codes import EngineCode
from toolkit.base import gpu
from toolkit.base.gpu import Gpu
from toolkit.cli.main import invoke
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.steps.passes import PassesStep

METRIC = """
import importlib, json, os, pathlib
HERE = pathlib.Path(__file__).parent
class Met:
    higher_is_better = True
    def __init__(self): self.n = 0
    def update(self, outputs, labels): self.n += len(labels["label"])
    def value(self):
        {body}
"""
PASS = """
import importlib, json, os, pathlib, subprocess, sys
from toolkit import Pass
HERE = pathlib.Path(__file__).parent
class Own(Pass):
    def apply(self, model, context):
        {body}
        for node in model.nodes:
            if node.op in ops:
                context.plan.ask(node.name, "fp32", "own")
"""


def write(place, path, text):
    (place / path).parent.mkdir(exist_ok=True)
    (place / path).write_text(text)


def sensitivities(place, capsys, out, *words):
    command = ["sensitivity", str(place / "recipe.toml"), "--out", str(place / out), "--allow-code", "--json"]
    assert invoke([*command, "--data", "evaluation", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    return found["float_metric"], [group["alone"]["metric"] for group in found["groups"]], found["notes"]


@pytest.fixture
def metric(place, monkeypatch):
    """The recipe with a metric of its own, whose value is what ``body`` returns."""
    np.savez(place / "test.npz", x=normal(6, 3, 4, 4), label=np.zeros(6, np.int64))
    (place / "recipe.toml").write_text(
        GOOD + '[evaluation]\ndata = "test.npz"\nmetric = "met:Met"\nbudget = { min_value = 0.5 }\n'
    )
    monkeypatch.setenv("THRESHOLD_OF_A_TEST", "0.9")
    write(place, "limit.json", "0.9")
    write(place, "more/part.txt", "x")
    write(place, "helper.py", "VALUE = 0.9\n")

    def made(body):
        write(place, "met.py", METRIC.format(body=body))
        return place

    return made


def change_file(place, monkeypatch):
    write(place, "limit.json", "0.8")


def change_source(place, monkeypatch):
    write(place, "met.py", (place / "met.py").read_text().replace("0.9", "0.8"))


def change_helper(place, monkeypatch):
    write(place, "helper.py", "VALUE = 0.8\n")


def change_variable(place, monkeypatch):
    monkeypatch.setenv("THRESHOLD_OF_A_TEST", "0.8")


def add_file(place, monkeypatch):
    write(place, "override.json", "0.8")


def add_to_folder(place, monkeypatch):
    for number in range(9):
        write(place, f"more/{number}.txt", "x")


WAYS = {
    "its source": ("return 0.9", change_source),
    "a file": ('return float((HERE / "limit.json").read_text())', change_file),
    "an array": ('import numpy as np; return float(np.loadtxt(HERE / "limit.json"))', change_file),
    "an import at run time": ('return importlib.import_module("hel" + "per").VALUE', change_helper),
    "an environment variable": ('return float(os.environ["THRESHOLD_OF_A_TEST"])', change_variable),
    "a file that was not there": ('return 0.8 if (HERE / "override.json").exists() else 0.9', add_file),
    "the names in a folder": ('return 0.9 if len(os.listdir(HERE / "more")) == 1 else 0.8', add_to_folder),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_metric_that_changed_is_measured_again_by_a_run(metric, monkeypatch, way):
    body, change = WAYS[way]
    place = metric(body)
    assert run(place / "recipe.toml", place / "out", allow_code=True).report.accuracy.quantized == 0.9
    again = run(place / "recipe.toml", place / "out", allow_code=True)
    assert {step.status for step in again.steps} == {"reused"}, [step.why for step in again.steps]
    change(place, monkeypatch)
    assert run(place / "recipe.toml", place / "out", allow_code=True).report.accuracy.quantized == 0.8


@pytest.mark.parametrize("way", ["its source", "a file", "an import at run time"])
@pytest.mark.parametrize("words", [[], ["--fast"], ["--processes", "2"]], ids=["exact", "fast", "processes"])
def test_a_metric_that_changed_is_measured_again_by_sensitivity(metric, monkeypatch, capsys, way, words):
    body, change = WAYS[way]
    place = metric(body)
    if words == ["--processes", "2"] and way != "a file":
        pytest.skip("two processes take seconds to start")
    assert sensitivities(place, capsys, "out", *words)[:2] == (0.9, [0.9])
    assert sensitivities(place, capsys, "out", *words)[2] == sensitivities(place, capsys, "out", *words)[2]
    change(place, monkeypatch)
    again, fresh = sensitivities(place, capsys, "out", *words), sensitivities(place, capsys, "fresh", *words)
    assert again[:2] == fresh[:2] == (0.8, [0.8])
    # what is known beforehand is in the key; what was read is said
    assert [note["code"] for note in again[2]].count(Code.MEASURED_AGAIN.value) == (way != "its source")


@pytest.mark.parametrize("way", ["its source", "a file", "an import at run time"])
def test_a_metric_that_changed_is_asked_again_by_bisect(metric, monkeypatch, capsys, way):
    body, change = WAYS[way]
    place = metric(body.replace("return ", "return 0.1 + ", 1) if way == "its source" else body)
    command = ["bisect", str(place / "recipe.toml"), "--allow-code", "--json", "--data", "evaluation", "--out"]
    (place / "recipe.toml").write_text((place / "recipe.toml").read_text().replace("0.5", "0.85"))
    assert invoke([*command, str(place / "out")]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == []
    assert invoke([*command, str(place / "out")]) == 0
    assert json.loads(capsys.readouterr().out)["checks"] == 0
    change(place, monkeypatch)
    if way == "its source":
        change(place, monkeypatch)
        write(place, "met.py", (place / "met.py").read_text().replace("0.1 + ", ""))
    # not even the float model passes now
    assert [invoke([*command, str(place / out)]) for out in ("out", "fresh")] == [2, 2]


@pytest.mark.parametrize("way", ["its source", "a file", "an import at run time"])
def test_a_metric_that_changed_is_measured_again_by_a_search(metric, monkeypatch, way):
    body, change = WAYS[way]
    place = metric(body)
    text = (
        (place / "recipe.toml")
        .read_text()
        .replace('"insert_qdq"', '"search_precision"\ndata = "evaluation"\nmeasure = false')
    )
    (place / "recipe.toml").write_text(text)
    first = run(place / "recipe.toml", place / "out", allow_code=True).report.search
    assert first.met and first.plans[0].metric == 0.9
    change(place, monkeypatch)
    again = run(place / "recipe.toml", place / "out", allow_code=True).report.search
    fresh = run(place / "recipe.toml", place / "fresh", allow_code=True).report.search
    assert again.plans == fresh.plans and again.plans[0].metric == 0.8


# ---------------------------------------------------------------- passes


@pytest.fixture
def own(place):
    """The recipe with a pass of its own, which asks for FP32 for the operators that ``body`` calls ``ops``."""
    text = GOOD.replace('[[pass]]\nuse = "insert_qdq"', '[[pass]]\nuse = "own:Own"\n[[pass]]\nuse = "insert_qdq"')
    (place / "recipe.toml").write_text(text)
    write(place, "limit.json", '["Relu"]')
    write(place, "helper.py", 'VALUE = ["Relu"]\n')
    write(place, "more/part.txt", "x")

    def made(body):
        write(place, "own.py", PASS.format(body=body))
        return place

    return made


PASS_WAYS = {
    "a file": ('ops = json.loads((HERE / "limit.json").read_text())', lambda p: write(p, "limit.json", '["Conv"]')),
    "an import at run time": (
        'ops = importlib.import_module("hel" + "per").VALUE', lambda p: write(p, "helper.py", 'VALUE = ["Conv"]\n'),
    ),
    "a file that was not there": (
        'ops = ["Conv"] if os.path.isfile(HERE / "more" / "override.json") else ["Relu"]',
        lambda p: write(p, "more/override.json", ""),
    ),
    "the names in a folder": (
        'ops = ["Conv"] if len(list((HERE / "more").iterdir())) > 1 else ["Relu"]', lambda p: write(p, "more/b.txt", ""),
    ),
    "a file of its own kind": (
        'ops = json.loads(context.source and open(HERE / "limit.json").read())', lambda p: write(p, "limit.json", '["Conv"]'),
    ),
}  # fmt: skip


def asked(result):
    return {layer.op for layer in result.report.layers if layer.asked and layer.asked.by == "own"}


@pytest.mark.parametrize("way", PASS_WAYS)
def test_a_pass_that_reads_something_else_is_done_again(own, way):
    body, change = PASS_WAYS[way]
    place = own(body)
    assert asked(run(place / "recipe.toml", place / "out", allow_code=True)) == {"Relu"}
    again = run(place / "recipe.toml", place / "out", allow_code=True)
    assert {step.status for step in again.steps} == {"reused"}, [step.why for step in again.steps]
    change(place)
    found = run(place / "recipe.toml", place / "out", allow_code=True)
    assert asked(found) == {"Conv"}
    assert {step.name: step.status for step in found.steps}["passes"] == "done"


def test_what_a_pass_makes_itself_is_no_input(own):
    place = own(
        'ops = ["Relu"]; (HERE / "made.txt").write_text("1"); (HERE / "made.txt").read_text(); '
        '(HERE / "log.txt").open("a").write("x")'
    )
    run(place / "recipe.toml", place / "out", allow_code=True)
    again = run(place / "recipe.toml", place / "out", allow_code=True)
    assert {step.status for step in again.steps} == {"reused"}, [step.why for step in again.steps]


def unknown(result):
    return said(Journal.from_jsonl((result.folder / "journal.jsonl").read_text()), Code.READS_UNKNOWN)


def test_where_what_a_pass_reads_cannot_be_known_it_is_done_again_and_says_so(own):
    place = own('ops = json.loads(subprocess.run(["cat", str(HERE / "limit.json")], capture_output=True).stdout)')
    first = run(place / "recipe.toml", place / "out", allow_code=True)
    assert asked(first) == {"Relu"} and len(unknown(first)) == 1
    second = run(place / "recipe.toml", place / "out", allow_code=True)
    assert {step.name: step.status for step in second.steps}["passes"] == "done" and len(unknown(second)) == 1
    write(place, "limit.json", '["Conv"]')
    assert asked(run(place / "recipe.toml", place / "out", allow_code=True)) == {"Conv"}


def test_a_pass_that_declares_what_it_reads_is_taken_at_its_word(own):
    place = own('ops = json.loads(subprocess.run(["cat", str(HERE / "limit.json")], capture_output=True).stdout)')
    source = (place / "own.py").read_text() + '    def input_files(self, base):\n        return [base / "limit.json"]\n'
    write(place, "own.py", source)
    first = run(place / "recipe.toml", place / "out", allow_code=True)
    assert asked(first) == {"Relu"} and unknown(first) == []
    assert {s.status for s in run(place / "recipe.toml", place / "out", allow_code=True).steps} == {"reused"}
    write(place, "limit.json", '["Conv"]')
    assert asked(run(place / "recipe.toml", place / "out", allow_code=True)) == {"Conv"}


def test_a_metric_that_declares_what_it_reads_is_taken_at_its_word(metric):
    body = 'import subprocess; return float(subprocess.run(["cat", str(HERE / ("limit" + ".json"))], capture_output=True).stdout)'
    place = metric(body)
    write(
        place, "met.py", (place / "met.py").read_text().replace("    higher", '    inputs = ["limit.json"]\n    higher')
    )
    assert run(place / "recipe.toml", place / "out", allow_code=True).report.accuracy.quantized == 0.9
    assert {s.status for s in run(place / "recipe.toml", place / "out", allow_code=True).steps} == {"reused"}
    write(place, "limit.json", "0.8")
    assert run(place / "recipe.toml", place / "out", allow_code=True).report.accuracy.quantized == 0.8


def test_files_that_a_pass_of_the_recipes_own_names_are_not_written_over(own, capsys):
    place = own('ops = ["Relu"]')
    source = (
        place / "own.py"
    ).read_text() + '    def input_files(self, base):\n        return [base / "out" / "ranges.json"]\n'
    write(place, "own.py", source)
    (place / "out" / ".qtool").mkdir(parents=True)
    write(place, "out/ranges.json", "dear")
    assert invoke(["run", str(place / "recipe.toml"), "--out", str(place / "out"), "--allow-code"]) == 2
    assert "overwrite" in capsys.readouterr().err and (place / "out" / "ranges.json").read_text() == "dear"
    (place / "out" / "ranges.json").unlink()
    assert invoke(["run", str(place / "recipe.toml"), "--out", str(place / "fresh"), "--allow-code"]) == 2
    assert "no such file" in capsys.readouterr().err


# ---------------------------------------------------------------- data


DATA = """
from pathlib import Path
import numpy as np
def samples():
    with np.load(Path(__file__).with_name("stored.npz")) as stored:
        for one in stored["x"]:
            yield {"x": one[None]}
"""


def test_data_of_a_function_is_known_by_its_samples(place):
    write(place, "given.py", DATA)
    (place / "recipe.toml").write_text(GOOD.replace('"data.npz"', '"given:samples"'))
    np.savez(place / "stored.npz", x=normal(12, 3, 4, 4))
    run(place / "recipe.toml", place / "out", allow_code=True)
    # another file with the same samples, and another source that gives them
    np.savez_compressed(place / "stored.npz", x=normal(12, 3, 4, 4))
    write(place, "given.py", DATA + "# other words\n")
    again = run(place / "recipe.toml", place / "out", allow_code=True)
    assert {step.status for step in again.steps} == {"reused"}
    np.savez(place / "stored.npz", x=3 * normal(12, 3, 4, 4))
    changed = run(place / "recipe.toml", place / "out", allow_code=True)
    fresh = run(place / "recipe.toml", place / "fresh", allow_code=True)
    assert {step.name: step.status for step in changed.steps}["passes"] == "done"
    assert (place / "out" / "ranges.json").read_bytes() == (place / "fresh" / "ranges.json").read_bytes()
    assert changed.report.accuracy == fresh.report.accuracy


# ---------------------------------------------------------------- a command that judges


SCRIPT = """
import json, pathlib, sys
sys.exit(json.loads(pathlib.Path(__file__).with_name("limit.json").read_text()))
"""


def bisected(place, capsys, out, *words):
    command = f"{sys.executable} {place / 'judge.py'} {{model}}"
    line = [
        "bisect",
        str(place / "recipe.toml"),
        "--out",
        str(place / out),
        "--allow-code",
        "--json",
        "--command",
        command,
    ]
    status = invoke([*line, *words])
    printed = capsys.readouterr()
    return json.loads(printed.out) if status == 0 else printed.err


def test_a_command_is_asked_again_unless_it_is_said_what_it_reads(place, capsys):
    write(place, "judge.py", SCRIPT)
    write(place, "limit.json", "0")
    first = bisected(place, capsys, "out")
    assert first["kept"] == [] and first["checks"] == 2 and first["notes"] == []
    second = bisected(place, capsys, "out")
    assert second["checks"] == 2 and [note["code"] for note in second["notes"]] == [Code.MEASURED_AGAIN.value]
    write(place, "limit.json", "1")
    assert "even with every layer" in bisected(place, capsys, "out")


def test_a_command_whose_files_are_named_is_asked_again_where_they_change(place, capsys):
    write(place, "judge.py", SCRIPT)
    write(place, "limit.json", "0")
    words = ["--reads", str(place / "limit.json")]
    assert bisected(place, capsys, "out", *words)["checks"] == 2
    assert bisected(place, capsys, "out", *words)["checks"] == 0
    write(place, "judge.py", SCRIPT + "# other\n")
    assert bisected(place, capsys, "out", *words)["checks"] == 2
    write(place, "limit.json", "1")
    assert "even with every layer" in bisected(place, capsys, "out", *words)


# ---------------------------------------------------------------- compiled files, inputs that change, trial engines


def test_what_was_compiled_before_is_not_taken_for_the_source(metric):
    place = metric("return 0.9")
    run(place / "recipe.toml", place / "first", allow_code=True)
    cache = importlib.util.cache_from_source(str(place / "met.py"))
    py_compile.compile(str(place / "met.py"), cfile=cache)
    said = (place / "met.py").stat()
    change_source(place, None)
    # as if it had been changed within the second in which it was compiled
    os.utime(place / "met.py", ns=(said.st_atime_ns, said.st_mtime_ns))
    assert run(place / "recipe.toml", place / "second", allow_code=True).report.accuracy.quantized == 0.8


def test_an_input_that_changes_while_it_is_read_ends_the_run(place, monkeypatch):
    own = PassesStep.run

    def changed(step):
        record = own(step)
        np.savez(place / "data.npz", x=normal(14, 3, 4, 4))
        return record

    with monkeypatch.context() as patch:
        patch.setattr(PassesStep, "run", changed)
        with pytest.raises(DataError, match="changed while it was being read"):
            run(place / "recipe.toml", place / "out")
    again, fresh = (run(place / "recipe.toml", place / name) for name in ("out", "fresh"))
    assert again.report.ranges == fresh.report.ranges and again.report.ranges[0].samples == 12


def test_trial_engines_depend_on_the_batches_that_tensorrt_calibrates_with(place):
    def batches(calibration="", evaluation="", calibrator="entropy2"):
        text = GOOD.replace('data = "data.npz"', f'data = "data.npz"\n{calibration}').replace(
            'backend = "none"', f'backend = "none"\nquantization = "implicit"\ncalibrator = "{calibrator}"'
        )
        (place / "recipe.toml").write_text(text + evaluation)
        return Inputs(Job(Recipe.load(place / "recipe.toml"), RunFolder(place / "out"))).calibrator_print()

    prints = [
        batches(),
        batches("samples = 5"),
        batches('outside = "skip"'),
        batches("", "[evaluation]\nhold_out = 0.4\n"),
    ]
    assert len(set(prints)) == 4 and batches() == prints[0] and batches(calibrator="ranges") == ""


def test_engines_that_were_timed_for_another_model_are_timed_again(place, monkeypatch):
    monkeypatch.setattr(choose, "choose", lambda name: (Builder(), EngineCode.BACKEND_REQUESTED()))
    monkeypatch.setattr(gpu, "find_gpu", lambda: Gpu("test", "8.9"))
    text = GOOD.replace('"insert_qdq"', '"insert_qdq"\nonly_if_faster = true').replace('"none"', '"auto"')
    (place / "recipe.toml").write_text(text)
    run(place / "recipe.toml", place / "out", device_check=False)
    proto = build(
        [node("Conv", ["x", "w"], ["c"]), node("Conv", ["c", "v"], ["y"])], {"x": ["n", 3, "h", "w_"]},
        {"y": ["n", 4, "h", "w_"]}, {"w": normal(4, 3, 1, 1, seed=3), "v": normal(4, 4, 1, 1, seed=4)},
    )  # fmt: skip
    onnx.save(proto, str(place / "model.onnx"))
    again, fresh = (run(place / "recipe.toml", place / name, device_check=False) for name in ("out", "fresh"))
    timed = [json.loads((place / name / "faster.json").read_text()) for name in ("out", "fresh")]
    assert timed[0] == timed[1] and again.report.latency == fresh.report.latency
