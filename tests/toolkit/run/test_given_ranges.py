"""Ranges without data: a calibration cache, a table or ranges set by hand are enough to quantize."""

from __future__ import annotations

import json
import math
import struct

import numpy as np
import onnx
import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal
from toolkit import Context, Model, Precision, Recipe, run
from toolkit.base.errors import DataError, RangesError
from toolkit.calibration.collect import collect
from toolkit.calibration.interchange import parse_cache, write_ranges
from toolkit.calibration.methods import make_ranges
from toolkit.cli.main import invoke
from toolkit.contract.ranges import Range, Ranges
from toolkit.data.dataset import CalibrationData
from toolkit.run.checks.dry_run import dry_run
from toolkit.search.sensitivity.measure import Sensitivity
from toolkit.simulation.simulation import Simulation

AMAX = {"x": 4.5, "c0": 4.6, "p0": 4.2, "c1:0": 8.1, "p1": 4.8, "g": 1.7, "f": 1.7}
LAYERS = {"x": "conv0", "p0": "conv1", "f": "gemm"}
RECIPE = """
[model]
path = "m.onnx"
[[profile]]
name = "d"
shapes.x = { min = [1, 3, 8, 8], opt = [4, 3, 8, 8], max = [8, 3, 8, 8] }
[calibration]
%s
[[pass]]
use = "fold_constants"
[[pass]]
use = "insert_qdq"
[[pass]]
use = "guard_fp16"
[engine]
backend = "none"
"""


def network():
    """Two convolutions with PReLU, pooled into a Gemm; a tensor has a colon in its name."""
    weights = {
        "w0": normal(8, 3, 3, 3, seed=1, scale=0.3), "s0": normal(8, 1, 1, seed=4), "w1": normal(8, 8, 3, 3, seed=2, scale=0.2),
        "s1": normal(8, 1, 1, seed=5), "w2": normal(8, 5, seed=3),
    }  # fmt: skip
    parts = [
        node("Conv", ["x", "w0"], ["c0"], name="conv0", pads=[1] * 4), node("PRelu", ["c0", "s0"], ["p0"]),
        node("Conv", ["p0", "w1"], ["c1:0"], name="conv1", pads=[1] * 4), node("PRelu", ["c1:0", "s1"], ["p1"]),
        node("GlobalAveragePool", ["p1"], ["g"]), node("Flatten", ["g"], ["f"]), node("Gemm", ["f", "w2"], ["y"], name="gemm"),
    ]  # fmt: skip
    return build(parts, {"x": ["n", 3, 8, 8]}, {"y": ["n", 5]}, weights)


def cache(amax, without=()):
    lines = [f"{name}: {struct.pack('>f', value / 127).hex()}" for name, value in amax.items()]
    unnamed = "(Unnamed Layer* 22) [Constant]_output: 3a4b050c"
    return "\n".join(["TRT-8205-EntropyCalibration2", *lines, unnamed, *(f"{n}: 7fc00000" for n in without)]) + "\n"


def files(folder, amax, kind):
    """What ``[calibration]`` says, with the file that it names."""
    if kind == "manual":
        return "\n".join(["[calibration.manual]", *(f"{json.dumps(n)} = {v}" for n, v in amax.items())])
    text = {
        "cache": lambda: cache(amax),
        "json": lambda: json.dumps(amax),
        "pairs": lambda: json.dumps({name: [-value, value / 2] for name, value in amax.items()}),
        "lines": lambda: "".join(f"{name}: {value}\n" for name, value in amax.items()),
        "ranges": lambda: json.dumps(Ranges({n: Range(v, "entropy") for n, v in amax.items()}).to_json()),
    }[kind]()
    (folder / "given").write_text(text)
    return 'ranges = "given"'


def recipe(folder, calibration, text=RECIPE):
    onnx.save(network(), str(folder / "m.onnx"))
    (folder / "r.toml").write_text(text % calibration)
    return folder / "r.toml"


def journal(folder):
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


