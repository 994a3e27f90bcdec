"""The report as one HTML file: loads nothing, readable without JavaScript, with every name from the model escaped."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from collections import Counter, defaultdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.base.collection import collector_paused
from toolkit.base.files import write_text
from toolkit.base.precision import Precision
from toolkit.base.text import count, plain_lines
from toolkit.report.conclusions.headline import evidence, opened_words
from toolkit.report.conclusions.speed import main_comparison, slower
from toolkit.report.conclusions.verdict import culprits
from toolkit.report.findings.commands.explanation import decibels
from toolkit.report.findings.engine.latency import overhead_words, pair_words
from toolkit.report.findings.engine.prediction import prediction_words, uncounted_words
from toolkit.report.findings.outputs.accuracy import amount, change, level, source_words
from toolkit.report.findings.outputs.tasks import few_details, limit_words, part_name, part_words, standing_words
from toolkit.report.findings.quantization.search import bound_words, budget_words, plan_standing, standing
from toolkit.report.findings.words import capital, percent, share_percent
from toolkit.report.page import charts, payoff_chart
from toolkit.report.page.harms_chart import harms_chart
from toolkit.report.page.network_part import embed, network_part
from toolkit.report.page.page_data import page_data, profile_words, shape_words
from toolkit.report.page.search_chart import search_chart
from toolkit.report.schema.report import NONE, Declined, LayerInfo, Report, word
from toolkit.report.sections.describe import unlike_profiles
from toolkit.report.sections.shares import share_words, work_in
from toolkit.report.terminal.engine import device_rows
from toolkit.report.terminal.report import size

if TYPE_CHECKING:
    from jinja2 import Environment

SCRIPTS = ("data.js", "layout.js", "graph.js", "view.js", "table.js", "panel.js", "page.js")
MOST_ROWS = 300
"""The most rows of a table without JavaScript, and in print."""
_WORDS = {
    "usable": "Usable",
    "doubtful": "Within its budget, with doubts",
    "missed": "Missed its budget",
    "broken": "Broken",
    "unmeasured": "Not measured",
    "outdated": "Out of date",
}
_MARKS = {"usable": "✓", "doubtful": "!", "missed": "!", "broken": "✕", "unmeasured": "?", "outdated": "✕"}


@collector_paused()
def render_html(report: Report) -> str:
    """The report as one self-contained HTML page that loads nothing."""
    layers = report.computing
    blamed = culprits(layers)
    script, network, matrix = script_text(), network_part(report), _matrix(layers)
    context = {
        "report": report,
        "summary": report.summary,
        "verdict_word": _word(report),
        "verdict_mark": _MARKS[_banner(report)],
        "map": charts.precision_map(layers, blamed),
        "evidence": evidence(report.layers),
        "opened": opened_words(report.layers),
        "culprits": blamed,
        "matrix": matrix,
        "search_chart": search_chart(report.search) if report.search is not None else None,
        "harms": _harms(report),
        "device_rows": device_rows(report.device),
        "banner": _banner(report),
        "speed": main_comparison(report.payoff),
        "actual_counts": _by_actual(matrix["tally"]),
        "declined": _by_rule(report.declined),
        "timed": next((profile for layer in report.layers for profile in layer.time_ms), ""),
        "work": work_in(report.layers),
        "share_words": share_words(report.summary),
        "script": script,
        "script_hash": script_hash(script),
        "style": asset("style.css"),
        "network": network,
        "data": network.data if network is not None else embed(page_data(report)),
    }
    return environment().get_template("page.html.jinja").render(context)


def _word(report: Report) -> str:
    """The verdict in the page's title."""
    nothing = report.accuracy is not None and report.accuracy.shows_nothing
    return "Not proven" if nothing and report.summary.verdict == "doubtful" else _WORDS[report.summary.verdict]


def _banner(report: Report) -> str:
    """The banner's colour, by verdict: that of "missed" also for doubts, or if a usable engine is slower than float."""
    found = report.summary.verdict
    amber = found in ("usable", "unmeasured") and slower(report.payoff) is not None
    return "missed" if amber or found == "doubtful" else found


def is_page(path: Path) -> bool:
    """Whether qtool wrote a file as a page; recognizes comparisons of ranges by earlier releases, too."""
    with path.open("rb") as file:
        title = file.read(1 << 16).partition(b"</title>")[0]
    return title.endswith((" · qtool".encode(), b"<title>Ranges compared"))


def write_html(report: Report, path: Path) -> None:
    """Write report.html atomically."""
    write_text(path, render_html(report))


def asset(name: str) -> str:
    """The unescaped text of a style sheet or script of this package."""
    from markupsafe import Markup

    return Markup((importlib.resources.files("toolkit.report.page") / "assets" / name).read_text(encoding="utf-8"))


