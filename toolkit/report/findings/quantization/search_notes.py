"""Messages on a search's samples, plans and choices."""

from __future__ import annotations

import math

from toolkit.base.text import count
from toolkit.contract.findings import Code
from toolkit.contract.roles import Role
from toolkit.report.findings.outputs.accuracy import numbers
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import db, every, joined, output_words, pass_for, percent, quoted, work_share
from toolkit.search.codes import DemandCode, KeptCode, SearchEndCode

UNITS = {"max_ms": " ms", "min_sqnr_db": " dB", "sqnr_db": " dB", "variation_db": " dB"}
NOT_SET = {"sqnr_db": "the SQNR of any usable result", "variation_db": "the outputs' own variation between samples"}
"""Limits that apply whatever the budget is."""
_NAMED = 4


def misses(limits: tuple[str, ...], by: tuple[float | str, ...]) -> str:
    """By how much each limit is missed, in words; a limit that could not be measured has no figure."""
    return joined(
        f"{NOT_SET.get(limit, limit)} by {float(lack):.3g}{UNITS.get(limit, '')}"
        if float(lack) < float("inf")
        else f"{limit} (unmeasured)"
        for limit, lack in zip(limits, by)
    )


def _in_types(
    rest: str,
    limits: tuple[str, ...],
    by: tuple[float, ...],
    searches: int,
    last: bool,
    left: bool = False,
    runner_up: bool = False,
) -> str:
    next_step = (
        f"After {searches} searches nothing is quantized instead."
        if left
        else f"It is used anyway after {searches} searches; set a larger margin."
        if last
        else "The best of the other plans is tried."
        if runner_up
        else "The search continues with that taken into account."
    )
    missed = misses(limits, by)
    return f"In {rest.upper()} the chosen plan misses {missed}, unlike its simulation in float32. {next_step}"


def _ranges(method: str, tensors: tuple[str, ...], amax: tuple[float, ...], before: tuple[float, ...]) -> str:
    shown = [f"'{name}' ({new:.4g} instead of {old:.4g})" for name, new, old in zip(tensors, amax, before)][:_NAMED]
    listed = joined([*shown, f"{len(tensors) - _NAMED} more"] if len(tensors) > _NAMED else shown)
    return f"{count(len(tensors), 'tensor')} use the {method} range, which costs less at the output: {listed}."


def _slower(
    ms: float, float_ms: float, gpu: str, measured_share: float, rest: str, prefer: str, plans: int,
    other_ms: float | None = None, other_kept: int = 0,
) -> str:  # fmt: skip
    how = "from datasheet figures alone"
    if measured_share:
        how = f"{percent(measured_share, 0)} of its time was measured"
    text = (
        f"The chosen plan is predicted to be slower than the float model on the {gpu}: {ms:.4g} ms against "
        f"{float_ms:.4g} ms ({how})."
    )
    if other_ms is not None:
        return (
            f"{text} A plan of {other_ms:.4g} ms that keeps {count(other_kept, 'layer')} in float meets the budget: "
            'set prefer = "time" to choose it.'
        )
    tried = "It is the only plan tried" if plans == 1 else "No plan tried meets the budget and is faster"
    look = "" if prefer == "time" else 'set prefer = "time" to look for one, or '
    return f"{text} {tried}: {look}stay with {rest} on this GPU."


def _all_float(by_time: bool, faster: int) -> str:
    if not by_time:
        return "Every layer stays in float: nothing can be quantized within this budget."
    if not faster:
        return "Every layer stays in float: no plan tried is predicted to be faster."
    verb = "is" if faster == 1 else "are"
    plans = count(faster, "plan")
    return f"Every layer stays in float: {plans} tried {verb} predicted to be faster, none within budget."


def _kept_for_time(precision: str, met: bool = True) -> str:
    faster = "the plan with this one in float is faster"
    return f"all layers in {precision} meet the accuracy budget, but {faster}" if met else faster


def _none_faster(precision: str, met: bool = True) -> str:
    faster = f"no plan with a layer in {precision} is faster"
    if met:
        return f"all layers in {precision} meet the accuracy budget, but {faster}"
    return f"{faster}, so what {precision} costs in accuracy was not measured"


def _no_plan(
    dtype: str,
    plans: int,
    limits: tuple[str, ...],
    by: tuple[float | str, ...],
    rest: str,
    helpers: tuple[str, ...] = (),
    wide: int = 0,
    of: int = 0,
    **_earlier: bool,
) -> str:
    # journals of earlier releases have a value that tells whether helpers were tried
    listed = ", ".join(f'"{name}"' for name in helpers)
    helping = f"helpers = [{listed}], " if helpers else ""
    return (
        f"No plan with {dtype.upper()} is within the budget ({count(plans, 'plan')} tried; the nearest misses "
        f"{misses(limits, by)}): nothing is quantized. {_float_types(rest, wide, of)}. "
        f"To try next: {helping}more inferences or minutes for the search, or a looser budget."
    )


