"""The verdict, its first line, and what to try next."""

import sys

import pytest

from tests.toolkit.report.samples import HOSTILE, QUANTIZING, SEARCHING, accuracy, sample
from toolkit.base.precision import Precision
from toolkit.base.text import toml_string
from toolkit.contract.findings import Code
from toolkit.placement.codes import PlacementCode
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.advice import advice
from toolkit.report.conclusions.headline import headline, quantized_words
from toolkit.report.conclusions.verdict import (
    QuantizedCount,
    breakage,
    culprits,
    quantized_count,
    quantized_type,
    verdict,
    warnings_of,
)
from toolkit.report.findings import sentence
from toolkit.report.findings.outputs.accuracy import number, numbers
from toolkit.report.fragments import keep_fragment
from toolkit.report.schema.report import (
    Accuracy,
    ActualInfo,
    Asked,
    Declined,
    LayerError,
    LayerInfo,
    OpenedInfo,
    OpenedValues,
    OutputError,
    PassInfo,
)
from toolkit.report.schema.task import PartFigures
from toolkit.report.sections.shares import work_not_known

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("usable", "Usable: top1 0.986 against 0.988 float (drop 0.2 points, budget 0.5); 23 of 40 layers run"),
        ("missed", "MISSED ITS BUDGET: top1 0.941 against 0.988 float (drop 4.7 points, budget 0.5); 23 of 40"),
        (
            "broken",
            "BROKEN: top1 fell from 0.988 to 0.040; do not deploy. 23 of 40 layers run in INT8; accuracy is simulated",
        ),
        ("unmeasured", "Not measured: no data shows whether the result is usable; 23 of 40 layers run in INT8."),
    ],
)
def test_the_headline_says_the_verdict_with_its_numbers(kind, first):
    report = sample(kind=kind)
    assert report.summary.verdict == kind
    assert report.summary.headline.startswith(first)


@pytest.mark.parametrize(
    ("samples", "met", "start"),
    [
        (1, True, "Usable on only 1 sample: "),
        (7, True, "Usable on only 7 samples: "),
        (8, True, "Usable: "),
        (8, None, "Usable, no budget set: "),
        (2, None, "Usable on only 2 samples, no budget set: "),
    ],
)
def test_the_first_line_says_how_few_samples_it_stands_on(samples, met, start):
    few = accuracy().model_copy(update={"samples": samples, "met": met})
    report = sample(kind="usable")
    assert headline(report.layers, few).startswith(start)
    warned = warnings_of(report.layers, few, report.backend, report.profiles, None)
    assert (ReportCode.ACCURACY_ON_FEW_SAMPLES(samples=samples) in warned) == (samples < 8)


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (Accuracy(), "unmeasured"),
        (Accuracy(outputs={"y": OutputError(sqnr_db=30, max_abs=0.1, cosine=0.999)}), "usable"),
        (Accuracy(outputs={"y": OutputError(sqnr_db=None, max_abs=0.0)}), "usable"),
        (Accuracy(outputs={"y": OutputError()}), "broken"),
        (Accuracy(outputs={"y": OutputError(sqnr_db=-1, max_abs=9)}), "broken"),
        (Accuracy(outputs={"y": OutputError(sqnr_db=2, max_abs=9, cosine=0.3)}), "broken"),
        (Accuracy(outputs={"y": OutputError(sqnr_db=4, max_abs=9, agreement=0.1)}), "broken"),
        (Accuracy(outputs={"y": OutputError(sqnr_db=-1, max_abs=9, agreement=0.99)}), "broken"),
        (Accuracy(outputs={"y": OutputError(sqnr_db=9, max_abs=9, agreement=1.0, variation_db=-2)}), "broken"),
        (Accuracy(before=0.99, quantized=0.0, drop=0.99, budget=0.01, met=False), "broken"),
        (Accuracy(before=0.99, quantized=0.4, drop=0.59, budget=0.9, met=True), "usable"),
        (Accuracy(before=0.99, quantized=0.9, drop=0.0, met=True, outputs={"y": OutputError()}), "broken"),
        (Accuracy(metric="mse", before=0.4, quantized=0.1, drop=-0.3, met=None), "usable"),
        (Accuracy(before=0.99, quantized=0.98, drop=0.01, met=False), "missed"),
    ],
)
def test_the_verdict_on_what_was_measured(measured, expected):
    assert verdict(measured) == expected
    assert (breakage(measured) is not None) == (expected == "broken")


