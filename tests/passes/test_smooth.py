from __future__ import annotations

import numpy as np

from passes.insert_qdq import InsertQDQ
from passes.smooth import Smooth
from tests.conftest import build, node, normal, ops, run
from toolkit import Context, Model
from toolkit.calibration.provider import Calibrator
from toolkit.data.dataset import CalibrationData
from toolkit.simulation.channels import sqnr_against


def outliers(width: int = 16, written_out: bool = False, shared: bool = False) -> Model:
    gain = np.ones(width, np.float32)
    gain[[2, 7]] = 80
    shift = normal(width, seed=4, scale=0.1)
    if written_out:
        norm = [node("Mul", ["x", "g"], ["gx"]), node("Add", ["gx", "s"], ["h"])]
    else:
        norm = [node("LayerNormalization", ["x", "g", "s"], ["h"])]
    nodes = [
        *norm,
        node("MatMul", ["h", "wq"], ["q"]),
        node("MatMul", ["h", "wk"], ["k"]),
        node("Add", ["q", "k"], ["a"]),
    ]
    nodes.append(node("Add", ["a", "h"], ["y"]) if shared else node("Relu", ["a"], ["y"]))
    weights = {f"w{n}": normal(width, width, seed=i, scale=0.2) for i, n in enumerate("qk")}
    return Model.from_proto(
        build(nodes, {"x": ["n", 3, width]}, {"y": ["n", 3, width]}, {"g": gain, "s": shift, **weights})
    )


def smoothed(model: Model, **settings: object) -> tuple[Model, Context]:
    data = CalibrationData.open([{"x": normal(1, 3, 16, seed=i)} for i in range(16)], model)
    context = Context(provider=Calibrator(data, method="minmax"))
    twin = model.copy()
    Smooth(**settings)(twin, context)
    twin.check()
    x = normal(4, 3, 16, seed=77)
    np.testing.assert_allclose(run(twin, {"x": x})[0], run(model, {"x": x})[0], rtol=2e-4, atol=2e-3)
    return twin, context


def test_the_normalization_takes_the_factors():
    for written_out in (False, True):
        model = outliers(written_out=written_out)
        twin, context = smoothed(model)
        assert ops(twin) == ops(model)
        assert {e.node for e in context.journal.of("changed")} == {"q", "k"}
        assert any(e.rule == "effect" for e in context.journal.of("noted"))


def test_int8_is_better_for_it():
    model = outliers()
    twin, context = smoothed(model)
    data = context.provider.data
    noise = []
    for subject in (model, twin):
        quantized = subject.copy()
        InsertQDQ()(quantized, Context(provider=Calibrator(data, method="minmax")))
        noise.append(sqnr_against(model, quantized, data))
    assert noise[1] > noise[0] + 3


def test_with_other_readers_a_mul_is_inserted_or_it_is_declined():
    twin, _ = smoothed(outliers(shared=True))
    assert ops(twin)["Mul"] == 1
    twin, context = smoothed(outliers(shared=True), insert=False)
    assert "Mul" not in ops(twin) and {e.rule for e in context.journal.of("declined")} == {"no-norm"}


def test_even_channels_are_left_alone():
    _, context = smoothed(outliers(), least=1000.0)
    assert {e.rule for e in context.journal.of("declined")} == {"even"}
    assert not context.journal.of("changed")
