from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from passes.insert_qdq import InsertQDQ
from passes.search_precision import SearchPrecision
from tests.conftest import build, node, normal, ops, placeholder_context, residual_proto, run, said
from tests.toolkit.backends.payoff_stand_in import StandIn
from toolkit import Code, Extent, Model, Precision, Profiles, ShapeProfile
from toolkit.backends.backend import EngineSettings
from toolkit.backends.none import NoBackend
from toolkit.backends.trials.bench import EngineBench
from toolkit.base.errors import BackendError, RecipeError

NAMES = ["c0", "c1", "c2", "c3", "c4"]


def chain(count=5):
    """Convolutions one after another, a Relu between them."""
    nodes, weights, before = [], {}, "x"
    for i in range(count):
        weights[f"w{i}"] = normal(4, 4, 1, 1, seed=i, scale=0.4)
        nodes += [
            node("Conv", [before, f"w{i}"], [f"c{i}"]),
            node("Relu", [f"c{i}"], [f"r{i}" if i < count - 1 else "y"]),
        ]
        before = f"r{i}"
    return Model.from_proto(build(nodes, {"x": ["n", 4, 6, 6]}, {"y": ["n", 4, 6, 6]}, weights))


def encoder(layers=2):
    """MatMuls as in a transformer: four 8x8 a layer, one up, one down, with Relus between."""
    nodes, weights, before = [], {}, "x"
    for i in range(layers):
        for kind, (rows, columns) in {
            "q": (8, 8),
            "k": (8, 8),
            "v": (8, 8),
            "o": (8, 8),
            "up": (8, 32),
            "down": (32, 8),
        }.items():
            name = f"{kind}{i}"
            weights[f"w_{name}"] = normal(rows, columns, seed=len(weights), scale=0.3)
            nodes += [node("MatMul", [before, f"w_{name}"], [name]), node("Relu", [name], [f"r_{name}"])]
            before = f"r_{name}"
    nodes[-1].output[0] = "y"
    return Model.from_proto(build(nodes, {"x": ["n", 8]}, {"y": ["n", 8]}, weights))


PROFILES = Profiles(tuple(
    ShapeProfile(name, {"x": Extent((1, 4, 6, 6), (n, 4, 6, 6), (n, 4, 6, 6))}) for name, n in (("small", 1), ("large", 16))
))  # fmt: skip


def context_for(backend, folder=None, profiles=None, settings=None, dry_run=False):
    context = placeholder_context(**({"profiles": profiles} if profiles is not None else {}))
    # trials are built like the run's own engine unless a test says otherwise
    context.bench = EngineBench(
        backend, settings or EngineSettings(trial_level=3), shapes=context.profiles, folder=folder
    )
    context.folder, context.dry_run = folder, dry_run
    return context


def quantized(model, names):
    return {
        n
        for n in names
        if model.node(n).inputs[0].inputs and model.node(n).inputs[0].inputs[0].op == "DequantizeLinear"
    }


def declined(context):
    return {e.node: e.why.values["why"] for e in context.journal.of("declined") if e.why.code is Code.NOT_FASTER}


def verdict(context):
    return said(context.journal, Code.ONLY_IF_FASTER)[-1]


def test_two_of_five_that_do_not_pay_stay_float_and_the_others_quantized():
    model, x = chain(), normal(2, 4, 6, 6)
    before = run(model, {"x": x})
    backend = StandIn(dict.fromkeys(NAMES, 1.0), {"c0": 0.5, "c1": 1.6, "c2": 0.5, "c3": 1.4, "c4": 0.5})
    context = context_for(backend)
    InsertQDQ(only_if_faster=True)(model, context)
    assert quantized(model, NAMES) == {"c0", "c2", "c4"}
    assert set(declined(context)) == {"c1", "c3"}
    slower = declined(context)["c1"]
    assert slower.code is Code.LAYERS_SLOWER
    assert slower.values["ms"] == pytest.approx([1.6], rel=0.05)
    assert slower.values["without_ms"] == pytest.approx([1.0], rel=0.05)
    asks = {n: context.plan.get(n) for n in NAMES}
    assert {n: a.precision for n, a in asks.items()} == {
        n: Precision.FP16 if n in ("c1", "c3") else Precision.INT8 for n in NAMES
    }
    assert asks["c1"].free and asks["c1"].reason == slower and not asks["c0"].free
    assert len(backend.built) == 3
    after = run(model, {"x": x})
    assert np.abs(after[0] - before[0]).max() < 0.3 * np.abs(before[0]).max()
    assert (verdict(context)["left"], verdict(context)["units"], verdict(context)["quantized"]) == (3, 5, "int8")


