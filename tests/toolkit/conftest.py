"""A small model with its recipe in a folder of the test's own, and what every error must look like."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal
from toolkit.cli.main import invoke

GOOD = """\
[model]
path = "model.onnx"

[[profile]]
name = "all"
shapes.x = { min = [1, 3, 4, 4], opt = [2, 3, 4, 4], max = [8, 3, 8, 8] }

[calibration]
data = "data.npz"

[[pass]]
use = "insert_qdq"

[engine]
backend = "none"
"""


def model():
    return build(
        [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["y"])],
        {"x": ["n", 3, "h", "w_"]}, {"y": ["n", 4, "h", "w_"]}, {"w": normal(4, 3, 1, 1)},
    )  # fmt: skip


@pytest.fixture
def place(tmp_path):
    """A folder with ``model.onnx``, ``data.npz`` and ``recipe.toml``."""
    onnx.save(model(), str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", x=normal(12, 3, 4, 4))
    (tmp_path / "recipe.toml").write_text(GOOD)
    return tmp_path


def rewrite(place, old, new):
    """Replace a text of the recipe by another."""
    text = (place / "recipe.toml").read_text()
    assert old in text
    (place / "recipe.toml").write_text(text.replace(old, new))


def complain(place, capsys, *arguments):
    """Run qtool, and return its one paragraph after checking the form every error has."""
    status = invoke(list(arguments) or ["run", str(place / "recipe.toml"), "--out", str(place / "out")])
    printed = capsys.readouterr()
    assert status == 2, printed
    text = printed.err.strip().splitlines()[-1]
    assert text.startswith("qtool: ") and len(text) < 1200
    assert "Traceback" not in printed.err + printed.out
    return text


@pytest.fixture(scope="session")
def measuring_tensorrt():
    """Skips, with the reason, where TensorRT cannot build or nothing can measure an engine."""
    from toolkit.backends.choose import choose, usable

    features, refusal = usable("tensorrt")
    if features is None:
        pytest.skip(str(refusal))
    lacks = choose("tensorrt")[0].cannot_measure()
    if lacks:
        pytest.skip(lacks)
