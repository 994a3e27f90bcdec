from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.conftest import MODELS, build, node, normal
from tests.large_models import block_samples, hold_to_limit, residual_blocks
from tests.toolkit.search.planted import chain, damage, feeds, simulation, trained
from toolkit import Model
from toolkit.contract.roles import Harm
from toolkit.data.dataset import CalibrationData
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.graph.large_models.memory import loaded
from toolkit.graph.proto import on_disk
from toolkit.report.findings import sentence
from toolkit.report.sections.search import layer_harms
from toolkit.search.causes import local_noise
from toolkit.search.causes.causes import ACTIVATIONS, Cause, CauseKind
from toolkit.search.causes.helpers import Helpers
from toolkit.search.causes.local_noise import measure
from toolkit.search.causes.ties import near_ties
from toolkit.search.causes.weak_spots import WeakSpot, alike, weak_spots
from toolkit.search.codes import CauseCode
from toolkit.search.sensitivity.measure import GroupResult, Sensitivity, exact
from toolkit.simulation.simulation import Simulation


def made_up(sim, **outcomes):
    """A sensitivity in which all layers are harmless but those given as (alone, without)."""
    quiet = Outcome(1e-8), Outcome(1e-3)
    groups = [GroupResult(g.name, g.op, *outcomes.get(g.name, quiet)) for g in sim.switches.groups]
    return Sensitivity("exact", groups, Outcome(1e-3))


def causes(spots, kind):
    return [cause for spot in spots for cause in spot.causes if cause.kind == kind]


def test_one_finding_of_several_layers_is_told_once():
    def cause(level, measured=True):
        why = CauseCode.FEW_LEVELS(sqnr_db=level) if measured else CauseCode.TIES_AT_OUTPUT(sqnr_db=level, flips=0.1)
        return Cause(CauseKind.ROUNDING, "", level, why, CauseCode.KEEP_OR_USE_METRIC())

    spots = [WeakSpot("a", 0.5, (cause(30.0), cause(9.0, False))), WeakSpot("b", 0.3, (cause(31.0),))]
    assert [[spot.node for spot, _ in group] for group in alike(spots)] == [["a", "b"], ["a"]]


def test_an_outlier_channel_is_named_with_what_helps():
    model = chain(6, 64)
    damage(model, "layer3", factor=2000.0)
    samples = feeds(64, 64)
    sim = simulation(model, samples)
    (spot, *_) = weak_spots(sim, exact(sim))
    assert spot.node == "layer3" and spot.blame > 0.5
    (uneven,) = [cause for cause in spot.causes if cause.kind == "uneven-channels"]
    # equalize works between Conv and Gemm: for a MatMul only smooth can help
    assert uneven.remedy == CauseCode.APPLY_PASS(passes=["smooth"]) and uneven.value > 100
    assert spot.to_json()["node"] == "layer3"


def test_each_layer_has_its_own_numbers(samples):
    sim = simulation(trained("strip_reader"), samples / "strip_calibration.npz", samples=48)
    spots = weak_spots(sim, exact(sim), worst=8, least=0.0)
    assert len(spots) == 8
    said = [cause.why.values for cause in causes(spots, "rounding")]
    assert len({(one["sqnr_db"], one["alone_db"]) for one in said}) == 8
    assert all(one["measured"] and one["alone_db"] is not None for one in said)
    assert all(sentence(cause.why) and sentence(cause.remedy) for spot in spots for cause in spot.causes)


def test_weights_of_layers_that_are_run_by_themselves_count_against_the_memory(tmp_path, monkeypatch, request):
    """Beside the sessions of a model of 2.28 GB they took a fifth of its weights."""
    hold_to_limit(monkeypatch, 60_000)
    monkeypatch.setattr(on_disk, "SPILL_BYTES", 0)
    request.addfinalizer(lambda: on_disk.set_array_memory(on_disk.ROOM))
    on_disk.set_array_memory(0)
    sim = simulation(Model.load(residual_blocks(tmp_path / "big.onnx", 64, 3)), block_samples(tmp_path / "s.npz", 64))
    counted, opened = [], local_noise.session
    monkeypatch.setattr(local_noise, "session", lambda *a, **k: (counted.append(loaded.reserved), opened(*a, **k))[1])
    before = loaded.reserved
    found = measure(sim, sim.names[:2])
    # the float weights, those rounded as they are, and those rounded by the method of least squares
    ways = 1 + 1 + any(way is not None for way in found[sim.names[0]].other)
    assert counted[0] - before == 2 * ways * 64 * 64 * 4
    assert loaded.reserved == before