def _float_types(rest: str, wide: int, of: int) -> str:
    """The types of float layers; ``wide`` of them are kept in float32, since ``rest`` alone misses the budget."""
    run = f"run in {rest.upper()} unless a pass requests another type"
    if not wide:
        return f"Layers {run}"
    if wide < of:
        return f"{wide} of {of} layers {'is' if wide == 1 else 'are'} kept in FP32; the others {run}"
    layers = "The only layer is" if of == 1 else f"{every(of).capitalize()} layers are"
    return f"{layers} kept in FP32, since {rest.upper()} alone misses the budget"


def _helper(
    helper: str, applied: bool, dtype: str, before_db: float | str, after_db: float | str, samples: int, output: str,
    squashed_by: str = "", metric: str = "", before_share: float | None = None, after_share: float | None = None,
    layers: int = 0, alone_before_db: float | str = 0.0, alone_db: float | str = 0.0,
    rest: str = "", rest_before_db: float | str = 0.0, rest_db: float | str = 0.0,
) -> str:  # fmt: skip
    text = f"{helper}: SQNR of {output_words(output, squashed_by)} with all layers in {dtype.upper()} is {db(after_db)}"
    text += f" ({db(before_db)} before)"
    if before_share is not None and after_share is not None:
        what = metric or "answers unchanged"
        shares = (after_share, before_share)
        after, before = numbers(*shares) if metric else (percent(one, 1) for one in shares)
        text += f", {what} {after} ({before} before)"
    if layers:
        text += (
            f"; with only the {count(layers, 'layer')} that it changes {db(alone_db)} ({db(alone_before_db)} before)"
        )
    text += f", on {count(samples, 'sample')}"
    if rest:
        text += (
            f"; not applied, since {rest.upper()} alone, with nothing quantized, has {db(rest_db)} with it "
            f"({db(rest_before_db)} before), over half of the noise that the budget allows"
        )
        return f"{text}."
    return f"{text}." if applied else f"{text}; not applied."


def _type_alone(why: str, guarded: bool = True, mends: bool | None = None) -> str:
    told = f"{why}: no choice of layers can fix that. The plan taken meets the budget simulated in FP32 alone. "
    if mends:
        return f"{told}With {pass_for(Role.GUARD)} after the search it is met: add it as the last [[pass]]."
    other = 'set [engine] rest = "fp32" (qtool run RECIPE --set engine.rest=fp32)'
    keep = f"or keep the nodes with the largest error in fp32 with {pass_for(Role.KEEP)}."
    if mends is False or guarded:
        # values that overflow are not what is missed, and bfloat16 has fewer digits
        return f"{told}The cause is rounding, which {pass_for(Role.GUARD)} does not fix: {other}, {keep}"
    return f"{told}Put {pass_for(Role.GUARD)} after the search, {other}, {keep}"


def _without_labels(
    data: str,
    metric: str,
    how: str,
    limits: tuple[str, ...],
    values: tuple[float, ...],
    reads: str = "",
    others: float = 0.0,
) -> str:
    apart = f" of '{reads}', which it reads, and {others:g} of other outputs" if reads else ""
    each = [f"{name} = {value:.4g}{apart if name == 'min_unchanged' else ''}" for name, value in zip(limits, values)]
    held = joined(each) if each else ""
    text = f"{data} has no labels, so the search cannot measure {metric}"
    if how == "float":
        return (
            f"{text} as the recipe means it: it applies {held} to {metric} with the float model's outputs in place "
            "of labels, which is the rise to be expected."
        )
    if how == "likely":
        return (
            f"{text}: unchanged answers count in its place ({held}), where a change between answers "
            "that the float model hardly tells apart counts little."
        )
    if how == "task":
        also = f", along with {held}" if limits else ""
        return (
            f"{text}: the task's own limit on unchanged answers applies instead{also}, which may be "
            "stricter than the recipe's. Labels in the calibration data, or min_unchanged or min_sqnr_db in the "
            "search's pass, override this."
        )
    return f"{text}: it applies {held} in its place."


def _unlabelled(data: str, metric: str, by_float: bool) -> str:
    stands = "the float model's outputs stand in for labels" if by_float else "unchanged answers count"
    return (
        f"{data} has no labels, so a search cannot measure {metric} on it: {stands} instead, which may keep more "
        f"layers in float. With labels under 'label' in the calibration data it decides by {metric} itself."
    )