KINDS = ("manual", "cache", "json", "pairs", "lines", "ranges")


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_table_quantizes_every_layer_and_no_data_is_asked_for(tmp_path, kind):
    path = recipe(tmp_path, files(tmp_path, AMAX, kind))
    tried = dry_run(Recipe.load(path))
    assert tried.calibration == {"ranges": len(AMAX)} and not tried.declined
    result = run(path, tmp_path / "out")
    report = result.report
    asked = {layer.node: layer.asked_precision for layer in report.layers if layer.op in ("Conv", "Gemm")}
    assert asked == dict.fromkeys(LAYERS.values(), Precision.INT8)
    assert set(tried.warnings) <= set(report.summary.warnings)
    assert tried.asked == {"int8": sum(x.asked_precision is Precision.INT8 for x in report.computing)}
    assert (result.exit_status, report.summary.verdict, report.accuracy) == (0, "unmeasured", None)
    assert "Usable" not in report.summary.headline and not [
        e for e in journal(tmp_path / "out") if e["kind"] == "declined"
    ]
    known = Ranges.load(tmp_path / "out" / "ranges.json")
    assert {name: one.amax for name, one in known.tensors.items()} == pytest.approx(AMAX)
    assert {profile.samples for profile in report.profiles} == {None}


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_range_is_named_and_the_rest_is_quantized(tmp_path, kind):
    path = recipe(tmp_path, files(tmp_path, {n: v for n, v in AMAX.items() if n not in ("p0", "g", "f")}, kind))
    tried = dry_run(Recipe.load(path))
    report = run(path, tmp_path / "out").report
    asked = {layer.node: str(layer.asked_precision) for layer in report.layers if layer.op in ("Conv", "Gemm")}
    assert asked == {"conv0": "int8", "conv1": "fp16", "gemm": "fp16"}
    found = {e["node"]: e["values"]["tensor"] for e in journal(tmp_path / "out") if e.get("rule") == "no-range"}
    assert found == {"conv1": "p0", "gemm": "f"}
    assert {(one.node, one.rule) for one in report.declined} == {(name, "no-range") for name in found}
    assert {(one["node"], one["rule"]) for one in tried.declined} == {(name, "no-range") for name in found}
    (warning,) = [line for line in report.summary.warnings if "without a range" in line]
    assert "'p0'" in warning and "'f'" in warning and warning in tried.warnings


def test_every_tensor_that_any_pair_needs_is_asked_for(tmp_path):
    """A residual branch, the inputs of a Concat and of a pool are declined one by one, what is left stays quantized."""
    parts = [
        node("Conv", ["x", "w0"], ["a"]), node("Conv", ["a", "w1"], ["b"]), node("Add", ["b", "a"], ["s"]),
        node("Conv", ["s", "w1"], ["d"]), node("Concat", ["d", "b"], ["k"], axis=1), node("Conv", ["k", "w2"], ["y"]),
    ]  # fmt: skip
    weights = {"w0": normal(4, 3, 1, 1), "w1": normal(4, 4, 1, 1, seed=1), "w2": normal(2, 8, 1, 1, seed=2)}
    model = Model.from_proto(build(parts, {"x": [1, 3, 4, 4]}, {"y": [1, 2, 4, 4]}, weights))
    whole = Context(known_ranges=Ranges({n: Range(3.0, "manual") for n in ("x", "a", "b", "s", "d", "k")}))
    InsertQDQ()(model.copy(), whole)
    every = {name for name, _ in whole.plan.items()}
    for missing, lost in (("x", {"a"}), ("k", {"y"}), ("d", {"k"}), ("a", {"b"}), ("s", {"d"})):
        known = Ranges({n: Range(3.0, "manual") for n in ("x", "a", "b", "s", "d", "k") if n != missing})
        context, trial = Context(known_ranges=known), model.copy()
        InsertQDQ()(trial, context)
        declined = {e.node: e.why.values["tensor"] for e in context.journal.of("declined") if e.rule == "no-range"}
        assert declined == dict.fromkeys(lost, missing)
        left = {name for name, _ in context.plan.items()}
        assert left <= every - lost
        pairs = {t.name for n in trial.nodes if n.op == "QuantizeLinear" for t in n.inputs[:1]}
        assert missing not in pairs and {"w0", "w1", "w2"} & pairs and left


def test_no_range_at_all_is_an_error_that_names_what_is_asked_for(tmp_path):
    path = recipe(tmp_path, files(tmp_path, {"c0": 1.0}, "json"))
    for go in (lambda: dry_run(Recipe.load(path)), lambda: run(path, tmp_path / "out")):
        with pytest.raises(RangesError, match="'p0'"):
            go()


