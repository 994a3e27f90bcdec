from __future__ import annotations

import gc
import sys
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from passes.insert_qdq import InsertQDQ
from tests.conftest import MODELS, build, node, normal, residual_proto
from tests.toolkit.search.planted import chain, feeds, simulation, trained
from toolkit import Context, Model
from toolkit.base.errors import PassError
from toolkit.base.spread import spread_indices
from toolkit.calibration.weights import weight_amax
from toolkit.graph.large_models.memory import loaded
from toolkit.graph.sessions.session import session
from toolkit.simulation import switches
from toolkit.simulation.cuts import KeptCuts, affordable_cuts
from toolkit.simulation.loaded import PlannedPiece
from toolkit.simulation.paired_graph import PairedGraph
from toolkit.simulation.piece_builder import FIXED, FULL, SWITCHED, OwnState
from toolkit.simulation.rounder import Rounder
from toolkit.simulation.simulation import Simulation
from toolkit.simulation.switches import Config


def noise_of_real_pairs(sim: Simulation, model: Model, kept: list[str], **settings: object) -> float:
    """Noise over signal with the pairs that insert_qdq really inserts."""
    twin = model.copy()
    InsertQDQ(exclude=kept, **settings)(twin, Context(known_ranges=sim.ranges))
    signal = noise = 0.0
    wanted, found = session(model), session(twin)
    for feed in sim.feeds:
        (a,), (b,) = (one.run(feed.inputs).values() for one in (wanted, found))
        signal += float(np.sum(np.square(a, dtype=np.float64)))
        noise += float(np.sum(np.square((a - b).astype(np.float64))))
    return noise / signal


@pytest.mark.parametrize(("name", "data"), [("digits_cnn", "digits"), ("strip_reader", "strip")])
def test_every_state_is_what_insert_qdq_gives(samples, name, data):
    model = trained(name)
    # one sample of 32 has an activation halfway between two integers, and which it becomes differs with the fusions
    sim = simulation(model, samples / f"{data}_calibration.npz", batch=16, samples=24)
    names = sim.names
    for kept in ([], names[2:4], names[1:], names[::2], names[:-1]):
        assert sim.without(kept).noise == pytest.approx(noise_of_real_pairs(sim, model, kept), rel=1e-4)


def test_states_that_are_kept_count_against_the_memory_after_a_change_of_ranges():
    gc.collect()  # what other tests' simulations have reserved would be given back in the middle
    before, sim = loaded.reserved, simulation(chain(), feeds(32), batch=4)
    runner = sim.runner
    size = loaded.reserved - before
    twin = sim.rebased({"x": 0.5})
    runner.forget(float_too=False)
    kept = [value for one in twin.runner._kept for state in one.states.values() for found in state.values() if found
            for value in found.values()]  # fmt: skip
    assert 0 < sum(value.nbytes for value in kept) <= loaded.reserved - before == size


def test_a_simulation_that_has_rested_gives_the_same(samples, monkeypatch):
    monkeypatch.setattr("toolkit.graph.proto.light.PROTOBUF_LIMIT", 0)
    model = trained("digits_cnn")
    sim = simulation(model, samples / "digits_calibration.npz", batch=16, samples=24)
    before = [sim.without(kept).noise for kept in ([], sim.names[:2])]
    sim.rest()
    assert [sim.without(kept).noise for kept in ([], sim.names[:2])] == before


def test_residual_branches_follow_what_is_kept():
    model = Model.from_proto(residual_proto())
    samples = [{"x": row[None]} for row in normal(12, 3, 8, 8, seed=5)]
    sim = simulation(model, samples)
    for kept in ([], ["c2"], ["c1", "c2"], ["c0"], ["y"]):
        assert sim.without(kept).noise == pytest.approx(noise_of_real_pairs(sim, model, kept), rel=1e-4)


