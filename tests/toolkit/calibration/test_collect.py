"""Collecting: nothing but the samples decides the result."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from threading import Lock
from time import sleep
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toolkit.calibration.networks import chain, model, sentences
from toolkit.base.errors import DataError, RangesError
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.base.types import Array
from toolkit.calibration import probes
from toolkit.calibration.collect import collect
from toolkit.calibration.collection import Collection, merge_all
from toolkit.calibration.histogram import Histogram
from toolkit.calibration.tapped import Tapped, TappedSession
from toolkit.data.dataset import Batch, CalibrationData
from toolkit.graph.model import Model

TAPS = ["x", "doubled", "moved", "kept", "y"]
CHAIN = chain()


def width_profile(name: str, low: int, high: int) -> ShapeProfile:
    return ShapeProfile(name, {"x": Extent((1, 3, low), (1, 3, low), (8, 3, high))})


PROFILES = Profiles((width_profile("short", 2, 5), width_profile("long", 6, 9), width_profile("long twin", 6, 9)))


def feeds(widths: list[int], seed: int = 0) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [{"x": (rng.standard_normal((1, 3, w)) * 10.0 ** rng.integers(-3, 4)).astype(np.float32)} for w in widths]


def data_of(samples: Any, of: Model = CHAIN, profiles: Profiles = PROFILES) -> CalibrationData:
    return CalibrationData.open(samples, of, profiles)


def same(a: Collection, b: Collection) -> bool:
    return (a.histograms, a.observed, a.infinite, a.samples, a.made_from, a.same) == (
        b.histograms, b.observed, b.infinite, b.samples, b.made_from, b.same,
    )  # fmt: skip


@pytest.mark.parametrize("of", [1, 2])
def test_inputs_that_are_the_same_in_all_samples_are_known(of: int) -> None:
    network = sentences()

    def found(samples: list[dict[str, Array]]) -> list[str]:
        parts = [collect(network, ["y"], data_of(samples, network, Profiles()), shard=(i, of), batch=3)
                 for i in range(1, of + 1)]  # fmt: skip
        return [name for name, digest in merge_all(parts).same.items() if digest]

    ids, mask = np.arange(4)[None], np.ones((1, 4), np.int64)
    assert found([{"ids": ids, "mask": mask}] * 7) == ["ids", "mask"]
    assert found([{"ids": ids + (i == 4), "mask": mask} for i in range(7)]) == ["mask"]
    assert found([{"ids": ids, "mask": mask}] * 6 + [{"ids": ids[:, :3], "mask": mask[:, :3]}]) == []


def test_equals_numpy_sample_by_sample() -> None:
    samples = feeds([2, 3, 6, 9, 5])
    found = collect(CHAIN, TAPS, data_of(samples), PROFILES, scalars=["low"], bins=256)
    expected = {name: {"short": Histogram(256), "long": Histogram(256)} for name in TAPS}
    low = []
    for sample in samples:
        x = sample["x"]
        moved = x + np.array([-1, 0, 4], np.float32)[:, None]
        kept = np.maximum(moved, 0)
        low.append(-kept)
        group = "short" if x.shape[2] <= 5 else "long"
        for name, value in (("x", x), ("doubled", x * 2), ("moved", moved), ("kept", kept), ("y", x * 2 - kept)):
            expected[name][group].add(value)
    for name in TAPS:
        assert found.total(name, "short") == expected[name]["short"]
        assert found.total(name, "long") == found.total(name, "long twin") == expected[name]["long"]
        expected[name]["short"].merge(expected[name]["long"])
        assert found.total(name) == expected[name]["short"], "a sample that two profiles share counts once"
    assert found.observed == {"low": (min(v.min() for v in low), max(v.max() for v in low) + 0.0)}
    assert found.samples == {("short",): 3, ("long", "long twin"): 2}
    assert (found.samples_of("short"), found.samples_of("long twin")) == (3, 2)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(2, 9), min_size=3, max_size=12), st.integers(1, 5), st.integers(1, 4), st.randoms())
def test_order_batch_shards_and_memory_change_nothing(widths: list[int], batch: int, of: int, random: Any) -> None:
    samples = feeds(widths)
    plain = collect(CHAIN, TAPS, data_of(samples), scalars=["low"], bins=256, batch=1)
    shuffled = list(samples)
    random.shuffle(shuffled)
    assert same(plain, collect(CHAIN, TAPS, data_of(shuffled), scalars=["low"], bins=256, batch=batch))
    assert same(plain, collect(CHAIN, TAPS, data_of(samples), scalars=["low"], bins=256, batch=batch, memory=64))
    parts = []
    for part in range(1, min(of, len(samples)) + 1):
        shard = (part, min(of, len(samples)))
        parts.append(collect(CHAIN, TAPS, data_of(samples), scalars=["low"], bins=256, batch=batch, shard=shard))
    random.shuffle(parts)
    merged = merge_all(parts)
    assert merged.missing_parts == []
    merged.made_from["shards"] = [[1, 1]]
    assert same(plain, merged)


@pytest.mark.parametrize(("held_out", "of"), [(0.2, 5), (0.2, 10), (0.5, 2), (0.25, 40)])
def test_shards_share_what_is_not_held_out_evenly_and_are_merged(held_out: float, of: int, tmp_path: Path) -> None:
    """Samples that are held out were all those of one shard: both are every n-th. Some of 40 shards have none."""
    data = data_of(feeds([2, 6, 8] * 10)).split(held_out)[0]
    plain = collect(CHAIN, TAPS, data, scalars=["low"])
    parts = []
    for part in range(1, of + 1):
        collect(CHAIN, TAPS, data, scalars=["low"], shard=(part, of), checkpoint=tmp_path / "p").save(
            tmp_path / "a.npz"
        )
        parts.append(Collection.load(tmp_path / "a.npz"))
    sizes = [sum(one.samples.values()) for one in parts]
    assert sum(sizes) == len(data) and max(sizes) - min(sizes) <= 1 and (min(sizes) == 0) is (of > len(data))
    merged = merge_all(parts)
    assert merged.missing_parts == []
    merged.made_from["shards"] = [[1, 1]]
    assert same(plain, merged)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[int]]:
    """The samples of each batch, and how many batches were under way when it began, itself among them."""
    counts, under_way = list[int](), list[int]()
    now, lock, real = [0], Lock(), TappedSession.compute

    def compute(self: TappedSession, batch: Any, into: Any) -> Any:
        with lock:
            now[0] += 1
            counts.append(batch.count)
            under_way.append(now[0])
        sleep(0.02)
        made = real(self, batch, into)
        with lock:
            now[0] -= 1
        return made

    monkeypatch.setattr(TappedSession, "compute", compute)
    return counts, under_way


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_batches_are_the_same_on_any_number_of_cores(threads: int, computed: tuple[list[int], list[int]]) -> None:
    samples = feeds([9] * 23)
    found = collect(CHAIN, TAPS, data_of(samples), batch=8, memory=len(TAPS) * 4 * 27 * 20, threads=threads)
    assert sorted(computed[0], reverse=True) == [5, 5, 5, 5, 3]
    assert max(computed[1]) <= min(threads, 4)
    assert same(found, collect(CHAIN, TAPS, data_of(samples), batch=1, threads=1))


def test_of_taps_in_several_groups_batches_are_computed_one_by_one(computed: tuple[list[int], list[int]]) -> None:
    """The last group may be small, and the inner tensors of the model are not."""
    samples = feeds([9] * 8)
    found = collect(CHAIN, TAPS, data_of(samples), memory=4 * 27 * (len(TAPS) - 1), threads=4)
    assert set(computed[1]) == {1}
    assert same(found, collect(CHAIN, TAPS, data_of(samples), threads=1))


@pytest.mark.parametrize(("taps", "loaded"), [([], 0), (["x"], 1)])
def test_compiled_loops_are_loaded_only_to_count_values(
    taps: list[str], loaded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a model that is only converted to float16."""
    asked: list[None] = []
    monkeypatch.setattr("toolkit.calibration.collect.load_kernels", lambda: asked.append(None))
    data = data_of(feeds([2, 3]))
    collect(CHAIN, taps, data, PROFILES, scalars=[one.name for one in CHAIN.graph.outputs])
    assert len(asked) == loaded