def _second_type(taken: tuple[str, ...], total: int, dtype: str, also: str) -> str:
    return (
        f"{len(taken)} of the {count(total, 'layer')} that {dtype} damages run in {also} instead"
        + (f": {quoted(taken, _NAMED)}" if taken else "")
        + f" (see search_{also}.json)."
    )


def _alone_misses(
    precision: str, alone_db: float | str, all_db: float | str, without_db: float | str | None,
    min_sqnr_db: float | None, margin_db: float, agreement: float | None, min_agreement: float | None,
    limits: tuple[str, ...] | None = (), by: tuple[float | str, ...] = (),
) -> str:  # fmt: skip
    misses = f"quantizing it to {precision} misses the accuracy budget"
    if limits is None:
        misses = f"it is among the layers that the plan keeps out of {precision} to meet the accuracy budget"
    elif limits:
        told = [
            f"{NOT_SET.get(name, name)} by {float(lack):.3g}{UNITS.get(name, '')}" for name, lack in zip(limits, by)
        ]
        misses += f" ({joined(told)})"
    words = f"{misses}: with it alone the output has {db(alone_db)} SQNR"
    if min_sqnr_db is not None:
        words += f", below the required {min_sqnr_db:g} dB" + (f" plus {margin_db:g} dB margin" if margin_db else "")
    if agreement is not None and min_agreement is not None:
        words += f" and {percent(agreement)} top-1 agreement where {percent(min_agreement)} is required"
    return words + _without(all_db, without_db)


def _together_misses(
    precision: str, alone_db: float | str, all_db: float | str, without_db: float | str | None, share: float | None,
    samples: int | None = None,
) -> str:  # fmt: skip
    # single layers are measured on a subset of the samples used for plans
    measured = f" on the {count(samples, 'sample')} that single layers were measured on" if samples else ""
    work = f", {work_share(share)}," if share is not None else ""
    return (
        f"all layers in {precision} together miss the accuracy budget ({db(all_db)} SQNR at the output); this one "
        f"alone leaves {db(alone_db)}, within the budget{measured}, and keeping it{work} is among the cheapest ways to "
        "meet it" + _without(all_db, without_db)
    )


def _without(all_db: float | str, without_db: float | str | None) -> str:
    if without_db is None:
        return ""
    if math.isinf(float(without_db)) and float(without_db) > float(all_db):
        return "; with it in float nothing is lost"
    if float(without_db) > float(all_db):
        return f"; with it in float the others leave {db(without_db)} instead of {db(all_db)}"
    return f"; the others hide its effect: with it alone in float, SQNR goes from {db(all_db)} to {db(without_db)}"