def test_a_plan_that_mixes_many_stages_has_a_session_without_switches(samples):
    sim = simulation(trained("digits_cnn"), samples / "digits_calibration.npz", batch=16, samples=24)
    runner, stages = sim.runner, sim.cutter.stages
    config = sim.config(sim.names[1::2])
    (plan,) = runner._plan(config, runner.signatures(config), 0, apart=False)
    mixed = [(kind, stage) for kind, stage in zip(plan._kinds, stages) if isinstance(kind, OwnState)]
    assert len(mixed) > 1 and all(kind.on == config.on & set(stage) for kind, stage in mixed)
    # of other ranges, scales are given, and all that have the same pairs share a session
    for kept in (sim.names[1::2], []):
        steps = []
        for factor in (2, 3):
            other = sim.config(kept, {tensor: factor * amax for tensor, amax in sim.switches.amax.items()})
            (loud,) = runner._plan(other, runner.signatures(other), 0, apart=False)
            steps.append(loud._kinds)
        assert steps[0] == steps[1] and not set(steps[0]) & {SWITCHED, FIXED}
    other = sim.config(sim.names[1::2], {tensor: 2 * amax for tensor, amax in sim.switches.amax.items()})
    (loud,) = runner._plan(other, runner.signatures(other), 0, apart=False)
    for step, state in ((plan, config), (loud, other)):
        piece = sim.cutter.piece(0, step._kinds)
        nodes = piece.model.whole().graph.node
        assert not piece.switches and not any(one.op_type == "If" for one in nodes)
        assert sum(one.op_type == "QuantizeLinear" for one in nodes) == len(state.scales)
        assert set(piece.scales) == (set() if step is plan else set(other.scales))
    switched = runner._plan(config, runner.signatures(config), 0, apart=True)
    for feed in sim.feeds:
        (mixed, *_), (apart, *_) = (runner._advance(steps, dict(feed.inputs), set()) for steps in ([plan], switched))
        np.testing.assert_allclose(mixed[sim.outputs[0]], apart[sim.outputs[0]], rtol=1e-3, atol=1e-5)
    assert (
        sim.without(sim.names[1::2], {t: 2 * a for t, a in sim.switches.amax.items()}).noise
        > 2 * sim.without(sim.names[1::2]).noise
    )


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("read_twice", [False, True])
def test_what_is_padded_with_zeros_gets_the_pair_of_the_padded_tensor(value, read_twice):
    nodes = [
        node("Conv", ["x", "w0"], ["a"], name="first", pads=[1, 1, 1, 1]), node("Relu", ["a"], ["b"]),
        node("Pad", ["b", "pads", "value"], ["c"], name="pad"), node("Conv", ["c", "w1"], ["d"], name="second"),
        node("Sigmoid", ["c" if read_twice else "d"], ["gate"]), node("Mul", ["d", "gate"], ["y"]),
    ]  # fmt: skip
    weights = {
        "w0": normal(8, 3, 3, 3), "w1": normal(8, 8, 1, 1, seed=1), "value": np.float32(value),
        "pads": np.array([0, 0, 0, 0, 0, 0, 1, 1]),
    }  # fmt: skip
    model = Model.from_proto(build(nodes, {"x": ["n", 3, 8, 8]}, {"y": ["n", 8, 9, 9]}, weights))
    sim = simulation(model, [{"x": row[None]} for row in normal(8, 3, 8, 8, seed=5)])
    made = sim.cutter.piece(0, [FULL] * len(sim.cutter.stages)).model.whole()
    makers = {one.output[0]: one for one in made.graph.node}
    second = next(one for one in made.graph.node if one.name == "second")
    before = makers[second.input[0]].op_type
    assert before == ("DequantizeLinear" if value else "Pad")
    # who reads it otherwise has what is padded without a pair
    assert ("c" in makers) == (read_twice or bool(value))
    assert sim.without([]).noise == pytest.approx(noise_of_real_pairs(sim, model, []), rel=1e-6)
    assert sim.without([]).noise > 0


def test_the_scales_of_a_weight_are_looked_for_once(samples, monkeypatch):
    asked, find = [], Rounder.scale
    monkeypatch.setattr(
        Rounder, "scale", lambda self, tensor, *args: (asked.append(tensor), find(self, tensor, *args))[1]
    )
    sim = simulation(trained("digits_cnn"), samples / "digits_calibration.npz", batch=16, samples=24, weights="mse")
    for kept in ([], sim.names[:2], sim.names[::2]):
        sim.without(kept)
    assert len(asked) == len(set(asked)) > 2


def test_a_weight_that_other_forms_have_too_is_looked_at_once(samples, monkeypatch):
    looked = []

    def watched(values, *given):
        looked.append(values.shape)
        return weight_amax(values, *given)

    monkeypatch.setattr("toolkit.simulation.rounder.weight_amax", watched)
    monkeypatch.setattr("toolkit.simulation.rounder._known", OrderedDict())
    model = trained("digits_cnn")
    first = simulation(model, samples / "digits_calibration.npz", batch=16, samples=24, weights="mse")
    before, count = first.without(()), len(looked)
    last = model.node(first.names[-1])
    last.inputs[1].values = np.asarray(model.constant(last.inputs[1])) * 2
    second = simulation(model, samples / "digits_calibration.npz", batch=16, samples=24, weights="mse")
    assert second.without(()).noise == pytest.approx(before.noise, rel=0.5) and len(looked) == count + 1