def script_text() -> str:
    """The scripts of the pages joined in one function, so that they add no global names."""
    from markupsafe import Markup

    parts = "".join(asset(name) for name in SCRIPTS)
    return Markup(f'(() => {{\n"use strict";\n{parts}}})();\n')


def script_hash(script: str) -> str:
    """The script's hash for the page's content security policy, which allows only this script to run."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The environment of the templates, with autoescape, and errors for undefined names; one for the process."""
    from jinja2 import StrictUndefined

    from toolkit.report.page.templates import template_environment

    made = template_environment(
        autoescape=True, undefined=StrictUndefined, finalize=_visible, trim_blocks=True, lstrip_blocks=True
    )
    made.filters.update(
        prediction_words=prediction_words,
        uncounted_words=uncounted_words,
        size=size,
        decibels=decibels,
        short=_short,
        grouped=lambda n: f"{n:,}",
        shape=shape_words,
        word=word,
        amount=amount,
        latency=_latency,
        counted=count,
        percent=percent,
        share=share_percent,
        capital=capital,
        level=level,
    )
    made.globals.update(
        charts=charts,
        payoff_chart=payoff_chart,
        overhead_words=overhead_words,
        part_name=part_name,
        limit_words=limit_words,
        source_words=source_words,
        part_words=part_words,
        standing_words=standing_words,
        few_details=few_details,
        pair_words=pair_words,
        change_words=change,
        bound_words=bound_words,
        budget_words=budget_words,
        plan_standing=plan_standing,
        standing=standing,
        unlike_profiles=unlike_profiles,
        profile_words=profile_words,
        most_rows=MOST_ROWS,
        precisions=[str(p) for p in Precision],
        none_word=NONE,
    )
    return made


def _visible(value: Any) -> Any:
    """A value with control characters and direction overrides made visible, except line ends."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return plain_lines(value)


def _harms(report: Report) -> dict[str, Any]:
    """Each layer's cost at the output, with its chart; only an empty list of layers if none was measured."""
    if not report.harms:
        return {"layers": []}
    search, measured = report.search, report.sensitivity
    everything = search.everything if search is not None else None
    full_db = measured.full_db if measured is not None else everything.sqnr_db if everything is not None else None
    order = {layer.node: index for index, layer in enumerate(report.layers)}
    return {
        "layers": report.harms,
        "chart": harms_chart(report.harms, order, full_db),
        "full_db": full_db,
        "outdated": measured is not None and measured.outdated,
        "precision": word(search.precision) if search is not None else _quantized(report),
        "rest": word(search.rest if search is not None else report.recipe.rest),
    }


def _quantized(report: Report) -> str:
    """The most frequent requested quantized type."""
    asked = Counter(word(x.asked_precision) for x in report.layers if x.asked_precision and x.asked_precision.quantized)
    return asked.most_common(1)[0][0] if asked else NONE


def _matrix(layers: list[LayerInfo]) -> dict[str, Any]:
    """How many layers of each requested precision run in each actual one."""
    order = [*(str(p) for p in Precision), NONE]
    pairs = Counter((layer.asked_precision, layer.actual.precision) for layer in layers)
    tally = Counter({(word(asked), word(actual)): number for (asked, actual), number in pairs.items()})
    return {
        "rows": [w for w in order if any(asked == w for asked, _ in tally)],
        "columns": [w for w in order if any(actual == w for _, actual in tally)],
        "tally": tally,
        "most": max(tally.values(), default=1),
    }


def _by_actual(tally: Counter[tuple[str, str]]) -> Counter[str]:
    """How many layers run in each precision, summed over requested precisions."""
    found: Counter[str] = Counter()
    for (_, actual), number in tally.items():
        found[actual] += number
    return found


def _by_rule(declined: list[Declined]) -> list[dict[str, Any]]:
    """Declined nodes, grouped by pass and rule, the most frequent rule first."""
    groups: dict[tuple[str, str], list[Declined]] = defaultdict(list)
    for entry in declined:
        groups[entry.by, entry.rule].append(entry)
    return [
        {"by": by, "rule": rule, "entries": entries, "ops": Counter(e.op for e in entries if e.op).most_common(4)}
        for (by, rule), entries in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def _short(number: float) -> str:
    """A number, large ones with a unit: 1.2M."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.4g}"


def _latency(times: Any) -> str:
    """A profile's latency in words; its form is free, so anything but numbers by name is shown as it is."""
    if not isinstance(times, dict):
        return str(times)
    return ", ".join(f"{name} {ms:.3g} ms" if isinstance(ms, (int, float)) else f"{name} {ms}"
                     for name, ms in times.items())  # fmt: skip
