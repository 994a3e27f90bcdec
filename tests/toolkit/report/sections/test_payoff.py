"""Whether quantizing paid: groups of two engines, sums that match, reasons, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toolkit.report.engine_samples import engine, layer, measured, network, node, payoff
from tests.toolkit.report.samples import SEARCHING
from toolkit.backends.layers.inspector import read_layers
from toolkit.backends.layers.layer import Build
from toolkit.base.toml import tomllib
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.headline import headline
from toolkit.report.conclusions.speed import payoff_advice, payoff_warnings, slower, speed, timing_cache_warnings
from toolkit.report.findings import sentence
from toolkit.report.findings.engine.latency import overhead_words
from toolkit.report.page.payoff_chart import WIDTH, group_rows, profiles_of
from toolkit.report.sections.payoff import Timed, payoff_of, unpaid

FIXTURES = Path(__file__).resolve().parents[2] / "backends" / "data"


def sums(found, side, profile="p"):
    groups = sum(getattr(g.times[profile], f"{side}_ms") for g in found.groups if profile in g.times)
    return groups + (getattr(found.rest[profile], f"{side}_ms") if profile in found.rest else 0.0)


def test_groups_of_both_engines_with_what_converts_for_them():
    found = payoff().against["fp16"]
    groups = {group.name: group for group in found.groups}
    assert set(groups) == {"conv1", "conv2", "softmax"} and groups["conv1"].nodes == ["conv1", "relu1"]
    one, two, three = (groups[n].times["p"] for n in ("conv1", "conv2", "softmax"))
    assert one.ours_ms == pytest.approx(0.11) and one.qdq_ms == 0.01 and one.gain_ms == pytest.approx(0.09)
    # the kernel that makes float of conv2's output belongs to conv2, the reformat after it to its reader
    assert two.ours_ms == pytest.approx(0.05) and two.qdq_ms == 0.03 and two.gain_ms == pytest.approx(-0.02)
    assert three.ours_ms == pytest.approx(0.025) and three.reformat_ms == 0.005
    assert (groups["conv1"].paid, groups["conv2"].paid, groups["softmax"].paid) == ("faster", "slower", None)
    spent, small = ReportCode.TIME_IN_QDQ_KERNELS, ReportCode.GROUP_SMALL_BESIDE_CONVERSIONS
    assert groups["conv2"].why == f"{sentence(spent(ms=0.03, of_ms=0.05))}; {sentence(small(ms=0.02))}"
    assert not groups["conv1"].why and [g.name for g in unpaid(found)] == ["conv2"]
    assert sums(found, "ours") == pytest.approx(0.185) and sums(found, "other") == pytest.approx(0.25)
    assert not found.rest


def test_layers_fused_otherwise_are_compared_as_one_group():
    nodes = [node("a", engine_layers=["a"]), node("b", engine_layers=["b + c"]), node("c", engine_layers=["b + c"]),
             node("d", engine_layers=["d"])]  # fmt: skip
    ours = engine([layer("a"), layer("b + c"), layer("d")], {"a": 1.0, "b + c": 2.0, "d": 4.0, "stray": 8.0})
    other = Timed(engine([layer("a + b"), layer("c"), layer("d")], {"a + b": 3.0, "c": 0.5, "d": 5.0}),
                  {"a": ["a + b"], "b": ["a + b"], "c": ["c"], "d": ["d"], "gone": ["d"]})  # fmt: skip
    found = payoff_of(nodes, ours, {"fp16": other}).against["fp16"]
    times = {tuple(g.nodes): (g.times["p"].ours_ms, g.times["p"].other_ms) for g in found.groups}
    assert times == {("a", "b", "c"): (3.0, 3.5), ("d",): (4.0, 5.0)}
    assert found.rest["p"].ours_ms == 8.0 and not found.profiles


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"actual": "fp16", "reason": "few channels"},
         ReportCode.GROUP_RUNS_FLOAT(node="conv", precision="fp16", why="few channels")),
        ({}, ReportCode.KERNELS_NO_FASTER(kernel="i8816cuda_kernel")),
        ({"status": "opaque", "actual": None, "reason": "in a block"},
         ReportCode.GROUP_HIDDEN(node="conv", why="in a block")),
    ],
)  # fmt: skip
def test_why_a_layer_without_conversions_did_not_pay(change, why):
    ours = engine([layer("conv", tactic="i8816cuda_kernel")], {"conv": 0.2})
    other = Timed(engine([layer("conv")], {"conv": 0.1}), {"conv": ["conv"]})
    (group,) = payoff_of([node("conv", engine_layers=["conv"], **change)], ours, {"fp16": other}).against["fp16"].groups
    assert group.paid == "slower" and group.why == sentence(why)


def test_latencies_measured_in_turn_count_and_their_spread_is_the_noise():
    ours, other = Build("x", latency={"p": {"opt": 2.0}}), Timed(Build("x", latency={"p": {"opt": 1.0}}), {})
    steady = {"p": {"ours": [0.90, 0.91, 0.90], "fp16": [1.0, 1.0, 1.01]}}
    times = payoff_of([], ours, {"fp16": other}, steady).against["fp16"].profiles["p"]
    assert (times.ours_ms, times.other_ms, times.paid, times.turns, times.noise) == (0.90, 1.0, "faster", 3, 0.02)
    shaky = {"p": {"ours": [0.8, 0.95, 1.15], "fp16": [1.0, 1.0, 1.01]}}
    times = payoff_of([], ours, {"fp16": other}, shaky).against["fp16"].profiles["p"]
    assert times.paid == "even" and times.noise == pytest.approx(0.35 / 2 / 0.95)
    once = {"p": {"ours": [0.90, 0.91, 0.90, 0.90, 1.9], "fp16": [1.0] * 5}}
    times = payoff_of([], ours, {"fp16": other}, once).against["fp16"].profiles["p"]
    assert times.paid == "faster" and times.noise == 0.02
    alone = payoff_of([], ours, {"fp16": other}, {"q": steady["p"]}).against["fp16"].profiles["p"]
    assert (alone.ours_ms, alone.other_ms, alone.paid, alone.turns) == (2.0, 1.0, "slower", 0)


def test_kernels_of_a_few_microseconds_are_too_small_to_gain():
    ours, other = engine([layer("conv")], {"conv": 0.0045}), engine([layer("conv")], {"conv": 0.004})
    found = payoff_of([node("conv", engine_layers=["conv"])], ours, {"fp16": Timed(other, {"conv": ["conv"]})})
    (group,) = found.against["fp16"].groups
    assert group.paid == "even" and group.why == sentence(ReportCode.GROUP_TINY(limit_ms=0.005))


def test_the_worst_profile_is_named():
    profiles = ("small", "large")
    ours = engine([layer("conv")], {"conv": {"small": 0.3, "large": 0.5}}, profiles=profiles)
    other = Timed(
        engine([layer("conv")], {"conv": {"small": 0.1, "large": 0.6}}, profiles=profiles), {"conv": ["conv"]}
    )
    (group,) = payoff_of([node("conv", engine_layers=["conv"])], ours, {"fp16": other}).against["fp16"].groups
    assert group.paid == "slower" and group.worst == "small" and group.times["small"].gain_ms == pytest.approx(-0.2)


def recorded(name):
    """A recorded engine, each layer of which takes a time of its own, and the nodes that its metadata names."""
    said = json.loads((FIXTURES / name).read_text("utf-8"), strict=False)
    layers = read_layers(said)
    times = {one.name: 0.001 * (number + 1) for number, one in enumerate(layers)}
    runs = {}
    for one in layers:
        for name_ in one.nodes:
            runs.setdefault(name_, []).append(one.name)
    return engine(layers, times), runs


def test_recorded_resnets_sum_up_and_every_convolution_has_its_group():
    build, runs = recorded("rn50_good.json")
    other, other_runs = recorded("rn50_fp16.json")
    pairs = [n for n in runs if n.endswith(("_Q", "_DQ"))]
    nodes = [node(n, "QuantizeLinear" if n in pairs else "Conv", role="convert" if n in pairs else "compute",
                  engine_layers=held) for n, held in runs.items()]  # fmt: skip
    found = payoff_of(nodes, build, {"fp16": Timed(other, other_runs)})
    compared = found.against["fp16"]
    assert sums(compared, "ours") == pytest.approx(sum(t["p"] for t in build.time_ms.values()))
    assert sums(compared, "other") == pytest.approx(sum(t["p"] for t in other.time_ms.values()))
    both = [g for g in compared.groups if g.times["p"].ours_ms and g.times["p"].other_ms]
    assert len(both) >= 50 and not compared.rest
    assert found.overhead["p"].qdq_kernels == 1 and found.overhead["p"].reformats == 0


_TENSORS = st.sampled_from([f"t{i}" for i in range(4)])
_LAYERS = st.lists(
    st.tuples(
        st.lists(_TENSORS, max_size=2), st.lists(_TENSORS, max_size=1), st.sampled_from(["", "QDQ", "REFORMAT"]),
        st.sampled_from([("int8", "fp16"), ("fp16", "int8")]), st.floats(0, 9),
    ),
    min_size=1, max_size=6,
)  # fmt: skip
_RUNS = st.lists(st.lists(st.integers(0, 5), max_size=2), min_size=7, max_size=7)
"""By node, its layers, counted in turn where an engine has fewer."""
_ENGINES = st.tuples(_LAYERS, _RUNS, st.floats(0, 9))


def any_engine(names, layers, runs, unlisted):
    made = [layer(f"l{i}", reads, writes, origin=origin, types=types)
            for i, (reads, writes, origin, types, _) in enumerate(layers)]  # fmt: skip
    held = {n: list(dict.fromkeys(f"l{i % len(layers)}" for i in of)) for n, of in zip(names, runs)}
    times = {f"l{i}": time for i, (*_, time) in enumerate(layers)} | {"unlisted": unlisted}
    return engine(made, times), held


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 7), _ENGINES, _ENGINES)
def test_however_the_engines_fuse_the_sums_match(count, one, another):
    names = [f"n{i}" for i in range(count)]
    (ours, runs), (other, other_runs) = any_engine(names, *one), any_engine(names, *another)
    found = payoff_of([node(n, engine_layers=runs[n]) for n in names], ours, {"fp16": Timed(other, other_runs)})
    compared = found.against["fp16"]
    assert sums(compared, "ours") == pytest.approx(sum(t["p"] for t in ours.time_ms.values()))
    assert sums(compared, "other") == pytest.approx(sum(t["p"] for t in other.time_ms.values()))
    listed = [n for group in compared.groups for n in group.nodes]
    assert len(listed) == len(set(listed))
    spent = found.overhead["p"]
    assert (
        sum(g.times["p"].qdq_ms + g.times["p"].reformat_ms for g in compared.groups)
        <= spent.qdq_ms + spent.reformat_ms + 1e-6
    )


# ---------------------------------------------------------------- what is said of it


def test_a_slower_engine_is_called_that_in_the_first_line():
    slow = payoff(0.690, 0.579)
    nodes, _, _ = network()
    found = slower(slow)
    assert found == ReportCode.SLOWER_THAN_FLOAT(precision="fp16", profile="p", ms=0.690, float_ms=0.579, more=0)
    assert speed(slow) is None
    assert headline(nodes, measured(), None, slow).startswith(
        "SLOWER than FP16: 0.690 ms against 0.579 ms in profile 'p'. Usable: top1 0.980 against 0.985 float"
    )
    missed = headline(nodes, measured(0.9, False), None, slow)
    assert missed.startswith("MISSED ITS BUDGET") and missed.endswith(
        " SLOWER than FP16: 0.690 ms against 0.579 ms in profile 'p'."
    )


def test_a_faster_engine_and_one_that_is_neither():
    nodes, _, _ = network()
    # the engine was timed, and not run on the samples
    told = headline(nodes, measured(), None, payoff(0.2, 0.26))
    assert told.endswith("; 1.30 times as fast as FP16; accuracy is simulated, not measured on an engine.")
    even = speed(payoff(0.2, 0.201))
    assert even == ReportCode.NO_FASTER_THAN_FLOAT(precision="fp16", profile="p", ms=0.2, float_ms=0.201)
    assert slower(payoff(0.2, 0.199)) is None and speed(None) is None and slower(None) is None


def test_what_to_try_keeps_what_does_not_pay():
    nodes, _, _ = network()
    found = payoff_advice(payoff(0.690, 0.579), nodes, True)
    assert tomllib.loads(found[0].fragment)["pass"] == [{"use": "insert_qdq", "only_if_faster": True}]
    assert tomllib.loads(found[1].fragment)["pass"] == [
        {"use": "keep_precision", "precision": "fp16", "nodes": ["conv2"]}
    ]
    leave = found[1].finding.values
    assert (leave["node"], leave["groups"], leave["precision"]) == ("conv2", 1, "fp16")
    assert leave["cost_ms"] == pytest.approx(0.020)
    tried = [SEARCHING.model_copy(update={"settings": {"only_if_faster": True}})]
    assert payoff_advice(payoff(0.690, 0.579), nodes, True, tried) == found[1:]
    search = payoff_advice(payoff(0.690, 0.579), nodes, True, [SEARCHING])
    assert tomllib.loads(search[0].fragment)["pass"][0]["use"] == "search_precision"
    faster = payoff_advice(payoff(), nodes, True)
    assert [s.fragment for s in faster] == [found[1].fragment]


def test_without_a_comparison_the_overhead_is_told_and_the_comparison_suggested():
    nodes, build, _ = network()
    alone = payoff_of(nodes, build, {})
    assert (
        overhead_words(alone.overhead["p"])
        == "0.005 ms in 1 reformat and 0.040 ms in 2 Q/DQ kernels of 0.185 ms (24 %)"
    )
    (warning,) = payoff_warnings(alone)
    spent = warning.values
    assert warning.code is ReportCode.CONVERSIONS_HEAVY and (spent["profile"], spent["more"]) == ("p", 0)
    assert (spent["reformats"], spent["qdq_kernels"], spent["share"]) == (1, 2, pytest.approx(0.243, abs=1e-3))
    (asked,) = payoff_advice(alone, nodes, True)
    assert tomllib.loads(asked.fragment) == {"engine": {"compare": ["fp16"]}}
    assert payoff_advice(alone, [node("a", actual="fp16")], True) == []
    assert payoff_advice(None, nodes, False) == []


def test_nothing_measured_is_nothing_said():
    nodes, _, other = network()
    assert payoff_of(nodes, Build("tensorrt_rtx"), {}) is None
    assert payoff_of(nodes, Build("tensorrt_rtx"), {"fp16": other}) is None
    latency_only = payoff_of(nodes, Build("x", latency={"p": {"opt": 1.0}}), {"fp16": other})
    assert latency_only.against["fp16"].profiles["p"].paid == "slower" and not latency_only.against["fp16"].groups


def test_bars_stay_inside_their_picture():
    found = payoff().against["fp16"]
    assert profiles_of(found) == ["p"]
    rows = group_rows(found, "p")
    assert [row.name for row in rows] == ["conv2", "softmax", "conv1"]
    for row in rows:
        assert (
            all(start >= 0 and start + length <= WIDTH + 0.1 for _, start, length in row.parts) and row.other <= WIDTH
        )
    many = [node(f"c{i}", engine_layers=[f"c{i}"]) for i in range(60)]
    build = engine([layer(n.node) for n in many], {n.node: 1.0 + i for i, n in enumerate(many)})
    other = Timed(engine(build.layers, {n.node: 2.0 for n in many}), {n.node: [n.node] for n in many})
    rows = group_rows(payoff_of(many, build, {"fp16": other}).against["fp16"], "p")
    assert rows[-1].name == "36 others together" and len(rows) == 25
    assert sum(row.times.ours_ms for row in rows) == pytest.approx(sum(range(1, 61)))


def test_the_first_line_compares_with_a_16_bit_engine_where_there_is_one():
    slow = payoff(0.690, 0.579).against["fp16"]
    fast = payoff(0.690, 1.2).against["fp16"]
    both = payoff().model_copy(update={"against": {"fp32": fast, "bf16": slow}})
    assert slower(both).values["precision"] == "bf16"
    gain = speed(both.model_copy(update={"against": {"fp32": fast}}))
    assert gain.values["precision"] == "fp32" and gain.values["most"] == pytest.approx(1.2 / 0.690)


@pytest.mark.parametrize(("ours", "paid"), [(0.0209, "even"), (0.0211, "slower"), (0.0189, "faster")])
def test_a_latency_within_a_microsecond_is_even(ours, paid):
    assert payoff(ours, 0.02).against["fp16"].profiles["p"].paid == paid


def test_two_builds_of_one_network_are_not_slower_than_each_other():
    nodes = [node("a", asked="fp16", actual="fp16", engine_layers=["a"]), node("b", asked="fp16", actual="fp16")]
    own, other = (engine([layer("a")], {"a": ms}, latency={"p": {"opt": ms}}) for ms in (1.03, 1.0))
    found = payoff_of(nodes, own, {"fp16": Timed(other, {"a": ["a"]})})
    assert found.against["fp16"].alike and found.against["fp16"].profiles["p"].paid == "even" and slower(found) is None
    assert speed(found) == ReportCode.SAME_AS_FLOAT(precision="fp16", profile="p", ms=1.03, float_ms=1.0)
    kept = [nodes[0], node("b", asked="fp32", actual="fp32")]
    found = payoff_of(kept, own, {"fp16": Timed(other, {"a": ["a"]})})
    assert not found.against["fp16"].alike and slower(found) is not None


def test_a_timing_cache_that_tensorrt_does_not_read_is_told():
    said = "ERROR: 4: The timing cache will not be used!"
    assert timing_cache_warnings(["WARNING: other", said]) == [ReportCode.TIMING_CACHE_REFUSED(said=said)]
    assert timing_cache_warnings(["WARNING: other"]) == []
