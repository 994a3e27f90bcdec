"""Scripts within scripts: substitutions, texts for another shell, here-documents, Docker's lists."""

from __future__ import annotations

import pytest

from toolkit.base.errors import QtoolError
from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.migrate.orders.terms import Term
from toolkit.run.migrate.shell_scripts.shell import commands_in, read_shell
from toolkit.run.migrate.source import read_source

WANTED = ["trtexec", "--onnx=m.onnx", "--fp16"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("OUT=$(trtexec --onnx=m.onnx --fp16)", 1),
        ("cd x\nOUT=`trtexec --onnx=m.onnx --fp16 2>&1`", 2),
        ('OUT="$(trtexec --onnx=m.onnx --fp16 | grep mean)"', 1),
        ("OUT=$(\n  trtexec \\\n    --onnx=m.onnx \\\n    --fp16 2>&1\n)", 2),
        ("if ! OUT=$(trtexec --onnx=m.onnx --fp16); then\n  exit 1\nfi", 1),
        ("M=m.onnx; T=$(timeout 60 trtexec --onnx=$M --fp16 | awk '{ print $3 }')", 1),
        ('echo "took $(trtexec --onnx=m.onnx --fp16)"', 1),
        ("diff <(trtexec --onnx=m.onnx --fp16) wanted.log", 1),
        ("OUT := $(shell trtexec --onnx=m.onnx --fp16)", 1),
        ("OUT=$(bash -c 'trtexec --onnx=m.onnx --fp16')", 1),
        ('bash -c "trtexec --onnx=m.onnx --fp16"', 1),
        ("docker exec -i trt bash -lc 'cd /w && trtexec --onnx=\"m.onnx\" --fp16'", 1),
        ('M=m.onnx\nsudo sh -c "trtexec --onnx=$M --fp16 > log 2>&1"', 2),
        ('bash -c "\n  cd /w\n  trtexec --onnx=m.onnx \\\n    --fp16\n"', 3),
        ("bash -c 'trtexec --onnx=$1 $0' --fp16 m.onnx", None),
        ('CMD="trtexec --onnx=m.onnx --fp16"\neval "$CMD"', 2),
        ('ssh -p 22 jetson "cd /w && trtexec --onnx=m.onnx --fp16"', 1),
        ("cmd /c trtexec --onnx=m.onnx --fp16", 1),
        ('CMD ["trtexec", "--onnx=m.onnx", "--fp16"]', 1),
        ('FROM trt\nENTRYPOINT ["trtexec"]\nCMD ["--onnx=m.onnx", "--fp16"]', 2),
        ('FROM trt\nCMD ["--onnx=m.onnx", \\\n  "--fp16"]\nENTRYPOINT ["trtexec"]\nFROM a', 4),
        ('FROM trt\nENTRYPOINT ["/entry.sh"]\nCMD ["a"]\nCMD ["trtexec", "--onnx=m.onnx", "--fp16"]', 2),
        ('ENTRYPOINT ["/bin/sh", "-c", "trtexec --onnx=m.onnx --fp16"]', 1),
        ("ENTRYPOINT trtexec --onnx=m.onnx --fp16", 1),
        ("CMD trtexec --onnx=m.onnx --fp16", 1),
        ('RUN ["trtexec", "--onnx=m.onnx", "--fp16"]', 1),
        ("FROM trt\nRUN <<EOF\nexport M=m.onnx\ntrtexec --onnx=$M --fp16\nEOF", 4),
        ("services:\n  build:\n    image: trt\n    command: [trtexec, '--onnx=m.onnx', --fp16]", 4),
        ('    command: ["trtexec"]\n    args: ["--onnx=m.onnx", "--fp16"]\n', 1),
        ("docker exec -i trt bash <<EOF\ntrtexec --onnx=m.onnx --fp16\nEOF", 2),
        ("P=--fp16\nssh host 'bash -s' <<-'END'\n\ttrtexec --onnx=m.onnx $P\n\tEND\necho it's done", 3),
        ("cat > run.sh <<'EOF'\n#!/bin/bash\ntrtexec --onnx=m.onnx --fp16\nEOF\nbash run.sh", 3),
        ("cat <<EOF | sh\ntrtexec --onnx=m.onnx --fp16\nEOF", 2),
    ],
)  # fmt: skip
def test_a_command_in_a_script_within_the_script(text, line):
    ((at, words),) = commands_in(text)
    assert words == WANTED and at == (line or 1)


def test_a_listed_word_may_hold_commas():
    text = "    command: ['trtexec', '--onnx=it''s.onnx', '--minShapes=a:1x3,b:1x3', \"--fp16\", --best ]"
    wanted = ["trtexec", "--onnx=it's.onnx", "--minShapes=a:1x3,b:1x3", "--fp16", "--best"]
    assert commands_in(text) == [(1, wanted)]


def test_what_cannot_be_migrated_is_refused_by_its_own_line(tmp_path):
    path = tmp_path / "build.sh"
    path.write_text("polygraphy inspect model x.plan\n\npolygraphy surgeon sanitize m.onnx -o y.onnx\n")
    with pytest.raises(QtoolError, match="'polygraphy surgeon' is not a command") as caught:
        read_source([str(path)])
    assert caught.value.where == f"{path}, line 3"


