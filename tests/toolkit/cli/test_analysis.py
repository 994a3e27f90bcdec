from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.conftest import MODELS
from toolkit import Code
from toolkit.cli import analysis as cli_analysis

RECIPE = f"""
[model]
path = "{MODELS.as_posix()}/digits_uneven.onnx"
[calibration]
data = "{MODELS.as_posix()}/digits_calibration.npz"
[[pass]]
use = "fold_batchnorm"
[[pass]]
use = "insert_qdq"
[engine]
backend = "none"
[evaluation]
data = "{MODELS.as_posix()}/digits_test.npz"
metric = "top1"
budget = {{ max_drop = 0.01 }}
"""


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(cli_analysis.sensitivity)
    app.command()(cli_analysis.bisect)
    return app


def call(app: typer.Typer, tmp_path: Path, *words: str, text: str = RECIPE) -> str:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text)
    words = (words[0], str(recipe), "--out", str(tmp_path / "run"), *words[1:])
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_sensitivity_prints_and_leaves_a_file(app, tmp_path):
    found = json.loads(call(app, tmp_path, "sensitivity", "--json"))
    assert found["method"] == "exact" and found["metric"] == "top1" and len(found["groups"]) == 10
    assert found["weak_spots"]
    assert json.loads((tmp_path / "run/sensitivity.json").read_text())["groups"] == found["groups"]
    text = call(app, tmp_path, "sensitivity", "--fast")
    assert "fast" in text and "Remedy: " in text
    # nothing was left out one by one, so there is no column for it
    head = text.splitlines()[0]
    assert "alone: dB" in head and "kept alone" in head and "without" not in head


def test_bisect_on_the_simulation(app, tmp_path):
    found = json.loads(call(app, tmp_path, "bisect", "--min-sqnr-db", "10", "--json"))
    assert found["kept"] and 'use = "keep_precision"' in found["recipe"]
    assert json.loads(call(app, tmp_path, "bisect", "--min-sqnr-db", "10", "--json"))["checks"] == 0
    # what holds on the samples that it decided on may not hold on others: it says which these were
    for words, samples in (
        ((), "100 calibration samples"),
        (("--data", "evaluation", "--samples", "20"), "20 evaluation"),
    ):
        told = call(app, tmp_path, "bisect", "--min-sqnr-db", "10", *words)
        assert told.startswith(f"The check passes on {samples}"), told


def test_layers_that_a_later_pass_keeps_float_count_as_float(app, tmp_path):
    """The order of the README's own example: insert_qdq, then keep_precision."""
    keep = '[[pass]]\nuse = "keep_precision"\nnodes = ["/features/features/1/*"]\n'
    quantize = '[[pass]]\nuse = "insert_qdq"\n'
    first = RECIPE.replace(quantize, keep + quantize)
    last = RECIPE.replace(quantize, quantize + keep)
    names, notes = {}, {}
    for where, text in (("first", first), ("last", last)):
        found = json.loads(call(app, tmp_path, "sensitivity", "--json", text=text))
        names[where] = [group["name"] for group in found["groups"]]
        notes[where] = [note for note in found["notes"] if note["code"] == Code.LATER_FLOATS.value]
    assert (
        names["first"] == names["last"]
        and len(names["last"]) == 9
        and "/features/features/1/conv/Conv" not in names["last"]
    )
    assert not notes["first"] and notes["last"][0]["values"]["quantizer"] == "insert_qdq"
    # what bisect advises works where it is put last, too
    limits = ("bisect", "--min-sqnr-db", "10", "--json")
    found = json.loads(call(app, tmp_path, *limits))
    assert found["kept"]
    again = json.loads(call(app, tmp_path, *limits, text=RECIPE.replace(quantize, quantize + found["recipe"])))
    assert again["kept"] == []


def test_a_drop_in_points_is_refused(app, tmp_path):
    with pytest.raises(Exception, match="--max-drop is 2"):
        call(app, tmp_path, "bisect", "--max-drop", "2")


def test_bisect_by_a_command_needs_leave_and_gets_the_model(app, tmp_path):
    import sys

    # fails where the last layer is quantized; without onnx, which takes longer to import than all the rest takes
    script = tmp_path / "check.py"
    script.write_text("import sys\nsys.exit(b'head.weight_dequantized' in open(sys.argv[1], 'rb').read())\n")
    command = f"{sys.executable} {script} {{model}}"
    with pytest.raises(Exception, match="allow-code"):
        call(app, tmp_path, "bisect", "--command", command)
    found = json.loads(call(app, tmp_path, "bisect", "--command", command, "--allow-code", "--json"))
    assert found["kept"] == ["/head/Gemm"]
    told = call(app, tmp_path, "bisect", "--command", command, "--allow-code")
    assert told.startswith("The check passes with this one of")


def test_bisect_knows_which_way_a_metric_goes(app, tmp_path, monkeypatch):
    (tmp_path / "share_wrong.py").write_text(
        "class Wrong:\n"
        "    higher_is_better = False\n"
        "    def __init__(self):\n"
        "        self.wrong = self.count = 0\n"
        "    def update(self, outputs, labels):\n"
        "        (scores,), (label,) = outputs.values(), labels.values()\n"
        "        self.wrong += int((scores.argmax(axis=-1) != label).sum())\n"
        "        self.count += label.size\n"
        "    def value(self):\n"
        "        return self.wrong / max(self.count, 1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("tests.toolkit.cli.test_analysis.RECIPE", RECIPE.replace("top1", "share_wrong:Wrong"))
    words = "bisect", "--max-drop", "0.01", "--data", "evaluation", "--allow-code", "--json"
    assert json.loads(call(app, tmp_path, *words))["kept"]