def test_ranges_of_other_tensors_alone_are_an_error_that_names_the_line_one_of_them_and_the_nearest(tmp_path):
    path = recipe(tmp_path, files(tmp_path, {"P0_": 1.0, "strange": 2.0}, "json"))
    for go in (lambda: dry_run(Recipe.load(path)), lambda: run(path, tmp_path / "out")):
        with pytest.raises(
            RangesError, match="of 2 given ranges, such as that of 'P0_', none belongs to a tensor"
        ) as caught:
            go()
        assert "'p0'" in caught.value.remedy and ":" in str(caught.value.where)


SAMPLES = """data = "c.npz"
method = "minmax"
"""


def with_samples(folder):
    np.savez(folder / "c.npz", x=normal(6, 3, 8, 8, seed=9))


def test_ranges_of_other_tensors_alone_are_an_error_beside_samples_too(tmp_path):
    with_samples(tmp_path)
    path = recipe(tmp_path, SAMPLES + files(tmp_path, {"P0_": 1.0, "strange": 2.0}, "json"))
    for go in (lambda: dry_run(Recipe.load(path)), lambda: run(path, tmp_path / "out")):
        with pytest.raises(RangesError, match="of 2 given ranges, such as that of 'P0_', none belongs") as caught:
            go()
        assert "'p0'" in caught.value.remedy and ":" in str(caught.value.where)


def test_check_names_the_ranges_of_other_tensors_beside_samples(tmp_path):
    with_samples(tmp_path)
    path = recipe(tmp_path, SAMPLES + files(tmp_path, {"x": 4.5, "strange": 2.0}, "json"))
    assert any("'strange'" in note for note in dry_run(Recipe.load(path)).notes)


def test_a_range_too_small_for_any_scale_is_refused_by_check_as_by_a_run(tmp_path):
    with_samples(tmp_path)
    (tmp_path / "given").write_text("TRT-8600-EntropyCalibration2\nx: 3c01\n")  # 3c01 is 0x00003c01
    path = recipe(tmp_path, SAMPLES + 'ranges = "given"')
    for go in (lambda: dry_run(Recipe.load(path)), lambda: run(path, tmp_path / "out")):
        with pytest.raises(RangesError, match=r"tensor 'x' is 2\.7"):
            go()


def test_a_cache_of_nothing_but_nan_holds_no_ranges():
    with pytest.raises(RangesError, match="NaN in place of a range for each of 2 tensors, such as 'x'"):
        parse_cache("TRT-8600-EntropyCalibration2\nx: 7fc00000\np0: 7fc00000\n")


def test_what_a_cache_says_of_other_tensors_is_told(tmp_path):
    onnx.save(network(), str(tmp_path / "m.onnx"))
    (tmp_path / "given").write_text(cache(AMAX, without=["y"]))
    run(recipe(tmp_path, 'ranges = "given"'), tmp_path / "out")
    told = {e["rule"]: e.get("values") for e in journal(tmp_path / "out") if e["kind"] == "noted"}
    assert told["ranges-of-no-tensor"] == {"tensors": ["(Unnamed Layer* 22) [Constant]_output"], "of": len(AMAX) + 1}
    assert told["cache-without-range"] == {"tensors": ["y"]} and "values-not-observed" in told


def test_a_needed_tensor_whose_range_is_nan_has_none(tmp_path):
    (tmp_path / "given").write_text(cache({n: v for n, v in AMAX.items() if n != "p0"}, without=["p0"]))
    report = run(recipe(tmp_path, 'ranges = "given"'), tmp_path / "out").report
    assert ("conv1", "no-range") in [(one.node, one.rule) for one in report.declined]


FP8 = RECIPE.replace('use = "insert_qdq"', 'use = "insert_qdq"\ndtype = "fp8"')


@pytest.mark.parametrize("kind", KINDS)
def test_ranges_keep_the_type_that_they_were_made_for(tmp_path, kind):
    path = recipe(tmp_path, files(tmp_path, AMAX, kind), FP8)
    if kind in ("cache", "ranges"):
        for go in (lambda: dry_run(Recipe.load(path)), lambda: run(path, tmp_path / "out")):
            with pytest.raises(RangesError, match=r"int8.*fp8"):
                go()
    else:
        # the largest magnitude is that in every type
        report = run(path, tmp_path / "out").report
        asked = {layer.node for layer in report.computing if layer.asked_precision is Precision.FP8}
        assert set(LAYERS.values()) <= asked


