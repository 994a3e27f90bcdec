"""A Gemm's third input with values per row is no bias of its output channels."""

from __future__ import annotations

import numpy as np
import pytest

from passes.compensate import Compensate
from passes.correct_bias import CorrectBias
from passes.equalize import Equalize
from passes.fold_batchnorm import FoldBatchNorm
from passes.insert_qdq import InsertQDQ
from passes.shift import Shift
from passes.smooth import Smooth
from tests.conftest import build, node, normal, run
from toolkit import CalibrationData, Calibrator, Context, Model, Recipe, bias_of, has_other_bias
from toolkit import run as run_recipe

ROWS = 4
SHAPES = {"rows": (ROWS, 1), "rows and channels": (ROWS, 4)}


def two_layers(shape: tuple[int, ...]) -> Model:
    """Two Gemms of four rows and four channels, with what the passes look for: uneven channels and outliers."""
    given = {
        "w": normal(8, 4, seed=1) * np.float32([0.1, 1, 5, 20]), "v": normal(4, 4, seed=2),
        "c": normal(*shape, seed=3), "d": normal(*shape, seed=4), "g": np.float32([0.5, 1, 2, 3]),
    }  # fmt: skip
    nodes = [
        node("Gemm", ["x", "w", "c"], ["first"]), node("Relu", ["first"], ["r"]),
        node("Gemm", ["r", "v", "d"], ["second"]), node("Mul", ["second", "g"], ["y"]),
    ]  # fmt: skip
    return Model.from_proto(build(nodes, {"x": [ROWS, 8]}, {"y": [ROWS, 4]}, given))


def samples() -> list[dict[str, np.ndarray]]:
    return [{"x": normal(ROWS, 8, seed=i) * np.float32([1, 1, 1, 1, 1, 1, 1, 60]) + 1} for i in range(6)]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("step", [Equalize, Smooth, FoldBatchNorm, Shift])
def test_what_keeps_the_function_keeps_it(step, shape):
    model = two_layers(shape)
    changed = model.copy()
    settings = {} if step is FoldBatchNorm else {"only_if_better": False}
    step(**settings)(changed, Context(provider=Calibrator(CalibrationData.open(samples(), model), method="minmax")))
    changed.check()
    for one in samples():
        np.testing.assert_allclose(run(changed, one)[0], run(model, one)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("step", [CorrectBias, Compensate])
def test_it_is_not_corrected_and_its_layer_is_declined(step, shape):
    model = two_layers(shape)
    context = Context(provider=Calibrator(CalibrationData.open(samples(), model), method="minmax"))
    InsertQDQ()(model, context)
    before = [model.constant(one.inputs[2]) for one in model.nodes if one.op == "Gemm"]
    step(only_if_better=False)(model, context)
    after = [model.constant(one.inputs[2]) for one in model.nodes if one.op == "Gemm"]
    assert len(after) == 2 and all(np.array_equal(a, b) for a, b in zip(before, after))
    assert len(context.journal.of("declined", by=step.name)) == 2


@pytest.mark.parametrize(
    ("shape", "fits"), [((4,), True), ((1, 4), True), ((1,), True), ((), True), ((1, 1), True), ((ROWS, 1), False)]
)
def test_a_bias_has_its_values_along_the_last_axis(shape, fits):
    layer = two_layers(shape)
    first = next(one for one in layer.nodes if one.op == "Gemm")
    assert (bias_of(layer, first) is not None, has_other_bias(layer, first)) == (fits, not fits)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_run_judges_such_a_model(shape, tmp_path):
    """The report's reasons for the layers' errors read the bias too."""
    two_layers(shape).save(tmp_path / "m.onnx")
    recipe = Recipe.build(
        "rows", model={"path": str(tmp_path / "m.onnx")}, calibration={"data": samples()}, passes=[InsertQDQ()],
        evaluation={"data": samples(), "task": "regression"}, engine={"backend": "none"}, report={"formats": ["json"]},
    )  # fmt: skip
    report = run_recipe(recipe, out=tmp_path / "o").report
    assert [layer.asked_precision for layer in report.layers if layer.op == "Gemm"] == ["int8", "int8"]
    assert report.weak_spots
