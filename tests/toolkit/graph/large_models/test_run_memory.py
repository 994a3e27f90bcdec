from __future__ import annotations

import gc

import numpy as np
import pytest

from tests.conftest import MODELS, normal
from tests.toolkit.search.planted import chain
from toolkit.base.collection import resident, return_free_blocks
from toolkit.data.dataset import CalibrationData
from toolkit.evaluation.evaluate import evaluate
from toolkit.graph.large_models.run_memory import RunPool, run_pool
from toolkit.graph.sessions.session import session


@pytest.mark.parametrize("name", ["digits_cnn", "digits_uneven"])
def test_sessions_of_the_pool_compute_what_others_do(name):
    data = np.load(MODELS / f"{name.split('_')[0]}_calibration.npz")
    own, shared = (session(MODELS / f"{name}.onnx", threads=1, arena=arena) for arena in ("own", "shared"))
    inputs = {one: data[one][:8] for one in own.inputs}
    wanted, found = own.run(inputs), shared.run(inputs)
    assert all(np.array_equal(wanted[one], found[one]) for one in wanted)
    # results stay what they are while other runs and sessions take memory, and when it is given back
    session(MODELS / f"{name}.onnx", threads=1, arena="shared").run({one: -value for one, value in inputs.items()})
    run_pool.shrink()
    shared.run({one: np.zeros_like(value) for one, value in inputs.items()})
    assert all(np.array_equal(wanted[one], found[one]) for one in wanted)


@pytest.fixture
def held():
    """Bytes that the process holds beyond what it held at the beginning, with nothing in the pool."""
    session(chain(2, 16), threads=1, arena="shared").run({"x": np.zeros((1, 16), np.float32)})
    gc.collect()
    run_pool.shrink()
    return_free_blocks()
    before = resident()
    if not before:
        pytest.skip("the system does not say what memory the process holds")
    yield lambda: resident() - before
    run_pool.shrink()


def test_sessions_take_what_others_of_the_pool_took(held):
    first, second = (session(chain(layers, 16), threads=1, arena="shared") for layers in (4, 3))
    rows = {"x": np.zeros((1 << 19, 16), np.float32)}
    size, begin = rows["x"].nbytes, held()
    first.run(rows)
    after_one = held() - begin
    # it stays with the process, and the other session takes it
    assert after_one > size // 2
    second.run(rows)
    assert held() - begin < after_one + size // 2


def test_larger_and_larger_inputs_do_not_add_up(held):
    loaded = session(chain(4, 16), threads=1, arena="shared")
    sizes = range(1 << 15, 1 << 19, 1 << 14)
    rows, begin = np.zeros((sizes[-1], 16), np.float32), held()
    for size in sizes:
        loaded.run({"x": rows[:size]})
    assert held() - begin < 6 * rows.nbytes < sum(sizes) * 64


def test_the_pool_gives_back_what_nothing_lies_in():
    loaded = session(chain(2, 16), threads=1, arena="shared")
    rows = {"x": np.zeros((1 << 20, 16), np.float32)}
    made = loaded.run(rows)
    size = next(iter(made.values())).nbytes
    held = resident()
    del made
    run_pool.shrink()
    assert not held or resident() < held - size // 2


def test_the_pool_gives_back_its_blocks_after_a_function_even_if_that_fails(held):
    rows = {"x": np.zeros((1 << 20, 16), np.float32)}
    seen = []

    @run_pool.freed_after()
    def runs(fails: bool) -> None:
        session(chain(2, 16), threads=1, arena="shared").run(rows)
        seen.append(held())
        if fails:
            raise ValueError("after the run")

    runs(False)
    after = held()
    with pytest.raises(ValueError, match="after the run"):
        runs(True)
    assert min(seen) > rows["x"].nbytes // 2 > max(after, held())


def test_an_evaluation_runs_from_the_pool_and_frees_it_last(monkeypatch):
    events = []
    use, shrink = RunPool.use, RunPool.shrink
    monkeypatch.setattr(RunPool, "use", lambda pool, options: (events.append("use"), use(pool, options)))
    monkeypatch.setattr(RunPool, "shrink", lambda pool: (events.append("shrink"), shrink(pool)))
    model = chain(2, 16)
    found = evaluate(model, model.copy(), CalibrationData.open([{"x": normal(1, 16)}], model))
    assert found.nodes
    # the measured form and the layer errors; the float model's own session serves other steps too
    assert events.count("use") >= 2 and events[-1] == "shrink"