def test_split_taps_take_several_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[list[str]] = []
    from toolkit.calibration import tapped as module

    real = module.session
    monkeypatch.setattr(module, "session", lambda m, outputs, *_, **__: opened.append(outputs) or real(m, outputs))
    collect(CHAIN, TAPS, data_of(feeds([9] * 3)), memory=4 * 27 * 2)
    assert opened == [TAPS[:2], TAPS[2:4], TAPS[4:]]


@pytest.mark.parametrize(("threads", "at_once"), [(1, 1), (2, 2), (5, 4)])
def test_batches_are_computed_side_by_side_as_far_as_the_memory_allows(
    monkeypatch: pytest.MonkeyPatch, threads: int, at_once: int
) -> None:
    data = data_of(feeds([5, 3, 9, 9, 2, 4, 6, 6, 7, 3, 8]))
    alone = collect(CHAIN, TAPS, data, scalars=["x"], batch=2, threads=1)
    compute, under_way, most, loaded = TappedSession.compute, list[int](), list[int](), list[int | None]()
    begin = TappedSession.__init__

    def opened(self: TappedSession, tapped: Tapped, *more: Any) -> None:
        loaded.append(tapped.threads)
        begin(self, tapped, *more)

    def watched(self: TappedSession, batch: Batch, into: Collection) -> tuple[dict[str, Array], dict[str, int]]:
        under_way.append(1)
        most.append(len(under_way))
        # others begin meanwhile
        sleep(0.1)
        try:
            return compute(self, batch, into)
        finally:
            under_way.pop()

    monkeypatch.setattr(TappedSession, "compute", watched)
    monkeypatch.setattr(TappedSession, "__init__", opened)
    assert same(collect(CHAIN, TAPS, data, scalars=["x"], batch=2, threads=threads), alone)
    assert max(most) == at_once and loaded == [1]
    # room for the largest sample, and not for two
    most.clear()
    largest = sum(probes.bytes_per_sample(CHAIN.facts(probes.largest_samples(data)), TAPS).values())
    assert same(collect(CHAIN, TAPS, data, scalars=["x"], threads=threads, memory=2 * largest - 1), alone)
    assert max(most) == 1 and loaded[1:] == [threads]


