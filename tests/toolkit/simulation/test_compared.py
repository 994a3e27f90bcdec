"""What is known of the float model's outputs is computed once, and comparisons stay what they are."""

from __future__ import annotations

import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from toolkit.data.batch import Batch
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.comparison.outcome import compare
from toolkit.evaluation.numerics import ranks
from toolkit.evaluation.tasks.base import OutputPart
from toolkit.simulation.compared import ComparedOutputs

FEED = Batch({}, 1, (), [""], (0,), None)


@pytest.mark.parametrize("odd", [None, -np.inf, np.inf, np.nan, -1e9])
@pytest.mark.parametrize("task", ["ctc", "classification", "segmentation", ""])
def test_outputs_are_compared_as_if_nothing_was_known_of_the_float_model(task, odd):
    random = np.random.default_rng(0)
    shape = {"classification": (5, 40), "segmentation": (5, 40, 3, 4)}.get(task, (5, 12, 40))
    answers = Answers([OutputPart(task, ("y",), {"axis": 1} if task == "segmentation" else {})]) if task else None

    def outputs(noise: float) -> dict[str, np.ndarray]:
        values = (3 * wanted + noise * random.standard_normal(shape)).astype(np.float32)
        if odd is not None:
            values.reshape(-1)[::97] = odd
        return {"y": values}

    wanted = random.standard_normal(shape)
    floats = [outputs(0.0), outputs(0.0)]
    compared = ComparedOutputs([FEED] * 2, ["y"], answers=answers)
    compared.know(floats)
    for noise in (0.1, 1.0):
        for index in (0, 1, 0):
            found = outputs(noise)
            alone = compare({"y": floats[index]["y"].copy()}, found, ["y"], answers)
            assert repr(compared.of(index, found)) == repr(alone)
    # who is given them may still write to them
    assert all(one["y"].flags.writeable for one in floats)


def test_the_best_classes_of_the_float_model_are_found_once(monkeypatch):
    random, sizes, plain = np.random.default_rng(0), [], ranks.without_best
    monkeypatch.setattr(ranks, "without_best", lambda scores: (sizes.append(scores.size), plain(scores))[1])
    floats = [{"y": random.standard_normal((1, 30, 100)).astype(np.float32)}]
    compared = ComparedOutputs([FEED] * 2, ["y"], answers=Answers([OutputPart("ctc", ("y",))]))
    compared.know(floats)
    compared.of(0, floats[0])
    first = sum(sizes)
    compared.of(0, {"y": floats[0]["y"] + np.float32(0.01)})
    # only of the few positions that are looked at side by side
    assert first > 3 * 3000 and sum(sizes) - first < 3000


def test_a_batch_whose_class_has_all_of_the_probability_tells_less_than_others():
    scores = np.float32([[[9.0, -9.0]], [[0.5, 0.0]], [[0.0, 0.5]], [[-9.0, 9.0]]])
    shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    for name, values in (("y", scores), ("y", shares), ("other", shares)):
        compared = ComparedOutputs([FEED] * 4, ["y"])
        compared.know([{name: one} for one in values])
        told = compared.tellings()
        assert told == pytest.approx([0, 2, 2, 0], abs=1e-5)
    compared.know([{"other": one, "count": np.int64([3])} for one in scores])
    assert compared.tellings() == [1.0] * 4


@pytest.mark.parametrize("high", [1.0, 9.0])
def test_an_empty_output_of_a_batch_tells_nothing(high):
    batches = [np.float32([[0.1, 0.2 * high]]), np.zeros((0, 2), np.float32), np.float32([[0.1, 0.2 * high]])]
    compared = ComparedOutputs([FEED] * 3, ["y"])
    compared.know([{"y": one} for one in batches])
    assert compared.tellings() == pytest.approx([1.5, 0, 1.5])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
def test_how_much_batches_tell_is_found_in_the_memory_of_one(dtype):
    floats = [{"y": np.full((1, 1 << 18), 0.25 * (number % 2), dtype)} for number in range(32)]
    compared = ComparedOutputs([FEED] * 32, [])
    compared.know(floats)
    tracemalloc.start()
    told = compared.tellings()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert told == pytest.approx([0, 2] * 16) and peak < 8 * 8 * (1 << 18)
