"""The forms that data have in other people's code: tensors elsewhere, readers, files by input, one bad sample of many."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal
from toolkit import CalibrationData, Model, Recipe, run
from toolkit.base.errors import DataError, ModelError
from toolkit.data.batch import Batch
from toolkit.data.faults import run_samples
from toolkit.graph.sessions.endless_loops import EndlessLoopError

ROWS = normal(6, 8)


@pytest.fixture
def model():
    return Model.from_proto(
        build([node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 8]}, {"y": ["n", 3]}, {"w": normal(8, 3)})
    )


def read(source, model, **more):
    data = CalibrationData.open(source, model, **more)
    return np.concatenate([sample.inputs["x"] for sample in data.samples()])


class OnGpu:
    """A torch tensor that numpy cannot read where it is."""

    def __init__(self, values, attached=True, device=True, dtype="torch.float32"):
        self.values, self.attached, self.device, self.dtype = values, attached, device, dtype

    def __array__(self, dtype=None, copy=None):
        if self.attached or self.device or self.dtype == "torch.bfloat16":
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return self.values

    def detach(self):
        return OnGpu(self.values, False, self.device, self.dtype)

    def cpu(self):
        return OnGpu(self.values, self.attached, False, self.dtype)

    def float(self):
        return OnGpu(self.values, self.attached, self.device)


class Capsule:
    """Offers its values by DLPack alone."""

    def __init__(self, values):
        self.values = values

    def __dlpack__(self, *given, **more):
        return self.values.__dlpack__(*given, **more)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


class Cupy:
    """As CuPy's arrays, which refuse to become numpy's on their own."""

    def __init__(self, values):
        self.values, self.__cuda_array_interface__ = values, {}

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def get(self):
        return self.values


@pytest.mark.parametrize("wrap", [OnGpu, Capsule, Cupy, lambda values: OnGpu(values, dtype="torch.bfloat16")])
def test_tensors_elsewhere_are_copied(wrap, model):
    np.testing.assert_array_equal(read([{"x": wrap(row[None])} for row in ROWS], model), ROWS)


class Reader:
    """As onnxruntime's CalibrationDataReader."""

    def __init__(self):
        self.rows = iter(ROWS)

    def get_next(self):
        row = next(self.rows, None)
        return None if row is None else {"x": row[None]}


@pytest.mark.parametrize("source", [Reader, Reader(), lambda: Reader()])
def test_a_reader_of_onnxruntime_is_read_to_its_end_each_time(source, model):
    data = CalibrationData.open(source, model)
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate([one.inputs["x"] for one in data.samples()]), ROWS)


@pytest.mark.parametrize("source", [{"x": ROWS}, {"x": ROWS.tolist()}, lambda: {"x": ROWS}])
def test_one_dictionary_of_all_samples_is_told_how_to_be_given(source, model):
    with pytest.raises(DataError, match=r"one dictionary \('x'\), not one for each sample. Yield \[dict\(zip"):
        read(source, model)


def test_what_it_is_told_to_yield_is_taken(model):
    arrays = {"x": ROWS}
    np.testing.assert_array_equal(read([dict(zip(arrays, row)) for row in zip(*arrays.values())], model), ROWS)


@pytest.mark.parametrize(
    ("value", "said"), [("abc", "str"), (object(), "object"), (np.array([["a"] * 8]), "array of str32")]
)
def test_what_is_no_number_is_named_by_its_type(value, said, model):
    with pytest.raises(DataError, match=f"input 'x': the value is of type {said}. Give an array of float32"):
        read([{"x": value}], model)


def two_inputs(inner="past/0"):
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", inner], ["y"])]
    return build(nodes, {"x": ["n", 8], inner: ["n", 3]}, {"y": ["n", 3]}, {"w": normal(8, 3)})


def test_files_named_after_the_inputs_hold_all_samples(tmp_path):
    past = normal(6, 3, seed=1)
    for name, values in {"x": ROWS, "past_0": past, "label": np.arange(6)}.items():
        np.save(tmp_path / f"{name}.npy", values)
    data = list(CalibrationData.open(tmp_path, Model.from_proto(two_inputs()), labels=True).samples())
    np.testing.assert_array_equal(np.concatenate([one.inputs["x"] for one in data]), ROWS)
    np.testing.assert_array_equal(np.concatenate([one.inputs["past/0"] for one in data]), past)
    assert [int(one.labels["label"][0]) for one in data] == list(range(6))


def test_a_file_of_labels_beside_that_of_the_only_input_is_no_sample(tmp_path, model):
    np.save(tmp_path / "x.npy", ROWS)
    np.save(tmp_path / "label.npy", np.arange(6))
    data = CalibrationData.open(tmp_path, model, labels=True)
    assert [int(one.labels["label"][0]) for one in data.samples()] == list(range(6))


