"""Names with line breaks, escape sequences and markup: what every command prints, and what its files hold."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal
from toolkit.base.text import text_of
from toolkit.cli.main import invoke
from toolkit.contract.findings import Code
from toolkit.report.findings import sentence

ODD = "a[bold]\nMARK\x1b[31m"
SEEN = r"a[bold]\u000aMARK\u001b[31m"
RECIPE = """
[model]
path = "net.onnx"
[calibration]
data = "data.npz"
[[pass]]
use = "insert_qdq"
[engine]
backend = "none"
rest = "fp32"
[evaluation]
budget = { min_sqnr_db = 10.0 }
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nodes = [node("MatMul", [f"x {ODD}", f"w {ODD}"], [f"h {ODD}"], name=f"one {ODD}"),
             node("Relu", [f"h {ODD}"], [f"r {ODD}"], name=f"relu {ODD}"),
             node("MatMul", [f"r {ODD}", "v"], [f"y {ODD}"], name=f"two {ODD}")]  # fmt: skip
    weights = {f"w {ODD}": normal(8, 16), "v": normal(16, 4)}
    onnx.save(build(nodes, {f"x {ODD}": [f"n {ODD}", 8]}, {f"y {ODD}": [f"n {ODD}", 4]}, weights), "net.onnx")
    np.savez("data.npz", **{f"x {ODD}": normal(16, 8)})
    (tmp_path / "net.toml").write_text(RECIPE)
    return tmp_path


def test_a_name_stays_on_its_line_whatever_prints_it(here, capsys):
    assert invoke(["new", "net.onnx", "--data", "data.npz", "--out", "new.toml"]) == 0
    for words in (
        ["inspect", "net.onnx"], ["inspect", "data.npz"], ["check", "net.toml"],
        ["run", "net.toml", "--out", "run", "--dry-run"], ["run", "net.toml", "--out", "run"],
        ["explain", "run"], ["explain", "run", f"one {ODD}"], ["explain", "run", f"one {SEEN}"],
        ["explain", "run", f"h {SEEN}"], ["accuracy", "run"], ["time", "run", "--gpu", "L4"],
        ["sensitivity", "net.toml", "--out", "s"],
        ["bisect", "net.toml", "--min-sqnr-db", "43", "--out", "b"], ["run", "new.toml", "--out", "other"],
        ["compare", "run", "other"], ["calibrate", "net.toml", "--out", "c.npz"], ["inspect", "run/model.onnx"],
        ["inspect", "run/ranges.json"], ["inspect", "run/journal.jsonl"], ["inspect", "c.npz"],
    ):  # fmt: skip
        assert invoke(words) in (0, 1), words
    told = capsys.readouterr()
    shown = [line for line in (told.out + told.err).splitlines() if "MARK" in line]
    # a recipe's fragment spells a name as a glob in TOML
    assert len(shown) > 40 and all(SEEN in line or r"[[]bold]\nMARK\u001b[[]31m" in line for line in shown)
    assert ODD not in told.out + told.err
    report = json.loads((here / "run" / "report.json").read_text())
    assert {f"one {ODD}", f"two {ODD}"} <= {layer["node"] for layer in report["layers"]}


def test_a_sentence_is_one_line_and_its_finding_exact():
    finding = Code.READS_PAIR(input=0, tensor=ODD)
    assert finding.values["tensor"] == ODD
    assert sentence(finding) == f"input 0 '{SEEN}' now reads a Q/DQ pair"
    assert text_of(["one", ODD]) == f"one\n{SEEN}\n"
