"""States whose batches others are asked for."""

from __future__ import annotations

import functools
import pickle
from collections import Counter
from concurrent.futures import CancelledError
from threading import Barrier

import pytest

from tests.conftest import HANG, build, node, normal
from tests.toolkit.search.planted import chain, feeds, simulation
from toolkit.graph.model import Model
from toolkit.simulation import loaded
from toolkit.simulation.prices import pays_to_reorder_less
from toolkit.simulation.state_run import StateRun, run_side_by_side
from toolkit.simulation.switches import Config


class Lost:
    def result(self):
        raise CancelledError

    def give_up(self):
        pass


class Stand:
    """A runner that asks others while it has any, and keeps what it ran itself."""

    def __init__(self):
        self.order, self.workers, self.ran = [0, 1, 2], object(), []

    def signatures(self, config):
        return ()

    def asked(self, probe, index, keep):
        return None if self.workers is None else (0, Lost())

    def compute(self, probe, indices, keep):
        self.ran += indices
        return [(index, index, {}, {}) for index in indices]

    def summed(self, parts, indices, held):
        return parts


def test_what_others_gave_up_is_run_here():
    runner = Stand()
    state = StateRun(runner, Config())
    state.ask(2)
    runner.workers = None
    assert state.run() == [0, 1, 2] and runner.ran == [0, 1, 2]


class Others:
    """Processes that take turns, as far as they know of each other."""

    window = 4

    def __init__(self, job, count):
        self.open, self.asked = [pickle.loads(pickle.dumps(job)).open() for _ in range(count)], 0

    def submit(self, asked):
        self.asked += 1
        answer = self.open[self.asked % len(self.open)](pickle.loads(pickle.dumps(asked)))

        class Done:
            def result(self):
                return answer

        return Done()


@functools.cache
def outcomes(memory, others=0):
    """What states of several plans give, run by so many other processes or here, and how often those were asked."""
    sim = simulation(chain(8), feeds(40), batch=1, memory=memory)
    runner, names = sim.runner, sim.names
    runner.workers = Others(sim.job(), others) if others else None
    wider = {tensor: 1.5 * amax for tensor, amax in sim.switches.amax.items()}
    plans = [[], names[-1:], names[:1], names[::2], names[2:5], names[1:]]
    found = [runner.base.run(2)]
    found += [runner.probe(sim.config(kept)).run(part) for kept in plans for part in (1, 4, 40)]
    found += [runner.probe(sim.config(kept, wider)).run(5) for kept in plans]
    return found, runner.workers.asked if others else 0


@pytest.mark.parametrize("memory", [1 << 30, 30_000])
@pytest.mark.parametrize("count", [1, 3])
def test_what_others_run_is_what_is_run_here(memory, count):
    here, _ = outcomes(memory)
    there, asked = outcomes(memory, count)
    assert there == here and asked > 40 * 5


def convolutions(count: int, size: int) -> Model:
    """Convolutions with 16 channels and Relu, over and over, on images of this size."""
    nodes, weights, tensor = [], {}, "x"
    for i in range(count):
        weights[f"w{i}"] = normal(16, 16, 1, 1, seed=i, scale=0.3)
        nodes += [node("Conv", [tensor, f"w{i}"], [f"c{i}"], name=f"layer{i}"), node("Relu", [f"c{i}"], [f"r{i}"])]
        tensor = f"r{i}"
    nodes[-1].output[0] = "y"
    return Model.from_proto(build(nodes, {"x": ["n", 16, size, size]}, {"y": None}, weights))


def test_a_state_is_loaded_to_be_run_often_once_that_saves_more_than_it_takes(monkeypatch):
    images, asked = [{"x": normal(1, 16, 64, 64, seed=seed)} for seed in range(48)], []
    sim, alone = (simulation(convolutions(8, 64), images, batch=8) for _ in range(2))
    load = loaded.session

    def opened(*given, **more):
        asked.append(more["often"])
        return load(*given, **more)

    whole = sim.runner.probe(sim.config(["layer0", "layer4"]))
    at_once = alone.runner.probe(alone.config(["layer0", "layer4"]))
    monkeypatch.setattr(loaded, "session", opened)
    whole.run(1)
    assert asked and not any(asked)
    asked.clear()
    found = whole.run()
    assert any(asked)
    asked.clear()
    # what was run before and after is one state
    assert at_once.run() == found and all(asked)


@pytest.mark.parametrize(
    ("images", "again", "pays"), [(1, False, False), (12, False, True), (12, True, False), (40, True, True)]
)
def test_less_reordering_must_save_as_much_as_loading_takes(images, again, pays):
    sim = simulation(convolutions(8, 64), [{"x": normal(1, 16, 64, 64)}])
    elements = 16 * 64 * 64
    # 16 nodes; eight inputs of convolutions to reorder
    assert sim.cutter.paired_elements(range(len(sim.cutter.stages)), sim.config(())) == 8 * elements
    given = sim.cutter, sim.config(()), 0, [elements], [0] * images, again
    assert pays_to_reorder_less(*given) is pays
    assert not pays_to_reorder_less(sim.cutter, Config(), *given[2:])


def test_another_process_runs_the_first_batches_of_the_same_order():
    sim = simulation(chain(4), feeds(12), batch=1)
    # as where another processor's float outputs differ in the last bits
    sim.runner.order = sim.runner.order[::-1]
    config = sim.config(sim.names[:1])
    here, there = sim.runner.probe(config).run(2), sim.job().open()((config, 2))[0]
    assert here == there and sim.on(sim.settings).runner.order == sim.runner.order[::-1]


@pytest.mark.parametrize("known", [False, True])
def test_layers_are_measured_from_finer_cuts_whichever_batches_come_first(monkeypatch, known):
    def measured():
        sim = simulation(chain(24), feeds(24), batch=2, memory=30_000)
        if known:
            sim.compared_like(simulation(chain(24), feeds(24), batch=2), begins=True)
        runner, alone = sim.runner, [sim.switches.alone(name) for name in sim.names]
        assert len(runner._cuts.fine) > len(runner._cuts.rest)
        price = sum(runner.price(config, 2) for config in alone)
        return runner.order, price, [(runner.probe(config).run(2), runner.probe(config).run(12))[1] for config in alone]

    order, price, outcomes = measured()
    monkeypatch.setattr("toolkit.simulation.runner.representative", lambda order, weights: order[::-1])
    other, as_much, same = measured()
    assert other == order[::-1] and as_much == price and same == outcomes


def test_the_float_model_is_run_once_on_every_batch(monkeypatch):
    sim, ran = simulation(chain(8), feeds(40), batch=10), []
    run = loaded.PlannedPiece.run

    def noted(piece, state):
        ran.append((piece._first, piece.last))
        return run(piece, state)

    monkeypatch.setattr(loaded.PlannedPiece, "run", noted)
    stages = len(sim.runner._pieces.stages)
    assert stages > 1 and Counter(ran)[0, 0] == 4
    assert all(Counter(ran)[stage, stage] == 4 for stage in range(stages))


def test_a_state_computes_while_the_next_one_loads():
    runner, both = Stand(), Barrier(2, timeout=HANG)
    runner.workers, runner.threads = None, 2
    compute = runner.compute

    def met(probe, indices, keep):
        if indices:
            both.wait()
        return compute(probe, indices, keep)

    runner.compute = met
    states = [StateRun(runner, Config()) for _ in range(2)]
    run_side_by_side(runner, states, 2)
    assert sorted(runner.ran) == [0, 0, 1, 1]
    # what is known is not run again
    assert [state.run(2) for state in states] == [[0, 1], [0, 1]] and len(runner.ran) == 4
