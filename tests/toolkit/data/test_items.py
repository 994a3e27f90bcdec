"""Items of a data set that lack the axis of samples: it is added where all inputs lack it, else said what to write."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, normal
from toolkit import CalibrationData, Model
from toolkit.base.errors import DataError


def model(**inputs):
    nodes = [node("Gemm", [name, f"w_{name}"], [f"y_{name}"]) for name in inputs]
    weights = {f"w_{name}": normal(size, 3) for name, size in inputs.items()}
    shapes = {name: ["n", size] for name, size in inputs.items()}
    return Model.from_proto(build(nodes, shapes, {f"y_{name}": ["n", 3] for name in inputs}, weights))


def test_items_of_which_all_inputs_lack_the_axis_are_samples():
    """As data sets of Hugging Face yield them."""
    values = normal(4, 12)
    data = CalibrationData.open(({"x": value} for value in values), model(x=12))
    assert np.array_equal(np.concatenate([sample.inputs["x"] for sample in data.samples()]), values)


@pytest.mark.parametrize("labels", ["with each", "without", "complete", "stacked"])
def test_samples_that_are_stored_one_by_one_without_the_axis_get_it(labels, tmp_path):
    """A decoder's text and past of unlike lengths, as its user keeps them: none has an axis of samples."""
    nodes = [node("Concat", ["past", "x"], ["j"], axis=1), node("MatMul", ["j", "w"], ["y"])]
    decoder = Model.from_proto(
        build(nodes, {"x": ["n", "t", 4], "past": ["n", "p", 4]}, {"y": ["n", "all", 3]}, {"w": normal(4, 3)})
    )
    items = [{"x": normal(1 + i, 4, seed=i), "past": normal(2 * i, 4, seed=9 + i)} for i in range(3)]
    stored = {f"{name}/{i:05d}": value for i, item in enumerate(items) for name, value in item.items()}
    wanted = [np.arange(1 + i) for i in range(3)]
    if labels in ("with each", "complete"):
        given = [one[None] if labels == "complete" else one for one in wanted]
        stored |= {f"label/{i:05d}": one for i, one in enumerate(given)}
    elif labels == "stacked":
        wanted = [np.int64(i) for i in range(3)]
        stored["label"] = np.arange(3)
    if labels == "complete":
        stored |= {name: value[None] for name, value in stored.items() if not name.startswith("label")}
    np.savez(tmp_path / "data.npz", **stored)
    data = CalibrationData.open(tmp_path / "data.npz", decoder, labels=labels != "without")
    samples = list(data.samples())
    assert len(samples) == 3
    for item, sample, label in zip(items, samples, wanted):
        assert all(np.array_equal(sample.inputs[name], value[None]) for name, value in item.items())
        assert labels == "without" or np.array_equal(sample.labels["label"], label[None])


@pytest.mark.parametrize("shape", [(), (1,), (3,)], ids=["classes", "boxes of which one is alone", "masks"])
@pytest.mark.parametrize("axis", [0, 1])
def test_labels_stored_one_by_one_without_the_axis_beside_complete_inputs_get_it(shape, axis, tmp_path):
    """Objects of pictures, of unlike number, or tags of a text: a label of one is no label with the axis of samples."""
    dims = ["n", "t", 4] if axis == 0 else ["t", "batch", 4]
    tagger = Model.from_proto(build([node("MatMul", ["x", "w"], ["y"])], {"x": dims}, {"y": [*dims[:2], 3]},
                                    {"w": normal(4, 3)}))  # fmt: skip
    lengths = (3, 1, 2)
    labels = [np.full((length, *shape), 7 + length) for length in lengths]
    stored = {f"x/{i:05d}": np.expand_dims(normal(length, 4), axis) for i, length in enumerate(lengths)}
    np.savez(tmp_path / "data.npz", **stored, **{f"label/{i:05d}": one for i, one in enumerate(labels)})
    found = [one.labels["label"] for one in CalibrationData.open(tmp_path / "data.npz", tagger, labels=True).samples()]
    assert all(np.array_equal(one, label[None]) for one, label in zip(found, labels))