@pytest.mark.parametrize("other", ["y.npy", "x/00000.npy", "past_0.00000.npy"])
@pytest.mark.parametrize("alone", [False, True])
def test_a_file_beside_those_of_all_samples_is_no_further_sample(tmp_path, model, other, alone):
    np.save(tmp_path / "x.npy", ROWS)
    (tmp_path / other).parent.mkdir(exist_ok=True)
    # of the input's own shape, as targets may be
    np.save(tmp_path / other, ROWS)
    opened = model if alone else Model.from_proto(two_inputs())
    with pytest.raises(DataError, match=rf"'x\.npy' holds all samples of an input, and '{other}' beside it") as error:
        CalibrationData.open(tmp_path, opened).counts  # noqa: B018
    assert "(x.npy, " in error.value.remedy and ", label.npy, labels.npy)" in error.value.remedy


def test_a_loader_for_a_model_of_a_fixed_batch_is_told_how_its_batches_stay_whole():
    proto = build([node("MatMul", ["x", "w"], ["y"])], {"x": [4, 8]}, {"y": [4, 3]}, {"w": normal(8, 3)})
    model = Model.from_proto(proto)

    class Loader:
        """Yields batches as torch's DataLoader does, the last one not full unless it is dropped."""

        dataset, batch_size, drop_last = ROWS, 4, False

        def __iter__(self):
            ends = range(0, len(ROWS) - 3 * self.drop_last, 4)
            return ({"x": ROWS[end : end + 4]} for end in ends)

    class Whole(Loader):
        drop_last = True

    def batches(kind=Whole):
        yield from kind()

    told = r"yield each batch from a function: def batches\(\): yield from DataLoader\(\.\.\., batch_size=4, drop_last"
    for source in (Loader(), lambda: batches(Loader)):
        with pytest.raises(DataError, match=told):
            list(CalibrationData.open(source, model).samples())
    (sample,) = CalibrationData.open(batches, model).samples()
    np.testing.assert_array_equal(sample.inputs["x"], ROWS[:4])


def test_labels_beside_files_of_single_samples_are_no_sample(tmp_path, model):
    for name, values in {"0": ROWS[:1], "1": ROWS[1:2], "label": ROWS[:2]}.items():
        np.save(tmp_path / f"{name}.npy", values)
    with pytest.raises(DataError, match=r"label\.npy: the file's name does not say which input it is for"):
        CalibrationData.open(tmp_path, model).counts  # noqa: B018


def test_an_input_without_its_file_is_named(tmp_path):
    np.save(tmp_path / "x.npy", ROWS)
    with pytest.raises(DataError, match="there are no values for input 'past/0'"):
        CalibrationData.open(tmp_path, Model.from_proto(two_inputs())).counts  # noqa: B018


def words(place):
    """A model of token numbers from 0 to 9."""
    nodes = [node("Gather", ["table", "ids"], ["e"]), node("MatMul", ["e", "w"], ["y"])]
    nodes.insert(0, node("Cast", ["number"], ["ids"], to=7))
    made = build(nodes, {"number": ["n", 4]}, {"y": ["n", 4, 3]}, {"table": normal(10, 8), "w": normal(8, 3)})
    onnx.save(made, place / "m.onnx")


@pytest.mark.parametrize("bad", [0, 5, 19])
@pytest.mark.parametrize("of", ["calibration", "evaluation"])
def test_the_sample_that_onnxruntime_cannot_run_is_named(bad, of, tmp_path):
    words(tmp_path)
    good = [{"number": np.full((1, 4), number % 10, np.float32)} for number in range(20)]
    some = [{"number": one["number"] + (97 if number == bad else 0)} for number, one in enumerate(good)]
    given = {"calibration": (some, good), "evaluation": (good, some)}[of]
    recipe = Recipe.build(
        "words", model={"path": tmp_path / "m.onnx"}, calibration={"data": given[0]}, passes=[InsertQDQ()],
        engine={"backend": "none"}, evaluation={"data": given[1]},
    )  # fmt: skip
    with pytest.raises((DataError, ModelError), match=f"sample {bad}\\b") as caught:
        run(recipe, out=tmp_path / "run")
    assert "onnxruntime cannot run the model on number" in str(caught.value)


def batch(rows):
    return Batch(
        {"x": rows},
        len(rows),
        ("one",),
        [f"f, sample {i}" for i in range(len(rows))],
        tuple(range(len(rows))),
        None,
        {"x": 0},
    )


def test_a_model_that_takes_no_sample_is_at_fault_itself():
    def refuses(inputs):
        raise ModelError("no kernel", where="m.onnx", remedy="none")

    with pytest.raises(ModelError, match=r"m\.onnx: no kernel\. None"):
        run_samples(batch(ROWS), refuses)
    with pytest.raises(ModelError, match=r"m\.onnx: no kernel \(f, sample 0\)"):
        run_samples(batch(ROWS[:1]), refuses)


def test_a_model_that_does_not_end_is_run_once():
    runs = []

    def endless(inputs):
        runs.append(inputs)
        raise EndlessLoopError("loop", "after 30 s", "m.onnx")

    with pytest.raises(EndlessLoopError):
        run_samples(batch(ROWS), endless)
    with pytest.raises(EndlessLoopError):
        run_samples(batch(ROWS[:1]), endless)
    assert len(runs) == 2


def test_what_fails_only_together_is_no_fault_of_a_sample():
    def crowded(inputs):
        if len(inputs["x"]) > 1:
            raise ModelError("out of memory")
        return {}

    with pytest.raises(ModelError, match=r"out of memory$"):
        run_samples(batch(ROWS), crowded)