def test_local_noise_is_that_of_each_operand():
    sim = simulation(chain(3), feeds(16))
    found = measure(sim, sim.names)
    assert list(found) == sim.names
    inputs = np.concatenate([feed.inputs["x"] for feed in sim.feeds]).astype(np.float64)
    weight = np.asarray(sim.model.constant(sim.model.node("layer0").inputs[1]), np.float64)
    scale = sim.config(()).scales["x"]
    rounded = np.clip(np.rint(inputs / scale), -128, 127) * scale
    exactly, moved = inputs @ weight, rounded @ weight
    expected = 10 * math.log10((exactly**2).sum() / ((exactly - moved) ** 2).sum())
    local = found["layer0"]
    assert local.sides[ACTIVATIONS] == pytest.approx(expected, abs=0.05)
    sum_of_both = -10 * math.log10(sum(10 ** (-level / 10) for level in local.sides.values()))
    assert local.both == pytest.approx(sum_of_both, abs=1.0)
    assert local.uneven["x"] == pytest.approx(np.abs(inputs).max(axis=0).max() / np.median(np.abs(inputs).max(axis=0)))


@pytest.mark.parametrize(("values", "count"), [(8 * 16, 8), (16 * 16 + 1, 16)])
def test_fewer_samples_tell_local_noise_where_they_have_values_enough(monkeypatch, values, count):
    monkeypatch.setattr(local_noise, "_ENOUGH", values)
    seen, add = list[np.ndarray](), local_noise._SingleLayer.add
    monkeypatch.setattr(local_noise._SingleLayer, "add", lambda self, read: (seen.append(read["x"]), add(self, read)))
    samples = feeds(64)
    measure(simulation(chain(1), samples), ["layer0"])
    used = np.concatenate(seen)
    assert len(used) == count
    # they stand for all
    places = [place for place, sample in enumerate(samples) if (used == sample["x"]).all(axis=1).any()]
    assert len(places) == count and places[count // 2] == 32


def test_harm_that_comes_together_and_harm_that_is_hidden():
    sim = simulation(chain(), feeds())
    spots = weak_spots(
        sim, made_up(sim, layer1=(Outcome(1e-5), Outcome(4e-4)), layer4=(Outcome(8e-4), Outcome(9.9e-4)))
    )
    by_node = {spot.node: spot for spot in spots}
    (together,) = [c for c in by_node["layer1"].causes if c.kind == "together"]
    assert together.value == pytest.approx(60)
    assert together.why.values == pytest.approx({"alone_db": 50.0, "full_db": 30.0, "without_db": 34.0}, abs=0.05)
    (hidden,) = [c for c in by_node["layer4"].causes if c.kind == "hidden"]
    assert hidden.value == pytest.approx(80) and hidden.remedy.code is CauseCode.KEEP_WITH_OTHERS
    assert "layer1" in hidden.remedy.values["others"] and "layer4" not in hidden.remedy.values["others"]


def test_a_layer_whose_noise_shows_only_together_names_no_others_where_none_shows_noise():
    """Of outputs that come in another shape no noise is known: the report broke off at a list of no names."""
    sim = simulation(chain(), feeds())
    silent = {group.name: (Outcome(0.0), Outcome(1e-3)) for group in sim.switches.groups}
    spots = weak_spots(sim, made_up(sim, **{**silent, "layer1": (Outcome(1e-5), Outcome(4e-4))}))
    (together,) = causes(spots, "together")
    assert together.remedy.code is CauseCode.KEEP_FLOAT and sentence(together.remedy)


def test_layers_that_really_hide_each_other_are_said_to():
    model = chain(8)
    damage(model, "layer1", factor=30_000)
    damage(model, "layer5", factor=30_000, channel=3)
    sim = simulation(model, feeds())
    spots = weak_spots(sim, exact(sim))
    assert {spot.node for spot in spots if any(c.kind == "hidden" for c in spot.causes)} & {"layer1", "layer5"}


def test_near_ties_at_the_output_are_named():
    sim = simulation(chain(), feeds())
    alone = Outcome(1e-3, agreement=0.99, flips=0.02, positions=100)
    (tie,) = causes(weak_spots(sim, made_up(sim, layer2=(alone, Outcome(1e-4))), worst=1), "near-ties")
    assert tie.why.code is CauseCode.TIES_AT_OUTPUT
    assert tie.why.values == pytest.approx({"sqnr_db": alone.sqnr_db, "flips": 0.02, "changed": 0.01})
    # what is expected is not said to have happened
    assert "expected to change the argmax of 2.0 % of positions like these (1.0 % of these changed)" in sentence(
        tie.why
    )


def two_heads():
    """``quiet`` feeds the first output alone, two layers the second, which so has more noise, ``trunk`` both."""
    proto = build(
        [
            node("MatMul", ["x", "t"], ["h"], name="trunk"), node("MatMul", ["h", "a"], ["first"], name="quiet"),
            node("MatMul", ["h", "b"], ["g"], name="loud"), node("Relu", ["g"], ["r"]),
            node("MatMul", ["r", "c"], ["second"], name="louder"),
        ],
        {"x": ["n", 16]}, {"first": ["n", 4], "second": ["n", 4]},
        {"t": normal(16, 16), "a": normal(16, 4, seed=1), "b": normal(16, 16, seed=2), "c": normal(16, 4, seed=3)},
    )  # fmt: skip
    return Model.from_proto(proto)


def test_a_layer_is_judged_at_the_outputs_that_it_feeds():
    sim = simulation(two_heads(), feeds())
    found = exact(sim)
    groups = {group.name: group for group in found.groups}
    assert found.full.output == "second" and dict(found.full.noises).keys() == {"first", "second"}
    assert found.full.at("second") == found.full.noise > found.full.at("first") > 0
    quiet = groups["quiet"]
    assert quiet.output == "first" and quiet.alone.at("second") == 0.0
    # without it the worst output is as it was, and its own is better
    assert quiet.without.noise == pytest.approx(found.full.noise)
    assert quiet.level_in(quiet.without) > quiet.level_in(found.full) + 1
    assert quiet.harm(found.full) == max(quiet.alone.noise, found.full.at("first") - quiet.without.at("first"))
    spots = {spot.node: spot for spot in weak_spots(sim, found, least=0.0)}
    assert not [cause for spot in spots.values() for cause in spot.causes if cause.kind == "hidden"]
    (harm,) = [one for one in layer_harms(found, ()) if one.node == "quiet"]
    assert (harm.output, harm.without_db) == ("first", pytest.approx(quiet.level_in(quiet.without)))
    assert harm.full_db == pytest.approx(quiet.level_in(found.full))
    loaded = Sensitivity.from_json(json.loads(json.dumps(found.to_json())))
    assert loaded.groups == found.groups and loaded.full == found.full


def test_what_is_little_of_the_whole_is_not_said_to_be_hidden():
    """A fortieth of the noise, which saves nothing: how errors happen to add up is more than that."""
    sim = simulation(chain(), feeds())
    found = made_up(sim, layer4=(Outcome(2.5e-5), Outcome(1e-3)), layer1=(Outcome(9e-4), Outcome(1e-4)))
    spots = weak_spots(sim, found, least=0.0)
    assert not [cause for spot in spots for cause in spot.causes if cause.kind == "hidden"]


@pytest.mark.parametrize(("op", "closest"), [("ArgMax", [5.0, 5.0, 1.0, 0.0]), ("TopK", [9.0, 5.0, 5.0, 0.0])])
def test_near_ties_of_a_decision_inside_the_model(op, closest):
    clear = [9.0, 5.0, 1.0, 0.0]
    eye = np.eye(4, dtype=np.float32)
    if op == "TopK":
        last = node("TopK", ["m", "two"], ["best", "y"], name="decide")
        outputs, extra = {"y": ["n", 2]}, {"two": np.int64([2])}
    else:
        last = node("ArgMax", ["m"], ["y"], name="decide", axis=1, keepdims=0)
        outputs, extra = {"y": ["n"]}, {}
    nodes = [node("MatMul", ["x", "w"], ["m"], name="layer"), last]
    model = Model.from_proto(
        build(nodes, {"x": ["n", 4]}, outputs, {"w": eye, **extra}, types={"y": TensorProto.INT64})
    )
    data = CalibrationData.open([{"x": np.float32([row])} for row in (clear, closest, clear, clear)], model)
    (found,) = near_ties(model, data, ["layer"]).values()
    assert (found.node, found.op, found.share) == ("decide", op, 0.25)


def test_a_small_layer_is_said_to_be_cheap_to_keep():
    sim = simulation(trained("digits_cnn"), str(MODELS / "digits_calibration.npz"), samples=32)
    spots = weak_spots(sim, exact(sim), worst=len(sim.names), least=0.0)
    found = {spot.node: cause for spot in spots for cause in spot.causes if cause.kind == "cheap"}
    assert "/head/Gemm" in found and found["/head/Gemm"].value < 0.03
    assert not set(found) >= set(sim.names)


def test_equalize_is_advised_where_it_can_work():
    model = trained("digits_uneven")
    helpers = Helpers(model)
    able = {name for name in (n.name for n in model.nodes) if Harm.UNEVEN_WEIGHTS in helpers.passes(name)}
    before = {n.name: n.inputs[1].name for n in model.nodes if len(n.inputs) > 1}
    assert able and all(model.node(name).op in ("Conv", "Gemm") for name in able)
    # the model is not changed by asking
    assert before == {n.name: n.inputs[1].name for n in model.nodes if len(n.inputs) > 1}
    # the first layer reads the image: nothing before it could take the factors
    first = next(n.name for n in model.nodes if n.op == "Conv")
    assert first not in able
    assert not any(Harm.UNEVEN_WEIGHTS in Helpers(chain()).passes(name) for name in ("layer0", "layer3"))


def test_a_range_that_another_method_betters_says_by_how_much_unless_the_search_took_it_already():
    first = simulation(chain(4, 32), feeds(32, 32))
    wide = replace(first.ranges.tensors["x"], amax=8 * first.ranges.tensors["x"].amax)
    ranges = replace(first.ranges, tensors={**first.ranges.tensors, "x": wide})
    sim = Simulation(first.model, ranges, first.data)
    found = exact(sim)

    def advice(taken):
        spots = weak_spots(sim, found, least=0.0, taken=taken)
        return [c.remedy.values for c in causes(spots, "rounding") if c.remedy.values.get("tensor") == "x"]

    (remedy,) = advice(())
    level = measure(sim, ["layer0"])["layer0"]
    best = max(db for (side, way), db in level.other.items() if side == ACTIVATIONS)
    assert (remedy["better_db"], remedy["own_db"]) == (best, level.sides[ACTIVATIONS])
    # eight times too wide a range costs 18 dB
    assert best - level.sides[ACTIVATIONS] == pytest.approx(18, abs=1.5)
    assert not advice(("x",))
    # a search that took the narrow range before it measured: the layer is judged with that one
    narrow = sim.rebased({"x": first.ranges.tensors["x"].amax})
    spots = weak_spots(narrow, exact(narrow), least=0.0)
    (said,) = [c.why.values for spot in spots if spot.node == "layer0" for c in spot.causes if c.kind == "rounding"]
    level = measure(first, ["layer0"])["layer0"].sides[ACTIVATIONS]
    assert said["levels_db"][said["operands"].index("activations")] == pytest.approx(level)
    assert not causes(spots, "shared-scale")


def test_a_decision_inside_a_subgraph_is_not_tapped():
    branch = onnx.helper.make_graph(
        [node("Neg", ["y"], ["inner"], name="negative"), node("ArgMax", ["inner"], ["b"], name="winner", axis=-1)],
        "branch", [], [onnx.helper.make_tensor_value_info("b", TensorProto.INT64, None)],
    )  # fmt: skip
    nodes = [
        node("MatMul", ["x", "w"], ["y"], name="layer"),
        node("If", ["condition"], ["z"], name="if", then_branch=branch, else_branch=branch),
    ]
    weights = {"w": np.eye(4, dtype=np.float32), "condition": np.array(True)}
    model = Model.from_proto(build(nodes, {"x": ["n", 4]}, {"z": None}, weights, types={"z": TensorProto.INT64}))
    data = CalibrationData.open([{"x": np.ones((1, 4), np.float32)}], model)
    assert near_ties(model, data, ["layer"]) == {}