def test_where_nothing_pays_all_pairs_are_removed_with_both_times():
    model = chain()
    plain = ops(model)
    backend = StandIn(dict.fromkeys(NAMES, 1.0), dict.fromkeys(NAMES, 1.2), noisy=False)
    context = context_for(backend)
    InsertQDQ(only_if_faster=True)(model, context)
    assert ops(model) == plain
    assert set(declined(context)) == set(NAMES)
    assert verdict(context)["left"] == 0
    for why in (*declined(context).values(), verdict(context)["why"]):
        assert why.code is Code.NO_ENGINE_FASTER
        assert why.values["ms"] == pytest.approx([5.2]) and why.values["without_ms"] == pytest.approx([5.0])
    assert {context.plan.get(n).precision for n in NAMES} == {Precision.FP16}


def test_a_gain_within_the_noise_removes_the_pairs():
    model = chain()
    backend = StandIn(dict.fromkeys(NAMES, 1.0), dict.fromkeys(NAMES, 0.995))
    InsertQDQ(only_if_faster=True)(model, context_for(backend))
    assert quantized(model, NAMES) == set()


@pytest.mark.parametrize("timed", [True, False])
def test_in_an_opaque_block_the_roles_that_do_not_pay_are_found(timed):
    model = encoder()
    names = [n.name for n in model.nodes if n.op == "MatMul"]
    pays = {n for n in names if n.startswith(("up", "down"))}
    backend = StandIn(
        dict.fromkeys(names, 1.0), {n: 0.4 if n in pays else 1.3 for n in names}, opaque=True, timed=timed
    )
    context = context_for(backend)
    InsertQDQ(only_if_faster=True)(model, context)
    assert quantized(model, names) == pays
    for why in declined(context).values():
        assert why.code is Code.ROLE_SLOWER
        assert (why.values["layers"], why.values["total"], why.values["role"]) == (8, 8, "MatMul [8, 8]")
    assert len(backend.built) <= 10


def test_half_of_a_role_is_found():
    model = encoder()
    names = [n.name for n in model.nodes if n.op == "MatMul"]
    # the second layer's projections pay by more than the first layer's cost: the whole role is worth it, half of it more
    cost = {n: (2.0 if n.endswith("0") else 0.2) if n[0] in "qkvo" else 0.5 for n in names}
    cost = {n: 1.5 if n[0] in "qkvo" and n.endswith("0") else c for n, c in cost.items()}
    backend = StandIn(dict.fromkeys(names, 1.0), cost, opaque=True)
    context = context_for(backend)
    InsertQDQ(only_if_faster=True)(model, context)
    assert quantized(model, names) == {n for n in names if cost[n] < 1}
    why = declined(context)["q0"].values
    assert (why["layers"], why["total"], why["role"]) == (4, 8, "MatMul [8, 8]")


def test_an_addition_follows_its_convolution_and_rules_stay_whole():
    model = Model.from_proto(residual_proto())
    names = ["c0", "c1", "c2", "g", "y"]
    backend = StandIn(dict.fromkeys(names, 1.0), {"c0": 0.5, "c1": 0.5, "c2": 1.9, "g": 1.0, "y": 0.5})
    context = context_for(backend)
    InsertQDQ(only_if_faster=True)(model, context)
    assert "c2" in declined(context) and quantized(model, ["c2"]) == set()
    # the branch's pair is there for c2's kernel only
    assert all(not (t.inputs and t.inputs[0].op == "DequantizeLinear") for t in model.node("a").inputs)
    assert quantized(model, ["c0", "c1", "y"]) == {"c0", "c1", "y"}
    twin = Model.from_proto(residual_proto())
    InsertQDQ(exclude=["c2"])(twin, placeholder_context())
    assert ops(twin) == ops(model)


