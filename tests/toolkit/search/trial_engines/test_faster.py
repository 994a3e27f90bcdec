"""No recipe ends with an engine slower than float: what is measured for that, what goes, and what is said of it."""

from __future__ import annotations

import pickle
from contextlib import contextmanager

import pytest

from passes.insert_qdq import InsertQDQ
from passes.search_precision import SearchPrecision
from tests.conftest import said
from tests.passes.test_only_if_faster import NAMES, PROFILES, chain, context_for, declined, encoder, quantized, verdict
from tests.toolkit.backends.payoff_stand_in import StandIn
from toolkit import Code, Precision
from toolkit.backends.backend import EngineSettings
from toolkit.base.errors import BackendError
from toolkit.base.places import working_at
from toolkit.contract.bench import NOISE, ratio_in_turn

EVEN = dict.fromkeys(NAMES, 1.0)


class Unlike(StandIn):
    """Times of its own for each profile."""

    def __init__(self, by_profile, **more):
        super().__init__(EVEN, {}, **more)
        self.by_profile = by_profile

    def truth(self, names):
        return {p: sum(cost[n] if n in names else 1.0 for n in NAMES) for p, cost in self.by_profile.items()}

    def _layers(self, nodes, inside, profile, number, opaque):
        self.quantized, self.factors = self.by_profile[profile], {profile: 1.0}
        return super()._layers(nodes, inside, profile, number, opaque)


def guarded(backend, step=None, **more):
    model, context = chain(), context_for(backend, **more)
    (step or InsertQDQ())(model, context)
    return quantized(model, NAMES), context


def test_pairs_that_pay_stay_and_two_engines_are_built():
    backend = StandIn(EVEN, dict.fromkeys(NAMES, 0.6))
    kept, context = guarded(backend)
    assert kept == set(NAMES) and len(backend.built) == 2 and verdict(context)["left"] == 5


def test_what_makes_the_engine_slower_goes_and_the_plan_says_so():
    backend = StandIn(EVEN, {**dict.fromkeys(NAMES, 0.9), "c1": 1.5, "c3": 1.4})
    kept, context = guarded(backend)
    assert kept == {"c0", "c2", "c4"} and len(backend.built) == 3
    assert {why.code for why in declined(context).values()} == {Code.LAYERS_SLOWER}
    asks = {name: context.plan.get(name) for name in ("c1", "c3", "c0")}
    assert [a.precision for a in asks.values()] == [Precision.FP16, Precision.FP16, Precision.INT8]


def test_a_layer_that_does_not_pay_stays_while_the_engine_is_no_slower():
    backend = StandIn(EVEN, {**dict.fromkeys(NAMES, 0.7), "c1": 1.2})
    assert guarded(backend)[0] == set(NAMES) and len(backend.built) == 2


def test_where_every_engine_is_slower_float_is_the_result_and_says_why():
    backend = StandIn(EVEN, dict.fromkeys(NAMES, 1.2))
    kept, context = guarded(backend)
    assert kept == set() and len(backend.built) <= 6
    (why,) = set(declined(context).values())
    assert why.code is Code.EVERY_ENGINE_SLOWER
    assert why.values["ms"][0] > 1.02 * why.values["without_ms"][0]


def test_no_profile_may_be_slower_whatever_others_gain():
    cost = {"small": {**dict.fromkeys(NAMES, 1.0), "c2": 1.3}, "large": dict.fromkeys(NAMES, 0.3)}
    kept, context = guarded(Unlike(cost), profiles=PROFILES)
    assert kept == {"c0", "c1", "c3", "c4"}
    assert declined(context)["c2"].values["profiles"] == ("small", "large")
    # the large one counts four times as much
    weighed = InsertQDQ(profile_weights={"small": 1, "large": 4})
    assert guarded(Unlike(cost), weighed, profiles=PROFILES)[0] == set(NAMES)


def test_borders_that_no_layers_time_shows_are_found_by_role_or_not_at_all():
    backend = StandIn(EVEN, dict.fromkeys(NAMES, 0.9))
    alone = backend.truth
    backend.truth = lambda names: {profile: ms + (1.0 if names else 0.0) for profile, ms in alone(names).items()}
    kept, _ = guarded(backend)
    assert kept == set() and 2 <= len(backend.built) <= 6


@pytest.mark.parametrize(
    ("step", "settings"),
    [
        (InsertQDQ(), EngineSettings(prefer="int8")),
        (InsertQDQ(), EngineSettings(measure=False)),
        (InsertQDQ(), EngineSettings(quantization="implicit")),
    ],
)
def test_nothing_is_built_where_int8_is_preferred_or_nothing_may_be_measured(step, settings):
    backend = StandIn(EVEN, dict.fromkeys(NAMES, 2.0))
    assert guarded(backend, step, settings=settings)[0] == set(NAMES) and backend.built == []