def test_a_range_of_another_type_is_declined_beside_one_that_fits(tmp_path):
    context = Context(
        known_ranges=Ranges(
            {"x": Range(4.5, "cache"), "p0": Range(4.2, "entropy", dtype="fp8"), "f": Range(1.7, "manual")}
        )
    )
    InsertQDQ(dtype="fp8")(Model.from_proto(network()), context)
    declined = context.journal.of("declined")[0]
    assert (declined.node, declined.rule) == ("conv0", "range-of-other-type")
    assert (declined.why.values["has"], declined.why.values["wanted"]) == ("int8", "fp8")
    assert {name for name, _ in context.plan.items()} == {"conv1", "gemm"}


def test_with_data_what_a_cache_does_not_hold_for_is_calibrated_and_said(tmp_path):
    np.savez(tmp_path / "data.npz", x=normal(8, 3, 8, 8))
    run(recipe(tmp_path, 'data = "data.npz"\n' + files(tmp_path, AMAX, "cache"), FP8), tmp_path / "out")
    (told,) = [e["values"] for e in journal(tmp_path / "out") if e.get("rule") == "ranges-of-other-type"]
    assert (told["has"], told["wanted"], set(told["tensors"])) == ("int8", "fp8", set(AMAX))
    kept = Ranges.load(tmp_path / "out" / "ranges.json").tensors
    assert {kept[name].dtype for name in LAYERS} == {"fp8"} and {kept[name].method for name in LAYERS} == {"mse"}


def test_with_data_given_ranges_win_or_fill_and_keep_what_they_are(tmp_path):
    np.savez(tmp_path / "data.npz", x=normal(8, 3, 8, 8))
    for use, wins in (("override", True), ("fill", False)):
        line = files(tmp_path, {"x": 9.0}, "ranges") + f'\ndata = "data.npz"\nmethod = "minmax"\nranges_use = "{use}"'
        run(recipe(tmp_path, line), tmp_path / "out")
        kept = Ranges.load(tmp_path / "out" / "ranges.json").tensors
        assert (kept["x"].amax == 9.0) is wins and kept["x"].method == ("entropy" if wins else "minmax")
        assert kept["p0"].method == "minmax" and kept["p0"].samples


def test_accuracy_is_measured_where_the_evaluation_has_samples(tmp_path):
    np.savez(tmp_path / "test.npz", x=normal(8, 3, 8, 8))
    model = Model.from_proto(network())
    data = CalibrationData.open(str(tmp_path / "test.npz"), model)
    ranges = make_ranges(collect(model, list(LAYERS), data), method="minmax")
    write_ranges(ranges, tmp_path / "given", "tensorrt")
    text = RECIPE + '[evaluation]\ndata = "test.npz"\nbudget = { min_sqnr_db = 20.0 }\n'
    path = recipe(tmp_path, 'ranges = "given"', text)
    report = run(path, tmp_path / "out").report
    assert report.accuracy.met and report.accuracy.samples == 8 and report.accuracy.outputs["y"].sqnr_db > 25
    from toolkit.cli.analysis import sensitivity

    assert sensitivity(path, tmp_path / "s", fast=True, data="evaluation") == 0
    assert [g.name for g in Sensitivity.load(tmp_path / "s" / "sensitivity.json").groups] == list(LAYERS.values())


def test_a_search_on_evaluation_data_decides_on_what_has_ranges(tmp_path):
    np.savez(tmp_path / "test.npz", x=normal(8, 3, 8, 8))
    text = RECIPE.replace('use = "insert_qdq"', 'use = "search_precision"\ndata = "evaluation"\nmin_sqnr_db = LEAST')
    for least, kept in ((5.0, set()), (90.0, {"conv0", "gemm"})):
        calibration = files(tmp_path, {name: v for name, v in AMAX.items() if name != "p0"}, "json")
        path = recipe(tmp_path, calibration, text.replace("LEAST", str(least)) + '[evaluation]\ndata = "test.npz"\n')
        report = run(path, tmp_path / f"out{least}").report
        quantized = {layer.node for layer in report.computing if layer.asked_precision is Precision.INT8}
        assert quantized & set(LAYERS.values()) == {"conv0", "gemm"} - kept
        assert [one.node for one in report.declined if one.rule == "no-range"] == ["conv1"]


