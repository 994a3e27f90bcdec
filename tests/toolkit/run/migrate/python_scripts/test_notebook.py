"""Notebooks: cells of Python and of the shell are one script, in which IPython's additions are the calls that it makes."""

from __future__ import annotations

import ast
import json

import pytest

from toolkit.base.errors import QtoolError
from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.migrate.orders.terms import Term
from toolkit.run.migrate.python_scripts.notebook import notebook_code
from toolkit.run.migrate.source import read_source


def notebook(*cells):
    return json.dumps({"cells": [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]})


def orders_of(folder, *cells):
    (folder / "n.ipynb").write_text(notebook(*cells))
    return read_source([str(folder / "n.ipynb")]).orders


def said(orders):
    return [(one.term, one.value, one.line) for one in orders if one.why is None]


WANTED = [(Term.MODEL, "m.onnx"), (Term.FP16, "")]


@pytest.mark.parametrize(
    ("cells", "line"),
    [
        (("%matplotlib inline\nimport os", "!trtexec --onnx=m.onnx \\\n  --fp16\nprint(1)"), 3),
        (("said = !trtexec --onnx=m.onnx --fp16\nif said != []: pass",), 1),
        (("%%bash\nM=m.onnx\ntrtexec --onnx=$M --fp16",), 3),
        (("x = 1\n%sx trtexec --onnx=m.onnx --fp16",), 2),
        (("name = 'm'", "!trtexec --onnx={name}.onnx --fp16"), 2),
        (("path = 'm.onnx'", "if True:\n    !trtexec --onnx=$path --fp16 2>&1 | tee $LOG"), 3),
        (("%%writefile build.sh\ntrtexec --onnx=m.onnx --fp16", "!bash build.sh"), 2),
        (("import subprocess\nsubprocess.run('trtexec --onnx=m.onnx --fp16'.split())\nnet?",), 2),
    ],
)
def test_a_command_in_a_cell(cells, line, tmp_path):
    if "split" in cells[0]:
        # a method that is not worked out: the line is shown
        assert [one.why.code for one in orders_of(tmp_path, *cells)] == [MigrateCode.LOOK_AT]
        return
    assert said(orders_of(tmp_path, *cells)) == [(*one, line) for one in WANTED]


def test_cells_of_python_and_commands_are_read_together(tmp_path):
    cells = (
        "import tensorrt as trt\nconfig.set_flag(trt.BuilderFlag.REFIT)",
        "!pip install polygraphy onnx",
        "!trtexec --onnx=m.onnx --int8",
        "!trtexec --onnx=m.onnx --fp16 --saveEngine=fp16.plan",
        "%%html\n<b>it's",
        "with open('other.onnx', 'rb') as stream: parser.parse(stream.read())",
    )
    orders = orders_of(tmp_path, *cells)
    assert said(orders) == [(Term.REFIT, None, 2), (Term.MODEL, "m.onnx", 4), (Term.INT8, "", 4)]
    assert [(one.line, one.why.code) for one in orders if one.why is not None] == [(5, MigrateCode.OTHER_COMMAND)]


def test_lines_keep_their_numbers():
    text = notebook_code(
        notebook("%%time\nimport os\n!ls \\\n -l", "%%javascript\nvar a = 'b", "a?\n??b.c\nx = %who"), "n"
    )
    assert text.splitlines() == ["pass", "import os", "get_ipython().system('ls \\\\\\n -l')", *["pass"] * 6]
    ast.parse(text)
    # brackets of the shell, and names that the notebook does not give, stay as they are
    assert notebook_code(notebook("!awk '{print $1}' ${HOME}/x $USER"), "n") == (
        """get_ipython().system("awk '{print $1}' ${HOME}/x $USER")"""
    )


def test_a_notebook_that_builds(tmp_path):
    cells = "import tensorrt as trt", "if True:\n    !nvidia-smi", "config.set_flag(trt.BuilderFlag.FP16)"
    assert [order.term for order in orders_of(tmp_path, *cells)] == [Term.FP16]
    for text in ("{", "[]", '{"cells": 3}', '{"cells": [{"cell_type": "code", "source": [1]}]}'):
        (tmp_path / "n.ipynb").write_text(text)
        with pytest.raises(QtoolError):
            read_source([str(tmp_path / "n.ipynb")])
