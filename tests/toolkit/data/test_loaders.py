"""Loaders that do not end, that yield others each time, and data sets that are only indexed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import MODELS
from tests.toolkit.calibration.networks import chain, model
from toolkit.base.errors import DataError
from toolkit.base.types import Array
from toolkit.cli.main import invoke
from toolkit.data import loaders
from toolkit.data.codes import DataCode
from toolkit.data.dataset import CalibrationData
from toolkit.data.sample import input_specs
from toolkit.data.sources import HeldSamples, LoadedSamples, open_source
from toolkit.run.inputs import fingerprints

VALUES = np.random.default_rng(0).standard_normal((6, 3, 4), np.float32)


def unending() -> Iterator[dict[str, Array]]:
    for number in count():
        yield {"x": np.full((1, 3, 4), number, np.float32)}


class Items:
    """A data set as torch's map-style ones are: it has no ``__iter__``."""

    def __init__(self, values: Any = VALUES, key: str = "x", **labels: Any) -> None:
        self._values, self._key, self._labels = values, key, labels

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> Any:
        return {self._key: self._values[index], **{name: values[index] for name, values in self._labels.items()}}


def read(source: Any, **settings: Any) -> list[Array]:
    return [sample.inputs["x"] for sample in CalibrationData.open(source, chain(), **settings).samples()]


@pytest.mark.parametrize("once", [False, True])
def test_a_loader_that_never_ends_is_refused_with_a_remedy(once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    source = unending() if once else unending
    monkeypatch.setattr(loaders, "MOST_SAMPLES", 50)
    with pytest.raises(DataError, match=r"it has not ended after 50 samples.*islice.* or set samples"):
        read(source)
    with pytest.raises(DataError, match="it has not ended after 50 samples"):
        len(CalibrationData.open(source, chain()))


def test_one_that_says_how_many_it_has_may_have_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "MOST_SAMPLES", 5)
    assert len(read([{"x": row[None]} for row in VALUES])) == 6
    assert len(read(Items())) == 6


def test_an_iterator_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "most_held", lambda: 10 * 48)
    monkeypatch.setattr(fingerprints, "most_held", lambda: 10 * 48)
    with pytest.raises(DataError, match=r"after 11 samples, which take .* Give a function that returns the iterator"):
        read(unending())
    with pytest.raises(DataError, match=r"after 11 samples, which take .* Give a function that returns the iterator"):
        fingerprints.samples_read(unending(), "code")
    assert len(read(islice(unending(), 10))) == 10


@pytest.mark.parametrize("memory", [0, 1 << 20])
@pytest.mark.parametrize("once", [False, True])
def test_samples_takes_the_first_of_a_loader_that_never_ends(
    once: bool, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = unending() if once else unending
    monkeypatch.setattr(fingerprints, "_LOOKED", 40)
    monkeypatch.setattr(fingerprints, "_HELD_BYTES", memory)
    found = fingerprints.samples_read(source, "code", 7)
    assert found.notes == (DataCode.LOADER_CUT(data="code", read=40, used=7),)
    assert isinstance(found.samples, LoadedSamples if memory == 0 and not once else HeldSamples)
    for _ in range(2):
        assert [int(values[0, 0, 0]) for values in read(found.samples)] == list(range(7))
    # one that ends is read whole, and as the same samples have the same fingerprint
    whole = fingerprints.samples_read(lambda: islice(unending(), 40), "code", 7)
    assert not whole.notes and len(read(whole.samples)) == 40
    assert found.print == fingerprints.samples_read(lambda: islice(unending(), 7), "code").print


@pytest.mark.parametrize("wanted", [1, 2, 60])
def test_samples_bounds_a_loader_that_never_ends_whatever_their_number(
    wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints, "_LOOKED", 40)
    monkeypatch.setattr(loaders, "MOST_SAMPLES", 200)
    found = fingerprints.samples_read(unending, "code", wanted)
    assert found.notes == (DataCode.LOADER_CUT(data="code", read=max(wanted, 40), used=wanted),), "it is steady"
    assert len(read(found.samples)) == wanted


class Stream:
    """As torch's DataLoader of an IterableDataset, without batches: it has a ``__len__``, which has nothing to say."""

    def __len__(self) -> int:
        raise TypeError("object of type 'Numbers' has no len()")

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return islice(unending(), 5)


def test_a_length_that_is_not_to_be_had_is_counted() -> None:
    assert len(CalibrationData.open(Stream(), chain())) == len(read(Stream())) == 5
    assert not fingerprints.samples_read(Stream(), "code").notes


def test_reading_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "_LOOKED", 100)
    told: list[tuple[str, str, int]] = []

    def hear(what: Any, done: int, total: int) -> None:
        told.append((what, what.part, done))

    fingerprints.samples_read(lambda: islice(unending(), 150), "code", progress=hear)
    assert {what for what, _, _ in told} == {"reading the samples of code"}
    assert [(part, done) for _, part, done in told] == [
        ("0", 0), ("64", 0), ("128, no end so far", 0), ("150, no end so far", 1)
    ]  # fmt: skip


