"""A file for each sample whose inputs have several rows: the input with a fixed first axis shows that it is one sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import build, node, normal
from toolkit import Model
from toolkit.base.errors import DataError
from toolkit.data.dataset import CalibrationData


def boxes(images: object) -> Model:
    """The product of an image's features, and the sum over its boxes."""
    nodes = [
        node("MatMul", ["image", "w"], ["f"]), node("MatMul", ["boxes", "w"], ["g"]),
        node("ReduceSum", ["g"], ["s"], keepdims=1), node("Add", ["f", "s"], ["y"]),
    ]  # fmt: skip
    return Model.from_proto(build(nodes, {"image": [images, 8], "boxes": ["k", 8]}, {"y": None}, {"w": normal(8, 4)}))


@pytest.mark.parametrize("form", ["npz", "npy"])
@pytest.mark.parametrize("rows", [1, 4])
def test_the_rows_of_a_dynamic_input_belong_to_the_sample_that_a_fixed_input_shows(tmp_path: Path, form, rows):
    held = [{"image": normal(rows, 8, seed=i), "boxes": normal(3 + i, 8, seed=9 - i)} for i in range(3)]
    for index, sample in enumerate(held):
        if form == "npz":
            np.savez(tmp_path / f"{index}.npz", **sample)
        else:
            for name, array in sample.items():
                np.save(tmp_path / f"{name}.{index}.npy", array)
    data = CalibrationData.open(tmp_path, boxes(rows))
    found = list(data.samples())
    assert len(found) == len(data) == 3
    for sample, wanted in zip(found, held):
        assert all(np.array_equal(sample.inputs[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("image", "count", "message"),
    [(2, 1, "numbers of samples differ: 'image' 2, 'boxes' 3"), (1, 3, "numbers of samples differ: .*'label' 3")],
)
def test_what_may_be_several_samples_is_refused(tmp_path: Path, image, count, message):
    np.savez(tmp_path / "0.npz", image=normal(image, 8), boxes=normal(3, 8), label=np.zeros(count))
    with pytest.raises(DataError, match=message):
        len(CalibrationData.open(tmp_path, boxes(1), labels=True))
