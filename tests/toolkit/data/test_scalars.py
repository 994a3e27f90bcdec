"""Inputs without dimensions: a number for each sample, or one for all, in every form that samples have."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import TensorProto

from tests.conftest import build, node, normal
from tests.control_flow import layers_in_branches, with_state
from toolkit import CalibrationData, DataError, Model

COUNT = 3


def samples(rate=np.int64):
    rng = np.random.default_rng(0)
    return [
        {"x": rng.standard_normal((1, 32)).astype(np.float32), "state": rng.standard_normal((2, 1, 6)).astype(np.float32), "sr": np.array(16000 + i, rate)}
        for i in range(COUNT)
    ]  # fmt: skip


def read(source, **settings):
    data = CalibrationData.open(source, Model.from_proto(with_state()), **settings)
    return [sample.inputs for sample in data.samples()], data


def same(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted):
        assert {n: (v.shape, v.dtype) for n, v in one.items()} == {n: (v.shape, v.dtype) for n, v in other.items()}
        assert all(np.array_equal(one[n], other[n]) for n in other)


@pytest.mark.parametrize("number", [np.asarray, np.atleast_1d], ids=["scalar", "one value"])
def test_a_file_for_each_sample(tmp_path, number):
    wanted = samples()
    for index, sample in enumerate(wanted):
        np.savez(tmp_path / f"{index}.npz", **{**sample, "sr": number(sample["sr"])})
    found, data = read(tmp_path)
    same(found, wanted)
    assert len(data) == COUNT


@pytest.mark.parametrize("form", ["{name}/{index}.npy", "{name}.{index}.npy", "{index}.{name}.npy"])
def test_a_file_for_each_input_and_sample(tmp_path, form):
    wanted = samples()
    for index, sample in enumerate(wanted):
        for name, value in sample.items():
            path = tmp_path / form.format(name=name, index=index)
            path.parent.mkdir(exist_ok=True)
            np.save(path, value)
    same(read(tmp_path)[0], wanted)


def test_one_archive_with_numbered_samples(tmp_path):
    wanted = samples()
    np.savez(
        tmp_path / "d.npz",
        **{f"{name}/{i:05d}": value for i, sample in enumerate(wanted) for name, value in sample.items()},
    )
    same(read(tmp_path / "d.npz")[0], wanted)


def test_one_archive_of_stacked_samples(tmp_path):
    wanted = samples()
    np.savez(tmp_path / "d.npz", **{name: np.stack([sample[name] for sample in wanted]) for name in wanted[0]})
    same(read(tmp_path / "d.npz")[0], wanted)


@pytest.mark.parametrize("folder", [False, True])
def test_one_number_for_all_stacked_samples(tmp_path, folder):
    wanted = [{**sample, "sr": np.array(16000)} for sample in samples()]
    arrays = {
        "x": np.concatenate([s["x"] for s in wanted]),
        "state": np.stack([s["state"] for s in wanted]),
        "sr": np.array(16000),
    }
    if folder:
        for name, value in arrays.items():
            np.save(tmp_path / f"{name}.all.npy", value)
    else:
        np.savez(tmp_path / "d.npz", **arrays)
    found, data = read(tmp_path if folder else tmp_path / "d.npz")
    same(found, wanted)
    assert len(data) == COUNT


@pytest.mark.parametrize("dims", [[4], ["length"]])
def test_an_input_without_an_axis_of_samples_may_be_given_once(tmp_path, dims):
    model = Model.from_proto(build(
        [node("Mul", ["x", "gain"], ["y"])], {"x": ["N", 4], "gain": dims}, {"y": ["N", 4]}, {},
    ))  # fmt: skip
    x, gain = normal(6, 4), normal(4)
    np.savez(tmp_path / "once.npz", x=x, gain=gain)
    np.savez(tmp_path / "stacked.npz", x=x, gain=np.stack([gain] * 6))
    for name in ("once", "stacked"):
        found = list(CalibrationData.open(tmp_path / f"{name}.npz", model).samples())
        assert len(found) == 6
        for number, sample in enumerate(found):
            assert np.array_equal(sample.inputs["x"], x[[number]]) and np.array_equal(sample.inputs["gain"], gain)


def test_inputs_saved_by_polygraphy(tmp_path):
    wanted = samples()
    content = [{name: {"values": value.tolist()} for name, value in sample.items()} for sample in wanted]
    (tmp_path / "d.json").write_text(json.dumps(content))
    found, _ = read(str(tmp_path / "d.json"))
    assert [int(sample["sr"]) for sample in found] == [16000, 16001, 16002]
    assert {sample["sr"].shape for sample in found} == {()}


@pytest.mark.parametrize("kind", [int, np.int64, np.int32, np.asarray, np.atleast_1d])
def test_numbers_of_every_kind_are_taken_for_an_input_without_dimensions(kind):
    wanted = samples()
    same(read([{**sample, "sr": kind(sample["sr"])} for sample in wanted])[0], wanted)


def test_a_loader_that_collates(tmp_path):
    class Loader:
        """As torch's DataLoader."""

        dataset, batch_size = object(), 2

        def __init__(self, collated):
            self.collated = collated

        def __iter__(self):
            for first in (0, 2):
                yield {
                    "x": np.ones((2, 4), np.float32) * first,
                    "k": np.array([first, first + 1]) if self.collated else np.array(7),
                }

    proto = build(
        [node("Cast", ["k"], ["f"], to=1), node("Mul", ["x", "f"], ["y"])],
        {"x": ["n", 4], "k": []},
        {"y": None},
        types={"k": TensorProto.INT64},
    )
    for collated, wanted in ((True, [0, 1, 2, 3]), (False, [7] * 4)):
        data = CalibrationData.open(Loader(collated), Model.from_proto(proto))
        assert [(int(s.inputs["k"]), s.inputs["k"].shape, s.inputs["x"].shape) for s in data.samples()] == [
            (k, (), (1, 4)) for k in wanted
        ]


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("float32", 2.1),
        ("float32", 2),
        ("float16", 0.1),
        ("int32", 3),
        ("int64", 3),
        ("uint8", 200),
        ("bool", True),
        ("float64", 0.1),
    ],
)
def test_a_python_number_becomes_what_the_model_declares(kind, given):
    model = Model.from_proto(
        layers_in_branches(
            getattr(TensorProto, {"float32": "FLOAT"}.get(kind, kind.upper()).replace("FLOAT64", "DOUBLE"))
        )
    )
    [sample] = CalibrationData.open([{"x": np.ones((1, 3, 16), np.float32), "rate": given}], model).samples()
    assert sample.inputs["rate"].dtype == kind and sample.inputs["rate"].shape == ()
    assert np.isclose(float(sample.inputs["rate"]), float(given), rtol=1e-3)


@pytest.mark.parametrize(
    ("kind", "given"),
    [(TensorProto.UINT8, 300), (TensorProto.INT64, 2.5), (TensorProto.FLOAT, 1e300), (TensorProto.INT64, "word")],
)
def test_a_number_that_the_type_does_not_hold_is_refused(kind, given):
    model = Model.from_proto(layers_in_branches(kind))
    with pytest.raises(DataError, match="rate"):
        list(CalibrationData.open([{"x": np.ones((1, 3, 16), np.float32), "rate": given}], model).samples())


def test_more_than_one_number_is_refused():
    with pytest.raises(DataError, match="rank"):
        read([{**samples()[0], "sr": np.array([[16000]])}])


def test_a_model_of_scalars_alone(tmp_path):
    proto = build([node("Add", ["a", "b"], ["y"])], {"a": [], "b": []}, {"y": None})
    np.savez(tmp_path / "one.npz", a=np.float32(1), b=np.float32(2))
    np.savez(tmp_path / "two.npz", a=np.ones(3, np.float32), b=np.float32(2))
    counts = [
        len(list(CalibrationData.open(tmp_path / name, Model.from_proto(proto)).samples()))
        for name in ("one.npz", "two.npz")
    ]
    assert counts == [1, 3]