@pytest.mark.parametrize(
    ("output", "code", "values"),
    [
        ({}, "OUTPUT_NOT_FINITE", {}),
        ({"sqnr_db": 4, "max_abs": 9, "agreement": 0.1}, "AGREEMENT_LOW", {"agreement": 0.1, "discrete": False}),
        ({"max_abs": 9, "agreement": 0.1}, "AGREEMENT_LOW", {"agreement": 0.1, "discrete": True}),
        ({"sqnr_db": 9, "max_abs": 9, "cosine": 0.3}, "COSINE_LOW", {"cosine": 0.3}),
        ({"sqnr_db": 2.0, "max_abs": 9}, "SQNR_LOW", {"sqnr_db": 2.0}),
        ({"sqnr_db": 9, "max_abs": 9, "variation_db": -2}, "NOISE_OVER_VARIATION", {}),
    ],
)
def test_what_is_broken_is_named_with_its_number(output, code, values):
    found = breakage(Accuracy(outputs={"y": OutputError(**output)}))
    assert found == ReportCode[code](output="y", **values)


@pytest.mark.parametrize(
    ("standing", "expected"), [("met", "doubtful"), ("unproven", "doubtful"), ("missed", "broken")]
)
def test_noise_breaks_an_output_only_where_its_answers_are_lost_too(standing, expected):
    """A detector's boxes are noise wherever there is no object: what it detects is what counts."""
    part = PartFigures(task="detection", outputs=["y"], unchanged=0.9, answers=300, least=0.9, low=0.8, high=0.95,
                       standing=standing)  # fmt: skip
    noisy = OutputError(sqnr_db=1.0, max_abs=9, cosine=0.5, variation_db=-2)
    measured = Accuracy(outputs={"y": noisy}, parts=[part], met=standing != "missed", doubts=["the signal is lost"])
    assert verdict(measured) == expected
    assert verdict(Accuracy(outputs={"y": noisy, "z": noisy}, parts=[part], doubts=["lost"])) == "broken"


@pytest.mark.parametrize(
    ("figure", "level", "expected"),
    [
        ("detections", 0.99, "missed"), ("detections", 0.7, "broken"), ("positions", 0.95, "missed"),
        ("iou", 0.94, "missed"), ("cosine_p5", 0.985, "missed"), ("cosine_p5", 0.5, "broken"),
        ("snr_db", 19.0, "missed"), ("snr_db", 2.0, "broken"), ("psnr_db", 29.0, "missed"), ("psnr_db", 15.0, "broken"),
        ("", None, "broken"), ("detections", None, "broken"),
    ],
)  # fmt: skip
def test_answers_that_are_lost_by_a_little_miss_the_budget_and_break_nothing(figure, level, expected):
    """A picture with hundreds of detections is another answer if one of them is a near tie, at 70 dB too."""
    part = PartFigures(task="any", outputs=["y"], unchanged=0.0, answers=24, least=0.99, low=0.0, high=0.14,
                       standing="missed", figure=figure, level=level)  # fmt: skip
    fine = OutputError(sqnr_db=68.0, max_abs=0.1, cosine=0.9999, variation_db=15.0)
    assert verdict(Accuracy(outputs={"y": fine}, parts=[part], met=False)) == expected


def test_the_first_line_says_how_far_lost_answers_stay():
    values = {"outputs": ["y"], "channels": None, "unchanged": 0.0, "least": 0.99, "answers": 24}
    for code in (ReportCode.ANSWERS_BELOW_LIMIT, ReportCode.ANSWERS_LOST):
        assert "98.8 %" in sentence(code(**values, figure="detections", level=0.988))
        assert "(" not in sentence(code(**values)) + sentence(code(**values, figure="", level=None))


@pytest.mark.parametrize(
    ("outputs", "standing", "expected"),
    [(["y"], "met", "missed"), (["y"], "missed", "broken"), (["z"], "met", "broken")],
)
def test_a_reading_that_was_not_sure_breaks_nothing_that_another_finds_kept(outputs, standing, expected):
    """Few places of a depth map are near one half, and read as a mask it loses what by its values it keeps."""
    known = {"answers": 24, "least": 0.99, "low": 0.0, "high": 1.0}
    mask = PartFigures(
        task="segmentation", outputs=["y"], unchanged=0.4, standing="missed", figure="iou", level=0.6, **known
    )
    values = PartFigures(
        task="regression", outputs=outputs, unchanged=1.0, standing=standing, figure="psnr_db", level=34.0, **known
    )
    fine = OutputError(sqnr_db=28.0, max_abs=0.1, cosine=0.999, variation_db=15.0)
    accuracy = Accuracy(outputs={"y": fine, "z": fine}, parts=[mask, values], met=False)
    assert verdict(accuracy) == expected