def test_infinities_are_found_in_batches_that_are_computed_side_by_side() -> None:
    network = model(
        """
        g (float[n, 2] x) => (float[n, 2] y)
        {
            logarithm = Log(x)
            twice = Add(logarithm, logarithm)
            y = Neg(twice)
        }"""
    )
    random = np.random.default_rng(0)
    samples = [{"x": row[None]} for row in random.uniform(-1, 4, (60, 2)).astype(np.float32)]
    data = data_of(samples, network, Profiles())
    found = [collect(network, ["y"], data, scalars=["twice", "logarithm"], batch=1, threads=n) for n in (1, 4)]
    assert same(*found) and found[0].infinite == {"twice", "logarithm"}


def test_what_no_sample_reaches_counts_once_a_sample() -> None:
    network = sentences()
    rng = np.random.default_rng(0)
    samples = [
        {"ids": rng.integers(0, 9, (1, n)), "mask": np.ones((1, n), np.int64)} for n in (3, 3, 3, 5, 5, 8, 8, 8, 8)
    ]
    extent = Extent((1, 1), (1, 8), (8, 8))
    profiles = Profiles((ShapeProfile("all", {"ids": extent, "mask": extent}),))
    results = [
        collect(network, ["places", "masked", "y"], data_of(samples, network, profiles), batch=size)
        for size in (1, 2, 8)
    ]
    assert all(same(results[0], other) for other in results)
    assert results[0].total("places").count == sum(s["ids"].size for s in samples)


@pytest.mark.parametrize("small", [0, 1024])
def test_infinities_and_nan_are_left_out_and_counted(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "SMALL_BYTES", small)
    network = model(
        """
        g (float[n, 2] x) => (float[n, 2] y)
        {
            root = Sqrt(x)
            logarithm = Log(x)
            sum = Add(root, logarithm)
            twice = Add(logarithm, logarithm)
            y = Neg(sum)
        }"""
    )
    samples = [{"x": np.array([row], np.float32)} for row in ([1, 4], [0, 9], [-1, 2], [-1, -1])]
    found = collect(network, ["logarithm"], data_of(samples, network, Profiles()), scalars=["root", "twice", "x"])
    assert found.infinite == {"root", "twice"}
    assert found.observed["root"] == (0.0, 3.0)
    assert found.observed["x"] == (-1.0, 9.0)
    assert found.observed["twice"] == pytest.approx((0.0, 2 * np.log(9)))
    assert (found.total("logarithm").nonfinite, found.total("logarithm").count) == (4, 4)


