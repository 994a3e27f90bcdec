"""Scripts in which people keep their trtexec lines: what a variable holds is known, or said not to be."""

from __future__ import annotations

import pytest

from toolkit.report.findings import sentence
from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.migrate.shell_scripts.command import orders_of_command
from toolkit.run.migrate.shell_scripts.shell import commands_in

WANTED = ["trtexec", "--onnx=m.onnx", "--fp16"]


@pytest.mark.parametrize(
    "text",
    [
        'FLAGS=--onnx=m.onnx\nFLAGS="$FLAGS --fp16"\ntrtexec $FLAGS',
        "FLAGS=--onnx=m.onnx\nFLAGS+=' --fp16'\ntrtexec $FLAGS",
        'ARGS=(--onnx=m.onnx --fp16)\ntrtexec "${ARGS[@]}"',
        'ARGS=(\n  --onnx=m.onnx  # the model\n  --fp16\n)\ntrtexec "${ARGS[@]}"',
        'ARGS=(--onnx=m.onnx)\nARGS+=(--fp16)\ntrtexec "${ARGS[@]}"',
        "export TRT=trtexec; $TRT --onnx=m.onnx --fp16",
        "TRT := trtexec\nm.plan: m.onnx\n\t$(TRT) --onnx=m.onnx --fp16",
        "local P=--fp16\nif true; then trtexec --onnx=m.onnx $P; fi",
        "M=m\nM+=.onnx\ntrtexec --onnx=$M --fp16",
        "P := --onnx=m.onnx\nP += --fp16\nm.plan:\n\t@trtexec $(P)",
        "P:=--onnx=m.onnx --fp16\nP ?= --int8\nm.plan:\n\t-trtexec $(P)",
        "(cd build && trtexec --onnx=m.onnx --fp16)",
        'declare -a ARGS=(--onnx=m.onnx)\nlocal -r P=--fp16\ntrtexec "${ARGS[@]}" $P',
        '$P = "--fp16"\n$env:M = "m.onnx"\ntrtexec --onnx=$env:M $P',
        "if [ $1 ]; then P=--fp16; else P=--fp16; fi\ntrtexec --onnx=m.onnx $P",
    ],
)
def test_what_is_assigned_is_filled_in(text):
    assert commands_in(text)[-1][1] == WANTED


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("@echo off\nREM trtexec --onnx=other.onnx\nC:\\TensorRT\\bin\\trtexec.exe --onnx=m.onnx ^\n  --fp16", "C:\\TensorRT\\bin\\trtexec.exe"),
        (":: trtexec\nset P=--fp16\ntrtexec.exe --onnx=m.onnx %P%", "trtexec.exe"),
        ("RUN trtexec --onnx=m.onnx \\\n  --fp16", "trtexec"),
        ("docker run --rm -v $PWD:/w image trtexec --onnx=m.onnx --fp16 | tee log", "trtexec"),
    ],
)  # fmt: skip
def test_batch_files_and_dockerfiles(text, path):
    assert [words for _, words in commands_in(text)] == [[path, *WANTED[1:]]]


@pytest.mark.parametrize(
    "text",
    [
        "P=--fp16\nif [ $1 = int8 ]; then P='--int8 --calib=c'; fi\ntrtexec --onnx=m.onnx $P",
        "P=--fp16\nif [ $1 = int8 ]\nthen\n  P=--int8\nfi\ntrtexec --onnx=m.onnx $P",
        "P=--fp16\n[ -n $1 ] && P=--int8\ntrtexec --onnx=m.onnx $P",
        "P=--fp16\ncase $1 in\n  int8)\n    P=--int8\n    ;;\nesac\ntrtexec --onnx=m.onnx $P",
        "P=--fp16\ncase $1 in int8) P=--int8;; esac\ntrtexec --onnx=m.onnx $P",
        "P=--fp16\nfor one in a b; do P=--int8; done\ntrtexec --onnx=m.onnx $P",
        "P=--fp16\nf() {\n  P=--int8\n}\ntrtexec --onnx=m.onnx $P",
        "trtexec --onnx=m.onnx $P",
        'P="it\'s"\nif x; then P=y; fi\ntrtexec --onnx=m.onnx $P',
    ],
)
def test_what_the_script_decides_about_when_it_runs_is_not_known(text):
    ((_, words),) = commands_in(text)
    assert words == ["trtexec", "--onnx=m.onnx", "$P"]
    faults = [order.why for order in orders_of_command(words) if order.why is not None]
    assert [one.code for one in faults] == [MigrateCode.STRAY_WORD]
    assert sentence(faults[0]) != sentence(MigrateCode.STRAY_WORD(word="stray"))


def test_a_variable_inside_a_value_is_named():
    (fault,) = (order.why for order in orders_of_command(["trtexec", "--shapes=x:${b}x3"]))
    assert fault.code is MigrateCode.VALUE_UNREADABLE
    assert sentence(fault) != sentence(MigrateCode.VALUE_UNREADABLE(said="--shapes=x:axb"))
