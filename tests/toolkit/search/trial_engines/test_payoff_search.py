"""The search over measured engines, without engines: what is measured again, when it stops, what it says."""

from __future__ import annotations

import pytest

from toolkit.contract.findings import Code
from toolkit.search.trial_engines.payoff_search import Latency, PayoffSearch, Trial, Unit

UNITS = [Unit("a", "Conv [8, 8]", 64), Unit("b", "Conv [8, 8]", 64), Unit("c", "Conv [4, 4]", 16)]


class Measured:
    """Latency from a table of (kept, repeat), else from the sum of what the quantized units cost."""

    def __init__(self, cost, noise=0.01, table=None, timed=True):
        self.cost, self.noise, self.table, self.timed, self.calls = cost, noise, table or {}, timed, []

    def __call__(self, kept, repeat):
        self.calls.append((kept, repeat))
        ms = {u: 1.0 if u in kept else c for u, c in self.cost.items()}
        total = self.table.get((kept, repeat), sum(ms.values()))
        times = {u: {"default": t} for u, t in ms.items()} if self.timed else {}
        return Trial(
            kept, {"default": Latency(total, total - self.noise, total + self.noise)}, times, key=str(sorted(kept))
        )


ALL, NONE = frozenset("abc"), frozenset()


def test_a_clear_win_is_measured_once():
    measure = Measured({"a": 0.5, "b": 0.5, "c": 0.5})
    found = PayoffSearch(UNITS, measure).run()
    assert found.kept == NONE and found.builds == 2 and measure.calls == [(ALL, 0), (NONE, 0)]


def test_a_close_win_is_measured_again_and_lost_where_it_was_luck():
    lucky = {(NONE, 0): 2.97, (NONE, 1): 3.04}
    measure = Measured({"a": 1.0, "b": 1.0, "c": 1.0}, table=lucky)
    found = PayoffSearch(UNITS, measure).run()
    assert found.kept == ALL and {(NONE, 1), (ALL, 1)} <= set(measure.calls)
    steady = Measured({"a": 1.0, "b": 1.0, "c": 1.0}, table={(NONE, 0): 2.97, (NONE, 1): 2.97})
    assert PayoffSearch(UNITS, steady).run().kept == NONE


def test_a_spread_wider_than_the_gain_gives_everything_back():
    found = PayoffSearch(UNITS, Measured({"a": 0.95, "b": 0.95, "c": 0.95}, noise=0.2)).run()
    assert found.kept == ALL and found.reasons["a"].code is Code.NO_ENGINE_FASTER


def test_the_limit_of_builds_is_kept_and_two_are_the_least():
    cost = {"a": 1.3, "b": 0.2, "c": 0.9}
    for builds in range(2, 8):
        measure = Measured(cost)
        found = PayoffSearch(UNITS, measure, builds).run()
        assert found.builds <= builds and len(measure.calls) <= builds
        assert found.kept == (frozenset("a") if builds > 2 else NONE)


def test_without_times_roles_are_tried_the_smallest_weights_first():
    measure = Measured({"a": 0.5, "b": 0.5, "c": 1.2}, timed=False)
    found = PayoffSearch(UNITS, measure).run()
    assert found.kept == frozenset("c") and measure.calls[2] == (frozenset("c"), 0)
    why = found.reasons["c"]
    assert why.code is Code.ROLE_SLOWER and (why.values["layers"], why.values["total"]) == (1, 1)
    assert (why.values["ms"], why.values["without_ms"]) == (pytest.approx((2.2,)), pytest.approx((2.0,)))


def test_a_layer_that_only_its_pairs_bring_about_stays_float_and_one_without_layers_costs_no_build():
    class Elided(Measured):
        """The float engine has no layer for c (an elided Concat), no engine has one for b."""

        def __call__(self, kept, repeat):
            trial = super().__call__(kept, repeat)
            trial.ms = {u: t for u, t in trial.ms.items() if u != "b" and not (u == "c" and u in kept)}
            return trial

    measure = Elided({"a": 0.4, "b": 0.9, "c": 1.3})
    assert PayoffSearch(UNITS, measure).run().kept == frozenset("c")
    assert [kept for kept, _ in measure.calls] == [ALL, NONE, frozenset("c")]


def test_what_a_trial_promises_is_measured_as_it_will_be_built_or_not_taken():
    cost = {"a": 0.5, "b": 0.5, "c": 0.5}
    measure = Measured(cost)
    assert PayoffSearch(UNITS, measure, trial=True).run().kept == NONE
    assert measure.calls == [(ALL, 0), (NONE, 0), (ALL, 1), (NONE, 1)]
    promised = Measured(cost, table={(NONE, 1): 3.2})
    found = PayoffSearch(UNITS, promised, trial=True).run()
    assert found.kept == ALL and found.best.latency["default"].ms == 3.2
    # no build is left to measure it as it will be
    assert PayoffSearch(UNITS, Measured(cost), 3, trial=True).run().kept == ALL


def test_each_trial_is_told_and_the_best_so_far_is_known():
    seen = []
    PayoffSearch(UNITS, Measured({"a": 1.4, "b": 0.5, "c": 0.5}), on_trial=lambda s: seen.append(s.best.kept)).run()
    assert seen == [ALL, NONE, frozenset("a")]


def test_where_not_all_pairs_can_be_built_those_of_one_role_are_left_out():
    class Refusing(Measured):
        """No engine can be built with c quantized."""

        def __call__(self, kept, repeat):
            trial = super().__call__(kept, repeat)
            return trial if self.ok(kept) else None

        def ok(self, kept):
            return "c" in kept

    measure = Refusing({"a": 0.5, "b": 0.5, "c": 0.5})
    found = PayoffSearch(UNITS, measure).run()
    assert found.kept == frozenset("c") and found.best is not None and found.builds == 3
    assert found.reasons == {"c": Code.ROLE_NOT_BUILT(role="Conv [4, 4]")}
    measure.ok = lambda kept: kept == ALL
    nothing = PayoffSearch(UNITS, measure).run()
    assert nothing.kept == ALL and nothing.best is None
    assert set(nothing.reasons.values()) == {Code.NO_ENGINE_BUILT(quantized="int8", tried=3)}
    for builds in range(2, 6):
        assert PayoffSearch(UNITS, measure, builds).run().builds <= builds