@pytest.mark.parametrize(("rows", "probed"), [("4", ["wide"]), ("1", []), ("m", ["narrow", "wide"])])
def test_values_of_small_tensors_leave_the_graph_and_extremes_of_others(
    rows: str, probed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.calibration import tapped as module

    network = model(
        f"""
        g (float[n, {rows}, 64] x) => (float[n, {rows}, 128] y)
        {{
            narrow = Relu(x)
            wide = Concat <axis = 2> (narrow, x)
            y = Neg(wide)
        }}"""
    )
    seen: list[list[str]] = []
    real = module.add_probes
    monkeypatch.setattr(module, "add_probes", lambda p, names, *more: seen.append(list(names)) or real(p, names, *more))
    rng = np.random.default_rng(0)
    given = [{"x": rng.standard_normal((1, 1 if rows == "1" else 4, 64)).astype(np.float32)} for _ in range(3)]
    found = collect(network, ["y"], data_of(given, network, Profiles()), scalars=["narrow", "wide"])
    assert seen == [probed] * bool(probed)
    monkeypatch.setattr(probes, "SMALL_BYTES", 0)
    assert same(found, collect(network, ["y"], data_of(given, network, Profiles()), scalars=["narrow", "wide"]))


def test_float16_tensors_and_old_opsets() -> None:
    import onnx

    text = """<ir_version: 4, opset_import: ["" : 9]>
    g (float[n, 2] x) => (float[n, 2] y)
    { half = Cast <to = 10> (x)  more = Add(half, half)  y = Cast <to = 1> (more) }"""
    network = Model.from_proto(onnx.parser.parse_model(text))
    samples = [{"x": np.array([[1, -3]], np.float32)}]
    found = collect(network, ["half"], data_of(samples, network, Profiles()), scalars=["more"])
    assert found.total("half").absmax == 3.0
    assert found.observed == {"more": (-6.0, 2.0)}


def test_memory_does_not_grow_with_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[int] = []
    real = CalibrationData.batches

    def watched(self: CalibrationData, *args: Any, **kwargs: Any) -> Iterator[Batch]:
        for batch in real(self, *args, **kwargs):
            alive.append(batch.count)
            yield batch

    monkeypatch.setattr(CalibrationData, "batches", watched)
    made: list[int] = []

    def generate() -> Iterator[dict[str, Array]]:
        for i in range(200):
            made.append(i)
            # the first 16 tell whether a row is a sample, and are read again
            assert len(made) - sum(alive) <= 16 + 8 + 1, "samples are read no further than the batch under way"
            yield {"x": np.full((1, 3, 4), i, np.float32)}

    collect(CHAIN, TAPS, data_of(generate), batch=8)
    assert sum(alive) == 200


class KilledError(Exception):
    pass


@pytest.mark.parametrize(("after", "memory"), [(1, None), (3, None), (1, 432), (7, 432)])
def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, memory: int | None) -> None:
    monkeypatch.setattr("toolkit.calibration.checkpoint._SAVE_EVERY", 0.0)
    samples = feeds([2, 9, 3, 9, 9, 6, 2, 4, 4])
    settings_ = {"scalars": ["low"], "batch": 2, "memory": memory}
    plain = collect(CHAIN, TAPS, data_of(samples), **settings_)
    path = tmp_path / "state.npz"
    calls: list[int] = []

    def progress(what: str, done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == after:
            raise KilledError

    with pytest.raises(KilledError):
        collect(CHAIN, TAPS, data_of(samples), checkpoint=path, progress=progress, **settings_)
    assert path.exists()
    before = len(calls)
    resumed = collect(CHAIN, TAPS, data_of(samples), checkpoint=path, progress=progress, **settings_)
    assert same(plain, resumed)
    assert not path.exists()
    assert all(done >= calls[before - 1] for done in calls[before:]), "what was done is not done again"


@pytest.mark.parametrize("places", [(1,), (1, 2)])
def test_a_killed_run_begins_anew_where_the_tensors_are_grouped_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: tuple[int, ...]
) -> None:
    monkeypatch.setattr("toolkit.calibration.checkpoint._SAVE_EVERY", 0.0)
    samples, path, calls = feeds([2, 3, 4]), tmp_path / "state.npz", list[int]()
    plain = collect(CHAIN, TAPS, data_of(samples), batch=1)

    def cut_at(*places: int) -> None:
        def cut(_: Any, names: list[str]) -> list[list[str]]:
            return [names[first:last] for first, last in pairwise([0, *places, len(names)])]

        monkeypatch.setattr("toolkit.calibration.collect.by_partition", cut)

    def progress(what: str, done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == 4:
            raise KilledError

    cut_at(2)
    with pytest.raises(KilledError):
        collect(CHAIN, TAPS, data_of(samples), batch=1, checkpoint=path, progress=progress)
    cut_at(*places)
    assert same(plain, collect(CHAIN, TAPS, data_of(samples), batch=1, checkpoint=path))
    assert not path.exists()


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.calibration.checkpoint._SAVE_EVERY", 0.0)
    path = tmp_path / "state.npz"

    def stop(*_: Any) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        collect(CHAIN, TAPS, data_of(feeds([2, 3, 4])), checkpoint=path, progress=stop)
    with pytest.raises(RangesError, match=r"another run, which differs in data"):
        collect(CHAIN, TAPS, data_of(feeds([2, 3, 5])), checkpoint=path)
    with pytest.raises(RangesError, match=r"which differs in tensors"):
        collect(CHAIN, TAPS[:2], data_of(feeds([2, 3, 4])), checkpoint=path)


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        (["keptt"], "no tensor of the main graph is named 'keptt'. Did you mean 'kept'"),
        (["two"], "tensor 'two' is a constant"),
    ],
)
def test_tensors_that_do_not_exist_or_are_constant_are_refused(taps: list[str], message: str) -> None:
    with pytest.raises(RangesError, match=message):
        collect(CHAIN, taps, data_of(feeds([2])))


