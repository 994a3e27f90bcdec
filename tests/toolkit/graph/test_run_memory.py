from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import MODELS
from tests.toolkit.search.planted import chain
from toolkit.base.collection import resident
from toolkit.graph.run_memory import run_pool
from toolkit.graph.sessions import session


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


def test_the_pool_gives_back_what_nothing_lies_in():
    loaded = session(chain(2, 16), threads=1, arena="shared")
    rows = {"x": np.zeros((1 << 20, 16), np.float32)}
    made = loaded.run(rows)
    size = next(iter(made.values())).nbytes
    held = resident()
    del made
    run_pool.shrink()
    assert not held or resident() < held - size // 2
