"""Loaders that give batches: each row is a sample where the model computes it by itself, and else the batch is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from tests.conftest import said
from tests.toolkit.calibration.networks import model
from toolkit.base.errors import DataError
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.base.types import Array
from toolkit.contract.journal import Journal
from toolkit.data.codes import DataCode
from toolkit.data.dataset import CalibrationData
from toolkit.data.sources import LoadedSamples
from toolkit.graph.interface.batch_probe import batch_fault, rows_are_independent
from toolkit.graph.model import Model
from toolkit.run.inputs import fingerprints

VALUES = np.random.default_rng(0).standard_normal((20, 4), np.float32)
LABELS = np.arange(20)


def network(dimension: str = "batch", body: str = "y = Relu(x)", output: str = "") -> Model:
    return model(f"g (float[{dimension}, 4] x) => (float[{output or dimension}, 4] y) {{ {body} }}")


def batches(*sizes: int, label: Callable[[int, int], Array] | None = None) -> Iterator[dict[str, Array]]:
    start = 0
    for size in sizes:
        end = start + size
        labels = {"label": label(start, end)} if label is not None else {}
        yield {"x": VALUES[start:end], **labels}
        start = end


@pytest.mark.parametrize("dimension", ["batch", "N", "batch_size", "?", "s0", "unk__12", "x_dynamic_axes_1"])
@pytest.mark.parametrize("sizes", [(8, 8, 4), (8, 1, 8, 3), (20,)])
def test_rows_of_batches_are_samples(dimension: str, sizes: Sequence[int]) -> None:
    journal = Journal()
    rows = lambda start, end: LABELS[start:end]  # noqa: E731
    source = lambda: batches(*sizes, label=rows)  # noqa: E731
    data = CalibrationData.open(source, network(dimension), labels=True, journal=journal)
    assert len(data) == 20
    found = list(data.samples())
    assert np.array_equal(np.concatenate([one.inputs["x"] for one in found]), VALUES)
    assert [one.labels["label"].tolist() for one in found] == [[i] for i in range(20)]
    assert [one.index for one in found] == list(range(20))
    assert said(journal, DataCode.ROWS_APART) == [{"items": len(sizes), "rows": 20, "data": "the iterable"}]


def test_parts_of_batches_are_disjoint_and_read_in_part() -> None:
    data = CalibrationData.open(lambda: batches(8, 8, 4), network())
    calibration, held_out = data.split(0.2)
    indices = [[one.index for one in part.samples()] for part in (calibration, held_out)]
    assert len(indices[1]) == 4 and sorted([*indices[0], *indices[1]]) == list(range(20))
    assert [one.index for one in data.first(9).samples()] == list(range(9))
    assert len(list(data.batches(5))) == 4


@pytest.mark.parametrize(
    ("dimension", "body", "output", "why"),
    [
        ("points", "y = Relu(x)", "", "the dimension is called after something else"),
        ("batch", "y = Softmax<axis = 0>(x)", "", "rows are weighed against each other"),
        ("N", "y = ReduceMax<axes = [0], keepdims = 1>(x)", "1", "all rows give one answer"),
        ("batch", "turned = Transpose<perm = [1, 0]>(x) y = MatMul(x, turned)", "", "each row against each other"),
    ],
)
def test_rows_that_are_not_certain_to_be_samples_stay_together(
    dimension: str, body: str, output: str, why: str
) -> None:
    text = network(dimension, body, output) if "MatMul" not in body else model(
        f"g (float[{dimension}, 4] x) => (float[{dimension}, {dimension}] y) {{ {body} }}"
    )  # fmt: skip
    journal = Journal()
    data = CalibrationData.open(lambda: batches(8, 8, 4), text, journal=journal)
    assert [len(one.inputs["x"]) for one in data.samples()] == [8, 8, 4], why
    assert len(data) == 3 and not said(journal, DataCode.ROWS_APART)


@pytest.mark.parametrize("sizes", [(1, 8, 8, 3), (1, 1, 1, 8, 9), (*[1] * 15, 5)])
@pytest.mark.parametrize("first", ["len", "read", "part"])
def test_a_first_batch_of_one_row_decides_nothing(sizes: Sequence[int], first: str) -> None:
    data = CalibrationData.open(lambda: batches(*sizes), network())
    if first == "len":
        assert len(data) == 20
    if first == "part":
        assert [one.index for one in data.part(lambda index: index in (0, 17), "part").samples()] == [0, 17]
    found = list(data.samples())
    assert np.array_equal(np.concatenate([one.inputs["x"] for one in found]), VALUES)
    assert [one.index for one in found] == list(range(20)) and len(data) == 20


def test_rows_of_one_value_first_are_taken_apart_with_the_others() -> None:
    rows = lambda: iter([{"x": np.zeros((4, 4), np.float32)}, {"x": VALUES[:8]}])  # noqa: E731
    assert [len(one.inputs["x"]) for one in CalibrationData.open(rows, network()).samples()] == [1] * 12


def test_a_batch_after_many_single_rows_is_refused_where_its_rows_may_be_samples() -> None:
    sizes = (*[1] * 16, 4)
    mean = "m = ReduceMean<axes = [0], keepdims = 1>(x) y = Add(x, m)"
    assert [
        len(one.inputs["x"]) for one in CalibrationData.open(lambda: batches(*sizes), network(body=mean)).samples()
    ] == [*sizes]
    with pytest.raises(DataError, match="sample 16: it holds 4 rows, and each of the first 16 items one"):
        list(CalibrationData.open(lambda: batches(*sizes), network()).samples())


def after_constants(*sizes: int) -> Iterator[dict[str, Array]]:
    """Batches of rows of one value, of these sizes, and then one of four rows that differ."""
    yield from ({"x": np.full((size, 4), number, np.float32)} for number, size in enumerate(sizes))
    yield {"x": VALUES[:4]}


@pytest.mark.parametrize("sizes", [[4] * 16, [1] * 15 + [4], [1] * 16 + [4]], ids=["all", "the 16th", "the 17th"])
def test_rows_of_one_value_do_not_settle_for_good_that_a_batch_is_a_sample(sizes: list[int]) -> None:
    mean = "m = ReduceMean<axes = [0], keepdims = 1>(x) y = Add(x, m)"
    together = CalibrationData.open(lambda: after_constants(*sizes), network(body=mean))
    assert [len(one.inputs["x"]) for one in together.samples()] == [*sizes, 4]
    assert together.rows_as_samples() is None
    with pytest.raises(DataError, match=f"sample {len(sizes)}: it holds 4 rows, and each of the first 16 items one"):
        list(CalibrationData.open(lambda: after_constants(*sizes), network()).samples())


def test_where_rows_of_one_value_are_all_there_is_it_is_said_that_nothing_shows_what_a_sample_is() -> None:
    rows = lambda: iter([{"x": np.zeros((4, 4), np.float32)}, {"x": np.ones((4, 4), np.float32)}])  # noqa: E731
    journal = Journal()
    data = CalibrationData.open(rows, network(), journal=journal)
    assert [len(one.inputs["x"]) for one in data.samples()] == [4, 4]
    assert said(journal, DataCode.ROWS_UNDECIDED) == [{"items": 2, "data": "the iterable"}]
    alone = CalibrationData.open(lambda: iter([{"x": np.zeros((1, 4), np.float32)}] * 2), network())
    assert len(list(alone.samples())) == 2 and alone.rows_as_samples() is None


FLIPS = "h = MatMul(x, w) y = ArgMax<axis = 1, keepdims = 0>(h)"
CENTRED = (
    "m = ReduceMean<axes = [0], keepdims = 1>(x) d = Sub(x, m) h = MatMul(d, w) y = ArgMax<axis = 1, keepdims = 0>(h)"
)


def classes(body: str, dimension: str = "batch") -> Model:
    # every row is of class 0 by itself and beside others, so that the classes show nothing
    weights = "{" + ", ".join(["9", "0"] * 4) + "}"
    return model(f"g (float[{dimension}, 4] x) => (int64[{dimension}] y) <float[4, 2] w = {weights}> {{ {body} }}")


@pytest.mark.parametrize(("body", "rows"), [(FLIPS, [1] * 20), (CENTRED, [8, 8, 4])])
def test_integer_outputs_are_told_by_the_floats_they_come_from(body: str, rows: list[int]) -> None:
    data = CalibrationData.open(lambda: batches(8, 8, 4), classes(body))
    assert [len(one.inputs["x"]) for one in data.samples()] == rows


def test_a_batch_whose_classes_hang_on_each_other_is_a_fault_whatever_their_number() -> None:
    samples = [{"x": VALUES[:1]}, {"x": VALUES[1:2]}]
    assert batch_fault(classes(FLIPS), {"x": 0}, samples) is None
    found = batch_fault(classes(CENTRED), {"x": 0}, samples)
    assert found is not None and found.op == "ReduceMean" and found.runs


def test_integers_that_no_float_decides_are_held_against_each_other() -> None:
    ids = np.random.default_rng(3).integers(0, 50, (20, 4))
    text = "g (int64[batch, 4] ids) => (int64[batch, 4] y) { %s }"
    each = model(text % "one = Constant<value_int = 1>() y = Add(ids, one)")
    among = model(text % "m = ReduceMax<axes = [0], keepdims = 1>(ids) y = Sub(m, ids)")
    lengths = [[len(one.inputs["ids"]) for one in CalibrationData.open([{"ids": ids[:8]}, {"ids": ids[8:]}], net).samples()]
               for net in (each, among)]  # fmt: skip
    assert lengths == [[1] * 20, [8, 12]]


def test_rows_of_one_value_do_not_show_that_they_are_samples() -> None:
    rows = lambda: iter([{"x": np.zeros((4, 4), np.float32)}, {"x": VALUES[:8]}])  # noqa: E731
    less_mean = "mean = ReduceMean<axes = [0], keepdims = 1>(x) y = Sub(x, mean)"
    assert [len(one.inputs["x"]) for one in CalibrationData.open(rows, network(body=less_mean)).samples()] == [4, 8]


def test_an_output_of_all_rows_beside_one_of_each_keeps_them_together() -> None:
    two = model(
        "g (float[N, 4] x) => (float[N, 4] y, float[1, 4] z) { y = Relu(x) z = ReduceMean<axes = [0], keepdims = 1>(x) }"
    )
    assert len(CalibrationData.open(lambda: batches(8, 8, 4), two)) == 3


def test_labels_that_are_not_one_a_row_keep_a_batch_together() -> None:
    boxes = lambda start, end: np.zeros((3, 5))  # noqa: E731
    assert len(CalibrationData.open(lambda: batches(8, 8, 4, label=boxes), network(), labels=True)) == 3


def test_equal_rows_do_not_hide_that_a_model_mixes_them() -> None:
    mean = network(body="m = ReduceMean<axes = [0], keepdims = 1>(x) y = Add(x, m)")
    same = [{"x": np.repeat(VALUES[:1], 8, axis=0)}] * 3
    assert [len(one.inputs["x"]) for one in CalibrationData.open(same, mean).samples()] == [8, 8, 8]


def test_rows_lie_along_the_axis_that_the_model_names(tmp_path: Path) -> None:
    two = model(
        "g (float[batch, 4] x, float[2, batch, 3] state) => (float[batch, 4] y, float[2, batch, 3] next)"
        " { y = Relu(x) next = Tanh(state) }"
    )
    states = np.random.default_rng(1).standard_normal((2, 20, 3), np.float32)
    # files of numbered batches are no different
    np.savez(tmp_path / "a.npz", **{f"x/{i}": VALUES[10 * i : 10 * i + 10] for i in range(2)},
             **{f"state/{i}": states[:, 10 * i : 10 * i + 10] for i in range(2)})  # fmt: skip
    found = list(CalibrationData.open(tmp_path / "a.npz", two).samples())
    assert np.array_equal(np.concatenate([one.inputs["state"] for one in found], axis=1), states)


def test_a_fixed_batch_stays_a_sample() -> None:
    assert len(CalibrationData.open(lambda: batches(8, 8), network("8"))) == 2


def test_profiles_fit_rows_whatever_batch_they_want() -> None:
    profiles = Profiles((ShapeProfile("eights", {"x": Extent((8, 4), (8, 4), (16, 4))}),))
    data = CalibrationData.open(lambda: batches(8, 8, 4), network(), profiles)
    assert [batch.count for batch in data.batches(8)] == [8, 8, 4]


def test_the_model_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        "toolkit.graph.interface.batch_probe._all_apart", lambda apart, together: asked.append(len(apart)) or True
    )
    settled = network().settle()
    for _ in range(3):
        assert len(CalibrationData.open(lambda: batches(8, 8, 4), settled)) == 20
    assert asked == [2]


def test_what_does_not_run_is_not_certain() -> None:
    broken = model("g (float[batch, 4] x) => (float[batch, 5] y) <float[3, 5] w> { y = MatMul(x, w) }")
    assert not rows_are_independent(broken, {"x": 0}, [{"x": VALUES[:1]}, {"x": VALUES[1:2]}])


SUM = "s = ReduceSum<keepdims = 1>(x, zero) y = Add(x, s)"


def graphs(tmp_path: Path, kind: str, sizes: Sequence[int]) -> Any:
    """Nodes of graphs of these sizes, from an archive, from files, from memory or from code that a run has read."""
    ends = np.cumsum([0, *sizes])
    values = np.random.default_rng(1).standard_normal((ends[-1], 4), np.float32)
    parts = [values[a:b] for a, b in pairwise(ends)]
    if kind == "archive":
        np.savez(tmp_path / "graphs.npz", **{f"x/{i:05d}": part for i, part in enumerate(parts)})
        return tmp_path / "graphs.npz"
    if kind == "files":
        for index, part in enumerate(parts):
            np.save(tmp_path / f"x.{index:05d}.npy", part)
        return tmp_path
    feeds = [{"x": part} for part in parts]
    if kind == "memory":
        return feeds
    with patch.object(fingerprints, "_HELD_BYTES", 0):
        read = fingerprints.samples_read(lambda: iter(feeds), "code").samples
    assert isinstance(read, LoadedSamples)
    return read


@pytest.mark.parametrize("kind", ["archive", "memory", "code"])
@pytest.mark.parametrize("dimension", ["N", "?", "nodes"])
def test_graphs_of_one_node_are_no_rows_where_later_ones_have_several(
    tmp_path: Path, kind: str, dimension: str
) -> None:
    """The first 16 say nothing: what is after them tells that the rows of an item are one sample."""
    sizes = [1] * 20 + [5, 3, 1, 1, 2]
    net = model(f"g (float[{dimension}, 4] x) => (float[{dimension}, 4] y) <int64[1] zero = {{0}}> {{ {SUM} }}")
    data = CalibrationData.open(graphs(tmp_path, kind, sizes), net)
    assert not data.can_batch
    assert [one.count for one in data.batches(8)] == [1] * len(sizes)
    assert [len(one.inputs["x"]) for one in data.samples()] == sizes


@pytest.mark.parametrize("kind", ["archive", "memory", "code"])
def test_items_of_one_row_alone_are_joined_still(tmp_path: Path, kind: str) -> None:
    data = CalibrationData.open(graphs(tmp_path, kind, [1] * 20), network())
    assert data.can_batch and [one.count for one in data.batches(8)] == [8, 8, 4]


@pytest.mark.parametrize("stacked", ["rows", "items"])
def test_arrays_tell_by_their_headers_how_many_rows_an_item_has(tmp_path: Path, stacked: str) -> None:
    values = np.random.default_rng(1).standard_normal((20, 1, 4) if stacked == "items" else (20, 4), np.float32)
    np.savez(tmp_path / "whole.npz", x=values)
    data = CalibrationData.open(tmp_path / "whole.npz", network())
    assert data.can_batch and len(data) == 20
    assert list(data._source.shapes()) == [{"x": (1, 4)}] * 20


def test_a_batch_after_many_single_rows_stays_refused(tmp_path: Path) -> None:
    data = CalibrationData.open(graphs(tmp_path, "archive", [1] * 16 + [4]), network())
    assert data.can_batch
    with pytest.raises(DataError, match="sample 16: it holds 4 rows"):
        list(data.samples())


def test_graphs_of_one_node_before_larger_ones_are_never_joined() -> None:
    """In the first pass over a loader as in all: nothing says the shapes of what it has not yet yielded."""
    mean = network(body="m = ReduceMean<axes = [0], keepdims = 1>(x) y = Sub(x, m)")
    sizes = (*[1] * 17, 3)
    data = CalibrationData.open(lambda: batches(*sizes), mean)
    assert [[len(one.inputs["x"]) for one in data.batches(8)] for _ in range(2)] == [[*sizes]] * 2
    # those of a model that computes each row by itself may be joined
    single = CalibrationData.open(lambda: batches(*[1] * 20), network())
    assert [len(one.inputs["x"]) for one in single.batches(8)] == [8, 8, 4]
