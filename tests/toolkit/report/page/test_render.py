"""The page and the terminal: complete, escaped, loading nothing."""

import base64
import cProfile
import hashlib
import json
import math
import os
import pstats
import re
import zlib
from html.parser import HTMLParser

import pytest
from rich.console import Console

from tests.toolkit.report import unpacked
from tests.toolkit.report.samples import HOSTILE, hostile, sample
from toolkit.base.text import plain
from toolkit.report.comparison.compare import compare, comparison_text, render_comparison_html, write_comparison_html
from toolkit.report.conclusions.verdict import worst
from toolkit.report.findings.outputs.accuracy import RANKED
from toolkit.report.page import charts
from toolkit.report.page.html import render_html
from toolkit.report.page.network_part import embed
from toolkit.report.schema.report import ActualInfo, Asked, LayerError, OutputError, RangeInfo, counts
from toolkit.report.terminal.report import print_report, to_text

VOID = {"meta", "input", "br", "img", "link", "hr", "rect", "line", "circle", "path"}


class Page(HTMLParser):
    """Checks that elements nest, and collects tags, attributes, text and script contents."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.open, self.texts, self.scripts, self.attributes = [], [], [], [], []
        self.feed(source)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] == "script" else self.texts).append(data)


PAGES = {
    "sample": lambda: render_html(sample()),
    "unmeasured": lambda: render_html(sample(kind="unmeasured")),
    "hostile": lambda: render_html(hostile()),
    "comparison": lambda: render_comparison_html(compare([sample(), sample(72, "missed", 4)], ["a", "b"])),
    "drawn": lambda: render_comparison_html(compare([sample(), sample(72)], ["a", "b"]), [sample(), sample(72)]),
    "hostile comparison": lambda: render_comparison_html(compare([sample(), hostile()], HOSTILE[:2])),
}


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_well_formed_and_load_nothing(name):
    source = PAGES[name]()
    page = Page(source)
    for tag, key, value in page.attributes:
        assert not key.startswith("on"), (tag, key)
        assert key not in ("src", "href", "srcset", "action", "data"), (tag, key, value)
    assert "url(" not in source and "@import" not in source
    assert not {"link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    assert page.tags.count("script") == (1 if "comparison" in name else 2)
    assert "default-src 'none'" in source
    if "hostile" not in name:
        assert not re.search(r"https?://", source)


def test_a_page_is_the_same_after_pages_of_other_kinds():
    report = sample()
    report.accuracy.outputs = {"y": OutputError(ranked=True)}
    first = render_html(report)
    for make in PAGES.values():
        make()
    assert f">{RANKED}<" in first and render_html(report) == first


def test_data_cannot_end_its_script_element():
    page = Page(render_html(hostile()))
    data = page.scripts[0].strip()
    assert re.fullmatch(r"[A-Za-z0-9+/]+=*", data)
    names = json.loads(zlib.decompress(base64.b64decode(data)))["layers"]["node"]
    assert unpacked.texts(names) == [plain(name) for name in HOSTILE]


@pytest.mark.parametrize("figure", [math.nan, math.inf, -math.inf])
def test_a_figure_that_is_no_number_is_refused_in_the_page_data(figure):
    with pytest.raises(ValueError):
        embed({"x": [figure, 1.5]})
    made = embed({"NaN": "-Infinity"})
    assert json.loads(zlib.decompress(base64.b64decode(made))) == {"NaN": "-Infinity"}


def test_a_name_from_a_file_name_that_is_not_utf_8_is_in_the_page_data():
    name = os.fsdecode(b"run\x80")
    text = zlib.decompress(base64.b64decode(embed({"label": name, "x": 1.5}))).decode("utf-8", "surrogatepass")
    assert json.loads(text) == {"label": name, "x": 1.5}
    with pytest.raises(ValueError):
        embed({"label": name, "x": math.nan})


def test_the_security_policy_allows_this_script_and_no_other():
    source = render_html(sample())
    script = Page(source).scripts[-1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in source.replace("&#39;", "'").replace("&#43;", "+")


def test_hostile_names_are_shown_as_text():
    page = Page(render_html(hostile()))
    shown = "\n".join(page.texts)
    for name in HOSTILE:
        assert plain(name) in shown
    assert "\x1b" not in shown and "\u2028" not in shown


def test_the_page_has_every_node_without_javascript():
    report = sample()
    page = Page(render_html(report))
    for layer in report.layers:
        assert layer.node in page.texts
    text = " ".join(page.texts)
    for part in (report.summary.headline, "Declined", "both_inputs_computed", "amax by profile", "What to try next",
                 "keep_precision", "calibrate", "reused", report.backend.reason[1:]):  # fmt: skip
        assert part in text, part


def test_three_thousand_layers_stay_small():
    report = sample(3000)
    assert len(render_html(report)) < 5_000_000 and to_text(report)


def test_the_work_grows_with_the_layers_and_not_with_their_square():
    def calls(layers):
        report, profile = sample(layers), cProfile.Profile()
        profile.runcall(render_html, report)
        profile.runcall(to_text, report)
        return pstats.Stats(profile).total_calls

    calls(1)
    few, more, most = (calls(layers) for layers in (100, 200, 400))
    assert most - more < 2.2 * (more - few)


def test_the_terminal_puts_the_verdict_first_and_uses_no_escapes_or_markup():
    text = to_text(sample(kind="missed"), files=["runs/x/report.json"])
    assert text.startswith("MISSED ITS BUDGET")
    for part in ("runs int8", "both_inputs_computed", "/block7/matmul/MatMul", "calibrate", "runs/x/report.json"):
        assert part in text
    evil = to_text(hostile())
    assert "\x1b" not in evil and "\u2028" not in evil
    assert "[red]not red[/red]" in evil and "\\u001b[2J" in evil


def test_a_name_with_a_line_break_takes_one_row_of_a_table():
    report = sample(kind="missed")
    weak = min((one for one in report.layers if one.error and one.error.sqnr_db), key=lambda one: one.error.sqnr_db)
    layers = [one.model_copy(update={"node": "two\nlines\t"}) if one is weak else one for one in report.layers]
    rows = [row for row in to_text(report.model_copy(update={"layers": layers})).splitlines() if row.startswith(" two")]
    assert rows and all(row.startswith(r" two\u000alines\u0009") for row in rows)


def test_print_report_writes_plain_text_where_there_is_no_terminal(capsys):
    print_report(sample())
    out = capsys.readouterr().out
    assert out.startswith("Usable") and "\x1b" not in out


def test_print_report_takes_a_console(tmp_path):
    with open(tmp_path / "out", "w+") as stream:
        print_report(sample(), Console(file=stream, force_terminal=True, width=120))
        stream.seek(0)
        assert "\x1b[" in stream.read()


def test_comparison_says_what_differs(tmp_path):
    a, b = sample(), sample(72, "missed", 4)
    found = compare([a, b], ["first", "second"])
    agreements = [figure for figure in found.figures if figure.name.endswith("top-1 agreement")]
    assert agreements and all(figure.unit == "share" for figure in agreements)
    assert not found.same and found.same_model
    assert found.headline.startswith(
        "first is usable, second misses its budget; top1 is 0.986 in first and 0.941 in second"
    )
    assert found.only[0] == [] and len(found.only[1]) == 14
    # what makes the figures incomparable is said before them
    other = b.model_copy(update={"model": b.model.model_copy(update={"fingerprint": "0" * 64})})
    apart = compare([a, other], ["first", "second"])
    assert not apart.same_model
    assert apart.headline.startswith("first and second started from DIFFERENT MODELS; first is usable")
    assert comparison_text(apart).startswith("first and second started from DIFFERENT MODELS")
    (changed,) = found.differing("asked", "actual")
    assert [str(side.actual) for side in changed.sides] == ["int8", "fp16"]
    assert all(abs(n.sides[1].error_delta_db) >= 1 for n in found.differing("error"))
    json.dumps(found.to_json(), allow_nan=False)
    text = comparison_text(found)
    assert text.startswith("first is usable") and "Only in second (14)" in text and "\x1b" not in text
    write_comparison_html(found, tmp_path / "c.html")
    assert (tmp_path / "c.html").exists()


def test_comparing_a_report_with_itself_finds_nothing():
    found = compare([sample(), sample()], ["a", "b"])
    assert found.same and not found.nodes
    assert "do not differ" in found.headline


@pytest.mark.parametrize(
    ("aspect", "change"),
    [
        ("asked", {"asked": None}),
        ("actual", {"actual": ActualInfo(precision="fp32")}),
        ("status", {"status": "removed"}),
        ("error", {"error": LayerError(sqnr_db=3.0)}),
        ("time", {"time_ms": {"one": 9.0}}),
    ],
)
def test_a_node_differs_in_what_its_layer_says_otherwise_and_no_other_node_does(aspect, change):
    base = {"asked": Asked(precision="int8", reason="r", by="p"), "actual": ActualInfo(precision="int8"),
            "status": "honoured", "error": LayerError(sqnr_db=30.0), "time_ms": {"one": 1.0}}  # fmt: skip
    first = sample()
    alike = [layer.model_copy(update=base) for layer in first.layers]
    first = first.model_copy(update={"layers": alike})
    other = first.model_copy(update={"layers": [alike[0].model_copy(update=change), *alike[1:]]})
    found = compare([first, other], ["a", "b"])
    assert [(one.node, one.differs) for one in found.nodes] == [(alike[0].node, [aspect])]
    assert found.in_all == len(alike) and found.runs[1].matched == len(alike) and not found.runs[1].renamed


def test_what_no_engine_tells_is_no_difference():
    bare = sample()
    for layer in bare.layers:
        layer.actual, layer.status = ActualInfo(), "unknown"
    bare = bare.model_copy(update={"summary": bare.summary.model_copy(update=counts(bare.layers))})
    found = compare([sample(), bare], ["built", "bare"])
    assert not found.differing("asked", "actual", "status") and [run.built for run in found.runs] == [True, False]
    assert "no engine shows what runs in bare" in found.headline
    requested = {one.name: one for one in found.figures if one.name.startswith("nodes requested in ")}
    assert requested and not any(one.differs for one in requested.values())


def test_runs_without_a_shared_node_are_not_called_alike():
    other = sample(58)
    for layer in other.layers:
        layer.op = "Custom"
    renamed = [one.model_copy(update={"node": f"other{i}"}) for i, one in enumerate(other.layers)]
    found = compare([sample(58), other.model_copy(update={"layers": renamed})], ["a", "b"])
    assert found.runs[1].matched == 0 and "share no node" in found.headline and "same precisions" not in found.headline


def test_several_runs_are_one_table_against_the_first(tmp_path):
    labels = ["one", "two", "three"]
    found = compare([sample(), sample(72, "missed", 4), sample()], labels)
    assert [run.label for run in found.runs] == labels and not found.same
    assert len(found.said) == 2 and "do not differ" in found.said[1]
    # the first is said first, and each sentence says which is which
    assert all(said.index("one") < said.index(other) for said, other in zip(found.said, labels[1:]))
    top1 = next(figure for figure in found.figures if figure.name == "top1")
    assert top1.values == [0.986, 0.941, 0.986] and top1.change(1) == pytest.approx(-0.045) and top1.change(2) == 0
    (changed,) = found.differing("asked", "actual")
    assert [str(side.actual) for side in changed.sides] == ["int8", "fp16", "int8"]
    assert [len(names) for names in found.only] == [0, 14, 0]
    text = comparison_text(found)
    assert "change to three" in text and text.count(changed.node) >= 1
    assert "three" in render_comparison_html(found)


def test_a_node_that_one_of_several_runs_lacks_is_in_the_table():
    less = sample()
    gone = less.layers.pop(next(i for i, layer in enumerate(less.layers) if layer.op == "Conv"))
    found = compare([sample(), less, sample()], ["a", "b", "c"])
    (row,) = found.differing("there")
    assert row.node == gone.node and row.sides[1] is None and row.sides[2] is not None
    assert found.runs[1].matched == found.runs[2].matched - 1 and found.only == [[], [], []]


def test_the_map_covers_all_layers_once():
    for count in (58, 4200):
        layers = sample(count).computing
        drawn = charts.precision_map(layers, [])
        assert sum(bar.width * bar.height for bar in drawn.actual) == pytest.approx(charts.WIDTH, rel=0.01)
        assert drawn.ticks and drawn.line.startswith("M")
    assert charts.precision_map([], []).dots == []


def test_histograms_of_all_lengths_get_their_own_digits():
    """A bin with 1/1000 of the highest is ln(2) / ln(1001) of its height: 4 of 35 digits."""
    counted = [[1000, 1, 0], None, [0.0, 0.0], [500.0, 500.0] + [0.0] * 57 + [1.0], [1, 1000, 1000], []]
    digits = charts.histogram_digits([RangeInfo(tensor="t", amax=1.0, histogram=one) for one in counted])
    assert digits == ["z40", "", "00", "z" + "0" * 28 + "4", "4zz", ""]


@pytest.mark.parametrize("histogram", [None, [], [0.0, 0.0], [3, 1], [0.1] * 2048])
def test_any_histogram_is_drawn_without_nan(histogram):
    path = charts.histogram_path(RangeInfo(tensor="t", amax=1.0, histogram=histogram))
    assert (path == "") == (not histogram)
    assert "nan" not in path and len(path) < 2000


def test_without_a_terminal_no_name_is_broken_or_cut(capsys):
    report = sample()
    long = "/a/very/long/scope" * 30 + "/Conv with a blank"
    worst(report.layers, 1)[0].node = report.declined[0].node = long
    print_report(report)
    # in the table of the worst layers and in that of what was declined
    assert capsys.readouterr().out.count(long) == 2
