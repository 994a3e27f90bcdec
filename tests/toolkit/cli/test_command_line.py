from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest

from tests.conftest import MODELS, ROOT, build, node
from toolkit.base.toml import tomllib
from toolkit.cli.main import invoke
from toolkit.run.recipe.recipe import Recipe

HEAVY = {
    "jinja2",
    "numba",
    "numpy",
    "onnx",
    "onnx_graphsurgeon",
    "onnxruntime",
    "polygraphy",
    "tensorrt",
    "tensorrt_rtx",
}


@pytest.mark.parametrize(
    "code", ["import toolkit", "from toolkit.cli.main import invoke; assert invoke(['--help']) == 0"]
)
def test_the_package_and_a_help_page_import_nothing_heavy(code):
    """What it takes in seconds is tests/benchmarks/bench_help.py's."""
    code += "; import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.splitlines())


def test_what_only_calibration_and_the_report_need_is_not_imported_by_check():
    code = "from toolkit.cli.main import invoke; assert invoke(['check', 'recipes/digits_int8.toml']) == 0"
    code += "; import sys; print(*({'numba', 'jinja2', 'toolkit.report.schema.report', 'toolkit.report.page.html'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_passes_are_listed_without_the_compiler_that_some_of_them_compute_with():
    """It takes a fifth of the command's time, and of every other that asks which passes there are."""
    code = "from toolkit.cli.main import invoke; assert invoke(['passes']) == 0"
    code += "; import sys; print('passes.insert_qdq' in sys.modules, *({'numba', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"


@pytest.mark.skipif(os.name != "posix", reason="a shell closes the streams")
def test_a_command_whose_streams_are_closed_does_its_work_and_writes_nothing_else(tmp_path):
    """As a service is started: no file that is opened gets the number of a stream, into which others print."""
    command = f"exec {sys.executable} -m toolkit.cli schema recipe"
    done = subprocess.run(["sh", "-c", f"{command} <&- >&- 2>&-"], cwd=ROOT, check=False)
    assert done.returncode == 0
    code = (
        "import os, sys; from toolkit.base.streams import open_closed_streams; open_closed_streams(); "
        f"made = open({str(tmp_path / 'file')!r}, 'w'); os.write(1, b'a library prints'); print('so do we'); "
        "print('and in error', file=sys.stderr); sys.exit(made.fileno() < 3)"
    )
    done = subprocess.run(["sh", "-c", f'exec {sys.executable} -c "{code}" <&- >&- 2>&-'], cwd=ROOT, check=False)
    assert done.returncode == 0 and (tmp_path / "file").read_text() == ""


def test_a_pass_tells_the_values_its_settings_take(capsys):
    assert invoke(["passes", "search_precision"]) == 0
    said = capsys.readouterr().out
    assert 'prefer ("auto" | "int8" | "time"; default "auto")' in said
    assert (
        'keep ("fp16" | "bf16" | "fp32"; default null)' in said
        and 'helpers ("equalize" | "shift" | "smooth"; default [])' in said
    )


