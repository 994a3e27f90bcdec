"""What is quoted for a shell is read as the words that it was made from."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.run.migrate.shell_scripts.shell import commands_in

# what a shell gives a meaning, and what it does not; X:\ is a drive of Windows', and %X% a variable
SIGNS = " \t'\"\\$`;&|<>{}[]*?!#~=^,./-+@é日"
WORDS = st.lists(st.text(st.sampled_from("abcXYZ019" + SIGNS), max_size=12), max_size=4)


def quoted_twice(word):
    """In double quotation marks, as Python's ``shlex.quote`` never does."""
    for sign in '\\$`"':
        word = word.replace(sign, f"\\{sign}")
    return f'"{word}"'


def command(words):
    return ["trtexec", "--onnx=m.onnx", *(f"--saveEngine={word}" for word in words)]


@given(WORDS)
def test_single_quotation_marks(words):
    given_ = command([word.replace("$", "") for word in words])
    assert commands_in(" ".join(map(shlex.quote, given_))) == [(1, given_)]


@given(WORDS)
def test_double_quotation_marks(words):
    given_ = command(words)
    assert commands_in(" ".join([*given_[:2], *map(quoted_twice, given_[2:])])) == [(1, given_)]


@given(WORDS, WORDS)
def test_several_commands_in_a_line(first, second):
    lines = [command([word.replace("$", "") for word in one]) for one in (first, second)]
    text = "; ".join(" ".join(map(shlex.quote, one)) for one in lines)
    assert commands_in(text) == [(1, lines[0]), (1, lines[1])]


@given(WORDS)
def test_a_script_for_another_shell(words):
    # single quotation marks are looked through for variables, as Makefiles fill them in there
    given_ = command([word.replace("$", "") for word in words])
    script = " ".join(map(shlex.quote, given_))
    assert commands_in(f"bash -c {shlex.quote(script)}") == [(1, given_)]


def test_an_escaped_dollar_names_no_variable():
    text = 'A=1\ntrtexec --onnx=m.onnx --saveEngine="\\$A" --exportTimes=\\$A --timingCacheFile="$A"'
    assert commands_in(text) == [
        (2, ["trtexec", "--onnx=m.onnx", "--saveEngine=$A", "--exportTimes=$A", "--timingCacheFile=1"])
    ]
    # it is one for the script that it is given to
    assert commands_in('bash -c "trtexec --onnx=\\$1" sh m.onnx') == [(1, ["trtexec", "--onnx=m.onnx"])]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('"$A"b', "v1b"), ("$A'b'", "v1b"), ('"$A""b"', "v1b"), ("$A\\b", "v1b"), ("$Ab", "$Ab"), ('"\\\\$A"b', "\\v1b"),
        ('"\\a\\n"', "\\a\\n"), ("\\a", "a"), ("a\\\\", "a\\"), ('"\\`"\\`', "``"), ("\\${A}", "${A}"), ('"\\"$A\\""', '"v1"'),
    ],
)  # fmt: skip
def test_words_are_read_as_bash_reads_them(written, read):
    assert commands_in(f"A=v1\ntrtexec --onnx=m.onnx --saveEngine={written}") == [
        (2, ["trtexec", "--onnx=m.onnx", f"--saveEngine={read}"])
    ]