def test_slower_in_one_profile_is_not_taken():
    model = chain()
    backend = StandIn(dict.fromkeys(NAMES, 1.0), dict.fromkeys(NAMES, 0.8), {"small": 1.0, "large": 8.0})
    truth = backend.truth
    backend.truth = lambda names: {**truth(names), "small": 5.0 + 0.3 * len(names)}
    context = context_for(backend, profiles=PROFILES)
    InsertQDQ(only_if_faster=True)(model, context)
    assert quantized(model, NAMES) == set()
    indifferent = chain()
    context = context_for(backend, profiles=PROFILES)
    InsertQDQ(only_if_faster=True, profile_weights={"small": 0})(indifferent, context)
    assert quantized(indifferent, NAMES) == set(NAMES)


def test_profile_weights_are_checked():
    backend = StandIn(dict.fromkeys(NAMES, 1.0), dict.fromkeys(NAMES, 0.5), {"small": 1.0, "large": 8.0})
    for weights, text in (({"tiny": 1}, "names the profile 'tiny'"), ({"small": 0, "large": 0}, "0 for every profile")):
        with pytest.raises(RecipeError, match=text):
            InsertQDQ(only_if_faster=True, profile_weights=weights)(chain(), context_for(backend, profiles=PROFILES))


def test_an_engine_that_cannot_be_built_is_passed_over_and_said():
    model = chain()
    backend = StandIn(dict.fromkeys(NAMES, 1.0), {**dict.fromkeys(NAMES, 0.5), "c1": 1.6, "c3": 1.4},
                      refuse=lambda names: "no kernel" if len(names) == 3 else "")  # fmt: skip
    context = context_for(backend)
    InsertQDQ(only_if_faster=True)(model, context)
    (failed,) = said(context.journal, Code.TRIAL_FAILED)
    assert (failed["quantized"], failed["units"]) == (3, 5) and "no kernel" in failed["error"]
    assert quantized(model, NAMES) == {"c0", "c2", "c3", "c4"}
    only_float = context_for(StandIn(backend.plain, backend.quantized, refuse=lambda names: "no" if names else ""))
    InsertQDQ(only_if_faster=True)(bare := chain(), only_float)
    assert quantized(bare, NAMES) == set() and declined(only_float)["c0"].code is Code.NO_ENGINE_BUILT
    with pytest.raises(BackendError, match="out of memory"):
        InsertQDQ(only_if_faster=True)(chain(), context_for(StandIn({}, {}, refuse=lambda names: "out of memory")))


def test_what_was_measured_is_found_again_after_a_kill(tmp_path):
    cost = {"c0": 0.5, "c1": 1.6, "c2": 0.5, "c3": 1.4, "c4": 0.5}

    class Killed(StandIn):
        def build(self, *args, **more):
            if len(self.built) == 2:
                raise KeyboardInterrupt
            return super().build(*args, **more)

    first = Killed(dict.fromkeys(NAMES, 1.0), cost)
    with pytest.raises(KeyboardInterrupt):
        InsertQDQ(only_if_faster=True)(chain(), context_for(first, tmp_path))
    so_far = json.loads((tmp_path / "faster.json").read_text())
    assert not so_far["done"] and len(so_far["trials"]) == 2 and so_far["best"]["of_float"] <= 1
    (tmp_path / "qtool-trial.onnx.data").write_bytes(b"of a build that was killed")
    second = StandIn(dict.fromkeys(NAMES, 1.0), cost)
    model, context = chain(), context_for(second, tmp_path)
    InsertQDQ(only_if_faster=True)(model, context)
    assert len(second.built) == 1 and quantized(model, NAMES) == {"c0", "c2", "c4"}
    assert verdict(context)["reused"] == 2
    written = json.loads((tmp_path / "faster.json").read_text())
    assert written["done"] and set(written["pairs_removed"]) == {"c1", "c3"}
    lines = (tmp_path / "engines.jsonl").read_text().splitlines()
    # the first says what they belong to, three are of engines, two of engines in turn with the float one
    assert len(lines) == 6 and not list(tmp_path.glob("qtool-*"))
    other = context_for(
        StandIn(dict.fromkeys(NAMES, 1.0), cost), tmp_path, settings=EngineSettings(sparse_weights=True, trial_level=3)
    )
    InsertQDQ(only_if_faster=True)(chain(), other)
    assert len(other.bench.builder.built) == 3


