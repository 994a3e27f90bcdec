"""Layers' errors count the rounding of weights, also where a helper pass rescaled them before they were rounded."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from passes.insert_qdq import InsertQDQ
from tests.conftest import MODELS, build, node, normal, placeholder_context
from tests.conftest import run as outputs_of
from toolkit import Model, run
from toolkit.graph.layers.constants import with_values
from toolkit.placement.qdq import without_pairs
from toolkit.run.steps.passes import EXACT, PassesRecord

RECIPE = """\
[model]
path = "{models}/digits_uneven.onnx"
[calibration]
data = "{models}/digits_calibration.npz"
samples = 32
method = "minmax"
[[pass]]
use = "fold_batchnorm"
[[pass]]
use = "equalize"
[[pass]]
use = "insert_qdq"
weights = "{weights}"
{after}
[engine]
backend = "none"
[evaluation]
data = "{models}/digits_test.npz"
samples = 32
"""
CORRECT = '[[pass]]\nuse = "correct_bias"\n'


@pytest.fixture
def ran(tmp_path):
    def make(weights, after=""):
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(RECIPE.format(models=MODELS.as_posix(), weights=weights, after=after))
        return run(recipe, tmp_path / "run")

    return make


@pytest.mark.parametrize(("weights", "after"), [("output", ""), ("output", CORRECT), ("minmax", CORRECT)])
def test_the_float_form_has_the_values_from_before_they_were_rounded(ran, weights, after):
    made = ran(weights, after)
    hidden = made.folder / ".qtool"
    record = PassesRecord.model_validate_json((hidden / "passes.json").read_text()).kept_in(made.folder)
    feeds = {"image": np.load(MODELS / "digits_test.npz")["image"][:8]}
    wanted = outputs_of(Model.load(MODELS / "digits_uneven.onnx"), feeds)[0]
    # what is stored is what a kernel reads: rounded, and with it the answers are others
    rounded = outputs_of(without_pairs(record.model()), feeds)[0]
    assert np.abs(rounded - wanted).max() > 1e-3 * np.abs(wanted).max()
    np.testing.assert_allclose(outputs_of(record.float_form(), feeds)[0], wanted, rtol=1e-4, atol=1e-4)

    computing = [layer for layer in made.report.layers if layer.role == "compute"]
    assert all(layer.error is not None and layer.error.sqnr_db is not None for layer in computing)
    assert not any("Layer errors are against" in line for line in made.report.summary.warnings)
    # errors that another reference would give: that of weights is a part of them
    assert min(layer.error.sqnr_db for layer in computing if layer.op == "Conv") < 40


def test_nothing_is_kept_where_no_constant_was_changed(ran):
    made = ran("minmax")
    assert not (made.folder / EXACT).exists()


def test_what_is_kept_goes_with_the_passes_that_made_it(ran):
    assert (ran("output").folder / EXACT).exists()
    assert not (ran("minmax").folder / EXACT).exists()


def test_constants_take_other_values_where_they_are_read():
    model = Model.load(MODELS / "digits_uneven.onnx")
    (name, values), (other, kept), *_ = [(n, v) for n, v in constants(model) if v.ndim == 4]
    # another shape is another constant that took the name
    with_values(model, {name: np.zeros_like(values), "nobody": np.zeros(1), other: np.zeros(3, np.float32)})
    found = dict(constants(model))
    assert not found[name].any() and found[other].tobytes() == kept.tobytes() and kept.any()


def constants(model):
    for one in model.nodes:
        for tensor in one.inputs:
            values = model.constant(tensor)
            if values is not None and values.dtype == np.float32:
                yield tensor.name, values


def test_a_float_form_that_is_the_source_is_not_held_twice():
    weights = {"w": normal(4, 4, 1, 1), "v": normal(4, 4, 1, 1, seed=1)}
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Conv", ["c", "v"], ["y"])]
    proto = build(nodes, {"x": ["n", 4, 4, 4]}, {"y": ["n", 4, 4, 4]}, weights)
    source, model, context = Model.from_proto(proto).settle(), Model.from_proto(proto), placeholder_context()
    InsertQDQ()(model, context)
    made = [PassesRecord(plan=context.plan, journal=context.journal).holding(model.copy().settle()) for _ in range(2)]
    assert made[0].float_form(source) is source and made[0].float_form() is source
    apart = made[1].float_form()
    assert apart is not source and apart.fingerprint() == source.fingerprint()
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(2 * weights["w"], "w"))
    other = Model.from_proto(proto).settle()
    again = PassesRecord(plan=context.plan, journal=context.journal).holding(model.settle())
    assert again.float_form(other) is not other
    assert len(source.nodes) == len(other.nodes) == 2 and again.float_form().fingerprint() == source.fingerprint()
