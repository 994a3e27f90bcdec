"""What stands in braces in a command of ``qtool bisect``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toolkit.conftest import complain
from toolkit.base.errors import QtoolError
from toolkit.run.analysis.bisect import Question
from toolkit.run.analysis.command_words import command_words

MODEL = Path("/runs/my run/bisect.onnx")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("judge", ["judge", str(MODEL)]),
        ("judge --model={model} -q", ["judge", f"--model={MODEL}", "-q"]),
        ("sh -c 'judge \"{model}\"'", ["sh", "-c", f'judge "{MODEL}"']),
        # a shell's own variable
        ("sh -c 'judge ${HOME} $1'", ["sh", "-c", "judge ${HOME} $1", str(MODEL)]),
        # no names: a count of a pattern, a list, an empty object
        ("judge x{3} {a,b} {}", ["judge", "x{3}", "{a,b}", "{}", str(MODEL)]),
        ("awk '{{print}}' {model}", ["awk", "{print}", str(MODEL)]),
        ("judge {{model}}", ["judge", "{model}", str(MODEL)]),
        ("judge \"{'path': {model}}\"", ["judge", f"{{'path': {MODEL}}}"]),
    ],
)
def test_the_model_stands_where_the_command_has_it(command, words):
    Question(command=command).check(allow_code=True)
    assert command_words(command, MODEL) == words


@pytest.mark.parametrize(("command", "name"), [("true {nope}", "nope"), ("judge {model} --to={Model}", "Model")])
def test_a_name_that_stands_for_nothing_is_refused(command, name):
    with pytest.raises(QtoolError, match=f"has '.{name}.', which stands for nothing") as found:
        Question(command=command).check(allow_code=True)
    assert found.value.remedy.startswith("known: '{model}' (the path of the ONNX model)")
    assert f"'{{{{{name}}}}}'" in found.value.remedy


def test_it_is_refused_before_anything_is_done(place, capsys):
    asked = ("bisect", str(place / "recipe.toml"), "--out", str(place / "out"), "--allow-code")
    assert "--command has '{nope}'" in complain(place, capsys, *asked, "--command", "true {nope}")
    assert not (place / "out").exists()
