"""What ``check`` and ``new`` say of samples that are too few, or laid out otherwise than the model reads them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, normal
from toolkit import Code, Recipe
from toolkit.base.errors import DataError
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence
from toolkit.run.checks.dry_run import dry_run


def image_model(last, free=False):
    """A convolution over pictures with the channels first or last."""
    sides = ["h", "w_"] if free else [8, 8]
    nodes = [
        *([node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])] if last else []),
        node("Conv", ["t" if last else "x", "w"], ["c"]), node("GlobalAveragePool", ["c"], ["g"]), node("Flatten", ["g"], ["y"]),
    ]  # fmt: skip
    return build(
        nodes, {"x": ["n", *sides, 3] if last else ["n", 3, *sides]}, {"y": ["n", 5]}, {"w": normal(5, 3, 3, 3)}
    )


def recipe(folder, model, samples):
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    if isinstance(samples, dict):
        (folder / "data").mkdir()
        for name, value in samples.items():
            np.save(folder / "data" / name, value)
    else:
        np.savez(folder / "data.npz", x=samples)
    data = "data" if isinstance(samples, dict) else "data.npz"
    return Recipe.build(
        "hints", model={"path": folder / "model.onnx"}, calibration={"data": str(folder / data)}, passes=["insert_qdq"],
        engine={"backend": "none"},
    )  # fmt: skip


@pytest.mark.parametrize(("count", "used", "nothing"), [(1, 1, True), (8, 7, True), (20, 0, False)])
def test_too_few_samples_are_said_before_a_run(count, used, nothing, tmp_path):
    """Some of several are held back for the evaluation."""
    said = dry_run(recipe(tmp_path, image_model(False), normal(count, 3, 8, 8)), False).warnings
    few = [one for one in said if one.startswith("Profile 'default' has only")]
    assert few == ([sentence(Code.FEW_SAMPLES(profile="default", samples=used))] if used else [])
    assert any(one.startswith(sentence(ReportCode.SAMPLES_SHOW_NOTHING(samples=1))[:40]) for one in said) is nothing


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize(
    ("last", "shape", "order"), [(True, (4, 3, 8, 8), "0, 2, 3, 1"), (False, (4, 8, 8, 3), "0, 3, 1, 2")]
)
def test_channels_at_the_other_end_are_named_with_the_transposition(last, shape, order, free, tmp_path):
    with pytest.raises(DataError) as refused:
        dry_run(recipe(tmp_path, image_model(last, free), normal(*shape)), False)
    own, other = ("last", "first") if not last else ("first", "last")
    assert f"have their channels {own} and the model {other}" in refused.value.remedy
    assert f"array.transpose({order})" in refused.value.remedy
    axes = [int(axis) for axis in order.split(",")]
    (tmp_path / "right").mkdir()
    assert dry_run(recipe(tmp_path / "right", image_model(last, free), normal(*shape).transpose(axes)), False).nodes > 1


def test_a_shape_that_no_order_of_channels_mends_is_told_by_its_dimension(tmp_path):
    with pytest.raises(DataError) as refused:
        dry_run(recipe(tmp_path, image_model(False), normal(4, 8, 8, 4)), False)
    assert "transpose" not in refused.value.remedy and "give samples with 3 there" in refused.value.remedy


def test_files_of_samples_without_a_batch_dimension_are_told_to_have_one(tmp_path):
    with pytest.raises(DataError) as refused:
        dry_run(recipe(tmp_path, image_model(False), {f"{n}.npy": normal(3, 8, 8) for n in range(3)}), False)
    assert "needs a batch dimension of 1 in front, [1, 3, 8, 8], as array[None] has it" in refused.value.remedy
