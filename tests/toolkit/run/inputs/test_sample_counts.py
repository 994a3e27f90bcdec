"""How many of the given samples calibrate a model, beside those on which it is evaluated."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.recipe.recipe import Recipe

RECIPE = """
[model]
path = "model.onnx"
[calibration]
data = "data.npz"
samples = {samples}
[engine]
backend = "none"
"""


@pytest.fixture
def inputs(tmp_path):
    net = build([node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 3]}, {"y": ["n", 2]}, {"w": normal(3, 2)})
    onnx.save(net, tmp_path / "model.onnx")

    def made(given, samples):
        np.savez(tmp_path / "data.npz", x=normal(given, 3))
        return Inputs(Job(Recipe.parse(RECIPE.format(samples=samples), tmp_path / "r.toml"), RunFolder(tmp_path / "o")))

    return made


@pytest.mark.parametrize("data", ["", 'data = "data.npz"'])
def test_few_evaluation_samples_are_spread_over_all(tmp_path, inputs, data):
    """Data may be sorted, by class for instance, and the first samples were taken."""
    inputs(40, 40)
    text = f"{RECIPE.format(samples=40)}[evaluation]\nsamples = 4\n{data}\n"
    read = Inputs(Job(Recipe.parse(text, tmp_path / "r.toml"), RunFolder(tmp_path / "o")))
    chosen = [one.index for one in read.evaluation_data(read.source())[0].samples()]
    every = list(range(40)) if data else [index for index in range(40) if index % 5 == chosen[0] % 5]
    assert chosen == every[:: len(every) // 4]


@pytest.mark.parametrize(("given", "samples"), [(5, 4), (6, 4), (10, 8), (40, 9), (40, 31), (40, 32), (40, 33), (2, 1)])
def test_as_many_samples_calibrate_as_are_asked_for_if_so_many_are_not_held_out(inputs, given, samples):
    read, journal = inputs(given, samples), Journal()
    model = read.source()
    calibrating = [one.index for one in read.calibration_data(model, journal).samples()]
    held_out = [one.index for one in read.evaluation_data(model)[0].samples()]
    rest = given - len(held_out)
    assert len(held_out) == max(1, given // 5) and not set(calibrating) & set(held_out)
    assert len(calibrating) == min(samples, rest)
    limited = Code.LIMITED(left_out=rest - samples, total=rest, limit=samples)
    assert [one.why for one in journal.events if one.why.code is Code.LIMITED] == ([limited] if samples < rest else [])
