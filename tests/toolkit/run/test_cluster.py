"""Runs on a Ray cluster of two workers: what comes out is what comes out here, whatever happens to a worker."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import MODELS, digits_recipe, said
from tests.passes.test_only_if_faster import NAMES, context_for, quantized
from tests.passes.test_only_if_faster import chain as conv_chain
from tests.toolkit.backends.payoff_stand_in import StandIn
from tests.toolkit.calibration.test_collect import CHAIN, TAPS, data_of, feeds, same
from tests.toolkit.search.plans.test_search import search
from tests.toolkit.search.planted import chain, damage, simulation, trained
from tests.toolkit.search.planted import feeds as planted_feeds
from tests.works import Fragile, Strict
from toolkit import Recipe
from toolkit.base import cluster as module
from toolkit.base.cluster import Cluster, cluster
from toolkit.base.errors import DataError, QtoolError
from toolkit.base.places import SharedWork, Workers, in_order, working_at
from toolkit.base.processes import Processes
from toolkit.calibration.collect import collect
from toolkit.calibration.tapped import Tapped
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.evaluation.budget import Budget
from toolkit.run.pipeline import run
from toolkit.search.budget.spending import Spending
from toolkit.search.sensitivity.measure import exact
from toolkit.simulation.simulation import SimulationJob

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'qtool[ray]'")


@pytest.fixture(scope="module")
def place() -> Iterator[Cluster]:
    """One cluster of two workers for all of these tests, which runs find already there.

    There are no GPUs: three that are none count as this process's own and those of the two workers.
    """
    before = signal.getsignal(signal.SIGTERM)
    ray.init(
        num_cpus=2, num_gpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=128 << 20,
    )  # fmt: skip
    signal.signal(signal.SIGTERM, before)
    with cluster() as found:
        yield found
    ray.shutdown()


@dataclass(frozen=True)
class FragilePlace:
    place: Cluster
    folder: Path
    unlike: Collection[str] = ()

    @contextmanager
    def workers(self, work: SharedWork[Any, Any]) -> Iterator[Workers[Any, Any]]:
        with self.place.workers(Fragile(work, self.folder)) as workers:
            yield workers

    @contextmanager
    def gpu_workers(self, work: SharedWork[Any, Any]) -> Iterator[Workers[Any, Any] | None]:
        with self.place.gpu_workers(Fragile(work, self.folder, at=1)) as workers:
            assert workers is not None and workers.window == 2
            yield workers


def test_a_run_is_that_of_this_machine(place: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, workers = [], Cluster.workers
    monkeypatch.setattr(Cluster, "workers", lambda self, work: (shared.append(type(work)), workers(self, work))[1])
    text = digits_recipe(tmp_path).replace('use = "insert_qdq"', 'use = "search_precision"')
    text = text.replace("max_drop = 0.005", "max_drop = 0.005, min_sqnr_db = 36.0").replace('"auto"', '"none"')
    found = {}
    for on in ("here", "ray"):
        recipe = Recipe.parse(f'{text}\n[run]\non = "{on}"\n', tmp_path / "digits.toml")
        result = run(recipe, tmp_path / on)
        report = result.report.to_json()
        for step in report["steps"]:
            del step["seconds"]
        search = json.loads((tmp_path / on / "search.json").read_text())
        assert search["sensitivity"].pop("inferences") > 0
        files = [
            (tmp_path / on / name).read_bytes()
            for name in ("model.onnx", "ranges.json", "journal.jsonl", "recipe.lock.toml")
        ]
        found[on] = report, search, files
    assert found["here"] == found["ray"]
    assert {Tapped, SimulationJob} <= set(shared)
    # what was made here is found again there
    again = run(Recipe.parse(f'{text}\n[run]\non = "ray"\n', tmp_path / "digits.toml"), tmp_path / "here")
    assert {step.status for step in again.steps} == {"reused"}


def test_a_worker_killed_in_the_middle_changes_nothing(place: Cluster, tmp_path: Path) -> None:
    sim = simulation(chain(3), planted_feeds(8), batch=4)
    samples = feeds([2, 3, 6, 9, 5, 2, 2, 7, 9, 9, 4, 3])
    here = exact(sim), collect(CHAIN, TAPS, data_of(samples), scalars=["low"], batch=2)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    with working_at(FragilePlace(place, tmp_path / "a")):
        shared = exact(sim)
    with working_at(FragilePlace(place, tmp_path / "b")):
        collected = collect(CHAIN, TAPS, data_of(samples), scalars=["low"], batch=2)
    assert shared.groups == here[0].groups and same(collected, here[1])
    assert list(collected.observed) == list(here[1].observed)
    assert (tmp_path / "a" / "killed").exists() and (tmp_path / "b" / "killed").exists()


@pytest.mark.parametrize("inferences", [None, 20.0])
def test_a_search_finds_the_same_plans_however_many_workers_there_are(
    place: Cluster, tmp_path: Path, inferences: float | None
) -> None:
    # its last bits depend on which of its stages are computed together
    model = trained("digits_cnn")
    damage(model, "/head/Gemm")
    sim, found = simulation(model, MODELS / "digits_calibration.npz", batch=4, samples=16), []
    for where in (None, Processes(1), FragilePlace(place, tmp_path)):
        twin = sim.on(sim.settings)
        with working_at(where):
            result = search(twin, Budget(min_sqnr_db=30.0), spending=Spending(inferences), evaluations=9)
        found.append([(plan.kept, plan.amax, plan.outcome, plan.batches) for plan in result.plans])
        # what is run after the search finds no state that only a worker knows
        assert twin.alone(twin.names[3]).sqnr_db == pytest.approx(sim.alone(sim.names[3]).sqnr_db, abs=0.01)
    assert found[0] == found[1] == found[2] and len(found[0]) > 3
    assert (tmp_path / "killed").exists()


def test_trial_engines_are_built_on_a_gpu_each_and_all_are_measured_here(
    place: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times, found, built = {"c0": 0.5, "c1": 1.6, "c2": 0.5, "c3": 1.4, "c4": 0.5}, [], []

    def searched(where: Any, folder: Path) -> Journal:
        backend = StandIn(dict.fromkeys(NAMES, 1.0), times, opaque=True, noisy=False)
        model, context = conv_chain(), context_for(backend, folder=folder)
        folder.mkdir()
        with working_at(where):
            InsertQDQ(only_if_faster=True)(model, context)
        verdict = json.loads((folder / "faster.json").read_text())
        found.append((verdict, quantized(model, NAMES)))
        built.append(len(backend.built))
        return context.journal

    searched(None, tmp_path / "here")
    assert not said(searched(FragilePlace(place, tmp_path), tmp_path / "there"), Code.TRIAL_BUILT_ANEW)
    assert (tmp_path / "killed").exists()
    assert found[0] == found[1] and built[1] < built[0]
    # engines of another GPU would say nothing of this one: all are built here then
    monkeypatch.setattr("toolkit.backends.trials.prebuilds.engines_like", lambda: ("other",))
    unlike = searched(place, tmp_path / "unlike")
    assert said(unlike, Code.TRIAL_BUILT_ANEW) and found[2] == found[0] and built[2] == built[0]


def test_a_task_that_kills_every_worker_is_an_error(
    place: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETRIES", 0)
    with pytest.raises(QtoolError) as refused, place.workers(Fragile(Strict(), tmp_path, once=False)) as workers:
        list(in_order(workers, [1, 1, 1, 1]))
    assert refused.value.remedy and "lost" in refused.value.what


def test_what_fails_in_a_worker_is_the_error_that_it_is_here(place: Cluster) -> None:
    with place.workers(Strict()) as workers:
        with pytest.raises(DataError) as refused:
            list(in_order(workers, range(5)))
        error = refused.value
        assert (error.what, error.where, error.remedy) == ("3 is refused", "item 3", "leave it out")
        assert "in answer" in str(error.__cause__)
        with pytest.raises(KeyError, match="five"):
            workers.submit(5).result()


def test_workers_with_other_cpus_are_told_of(place: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    sim, kind = simulation(chain(2), planted_feeds(4)), module.cpu_kind()
    with working_at(place):
        assert not exact(sim).notes
        monkeypatch.setattr(module, "cpu_kind", lambda: "vax")
        assert [(note.code, note.values["kinds"]) for note in exact(sim).notes] == [(Code.OTHER_CPUS, (kind,))]
    place.unlike.clear()


def test_a_worker_with_another_version_is_named(place: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {**module.stamp(), "numpy": "0.1"}
    monkeypatch.setattr(module, "stamp", lambda: other)
    with pytest.raises(QtoolError) as refused, place.workers(Strict()) as workers:
        workers.submit(1).result()
    assert "numpy" in refused.value.what and np.__version__ in refused.value.what


def test_work_that_is_stopped_ends(place: Cluster, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), place.workers(Strict(tmp_path)) as workers:
        workers.submit(1), workers.submit(2)
        while len(pids := [int(file.name) for file in tmp_path.iterdir()]) < 2:
            time.sleep(0.05)
        raise KeyboardInterrupt
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.05)