def test_an_output_that_is_a_constant_is_one_of_every_state():
    anchors = normal(4, 2)
    proto = build(
        [node("MatMul", ["x", "w"], ["y"]), node("Constant", [], ["a"], value=numpy_helper.from_array(anchors))],
        {"x": ["n", 8]}, {"y": ["n", 4], "a": [4, 2]}, {"w": normal(8, 4, seed=1)},
    )  # fmt: skip
    sim = simulation(Model.from_proto(proto), [{"x": row[None]} for row in normal(12, 8, seed=2)])
    assert sim.outputs == ["y", "a"] and sim.without([]).sqnr_db > 20


def test_fp8_and_mse_weights():
    model = chain()
    for settings in ({"dtype": "fp8"}, {"weights": "mse"}):
        precision = {"precision": "fp8"} if "dtype" in settings else settings
        from toolkit import Precision

        given = {k: Precision(v) if k == "precision" else v for k, v in precision.items()}
        sim = simulation(model, feeds(), **given)
        assert sim.without([]).noise == pytest.approx(noise_of_real_pairs(sim, model, [], **settings), rel=1e-4)


def test_float_state_is_silent_and_alone_is_the_complement():
    sim = simulation(chain(), feeds())
    assert sim.without(sim.names).noise < 1e-12
    assert sim.alone("layer2").noise == sim.without([n for n in sim.names if n != "layer2"]).noise


def test_numbers_do_not_depend_on_threads_or_stages():
    model = trained("digits_cnn")
    path = str(MODELS / "digits_calibration.npz")
    one, two = (simulation(model, path, batch=16, threads=t, metric="top1") for t in (1, 2))
    for name in one.names[:4]:
        assert one.alone(name) == two.alone(name)
    other = simulation(model, path, batch=16, stages=1, metric="top1")
    assert other.alone(one.names[1]).noise == pytest.approx(one.alone(one.names[1]).noise, rel=1e-4)


def test_an_unknown_layer_is_named_with_its_neighbours():
    with pytest.raises(PassError, match="layer3"):
        simulation(chain(), feeds()).without(["layer33"])


def test_a_replaced_range_is_used():
    sim = simulation(chain(), feeds())
    assert sim.alone("layer0", {"x": 0.1}).noise > 10 * sim.alone("layer0").noise


def test_what_is_kept_of_placements_is_bounded_and_no_use_is_forgotten(monkeypatch):
    monkeypatch.setattr(switches, "_PLACEMENTS", 2)
    sim = simulation(Model.from_proto(residual_proto()), [{"x": row[None]} for row in normal(4, 3, 8, 8, seed=5)])
    before = sim.switches.uses
    assert any(before.values())
    for name in sim.names:
        sim.without([name])
        sim.alone(name)
    assert len(sim.switches._placements) <= 2
    assert all(set(indices) <= set(sim.switches.uses[node]) for node, indices in before.items())


def test_what_is_forgotten_is_computed_again_with_the_same_numbers():
    sim = simulation(trained("digits_cnn"), str(MODELS / "digits_calibration.npz"), batch=16, samples=32)
    kept = sim.names[-2:]
    before = sim.without(kept)
    sim.runner.forget()
    assert not sim.runner._kept and not sim.runner._loaded
    assert sim.without(kept).noise == pytest.approx(before.noise, rel=1e-6)


def test_a_state_that_is_run_on_more_and_more_batches_is_what_it_is_on_all():
    sim = simulation(chain(), feeds(32), batch=4)
    runner, config = sim.runner, sim.config(sim.names[2:])
    assert sorted(runner.order) == list(range(8)) and runner.order[:2] == [0, 4]
    one, spent = runner.probe(config, keep=True), []
    for count in (1, 2, 8):
        before = runner.spent
        part = one.run(count)
        spent.append(runner.spent - before)
    whole = runner.run(config)
    assert part.noise == pytest.approx(whole.noise, rel=1e-6) and len(part.parts) == 8
    assert runner.float_on(2).noise == 0.0 and one.run(2).noise != part.noise
    before = runner.spent
    assert one.run(2) == one.run(2) and runner.spent == before
    assert runner.price(config, 4) == pytest.approx(runner.price(config) / 2)
    assert runner.price(Config()) == 0.0 < runner.price(config) < runner.price(sim.config(()))


