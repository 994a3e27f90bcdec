from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from toolkit.base.errors import BackendError, DataError, WriteError
from toolkit.evaluation.node_errors import checkpoint
from toolkit.evaluation.node_errors.checkpoint import EvaluationCheckpoint


class Held:
    """Stands for what a frame holds: a session, a model."""


@pytest.fixture(autouse=True)
def uncollected():
    """What goes within a test goes without a collection: it is in no cycle."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def failing(kind, what, **more):
    held = Held()
    kept.append(weakref.ref(held))
    # a frame that had the error would be a cycle by itself
    raise kind(what, **more)


kept: list[weakref.ref[Held]] = []


@pytest.mark.parametrize("kind", [DataError, WriteError, BackendError])
def test_an_error_apart_says_the_same_and_holds_no_frame(kind):
    try:
        failing(kind, "no value", where="x.npz", remedy="give one", value="3")
    except kind as error:
        apart = error.apart()
        assert kept[-1]() is not None and str(apart) == str(error) and type(apart) is kind
        assert (apart.what, apart.where, apart.remedy, apart.value) == ("no value", "x.npz", "give one", "3")
    assert kept[-1]() is None and apart.__traceback__ is None


def test_a_checkpoint_that_cannot_be_written_goes_with_its_last_user(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "write_arrays", lambda *_: failing(WriteError, "the disk is full", where="x"))
    found = EvaluationCheckpoint(tmp_path, "key")
    found.outputs({"x": np.zeros(2)}, lambda _: [{"y": np.zeros(2)}], 1)
    found.close()
    assert "the disk is full" in str(found.refused) and kept[-1]() is None
    gone = weakref.ref(found)
    del found
    assert gone() is None


def test_an_error_with_its_cause_goes_without_a_collection():
    def refused():
        held = Held()
        kept.append(weakref.ref(held))
        try:
            raise BackendError("no such operator")
        except BackendError as error:
            return BackendError(error.what, where="the model").caused_by(error)

    found = refused()
    assert isinstance(found.__cause__, BackendError) and kept[-1]() is not None
    del found
    assert kept[-1]() is None
