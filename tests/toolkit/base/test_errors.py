"""What errors say: the nearest names, the place, and whose fault it is."""

from __future__ import annotations

import errno
import fnmatch
import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from toolkit.base.errors import QtoolError, RecipeError, did_you_mean, did_you_mean_pattern, no_value, system_fault

NODES = [
    f"/b.{block}/{layer}"
    for block in range(2)
    for layer in ("Erf", "Add", "q/MatMul", "q/Add", "k/MatMul", "k/Add", "f1/MatMul", "n1/LayerNormalization")
] + ["/e/Gather", "/c/Gemm", "/ReduceMean"]


def suggested(text: str) -> list[str]:
    assert text.startswith("did you mean ") and text.endswith("?")
    return [word.strip("'") for word in text.removeprefix("did you mean ").removesuffix("?").split(" or ")]


@pytest.mark.parametrize(
    ("pattern", "first"),
    [
        ("/b.0/query/*", "/b.0/q/*"),
        ("/classifier/*", "/c/*"),
        ("/b.7/*", "/b.0/*"),
        ("/B.1/Q/*", "/b.1/q/*"),
        ("/b.0/q/MatMull", "/b.0/q/MatMul"),
        ("*layernorm*", "/b.0/n1/LayerNormalization"),
    ],
)
def test_a_pattern_is_answered_with_the_nearest_that_match(pattern, first):
    found = suggested(did_you_mean_pattern(pattern, NODES))
    assert 1 <= len(found) <= 3 and found[0] == first
    for word in found:
        assert any(fnmatch.fnmatchcase(name, word) for name in NODES)


def test_where_no_name_is_alike_none_is_taken_for_meant():
    assert did_you_mean_pattern("nothing alike at all", NODES) == "names are such as '/b.0/*', '/b.0/q/*', '/b.0/k/*'"


def test_an_input_that_is_misspelt_is_named_beside_the_one_that_is_meant():
    what, remedy = no_value("image", ["image", "mask"], ["imge", "mask"])
    assert what == "there is no input 'imge', and input 'image' has no value" and suggested(remedy) == ["image"]
    assert no_value("image", ["image"], []) == ("input 'image' has no value", "give one for each of 'image'")


def test_a_question_ends_without_a_period():
    assert str(RecipeError("did you mean 'x'?", remedy="look there")) == "did you mean 'x'? Look there"


def test_names_with_dots_have_beginnings_too():
    names = [f"encoder.layer.{i}.{part}" for i in range(3) for part in ("query", "key")]
    assert suggested(did_you_mean_pattern("encoder.layers.1.*", names))[0] == "encoder.layer.1.*"


def test_few_unlike_words_are_all_named_and_of_many_the_least_far():
    assert did_you_mean("zzz", ["top1", "mse"]) == "known: 'mse', 'top1'"
    assert len(suggested(did_you_mean("zzz", NODES))) <= 5
    assert did_you_mean("zzz", []) == did_you_mean_pattern("zzz*", []) == ""


def test_a_place_is_said_once():
    error = RecipeError("it is wrong", remedy="mend it", value="x")
    error.at("recipe.toml:3")
    error.at("elsewhere")
    assert str(error) == "recipe.toml:3: it is wrong. Mend it"


def test_what_the_machine_refuses_is_no_fault_of_the_program():
    full = system_fault(OSError(errno.ENOSPC, "No space left on device", "/big"))
    assert isinstance(full, QtoolError) and str(full).startswith("/big: No space left on device. Free some space")
    assert "Permission denied" in str(system_fault(PermissionError(errno.EACCES, "Permission denied", "r.toml")))
    assert "out of memory" in str(system_fault(MemoryError()))
    assert system_fault(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None
    assert system_fault(ValueError("x")) is None


ASCII = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""The environment of a terminal whose file names are ASCII."""


def test_a_name_that_the_locale_cannot_spell_is_its_fault_and_not_a_bug(tmp_path):
    """The recipe's path was a bug in qtool, and a name on the command line was to be changed, though it is UTF-8."""
    (tmp_path / "r.toml").write_text('[model]\npath = "é.onnx"\n', encoding="utf-8")
    shutil.copy(ROOT / "models" / "digits_cnn.onnx", tmp_path / "é.onnx")
    shutil.copy(ROOT / "models" / "digits_calibration.npz", tmp_path / "d.npz")
    for words in (["check", "r.toml"], ["new", "é.onnx", "--data", "d.npz", "--out", "n.toml"]):
        done = subprocess.run(
            [sys.executable, "-m", "toolkit.cli", *words], cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**ASCII, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 2 and "names of files are read as ascii here" in done.stderr
        assert "Set PYTHONUTF8=1" in done.stderr and "bug" not in done.stderr