def test_a_state_that_begins_like_one_that_is_kept_goes_on_from_there():
    sim = simulation(chain(), feeds(16), batch=4)
    runner = sim.runner
    kept = runner.probe(sim.config(sim.names[-1:]), keep=True)
    kept.run()
    runner.anchor(kept)
    other = runner.probe(sim.config(sim.names[-2:]))
    assert 0 < runner._known_until(other, 0) < runner._count
    assert other.run().noise == pytest.approx(simulation(chain(), feeds(16), batch=4).without(sim.names[-2:]).noise)


def test_little_memory_gives_the_same_numbers():
    model = trained("digits_cnn")
    much, little = (
        simulation(model, str(MODELS / "digits_calibration.npz"), batch=16, samples=32, memory=memory)
        for memory in (1 << 30, 1 << 14)
    )
    kept = much.names[3:]
    assert much.without(kept).noise == pytest.approx(little.without(kept).noise, rel=1e-4)
    assert len(little.runner._loaded) < len(much.runner._loaded)


def test_a_shape_that_crosses_a_cut_keeps_its_length():
    """torch's ``interpolate(size=other.shape[2:])``: sizes are cast, joined and read after the layers in between."""
    pads, ints = {"pads": [1, 1, 1, 1]}, {"lo": [2], "hi": [4], "zero": [0], "two": [2]}
    proto = build(
        [
            node("Shape", ["x"], ["of x"]), node("Slice", ["of x", "lo", "hi", "zero"], ["area"]),
            node("Conv", ["x", "w0"], ["c0"], "c0", strides=[2, 2], **pads), node("Relu", ["c0"], ["r0"]),
            node("Conv", ["r0", "w1"], ["c1"], "c1", **pads), node("Relu", ["c1"], ["r1"]),
            node("Conv", ["r1", "w1"], ["c2"], "c2", **pads), node("Cast", ["area"], ["cast"], to=TensorProto.INT64),
            node("Shape", ["c2"], ["of c"]), node("Slice", ["of c", "zero", "two", "zero"], ["first"]),
            node("Concat", ["first", "cast"], ["sizes"], axis=0), node("Resize", ["c2", "", "", "sizes"], ["up"]),
            node("Conv", ["up", "w1"], ["y"], "c3", **pads),
        ],
        {"x": ["n", 3, "h", "w"]}, {"y": ["n", 8, "h", "w"]},
        {"w0": normal(8, 3, 3, 3), "w1": normal(8, 8, 3, 3, seed=1, scale=0.2),
         **{name: np.asarray(value, np.int64) for name, value in ints.items()}},
    )  # fmt: skip
    samples = [{"x": normal(1, 3, 8, 8 + 2 * (seed % 2), seed=seed)} for seed in range(8)]
    model = Model.from_proto(proto)
    sim = simulation(model, samples, stages=4)
    for kept in ([], ["c1"], ["c0", "c2"]):
        assert sim.without(kept).noise == pytest.approx(noise_of_real_pairs(sim, model, kept), rel=1e-4)


def test_a_hidden_size_that_crosses_a_cut_is_known_behind_it():
    """ONNX computes the output of an Attention of fewer key heads from the hidden size, as if an unknown one were 0."""
    proto = build(
        [
            *(node("MatMul", ["x", f"w {name}"], [name], f"{name} layer") for name in "qkv"),
            node("Tanh", ["q"], ["tanh q"]), node("Tanh", ["k"], ["tanh k"]),
            node("Attention", ["tanh q", "tanh k", "v"], ["a"], q_num_heads=4, kv_num_heads=2),
            node("MatMul", ["a", "w o"], ["o"], "o layer"), node("Add", ["x", "o"], ["r"]),
            node("MatMul", ["r", "w q"], ["y"], "last"),
        ],
        {"x": ["n", "t", 16]}, {"y": ["n", "t", 16]},
        {f"w {name}": normal(16, 8 if name in "kv" else 16, seed=seed, scale=0.2) for seed, name in enumerate("qkvo")},
        opset=23,
    )  # fmt: skip
    model = Model.from_proto(proto)
    sim = simulation(model, [{"x": normal(1, 3 + seed % 2, 16, seed=seed)} for seed in range(8)], stages=6)
    for kept in ([], ["q layer"], ["o layer", "last"]):
        assert sim.without(kept).noise == pytest.approx(noise_of_real_pairs(sim, model, kept), rel=1e-4)


