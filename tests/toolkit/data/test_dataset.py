"""Bucketing into profiles, batching, parts and fingerprints."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toolkit.calibration.networks import chain, fixed, sentences
from toolkit.base.errors import DataError
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.base.types import Array
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.data.dataset import CalibrationData
from toolkit.data.mask import round_up


def width_profile(name: str, low: int, high: int, batch: int = 8) -> ShapeProfile:
    return ShapeProfile(name, {"x": Extent((1, 3, low), (1, 3, low), (batch, 3, high))})


SHORT_LONG = Profiles((width_profile("short", 2, 5, 4), width_profile("long", 7, 12, 2)))


def feed(width: int, value: float = 1.0) -> dict[str, Array]:
    return {"x": np.full((1, 3, width), value, np.float32)}


def test_samples_go_to_the_profile_they_fit() -> None:
    journal = Journal()
    profiles = Profiles((*SHORT_LONG, width_profile("wide", 20, 30)))
    data = CalibrationData.open([feed(w) for w in (2, 5, 7, 12, 3)], chain(), profiles, journal=journal)
    assert [s.profiles for s in data.samples()] == [("short",), ("short",), ("long",), ("long",), ("short",)]
    assert data.counts.per_profile == {"short": 3, "long": 2, "wide": 0}
    assert [e.why for e in journal] == [Code.EMPTY_PROFILE(profile="wide", data="the iterable")]


def test_without_profiles_everything_counts_for_default() -> None:
    data = CalibrationData.open([feed(4)], chain())
    assert [s.profiles for s in data.samples()] == [("default",)]


def test_profiles_that_differ_in_the_batch_share_samples() -> None:
    profiles = Profiles((width_profile("one", 2, 9, 1), width_profile("many", 2, 9, 6)))
    data = CalibrationData.open([feed(4)] * 9, chain(), profiles)
    batches = list(data.batches(8))
    assert [(b.count, b.profiles) for b in batches] == [(6, ("one", "many")), (3, ("one", "many"))]


def test_batches_have_equal_shapes_and_keep_to_the_profile() -> None:
    widths = [2, 7, 3, 7, 2, 2, 7, 3, 2, 2]
    data = CalibrationData.open([feed(w, i) for i, w in enumerate(widths)], chain(), SHORT_LONG)
    batches = list(data.batches(8))
    assert max(b.count for b in batches if "long" in b.profiles) == 2
    assert max(b.count for b in batches if "short" in b.profiles) == 4
    for batch in batches:
        assert batch.inputs["x"].shape == (batch.count, 3, widths[batch.indices[0]])
        assert [int(v) for v in batch.inputs["x"][:, 0, 0]] == list(batch.indices)
    assert sorted(i for b in batches for i in b.indices) == list(range(10))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 5), min_size=1, max_size=30), st.integers(1, 9))
def test_every_sample_is_in_one_batch(widths: list[int], size: int) -> None:
    data = CalibrationData.open([feed(w) for w in widths], chain())
    seen = Counter(i for batch in data.batches(size) for i in batch.indices)
    assert seen == Counter(range(len(widths)))
    assert all(batch.count <= size for batch in data.batches(size))


def test_the_window_of_waiting_samples_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.data.dataset._WINDOW_SAMPLES", 4)
    data = CalibrationData.open([feed(2 + i % 7) for i in range(40)], chain())
    assert sorted(i for b in data.batches(8) for i in b.indices) == list(range(40))


@pytest.mark.parametrize(
    ("outside", "widths", "count"),
    [("skip", [3, 8], "skipped"), ("pad", [3, 7, 8, 2], "padded"), ("crop", [3, 5, 8, 12], "cropped")],
)
def test_what_fits_nowhere(outside: str, widths: list[int], count: str) -> None:
    given_widths = {"skip": [3, 6, 8], "pad": [3, 6, 8, 1], "crop": [3, 6, 8, 14]}[outside]
    journal = Journal()
    data = CalibrationData.open([feed(w) for w in given_widths], chain(), SHORT_LONG, outside=outside, journal=journal)
    samples = list(data.samples())
    assert [s.inputs["x"].shape[2] for s in samples] == widths
    changed = len(given_widths) - len(widths) if outside == "skip" else 2
    assert getattr(data.counts, count) == changed
    assert [(e.rule, e.why.values["samples"]) for e in journal] == [(count, changed)]


def test_padding_is_zero_and_at_the_end() -> None:
    (sample,) = CalibrationData.open([feed(6)], chain(), SHORT_LONG, outside="pad").samples()
    assert sample.inputs["x"][0, 0].tolist() == [1, 1, 1, 1, 1, 1, 0]


def test_no_profile_within_reach_is_an_error() -> None:
    with pytest.raises(DataError, match=r"sample 0: 'x' \[1, 3, 13\] fits no profile"):
        CalibrationData.open([feed(13)], chain(), SHORT_LONG, outside="pad").counts  # noqa: B018


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_fixed_batch_takes_chunks_and_notes_the_rest(tmp_path: Path, batch: int) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(14, dtype=np.float32).reshape(7, 2), label=np.arange(7))
    journal = Journal()
    data = CalibrationData.open(tmp_path / "a.npz", fixed(batch), labels=True, journal=journal)
    batches = list(data.batches(4))
    assert [b.count for b in batches] == [1] * (7 // batch)
    assert batches[1].labels is not None
    assert batches[1].labels["label"].tolist() == list(range(batch, 2 * batch))
    assert data.counts.cut == 7 % batch
    assert [e.rule for e in journal] == (["cut"] if 7 % batch else [])


def test_rank_one_higher_is_a_sample_a_row(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((5, 3, 2), np.float32))
    data = CalibrationData.open(tmp_path / "a.npz", fixed(3))
    assert len(data) == 5
    assert [s.inputs["x"].shape for s in data.samples()] == [(3, 2)] * 5


def test_labels_come_with_their_samples_where_they_are_asked_for(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 3, 2), np.float32), label=np.array([7, 8, 9]))
    (batch,) = CalibrationData.open(tmp_path / "a.npz", chain(), labels=True).batches(4)
    assert batch.labels is not None
    assert batch.labels["label"].tolist() == [7, 8, 9]
    (batch,) = CalibrationData.open(tmp_path / "a.npz", chain()).batches(4)
    assert batch.labels is None


def test_ragged_labels_of_unlike_shape_do_not_share_a_batch(tmp_path: Path) -> None:
    arrays = {f"x/{i:05d}": np.zeros((1, 3, 4), np.float32) for i in range(3)}
    arrays |= {f"labels/{i:05d}": np.zeros((1, 2 + i // 2), np.int64) for i in range(3)}
    np.savez(tmp_path / "a.npz", **arrays)
    batches = list(CalibrationData.open(tmp_path / "a.npz", chain(), labels=True).batches(4))
    assert [b.count for b in batches] == [2, 1]


def test_split_is_disjoint_whole_and_deterministic() -> None:
    data = CalibrationData.open([feed(4, i) for i in range(50)], chain())
    for fraction in (0.1, 0.25, 0.5, 0.8):
        for seed in (0, 1, 5):
            kept, held = data.split(fraction, seed)
            a, b = ([s.index for s in part.samples()] for part in (kept, held))
            assert sorted(a + b) == list(range(50))
            assert len(held) == len(b) == pytest.approx(50 * fraction, abs=1)
            assert [s.index for s in data.split(fraction, seed)[1].samples()] == b
    assert {len(list(data.split(0.1, seed)[1].samples())) for seed in range(9)} <= {4, 5, 6}
    with pytest.raises(DataError, match=r"between 0 and 1"):
        data.split(1.0)


def test_spread_takes_samples_evenly_from_all_of_a_part() -> None:
    data = CalibrationData.open([feed(4, i) for i in range(40)], chain())
    held = data.split(0.25)[1]
    known = [s.index for s in held.samples()]
    assert [s.index for s in held.spread(5).samples()] == known[::2]
    assert held.spread(10) is held and held.spread(99) is held and len(held.spread(1)) == 1


@pytest.mark.parametrize("together", [1, 2, 3])
def test_of_a_part_too_at_most_as_many_are_taken_as_are_asked_for(together: int) -> None:
    data = CalibrationData.open([feed(4, i) for i in range(40)], chain())
    held = data.split(0.2, together=together)[1]
    for part in (data, held):
        known = [s.index for s in part.samples()]
        for count in range(1, len(known)):
            found = [s.index for s in part.spread(count, together).samples()]
            blocks = {index // together for index in found}
            # the last block of 40 samples is shorter than 3
            assert max(1, count - 2 * (together - 1)) <= len(found) <= max(count, together)
            assert found == [index for index in known if index // together in blocks]
            assert together > 1 or len(found) == count


@pytest.mark.parametrize("samples", [2, 3, 4, 5])
def test_of_a_few_samples_one_is_held_out(samples: int) -> None:
    data = CalibrationData.open([feed(4, i) for i in range(samples)], chain())
    kept, held = data.split(0.2)
    assert len(list(held.samples())) == 1 and len(list(kept.samples())) == samples - 1


@pytest.mark.parametrize("together", [2, 3])
def test_a_split_parts_no_samples_that_belong_together(together: int) -> None:
    data = CalibrationData.open([feed(4, i) for i in range(50)], chain())
    for fraction in (0.1, 0.25, 0.8):
        parts = [{s.index for s in part.samples()} for part in data.split(fraction, together=together)]
        blocks = [{index // together for index in part} for part in parts]
        assert set.union(*parts) == set(range(50)) and not set.intersection(*parts)
        assert not set.intersection(*blocks) and len(parts[1]) == pytest.approx(50 * fraction, abs=together)


def test_a_split_of_a_split_stays_disjoint() -> None:
    data = CalibrationData.open([feed(4, i) for i in range(40)], chain())
    first, held = data.split(0.25)
    second, held_too = first.split(0.5)
    parts = [{s.index for s in part.samples()} for part in (second, held_too, held)]
    assert sum(map(len, parts)) == 40
    assert set.union(*parts) == set(range(40))


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((6, 3, 4), np.float32)

    def of(array: Array, name: str = "a.npz") -> str:
        np.savez(tmp_path / name, x=array)
        return CalibrationData.open(tmp_path / name, chain()).fingerprint()

    first = of(values)
    assert of(values, "b.npz") == first
    assert of(values[::-1]) == first, "the order plays no part"
    assert of(values[:5]) != first
    assert of(np.concatenate([values, values[:1]])) != first
    changed = values.copy()
    changed[3, 1, 2] += 1e-3
    assert of(changed) != first
    as_feeds = CalibrationData.open([{"x": row[None]} for row in values], chain())
    assert as_feeds.fingerprint() == first, "the kind of source plays no part"


def test_values_that_survive_are_converted() -> None:
    data = CalibrationData.open([{"x": np.full((1, 3, 4), 0.1)}], chain())
    (sample,) = data.samples()
    assert sample.inputs["x"].dtype == np.float32
    ids = np.arange(4, dtype=np.int32)[None]
    (sample,) = CalibrationData.open([{"ids": ids, "mask": ids}], sentences()).samples()
    assert sample.inputs["ids"].dtype == np.int64


def test_a_mask_lets_unlike_lengths_share_a_batch() -> None:
    def sentence(length: int) -> dict[str, Array]:
        return {"ids": np.full((1, length), 5), "mask": np.ones((1, length), np.int64)}

    extent = Extent((1, 1), (1, 8), (8, 19))
    profiles = Profiles((ShapeProfile("all", {"ids": extent, "mask": extent}),))
    feeds = [sentence(n) for n in (9, 10, 13, 19, 18)]
    data = CalibrationData.open(feeds, sentences(), profiles, mask="mask")
    shapes = {b.indices: b.inputs["ids"].shape for b in data.batches(4)}
    assert shapes == {(0, 1): (2, 10), (2,): (1, 14), (3, 4): (2, 19)}
    for batch in data.batches(4):
        for row, index in enumerate(batch.indices):
            length = feeds[index]["ids"].shape[1]
            assert batch.inputs["mask"][row].tolist() == [1] * length + [0] * (batch.inputs["mask"].shape[1] - length)
    with pytest.raises(DataError, match=r"not an input of the model. Did you mean 'mask'"):
        CalibrationData.open(feeds, sentences(), profiles, mask="masks")


def test_rounding_up_pads_by_a_quarter_at_most() -> None:
    sizes = [round_up(n) for n in range(1, 600)]
    assert all(n <= size <= 1.25 * n for n, size in enumerate(sizes, start=1))
    assert sizes == sorted(sizes)
    assert len(set(sizes)) < 40


@pytest.mark.parametrize("count", [0, -2])
def test_a_number_of_samples_below_one_is_refused(count: int) -> None:
    data = CalibrationData.open([feed(3), feed(3)], chain(), Profiles())
    for ask in (data.first, data.spread, lambda size: next(data.batches(size))):
        with pytest.raises(DataError, match=f"{count} samples are requested. Ask for 1 or more"):
            ask(count)