def test_samples_that_differ_in_a_second_reading_are_said_to() -> None:
    random = np.random.default_rng(0)

    def augmented() -> Iterator[dict[str, Array]]:
        for row in VALUES:
            yield {"x": row[None] + random.standard_normal(row.shape).astype("f4")}

    def shuffled() -> Iterator[dict[str, Array]]:
        for index in random.permutation(6):
            yield {"x": VALUES[index][None]}

    def steady() -> Iterator[dict[str, Array]]:
        again = np.random.default_rng(3)
        for index in again.permutation(6):
            yield {"x": VALUES[index][None]}

    unsteady = (DataCode.UNSTEADY(data="code"),)
    assert fingerprints.samples_read(augmented, "code").notes == unsteady
    assert fingerprints.samples_read(shuffled, "code").notes == unsteady
    assert fingerprints.samples_read(steady, "code").notes == ()
    assert fingerprints.samples_read(steady(), "code").notes == ()
    rest = iter([{"x": row[None]} for row in VALUES])
    assert fingerprints.samples_read(lambda: rest, "code").notes == (), "there is no second reading"


def test_a_data_set_that_is_only_indexed_is_read_as_a_loader_would() -> None:
    assert np.array_equal(np.concatenate(read(Items())), VALUES)
    assert np.array_equal(np.concatenate(read(Items(VALUES[:, None]))), VALUES), "with the axis of samples"
    assert np.array_equal(np.concatenate(read(lambda: Items())), VALUES)
    assert np.array_equal(np.concatenate(read(Items)), VALUES)
    held = fingerprints.samples_read(Items(), "code").samples
    assert np.array_equal(np.concatenate(read(held)), VALUES)
    assert len(CalibrationData.open(Items(), chain())) == 6
    masks = np.arange(6 * 8).reshape(6, 2, 4)
    labelled = CalibrationData.open(Items(labels=masks), chain(), labels=True)
    assert [sample.labels["labels"].shape for sample in labelled.samples()] == [(1, 2, 4)] * 6


class Rows(Items):
    """A data set that is iterated too, as those of Hugging Face are; its rows may be lists of numbers."""

    def __iter__(self) -> Iterator[Any]:
        return ({name: value.tolist() for name, value in self[index].items()} for index in range(len(self)))


def bare() -> Iterator[dict[str, Array]]:
    return ({"x": row} for row in VALUES)


@pytest.mark.parametrize("source", [Rows(), Rows, bare, list(bare())])
@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_samples_without_their_axis_get_it_whatever_yields_them(
    source: Any, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a data set that can also be iterated were refused, and those of one that is read again had no shapes."""
    monkeypatch.setattr(fingerprints, "_HELD_BYTES", memory)
    held = fingerprints.samples_read(source, "code").samples
    data = CalibrationData.open(held, chain())
    assert np.array_equal(np.concatenate([sample.inputs["x"] for sample in data.samples()]), VALUES)
    _, opened = open_source(held, input_specs(chain()), (), Path(), False, None, None)
    assert [shapes["x"] for shapes in opened.shapes()] == [(1, 3, 4)] * 6
    # an input that has the axis shows that nothing lacks it
    with pytest.raises(DataError, match=r"input 'b': shape \[4\] has rank 1"):
        two = model("g (float[n, 4] a, float[n, 4] b) => (float[n, 4] y) { y = Add(a, b) }")
        list(CalibrationData.open([{"a": np.ones((1, 4), np.float32), "b": np.ones(4, np.float32)}], two).samples())


def test_a_batch_of_one_is_added_where_the_model_has_it_fixed() -> None:
    fixed = model("g (float[1, 3, 4] x, float[2] scale) => (float[1, 3, 4] y) { y = Relu(x) }")
    scales = np.ones((6, 2), np.float32)
    samples = list(CalibrationData.open(Items(VALUES, scale=scales), fixed).samples())
    assert [sample.inputs["x"].shape for sample in samples] == [(1, 3, 4)] * 6
    assert [sample.inputs["scale"].shape for sample in samples] == [(2,)] * 6


class Broken(Items):
    """It fails in the middle, in a way that would end a loop by index in silence."""

    def __getitem__(self, index: int) -> Any:
        if index == 3:
            raise IndexError("index 3 is out of bounds")
        return super().__getitem__(index)


class Pairs(Items):
    """Most data sets of torchvision give a sample and its label."""

    def __getitem__(self, index: int) -> Any:
        return self._values[index], 0


class Endless:
    """It does not say how many it has."""

    def __getitem__(self, index: int) -> Any:
        return {"x": VALUES[index % 6]}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Broken(), "the iterable failed at sample 3: .*index 3 is out of bounds"),
        (Pairs(), "the iterable, sample 0: a sample is of type tuple. Give dictionaries from input names to arrays"),
        (Items(key="y"), "the iterable, sample 0: 'y' is neither an input of the model"),
        (Items(VALUES[:, 0]), r"the iterable, sample 0, input 'x': shape \[4\] has rank 1"),
        (Endless(), "the data are of type Endless, which has __getitem__ but no __len__. Give a list"),
    ],
)
def test_what_is_wrong_with_a_data_set_names_the_place(source: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(source)


def steady() -> Iterator[dict[str, Array]]:
    values = np.random.default_rng(0).random((100, 1, 1, 8, 8), np.float32)
    return ({"image": row} for row in values)


def test_check_tells_how_many_samples_code_has_yielded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.base.progress._EVERY", 0.0)
    (tmp_path / "recipe.toml").write_text(
        f'[model]\npath = "{MODELS / "digits_cnn.onnx"}"\n[calibration]\ndata = "{__name__}:steady"\n'
        '[[pass]]\nuse = "insert_qdq"\n[engine]\nbackend = "none"\n'
    )
    assert invoke(["check", str(tmp_path / "recipe.toml"), "--allow-code"]) == 0
    said = capsys.readouterr().err
    assert f"reading the samples of {__name__}:steady (0), 0 s" in said and f"{__name__}:steady (64)" in said