def test_a_metric_where_less_is_better_is_not_stated_in_points():
    line = headline([], Accuracy(metric="mse", before=0.1, quantized=0.3, drop=0.2, budget=0.05, met=False))
    assert "mse 0.300 against 0.100 float (worse by 0.2, budget 0.05)" in line


def test_a_default_limit_that_is_missed_is_said_to_be_the_metrics():
    """The task's own is one on unchanged answers."""
    missed = Accuracy(metric="mse", before=0.1, quantized=0.3, drop=0.2, budget=0.05, met=False, by_default=True)
    assert headline([], missed).startswith("MISSED ITS BUDGET (the metric's default; the recipe has none): mse 0.300")
    part = PartFigures(
        task="sequence", outputs=["y"], unchanged=0.9, standing="missed", answers=240, least=0.99, low=0.85, high=0.93
    )
    changed = Accuracy(parts=[part], met=False, by_default=True, misses=["90.0 % of 240 samples keep every label"])
    assert headline([], changed).startswith("MISSED ITS BUDGET (the task's own; the recipe has none)")


def test_a_missed_target_other_than_the_drop_is_named():
    measured = accuracy()
    measured.met, measured.misses = False, ["output 'y' has 8.1 dB, below 20"]
    assert headline([], measured).startswith("MISSED ITS BUDGET: output 'y' has 8.1 dB, below 20; top1")


def test_without_an_engine_the_headline_says_so():
    report = sample()
    for layer in report.layers:
        layer.actual.precision = None
    assert quantized_count(report.layers) == QuantizedCount(40, False, {"int8": 16})
    assert "16 of 40 layers are requested in INT8 (no engine confirms it)" in headline(report.layers, None)


def test_culprits_are_where_the_error_comes_in_not_where_it_ends():
    def layer(name, level, drop):
        error = LayerError(sqnr_db=level, max_abs=1, drop_db=drop)
        return LayerInfo(node=name, op="Conv", asked=Asked(precision="int8"), error=error)

    layers = [layer("first", 45, None), layer("guilty", 20, 25), layer("victim", 18, 2), layer("small", 40, 5)]
    layers.append(LayerInfo(node="nan", op="Exp", asked=Asked(precision="int8"), error=LayerError()))
    layers.append(
        LayerInfo(node="float", op="Exp", asked=Asked(precision="fp16"), error=LayerError(sqnr_db=1, max_abs=9))
    )
    assert [one.node for one in culprits(layers)] == ["nan", "guilty", "small"]


def test_the_suggested_piece_of_recipe_is_toml_that_names_exactly_these_nodes():
    names = [*HOSTILE, "a*b?[c]", "\\d", "\x7f\x85", "\U0001f600"]
    read = tomllib.loads(keep_fragment(names, "fp16"))["pass"][0]
    assert read["use"] == "keep_precision" and read["precision"] == "fp16"
    assert read["nodes"][len(HOSTILE)] == "a[*]b[?][[]c]"
    assert [tomllib.loads(f"k = {toml_string(name)}")["k"] for name in names] == names


def test_suggestions_follow_from_the_data():
    def tried(kind):
        report = sample(kind=kind)
        found = advice(report.layers, accuracy(kind), report.backend, report.declined, report.ranges)
        return {one.finding.code: one for one in found}

    missed = tried("missed")
    keep = missed[ReportCode.KEEP_LAYERS]
    assert "keep_precision" in keep.fragment and "/block5/conv/Conv" in keep.fragment
    assert missed[ReportCode.CHECK_PROFILES_SAMPLES].finding.values["ratio"] > 2
    assert "[evaluation]" in tried("unmeasured")[ReportCode.GIVE_LABELLED_SAMPLES].fragment
    declined = tried("usable")[ReportCode.BEGIN_WITH_DECLINED].finding.values
    assert declined["rule"] == "both_inputs_computed" and declined["count"] > 1


