"""A run goes on from what its first passes made when it was tried, where these go by the graph alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from passes.fold_batchnorm import FoldBatchNorm
from passes.fold_constants import FoldConstants
from passes.insert_qdq import InsertQDQ
from passes.keep_precision import KeepPrecision
from tests.conftest import build, node, normal
from toolkit import Recipe, run

APPLIED: list[tuple[str, bool]] = []
"""What was applied, and whether that was a trial."""


class Own(KeepPrecision):
    """A pass of a user's, whose apply asks for what a trial does not know."""

    name = "own"

    def apply(self, model, context):
        APPLIED.append(("own", context.dry_run))
        if not context.dry_run:
            super().apply(model, context)


class Heeds(Own):
    """One that says of the apply that it has, another's, what a dry run is to it."""

    supports_dry_run = True


class Measured(InsertQDQ):
    """Another apply than that of a built-in pass which neither reads the evaluation nor measures."""

    name = "measured"

    def apply(self, model, context):
        context.evaluation.samples(model)


class Beside:
    """What several passes of a user's share, which is no pass."""

    def apply(self, model, context):
        context.evaluation.samples(model)


class Mixed(Beside, InsertQDQ):
    """A built-in pass whose apply is that of a class beside it."""

    name = "mixed"


class Settings(KeepPrecision):
    """A pass of a user's that changes no apply."""

    name = "settings"


class Says(Own):
    """One that says of its own apply what holds of it."""

    graph_only = True


@pytest.mark.parametrize(
    ("kind", "alone"),
    [(FoldConstants, True), (FoldBatchNorm, True), (Settings, True), (Own, False), (Says, True), (Mixed, False)],
)
def test_what_a_pass_goes_by_is_said_of_its_own_apply(kind, alone):
    assert kind.graph_only is alone


@pytest.mark.parametrize(
    ("made", "tried", "careful"),
    [(InsertQDQ(), True, False), (Measured(), False, True), (Mixed(), False, True), (Settings(ops=["Relu"]), True, False),
     (Own(ops=["Relu"]), False, True), (Heeds(ops=["Relu"]), True, True)],
)  # fmt: skip
def test_whoever_writes_another_apply_has_the_careful_defaults(made, tried, careful):
    """Its result would be taken for fresh though the evaluation changed, or tried on placeholders as if it knew them."""
    found = made.supports_dry_run, made.reads_evaluation(), made.measures_engines()
    assert found == (tried, careful, careful)


def test_a_run_applies_anew_what_a_pass_derived_from_a_built_in_one_does(tmp_path):
    APPLIED.clear()
    proto = build(
        [node("MatMul", ["x", "w"], ["u"]), node("MatMul", ["u", "v"], ["y"])], {"x": ["n", 8]}, {"y": ["n", 8]},
        {"w": normal(8, 8, seed=1), "v": normal(8, 8, seed=2)},
    )  # fmt: skip
    onnx.save(proto, str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", x=normal(32, 8, seed=3))
    recipe = Recipe.build(
        "own", model={"path": tmp_path / "model.onnx"}, calibration={"data": str(tmp_path / "data.npz")},
        passes=[FoldConstants(), Heeds(nodes=["y"], precision="fp32"), InsertQDQ()], engine={"backend": "none"},
    )  # fmt: skip
    result = run(recipe, tmp_path / "out")
    assert APPLIED == [("own", True), ("own", False)]
    asked = {layer.node: layer.asked.precision for layer in result.report.layers if layer.asked is not None}
    assert asked["y"] == "fp32" and asked["u"] == "int8"