SEARCH: Table = {
    Code.SENSITIVITY_ESTIMATED: "Estimated on {used} of {total} samples.",
    Code.SENSITIVITY_UNTRUSTED: (
        "NOT TO BE TRUSTED: the order of the layers differs between halves of the samples (reliability "
        "{reliability:.2f}, {least} needed); measure exactly, or provide more samples."
    ),
    Code.LATER_FLOATS: lambda layers, quantizer: (
        f"{count(layers, 'layer')} that {quantizer} quantizes and a later pass makes float again "
        f"{'counts' if layers == 1 else 'count'} as float; move that pass before {quantizer} to take them into account."
    ),
    Code.LATER_FLOATS_UNKNOWN: "What the passes after {quantizer} keep in float is unknown: {error}",
    Code.SEARCH_DATA: lambda samples, data: f"The search decides on {count(samples, 'sample')} of {data}.",
    Code.SEARCH_ON_EVALUATION: (
        "The search decides on the evaluation data, as the recipe says, so the measured accuracy is not independent."
    ),
    Code.SEARCH_WITHOUT_LABELS: _without_labels,
    DemandCode.UNLABELLED: _unlabelled,
    Code.SEARCH_BUDGET: "The recipe has no budget, so the search uses {limit} = {value}.",
    Code.SEARCH_FOR_TIME: (
        'Layer times are known, so the search looks for the fastest plan; set prefer = "int8" for the one with most of '
        "the multiply-accumulates in {dtype}."
    ),
    Code.SEARCH_IN_TYPES: _in_types,
    Code.BISECT_IN_TYPES: lambda precision, rest, limits, by: (
        f"Simulated in FP32 the answer passes; with its layers in {precision.upper()} and the others' float parts in "
        f"{rest.upper()} it misses {misses(limits, by)}."
    ),
    Code.SEARCH_TYPE_UNCHECKED: "The plan was not checked in {rest}, since onnxruntime cannot run it: {error}",
    Code.TYPE_MISSES: lambda rest, limits, by: (
        f"{rest.upper()} alone, with nothing quantized, misses {misses(limits, by)}"
    ),
    Code.SEARCH_TYPE_ALONE: _type_alone,
    Code.SEARCH_RANGE: _ranges,
    Code.SEARCH_UNPROVEN: "The chosen plan is {why}.",
    Code.SEARCH_ORDERING: lambda ops: (
        f"The model sorts or selects ({joined(ops)}) and its outputs are compared entry by entry, so two close entries "
        "that swap count as wrong; a metric of your own with labelled samples judges such a model better."
    ),
    Code.SEARCH_GOES_ON: lambda share, of: (
        f"At its usual cost the search found no plan with more than {work_share(share, of)} quantized: it goes on for "
        "up to three times that. Set inferences or minutes for a limit of your own."
    ),
    DemandCode.ON_CHANCE: lambda answers, allowed, changed, most, sqnr_db, least_db: (
        f"Of {count(answers, 'answer')} {percent(changed)} change under the plan found first ({db(sqnr_db)} SQNR): on "
        f"so few, a drop of the metric within {100 * allowed:.3g} points may be chance. The search goes on to a plan "
        f"of at least {db(least_db)}, under which {percent(most)} are likely to change; margin = 0 skips this."
    ),
    Code.SEARCH_MINUTES_OVER: lambda minutes: (
        f"The search ended with the best plan so far when its {minutes:g} minutes were over; raise minutes for more."
    ),
    Code.SEARCH_SUMMARY: lambda plans, share, of, dtype, kept, inferences: (
        f"{count(plans, 'plan')} tried at the cost of {inferences:.1f} float inferences; "
        f"{work_share(share, of)} requested in {dtype}, "
        f"{count(kept, 'layer')} kept in float."
    ),
    Code.SEARCH_BEST: lambda share, of, dtype, limits, by, samples=None, all=None: (
        f"{work_share(share, of)} in {dtype}, "
        + (f"missing {misses(limits, by)}" if limits else "within the budget")
        + (f" on {samples} of {all} samples" if samples is not None else "")
    ),
    Code.SEARCH_MISSED: lambda limits, by: f"No plan tried meets the budget; the nearest misses {misses(limits, by)}.",
    Code.SEARCH_NEAREST: "No plan tried meets the budget; the nearest one is taken.",
    SearchEndCode.NO_PLAN: _no_plan,
    SearchEndCode.UNMEASURED: lambda layers, of: (
        f"The minutes of the search were over before {layers} of {count(of, 'layer')} "
        f"{'was' if layers == 1 else 'were'} measured alone; raise minutes to measure all."
    ),
    SearchEndCode.LEFT_OUT: lambda inferences: (
        "The search ran out of inferences with plans untried that may quantize much more; "
        f"inferences = {inferences} allows at least twice as many."
    ),
    Code.SEARCH_SLOWER: _slower,
    Code.SEARCH_ALL_FLOAT: _all_float,
    Code.SEARCH_HELPER: _helper,
    Code.SEARCH_PAIRED: lambda nodes: (
        f"The search does not decide on {count(len(nodes), 'layer')} that had Q/DQ pairs before it: {quoted(nodes)}."
    ),
    Code.SEARCH_HELPER_UNLIKE: lambda helper, float_db: (
        f"{helper}: not applied, since it changes the float model, whose outputs keep only {db(float_db)} SQNR."
    ),
    Code.SEARCH_SECOND_TYPE: _second_type,
    Code.STAYS: "stays {precision}",
    Code.KEPT_FOR_TIME: _kept_for_time,
    KeptCode.NONE_FASTER: _none_faster,
    KeptCode.WIDE: lambda why, nodes, of: (
        f"{why}. With {len(nodes)} of {count(of, 'node')} in FP32, from '{nodes[0]}' to '{nodes[-1]}', it is met: "
        "these stay in FP32."
    ),
    KeptCode.WIDE_REFUSED: lambda why, nodes, by: (
        f"{why}, also with all other layers in FP32. {quoted(nodes)} {'stays' if len(nodes) == 1 else 'stay'} as {by} "
        f"requested. FP32 was not tried there: to try it, leave {'it' if len(nodes) == 1 else 'them'} out of {by}."
    ),
    KeptCode.NO_PLAN: "no plan tried with a layer in {precision} meets the accuracy budget, and all float does",
    KeptCode.NO_FASTER: "the engine is predicted to be no faster with it in {precision}",
    Code.KEPT_MISSES: "the accuracy budget is missed with it in {precision}",
    Code.KEPT_ALONE_MISSES: _alone_misses,
    Code.KEPT_TOGETHER_MISSES: _together_misses,
}