@pytest.mark.parametrize(
    ("inputs", "macs", "passes", "told"),
    [
        (["r", "w"], 900, [SEARCHING], True),
        (["w", "r"], 60, [QUANTIZING], True),
        # little work, two activations, nothing that quantizes
        (["r", "w"], 10, [SEARCHING], False),
        (["r", "r2"], 900, [SEARCHING], False),
        (["r", "w"], 900, [], False),
    ],
)
def test_einsums_of_weights_are_to_be_written_as_matmul(inputs, macs, passes, told):
    """Experts of a mixture held 83 % of the work as Einsum, and are quantized as MatMul."""
    report = sample(kind="usable")
    layers = [
        LayerInfo(node="relu", op="Relu", outputs=["r", "r2"], macs=0), LayerInfo(node="conv", op="Conv", outputs=["c"], macs=940),
        LayerInfo(node="experts", op="Einsum", inputs=inputs, outputs=["y"], macs=macs),
    ]  # fmt: skip
    found = advice(layers, accuracy("usable"), report.backend, [], report.ranges, passes=passes)
    said = [sentence(one.finding) for one in found if one.finding.code is ReportCode.WRITE_AS_MATMUL]
    assert bool(said) is told
    assert not told or said == [
        f"1 Einsum of activations and weights, such as 'experts', does {100 * macs / (macs + 940):.1f} % of the "
        "multiply-accumulates. Einsum has no quantized kernel, but MatMul has: write it as MatMul (torch.matmul) and "
        "export again."
    ]


@pytest.mark.parametrize(
    ("rule", "told"),
    [("one-sided", False), ("run-time-weights", False), ("patches", False), ("not-faster", False), ("no-range", True),
     ("activation-matmul", True), ("computed-weights", True)],
)  # fmt: skip
def test_only_a_rule_that_something_can_be_done_about_is_where_to_start(rule, told):
    report = sample(kind="usable")
    found = advice(
        report.layers, accuracy("usable"), report.backend, [Declined(node="n", rule=rule, by="insert_qdq")], []
    )
    assert (ReportCode.BEGIN_WITH_DECLINED in {one.finding.code for one in found}) is told


def test_layers_in_bodies_are_to_be_taken_out_of_them():
    report = sample(kind="usable")
    names = ("/if/conv", "/if/gemm")
    inside = [Declined(node=name, op="Conv", rule="subgraph", reason="", by="insert_qdq") for name in names]
    lowered = [Declined(node="/if/relu", op="Relu", rule="subgraph", reason="", by="lowering")]
    found = advice(report.layers, accuracy("usable"), report.backend, [*lowered, *inside], [])
    assert ReportCode.TAKE_OUT_OF_BODIES(count=2, node="/if/conv") in [one.finding for one in found]


@pytest.mark.parametrize(
    "settled", [Code.PATCHES, PlacementCode.LACKS_INT8, Code.EXCLUDED, Code.SUBGRAPH, Code.COMPLETE]
)
def test_nobody_is_sent_to_what_would_not_pay(settled):
    report = sample(kind="usable")
    declined = [
        Declined(node=f"n{number}", op="Conv", rule=rule, reason="why", by="insert_qdq")
        for number, rule in enumerate([settled.value, settled.value, Code.ACTIVATION_MATMUL.value])
    ]

    def begun(entries):
        found = advice(report.layers, accuracy("usable"), report.backend, entries, [])
        return [one.finding.values["node"] for one in found if one.finding.code is ReportCode.BEGIN_WITH_DECLINED]

    assert begun(declined) == ["n2"] and begun(declined[:2]) == []


@pytest.mark.parametrize("kind", ["missed", "broken"])
def test_what_misses_its_budget_is_told_to_search_not_to_quantize_more(kind):
    report = sample(kind=kind)
    plain = QUANTIZING.model_copy(update={"settings": {"exclude": ["/a b/*"]}})
    recipe = [PassInfo(use="fold_constants"), plain]
    own = (report.layers, accuracy(kind), report.backend, report.declined, [])
    found = advice(*own, passes=recipe)
    assert ReportCode.BEGIN_WITH_DECLINED not in {one.finding.code for one in found}
    assert found[0].finding == ReportCode.SEARCH_INSTEAD(quantizer="insert_qdq")
    (entry,) = tomllib.loads(found[0].fragment)["pass"]
    assert entry == {"use": "search_precision", "helpers": ["equalize", "shift", "smooth"], "exclude": ["/a b/*"]}
    for passes in ([], recipe[:1], [*recipe, SEARCHING]):
        assert not any("search_precision" in one.fragment for one in advice(*own, passes=passes))
    usable = advice(report.layers, accuracy(), report.backend, [], [], passes=recipe)
    assert not any("search_precision" in one.fragment for one in usable)