def test_shapes_that_the_file_declares_of_one_input_size_do_not_fix_the_size_at_the_cuts():
    """As after an edit that makes the inputs of an exported model dynamic, and leaves the shapes of inner tensors."""
    feeds = [{"x": normal(1, 3 + seed % 2, 16, seed=seed)} for seed in range(8)]
    found = []
    for inner in ([1, 3, 16], None):
        layers = [node("MatMul", ["x" if i == 0 else f"r{i - 1}", f"w{i}"], [f"m{i}"], f"layer{i}") for i in range(6)]
        proto = build(
            [one for i, layer in enumerate(layers) for one in (layer, node("Relu", [f"m{i}"], [f"r{i}"]))],
            {"x": ["n", "t", 16]}, {"r5": None}, {f"w{i}": normal(16, 16, seed=i, scale=0.3) for i in range(6)},
        )  # fmt: skip
        if inner is not None:
            proto.graph.value_info.extend(
                helper.make_tensor_value_info(f"r{i}", TensorProto.FLOAT, inner) for i in range(5)
            )
        sim = simulation(Model.from_proto(proto), feeds, stages=4, batch=2)
        found.append([sim.without(kept).noise for kept in ([], ["layer2"], ["layer5"])])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("resized", "inferred", "computed"),
    [
        (node("Resize", ["c", "", "factors"], ["m"]), 6, 7),
        (node("MaxPool", ["c"], ["m"], kernel_shape=[2, 2], strides=[3, 3], pads=[1] * 4, ceil_mode=1), 5, 4),
    ],
    ids=["Resize", "MaxPool"],
)
def test_sizes_that_onnx_infers_otherwise_than_onnxruntime_stay_open_at_the_cuts(resized, inferred, computed):
    layers = [node("Conv", [a, "w"], [b], b) for a, b in (("x", "c"), ("m", "d"), ("d", "e"))]
    constants = {"w": normal(8, 8, 1, 1, scale=0.3), "factors": np.array([1, 1, 0.7, 0.7], np.float32)}
    model = Model.from_proto(
        build([layers[0], resized, *layers[1:]], {"x": ["n", 8, 10, 10]}, {"e": None}, constants, opset=17)
    )
    images = [{"x": normal(1, 8, 10, 10, seed=seed)} for seed in range(4)]
    assert model.facts().shapes["m"][0][2] == inferred
    assert session(model, ["m"]).run(images[0])["m"].shape[2] == computed
    sim = simulation(model, images, stages=3, batch=2)
    for kept in ([], ["d"], ["e"]):
        assert sim.without(kept).noise == pytest.approx(noise_of_real_pairs(sim, model, kept), rel=1e-4)


def test_other_ranges_leave_what_the_float_model_is_at_the_cuts():
    sim = simulation(chain(), feeds(32), batch=4)
    late = sim.switches.alone(sim.names[-1])
    twin = sim.rebased({"x": 0.5})
    sim.runner.forget(float_too=False)
    for runner in (sim.runner, twin.runner):
        assert [set(one.states) for one in runner._kept] == [runner._cuts.fine | runner._cuts.rest]
        # the last layer alone differs, so that nothing before it is computed again
        assert runner._known_until(runner.probe(late), 0) == max(set(range(runner._count)) & runner._cuts.of(0))
    sim.runner.forget()
    assert not sim.runner._kept and twin.runner._kept


@pytest.mark.parametrize("weights", [1 << 20, 0])
def test_a_form_of_which_the_float_outputs_are_known_runs_it_as_far_as_states_begin_like_it(monkeypatch, weights):
    """In one piece, and stage by stage."""
    monkeypatch.setattr("toolkit.simulation.runner._JOINED_BYTES", weights)
    sim = simulation(chain(6), feeds(32), batch=1, stages=6)
    alone = [sim.alone(name) for name in sim.names]
    late, ran = sim.without(sim.names[:4]), []
    run = PlannedPiece.run

    def watched(piece, state):
        ran.append(piece)
        return run(piece, state)

    monkeypatch.setattr(PlannedPiece, "run", watched)
    whole = sim.on(sim.settings)
    assert whole.runner and len(ran) >= 32 * 6
    ran.clear()
    form = sim.on(sim.settings)
    form.compared_like(sim, begins=True)
    assert form.ran and form.runner.float_outcome == sim.runner.float_outcome
    # one batch to see what it takes, and the few on which layers are measured one by one
    assert len(ran) <= (1 + 2) * 6
    assert form.without(form.names[:4]) == late
    assert [form.alone(name) for name in form.names] == alone
    plain = sim.on(sim.settings)
    plain.compared_like(sim)
    ran.clear()
    assert plain.runner and not ran and plain.without(plain.names[:4]) == late


