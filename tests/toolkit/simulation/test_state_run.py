"""A state whose batches others were asked for, who have given up since."""

from __future__ import annotations

from concurrent.futures import CancelledError

from toolkit.simulation.state_run import StateRun
from toolkit.simulation.switches import Config


class Lost:
    def result(self):
        raise CancelledError

    def give_up(self):
        pass


class Stand:
    """A runner that asks others while it has any, and keeps what it ran itself."""

    def __init__(self):
        self.order, self.hands, self.ran = [0, 1, 2], object(), []

    def signatures(self, config):
        return ()

    def asked(self, probe, index, keep):
        return None if self.hands is None else (0, Lost())

    def compute(self, probe, indices, keep):
        self.ran += indices
        return [(index, index, {}, {}) for index in indices]

    def summed(self, parts, indices, held):
        return parts


def test_what_others_gave_up_is_run_here():
    runner = Stand()
    state = StateRun(runner, Config())
    state.ask(2)
    runner.hands = None
    assert state.run() == [0, 1, 2] and runner.ran == [0, 1, 2]