def test_a_layer_asked_quantized_that_runs_float_is_a_culprit_too():
    error = LayerError(sqnr_db=13.4, max_abs=1, drop_db=38)
    layer = LayerInfo(node="qkv", op="MatMul", asked=Asked(precision="int8"), actual=ActualInfo(precision="fp16"),
                      status="overridden", error=error)  # fmt: skip
    assert quantized_type(layer) == "int8" and culprits([layer]) == [layer]
    keep = next(s for s in advice([layer], accuracy("missed"), sample().backend, [], []) if "qkv" in s.fragment)
    assert keep.finding.values["overridden"] is True and keep.finding.values["sqnr_db"] == 13.4
    layer.asked.precision = Precision.FP16
    assert quantized_type(layer) is None and culprits([layer]) == []


@pytest.mark.parametrize("count", [1, 2])
def test_overridden_layers_are_counted(count):
    layers = [LayerInfo(node=f"n{i}", op="Conv", status="overridden") for i in range(count)]
    warned = warnings_of(layers, None, sample().backend, [], None)
    assert warned == [ReportCode.LAYERS_OVERRIDDEN(count=count, node="n0", why="", remedy="")]


def test_the_first_line_counts_what_blocks_hide():
    report = sample(kind="usable")
    shown = [layer for layer in report.layers if layer.role == "compute"]
    blind = [layer.model_copy(update={"status": "opaque", "actual": ActualInfo(source="inspector")}) for layer in shown]
    some = quantized_count([*shown[:-2], *blind[-2:]])
    assert (some.known, some.hidden, some.opened) == (True, 2, 0)
    assert quantized_words(some).endswith(", 2 inside blocks that hide their precision")
    every = quantized_count(blind)
    assert (every.known, every.hidden) == (False, 40) and "no engine" not in quantized_words(every)
    values = OpenedValues(tensor="t", samples=4, verdict="as quantized")
    opened = ActualInfo(source="inspector", opened=OpenedInfo(status="opaque", source="values", values=values))
    told = quantized_count([blind[0], blind[1].model_copy(update={"actual": opened})])
    assert (told.hidden, told.opened, told.as_quantized) == (2, 1, 1)
    assert quantized_words(told).endswith("(opened, 1 of them computes as quantized)")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0.000"), (0.9876, "0.988"), (0.04, "0.040"), (0.00123, "0.00123"), (5.8412, "5.841"), (32412, "3.241e+04")],
)
def test_small_values_of_a_metric_keep_their_digits(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize("loop", [True, False])
def test_a_loop_is_named_only_where_there_is_one(loop):
    layers = [one.model_copy(update={"macs": None}) for one in sample().layers]
    layers = [one.model_copy(update={"op": "Loop"}) for one in layers[:1] if loop] + layers[1:]
    assert ("Loop" in sentence(work_not_known(layers))) is loop


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((0.986, 0.988), ("0.986", "0.988")),
        ((0.99, 0.99), ("0.990", "0.990")),
        # a small error rose by more than its limit, and both were shown as 0.015
        ((0.01536, 0.01511), ("0.0154", "0.0151")),
        ((0.0012013, 0.0011999), ("0.001201", "0.001200")),
        ((3.596, 3.6), ("3.596", "3.600")),
        ((14.03, 14.01), ("14.03", "14.01")),
        ((0.9999998, 0.9999997), ("1.000", "1.000")),
        ((0.0, 0.0), ("0.000", "0.000")),
        ((0.0, 0.02), ("0.000", "0.020")),
        ((1.0, 0.99999), ("1.000", "1.000")),
        ((12345.0, 12346.0), ("1.234e+04", "1.235e+04")),
        ((2e-7, 1e-7), ("2e-07", "1e-07")),
        ((-0.01536, 0.01536), ("-0.015", "0.015")),
    ],
)
def test_values_side_by_side_have_the_same_places_and_differ_where_four_digits_can(values, shown):
    assert numbers(*values) == shown
    assert numbers(*values[::-1]) == shown[::-1]