def test_a_simulation_at_rest_keeps_its_states_and_no_session():
    sim = simulation(trained("digits_cnn"), str(MODELS / "digits_calibration.npz"), batch=16, samples=32)
    before, kept = sim.without(sim.names[:1]), len(sim.runner._kept)
    sim.rest()
    assert not len(sim.runner._loaded) and len(sim.runner._kept) == kept == 2
    assert sim.without(sim.names[:1]) == before


def test_of_the_cuts_those_are_kept_that_save_most_for_their_bytes():
    sizes = {1: 50.0, 2: 300.0, 3: 20.0, 4: 20.0, 5: 5.0, 6: 1.0}
    assert affordable_cuts(sizes, 4 * 400.0) == set(sizes)
    # all but the large one, which a place every second stage would have had
    assert affordable_cuts(sizes, 4 * 100.0) == {1, 3, 4, 5, 6}
    assert affordable_cuts(sizes, 4 * 30.0) == {3, 5, 6}
    # where the state ends is known of each that was run
    assert affordable_cuts(sizes, 0.0) == {6}


def test_a_few_batches_are_kept_at_finer_cuts_and_prices_know_it():
    sizes = {1: 320.0, 2: 320.0, 3: 320.0, 4: 32.0}
    cuts = KeptCuts.affordable(sizes, 2000.0, spread_indices(32), joins=False)
    assert cuts.first == {0, 16} and cuts.fine == {1, 2, 3, 4} and cuts.rest == {2, 4} and cuts.size <= 2000
    assert cuts.of(16) == cuts.fine and cuts.of(1) == cuts.rest
    assert [cuts.before(stage, 0) for stage in (0, 3, 4)] == [0, 3, 4] and cuts.before(3, 5) == 2
    # of what is run in one piece fewer states are kept
    assert len(KeptCuts.affordable(sizes, 2400.0, spread_indices(32), joins=True).rest) == 3

    sim = simulation(chain(12), feeds(64), batch=2, memory=100_000)
    runner = sim.runner
    assert runner.joins and len(runner._cuts.fine) > len(runner._cuts.rest)
    late = sim.switches.alone(sim.names[-2])
    first, second = runner.price(late, 2), runner.price(late, 4) - runner.price(late, 2)
    assert {runner._known_until(runner.probe(late), index) for index in runner.order[:2]} == {
        runner._cuts.before(10, 0)
    }
    assert first < second
    # the base state is kept of those alone, and what begins like it goes on from there
    runner.base.run(4)
    assert all(set(states) == runner._cuts.first for states in runner.base.states.values())
    like = sim.config(sim.names[-2:-1])
    assert runner.price(like, 2, sim.config(())) < runner.price(like, 2)
    assert runner.price(like, 4, sim.config(())) - runner.price(like, 2, sim.config(())) == pytest.approx(
        runner.price(like, 4) - runner.price(like, 2)
    )
    fresh = simulation(chain(12), feeds(64), batch=2)
    assert runner.run(like).noise == pytest.approx(fresh.runner.run(like).noise, rel=1e-6)
    # who asks for all of it wants it at all cuts
    assert all(len(states) == 32 for states in fresh.runner.base.states.values())


def test_pieces_that_are_built_side_by_side_keep_what_they_round_together():
    class Plain:
        def scale(self, tensor, values, axis):
            return np.ones(1, np.float32)

        def rounded(self, tensor, values, axis, scale):
            return values + 1

    count, before = 2000, sys.getswitchinterval()
    graph = object.__new__(PairedGraph)
    graph.rounder, graph.shares, graph._scales = Plain(), False, {}
    graph.weights = {f"w{number}": np.full(4, number, np.float32) for number in range(count)}
    graph._forget_quantized()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda at: graph._fake_quantized(f"w{at % count}", None)[0], range(4 * count)))
    finally:
        sys.setswitchinterval(before)
    assert made == [number % count + 1 for number in range(4 * count)]
