"""Latencies of two engines by profile, and what they come to as the profiles count."""

from __future__ import annotations

import math

import pytest

from toolkit.base.errors import BackendError
from toolkit.contract.bench import Latency, TurnsFound
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.search.trial_engines.ratios import ProfileWeights, ratios, ratios_in_turn


class Kept:
    """A bench that keeps engines, and what it measures of them in turn: one answer after the other."""

    profiles = ("a", "b")

    def __init__(self, *answers):
        self.answers = list(answers)

    def in_turn(self, base, own):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_profiles_count_as_they_are_weighed_and_none_may_be_slower():
    found = {"a": (0.8, 0.03), "b": (0.98, 0.04)}
    assert ProfileWeights({}).score(found) == (pytest.approx(0.89), pytest.approx(0.025))
    assert ProfileWeights({"a": 3}).score(found) == (pytest.approx(0.845), pytest.approx(math.hypot(0.09, 0.04) / 4))
    assert ProfileWeights({"a": 0}).score(found) == (pytest.approx(0.98), pytest.approx(0.04))
    assert ProfileWeights({}).faster(found) and not ProfileWeights({"a": 0}).faster(found)
    slow = {**found, "b": (1.05, 0.04)}
    assert ProfileWeights({}).score(slow)[0] < 1 and not ProfileWeights({}).faster(slow)
    assert ProfileWeights({"b": 0}).faster(slow)
    # where nothing counts, nothing is faster
    assert not ProfileWeights({"a": 0, "b": 0}).faster(found)


def test_what_was_not_measured_in_turn_is_taken_from_each_builds_own_numbers():
    own, base = {"a": Latency(1.0, 0.9, 1.1), "b": Latency(3.0, 2.7, 3.3)}, {"b": Latency(4.0, 3.6, 4.4)}
    assert ratios(own, base, {"a": (0.5, 0.1)}) == {"b": (0.75, pytest.approx(0.5 / 4))}
    assert ratios(own, base, {"b": (0.5, 0.1)}) == {"b": (0.5, 0.1)}


def test_engines_whose_files_have_gone_are_built_once_more():
    built, journal = [], Journal()
    bench = Kept(None, TurnsFound({"a": {"own": [2.0], "base": [4.0]}}, {"b": "no time"}))
    found = ratios_in_turn(bench, "own", "base", lambda: built.append(1), journal)
    assert (found, built) == ({"a": (0.5, pytest.approx(0.01))}, [1])
    assert [event.why.code for event in journal.of("noted")] == [Code.NOT_IN_TURN]
    assert ratios_in_turn(bench, "", "base", lambda: built.append(2), journal) == {} and built == [1]
    refused = Journal()
    assert ratios_in_turn(Kept(BackendError("lost", where="it")), "own", "base", built.clear, refused) == {}
    assert len(refused.of("noted")) == 2