def test_passes_are_listed_with_settings(capsys):
    assert invoke(["passes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"insert_qdq", "strip_qdq", "fold_constants", "fold_batchnorm", "keep_precision"} <= set(found)
    assert "exclude" in found["insert_qdq"]["settings"]["properties"]


def test_help_goes_to_standard_output_beside_json_too(capsys):
    assert invoke(["passes", "--json", "--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: qtool passes")


def test_a_pass_of_ones_own_is_listed_like_the_others(tmp_path, capsys, monkeypatch):
    (tmp_path / "own_xyz.py").write_text(
        "from toolkit import Pass\n\nclass Mine(Pass):\n    'Does little.'\n    much: int = 3\n\n    def apply(self, model, context):\n        pass\n"
    )
    monkeypatch.chdir(tmp_path)
    assert invoke(["passes", "own_xyz:Mine"]) == 0
    assert capsys.readouterr().out == "own_xyz:Mine\n    Does little.\n    much (default 3)\n"
    assert invoke(["passes", "own_xyz:Mind"]) == 2 and "Mine" in capsys.readouterr().err
    assert invoke(["passes", "insert_qqq"]) == 2 and "insert_qdq" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["report", "recipe"])
def test_schemas_are_json_schemas(what, capsys):
    assert invoke(["schema", what]) == 0
    assert "properties" in json.loads(capsys.readouterr().out)


def test_new_writes_a_recipe_that_checks_out(tmp_path, samples, capsys):
    target = tmp_path / "strip.toml"
    words = [
        "new",
        str(MODELS / "strip_reader.onnx"),
        "--data",
        str(samples / "strip_calibration.npz"),
        "--out",
        str(target),
    ]
    assert invoke(words) == 0
    assert "[1, 1, 8, 16]" in target.read_text()
    assert invoke(["check", str(target), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.split("next:")[1].split("\n", 1)[1])
    assert found["asked"]["int8"] > 10


def test_new_gives_a_budget_that_the_outputs_can_be_judged_by(tmp_path):
    def budget(end, kind, shape, **attrs):
        nodes = [node("MatMul", ["x", "w"], ["h"]), node(end, ["h"], ["y"], **attrs)]
        model = build(nodes, {"x": [1, 4]}, {"y": shape}, {"w": np.eye(4, dtype=np.float32)}, types={"y": kind})
        onnx.save(model, tmp_path / "model.onnx")
        np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32))
        words = ["--data", str(tmp_path / "data.npz"), "--out", str(tmp_path / f"{end}.toml")]
        assert invoke(["new", str(tmp_path / "model.onnx"), *words]) == 0
        assert invoke(["check", str(tmp_path / f"{end}.toml")]) == 0
        return Recipe.load(tmp_path / f"{end}.toml").evaluation.budget.min_unchanged

    assert budget("Relu", onnx.TensorProto.FLOAT, [1, 4]) == 0.99
    assert budget("ArgMax", onnx.TensorProto.INT64, [1], axis=-1, keepdims=0) == 0.99
    assert budget("ReduceMax", onnx.TensorProto.FLOAT, [1], axes=[1], keepdims=0) == 0.99


def test_inspect_shows_models_caches_and_ranges(capsys, tmp_path):
    assert invoke(["inspect", str(MODELS / "digits_cnn.onnx"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ops"]["Conv"] == 10


def test_an_unknown_command_is_wrong_use(capsys):
    assert invoke(["rum"]) == 2
    assert invoke(["run"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_debug_shows_the_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "toolkit.cli.main", "run", "none.toml", "--debug"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and "Traceback" in done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "toolkit.cli.main", "run", "none.toml"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_errors_of_the_machine_form_are_json(capsys, tmp_path):
    assert invoke(["run", str(tmp_path / "none.toml"), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["exit_status"] == 2 and found["error"]["kind"] == "RecipeError"
    assert found["error"]["where"] == str(tmp_path / "none.toml") and "qtool new" in found["error"]["remedy"]
    assert invoke(["rum", "--json"]) == 2
    found = json.loads(capsys.readouterr().out)["error"]
    assert "'rum'" in found["what"] and "'run'" in found["remedy"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--version=3", "run"], "--version"), (["--", "run"], "recipe"), (["--version=3"], "--version"),
        (["-h"], "'--help'"), (["run", "-h"], "'--help'"), (["--", "rum"], "'run'"), (["--"], "command"),
    ],
)  # fmt: skip
def test_a_command_line_that_the_parser_does_not_take_is_one_paragraph(capsys, words, said):
    assert invoke(words) == 2
    told = capsys.readouterr().err
    assert told.startswith("qtool: ") and said in told and len(told.splitlines()) == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete(shell, capsys, monkeypatch):
    # typer looks for a shell among the parent processes, of which these tests may have none
    monkeypatch.setattr("shellingham.detect_shell", lambda *arguments: (shell, f"/bin/{shell}"))
    assert invoke(["--show-completion"]) == 0
    assert f"_QTOOL_COMPLETE=complete_{shell}" in capsys.readouterr().out


def test_what_a_shell_completes():
    code = "import sys; sys.argv[0] = 'qtool'; from toolkit.cli.main import main; main([])"
    asked = {"_QTOOL_COMPLETE": "complete_bash", "COMP_WORDS": "qtool ins", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **asked}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["inspect"]


@pytest.mark.parametrize(("command", "kept"), [("run", True), ("bisect", True), ("new", False), ("inspect", False)])
def test_only_a_command_that_keeps_its_steps_says_so_when_it_is_stopped(command, kept, monkeypatch, capsys):
    def stopped(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr("toolkit.cli.main._parser", lambda: stopped)
    assert invoke([command, "x"]) == 130
    said = capsys.readouterr().err
    assert "stopped" in said and ("resumes from there" in said) is kept


@pytest.mark.parametrize("words", [[], ["inspect", "m.onnx", "--json"]], ids=["plain", "json"])
@pytest.mark.parametrize("code", ["raise KeyboardInterrupt", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"])
def test_a_signal_while_modules_are_imported_ends_without_a_traceback(tmp_path, code, words):
    """A script that asked for JSON gets some, as it does once the command has begun."""
    (tmp_path / "typer.py").write_text(f"{code}\n")
    with (ROOT / "pyproject.toml").open("rb") as file:
        module, _, function = tomllib.load(file)["project"]["scripts"]["qtool"].partition(":")
    done = subprocess.run(
        [sys.executable, "-c", f"from {module} import {function} as main; main()", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "qtool: stopped\n")
    said = {"kind": "StoppedError", "what": "stopped", "where": "", "remedy": ""}
    assert (json.loads(done.stdout) if words else done.stdout) == ({"error": said, "exit_status": 130} if words else "")


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["run", "recipe.toml", "--out", ""], "--out"), (["run", "recipe.toml", "--out="], "--out"),
        (["inspect", ""], "an argument"), (["explain", "run", ""], "an argument"),
    ],
)  # fmt: skip
def test_an_empty_word_is_refused(tmp_path, monkeypatch, capsys, words, place):
    """A variable of the shell that is not set named the folder here, and a run wrote its model.onnx over what lay in it."""
    monkeypatch.chdir(tmp_path)
    assert invoke(words) == 2 and not any(tmp_path.iterdir())
    assert capsys.readouterr().err.startswith(f"qtool: {place} is empty. Give it a value: a shell variable")


def test_an_empty_setting_is_told_by_its_key(tmp_path, capsys):
    (tmp_path / "r.toml").write_text('[model]\npath = "m.onnx"\n')
    assert invoke(["check", str(tmp_path / "r.toml"), "--set", "calibration.samples="]) == 2
    assert "'calibration.samples' is ''" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="a shell pipes the output")
def test_a_reader_that_ends_first_is_no_missed_budget():
    """Status 1 means that a limit was missed; a command stopped by SIGPIPE has 141 in every shell."""
    command = f"{sys.executable} -m toolkit.cli passes --json | exec 0<&-"
    done = subprocess.run(
        ["bash", "-c", f"{command}; echo ${{PIPESTATUS[0]}}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (done.stdout.strip(), done.stderr) == ("141", "")