def test_a_search_told_to_look_for_int8_is_not_held_against_float():
    context = context_for(StandIn(EVEN, EVEN))
    assert SearchPrecision().guards_speed(context) and not SearchPrecision(prefer="int8").guards_speed(context)


def test_what_cannot_be_built_or_measured_in_turn_is_no_error_here():
    refused = StandIn(EVEN, EVEN, refuse=lambda names: "" if names else "out of memory")
    kept, context = guarded(refused)
    assert kept == set(NAMES) and "out of memory" in said(context.journal, Code.SPEED_UNKNOWN)[0]["why"]

    class Alone(StandIn):
        def in_turn(self, *given):
            raise BackendError("the GPU is busy", remedy="wait")

    kept, context = guarded(Alone(EVEN, dict.fromkeys(NAMES, 1.5)))
    assert kept == set() and "busy" in said(context.journal, Code.NOT_IN_TURN)[0]["why"]


class OtherGpus:
    """Two GPUs that build at once what they are asked for."""

    unlike: tuple[str, ...] = ()
    window = 2

    def __init__(self, full=False):
        self.built, self.given_up, self.full = [], 0, full

    @contextmanager
    def gpu_workers(self, work):
        self.answer = pickle.loads(pickle.dumps(work)).open()
        yield self

    def submit(self, order):
        return Built(self, self.answer(order))


class Built:
    def __init__(self, place, build):
        self.place, self.build = place, build

    def result(self):
        if self.place.full:
            raise BackendError("out of memory", remedy="free GPU memory")
        self.place.built.append(self.build)
        return self.build

    def give_up(self):
        self.place.given_up += 1


def test_engines_that_other_gpus_build_are_measured_here_and_change_nothing(monkeypatch):
    plain = {node.name: 1.0 for node in encoder().nodes if node.op == "MatMul"}
    times = {name: 0.5 if name.startswith(("up", "down")) else 1.5 for name in plain}

    def found(place):
        backend, model = StandIn(plain, times, opaque=True, noisy=False, refuse=nothing_refused), encoder()
        context = context_for(backend)
        with working_at(place):
            InsertQDQ(only_if_faster=True)(model, context)
        anew = said(context.journal, Code.TRIAL_BUILT_ANEW)
        return quantized(model, plain), verdict(context), len(backend.built), anew

    here, others = found(None), OtherGpus()
    there = found(others)
    assert there[:2] == here[:2] and others.built and others.given_up and not there[3]
    assert there[2] + len(others.built) == here[2]
    full = found(OtherGpus(full=True))
    assert full[:3] == here[:3] and "out of memory" in full[3][0]["why"]
    # engines of another kind of GPU would say nothing of this one
    monkeypatch.setattr("toolkit.backends.trials.prebuilds.engines_like", lambda: ("another GPU",))
    anew = found(OtherGpus())
    assert anew[:3] == here[:3] and "another GPU" in anew[3][0]["why"]


def nothing_refused(names):
    return ""


def test_engines_whose_files_have_gone_are_built_again_to_be_measured_in_turn(tmp_path):
    class Killed(StandIn):
        def in_turn(self, *given):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guarded(Killed(EVEN, dict.fromkeys(NAMES, 0.5)), folder=tmp_path)
    backend = StandIn(EVEN, dict.fromkeys(NAMES, 0.5))
    assert guarded(backend, folder=tmp_path)[0] == set(NAMES) and backend.built == []
    (tmp_path / "engines.jsonl").write_text("\n".join((tmp_path / "engines.jsonl").read_text().split("\n")[:3]) + "\n")
    for file in (tmp_path / "engines").iterdir():
        file.unlink()
    assert guarded(backend, folder=tmp_path)[0] == set(NAMES) and len(backend.built) == 2


def test_progress_says_what_is_built_and_how_long_the_last_took():
    told, context = [], context_for(StandIn(EVEN, dict.fromkeys(NAMES, 0.5)))
    context.bench.progress = lambda what, done, total: told.append(what)
    InsertQDQ()(chain(), context)
    first, second = told
    assert "without pairs" in first and "last" not in first and "5 quantized" in second and "took 1 s" in second


def test_noise_is_what_the_turns_ratios_lie_apart():
    assert ratio_in_turn([1.0] * 5, [2.0] * 5) == (0.5, NOISE)
    # clocks that rise for both are no noise, one turn that fails to is left out
    assert ratio_in_turn([1.0, 2.0, 3.0, 4.0, 9.0], [1.0, 2.0, 3.0, 4.0, 5.0]) == (1.0, NOISE)
    assert ratio_in_turn([1.0, 1.1, 1.2, 1.3, 1.4], [1.0] * 5) == (1.2, pytest.approx(0.1))
    assert ratio_in_turn([0.01] * 5, [0.01] * 5) == (1.0, pytest.approx(0.1))