def test_a_batch_that_is_stored_by_itself_keeps_a_label_for_each_row(tmp_path):
    rows = (2, 1, 3)
    stored = {f"x/{i:05d}": normal(count, 12) for i, count in enumerate(rows)}
    labels = {f"label/{i:05d}": 10 * i + np.arange(count) for i, count in enumerate(rows)}
    np.savez(tmp_path / "data.npz", **stored, **labels)
    data = CalibrationData.open(tmp_path / "data.npz", model(x=12), labels=True)
    assert [one.labels["label"].tolist() for one in data.samples()] == [[0], [1], [10], [20], [21], [22]]


def test_a_sample_stored_by_itself_of_which_it_is_not_known_how_many_it_is_is_refused(tmp_path):
    nodes = [node("Relu", ["x"], ["y"])]
    grey = Model.from_proto(build(nodes, {"x": ["n", "c", "h", "w"]}, {"y": ["n", "c", "h", "w"]}, {}))
    np.savez(tmp_path / "data.npz", **{"x/00000": normal(5, 8, 8)})
    with pytest.raises(DataError, match=r"shape \[5, 8, 8\] may be one sample with 5 in dimension 1") as refused:
        list(CalibrationData.open(tmp_path / "data.npz", grey).samples())
    assert refused.value.where.endswith("sample 0, input 'x'")


@pytest.mark.parametrize(("size", "told"), [(12, True), (11, False)])
def test_items_of_which_one_input_has_it_are_told_to_add_it_to_the_other(size, told):
    items = [{"x": value, "beside": normal(1, 2)} for value in normal(4, size)]
    with pytest.raises(DataError) as refused:
        list(CalibrationData.open(items, model(x=12, beside=2)).samples())
    assert ("numpy.expand_dims(value, 0)" in refused.value.remedy) is told


@pytest.mark.parametrize("rate", [1.0, np.float32(1), np.float32([1])])
@pytest.mark.parametrize("label", [np.arange(4), np.zeros((4, 7))])
def test_a_number_beside_a_complete_input_gives_labels_no_axis(rate, label):
    """A model that takes four positions at once, and a factor of one value."""
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Mul", ["h", "rate"], ["y"])]
    fixed = Model.from_proto(build(nodes, {"x": [4, 5], "rate": [1]}, {"y": [4, 3]}, {"w": normal(5, 3)}))
    items = [{"x": normal(4, 5), "rate": rate, "label": label}] * 3
    for made in (items, iter(items), lambda: iter(items)):
        samples = list(CalibrationData.open(made, fixed, labels=True).samples())
        assert [(one.inputs["rate"].shape, one.labels["label"].shape) for one in samples] == [((1,), label.shape)] * 3


@pytest.mark.parametrize(("label", "shape"), [(2, (1,)), (np.zeros(7), (1, 7)), (np.zeros((1, 8, 8)), (1, 1, 8, 8))])
def test_labels_of_items_get_the_axis_that_their_inputs_lack(label, shape):
    """A number for all samples, which has no dimensions in the model either, does not matter."""
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Mul", ["h", "rate"], ["y"])]
    free = Model.from_proto(build(nodes, {"x": ["n", 5], "rate": []}, {"y": ["n", 3]}, {"w": normal(5, 3)}))
    items = [{"x": normal(5), "rate": 2.0, "label": label}] * 3
    samples = list(CalibrationData.open(iter(items), free, labels=True).samples())
    assert [one.labels["label"].shape for one in samples] == [shape] * 3


@pytest.mark.parametrize("lead", ["n", 1])
@pytest.mark.parametrize(("label", "shape"), [(2, (1,)), (np.zeros(4), (1, 4))])
def test_labels_get_the_axis_of_their_picture_also_beside_weights_for_all_samples(lead, label, shape):
    nodes = [
        node("GlobalAveragePool", ["x"], ["p"]), node("Flatten", ["p"], ["f"]), node("MatMul", ["f", "w"], ["h"]),
        node("Mul", ["h", "each"], ["y"]),
    ]  # fmt: skip
    proto = build(nodes, {"x": [lead, 3, 8, 8], "each": [4]}, {"y": [lead, 4]}, {"w": normal(3, 4)})
    items = [{"x": normal(3, 8, 8), "each": normal(4), "label": label}] * 3
    samples = list(CalibrationData.open(iter(items), Model.from_proto(proto), labels=True).samples())
    assert [one.labels["label"].shape for one in samples] == [shape] * 3