def test_trials_are_built_at_a_lower_level_and_what_is_taken_at_the_runs_own():
    backend = StandIn(dict.fromkeys(NAMES, 1.0), {**dict.fromkeys(NAMES, 0.5), "c1": 1.6})
    model, context = chain(), context_for(backend, settings=EngineSettings())
    InsertQDQ(only_if_faster=True)(model, context)
    assert quantized(model, NAMES) == set(NAMES) - {"c1"}
    # float, all and the winner as trials, then float and the winner as they will be built
    assert backend.levels == [2, 2, 2, None, None]
    assert [len(inside) for inside in backend.built] == [0, 5, 4, 0, 4]
    few = StandIn(backend.plain, backend.quantized)
    InsertQDQ(only_if_faster=True, builds=4)(chain(), context_for(few, settings=EngineSettings()))
    assert set(few.levels) == {None}
    bench = EngineBench(backend, EngineSettings(optimization_level=1))
    assert not bench.has_trial_level and EngineBench(backend, EngineSettings(trial_level=0)).has_trial_level


def test_measurements_are_not_found_again_for_another_calibration_profile():
    prints = {
        EngineBench(StandIn({}, {}), shapes=PROFILES, calibration_profile=name).fingerprint()
        for name in ("small", "large", "small")
    }
    assert len(prints) == 2


def test_nothing_is_built_where_nothing_can_be_quantized():
    backend = StandIn({}, {})
    context = context_for(backend)
    InsertQDQ(only_if_faster=True, exclude_ops=["Conv"])(chain(), context)
    assert backend.built == []


def test_without_a_backend_that_measures_it_is_refused():
    for backend, chosen, text in (
        (NoBackend(), EngineSettings(), "no backend here builds an engine"),
        (StandIn({}, {}), EngineSettings(measure=False), "measure is false"),
    ):
        for step in (InsertQDQ(only_if_faster=True), SearchPrecision(only_if_faster=True)):
            with pytest.raises(RecipeError, match=f"{text}.*Run on a machine with a GPU"):
                step(chain(), context_for(backend, settings=chosen))


def test_a_dry_run_builds_nothing_and_says_what_a_run_would_do():
    backend = StandIn(dict.fromkeys(NAMES, 1.0), dict.fromkeys(NAMES, 2.0))
    context = context_for(backend, dry_run=True)
    InsertQDQ(only_if_faster=True)(chain(), context)
    assert backend.built == [] and said(context.journal, Code.DRY_RUN) == [{"step": "engines"}]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    cost=st.lists(st.floats(0.6, 1.6), min_size=5, max_size=5),
    border=st.floats(0.0, 0.4),
    opaque=st.booleans(),
    builds=st.integers(2, 10),
)
def test_never_slower_than_float_by_the_truth(cost, border, opaque, builds):
    """Whatever units cost alone and at the borders between types, which no unit's own time shows."""
    backend = StandIn(dict.fromkeys(NAMES, 1.0), dict(zip(NAMES, cost)), opaque=opaque)
    alone = backend.truth

    def truth(names):
        edges = sum((a in names) != (b in names) for a, b in pairwise(NAMES))
        return {profile: time + border * edges for profile, time in alone(names).items()}

    backend.truth = truth
    model = chain()
    InsertQDQ(only_if_faster=True, builds=builds)(model, context_for(backend))
    assert truth(quantized(model, NAMES))["default"] <= truth(set())["default"]
    assert len(backend.built) <= builds
