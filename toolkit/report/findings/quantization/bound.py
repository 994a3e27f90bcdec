"""Messages on why a search did not quantize more of the work."""

from __future__ import annotations

from toolkit.base.text import count
from toolkit.report.bound_codes import BoundCode
from toolkit.report.findings.outputs.accuracy import number
from toolkit.report.findings.quantization.search import lacks_words
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import db, every, output_words, percent, quoted, share_percent, work_share

_MOST = 0.75
"""If this share of the work stays in float, quantizing the rest cannot save a quarter of the time."""


def _answers(
    metric: str, allowed: float | None, value: float | None, unchanged: float | None, expected: float | None,
    samples: int, limits: tuple[str, ...], lacks: tuple[float | str, ...], rest: str,
) -> str:  # fmt: skip
    """A plan's accuracy and which limits it misses; ``rest`` is the type of its float layers."""
    parts = []
    if metric and value is not None:
        parts.append(f"{metric} {number(value)}")
    elif unchanged is not None:
        parts.append(f"{percent(unchanged)} of the answers unchanged")
    where = f" on {count(samples, 'sample')}"
    if expected is not None and allowed is not None and expected > allowed:
        return (
            f"{', '.join(parts)}{where}; {percent(expected, 2)} are expected to change on other samples, near ties "
            f"counted, and the budget with its margin allows {percent(allowed, 2)}"
        )
    missed = lacks_words({name: float(by) if by != "inf" else None for name, by in zip(limits, lacks)})
    kept = unchanged is not None and allowed is not None and 1 - unchanged <= allowed
    if kept and expected is not None and limits == ("min_unchanged",):
        # in the simulation itself the limit is met
        missed += f" once the error that {rest.upper()} adds is counted"
    return f"{', '.join(parts)}{where}, which misses {missed}" if parts else f"it misses {missed}{where}"


def _everything(
    precision: str, output: str, squashed_by: str, sqnr_db: float | None, float_metric: float | None, **answers: object
) -> str:  # fmt: skip
    level = f"{output_words(output, squashed_by)} at {db(sqnr_db)} SQNR, " if sqnr_db is not None else ""
    told = _answers(**answers)  # type: ignore[arg-type]
    before = f" ({number(float_metric)} float)" if float_metric is not None else ""
    return f"All layers in {precision.upper()}, with ranges and helper passes that suit it best: {level}{told}{before}."


def _larger_plan(
    precision: str, share: float, of: str, sqnr_db: float | None, next: bool, allowed: float | None,
    expected: float | None, **answers: object,
) -> str:  # fmt: skip
    level = f"{db(sqnr_db)} SQNR, " if sqnr_db is not None else ""
    told = f"{percent(expected, 2)} of the answers are expected to change" if expected is not None else ""
    if expected is None or allowed is None or expected <= allowed:
        told = _answers(allowed=allowed, expected=expected, **answers)  # type: ignore[arg-type]
    which = "The next larger plan that was tried" if next else "The largest plan that was tried below all layers"
    return f"{which}, {work_share(share, of)} in {precision.upper()}: {level}{told}."


def _float_type(rest: str, sqnr_db: float, expected: float | None, simulated_db: float, simulated: float | None) -> str:
    changes = ""
    if expected is not None and simulated is not None:
        changes = f" and {percent(expected, 2)} instead of {percent(simulated, 2)} of the answers expected to change"
    return (
        f"{rest.upper()} adds error: with its float layers in {rest.upper()} the chosen plan has {db(sqnr_db)} SQNR "
        f"instead of {db(simulated_db)}{changes}; a tenth of the margin is reserved for it."
    )


def _one_layer(node: str, db_: float, before: float, tried: int) -> str:
    among = "the only one tried" if tried == 1 else f"the best of {tried} tried"
    return f"With one layer kept in float, '{node}', {among}, SQNR is {db(db_)} instead of {db(before)}."


def _costliest(
    nodes: tuple[str, ...], loss: float, work: float, layers: int, kept: int, unmeasured: int = 0
) -> str:  # fmt: skip
    if layers + unmeasured == 1:
        stays = "it stays in float" if kept else "it does not stay in float"
        return f"{quoted(nodes)} is the only layer that could be quantized, with {work_share(work)}; {stays}."
    stays = "all stay in float" if kept == len(nodes) else f"{kept} of them {'stays' if kept == 1 else 'stay'} in float"
    among = f"{every(layers)} layers lose"
    if unmeasured:
        among = f"{count(layers, 'measured layer')} {'loses' if layers == 1 else 'lose'}"
    left = f" {count(unmeasured, 'layer')} {'was' if unmeasured == 1 else 'were'} not measured." if unmeasured else ""
    return (
        f"{quoted(nodes)} {'costs' if len(nodes) == 1 else 'cost'} most: {percent(loss, 0)} of what {among} "
        f"individually, with {work_share(work)}; {stays}.{left}"
    )


def _out_of_reach(
    share: float, of: str, ops: tuple[str, ...], counts: tuple[int, ...], shares: tuple[float, ...],
    reasons: tuple[str, ...], more: int,
) -> str:  # fmt: skip
    shown = [
        f"{number_} {op}, {share_percent(part)} ({reason.rstrip('.')})"
        for number_, op, part, reason in zip(counts, ops, shares, reasons)
    ]
    shown += [f"{count(more, 'kind')} more"] if more else []
    text = f"{work_share(share, of)} are in layers that no plan of this recipe quantizes: {'; '.join(shown)}."
    if share < _MOST:
        return text
    if share == 1:
        return f"{text} Nothing is left to quantize."
    return f"{text} At most {share_percent(1 - share)} can be quantized, so quantizing gains little here."


BOUND: Table = {
    BoundCode.OUT_OF_REACH: _out_of_reach,
    BoundCode.EVERYTHING: _everything,
    BoundCode.LARGER_PLAN: _larger_plan,
    BoundCode.FLOAT_TYPE: _float_type,
    BoundCode.ONE_LAYER: lambda node, db, before_db, tried: _one_layer(node, db, before_db, tried),
    BoundCode.COSTLIEST: _costliest,
    BoundCode.WHAT_NEXT: lambda precision, other: (
        f"More in {precision.upper()} takes a looser budget or quantization-aware training."
        + (
            f" If the GPU has {other.upper()} (Ada, Hopper and newer), let the search try it on the layers that stay "
            f'in float, with also = "{other}"; its gain here was not measured.'
            if other
            else ""
        )
    ),
}