def test_a_search_without_samples_is_refused_by_check_as_by_run(tmp_path):
    path = recipe(tmp_path, files(tmp_path, AMAX, "cache"), RECIPE.replace("insert_qdq", "search_precision"))
    for go in (lambda: dry_run(Recipe.load(path)), lambda: run(path, tmp_path / "out")):
        with pytest.raises(DataError, match="samples to decide on"):
            go()


def test_kept_ranges_of_pairs_are_enough(tmp_path):
    """What quantization-aware training left is all that is needed: stripped and inserted again without data."""
    model = Model.from_proto(network())
    InsertQDQ()(model, Context(known_ranges=Ranges({n: Range(v, "manual") for n, v in AMAX.items()})))
    path = recipe(
        tmp_path,
        "",
        RECIPE.replace('use = "insert_qdq"', 'use = "strip_qdq"\nkeep_ranges = true\n[[pass]]\nuse = "insert_qdq"'),
    )
    model.save(tmp_path / "m.onnx")
    report = run(path, tmp_path / "out").report
    assert {layer.node for layer in report.computing if layer.asked_precision is Precision.INT8} >= set(LAYERS.values())
    assert scales(tmp_path / "out") == pytest.approx({name: AMAX[name] / 127 for name in (*LAYERS, "p1")}, rel=1e-3)


def test_scales_in_a_cache_become_the_scales_of_the_pairs(tmp_path):
    text = cache(AMAX)
    assert {name: one.amax for name, one in parse_cache(text).tensors.items() if name in AMAX} == pytest.approx(AMAX)
    (tmp_path / "given").write_text(text)
    run(recipe(tmp_path, 'ranges = "given"'), tmp_path / "out")
    assert scales(tmp_path / "out") == pytest.approx({name: AMAX[name] / 127 for name in (*LAYERS, "p1")}, rel=1e-3)


def scales(folder):
    """Scale by quantized activation."""
    model = Model.load(folder / "model.onnx")
    return {
        n.inputs[0].name.removesuffix("_fp16"): float(model.constant(n.inputs[1]).reshape(-1)[0])
        for n in model.nodes if n.op == "QuantizeLinear"
    }  # fmt: skip


def test_a_residual_branch_without_a_range_is_left_alone_in_every_plan(residual):
    """Which branch of an Add gets the pair depends on which convolution is float: a table may know one of them."""
    data = CalibrationData.open([{"x": normal(1, 3, 8, 8, seed=i)} for i in range(4)], residual)
    ranges = Ranges({name: Range(6.0, "table") for name in ("x", "r0", "r1", "f")})
    simulation = Simulation(residual, ranges, data)
    everything = simulation.switches.placement(())
    assert "a" in everything.layers and "r0" in everything.activations
    for name in simulation.names:
        placement = simulation.switches.placement([name])
        assert set(placement.activations) <= set(ranges.tensors)
        assert math.isfinite(simulation.without([name]).sqnr_db)


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("missing", [(), ("p0",)])
def test_new_asks_for_no_data_where_ranges_are_given(tmp_path, monkeypatch, kind, missing):
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "m.onnx")
    files(tmp_path, {name: value for name, value in AMAX.items() if name not in missing}, kind)
    assert invoke(["new", "m.onnx", "--ranges", "given", "--out", "r.toml"]) == 0
    made = Recipe.load("r.toml")
    assert made.calibration.data is None and made.calibration.ranges == "given"
    text = (tmp_path / "r.toml").read_text().replace('backend = "auto"', 'backend = "none"')
    (tmp_path / "r.toml").write_text(text)
    tried, report = dry_run(Recipe.load("r.toml")), run("r.toml", "out").report
    assert report.summary.verdict == "unmeasured" and len(tried.declined) == len(report.declined) == len(missing)
    asked = {layer.node for layer in report.computing if layer.asked_precision is Precision.INT8}
    assert set(LAYERS.values()) - asked == {LAYERS[name] for name in missing}


def test_new_with_ranges_of_another_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "m.onnx")
    files(tmp_path, {"elsewhere": 1.0}, "cache")
    assert invoke(["new", "m.onnx", "--ranges", "given", "--out", "r.toml"]) == 2
    assert invoke(["new", "m.onnx", "--ranges", "given", "--out", "given", "--force"]) == 2
    assert not (tmp_path / "r.toml").exists()