def test_wrong_tensors_samples_and_shards_are_refused() -> None:
    with pytest.raises(RangesError, match=r"holds int64"):
        collect(sentences(), ["ids"], data_of([], sentences(), Profiles()))
    with pytest.raises(DataError, match=r"there are no samples. Give at least one"):
        collect(CHAIN, TAPS, data_of([]))
    with pytest.raises(DataError, match=r"there are no samples. Give at least one"):
        collect(CHAIN, TAPS, data_of([]), shard=(1, 2))
    with pytest.raises(RangesError, match=r"no shard 3/2"):
        collect(CHAIN, TAPS, data_of(feeds([2])), shard=(3, 2))
    with pytest.raises(RangesError, match=r"other profiles"):
        collect(CHAIN, TAPS, data_of(feeds([2])), Profiles())


def test_save_and_load(tmp_path: Path) -> None:
    found = collect(CHAIN, TAPS, data_of(feeds([2, 6, 8])), scalars=["low"])
    found.save(tmp_path / "c.npz")
    assert same(found, Collection.load(tmp_path / "c.npz"))
    # in the smallest type that holds the counts
    one = next(iter(next(iter(found.histograms.values())).values()))
    counts = one.counts = one.counts.astype(np.int64)
    for more, kind in ((0, np.int16), (70_000, np.int32), (1 << 40, np.int64)):
        counts[counts.argmax()] += more
        found.save(tmp_path / "c.npz")
        with np.load(tmp_path / "c.npz") as stored:
            assert stored["counts_0"].dtype == kind
        assert same(found, Collection.load(tmp_path / "c.npz"))
    (tmp_path / "d.npz").write_bytes(b"nothing")
    with pytest.raises(RangesError, match=r"d\.npz: it cannot be read as a collection"):
        Collection.load(tmp_path / "d.npz")


def test_merging_what_does_not_belong_together() -> None:
    samples = feeds([2, 3, 6, 7])

    def part(i: int, of: int, network: Model = CHAIN, taps: list[str] = TAPS) -> Collection:
        return collect(network, taps, data_of(samples, network), shard=(i, of))

    first = part(1, 3)
    assert first.merge(part(3, 3)).missing_parts == ["2/3"]
    with pytest.raises(RangesError, match=r"part 1/3 is in both"):
        first.merge(part(1, 3))
    with pytest.raises(RangesError, match=r"cut into unequal numbers of shards: 1/3, 2/2"):
        first.merge(part(2, 2))
    with pytest.raises(RangesError, match=r"differ in tensors"):
        first.merge(part(2, 3, taps=TAPS[:3]))
    other = chain()
    other.node(other.node_names()[0]).name = "renamed"
    with pytest.raises(RangesError, match=r"differ in model"):
        first.merge(part(2, 3, other))
    with pytest.raises(RangesError, match=r"no parts to merge"):
        merge_all([])


def test_stale_collections_are_refused() -> None:
    found = collect(CHAIN, TAPS, data_of(feeds([2])))
    found.require(model=CHAIN.fingerprint(), bins=4096)
    with pytest.raises(RangesError, match=r"made from another bins: 4096 and 2048"):
        found.require(bins=2048)