@pytest.mark.parametrize(
    "text",
    [
        'cat <<EOF\nUsage: build.sh. It doesn\'t build; trtexec --onnx=m.onnx does\ntrtexec --onnx=m.onnx\nEOF',
        "cat > notes.md <<EOF\ntrtexec --onnx=m.onnx\nEOF",
        'echo "run trtexec --onnx=m.onnx"\necho trtexec --onnx=m.onnx',
        "which trtexec && command -v trtexec; ls -l /usr/bin/trtexec; pip install polygraphy onnx",
        "# OUT=$(trtexec --onnx=m.onnx)\n# don't",
        "ENTRYPOINT [\"trtexec\"]",
    ],
)  # fmt: skip
def test_what_is_shown_or_stored_is_no_command(text):
    assert commands_in(text) == []


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("M=${1:-m.onnx}\ntrtexec --onnx=$M", "m.onnx"),
        ("trtexec --onnx=${MODEL:=m.onnx}", "m.onnx"),
        ("M=m.pt; trtexec --onnx=${M%.pt}.onnx", "m.onnx"),
        ("M=a/b/m.onnx; trtexec --onnx=${M##*/}", "m.onnx"),
        ('M=$(basename a/m.pt .pt); trtexec --onnx="${M}.onnx"', "m.onnx"),
        ('HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)\ntrtexec --onnx=$HERE/../m.onnx', "./../m.onnx"),
        ("trtexec --onnx=$(pwd)/m.onnx", "./m.onnx"),
        ("trtexec --onnx=$PWD/m.onnx", "./m.onnx"),
        ("M=$(ls *.onnx | head -1)\ntrtexec --onnx=$M", "$M"),
        ("trtexec --onnx=$(ls *.onnx)", "$(ls *.onnx)"),
        ("build() {\n  trtexec --onnx=$1\n}\nbuild m.onnx", "$1"),
        ("if [ -z $M ]; then M=a; fi\ntrtexec --onnx=${M:-m.onnx}", "a"),
    ],
)
def test_what_values_are_worth(text, model):
    assert next(words for _, words in commands_in(text) if words[0] == "trtexec")[1] == f"--onnx={model}"


def test_a_script_with_arguments(tmp_path):
    path = tmp_path / "build.sh"
    path.write_text('M=$1; shift\ntrtexec --onnx=$M "$@"\nf() { trtexec --loadEngine=$1; }\n')
    found = read_source([str(path), "m.onnx", "--fp16"]).orders
    assert [(one.term, one.value) for one in found if one.why is None][:2] == [(Term.MODEL, "m.onnx"), (Term.FP16, "")]
    assert [one.said for one in found if one.why is not None and one.why.code is MigrateCode.OTHER_COMMAND] == [
        "trtexec '--loadEngine=$1'"
    ]


def test_the_first_command_that_builds_is_migrated(tmp_path):
    path = tmp_path / "build.sh"
    path.write_text("polygraphy inspect model m.onnx\npolygraphy convert m.onnx --int8 -o m.plan\n")
    found = read_source([str(path)]).orders
    assert [one.term for one in found if one.why is None] == [Term.MODEL, Term.INT8, Term.ENGINE_OUT]


@pytest.mark.parametrize(
    "text",
    [
        "python3 - <<'EOF'\nimport tensorrt as trt\nconfig.set_flag(trt.BuilderFlag.FP16)\nEOF\n# trtexec",
        "cat > b.py <<EOF\nimport tensorrt as trt\nconfig.set_flag(trt.BuilderFlag.FP16)\nEOF\n# trtexec",
        "\n\npython -c 'import tensorrt as trt; config.set_flag(trt.BuilderFlag.FP16)' # trtexec",
    ],
)
def test_python_in_a_script_of_the_shell(text, tmp_path):
    path = tmp_path / "build.sh"
    path.write_text(text)
    (found,) = read_source([str(path)]).orders
    assert (found.term, found.line) == (Term.FP16, 3)


@pytest.mark.parametrize(
    "text",
    [
        "$(" * 3000 + "trtexec --onnx=m.onnx --fp16",
        "bash -c '" * 200 + "trtexec --onnx=m.onnx --fp16",
        "<<EOF " * 300 + "\n" + "x\n" * 3000 + "trtexec --onnx=m.onnx --fp16",
        "a='\n" * 2000 + "trtexec --onnx=m.onnx --fp16",
        "((" * 4000 + "\ntrtexec --onnx=m.onnx --fp16",
    ],
)
def test_marks_that_nothing_closes(text):
    """They end or are refused; what is after them is read as its own line."""
    try:
        read_shell(text)
    except QtoolError as error:
        assert "does not parse" in error.what


def test_lists_with_a_word_a_line():
    """As compose files and pods have them; quotations, comments, texts of several lines and lists on one line beside."""
    compose = """
services:
  build:
    image: trt
    command:
      - trtexec
      - --onnx=a.onnx
      # which precision
      - "--fp16"
      - '--shapes=x:1x3'
    volumes:
      - a:b
  other:
    image: trt
    entrypoint:
    - trtexec
    command: ["--onnx=b.onnx"]
"""
    assert [words for _, words in commands_in(compose)] == [
        ["trtexec", "--onnx=a.onnx", "--fp16", "--shapes=x:1x3"], ["trtexec", "--onnx=b.onnx"],
    ]  # fmt: skip
    pod = """
spec:
  containers:
  - name: first
    command:
    - /bin/sh
    - -c
    args:
    - |
      set -e
      trtexec --onnx=c.onnx --int8
  - name: second
    command: ["trtexec"]
    args:
    - --onnx=d.onnx
"""
    assert [words for _, words in commands_in(pod)] == [
        ["trtexec", "--onnx=c.onnx", "--int8"], ["trtexec", "--onnx=d.onnx"],
    ]  # fmt: skip