@pytest.mark.parametrize("kind", ["cache", "json", "pairs", "lines", "ranges"])
def test_a_range_of_zero_is_a_warning_that_says_what_is_clipped(tmp_path, kind):
    first = next(iter(AMAX))
    path = recipe(tmp_path, files(tmp_path, {**AMAX, first: 0.0}, kind))
    warnings = run(path, tmp_path / "out").report.summary.warnings
    assert any(one.startswith(f"'{first}' has the range 0") and "between -1 and 1" in one for one in warnings)


@pytest.mark.parametrize("made", [True, False])
def test_no_samples_are_asked_for_that_could_not_fill_a_tensor_that_is_zero_by_construction(tmp_path, made):
    begin = [node("Shape", ["x"], ["e"]), node("ConstantOfShape", ["e"], ["h"])]
    begin = begin if made else [node("Mul", ["x", "none"], ["h"])]
    nodes = [
        *begin,
        node("MatMul", ["h", "v"], ["a"]),
        node("MatMul", ["x", "w"], ["b"]),
        node("Add", ["a", "b"], ["y"]),
    ]
    weights = {"v": normal(6, 5), "w": normal(6, 5), "none": np.zeros(1, np.float32)}
    onnx.save(build(nodes, {"x": ["n", 6]}, {"y": ["n", 5]}, weights), str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", x=normal(32, 6))
    recipe = Recipe.build("r", model={"path": tmp_path / "model.onnx"}, calibration={"data": str(tmp_path / "data.npz")},
                          passes=["insert_qdq"], engine={"backend": "none"})  # fmt: skip
    warnings = run(recipe, tmp_path / "out").report.summary.warnings
    assert bool([line for line in warnings if "'h' has the range 0" in line]) is not made


@pytest.mark.parametrize("kind", KINDS)
def test_a_range_holds_for_the_same_values_in_another_shape_and_for_parts_of_them(tmp_path, kind):
    """Where there is no data, so that these have no range of their own."""
    weights = {"w": normal(8, 8, seed=1, scale=0.3), "v": normal(4, 8, seed=2), "size": np.array([-1, 4, 8]),
               "from": np.array([0]), "to": np.array([4]), "last": np.array([-1])}  # fmt: skip
    parts = [
        node("Gemm", ["x", "w"], ["b"], name="g0"), node("Reshape", ["b", "size"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[1, 0, 2]), node("MatMul", ["t", "w"], ["m"], name="turned"),
        node("Slice", ["b", "from", "to", "last"], ["part"]), node("MatMul", ["part", "v"], ["p"], name="sliced"),
    ]  # fmt: skip
    proto = build(parts, {"x": [4, 8]}, {"m": [4, 1, 8], "p": [4, 8]}, weights)
    onnx.save(proto, str(tmp_path / "m.onnx"))
    text = RECIPE[: RECIPE.index("[[profile]]")] + RECIPE[RECIPE.index("[calibration]") :]
    (tmp_path / "r.toml").write_text(text % files(tmp_path, {"x": 3.0, "b": 2.0}, kind))
    tried, report = dry_run(Recipe.load(tmp_path / "r.toml")), run(tmp_path / "r.toml", tmp_path / "out").report
    asked = {layer.node: layer.asked_precision for layer in report.layers if layer.op in ("Gemm", "MatMul")}
    assert asked == dict.fromkeys(("g0", "turned", "sliced"), Precision.INT8) and not tried.declined
    known = Ranges.load(tmp_path / "out" / "ranges.json")
    assert {name: one.amax for name, one in known.tensors.items()} == pytest.approx(
        {"x": 3.0, "b": 2.0, "r": 2.0, "t": 2.0, "part": 2.0}
    )
    # a part may be of another unit, such as scores beside boxes: what it gets is said
    assert [
        line for line in report.summary.warnings if "No range is given for 'part': the range of 'b' is used" in line
    ]
    assert any("No range is given for 'part'" in line for line in tried.warnings)
    (tmp_path / "r.toml").write_text(text % files(tmp_path, {"x": 3.0, "b": 2.0, "part": 1.0}, kind))
    own = run(tmp_path / "r.toml", tmp_path / "own").report
    assert not [line for line in own.summary.warnings if "No range is given" in line]
